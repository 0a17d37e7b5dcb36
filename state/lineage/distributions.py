"""How IFD, r-IFD and response length are distributed in a run's pools.

Scores of two students never come into one distribution, nor into two that are compared. Only rows that are
looked at are read, by their key: all scores of a run are never derived at once.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from reflectune.state.lineage.documents import Distribution, Panel
from reflectune.state.lineage.reader import LineageReader

__all__ = ["MEASURES", "Measure", "distribute_lengths", "distribute_scores"]

Measure = Literal["ifd", "r_ifd"]
MEASURES: tuple[Measure, ...] = get_args(Measure)

_BINS = 40

_TERMS: Mapping[Measure, tuple[str, str]] = {
    "ifd": ("response_given_instruction", "response_alone"),
    "r_ifd": ("instruction_given_response", "instruction_alone"),
}


def distribute_scores(lineage: LineageReader, measure: Measure, complete: int) -> list[Panel]:
    """The pools up to round `complete`, as panels of one student each.

    One panel under the first student where it scored the same samples, `drawn` by lot, in later rounds too;
    otherwise (`drawn` None) one for each round: the pool before and after it under the student that decided,
    over what that student happened to score on both sides.

    `counts` of a round are of values between `edges` (logarithmic).
    """
    students = dict(lineage.db.execute("SELECT round, student_id FROM rounds").fetchall())
    if complete == 0:
        return []
    shared = _base_panel(lineage, measure, students[0], complete)
    if shared is not None:
        return [shared]
    panels = []
    for round in range(1, complete + 1):
        both = {at: _scored(lineage, measure, students[round - 1], at) for at in (round - 1, round)}
        panels.append(_panel(lineage, students[round - 1], both, drawn=None))
    return [panel for panel in panels if panel["n"]]


def _base_panel(lineage: LineageReader, measure: Measure, student: str, complete: int) -> Panel | None:
    """The rounds in which the first student scored every sample that it was to score in all of them.

    Only those samples are taken: the others that it scored in every round are those that never changed.
    """
    settings = lineage.settings()
    count = settings["config"].get("evaluate", {}).get("base_samples", 0)
    drawn = lineage.choose_samples(count, settings["seed"]) if count else []
    scored = {
        round: values
        for round in range(complete + 1)
        if drawn and len(values := _scored(lineage, measure, student, round, drawn)) == len(drawn)
    }
    if 0 not in scored or (complete not in scored and max(scored) < 2):
        return None
    panel = _panel(lineage, student, scored, drawn=len(drawn))
    return panel if panel["n"] else None


def _panel(
    lineage: LineageReader,
    student: str,
    scored: Mapping[int, Mapping[str, float | None]],
    *,
    drawn: int | None,
) -> Panel:
    known = (
        {sample for sample, value in of_round.items() if value is not None} for of_round in scored.values()
    )
    among = set.intersection(*known)
    values = {
        round: [value for sample, value in of_round.items() if sample in among and value is not None]
        for round, of_round in scored.items()
    }
    of = lineage.samples()["train"]
    return {"student": student, "n": len(among), "of": of, "drawn": drawn, **_distribute(values)}


def _scored(
    lineage: LineageReader, measure: Measure, student: str, round: int, samples: Sequence[str] | None = None
) -> dict[str, float | None]:
    """A pool's IFD or r-IFD under one student, by sample, without what it has not scored.

    None stands for what could not be scored. `samples` are all that are looked at; None: every one.
    """
    given, alone = _TERMS[measure]
    rows = lineage.db.execute(
        """
        SELECT sample_id,
            -- Between these, exp() neither overflows nor becomes 0.
            CASE WHEN difference BETWEEN -744 AND 709 THEN exp(difference) END
        FROM (
            SELECT pool.sample_id,
                alone.sum_logprob / alone.num_tokens - given.sum_logprob / given.num_tokens AS difference
            FROM pool
            CROSS JOIN scores AS given ON given.version_id = pool.version_id
                AND given.student_id = :student AND given.term = :given
            CROSS JOIN scores AS alone ON alone.version_id = pool.version_id
                AND alone.student_id = :student AND alone.term = :alone
            WHERE pool.round = :round
                AND (:samples IS NULL OR pool.sample_id IN (SELECT value FROM json_each(:samples))))
        """,
        {
            "round": round,
            "student": student,
            "given": given,
            "alone": alone,
            "samples": None if samples is None else json.dumps(samples),
        },
    )
    return dict(rows.fetchall())


def distribute_lengths(lineage: LineageReader, complete: int) -> Distribution:
    """Characters of the pool's responses up to round `complete`: {edges, rounds} as in a panel."""
    lengths = {
        round: [
            row[0]
            for row in lineage.db.execute(
                "SELECT LENGTH(response) FROM pool CROSS JOIN versions ON versions.id = pool.version_id "
                "WHERE pool.round = ?",
                [round],
            )
        ]
        for round in range(complete + 1)
    }
    return _distribute(lengths)


def _distribute(values: Mapping[int, Sequence[float]]) -> Distribution:
    """Values by round as summaries, and counted between common edges."""
    positive = [value for of_round in values.values() for value in of_round if value > 0]
    edges = _edges(positive)
    return {
        "edges": edges,
        "rounds": [
            {"round": round, "n": len(of_round), "counts": _bin(of_round, edges), **_summarise(of_round)}
            for round, of_round in sorted(values.items())
            if of_round
        ],
    }


def _edges(positive: Sequence[float]) -> list[float]:
    """Logarithmic edges from the lowest to the highest value."""
    if not positive:
        return []
    low, high = math.log(min(positive)), math.log(max(positive))
    if high - low < 1e-6:
        low, high = low - 0.05, high + 0.05
    return [math.exp(low + (high - low) * step / _BINS) for step in range(_BINS + 1)]


def _bin(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    counts = [0] * max(len(edges) - 1, 0)
    if not counts:
        return counts
    low, width = math.log(edges[0]), (math.log(edges[-1]) - math.log(edges[0])) / _BINS
    for value in values:
        if value > 0:
            counts[min(max(int((math.log(value) - low) / width), 0), _BINS - 1)] += 1
    return counts


def _summarise(values: Sequence[float]) -> dict[str, float]:
    """Mean and quantiles; between two values a quantile is interpolated."""
    if len(values) == 1:
        return dict.fromkeys(("mean", "low", "q1", "median", "q3", "high"), float(values[0]))
    twentieths = statistics.quantiles(values, n=20, method="inclusive")
    low, q1, median, q3, high = (twentieths[index] for index in (0, 4, 9, 14, 18))
    mean = statistics.fmean(values)
    return {"mean": mean, "low": low, "q1": q1, "median": median, "q3": q3, "high": high}
