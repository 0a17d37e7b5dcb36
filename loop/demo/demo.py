"""The demo's run: noisy pairs of the small world, its tiny teacher and its tiny student.

It is a run like any other: `show`, `trace`, `serve`, `export` and `resume` work on it.
"""

from functools import partial
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from reflectune.loop.demo import POLICY, ROUNDS, SAMPLES
from reflectune.loop.demo.account import account_for, mended_sample, render_account
from reflectune.loop.demo.closing import close
from reflectune.loop.demo.noise import write_dataset
from reflectune.loop.demo.opening import find_or_create, name_run
from reflectune.state.config import RunConfig, load_config
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import PolicyName

__all__ = ["FOLDER", "conclude", "demo_config", "open_demo"]

FOLDER = Path(__file__).parent
HOLDOUT = 300


def open_demo(
    runs: Path, *, rounds: int = ROUNDS, policy: PolicyName = POLICY, seed: int = 0, samples: int = SAMPLES
) -> RunFolder:
    """Find the run of such a demo, or create it; its data stands beside the run's folder."""
    changes = {
        f"{rounds}-rounds": rounds != ROUNDS,
        policy.replace("+", "-"): policy != POLICY,
        f"seed-{seed}": seed != 0,
        f"{samples}-samples": samples != SAMPLES,
    }
    name = name_run("demo", changes)
    data = runs / f"{name}.json"
    config = demo_config(name, data, rounds=rounds, policy=policy, seed=seed)
    return find_or_create(runs, config, [data], partial(write_dataset, size=samples + HOLDOUT, seed=seed))


def demo_config(name: str, data: Path, *, rounds: int, policy: PolicyName, seed: int) -> RunConfig:
    """The configuration of a demo run over a file of pairs."""
    settings = {
        "name": name,
        "rounds": rounds,
        "seed": seed,
        "data.path": data.absolute(),
        "data.holdout": HOLDOUT,
        "selection.policy": policy,
    }
    return load_config(FOLDER / "config.toml", [f"{key}={value}" for key, value in settings.items()])


def conclude(folder: RunFolder) -> tuple[dict[str, Any], RenderableType]:
    """What a demo run has shown, as JSON has it and as a terminal does, with a story and what to do next."""
    with LineageReader.open(folder.lineage) as lineage:
        rounds = account_for(lineage)
        trace = mended_sample(lineage)
    document = {"name": folder.path.name, "rounds": rounds, "trace": trace}
    return document, close(folder, render_account(rounds), trace, "demo", ROUNDS)
