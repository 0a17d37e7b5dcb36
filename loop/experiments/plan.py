"""The plan of an experiment: arms and seeds, which make one run each. Opens no model and reads no data."""

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import tomli_w
from pydantic import ConfigDict, Field, model_validator

from reflectune.state.config import (
    CHANGEABLE,
    RunConfig,
    flatten,
    overlay,
    parse_config,
    parse_model,
    read_toml,
    read_values,
    tidy,
    without_unset,
)
from reflectune.state.config.sections import Section
from reflectune.state.errors import ConfigError

__all__ = ["Arm", "Experiment", "Plan", "PlannedRun", "load_experiment", "note_arms"]

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]

# What a raw arm is: nothing is proposed, and no ratio is above a filter of 1e9.
_RAW: dict[str, Any] = {
    "rounds": 1,
    "selection": {
        "policy": "reject-all",
        "keep": "all",
        "train_max_ifd": 1e9,
        "train_max_r_ifd": 1e9,
        "top_fraction": 1.0,
        "cross_fit": False,
    },
    "stop": {"max_failures": 1.0},
}
# A teacher who has nothing to say.
_NOBODY = {"engine": "recorded", "path": str(Path(__file__).with_name("nobody.jsonl"))}


class Arm(Section):
    """What one arm changes: any keys of the config, and these."""

    model_config = ConfigDict(extra="allow")

    raw: bool = False
    """Train once on the whole data as given: no teacher is asked, nothing is selected."""
    equal_acceptance_to: Name | None = None
    """By lot, as large a share of proposals in each phase and round as this other arm with the same seed."""


