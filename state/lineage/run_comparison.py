"""What differs between two runs: settings, rounds and, over the samples of both, pairs and decisions."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from reflectune.state.config import flatten
from reflectune.state.lineage.documents import RunsCompared
from reflectune.state.lineage.reader import ABOUT_A_PROPOSAL, LineageReader
from reflectune.state.records import Phase, content_part

__all__ = ["compare_runs"]

Row = dict[str, Any]


def compare_runs(one: LineageReader, other: LineageReader) -> RunsCompared:
    """How two runs differ: settings, rounds and, over the samples that both have, pairs and decisions.

    Samples are the same whatever their order in the data. What both have stands in a list of two, the first
    run's first. `samples` counts the training samples of both runs by what became of their pairs. `decisions`
    counts, by round and phase, samples for which both runs decided about a proposal; the `alike` among them,
    with the same incumbent and the same proposals, ancestors included; and those of the alike that fell the
    same way.
    """
    runs = (one, other)
    settings = [lineage.settings() for lineage in runs]
    base_models = [_base_model(lineage) for lineage in runs]
    phases = [{(row["round"], row["phase"]) for row in lineage.count_by_phase()} for lineage in runs]
    rounds = [_rounds(lineage) for lineage in runs]
    numbers = sorted(rounds[0].keys() | rounds[1].keys())
    return {
        "same": {
            "data": settings[0]["data_hash"] == settings[1]["data_hash"],
            "held_out": _samples(one, "holdout") == _samples(other, "holdout"),
            "base_model": base_models[0] == base_models[1],
        },
        "base_models": base_models,
        "config": _differing_keys(settings[0]["config"], settings[1]["config"]),
        "rounds": [{"round": number, "runs": [of.get(number) for of in rounds]} for number in numbers],
        "samples": _compare_pools(one, other),
        "decisions": [_compare_phase(one, other, *place) for place in sorted(phases[0] & phases[1])],
    }


def _base_model(lineage: LineageReader) -> Row:
    """Name and revision of s[0]; None before it was opened."""
    query = "SELECT base_model AS model, base_revision AS revision FROM students WHERE round = 0"
    return next(lineage.db.query(query), {"model": None, "revision": None})


def _samples(lineage: LineageReader, split: str) -> set[str]:
    rows = lineage.db.execute("SELECT id FROM samples WHERE split = ?", [split])
    return {content_part(id) for (id,) in rows}


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
    for count in lineage.count_by_phase():
        decided = {"decided": count["decided"], "accepted": count["accepted"]}
        rounds[count["round"]][count["phase"]] = decided
    for measure in lineage.evaluations():
        rounds[measure["round"]]["held_out"][measure["name"]] = {
            key: value for key, value in measure.items() if key in ("value", "n", "low", "high")
        }
    return rounds


def _compare_pools(one: LineageReader, other: LineageReader) -> Row:
    """The training samples of both runs, by what became of their pairs up to the last complete rounds."""
    ended, others = _ends(one), _ends(other)
    shared = ended.keys() & others.keys()
    same = {sample for sample in shared if ended[sample][0] == others[sample][0]}
    changed = Counter((ended[sample][1], others[sample][1]) for sample in shared - same)
    return {
        "rounds": [one.last_round(), other.last_round()],
        "shared": len(shared),
        "same": len(same),
        "both_given": sum(not ended[sample][1] for sample in same),
        "only_first": changed[True, False],
        "only_second": changed[False, True] + changed[False, False],
        "differently": changed[True, True],
    }


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
    return {content_part(id): (hash(tuple(texts)), bool(changed)) for id, *texts, changed in rows}


def _compare_phase(one: LineageReader, other: LineageReader, round: int, phase: Phase) -> Row:
    decided, others = (_contests(lineage, round, phase) for lineage in (one, other))
    both = decided.keys() & others.keys()
    alike = [sample for sample in both if decided[sample][0] == others[sample][0]]
    return {
        "round": round,
        "phase": phase,
        "both": len(both),
        "alike": len(alike),
        "agree": sum(decided[sample][1] == others[sample][1] for sample in alike),
    }


def _contests(lineage: LineageReader, round: int, phase: Phase) -> dict[str, tuple[set[str], str]]:
    """The incumbent with its proposals, and the winner, of each decision about a proposal, by sample."""
    contests: dict[str, tuple[set[str], str]] = {}
    for ids in lineage.db.execute(
        "SELECT decisions.sample_id, incumbent_id, winner_id, versions.id FROM decisions CROSS JOIN versions "
        "ON versions.sample_id = decisions.sample_id AND versions.round = decisions.round "
        "AND versions.phase = decisions.phase "
        f"WHERE decisions.round = ? AND decisions.phase = ? AND {ABOUT_A_PROPOSAL}",
        [round, phase],
    ):
        sample, incumbent, winner, proposal = map(content_part, ids)
        contests.setdefault(sample, ({incumbent}, winner))[0].add(proposal)
    return contests
