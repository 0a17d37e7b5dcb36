"""What the arms of `real` came to, round by round: tables of decisions, of students, and of differences."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from reflectune.loop.experiments.figures import Estimate, ExperimentDocument, estimate
from reflectune.loop.show.experiment import tell_estimate
from reflectune.state.intervals import wilson
from tests.bench.results import table

__all__ = ["MEASURED", "POOLED", "tabulate_rounds"]

# Figures of a round, as they are named behind "1: " and so on. Of its pool and of its student:
POOLED = ("pool", "pool tokens", "accepted %")
MEASURED = ("nll of the best", "ranks rightly %", "of like length %", "answer tokens")
# And numbers of decisions: all of a kind, and those among them that were right. The seeds' are added up.
_COUNTED = {
    "raised": ("accepted", "raised"),
    "spared": ("refused", "spared"),
    "raised, like length": ("accepted alike", "raised alike"),
    "spared, like length": ("refused alike", "spared alike"),
}

_Own = Mapping[str, float | None]  # figures of one run
_Arms = Mapping[str, Mapping[int, _Own]]  # by arm and seed
_UNTRAINED, _RAW = "untrained", "raw"


def tabulate_rounds(document: ExperimentDocument) -> Iterator[str]:
    """All tables of an experiment whose figures are `real.judge`'s."""
    arms = {
        arm["arm"]: {
            run["seed"]: own for run in arm["runs"] if run["figures"] and (own := run["figures"]["own"])
        }
        for arm in document["arms"]
    }
    rounds = range(1, max(arm["rounds"] for arm in document["arms"]) + 1)
    for round in rounds:
        names = [name for name in arms if name != _RAW and _has(arms[name], round)]
        rows = ([name, *_estimates(arms[name], round, POOLED), *_shares(arms[name], round)] for name in names)
        yield from (f"Round {round}: pool and decisions.", "")
        yield from _lay_out(("arm", *POOLED, *_COUNTED), rows)
        trained = [(name, arms[name], round) for name in names]
        always = [(_UNTRAINED, arms[document["baseline"]], 0), (_RAW, arms[_RAW], 1)]
        measured = ([name, *_estimates(runs, of, MEASURED)] for name, runs, of in [*always, *trained])
        yield from (f"Round {round}: students.", "")
        yield from _lay_out(("arm", *MEASURED), measured)
    yield from ("Differences, seed by seed.", "")
    compared = ("pool", *MEASURED)
    rows = ([title, *cells] for title, cells in _differences(arms, document["baseline"], rounds, compared))
    yield from _lay_out(("difference", *compared), rows)


def _has(runs: Mapping[int, _Own], round: int) -> bool:
    return any(f"{round}: pool" in own for own in runs.values())


def _estimates(runs: Mapping[int, _Own], round: int, names: Sequence[str]) -> list[str]:
    """Means over the seeds, and half their intervals."""
    keys = (f"{round}: {name}" for name in names)
    return [tell_estimate(key, estimate([own.get(key) for own in runs.values()])) for key in keys]


def _shares(runs: Mapping[int, _Own], round: int) -> Iterator[str]:
    """What share of all seeds' decisions was right, with Wilson's interval, and of how many."""
    for all_of_them, right in _COUNTED.values():
        n, k = (
            sum(own.get(f"{round}: {name}") or 0 for own in runs.values()) for name in (all_of_them, right)
        )
        low, high = wilson(k / n, int(n)) if n else (0.0, 0.0)
        yield f"{k / n:.0%} ({low:.0%} to {high:.0%}) of {n:.0f}" if n else "-"


def _differences(
    arms: _Arms, baseline: str, rounds: Sequence[int], names: Sequence[str]
) -> Iterator[tuple[str, list[str]]]:
    """Each arm less the baseline and raw, the method less its controls, the last round less the first."""
    newest = {name: max((it for it in rounds if _has(arms[name], it)), default=0) for name in arms}
    wanted = [(name, round, baseline, round) for round, name in product(rounds, arms) if name != baseline]
    controls = ("random", "method-frozen")
    wanted += [("method", round, other, round) for other, round in product(controls, rounds)]
    wanted += [(name, last, _RAW, 1) for name, last in newest.items() if name != _RAW]
    wanted += [(name, last, name, 1) for name, last in newest.items() if last > 1]
    for one, round, other, before in wanted:
        if _has(arms[one], round) and _has(arms[other], before):
            title = f"round {round}: {one} less {other}" + (f" of round {before}" if before != round else "")
            cells = ((name, _subtract(arms[one], round, arms[other], before, name)) for name in names)
            yield title, [tell_estimate(name, cell, "+") for name, cell in cells]


def _subtract(
    one: Mapping[int, _Own], round: int, other: Mapping[int, _Own], before: int, name: str
) -> Estimate:
    """A figure of one arm's round less that of another's, over the seeds that have both."""
    pairs = (
        (one[seed].get(f"{round}: {name}"), other[seed].get(f"{before}: {name}"))
        for seed in one.keys() & other.keys()
    )
    return estimate([value - less for value, less in pairs if value is not None and less is not None])


def _lay_out(heads: Sequence[str], rows: Iterator[list[str]]) -> list[str]:
    return table(" | ".join(heads), (" | ".join(row) for row in rows))
