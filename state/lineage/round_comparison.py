"""What differs between two rounds of a run. Compares no scores of different students."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

from reflectune.state.errors import StoreError
from reflectune.state.intervals import interval_of_mean
from reflectune.state.lineage.distributions import MEASURES, Measure
from reflectune.state.lineage.documents import DecisionCount, Measures, RoundsCompared
from reflectune.state.lineage.reader import LineageReader, mean_and_median

__all__ = ["ChangeOrder", "compare_rounds"]

ChangeOrder = Literal["r-ifd-change", "length-change", "position"]

Row = dict[str, Any]
Measured = Mapping[str, Measures]  # by version

# A held-out measure of each pair under two students.
_ANSWERED = (
    "SELECT a.{0}, b.{0} FROM held_out_answers AS a JOIN held_out_answers AS b USING (sample_id) "
    "WHERE a.student_id = ? AND b.student_id = ?"
)
_BY_PAIR = {
    "nll": "SELECT -a.sum_logprob / a.num_tokens, -b.sum_logprob / b.num_tokens "
    "FROM samples "
    "CROSS JOIN versions ON sample_id = samples.id AND versions.round = 0 AND phase = 'original' "
    "JOIN scores AS a ON a.version_id = versions.id AND a.term = 'response_given_instruction' "
    "JOIN scores AS b ON b.version_id = versions.id AND b.term = a.term "
    "WHERE split = 'holdout' AND a.status = 'ok' AND b.status = 'ok' "
    "AND a.student_id = ? AND b.student_id = ?",
    "response_tokens": _ANSWERED.format("num_tokens"),
    "accuracy": _ANSWERED.format("verdict"),
}
_DIFFERENCES = ("instruction", "response", "both", "unchanged")
# What changed samples are ordered by, lowest first.
_ORDERS: Mapping[ChangeOrder, Callable[[Row], float]] = {
    "r-ifd-change": lambda row: row["r_ifd"]["after"] - row["r_ifd"]["before"] if row["r_ifd"] else math.inf,
    "length-change": lambda row: -abs(row["after_characters"] - row["before_characters"]),
    "position": lambda row: row["position"],
}


def compare_rounds(
    lineage: LineageReader, before: int, after: int, *, order: ChangeOrder = "r-ifd-change", limit: int = 5
) -> RoundsCompared:
    """How the pool, the student and the training set of one round differ from another's.

    `pairs` counts samples by what of their pair differs; an input belongs to its instruction. `scores` has
    IFD and r-IFD of both pools under one student, for each student that scored pairs of both: means and
    medians over the `known` samples whose pairs it could score in both, of which so many `changed`.

    Up to `limit` changed samples come with their texts: first those whose r-IFD fell most under the newest
    student that scored both their pairs, unknown ones last; or whose responses gained or lost most
    characters; or as in the data.
    """
    last = lineage.last_round()
    for round in (before, after):
        if not 0 <= round <= last:
            raise StoreError(f"round {round} is not complete; give rounds from 0, the given data, to {last}")
    if before == after:
        raise StoreError(f"round {before} and round {after} are the same; give two rounds from 0 to {last}")
    rows = _pairs(lineage, before, after)
    measured = _measure(lineage, before, after, rows)
    under = ({"student": student, **_scores_under(measured[student], rows)} for student in measured)
    decided = lineage.count_by_phase()
    differ = Counter(row["differs"] for row in rows)
    changed = [row | {"r_ifd": _newest_r_ifd(measured, row)} for row in rows if row["differs"] != "unchanged"]
    changed.sort(key=lambda row: (_ORDERS[order](row), row["position"]))
    document = {
        "before": before,
        "after": after,
        "pairs": {"total": len(rows), **{kind: differ[kind] for kind in _DIFFERENCES}},
        "decisions": [row for row in decided if min(before, after) < row["round"] <= max(before, after)],
        "acceptance": {"before": _acceptance(decided, before), "after": _acceptance(decided, after)},
        "response_characters": {
            side: mean_and_median([row[f"{side}_characters"] for row in rows]) for side in ("before", "after")
        },
        "scores": [scores for scores in under if scores["ifd"]["known"] or scores["r_ifd"]["known"]],
        "held_out": _held_out(lineage, before, after),
        "training": _training_overlap(lineage, before, after),
        "samples": [_tell_change(lineage, row, sorted((before, after))) for row in changed[:limit]],
    }
    return cast(RoundsCompared, document)


def _pairs(lineage: LineageReader, before: int, after: int) -> list[Row]:
    """Every sample of the pool with its version in both rounds, what differs, and the responses' lengths."""
    query = """
        SELECT samples.position, old.sample_id AS sample, old.id AS before, new.id AS after,
            CASE WHEN (old.instruction, old.input) = (new.instruction, new.input)
                THEN iif(old.response = new.response, 'unchanged', 'response')
                ELSE iif(old.response = new.response, 'instruction', 'both') END AS differs,
            length(old.response) AS before_characters, length(new.response) AS after_characters
        FROM pool AS a JOIN pool AS b ON b.round = :after AND b.sample_id = a.sample_id
        JOIN versions AS old ON old.id = a.version_id JOIN versions AS new ON new.id = b.version_id
        JOIN samples ON samples.id = a.sample_id WHERE a.round = :before
    """
    return list(lineage.db.query(query, {"before": before, "after": after}))


