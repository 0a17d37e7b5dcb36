"""Commands that look at runs; none of them writes."""

from typing import Annotated

import typer

from loop.cli.terms import RUNS, Json, Name, Runs, show_document, show_rounds

__all__ = ["list_runs", "show", "trace", "verify"]


def list_runs(runs: Runs = RUNS, as_json: Json = False) -> None:
    """List all runs."""
    from loop.overview import readable_overview
    from loop.tables import render_runs
    from state.folder import RunFolder

    documents = [readable_overview(folder) for folder in RunFolder.all(runs)]
    show_document(documents, render_runs(documents), as_json)


def show(name: Name, runs: Runs = RUNS, as_json: Json = False) -> None:
    """Show the rounds of one run."""
    from state.folder import RunFolder

    show_rounds(RunFolder.find(runs, name), as_json)


def trace(
    name: Name,
    sample: Annotated[
        str, typer.Argument(help="Position in the given data, id, or start of an id.", show_default=False)
    ],
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Follow one sample through all rounds."""
    from rich.console import Console

    from loop.overview import open_history
    from loop.story import render_trace
    from state.folder import RunFolder

    with open_history(RunFolder.find(runs, name)) as history:
        document = history.trace(sample)
    show_document(document, render_trace(document, Console()), as_json)


def verify(name: Name, runs: Runs = RUNS, as_json: Json = False) -> None:
    """Check every row, adapter and file of a run against what it was derived from; exit 1 on any fault."""
    from state.folder import RunFolder

    folder = RunFolder.find(runs, name)
    from loop.ground import explained
    from loop.verify.run import describe, verify_run

    with explained(folder.path, "try again"):
        document = verify_run(folder)
    if as_json:
        show_document(document, "", as_json)
    else:
        typer.echo("\n".join(describe(document)))
    if document["faults"]:
        raise typer.Exit(1)
