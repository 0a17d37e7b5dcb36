"""The demo's run: noisy pairs of the small world, its tiny teacher and its tiny student.

It is a run like any other: `show`, `trace`, `serve`, `export` and `resume` work on it.
"""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from reflectune.loop.demo import POLICY, ROUNDS, SAMPLES
from reflectune.loop.demo.account import account_for, mended_sample, render_account
from reflectune.loop.demo.noise import write_dataset
from reflectune.loop.run import create_run
from reflectune.loop.show.terminal.trace import render_trace
from reflectune.state.config import RunConfig, load_config
from reflectune.state.errors import ConfigError
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
    name = "-".join(["demo", *(change for change, is_made in changes.items() if is_made)])
    folder = RunFolder(runs / name)
    if folder in RunFolder.all(runs):
        return folder
    if folder.path.exists():
        raise ConfigError(f"{folder.path} is there and is no run; move it, or name another folder by --runs")
    data = runs / f"{name}.json"
    try:
        runs.mkdir(parents=True, exist_ok=True)
        write_dataset(data, samples + HOLDOUT, seed)
    except OSError as error:
        raise ConfigError(f"{runs}: cannot make a run there: {error.strerror}") from error
    try:
        return create_run(demo_config(name, data, rounds=rounds, policy=policy, seed=seed), runs)
    except BaseException:
        data.unlink()
        raise


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
    name = folder.path.name
    with LineageReader.open(folder.lineage) as lineage:
        rounds = account_for(lineage)
        trace = mended_sample(lineage)
    story = [] if trace is None else [Text(""), render_trace(trace)]
    runs = "" if folder.path.parent == Path("runs") else f" --runs {shlex.quote(str(folder.path.parent))}"
    position = 0 if trace is None else trace["position"]
    steps = {
        f"trace {name} {position}{runs}": "one sample through all rounds; any position will do",
        f"show {name}{runs}": "the rounds as every run has them",
        f"serve {name}{runs}": "all of it in a browser",
        f"report {name}{runs}": "one page to send around",
        f"export {name} -o recycled.json{runs}": "the recycled pairs",
        f"demo --policy accept-all{runs}": "the same without the student's choice",
        "init config.toml": "a config for data and models of your own",
    }
    next_steps = [
        line
        for command, what in steps.items()
        for line in (Text(f"  {_program()} {command}", no_wrap=True), Text(f"      {what}", style="dim"))
    ]
    document = {"name": name, "rounds": rounds, "trace": trace}
    return document, Group(render_account(rounds), *story, Text("\nNext", style="bold"), *next_steps)


def _program() -> str:
    """How the command can be called from here."""
    if shutil.which("reflectune"):
        return "reflectune"
    beside = Path(sys.executable).with_name("reflectune")
    here = Path.cwd()
    return shlex.quote(str(beside.relative_to(here) if beside.is_relative_to(here) else beside))
