"""The command that writes a run's report."""

from pathlib import Path
from typing import Annotated

import typer

from reflectune.loop.cli.terms import RUNS, Json, Name, Runs, show_document

__all__ = ["report"]


def report(
    name: Name,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="File to write.", show_default="report.html in the run's folder"),
    ] = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page about a run; with --json print its numbers instead."""
    from reflectune.loop.show.report import describe_evolution, write_report
    from reflectune.state.folder import RunFolder

    folder = RunFolder.find(runs, name)
    if as_json and out is None:
        show_document(describe_evolution(folder), "", as_json)
        return
    target = folder.path / "report.html" if out is None else out
    write_report(folder, target)
    size = target.stat().st_size
    line = f"wrote {target} ({size / 1e6:.1f} MB); open it in a browser, or send it around"
    show_document({"name": name, "out": str(target), "bytes": size}, line, as_json)
