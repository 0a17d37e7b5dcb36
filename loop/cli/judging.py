"""Commands that put students before judges: their answers to other data."""

from pathlib import Path
from typing import Annotated

import typer

from reflectune.loop.cli.common import (
    RUNS,
    Json,
    Name,
    RoundOption,
    Runs,
    find_outcome,
    refuse_same,
    show_document,
    stoppable,
)
from reflectune.loop.cli.data import read_columns
from reflectune.state.errors import ConfigError
from reflectune.state.folder import RunFolder
from reflectune.state.records import DataFormat

__all__ = ["answer"]


def answer(
    name: Name,
    data: Annotated[Path, typer.Argument(help="File of instructions.", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", help="JSON file to write.", show_default=False)],
    round: Annotated[
        str | None,
        RoundOption(
            help="Whose student answers; 0 is the base.", show_default="the last one; best with stop.rollback"
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer.", show_default="evaluate.max_tokens")
    ] = None,
    format: Annotated[DataFormat, typer.Option(help="How a record holds its pair.")] = "auto",
    columns: Annotated[
        str, typer.Option(metavar="NAME=FIELD,...", help="Fields of other names, as instruction=query.")
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Answer only the first so many.")] = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Let a round's student answer the instructions of any dataset, and write AlpacaEval's outputs."""
    from reflectune.loop.answering import answer_dataset
    from reflectune.loop.progress import open_display
    from reflectune.loop.resuming import refuse_changed_files, restore_config
    from reflectune.state.config import DataConfig
    from reflectune.state.data.datasets import read_dataset
    from reflectune.state.lineage.loop_reader import LoopReader

    refuse_same(out, data, "given data")
    folder = RunFolder.find(runs, name)
    config = restore_config(folder)
    if max_tokens is not None:
        evaluate = config.evaluate.model_copy(update={"max_tokens": max_tokens})
        config = config.model_copy(update={"evaluate": evaluate})
    with LoopReader.open(folder.lineage) as lineage:
        chosen = find_outcome(lineage, round)
        student = lineage.round_student(chosen)
        refuse_changed_files(lineage, config, "student.model")
    if student is None:
        raise ConfigError(f"{name}: no student has been trained in round {chosen} yet")
    source = DataConfig(path=str(data), format=format, columns=read_columns(columns), limit=limit)
    dataset = read_dataset(source, allow_empty=True, has_config=False)
    with stoppable():
        document = answer_dataset(folder, config, student, dataset, out, open_display())
    lines = f"wrote {document['written']} answers of {student.id} to {out}"
    if document["left_out"]:
        lines += f"; {document['left_out']} instructions are too long for student.max_length"
    show_document(document, lines, as_json)
