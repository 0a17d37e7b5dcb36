"""How a run's samples evolved, as numbers over all of them: what a report draws.

Reads what `LineageReader` reads, and as of the same moment.
"""

from collections import Counter
from itertools import product
from typing import Any, Literal, get_args

from reflectune.state.lineage.distributions import distribute_lengths, distribute_scores
from reflectune.state.lineage.documents import Evolution, Flows
from reflectune.state.lineage.highlights import choose_highlights
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import OUTCOMES, PHASES

__all__ = ["STATES", "State", "read_evolution"]

State = Literal["original", "instruction improved", "response improved", "refused", "failed"]
STATES: tuple[State, ...] = get_args(State)

# Each sample's state after a round; NULL where nothing was proposed without failing.
_STATES = """
    SELECT sample_id,
        CASE WHEN SUM(outcome = 'accepted' AND phase = 'response') THEN 'response improved'
            WHEN SUM(outcome = 'accepted') THEN 'instruction improved'
            WHEN SUM(outcome = 'refused') THEN 'refused'
            WHEN SUM(outcome = 'failed') THEN 'failed' END
    FROM outcomes WHERE round = ? GROUP BY sample_id
"""


def read_evolution(lineage: LineageReader) -> Evolution:
    """Everything a report says about a run's samples beyond its rounds."""
    complete, pool = lineage.last_round(), lineage.samples()["train"]
    times = lineage.db.query("SELECT round, started_at, finished_at, status FROM rounds ORDER BY round")
    return {
        "complete": complete,
        "acceptance": _count_acceptance(lineage, pool),
        "flows": _follow_samples(lineage, complete, pool),
        "scores": distribute_scores(lineage, complete),
        "lengths": distribute_lengths(lineage, complete),
        "times": list(times),
        "telling": choose_highlights(lineage),
    }


def _count_acceptance(lineage: LineageReader, pool: int) -> list[dict[str, Any]]:
    """The pool by what each phase came to."""
    rounds = lineage.db.execute("SELECT round FROM rounds WHERE round > 0 ORDER BY round").fetchall()
    rows = []
    for (round,) in rounds:
        counts = lineage.count_outcomes(round)
        for phase in PHASES:
            found = {outcome: counts.get(phase, {}).get(outcome, 0) for outcome in OUTCOMES}
            place = {"round": round, "phase": phase, "pool": pool}
            rows.append(place | found | {"undecided": pool - sum(found.values())})
    return rows


def _follow_samples(lineage: LineageReader, complete: int, pool: int) -> Flows:
    flows: Flows = {"states": [_tell_states(0, Counter(original=pool), pool)], "transitions": []}
    state: dict[str, State] = {}  # of samples that are not in "original"
    pair: dict[str, State] = {}  # what the last accepted proposal made of a sample
    for round in range(1, complete + 1):
        moves: Counter[tuple[State, State]] = Counter()
        kept = 0
        for sample, found in lineage.db.execute(_STATES, [round]):
            if found in ("instruction improved", "response improved"):
                pair[sample] = found
            kept += found is None
            after = found or pair.get(sample, "original")
            moves[state.get(sample, "original"), after] += 1
            state[sample] = after
        flows["states"].append(_tell_states(round, Counter(state.values()), kept))
        flows["transitions"] += [
            {"round": round, "before": before, "after": after, "n": moves[before, after]}
            for before, after in product(STATES, STATES)
            if moves[before, after]
        ]
    return flows


def _tell_states(round: int, counted: Counter[Any], kept: int) -> dict[str, Any]:
    return {"round": round, "counts": {state: counted[state] for state in STATES}, "kept": kept}
