"""Commands that write pairs and scores to files."""

import math
import re
import shlex
import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from reflectune.loop.cli.common import (
    RUNS,
    Json,
    Name,
    RoundOption,
    Runs,
    find_complete,
    read_run,
    refuse_same,
    say,
    show_document,
    stoppable,
)
from reflectune.state.data.exports import (
    PREFERENCE_FORMATS,
    Also,
    ExportFormat,
    TrainerName,
    write_records,
)
from reflectune.state.data.sources import find_kind
from reflectune.state.data.writing import (
    check_table,
    find_container,
    put_into_place,
    read_schema,
    write_rows,
)
from reflectune.state.errors import ConfigError, StudentError
from reflectune.state.folder import RunFolder
from reflectune.state.records import DataFormat, Turns

__all__ = ["export", "read_columns", "score"]

# Keys as messages name them: student.template, or student.template = "plain"; data.odd.tools = "skip".
_SKIP_KEY = re.compile(r'data\.odd\.(\w+) = "skip"')
_STUDENT_KEY = re.compile(r"""(?<![\w./-])student\.([a-z_0-9]+)(?: = ["']?([^\s"':;,]+)["']?)?""")


def export(
    name: Name,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="File to write; with --for a folder.", show_default=False)
    ],
    round: Annotated[
        str | None,
        RoundOption(help="Round to export.", show_default="the last complete one; best with stop.rollback"),
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
    trainer: Annotated[
        TrainerName | None,
        typer.Option("--for", help="Write what this trainer reads, and a config that trains on it."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="With --for: train all weights, not a LoRA adapter.")
    ] = False,
    meta: Annotated[bool, typer.Option("--meta", help="Also the other fields of each given record.")] = False,
    scores: Annotated[
        bool, typer.Option("--scores", help="Also score_chosen, score_rejected and margin of preferences.")
    ] = False,
    ids: Annotated[bool, typer.Option("--ids", help="Also sample_ids, version_ids and round.")] = False,
    holdout: Annotated[
        bool, typer.Option("--holdout", help="Also held-out records, as given; the field split marks them.")
    ] = False,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Write a round's pool, training set or preference pairs to a file."""
    from reflectune.state.config import parse_config
    from reflectune.state.lineage.recycled import (
        read_pool,
        read_pool_pairs,
        read_preferences,
        read_training,
    )

    if holdout and what != "pool":
        raise ConfigError(f"--holdout: held-out records are in no {what}; leave --holdout or --what out")
    if what != "preferences" and (scores or format in PREFERENCE_FORMATS):
        wanted = "--scores" if scores else f"--format {format}"
        raise ConfigError(f"{wanted}: is of preferences alone; add --what preferences")
    options: dict[Also, bool] = {"meta": meta, "ids": ids, "split": holdout, "scores": scores}
    if trainer is not None and (holdout or format is not None):
        raise ConfigError(f"--for {trainer}: has a format of its own, without held-out records")
    if full and trainer is None:
        raise ConfigError("--full: is for a trainer's config; say with --for which one")
    also = [option for option, is_on in options.items() if is_on]
    is_preferences = what == "preferences"
    with read_run(RunFolder.find(runs, name)) as lineage:
        chosen = find_complete(lineage, name, round)
        if what == "pool" and round is None and not lineage.last_round():
            say(f"{name}: round 1 is not complete: this is the data as given")
        sources = {
            "pool": partial(read_pool, lineage, chosen, holdout=holdout)
            if trainer is None
            else partial(read_pool_pairs, lineage, chosen),
            "training": partial(read_training, lineage, chosen),
            "preferences": partial(read_preferences, lineage, chosen),
        }
        document = {"name": name, "round": chosen, "what": what, "out": str(out)}
        if trainer is not None:
            from reflectune.loop.trainers import write_for_trainer

            config = parse_config(lineage.settings()["config"], source=name)
            written, command = write_for_trainer(
                out, trainer, config, sources[what], is_preferences=is_preferences, full=full, also=also
            )
            document |= {"trainer": trainer, "command": command}
            line = f"; train with `cd {shlex.quote(str(out))} && {command}`"
        else:
            written = write_records(out, format, sources[what], is_preferences=is_preferences, also=also)
            default = "parquet" if out.suffix.lower() == ".parquet" else "alpaca"
            document["format"] = format or default
            line = ""
    document["written"] = written
    show_document(document, f"wrote {written} records to {out} ({what} of round {chosen}){line}", as_json)


def score(
    data: Annotated[Path, typer.Argument(help="File of pairs.", show_default=False)],
    student: Annotated[str, typer.Option(help="Folder or hub name of the model.", show_default=False)],
    adapter: Annotated[Path | None, typer.Option(help="LoRA adapter folder on top of it.")] = None,
    template: Annotated[str, typer.Option(help="chat, plain, vicuna, or a template file.")] = "chat",
    format: Annotated[
        DataFormat,
        typer.Option(help="How a record holds its pair."),
    ] = "auto",
    columns: Annotated[
        str, typer.Option(metavar="NAME=FIELD,...", help="Fields of other names, as instruction=query.")
    ] = "",
    turns: Annotated[Turns, typer.Option(help="Which exchange of a conversation is scored.")] = "last",
    skip: Annotated[
        str, typer.Option(metavar="KIND,...", help="Odd records to leave out, as invalid,tools.")
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Score only the first so many pairs.")] = None,
    max_length: Annotated[int, typer.Option(min=8, help="Most tokens of prompt and target.")] = 2048,
    batch_tokens: Annotated[int, typer.Option(min=8, help="Most tokens in one forward pass.")] = 2048,
    device: Annotated[str, typer.Option(help="torch device.")] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Number format.")
    ] = "auto",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="JSON Lines file of the scores.")] = None,
    fields: Annotated[
        str, typer.Option(metavar="FIELD,...", help="Fields of the given record for each line, as id,source.")
    ] = "",
    keep: Annotated[
        Path | None, typer.Option(help="File for the records that pass, as they were given.")
    ] = None,
    top: Annotated[
        str, typer.Option(metavar="N|N%", help="Keep the highest IFDs: so many, or a share of all records.")
    ] = "",
    max_ifd: Annotated[float, typer.Option(help="Keep only records with an IFD below this.")] = math.inf,
    max_r_ifd: Annotated[float, typer.Option(help="The same for r-IFD.")] = math.inf,
    as_json: Json = False,
) -> None:
    """Score any dataset with any student: IFD and r-IFD, one JSON object a line; keep the best of it."""
    from reflectune.state.config import DataConfig, StudentConfig, resolve_paths

    if as_json and out is None and keep is None:
        raise ConfigError("--json prints a summary; say with -o FILE where the scores go")
    if keep is None and (top or min(max_ifd, max_r_ifd) < math.inf):
        raise ConfigError(
            "--top, --max-ifd and --max-r-ifd choose records; say with --keep FILE where these go"
        )
    if math.isnan(max_ifd) or math.isnan(max_r_ifd):
        raise ConfigError("--max-ifd and --max-r-ifd must be numbers")
    refuse_same(out, data, "given data")
    refuse_same(out, keep, "records that pass")
    share = _read_top(top) if top else None
    settings: dict[str, Any] = {
        "model": student, "template": template, "max_length": max_length, "batch_tokens": batch_tokens,
        "device": device, "dtype": dtype,
    }  # fmt: skip
    resolve_paths({"student": settings}, Path(), {})
    student_config = StudentConfig(**settings)
    data_config = DataConfig(
        path=str(data),
        format=format,
        limit=limit,
        turns=turns,
        columns=read_columns(columns),
        odd=_read_skip(skip),
    )
    from reflectune.agents.student.templates import check_student

    with _advising_options(settings):
        check_student(student_config)
    from reflectune.loop.progress import open_display
    from reflectune.loop.score import Bounds, check_fields, given_rows, open_data, score_dataset

    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        raise ConfigError(f"{adapter}: no LoRA adapter there; want a folder with adapter_config.json")
    with stoppable(), _advising_options(settings), ExitStack() as stack:
        # Whatever can be wrong with a target shows before anything is scored.
        scores = stack.enter_context(put_into_place(out)) if out is not None else None
        kept = stack.enter_context(put_into_place(keep)) if keep is not None else None
        dataset = open_data(data_config)
        if unused := ", ".join(f"{name} ({rows} rows)" for name, rows in dataset.account.unused.items()):
            say(f"fields that may change what a pair means, and are not used: {unused}; see --columns")
        names = _split(fields)
        check_fields(dataset, names)
        if keep is not None:
            container = find_container(keep, find_kind(data), ("json", "jsonl", "csv", "parquet"))
            if container == "csv":
                check_table(given_rows(dataset), keep)
        with ExitStack() as writing:
            lines = None if keep is not None else sys.stdout
            if scores is not None:
                lines = writing.enter_context(scores.open("w", encoding="utf-8"))
            display = open_display()
            summary, measured = score_dataset(dataset, student_config, adapter, lines, display, fields=names)
        if kept is not None:
            chosen = measured.choose(Bounds(max_ifd, max_r_ifd, share))
            rows = partial(given_rows, dataset, chosen)
            schema = read_schema(data) if container == "parquet" else None
            summary |= {"kept": write_rows(kept, container, rows, schema=schema), "keep": str(keep)}
    skipped = ", ".join(f"{number} {kind}" for kind, number in summary["skipped"].items())
    told = [f"skipped {skipped}"] if skipped else []
    if out is None and keep is None:
        for line in told:
            say(line)
        return
    if out is not None:
        summary["out"] = str(out)
        told.insert(
            0,
            f"wrote the scores of {summary['records']} records to {out}; "
            f"{summary['scored']} of their {summary['pairs']} pairs could be scored",
        )
    if keep is not None:
        told.append(f"kept {summary['kept']} of {summary['records']} records in {keep}")
    show_document(summary, "; ".join(told), as_json)


