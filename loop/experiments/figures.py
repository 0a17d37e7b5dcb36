"""What an experiment came to: figures of its runs, their means over the seeds, and differences in pairs."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from reflectune.loop.experiments.plan import Experiment, PlannedRun
from reflectune.loop.experiments.running import ENDED
from reflectune.loop.stopping import final_round, is_rolled_back
from reflectune.state.config import RunConfig, parse_config
from reflectune.state.errors import ConfigError
from reflectune.state.folder import RunFolder
from reflectune.state.functions import describe_error, load_function
from reflectune.state.intervals import interval_of_mean
from reflectune.state.lineage.distributions import distribute_scores
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.records import Evaluation, content_hash, content_part

__all__ = [
    "ArmDocument",
    "Estimate",
    "ExperimentDocument",
    "Figures",
    "RunOfArm",
    "describe_experiment",
    "estimate",
]

Group = Literal["held_out", "data", "own"]
# Of one run, by group and name, at the round that it ends with.
#   held_out  the measures of its student
#   data      acceptance, a share over all rounds; pool_ifd and pool_r_ifd, medians of its pool under the base
#             student; response_tokens, the mean of that pool; training_pairs and training_tokens of its
#             student, prompts included
#   own       what the plan's function says
Figures = dict[Group, dict[str, float | None]]


class Estimate(TypedDict):
    """A mean over n seeds with its 95 % interval (Student's t); None where there are too few."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


class RunOfArm(TypedDict):
    """One arm's run with one seed. Figures are None unless it has come to its end."""

    run: str
    seed: int
    status: str  # of the run; "none" where it has not begun
    error: str | None  # why it failed
    figures: Figures | None


class ArmDocument(TypedDict):
    """One arm over its seeds."""

    arm: str
    student: str  # its base model
    policy: str
    rounds: int
    runs: list[RunOfArm]
    figures: dict[Group, dict[str, Estimate]]
    differences: dict[Group, dict[str, Estimate]]  # to the baseline, seed by seed; empty for itself
    # Whether its held-out pairs are the baseline's, with every seed that both have; None: they have none.
    same_held_out: bool | None
    # Held-out measures over other numbers of answers than the baseline's with some seed: no difference then.
    other_answers: list[str]
    rolls_back: bool  # whether a run of it ends with its best round, by the held-out measures


class ExperimentDocument(TypedDict):
    """An experiment, as `experiment --json` prints it."""

    name: str
    runs: str  # the folder of its runs
    baseline: str
    tokens: int | None
    seeds: list[int]
    before: dict[str, Estimate]  # held-out measures of the baseline's base student s[0]
    arms: list[ArmDocument]


class _Read(TypedDict):
    """What is read of a run that has come to its end."""

    figures: Figures
    measured: dict[str, Evaluation]  # the held-out measures of its student
    before: dict[str, float | None]
    held_out: str  # hash of its held-out pairs
    rolls_back: bool


_Found = tuple[PlannedRun, RunOfArm, _Read | None]


def describe_experiment(
    experiment: Experiment, folder: Path, failed: Mapping[str, str]
) -> ExperimentDocument:
    """Read what the runs in an experiment's folder came to; `failed` says why some failed.

    Raises:
        ConfigError: the plan's own function failed, or gave something else than numbers.
    """
    runs: dict[str, list[_Found]] = {arm: [] for arm in experiment.arms}
    for run in experiment.runs:
        runs[run.arm].append(_read_run(experiment, folder, run, failed.get(run.name)))
    base = runs[experiment.baseline]
    before = _gather([{"held_out": read["before"]} for _, _, read in base if read])
    return ExperimentDocument(
        name=experiment.name,
        runs=str(folder),
        baseline=experiment.baseline,
        tokens=experiment.tokens,
        seeds=[*experiment.seeds],
        before=before.get("held_out", {}),
        arms=[_describe_arm(found, base) for found in runs.values()],
    )


def _describe_arm(runs: Sequence[_Found], base: Sequence[_Found]) -> ArmDocument:
    """One arm against the baseline; both have their runs in the order of the seeds."""
    planned = runs[0][0]
    pairs = [(one, other) for (_, _, one), (_, _, other) in zip(runs, base, strict=True) if one and other]
    less = [_subtract(one, other) for one, other in pairs if one is not other]
    return ArmDocument(
        arm=planned.arm,
        student=planned.config.student.model,
        policy=planned.config.selection.policy,
        rounds=planned.config.rounds,
        runs=[document for _, document, _ in runs],
        figures=_gather([read["figures"] for _, _, read in runs if read]),
        differences=_gather(less),
        same_held_out=all(one["held_out"] == other["held_out"] for one, other in pairs) if pairs else None,
        other_answers=sorted({name for one, other in pairs for name in _find_uneven(one, other)}),
        rolls_back=any(read["rolls_back"] for _, _, read in runs if read),
    )


def estimate(values: Sequence[float | None]) -> Estimate:
    """Mean and 95 % interval of what is known."""
    known = [value for value in values if value is not None]
    low, high = interval_of_mean(known)
    return Estimate(mean=statistics.fmean(known) if known else None, low=low, high=high, n=len(known))


def _gather(runs: Sequence[Figures]) -> dict[Group, dict[str, Estimate]]:
    """The estimate of each figure that any run has."""
    names: dict[Group, dict[str, None]] = {}
    for figures in runs:
        for group, named in figures.items():
            names.setdefault(group, {}).update(dict.fromkeys(named))
    return {
        group: {name: estimate([figures.get(group, {}).get(name) for figures in runs]) for name in named}
        for group, named in names.items()
    }


def _subtract(one: _Read, other: _Read) -> Figures:
    base = other["figures"]
    less: Figures = {
        group: {name: _minus(value, base.get(group, {}).get(name)) for name, value in named.items()}
        for group, named in one["figures"].items()
    }
    less["held_out"] |= dict.fromkeys(_find_uneven(one, other))
    return less


def _find_uneven(one: _Read, other: _Read) -> list[str]:
    """The held-out measures that two runs have, over more answers in one of them."""
    theirs = other["measured"]
    return [name for name, own in one["measured"].items() if name in theirs and own.n != theirs[name].n]


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _read_run(experiment: Experiment, folder: Path, run: PlannedRun, error: str | None) -> _Found:
    made = RunFolder(folder / run.name)
    document = RunOfArm(run=run.name, seed=run.seed, status="none", error=error, figures=None)
    if not made.lineage.exists():
        return run, document, None
    with LoopReader.open(made.lineage) as lineage:
        end = final_round(lineage)
        document["status"] = lineage.run()["status"]
        if document["status"] not in ENDED or error is not None:
            return run, document, None
        measured = _held_out(lineage, end)
        read = _Read(
            figures={
                "held_out": {name: measure.value for name, measure in measured.items()},
                "data": _figures_of_data(lineage, end),
                "own": _own_figures(experiment.figures, lineage, run.name),
            },
            measured=measured,
            before={name: measure.value for name, measure in _held_out(lineage, 0).items()},
            held_out=_hash_held_out(lineage),
            rolls_back=is_rolled_back(lineage),
        )
    return run, document | {"figures": read["figures"]}, read


def _held_out(lineage: LoopReader, end: int) -> dict[str, Evaluation]:
    """The held-out measures of the last student up to a round that was measured."""
    measures = lineage.held_out_measures()
    return measures.get(max((round for round in measures if round <= end), default=0), {})


def _figures_of_data(lineage: LoopReader, end: int) -> dict[str, float | None]:
    round, student = lineage.round(end), lineage.round_student(end)
    metrics = (student and student.metrics) or {}
    return {
        "acceptance": lineage.acceptance(),
        **{
            f"pool_{name}": _median_under_base(panels, end)
            for name, panels in distribute_scores(lineage, end).items()
        },
        "response_tokens": round["response_tokens"],
        "training_pairs": metrics.get("pairs", 0),
        "training_tokens": metrics.get("tokens", 0),
    }


def _median_under_base(panels: Sequence[Mapping[str, Any]], end: int) -> float | None:
    """A pool's median under s[0] over the samples drawn for it; None where it did not score them."""
    rounds = {item["round"]: item for panel in panels if panel["drawn"] for item in panel["rounds"]}
    return rounds[end]["median"] if end in rounds else None


def _hash_held_out(lineage: LoopReader) -> str:
    ids = lineage.choose_samples(lineage.samples()["holdout"], 0, "holdout")
    return content_hash(*map(content_part, ids))


def _own_figures(function: str | None, lineage: LoopReader, name: str) -> dict[str, float | None]:
    if function is None:
        return {}
    config: RunConfig = parse_config(lineage.settings()["config"], name)
    try:
        found = dict(load_function("figures", function)(lineage, config))
    except Exception as error:  # whatever the function does
        raise ConfigError(f"figures = {function!r} of {name}: {describe_error(error)}") from error
    for key, value in found.items():
        if not (value is None or (isinstance(value, (int, float)) and math.isfinite(value))):
            raise ConfigError(f"figures = {function!r} of {name}: {key} is {value!r}; want a number or None")
    return found
