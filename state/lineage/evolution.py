"""How a run's samples evolved, as numbers over all of them: what a report draws.

Reads what `LineageReader` reads, and as of the same moment; walks each round's decisions once, so
that a million versions take seconds.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from reflectune.state.lineage.distributions import MEASURES, distribute_lengths, distribute_scores
from reflectune.state.lineage.documents import Evolution
from reflectune.state.lineage.highlights import MAX_HIGHLIGHTS, Failure, choose_highlights
from reflectune.state.lineage.outcomes import OUTCOMES, Outcome
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import PHASES, Phase

__all__ = ["STATES", "State", "read_evolution"]

State = Literal["original", "instruction improved", "response improved", "refused", "failed"]
STATES: tuple[State, ...] = get_args(State)


def read_evolution(lineage: LineageReader) -> Evolution:
    """Everything a report says about a run's samples beyond its rounds.

    Returns:
        complete: the last round whose pool is complete; 0 is the given data. What is of pools ends there.
        acceptance: {round, phase, pool, accepted, refused, unchanged, failed, frozen, unasked, undecided},
            samples by what a phase came to, of the round under way too. They add up to `pool`.
        flows: {states: [{round, counts: {state: n}, kept}], transitions: [{round, before, after, n}]}. Every
            training sample is in one state after each complete round, so that the counts of a round, and the
            transitions into it, add up to the pool:
              original              round 0; later, nothing was proposed and nothing was ever accepted
              instruction improved  the round took a new instruction, and no response after it
              response improved     the round took a new response, whatever became of the instruction
              refused               it took nothing, and a proposal lost: refused, tie, unscorable, policy
              failed                it took and refused nothing, and a reflection failed
            Where a round proposed nothing without failing (unchanged, frozen, or no budget to ask for it),
            a sample is in its pair's state: what the last accepted proposal made of it, or original. `kept`
            counts those. `round` of a transition is the one it leads to.
        scores: {ifd, r_ifd} as `distribute_scores` gives them; lengths: as `distribute_lengths` does.
        times: [{round, started_at, finished_at, status}].
        telling: samples, as `choose_highlights` gives them.
    """
    complete = lineage.last_round()
    walk = _walk(lineage, complete)
    return {
        "complete": complete,
        "acceptance": walk.acceptance,
        "flows": {"states": walk.states, "transitions": walk.transitions},
        "scores": {measure: distribute_scores(lineage, measure, complete) for measure in MEASURES},
        "lengths": distribute_lengths(lineage, complete),
        "times": list(
            lineage.db.query("SELECT round, started_at, finished_at, status FROM rounds ORDER BY round")
        ),
        "telling": choose_highlights(lineage, walk.accepted, walk.failures),
    }


@dataclass(slots=True)
class _Walk:
    acceptance: list[dict[str, Any]] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    transitions: list[dict[str, Any]] = field(default_factory=list)
    accepted: Counter[str] = field(default_factory=Counter)  # by sample, over all rounds
    failures: dict[str, list[Failure]] = field(default_factory=lambda: defaultdict(list))


def _walk(lineage: LineageReader, complete: int) -> _Walk:
    walk = _Walk()
    pool = lineage.samples()["train"]
    state: dict[str, State] = {}  # of samples that are not in "original"
    pair: dict[str, State] = {}  # what the last accepted proposal made of a sample
    walk.states.append({"round": 0, "counts": _counts({"original": pool}), "kept": pool})
    for row in list(lineage.db.query("SELECT round FROM rounds WHERE round > 0 ORDER BY round")):
        round = row["round"]
        outcomes: dict[Phase, Counter[Outcome]] = {phase: Counter() for phase in PHASES}
        moves: Counter[tuple[State, State]] = Counter()
        kept = 0
        for sample, of_phase in _decided(lineage, round):
            for phase, (outcome, status) in of_phase.items():
                outcomes[phase][outcome] += 1
                walk.accepted[sample] += outcome == "accepted"
                if status and len(walk.failures[status]) < MAX_HIGHLIGHTS:
                    walk.failures[status].append((sample, round, phase))
            if round > complete:
                continue
            after, is_kept = _state_after(
                {phase: outcome for phase, (outcome, _) in of_phase.items()}, pair.get(sample, "original")
            )
            if after in ("instruction improved", "response improved"):
                pair[sample] = after
            kept += is_kept
            moves[state.get(sample, "original"), after] += 1
            state[sample] = after
        for phase in PHASES:
            found = outcomes[phase]
            walk.acceptance.append(
                {"round": round, "phase": phase, "pool": pool}
                | {outcome: found[outcome] for outcome in OUTCOMES}
                | {"undecided": pool - found.total()}
            )
        if round <= complete:
            walk.states.append({"round": round, "counts": _counts(Counter(state.values())), "kept": kept})
            walk.transitions += [
                {"round": round, "before": before, "after": after, "n": moves[before, after]}
                for before in STATES
                for after in STATES
                if moves[before, after]
            ]
    return walk


def _decided(
    lineage: LineageReader, round: int
) -> Iterator[tuple[str, dict[Phase, tuple[Outcome, str | None]]]]:
    """Each decided sample with the outcome, and of a failure the last call's status, by phase."""
    rows = lineage.db.execute(
        """
        SELECT instruction.sample_id,
            instruction.outcome, CASE WHEN instruction.outcome = 'failed' THEN instruction.last_status END,
            response.outcome, CASE WHEN response.outcome = 'failed' THEN response.last_status END
        FROM outcomes AS instruction LEFT JOIN outcomes AS response
            ON response.round = instruction.round AND response.phase = 'response'
            AND response.sample_id = instruction.sample_id
        WHERE instruction.round = ? AND instruction.phase = 'instruction'
        ORDER BY instruction.sample_id
        """,
        [round],
    )
    for sample, *of_phases in rows:
        of_phase = zip(PHASES, zip(of_phases[::2], of_phases[1::2], strict=True), strict=True)
        yield sample, {phase: what for phase, what in of_phase if what[0] is not None}


def _state_after(outcomes: Mapping[Phase, Outcome], pair: State) -> tuple[State, bool]:
    """A sample's state after a round, and whether it keeps its pair's for want of anything proposed."""
    if outcomes.get("response") == "accepted":
        return "response improved", False
    if outcomes.get("instruction") == "accepted":
        return "instruction improved", False
    if "refused" in outcomes.values():
        return "refused", False
    if "failed" in outcomes.values():
        return "failed", False
    return pair, True


def _counts(counted: Mapping[Any, int]) -> dict[State, int]:
    return {state: counted.get(state, 0) for state in STATES}
