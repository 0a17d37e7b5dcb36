"""The demo's run: noisy pairs of the small world, its tiny teacher and its tiny student.

It is a run like any other: `show`, `trace`, `export` and `resume` work on it.
"""

from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from loop.demo.account import account_for, render_account, telling_sample
from loop.demo.noise import write_dataset
from loop.run import create_run
from loop.tables import render_trace
from state.config import RunConfig, parse_config
from state.errors import StoreError
from state.folder import RunFolder
from state.history import History
from state.records import PolicyName

__all__ = ["FOLDER", "POLICY", "ROUNDS", "SAMPLES", "conclude", "demo_config", "open_demo"]

FOLDER = Path(__file__).parent
ROUNDS, SAMPLES = 3, 500
POLICY: PolicyName = "ifd+r-ifd"
HOLDOUT = 300


def open_demo(
    runs: Path,
    *,
    rounds: int = ROUNDS,
    policy: PolicyName = POLICY,
    seed: int = 0,
    samples: int = SAMPLES,
) -> RunFolder:
    """Find the run of such a demo, or create it; its data stands beside the run's folder.

    Raises:
        ReflectuneError: the run cannot be created.
    """
    changes = {
        f"{rounds}-rounds": rounds != ROUNDS,
        policy.replace("+", "-"): policy != POLICY,
        f"seed-{seed}": seed != 0,
        f"{samples}-samples": samples != SAMPLES,
    }
    name = "-".join(["demo", *(change for change, is_made in changes.items() if is_made)])
    try:
        return RunFolder.find(runs, name)
    except StoreError:
        runs.mkdir(parents=True, exist_ok=True)
    data = runs / f"{name}.json"
    write_dataset(data, samples + HOLDOUT, seed)
    return create_run(demo_config(name, data, rounds=rounds, policy=policy, seed=seed), runs)


def demo_config(name: str, data: Path, *, rounds: int, policy: PolicyName, seed: int) -> RunConfig:
    """The configuration of a demo run over a file of pairs."""
    values = {
        "name": name,
        "rounds": rounds,
        "seed": seed,
        "data": {"path": str(data.absolute()), "holdout": HOLDOUT},
        "teacher": {
            "engine": "transformers",
            "model": str(FOLDER / "models" / "teacher"),
            "prompts": str(FOLDER / "prompts.toml"),
            "temperature": 1.0,
            "max_tokens": 80,
            "concurrency": 64,
            "retries": 0,  # most of what fails to parse is the pair itself, found good by the teacher
        },
        "student": {
            "model": str(FOLDER / "models" / "student"),
            "template": str(FOLDER / "template.toml"),
            "max_length": 128,
            "dtype": "float32",
        },
        "selection": {"policy": policy},
        "refinetune": {"lr": 3e-3, "tokens": 75_000, "batch_tokens": 1024},
        "evaluate": {"checker": "loop.demo.world:check", "max_tokens": 24},
    }
    return parse_config(values, "demo")


def conclude(folder: RunFolder) -> tuple[dict[str, Any], RenderableType]:
    """What a demo run has shown, as JSON has it and as a terminal does, with a story and what to do next."""
    name = folder.path.name
    with History.open(folder.lineage) as history:
        rounds = account_for(history)
        position = telling_sample(history)
        trace = None if position is None else history.trace(str(position))
    story = [] if trace is None else [Text(""), render_trace(trace, Console())]
    runs = "" if folder.path.parent == Path("runs") else f" --runs {folder.path.parent}"
    steps = {
        f"reflectune trace {name} {position or 0}{runs}": "one sample through all rounds",
        f"reflectune show {name}{runs}": "the rounds as every run has them",
        f"reflectune export {name} -o recycled.json{runs}": "the recycled pairs",
        "reflectune demo --policy accept-all": "the same without the student's choice",
        "reflectune init config.toml": "a config for data and models of your own",
    }
    width = max(map(len, steps))
    return (
        {"name": name, "rounds": rounds, "trace": trace},
        Group(
            render_account(rounds),
            *story,
            Text("\nNext"),
            *(Text(f"  {command:{width}}  {what}") for command, what in steps.items()),
        ),
    )
