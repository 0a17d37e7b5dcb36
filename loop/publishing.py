"""A run's data, adapter or model as a repository of the Hugging Face hub, with a card of what was done."""

import json
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypedDict

import jinja2
import yaml

from reflectune.loop.context import find_adapter
from reflectune.loop.merging import merge_round
from reflectune.state.config import RunConfig, parse_config
from reflectune.state.data.exports import write_records
from reflectune.state.data.writing import put_into_place, refuse_taken, write_rows
from reflectune.state.errors import ConfigError, StoreError
from reflectune.state.folder import RunFolder
from reflectune.state.functions import describe_error
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.lineage.recycled import read_pool
from reflectune.state.lineage.tables import TableName, read_rows
from reflectune.state.storage import explain_storage_errors

__all__ = ["Publication", "upload", "write_publication"]

What = Literal["data", "adapter", "model"]

# Configs of the dataset beside the pairs, by the table that each is.
_TABLES: dict[str, TableName] = {"versions": "evolution", "decisions": "decisions"}
_TAGS = ["reflectune", "reflection-tuning"]


class Publication(TypedDict):
    """A folder as it goes to the hub."""

    name: str  # of the run
    round: int
    what: What
    repo: str
    folder: str
    files: list[str]


def write_publication(
    folder: RunFolder, lineage: LoopReader, round: int, what: What, repo: str, out: Path
) -> Publication:
    """Write into a new or empty folder what a repository is to hold, its card with it.

    data: `data/train.parquet`, the pool of the round with ids and the given fields; in configs of their own
    all versions and decisions up to it, but of held-out pairs. adapter: PEFT's files. model: the merged one.

    Raises:
        ConfigError: the round has no such thing, or there is something at `out`.
    """
    refuse_taken(out)
    config = parse_config(lineage.settings()["config"], source=folder.path.name)
    student = lineage.round_student(round)
    if what != "data" and student is not None:
        round = student.round  # an earlier one where nothing was trained since
    with explain_storage_errors(out, "publish again"):
        records = 0
        match what:
            case "data":
                records = _write_data(lineage, round, out)
            case "adapter":
                adapter = None if student is None else find_adapter(folder, student)
                if adapter is None:
                    raise ConfigError(
                        f"{folder.path.name}: round {round} has no adapter; name one that was trained"
                    )
                out.mkdir(parents=True, exist_ok=True)
                shutil.copy2(adapter / "adapter_model.safetensors", out)
                settings = json.loads((adapter / "adapter_config.json").read_text())
                settings["base_model_name_or_path"] = _public_name(config.student.model)
                (out / "adapter_config.json").write_text(json.dumps(settings, indent=2))
            case "model":
                merge_round(folder, lineage, round, out)
        (out / "README.md").write_text(_card(lineage, config, round, what, repo, records), encoding="utf-8")
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    return {
        "name": folder.path.name,
        "round": round,
        "what": what,
        "repo": repo,
        "folder": str(out),
        "files": files,
    }


def upload(publication: Publication, *, private: bool) -> str:
    """Make the repository where there is none, put the folder into it as one commit, and give its address.

    Token and address of the hub are those of huggingface_hub: `hf auth login`, HF_TOKEN, HF_ENDPOINT.

    Raises:
        StoreError: the hub cannot be reached, or refuses.
    """
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    kind = "dataset" if publication["what"] == "data" else "model"
    message = f"{publication['what']} of round {publication['round']}, by Reflectune"
    try:
        api = HfApi()
        made = api.create_repo(publication["repo"], repo_type=kind, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id, folder_path=publication["folder"], repo_type=kind, commit_message=message
        )
    except (HfHubHTTPError, httpx2.HTTPError, LocalTokenNotFoundError, OSError) as error:
        raise StoreError(
            f"{publication['repo']}: the hub did not take it: {describe_error(error)}; log in with "
            "`hf auth login`; -o DIR keeps what was to be sent"
        ) from error
    return str(made)


def _write_data(lineage: LoopReader, round: int, out: Path) -> int:
    is_chat = lineage.given()["conversations"] > 0
    (out / "data").mkdir(parents=True, exist_ok=True)
    written = write_records(
        out / "data" / "train.parquet",
        "messages" if is_chat else "alpaca",
        partial(read_pool, lineage, round),
        also=["meta", "ids"],
    )
    for name, table in _find_tables(lineage, round).items():
        (out / name).mkdir()
        with put_into_place(out / name / "train.parquet") as part:
            write_rows(part, "parquet", partial(_rows_until, lineage, table, round))
    return written


def _find_tables(lineage: LoopReader, round: int) -> dict[str, TableName]:
    """The tables that have rows by then: a file without columns is none that `datasets` opens."""
    return {name: table for name, table in _TABLES.items() if any(_rows_until(lineage, table, round))}


def _rows_until(lineage: LoopReader, table: TableName, round: int) -> Iterator[dict[str, Any]]:
    return (row for row in read_rows(lineage, table, held_out=False) if row["round"] <= round)


def _card(lineage: LoopReader, config: RunConfig, round: int, what: What, repo: str, records: int) -> str:
    head: dict[str, Any] = {"tags": _TAGS}
    if config.publish.license is not None:
        head["license"] = config.publish.license
    if config.publish.language:
        head["language"] = config.publish.language
    if what == "data":
        pairs = {"config_name": "default", "data_files": "data/train.parquet", "default": True}
        others = [
            {"config_name": name, "data_files": f"{name}/train.parquet"}
            for name in _find_tables(lineage, round)
        ]
        head |= {"task_categories": ["text-generation"], "configs": [pairs, *others]}
        if config.publish.sources:
            head["source_datasets"] = config.publish.sources
    else:
        head |= {
            "library_name": "peft" if what == "adapter" else "transformers",
            "pipeline_tag": "text-generation",
        }
        if _public_name(config.student.model) == config.student.model:  # it is on the hub
            head["base_model"] = config.student.model
    rounds = [row for row in lineage.rounds() if row["round"] <= round]
    measures = {name: None for row in rounds for name in row["evaluations"]}
    text = (
        _environment()
        .get_template(f"{what}.md")
        .render(
            repo=repo,
            round=round,
            rounds=rounds,
            row=rounds[-1],
            records=records,
            measures=list(measures),
            held_out={row["name"]: row["n"] for row in lineage.evaluations() if row["round"] <= round},
            teacher=_public_name(config.teacher.model or config.teacher.path or config.teacher.engine),
            student=_public_name(config.student.model),
            policy=config.selection.policy,
            template=_public_name(config.student.template),
            lora=config.refinetune,
            sources=config.publish.sources,
        )
    )
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n{text}"


def _public_name(name: str) -> str:
    """A name of the hub; of a folder or a file here its last part: no path of this machine gets out."""
    return Path(name).name if Path(name).is_absolute() or os.path.exists(name) else name


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "cards"),
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,
    )
    environment.filters["number"] = lambda value: "" if value is None else f"{value:.3g}"
    return environment
