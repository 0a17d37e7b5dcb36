"""What commands have in common: options, a run to read, and how a document is shown."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reflectune.loop.show.terminal.layout import open_console
from reflectune.loop.signals import Interrupted, Interruption, catch_signals
from reflectune.state.errors import ConfigError
from reflectune.state.folder import RUNS, RunFolder
from reflectune.state.text import inert, one_line, to_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from reflectune.state.lineage.reader import LineageReader

__all__ = [
    "RUNS", "ConfigFile", "Json", "Name", "RoundOption", "Runs", "Settings", "find_complete", "find_outcome",
    "find_round", "read_run", "say", "show_document", "show_rounds", "stoppable",
]  # fmt: skip

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Runs = Annotated[Path, typer.Option("--runs", envvar="REFLECTUNE_RUNS", help="Folder that holds the runs.")]
Name = Annotated[str, typer.Argument(help="Name of the run.", show_default=False)]
ConfigFile = Annotated[Path, typer.Argument(help="Config file.", show_default=False)]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one config key; repeatable.")
]
RoundOption = partial(typer.Option, "--round", metavar="N|best")  # its text is for `find_round`


def read_run(folder: RunFolder) -> "AbstractContextManager[LineageReader]":
    """The lineage of a run, to be read."""
    from reflectune.loop.show.documents import open_lineage

    return open_lineage(folder)


def find_round(lineage: "LineageReader", text: str) -> int:
    """The round that an option names: a number, 0 for the given data, or best.

    Whether the run has come as far is for the command to say.
    """
    from reflectune.loop.stopping import best_round

    if text.isascii() and text.isdecimal():
        return int(text)
    if text != "best":
        raise ConfigError(f"{text or 'nothing'} is no round; want a number such as 2, or best")
    best = best_round(lineage.held_out_measures())
    if best is None:
        raise ConfigError("no round is the best: none has a held-out measure; name a round by its number")
    return best


def find_outcome(lineage: "LineageReader", text: str | None) -> int:
    """The same; without an option the round that the run ends with."""
    from reflectune.loop.stopping import final_round

    return final_round(lineage) if text is None else find_round(lineage, text)


def find_complete(lineage: "LineageReader", name: str, text: str | None) -> int:
    """The same, of a round that is complete; a ConfigError where it is not."""
    chosen, last = find_outcome(lineage, text), lineage.last_round()
    if chosen > last:
        raise ConfigError(f"{name}: round {chosen} is not complete; the last complete one is {last}")
    return chosen


def show_document(document: object, rendered: "RenderableType", as_json: bool) -> None:
    """Print a document as JSON, or what it was rendered to.

    Off a terminal no line ends in spaces, and each is as long as it must be unless COLUMNS says otherwise.
    """
    if as_json:
        typer.echo(to_json(document, indent=1))
        return
    shown = inert(rendered) if isinstance(rendered, str) else rendered
    console = open_console()
    if console.is_terminal:
        console.print(shown, markup=False, highlight=False, crop=False)
        return
    with console.capture() as capture:
        console.print(shown, markup=False, highlight=False, crop=False)
    for line in capture.get().splitlines():
        typer.echo(line.rstrip())


def show_rounds(folder: RunFolder, as_json: bool, only: int | None = None) -> None:
    """Print the rounds of one run, or only one of them."""
    from reflectune.loop.show.documents import describe_run
    from reflectune.loop.show.terminal.runs import render_rounds

    document = describe_run(folder)
    rendered = render_rounds(document, only=only)
    if only is not None:
        document["rounds"] = [row for row in document["rounds"] if row["round"] == only]
    show_document(document, rendered, as_json)


def refuse_same(out: Path | None, other: Path | None, what: str) -> None:
    """Raise a ConfigError for a file that would be written over another one."""
    if out is not None and other is not None and out.resolve() == other.resolve():
        raise ConfigError(f"{out}: is the file of the {what}; name another one to write")


def say(text: str) -> None:
    """Print one line on stderr."""
    typer.echo(one_line(text), err=True)


@contextmanager
def stoppable() -> Iterator[Interruption]:
    """Let SIGINT and SIGTERM end the block with the exit codes of a shell."""
    with catch_signals() as interruption:
        try:
            yield interruption
        except Interrupted:
            raise typer.Exit(interruption.exit_code) from None