def _acceptance(decided: Sequence[DecisionCount], round: int) -> dict[str, float | None]:
    """By phase of a round: the share of proposals decided about that were accepted."""
    rows = [row for row in decided if row["round"] == round]
    return {row["phase"]: row["accepted"] / row["decided"] if row["decided"] else None for row in rows}


def _measure(lineage: LineageReader, before: int, after: int, rows: Sequence[Row]) -> dict[str, Measured]:
    """Both pools' versions under who may have scored both: who decided about the later one, and s[0]."""
    students = lineage.db.query(
        "SELECT id FROM students WHERE id IN (SELECT student_id FROM rounds WHERE round IN (0, ?)) "
        "ORDER BY round DESC",
        [lineage.deciding_round(max(before, after))],
    )
    versions = [*{row[side] for row in rows for side in ("before", "after")}]
    return {row["id"]: lineage.measures(versions, row["id"]) for row in list(students)}


def _scores_under(measured: Measured, rows: Sequence[Row]) -> Row:
    """Of each measure: the samples for which it is known in both pools, its means and medians over those."""
    document: Row = {}
    for name in MEASURES:
        known = [(row, sides) for row in rows if (sides := _both(measured, row, name))]
        document[name] = {
            "known": len(known),
            "changed": sum(row["differs"] != "unchanged" for row, _ in known),
            **{side: mean_and_median([sides[side] for _, sides in known]) for side in ("before", "after")},
        }
    return document


def _both(measured: Measured, row: Row, name: Measure) -> dict[str, float] | None:
    """A measure of a sample's pair before and after; None unless both are known."""
    scored = {side: measured[row[side]] for side in ("before", "after") if row[side] in measured}
    known = {side: value for side, scores in scored.items() if (value := scores[name]) is not None}
    return known if len(known) == 2 else None


def _held_out(lineage: LineageReader, before: int, after: int) -> list[Row]:
    """Each measure of both rounds' students, with its 95 % interval, and by how much the second is higher."""
    keys = ("student", "value", "n", "low", "high")
    rows = cast(list[Row], lineage.evaluations())
    sides = [
        {row["name"]: {key: row[key] for key in keys} for row in rows if row["round"] == round}
        for round in (before, after)
    ]
    told = []
    for name in sorted(sides[0].keys() | sides[1].keys()):
        old, new = (side.get(name) for side in sides)
        difference = new["value"] - old["value"] if old and new else None
        low, high = _paired_interval(lineage, name, old, new) if old and new else (None, None)
        interval = {"difference_low": low, "difference_high": high}
        told.append({"name": name, "before": old, "after": new, "difference": difference, **interval})
    return told


def _paired_interval(
    lineage: LineageReader, name: str, old: Row, new: Row
) -> tuple[float, float] | tuple[None, None]:
    """The interval of the mean of the differences by pair; none where other pairs were measured."""
    if name not in _BY_PAIR:
        return None, None
    both = lineage.db.execute(_BY_PAIR[name], [old["student"], new["student"]])
    differences = [after - before for before, after in both if None not in (before, after)]
    return interval_of_mean(differences) if len(differences) == old["n"] == new["n"] else (None, None)


def _training_overlap(lineage: LineageReader, before: int, after: int) -> Row:
    """Pairs in each round's training set, and in both."""
    query = "SELECT version_id FROM training_sets WHERE round = ?"
    old, new = (set(lineage.db.execute(query, [round]).fetchall()) for round in (before, after))
    return {"before": len(old), "after": len(new), "both": len(old & new)}


def _newest_r_ifd(measured: Mapping[str, Measured], row: Row) -> Row | None:
    """A sample's r-IFD before and after, under the newest student that scored both pairs."""
    both = ((student, _both(scores, row, "r_ifd")) for student, scores in measured.items())
    return next(({"student": student, **sides} for student, sides in both if sides), None)


def _tell_change(lineage: LineageReader, row: Row, rounds: Sequence[int]) -> Row:
    """A changed sample with both pairs, and the phases that made the one the other."""
    query = "SELECT id AS version, instruction, input, response FROM versions WHERE id = ?"
    accepted = lineage.db.query(
        "SELECT round, phase FROM decisions "
        "WHERE sample_id = ? AND reason = 'accepted' AND round > ? AND round <= ? ORDER BY round, phase",
        [row["sample"], *rounds],
    )
    return {
        "sample": row["sample"],
        "position": row["position"],
        "accepted": list(accepted),
        "r_ifd": row["r_ifd"],
        "characters": {"before": row["before_characters"], "after": row["after_characters"]},
        **{side: next(lineage.db.query(query, [row[side]])) for side in ("before", "after")},
    }
