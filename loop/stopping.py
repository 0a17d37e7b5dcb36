"""When the loop stops: pure functions of counts and held-out measures."""

import math
from collections.abc import Mapping

from state.config import RunConfig
from state.records import Evaluation

__all__ = ["quality", "stop_reason"]


def quality(measures: Mapping[str, Evaluation], most: int) -> float:
    """The held-out measure that stopping goes by; higher is better.

    A checker's accuracy where there is one, else the negated held-out nll (nats per token). A student
    that could be measured on fewer samples than another (`most`) is worse than any: what fails on the
    hard ones must not look better for it.
    """
    measure = measures.get("accuracy") or measures.get("nll")
    if measure is None or measure.n < most:
        return -math.inf
    return measure.value if measure.name == "accuracy" else -measure.value


def stop_reason(
    config: RunConfig,
    round: int,
    *,
    proposals: int,
    accepted: int,
    measures: Mapping[int, Mapping[str, Evaluation]],
) -> str | None:
    """Why the loop ends after a round; None where it goes on.

    Args:
        config: of the run.
        round: the round just evaluated, from 1.
        proposals: samples that got at least one proposal, summed over the round's phases.
        accepted: decisions of the round that took one.
        measures: held-out measures by round and name, up to this round.

    Returns:
        "no-proposals" (the teacher gave none), "nothing-accepted", "min-acceptance", "max-drop",
        "patience", "rounds", or None.
    """
    if proposals == 0:
        return "no-proposals"
    if accepted == 0:
        return "nothing-accepted"
    if accepted / proposals < config.stop.min_acceptance:
        return "min-acceptance"
    if round in measures and len(measures) > 1:
        most = max((item.n for named in measures.values() for item in named.values()), default=0)
        values = [quality(measures[at], most) for at in sorted(measures)]
        best = max(values)
        drop = best - values[-1]
        relative = drop / abs(best) if best and math.isfinite(drop) else drop
        if config.stop.max_drop is not None and relative > config.stop.max_drop:
            return "max-drop"
        since_best = len(values) - 1 - values.index(best)
        if config.stop.patience is not None and since_best >= config.stop.patience:
            return "patience"
    return "rounds" if round >= config.rounds else None
