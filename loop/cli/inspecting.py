"""Commands that look at runs; none of them writes."""

from typing import Annotated

import typer

from reflectune.loop.cli.terms import RUNS, Json, Name, Runs, show_document, show_rounds

__all__ = ["list_runs", "show", "trace", "verify"]


def list_runs(runs: Runs = RUNS, as_json: Json = False) -> None:
    """List all runs."""
    from reflectune.loop.show.documents import readable_overview
    from reflectune.loop.show.terminal.runs import render_runs
    from reflectune.state.folder import RunFolder

    documents = [readable_overview(folder) for folder in RunFolder.all(runs)]
    show_document(documents, render_runs(documents), as_json)


def show(
    name: Name,
    watch: Annotated[
        bool, typer.Option("--watch", help="Redraw every few seconds while the run goes on; Ctrl-C leaves.")
    ] = False,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Show the rounds of one run."""
    from reflectune.state.folder import RunFolder

    folder = RunFolder.find(runs, name)
    if not watch:
        show_rounds(folder, as_json)
        return
    from reflectune.loop.show.terminal.layout import open_console
    from reflectune.loop.show.terminal.runs import render_rounds
    from reflectune.loop.show.terminal.watching import refuse_to_watch, watch_rounds

    refuse_to_watch(open_console(), as_json)
    run = watch_rounds(folder, open_console())
    show_document(run, render_rounds(run), as_json)


def trace(
    name: Name,
    sample: Annotated[
        str, typer.Argument(help="Position in the given data, id, or start of an id.", show_default=False)
    ],
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Follow one sample through all rounds."""
    from reflectune.loop.show.documents import open_history
    from reflectune.loop.show.terminal.layout import open_console
    from reflectune.loop.show.terminal.trace import render_trace
    from reflectune.state.folder import RunFolder

    with open_history(RunFolder.find(runs, name)) as history:
        document = history.trace(sample)
    show_document(document, render_trace(document, open_console()), as_json)


def verify(name: Name, runs: Runs = RUNS, as_json: Json = False) -> None:
    """Check every row, adapter and file of a run against what it was derived from; exit 1 on any fault."""
    from reflectune.state.folder import RunFolder

    folder = RunFolder.find(runs, name)
    from reflectune.loop.resuming import explained
    from reflectune.loop.verify.run import describe, verify_run

    with explained(folder.path, "try again"):
        document = verify_run(folder)
    if as_json:
        show_document(document, "", as_json)
    else:
        typer.echo("\n".join(describe(document)))
    if document["faults"]:
        raise typer.Exit(1)