class Plan(Section):
    """An experiment: a config, what its arms change in it, and the seeds that each arm runs with."""

    base: str
    """Config file that every arm begins with. Relative to the plan."""
    seeds: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(min_length=1)
    """Seeds of the runs; one arm's run and another's of the same seed are compared as a pair."""
    baseline: Name | None = None
    """Arm that the others are set against; unset takes the first."""
    tokens: int | None = Field(default=None, ge=1)
    """Training tokens of every student: refinetune.tokens of all arms."""
    figures: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    """module:function(lineage, config): figures of your own of a finished run, as {name: number or None}."""
    all: dict[str, Any] = Field(default={})
    """Keys of the config that all arms change."""
    arms: dict[Name, Arm] = Field(min_length=1)
    """By name, what each arm changes."""

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        if self.baseline is not None and self.baseline not in self.arms:
            raise ValueError(
                f"baseline: there is no arm {self.baseline}; the arms are {', '.join(self.arms)}"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one is named twice")
        for name, arm in self.arms.items():
            if (other := arm.equal_acceptance_to) is None:
                continue
            if other not in self.arms:
                raise ValueError(f"arm {name}: there is no arm {other} to take its acceptance from")
            if arm.raw or self.arms[other].raw or self.arms[other].equal_acceptance_to:
                raise ValueError(
                    f"arm {name}: equal_acceptance_to needs two arms, of which the other selects"
                )
        return self


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One arm with one seed."""

    arm: str
    seed: int
    config: RunConfig
    acceptance_of: str | None = None  # the run that says how many proposals are taken by lot

    @property
    def name(self) -> str:
        """Of the run, and of its folder."""
        return self.config.name


@dataclass(frozen=True, slots=True)
class Experiment:
    """A plan that has been read: its runs, seed by seed."""

    name: str
    baseline: str
    tokens: int | None
    figures: str | None
    seeds: tuple[int, ...]
    arms: Mapping[str, Mapping[str, Any]]  # by name, what an arm's runs are made of, whatever their seed
    runs: tuple[PlannedRun, ...]


def load_experiment(path: Path) -> Experiment:
    """Read a plan and check every arm with every seed; it has the name of its file.

    In any text of a config `{seed}` stands for the seed. The value "unset" puts a key back to its default.
    Relative paths are relative to whichever file names them.

    Raises:
        ConfigError: a file that is missing or not TOML, an unknown key, arm or name, or an impossible value.
    """
    try:
        plan = parse_model(Plan, read_toml(path), source=str(path))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such plan") from None
    parse_model(_Named, {"name": path.stem}, source=f"{path}: the name of the file")
    values = {name: _arm_values(plan, name, path) for name in plan.arms}
    arms = {
        name: {"config": _parse(path, name, made, 0).model_dump(mode="json", exclude={"name", "seed"})}
        | plan.arms[name].model_dump(include={"equal_acceptance_to"})
        for name, made in values.items()
    }
    runs = tuple(
        PlannedRun(name, seed, _parse(path, name, _put_seed(made, seed), seed), other and f"{other}-{seed}")
        for seed in plan.seeds
        for name, made in values.items()
        for other in [plan.arms[name].equal_acceptance_to]
    )
    baseline = plan.baseline or next(iter(plan.arms))
    return Experiment(path.stem, baseline, plan.tokens, plan.figures, tuple(plan.seeds), arms, runs)


class _Named(Section):
    name: Name


def _arm_values(plan: Plan, name: str, path: Path) -> dict[str, Any]:
    """The raw values of an arm's config."""
    arm = plan.arms[name]
    own, folder = arm.model_extra or {}, path.parent
    for key in ("name", "seed"):
        if key in {**plan.all, **own}:
            raise ConfigError(f"{path}: arm {name}: {key} comes from the plan; leave it out")
    changes = [plan.all, _RAW, own] if arm.raw else [plan.all, own]
    values = read_values(folder / plan.base, *((changed, folder) for changed in changes))
    if arm.raw and isinstance(asked := own.get("teacher", {}), Mapping):
        # Of the arm alone; its texts may have become paths.
        kept = {key: values["teacher"][key] if isinstance(it, str) else it for key, it in asked.items()}
        values["teacher"] = _NOBODY | kept
    if arm.equal_acceptance_to is not None:
        for key in ("policy", "random_rate"):
            if key in own.get("selection", {}):
                raise ConfigError(
                    f"{path}: arm {name}: equal_acceptance_to sets selection.{key}; leave one out"
                )
        overlay(values, {"selection": {"policy": "random"}})
    if plan.tokens is not None:
        if {"refinetune.tokens", "refinetune.epochs"} & (flatten(plan.all) | flatten(own)).keys():
            raise ConfigError(f"{path}: arm {name}: tokens says how long all arms train; leave one out")
        overlay(values, {"refinetune": {"tokens": plan.tokens, "epochs": None}})
    return values


def _parse(path: Path, name: str, values: Mapping[str, Any], seed: int) -> RunConfig:
    values = without_unset(values) | {"name": f"{name}-{seed}", "seed": seed}
    return parse_config(values, source=f"{path}: arm {name}")


def _put_seed(values: Mapping[str, Any], seed: int) -> dict[str, Any]:
    texts = json.dumps(values, default=str).replace("{seed}", str(seed))
    return json.loads(texts)  # type: ignore[no-any-return]


def note_arms(experiment: Experiment, plan: Path) -> None:
    """Note what arms are made of; refuse one that is not what it was when its runs began.

    Keys that may change while a run goes on do not count, but for those by which runs with other seeds would
    not be of one kind: `rounds` and `stop.rollback`.

    Args:
        experiment: as it is planned now.
        plan: the file in the experiment's folder that keeps what arms are made of.
    """
    try:
        begun = read_toml(plan)["arms"]
    except FileNotFoundError:
        begun = {}
    for name in begun.keys() & experiment.arms.keys():
        if not any(_is_run_of(name, entry.name) for entry in plan.parent.iterdir()):
            continue
        changed = list(_changed_keys(begun[name], experiment.arms[name]))
        if changed:
            raise ConfigError(
                f"arm {name} was changed since its runs began: {', '.join(changed)}; give the changed arm a "
                f"new name, or put it back, or move {plan.parent} away"
            )
    part = plan.with_name(".plan.toml.partial")
    part.write_text(tomli_w.dumps({"arms": _without_none(begun | dict(experiment.arms))}), encoding="utf-8")
    part.replace(plan)


def _is_run_of(arm: str, name: str) -> bool:
    return name.startswith(f"{arm}-") and name.removeprefix(f"{arm}-").isdecimal()


def _changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    may_change = {*CHANGEABLE} - {"rounds", "stop.rollback"}
    values = [deepcopy({**arm["config"], "name": "arm"}) for arm in (before, after)]
    tidy(values[0])
    parsed = (parse_config(each, "plan.toml") for each in values)
    old, new = (flatten(config.model_dump(mode="json")) for config in parsed)
    yield from (key for key in new if old[key] != new[key] and key not in may_change)
    if before.get("equal_acceptance_to") != after.get("equal_acceptance_to"):
        yield "equal_acceptance_to"


def _without_none(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    return {key: _without_none(value) for key, value in values.items() if value is not None}
