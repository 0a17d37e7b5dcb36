"""Commands that make of a run what other programs use."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer

from reflectune.loop.cli.common import (
    RUNS,
    Json,
    Name,
    RoundOption,
    Runs,
    find_complete,
    find_outcome,
    show_document,
    stoppable,
)
from reflectune.state.errors import ConfigError
from reflectune.state.folder import RunFolder

__all__ = ["merge", "publish"]


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
    from reflectune.state.lineage.loop_reader import LoopReader

    folder = RunFolder.find(runs, name)
    with stoppable(), LoopReader.open(folder.lineage) as lineage:
        chosen = find_outcome(lineage, round)
        merged = merge_round(folder, lineage, chosen, out)
    what = f"{merged['base_model']} with the adapter of {merged['student']}, {merged['dtype']}"
    if merged["load_in_4bit"]:
        what += ", its 4-bit weights written out"
    prompts = f"prompt it as student.template = {merged['template']} does"
    show_document(merged, f"wrote {what}, to {out}; {prompts}", as_json)


def publish(
    name: Name,
    to: Annotated[str, typer.Option(metavar="USER/REPO", help="Repository of the hub.", show_default=False)],
    what: Annotated[
        Literal["data", "adapter", "model"],
        typer.Option(help="The pool with its history, the LoRA adapter, or the merged model."),
    ] = "data",
    round: Annotated[
        str | None,
        RoundOption(help="Of which round.", show_default="the last complete one; best with stop.rollback"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Keep what is published in this folder.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the folder, and send nothing.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Put data, adapter or model on the Hugging Face hub, with a card of what was done."""
    from huggingface_hub.utils._validators import validate_repo_id

    from reflectune.loop.publishing import upload, write_publication
    from reflectune.state.lineage.loop_reader import LoopReader

    try:
        validate_repo_id(to)
    except ValueError as error:
        raise ConfigError(f"--to {to}: {error}") from None
    if dry_run and out is None:
        raise ConfigError("--dry-run: say with -o DIR where the folder goes")
    folder = RunFolder.find(runs, name)
    with stoppable(), TemporaryDirectory() as scratch, LoopReader.open(folder.lineage) as lineage:
        chosen = find_complete(lineage, name, round)
        written = write_publication(folder, lineage, chosen, what, to, out or Path(scratch) / "publication")
        url = None if dry_run else upload(written, private=private)
    where = (
        f"wrote what would be published to {out}"
        if dry_run
        else f"published {what} of round {written['round']}: {url}"
    )
    show_document({**written, "url": url}, where, as_json)
