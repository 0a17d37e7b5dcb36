"""When the loop stops, and with which round: functions of counts, spending and held-out measures."""

import math
from collections.abc import Mapping, Sequence

from reflectune.state.config import EngineConfig, RunConfig
from reflectune.state.lineage.documents import ReasonDocument
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import ANSWERLESS, PHASES, Evaluation, Phase, Spending

__all__ = [
    "best_round", "final_round", "is_rolled_back", "is_spent", "quality", "stop_reason", "stopping_measure",
    "why_failed",
]  # fmt: skip

_FEW = 3  # proposals: fewer that fail may do so by chance


def is_spent(config: EngineConfig, spending: Spending) -> bool:
    """Whether what the run's calls took has reached a cap of the teacher's or judge's budget."""
    tokens, usd = config.budget_tokens, config.budget_usd
    return (tokens is not None and spending.tokens >= tokens) or (usd is not None and spending.usd >= usd)


def why_failed(
    failures: Sequence[ReasonDocument], settled: int, most: float, phase: Phase, *, has_answers: bool
) -> ReasonDocument | None:
    """Why a phase failed as a whole; None where it did not.

    It did where more than the share `most` of its proposals failed for one reason, or none of them got an
    answer. Fewer than three fail it only where the teacher has never answered; so does a recording, which
    may lack pairs or one of the phases, that has nothing at all.

    Args:
        failures: what proposals failed for, the most common reason first.
        settled: proposals, failed or not.
        most: a share; 1 fails no phase.
        phase: which one.
        has_answers: whether the teacher has answered anything in the run.
    """
    if most >= 1 or not failures:
        return None
    failed = [failure for failure in failures if failure["status"] != "no-entry"]
    silent = sum(failure["number"] for failure in failed if failure["status"] in ANSWERLESS)
    if not has_answers and (failed or phase == PHASES[-1]):
        return failures[0]
    if failed and settled >= _FEW and (silent == settled or failed[0]["number"] > most * settled):
        return failed[0]
    return None


def quality(measure: Evaluation | None, most: int) -> float:
    """A held-out measure as stopping goes by it, accuracy or nll (nats per token, negated): higher is better.

    A student that could be measured on fewer samples than another (`most`) is worse than any: what fails
    on the hard ones must not look better for it.
    """
    if measure is None or measure.n < most:
        return -math.inf
    return measure.value if measure.name == "accuracy" else -measure.value


def stopping_measure(measures: Mapping[int, Mapping[str, Evaluation]]) -> str:
    """The held-out measure that stopping goes by: a checker's accuracy where any round has one, else nll."""
    return "accuracy" if any("accuracy" in named for named in measures.values()) else "nll"


def _qualities(measures: Mapping[int, Mapping[str, Evaluation]]) -> dict[int, float]:
    """How good each measured round's student is, rounds ascending."""
    name = stopping_measure(measures)
    by_round = {round: measures[round].get(name) for round in sorted(measures)}
    most = max((item.n for item in by_round.values() if item), default=0)
    return {round: quality(item, most) for round, item in by_round.items()}


def best_round(measures: Mapping[int, Mapping[str, Evaluation]]) -> int | None:
    """The round whose student is best by the measure that stopping goes by; the earliest among equals.

    None where no round has the measure.
    """
    qualities = _qualities(measures)
    best = max(qualities.values(), default=-math.inf)
    return next((round for round, found in qualities.items() if found == best > -math.inf), None)


def final_round(lineage: LineageReader) -> int:
    """The round that a run ends with, as far as it has come: its pool and its student are the outcome.

    That is the last whose pool is complete, or with `stop.rollback` the best one that is measured.
    """
    best = best_round(lineage.held_out_measures()) if is_rolled_back(lineage) else None
    return lineage.last_round() if best is None else best


def is_rolled_back(lineage: LineageReader) -> bool:
    """Whether a run ends with its best round."""
    return bool(lineage.settings()["config"].get("stop", {}).get("rollback", False))


def stop_reason(
    config: RunConfig,
    round: int,
    *,
    proposals: int,
    accepted: int,
    measures: Mapping[int, Mapping[str, Evaluation]],
    cut: bool = False,
    spent: bool = False,
) -> str | None:
    """Why the loop ends after a round, which has just been evaluated; None where it goes on.

    Args:
        config: of the run.
        round: from 1.
        proposals: samples that got at least one proposal, summed over the round's phases.
        accepted: decisions of the round that took one.
        measures: by round and name, up to this one; a checker's accuracy counts where there is one, else nll.
        cut: whether the budget ended before the round's last question, so that its counts prove nothing.
        spent: whether the budget is spent.
    """
    if cut and spent:
        return "budget"
    if not cut:
        if proposals == 0:
            return "no-proposals"
        if accepted == 0:
            return "nothing-accepted"
        if accepted / proposals < config.stop.min_acceptance:
            return "min-acceptance"
    if round in measures and len(measures) > 1:
        values = [*_qualities(measures).values()]
        best = max(values)
        drop = best - values[-1]
        relative = drop / abs(best) if best and math.isfinite(drop) else drop
        if config.stop.max_drop is not None and relative > config.stop.max_drop:
            return "max-drop"
        since_best = len(values) - 1 - values.index(best)
        if config.stop.patience is not None and since_best >= config.stop.patience:
            return "patience"
    if round >= config.rounds:
        return "rounds"
    return "budget" if spent else None
