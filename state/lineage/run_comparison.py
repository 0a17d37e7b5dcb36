"""What differs between two runs: settings, rounds and, over the samples of both, pairs and decisions."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from reflectune.state.config import flatten
from reflectune.state.lineage.outcomes import ABOUT_A_PROPOSAL
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.lineage.round_comparison import count_decisions
from reflectune.state.records import Phase

__all__ = ["compare_runs"]
from reflectune.state.lineage.connection import marks
from reflectune.state.lineage.documents import RunsCompared

# Samples that are asked for at once: SQLite takes 32,766 parameters.
_AT_ONCE = 5_000

Row = dict[str, Any]


def compare_runs(one: LineageReader, other: LineageReader) -> RunsCompared:
    """How two runs differ: settings, rounds and, over the samples that both have, pairs and decisions.

    What both have stands in a list of two, the first run's first. `samples` counts the training samples of
    both runs by what became of their pairs. `decisions` counts, by round and phase, samples for which both
    runs decided about a proposal; the `alike` among them, with the same incumbent and the same proposals,
    ancestors included; and those of the alike that fell the same way.
    """
    runs = (one, other)
    settings = [lineage.settings() for lineage in runs]
    base_models = [_base_model(lineage) for lineage in runs]
    return {
        "same": {
            "data": settings[0]["data_hash"] == settings[1]["data_hash"],
            "held_out": _sample_ids(one, "holdout") == _sample_ids(other, "holdout"),
            "base_model": base_models[0] == base_models[1],
        },
        "base_models": base_models,
        "config": _differing_keys(settings[0]["config"], settings[1]["config"]),
        "rounds": _side_by_side([_rounds(lineage) for lineage in runs]),
        "samples": _compare_pools(one, other),
        "decisions": _compare_decisions(one, other, all(map(_asks_once, settings))),
    }


def _asks_once(settings: Mapping[str, Any]) -> bool:
    """Whether every pair gets one proposal at most."""
    return bool(settings["config"].get("teacher", {}).get("candidates") == 1)


def _base_model(lineage: LineageReader) -> Row:
    """Name and revision of s[0]; None before it was opened."""
    query = "SELECT base_model AS model, base_revision AS revision FROM students WHERE round = 0"
    return next(lineage.db.query(query), {"model": None, "revision": None})


def _sample_ids(lineage: LineageReader, split: str) -> list[str]:
    rows = lineage.db.query("SELECT id FROM samples WHERE split = ? ORDER BY id", [split])
    return [row["id"] for row in rows]


def _differing_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Row]:
    """The config keys whose values differ, dotted; a key that one run does not have is None there."""
    flat = [flatten(one), flatten(other)]
    keys = sorted((set(flat[0]) | set(flat[1])) - {"name"}, key=lambda key: ("." in key, key))
    values = {key: [config.get(key) for config in flat] for key in keys}
    return [{"key": key, "values": both} for key, both in values.items() if both[0] != both[1]]


def _rounds(lineage: LineageReader) -> dict[int, Row]:
    """What two runs' rounds are compared by."""
    rows = lineage.db.query(
        "SELECT round, student_id AS student, metrics, "
        "(SELECT COUNT(*) FROM training_sets WHERE training_sets.round = rounds.round) AS training "
        "FROM rounds"
    )
    rounds: dict[int, Row] = {}
    for row in list(rows):
        seconds = json.loads(row.pop("metrics")).get("seconds", {})
        rounds[row["round"]] = row | {
            "instruction": None,
            "response": None,
            "held_out": {},
            "teacher": lineage.teacher(row["round"]),
            "seconds": sum(seconds.values()),
        }
    for row in count_decisions(lineage):
        rounds[row["round"]][row["phase"]] = {key: row[key] for key in ("decided", "accepted")}
    for measure in lineage.evaluations():
        rounds[measure["round"]]["held_out"][measure["name"]] = {
            key: value for key, value in measure.items() if key in ("value", "n", "low", "high")
        }
    return rounds


def _side_by_side(runs: Sequence[dict[int, Row]]) -> list[Row]:
    numbers = sorted(set().union(*runs))
    return [{"round": number, "runs": [rounds.get(number) for rounds in runs]} for number in numbers]