@contextmanager
def _advising_options(options: Collection[str]) -> Iterator[None]:
    """Name options of the command where an error of the student's names keys of a config."""

    def name(match: re.Match[str]) -> str:
        key, value = match[1], f" {match[2]}" if match[2] else ""
        return f"--{key.replace('_', '-')}{value}" if key in options else key.replace("_", " ") + value

    try:
        yield
    except StudentError as error:
        raise StudentError(_STUDENT_KEY.sub(name, _SKIP_KEY.sub(r"--skip \1", str(error)))) from error


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _read_top(text: str) -> int | float:
    """A number of records, or as a float a share of them."""
    number = text.strip().removesuffix("%")
    try:
        top = float(number) / 100 if text.strip().endswith("%") else int(number)
    except ValueError:
        top = 0
    if not top > 0 or (isinstance(top, float) and top > 1):
        raise ConfigError(f"--top: got {text}; want a number of records such as 1000, or a share such as 5%")
    return top


def read_columns(text: str) -> dict[Any, str]:
    """The fields that an option names for columns: "instruction=query,response=reply"."""
    from reflectune.state.config import Column

    columns = dict(part.partition("=")[::2] for part in _split(text))
    for name, field in columns.items():
        if name not in get_args(Column) or not field:
            known = ", ".join(get_args(Column))
            raise ConfigError(f"--columns: got {name}={field}; want NAME=FIELD, NAME one of {known}")
    return columns


def _read_skip(text: str) -> dict[Any, Any]:
    from reflectune.state.config import OddKind

    for kind in _split(text):
        if kind not in get_args(OddKind):
            raise ConfigError(f"--skip: got {kind}; want some of {', '.join(get_args(OddKind))}")
    return dict.fromkeys(_split(text), "skip")
