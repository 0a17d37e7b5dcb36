"""Commands that write pairs and scores to files."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from reflectune.loop.cli.common import RUNS, Json, Name, Runs, read_run, show_document, stoppable
from reflectune.state.data.exports import Also, ExportFormat, write_records
from reflectune.state.data.writing import put_into_place
from reflectune.state.errors import ConfigError

__all__ = ["export", "score"]


def export(
    name: Name,
    out: Annotated[Path, typer.Option("-o", "--out", help="File to write.", show_default=False)],
    round: Annotated[
        int | None, typer.Option(min=0, help="Round to export.", show_default="the last complete one")
    ] = None,
    what: Annotated[
        Literal["pool", "training", "preferences"],
        typer.Option(help="The whole data, the pairs trained on, or winner and loser of each decision."),
    ] = "pool",
    format: Annotated[
        ExportFormat | None,
        typer.Option(
            help="How a record is written; OUT's suffix says whether as .json, .jsonl or .parquet.",
            show_default="alpaca",
        ),
    ] = None,
    meta: Annotated[bool, typer.Option("--meta", help="Also the other fields of each given record.")] = False,
    ids: Annotated[bool, typer.Option("--ids", help="Also sample_ids, version_ids and round.")] = False,
    holdout: Annotated[
        bool, typer.Option("--holdout", help="Also held-out records, as given; the field split marks them.")
    ] = False,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Write a round's pool, training set or preference pairs to a file."""
    from reflectune.state.lineage.recycled import read_pool, read_preferences, read_training

    if holdout and what != "pool":
        raise ConfigError(f"--holdout: held-out records are in no {what}; leave --holdout or --what out")
    options: dict[Also, bool] = {"meta": meta, "ids": ids, "split": holdout}
    with read_run(runs, name) as lineage:
        last = lineage.last_round()
        chosen = last if round is None else round
        if chosen > last:
            raise ConfigError(f"{name}: round {chosen} is not complete; the last complete one is {last}")
        sources = {
            "pool": partial(read_pool, lineage, chosen, holdout=holdout),
            "training": partial(read_training, lineage, chosen),
            "preferences": partial(read_preferences, lineage, chosen),
        }
        also = [option for option, is_on in options.items() if is_on]
        is_preferences = what == "preferences"
        written = write_records(out, format, sources[what], is_preferences=is_preferences, also=also)
    if format is None:
        format = "parquet" if out.suffix.lower() == ".parquet" else "alpaca"
    document = {"name": name, "round": chosen, "what": what, "format": format, "written": written}
    line = f"wrote {written} records to {out} ({what} of round {chosen})"
    show_document(document | {"out": str(out)}, line, as_json)


def score(
    data: Annotated[Path, typer.Argument(help="File of pairs.", show_default=False)],
    student: Annotated[str, typer.Option(help="Folder or hub name of the model.", show_default=False)],
    adapter: Annotated[Path | None, typer.Option(help="LoRA adapter folder on top of it.")] = None,
    template: Annotated[str, typer.Option(help="chat, plain, or a template file.")] = "chat",
    format: Annotated[
        Literal["auto", "alpaca", "messages", "sharegpt"], typer.Option(help="How a record holds its pair.")
    ] = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="Score only the first so many pairs.")] = None,
    max_length: Annotated[int, typer.Option(min=8, help="Most tokens of prompt and target.")] = 2048,
    batch_tokens: Annotated[int, typer.Option(min=8, help="Most tokens in one forward pass.")] = 2048,
    device: Annotated[str, typer.Option(help="torch device.")] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Number format.")
    ] = "auto",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="JSON Lines file; standard output if left out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score any dataset with any student: IFD and r-IFD, one JSON object a line."""
    from reflectune.state.config import DataConfig, StudentConfig, resolve_paths

    if as_json and out is None:
        raise ConfigError("--json prints a summary; say with -o FILE where the scores go")
    settings: dict[str, Any] = {
        "model": student, "template": template, "max_length": max_length, "batch_tokens": batch_tokens,
        "device": device, "dtype": dtype,
    }  # fmt: skip
    resolve_paths({"student": settings}, Path())
    student_config = StudentConfig(**settings)
    data_config = DataConfig(path=str(data), format=format, limit=limit)
    from reflectune.agents.student.templates import check_student

    check_student(student_config)
    from reflectune.loop.progress import open_display
    from reflectune.loop.score import score_dataset

    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        raise ConfigError(f"{adapter}: no LoRA adapter there; want a folder with adapter_config.json")
    if out is None:
        with stoppable():
            score_dataset(data_config, student_config, adapter, sys.stdout, open_display())
        return
    with stoppable(), put_into_place(out) as part, part.open("w", encoding="utf-8") as stream:
        summary = score_dataset(data_config, student_config, adapter, stream, open_display())
    line = f"wrote {summary['records']} scores to {out}; {summary['scored']} pairs could be scored"
    show_document(summary | {"out": str(out)}, line, as_json)