def _compare_pools(one: LineageReader, other: LineageReader) -> Row:
    """The training samples of both runs, by what became of their pairs up to the last complete rounds."""
    ended, others = _ends(one), _ends(other)
    counts = dict.fromkeys(("shared", "same", "both_given", "only_first", "only_second", "differently"), 0)
    for sample, (pair, changed) in ended.items():
        if sample not in others:
            continue
        other_pair, other_changed = others[sample]
        counts["shared"] += 1
        if pair == other_pair:
            counts["same"] += 1
            counts["both_given"] += not changed
        elif changed and other_changed:
            counts["differently"] += 1
        else:
            counts["only_first" if changed else "only_second"] += 1
    return {"rounds": [one.last_round(), other.last_round()], **counts}


def _ends(lineage: LineageReader) -> dict[str, tuple[int, bool]]:
    """Each sample's pair in the last complete pool, as a hash, and whether it differs from the given one."""
    rows = lineage.db.execute(
        """
        SELECT pool.sample_id, last.instruction, last.input, last.response,
            last.instruction IS NOT given.instruction OR last.input IS NOT given.input
            OR last.response IS NOT given.response
        FROM pool JOIN versions AS last ON last.id = pool.version_id
        JOIN versions AS given ON given.sample_id = pool.sample_id AND given.round = 0
        WHERE pool.round = ?
        """,
        [lineage.last_round()],
    )
    return {sample: (hash(tuple(texts)), bool(changed)) for sample, *texts, changed in rows}


def _compare_decisions(one: LineageReader, other: LineageReader, asks_once: bool) -> list[Row]:
    places = [{(row["round"], row["phase"]) for row in count_decisions(lineage)} for lineage in (one, other)]
    return [
        _compare_phase(one, other, round, phase, asks_once) for round, phase in sorted(places[0] & places[1])
    ]


def _compare_phase(
    one: LineageReader, other: LineageReader, round: int, phase: Phase, asks_once: bool
) -> Row:
    decisions, others = _winners(one, round, phase), _winners(other, round, phase)
    both = decisions.keys() & others.keys()
    alike, unsure = [], []
    for sample in both:
        (incumbent, _, challenger), decided = decisions[sample], others[sample]
        if incumbent != decided[0]:
            continue
        if asks_once and challenger and decided[2]:  # which are the only proposals
            if challenger == decided[2]:
                alike.append(sample)
        else:
            unsure.append(sample)
    proposals, other_proposals = (_proposals(lineage, round, phase, unsure) for lineage in (one, other))
    alike += [sample for sample in unsure if proposals.get(sample) == other_proposals.get(sample)]
    return {
        "round": round,
        "phase": phase,
        "both": len(both),
        "alike": len(alike),
        "agree": sum(decisions[sample][1] == others[sample][1] for sample in alike),
    }


def _winners(lineage: LineageReader, round: int, phase: Phase) -> dict[str, tuple[str, str, str | None]]:
    """Incumbent, winner and challenger of each decision about a proposal, by sample."""
    rows = lineage.db.execute(
        "SELECT sample_id, incumbent_id, winner_id, challenger_id FROM decisions "
        f"WHERE round = ? AND phase = ? AND {ABOUT_A_PROPOSAL}",
        [round, phase],
    )
    return {sample: (incumbent, winner, challenger) for sample, incumbent, winner, challenger in rows}


def _proposals(
    lineage: LineageReader, round: int, phase: Phase, samples: Sequence[str]
) -> dict[str, set[str]]:
    """The ids of a phase's proposals for some samples."""
    proposals: dict[str, set[str]] = {}
    for start in range(0, len(samples), _AT_ONCE):
        some = samples[start : start + _AT_ONCE]
        rows = lineage.db.execute(
            "SELECT sample_id, id FROM versions "
            f"WHERE sample_id IN ({marks(some)}) AND round = ? AND phase = ?",
            [*some, round, phase],
        )
        for sample, version in rows:
            proposals.setdefault(sample, set()).add(version)
    return proposals
