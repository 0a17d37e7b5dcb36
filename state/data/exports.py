"""Pairs and preferences out of Reflectune, in the shapes that trainers read.

A file is written beside its target and renamed into place, record by record, so that a target is
never half made and a dataset never in memory as a whole. The same records give the same bytes.
Reading is in datasets.py.
"""

import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from reflectune.state.data.sources import FIELDS
from reflectune.state.errors import DatasetError
from reflectune.state.records import Pair

__all__ = ["ExportFormat", "Preference", "put_into_place", "user_turn", "write_pairs", "write_preferences"]

ExportFormat = Literal["alpaca", "messages", "sharegpt", "parquet"]
Record = dict[str, Any]

# What holds the speaker and the text of a turn, and what user and assistant are called.
_TURNS = {"messages": ("role", "content", "user", "assistant"), "sharegpt": ("from", "value", "human", "gpt")}
# How the names of a run's own files begin: databases have further files beside them.
_OWN = ("lineage.db", "checkpoints.db", "index.db", "config.toml", ".lock", "adapters")
_DATABASE = b"SQLite format 3\0"
_ROW_GROUP = 10_000  # rows of a Parquet row group: what is in memory at once


@dataclass(frozen=True, slots=True)
class Preference:
    """One prompt with the response that was chosen for it and one that was not."""

    instruction: str
    input: str
    chosen: str
    rejected: str


def user_turn(instruction: str, input: str) -> str:
    """What a user says to ask for the response: the instruction, then a blank line and the input if any."""
    return f"{instruction}\n\n{input}" if input.strip() else instruction


def write_pairs(path: Path, format: ExportFormat, pairs: Iterable[Pair]) -> int:
    """Write pairs for supervised fine-tuning and count them.

    alpaca: instruction, input, output; one JSON array, or JSON Lines where the path ends in .jsonl.
    messages (OpenAI) and sharegpt: JSON Lines, or one array where the path ends in .json; the input is
    part of the user's turn. parquet: string columns instruction, input, output. A target that cannot be
    written, or whose name ends as files of another format do, is a DatasetError.
    """
    records = (_pair_record(pair, format) for pair in pairs)
    return _write(path, format, records, columns=("instruction", "input", "output"))


def write_preferences(path: Path, format: ExportFormat, preferences: Iterable[Preference]) -> int:
    """Write preferences as DPO trainers read them and count them.

    alpaca: plain strings prompt, chosen, rejected. messages: the same three as lists of messages (TRL's
    conversational form). sharegpt: conversations with the user's turn, and one turn each in chosen and
    rejected. parquet: string columns prompt, chosen, rejected. The rest is as in `write_pairs`.
    """
    records = (_preference_record(preference, format) for preference in preferences)
    return _write(path, format, records, columns=("prompt", "chosen", "rejected"))


def _pair_record(pair: Pair, format: ExportFormat) -> Record:
    if format in _TURNS:
        return {FIELDS[format]: _turns(format, user_turn(pair.instruction, pair.input), pair.response)}
    return {"instruction": pair.instruction, "input": pair.input, "output": pair.response}


def _preference_record(preference: Preference, format: ExportFormat) -> Record:
    asked = user_turn(preference.instruction, preference.input)
    answers = {"chosen": preference.chosen, "rejected": preference.rejected}
    if format not in _TURNS:
        return {"prompt": asked, **answers}
    turns = {key: _turns(format, asked, answer)[1:] for key, answer in answers.items()}
    if format == "messages":
        return {"prompt": _turns(format, asked), **turns}
    return {"conversations": _turns(format, asked), **{key: turn for key, (turn,) in turns.items()}}


def _turns(format: ExportFormat, *texts: str) -> list[Record]:
    """What the user says and, after it, the assistant."""
    speaker, said, *names = _TURNS[format]
    return [{speaker: name, said: text} for name, text in zip(names, texts, strict=False)]


def _write(path: Path, format: ExportFormat, records: Iterator[Record], columns: tuple[str, ...]) -> int:
    suffix = path.suffix.lower()
    suffixes = (".parquet",) if format == "parquet" else (".json", ".jsonl")
    with put_into_place(path) as part:
        if suffix not in ("", *suffixes):
            raise DatasetError(
                f"{path}: format {format} goes into {' or '.join(suffixes)}; formats alpaca, messages and "
                "sharegpt into .json or .jsonl, parquet into .parquet"
            )
        if format == "parquet":
            return _write_parquet(part, records, columns)
        as_array = suffix != ".jsonl" if format == "alpaca" else suffix == ".json"
        return _write_json(part, records, as_array=as_array)


@contextmanager
def put_into_place(path: Path) -> Iterator[Path]:
    """A file beside the target that becomes the target when the block ends well, and goes otherwise."""
    target = path.resolve()  # behind a link: the link stays
    part = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        if not target.parent.is_dir():
            raise DatasetError(f"{path}: there is no folder {target.parent}; make it first")
        if target.exists() and not target.is_file():  # renaming would replace a device such as /dev/stdout
            raise DatasetError(f"{path}: is not a regular file; name a file to write")
        if _is_own(target):
            raise DatasetError(f"{path}: is a database, or a run's own file; name another file")
        yield part
        os.replace(part, target)
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be written: {error.strerror or error}; name another file"
        ) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _is_own(target: Path) -> bool:
    """Whether a file is what runs are kept in: a database, or something of a run's own in its folder."""
    if target.is_file():
        with target.open("rb") as file:
            if file.read(len(_DATABASE)) == _DATABASE:
                return True
    for parent in target.parents:
        if (parent / "lineage.db").exists():
            return target.relative_to(parent).parts[0].startswith(_OWN)
    return False


def _write_json(path: Path, records: Iterable[Record], *, as_array: bool) -> int:
    written = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[" if as_array else "")
        for written, record in enumerate(records, start=1):
            text = json.dumps(record, ensure_ascii=False, indent=1 if as_array else None)
            if as_array:  # line breaks inside texts are escaped: each here is JSON's own and takes the indent
                text = ("\n" + text).replace("\n", "\n ")
                file.write("," * (written > 1) + text)
            else:
                file.write(text + "\n")
        if as_array:
            file.write("\n]\n" if written else "]\n")
    return written


def _write_parquet(path: Path, records: Iterator[Record], columns: tuple[str, ...]) -> int:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(column, pyarrow.string()) for column in columns])
    written = 0
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while rows := list(islice(records, _ROW_GROUP)):
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
            written += len(rows)
    return written
