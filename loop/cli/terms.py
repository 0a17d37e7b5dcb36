"""What commands have in common: options, and how a document is shown."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reflectune.state.text import inert, one_line, to_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from reflectune.state.folder import RunFolder

__all__ = ["RUNS", "Json", "Name", "Runs", "say", "show_document", "show_rounds"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Runs = Annotated[Path, typer.Option("--runs", envvar="REFLECTUNE_RUNS", help="Folder that holds the runs.")]
Name = Annotated[str, typer.Argument(help="Name of the run.", show_default=False)]
RUNS = Path("runs")


def show_document(document: object, rendered: "RenderableType", as_json: bool) -> None:
    """Print a document as JSON, or what it was rendered to.

    Off a terminal no line ends in spaces, and each is as long as it must be unless COLUMNS says otherwise.
    """
    if as_json:
        typer.echo(to_json(document, indent=1))
        return
    from reflectune.loop.show.terminal.layout import open_console

    shown = inert(rendered) if isinstance(rendered, str) else rendered
    console = open_console()
    if console.is_terminal:
        console.print(shown, markup=False, highlight=False, crop=False)
        return
    with console.capture() as capture:
        console.print(shown, markup=False, highlight=False, crop=False)
    for line in capture.get().splitlines():
        typer.echo(line.rstrip())


def say(text: str) -> None:
    """Print one line on stderr."""
    typer.echo(one_line(text), err=True)


def show_rounds(folder: "RunFolder", as_json: bool) -> None:
    """Print the rounds of one run."""
    from reflectune.loop.show.documents import describe_run
    from reflectune.loop.show.terminal.runs import render_rounds

    document = describe_run(folder)
    show_document(document, render_rounds(document), as_json)
