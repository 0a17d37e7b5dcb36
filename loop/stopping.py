"""When the loop stops: pure functions of counts and held-out measures."""

from collections.abc import Mapping

from state.config import RunConfig
from state.records import Evaluation

__all__ = ["quality", "stop_reason"]


def quality(measures: Mapping[str, Evaluation]) -> float | None:
    """The held-out measure that stopping goes by, higher is better; None where there is none.

    A checker's accuracy where there is one, else the negated held-out nll (nats per token).
    """
    if "accuracy" in measures:
        return measures["accuracy"].value
    if "nll" in measures:
        return -measures["nll"].value
    return None


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
    values = [value for at in sorted(measures) if (value := quality(measures[at])) is not None]
    if round in measures and len(values) > 1:
        best = max(values)
        drop = (best - values[-1]) / abs(best) if best else best - values[-1]
        if config.stop.max_drop is not None and drop > config.stop.max_drop:
            return "max-drop"
        since_best = len(values) - 1 - values.index(best)
        if config.stop.patience is not None and since_best >= config.stop.patience:
            return "patience"
    return "rounds" if round >= config.rounds else None
