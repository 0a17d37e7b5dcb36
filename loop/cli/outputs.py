"""Commands that make of a run what other programs use."""

from pathlib import Path
from typing import Annotated

import typer

from reflectune.loop.cli.common import (
    RUNS,
    Json,
    Name,
    RoundOption,
    Runs,
    find_round,
    show_document,
    stoppable,
)
from reflectune.state.folder import RunFolder

__all__ = ["merge"]


def merge(
    name: Name,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to make.", show_default=False)],
    round: Annotated[
        str | None,
        RoundOption(help="Whose student.", show_default="the last complete one; best with stop.rollback"),
    ] = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Write a round's student as one model: its base with the LoRA adapter added to the weights."""
    from reflectune.loop.merging import merge_round
    from reflectune.loop.stopping import final_round
    from reflectune.state.lineage.loop_reader import LoopReader

    folder = RunFolder.find(runs, name)
    with stoppable(), LoopReader.open(folder.lineage) as lineage:
        chosen = final_round(lineage) if round is None else find_round(lineage, round)
        merged = merge_round(folder, lineage, chosen, out)
    what = f"{merged['base_model']} with the adapter of round {chosen}, {merged['dtype']}"
    if merged["load_in_4bit"]:
        what += ", its 4-bit weights written out"
    prompts = f"prompt it as student.template = {merged['template']} does"
    show_document(merged, f"wrote {what}, to {out}; {prompts}", as_json)
