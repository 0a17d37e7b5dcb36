"""The command that says what a student's scores can tell."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reflectune.loop.cli.common import RUNS, Json, Runs, show_document, stoppable
from reflectune.loop.cli.data import read_columns
from reflectune.state.errors import ConfigError
from reflectune.state.folder import RunFolder
from reflectune.state.records import DataFormat

if TYPE_CHECKING:
    pass

__all__ = ["signal"]


def signal(
    source: Annotated[str, typer.Argument(help="A dataset, or the name of a run.", show_default=False)],
    student: Annotated[
        str, typer.Option(help="Folder or hub name of the model; a run has its own.", show_default=False)
    ] = "",
    template: Annotated[str, typer.Option(help="chat, plain, or a template file.")] = "chat",
    pairs: Annotated[int, typer.Option(min=2, help="Pairs to measure, and choices of two responses.")] = 200,
    round: Annotated[int, typer.Option(min=1, help="Of a run: whose student, and which proposals.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of which pairs are drawn.")] = 0,
    format: Annotated[DataFormat, typer.Option(help="How a record holds its pair.")] = "auto",
    columns: Annotated[
        str, typer.Option(metavar="NAME=FIELD,...", help="Fields of other names, as instruction=query.")
    ] = "",
    device: Annotated[str, typer.Option(help="torch device.")] = "auto",
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Measure what a student's scores tell about data or a run, before you trust its choices."""
    from reflectune.loop.measuring import measure_data, measure_run
    from reflectune.loop.progress import open_display
    from reflectune.loop.show.terminal.evidence import render_evidence

    with stoppable():
        if Path(source).exists():
            if not student:
                raise ConfigError(f"{source} is data: say with --student MODEL who scores it")
            from reflectune.state.config import DataConfig, StudentConfig, resolve_paths

            settings: dict[str, Any] = {"model": student, "template": template, "device": device}
            resolve_paths({"student": settings}, Path())
            data = DataConfig(path=source, format=format, columns=read_columns(columns))
            evidence = measure_data(data, StudentConfig(**settings), pairs, seed, open_display())
        else:
            evidence = measure_run(RunFolder.find(runs, source), round, pairs, seed, open_display())
    show_document(evidence, render_evidence(evidence), as_json)
