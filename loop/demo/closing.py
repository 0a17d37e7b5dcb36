"""How a demo ends: its students, the story of one sample, and what to do next."""

import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from reflectune.loop.show.numbers import format_number
from reflectune.loop.show.terminal.layout import tabulate
from reflectune.loop.show.terminal.trace import render_trace
from reflectune.state.config import load_begun_config
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.documents import Trace

__all__ = ["close", "tabulate_students"]

Document = Mapping[str, Any]


def tabulate_students(
    rounds: Iterable[Document], measure: str, measured: Callable[[Document], str]
) -> RenderableType:
    """The student of each round, by a held-out measure, with its pool and its seconds."""
    heads = (
        "round", "student", "trained\non", measure, "median\nIFD", "median\nr-IFD", "response\ntokens",
        "seconds",
    )  # fmt: skip
    cells = (
        (
            str(row["round"]),
            row["student"] or "-",
            str(row["training"]),
            measured(row),
            format_number(row["ifd"]["median"], ".3f"),
            format_number(row["r_ifd"]["median"], ".3f"),
            format_number(row["response_tokens"], ".1f"),
            f"{sum(row['seconds'].values()):.1f}",
        )
        for row in rounds
    )
    return Group(
        Text("The round's student; its pool under the student that decided; its seconds"),
        tabulate(heads, cells),
    )


def close(
    folder: RunFolder, account: RenderableType, trace: Trace | None, demo: str, rounds: int
) -> RenderableType:
    """A demo's account, the story of a sample where there is one, and commands to go on with.

    `demo` is its command, `rounds` how many that runs unless it is told otherwise.
    """
    name, config = folder.path.name, load_begun_config(folder.config)
    again = [demo, "--policy accept-all"]
    again += [f"--rounds {config.rounds}"] if config.rounds != rounds else []
    again += [f"--seed {config.seed}"] if config.seed else []
    story = [] if trace is None else [Text(""), render_trace(trace)]
    runs = "" if folder.path.parent == Path("runs") else f" --runs {shlex.quote(str(folder.path.parent))}"
    position = 0 if trace is None else trace["position"]
    steps = {
        f"trace {name} {position}{runs}": "one sample through all rounds; any position will do",
        f"show {name}{runs}": "the rounds as every run has them",
        f"serve {name}{runs}": "all of it in a browser",
        f"report {name}{runs}": "one page to send around",
        f"export {name} -o recycled.json{runs}": "the recycled pairs",
    }
    if config.selection.policy != "accept-all":
        steps[f"{' '.join(again)}{runs}"] = "the same without the student's choice"
    steps["init config.toml"] = "a config for data and models of your own"
    next_steps = [
        line
        for command, what in steps.items()
        for line in (Text(f"  {_program()} {command}", no_wrap=True), Text(f"      {what}", style="dim"))
    ]
    return Group(account, *story, Text("\nNext", style="bold"), *next_steps)


def _program() -> str:
    """How the command can be called from here."""
    if shutil.which("reflectune"):
        return "reflectune"
    beside = Path(sys.executable).with_name("reflectune")
    here = Path.cwd()
    return shlex.quote(str(beside.relative_to(here) if beside.is_relative_to(here) else beside))
