"""Pairs and preferences out of Reflectune, in the shapes that trainers read.

A file is written beside its target and renamed into place, record by record, so that a target is
never half made and a dataset never in memory as a whole. The same records give the same bytes.
Reading is in datasets.py.
"""

import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from reflectune.state.errors import DatasetError
from reflectune.state.records import Pair

__all__ = ["ExportFormat", "Preference", "put_into_place", "user_turn", "write_pairs", "write_preferences"]

ExportFormat = Literal["alpaca", "messages", "sharegpt", "parquet"]

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
    part of the user's turn. parquet: string columns instruction, input, output.

    Raises:
        DatasetError: the target's folder is missing or the target cannot be written.
    """
    return _write(path, format, map(_PAIRS[format], pairs), columns=("instruction", "input", "output"))


def write_preferences(path: Path, format: ExportFormat, preferences: Iterable[Preference]) -> int:
    """Write preferences as DPO trainers read them and count them.

    alpaca: plain strings prompt, chosen, rejected. messages: the same three as lists of messages (TRL's
    conversational form). sharegpt: conversations with the user's turn, and one turn each in chosen and
    rejected. parquet: string columns prompt, chosen, rejected. Array or lines as in `write_pairs`.

    Raises:
        DatasetError: the target's folder is missing or the target cannot be written.
    """
    records = map(_PREFERENCES[format], preferences)
    return _write(path, format, records, columns=("prompt", "chosen", "rejected"))


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _turn(speaker: str, value: str) -> dict[str, str]:
    return {"from": speaker, "value": value}


def _pair_fields(pair: Pair) -> dict[str, Any]:
    return {"instruction": pair.instruction, "input": pair.input, "output": pair.response}


def _pair_messages(pair: Pair) -> dict[str, Any]:
    asked = user_turn(pair.instruction, pair.input)
    return {"messages": [_message("user", asked), _message("assistant", pair.response)]}


def _pair_conversation(pair: Pair) -> dict[str, Any]:
    asked = user_turn(pair.instruction, pair.input)
    return {"conversations": [_turn("human", asked), _turn("gpt", pair.response)]}


def _preference_fields(preference: Preference) -> dict[str, Any]:
    asked = user_turn(preference.instruction, preference.input)
    return {"prompt": asked, "chosen": preference.chosen, "rejected": preference.rejected}


def _preference_messages(preference: Preference) -> dict[str, Any]:
    asked = user_turn(preference.instruction, preference.input)
    return {
        "prompt": [_message("user", asked)],
        "chosen": [_message("assistant", preference.chosen)],
        "rejected": [_message("assistant", preference.rejected)],
    }


def _preference_conversation(preference: Preference) -> dict[str, Any]:
    asked = user_turn(preference.instruction, preference.input)
    return {
        "conversations": [_turn("human", asked)],
        "chosen": _turn("gpt", preference.chosen),
        "rejected": _turn("gpt", preference.rejected),
    }


_PAIRS: dict[ExportFormat, Callable[[Pair], dict[str, Any]]] = {
    "alpaca": _pair_fields,
    "messages": _pair_messages,
    "sharegpt": _pair_conversation,
    "parquet": _pair_fields,
}
_PREFERENCES: dict[ExportFormat, Callable[[Preference], dict[str, Any]]] = {
    "alpaca": _preference_fields,
    "messages": _preference_messages,
    "sharegpt": _preference_conversation,
    "parquet": _preference_fields,
}


def _write(
    path: Path, format: ExportFormat, records: Iterator[dict[str, Any]], columns: tuple[str, ...]
) -> int:
    suffix = path.suffix.lower()
    as_array = suffix != ".jsonl" if format == "alpaca" else suffix == ".json"
    with put_into_place(path) as part:
        if format == "parquet":
            return _write_parquet(part, records, columns)
        return _write_array(part, records) if as_array else _write_lines(part, records)


@contextmanager
def put_into_place(path: Path) -> Iterator[Path]:
    """A file beside the target that becomes the target when the block ends well, and goes otherwise."""
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        target = path.resolve()  # behind a link: the link stays
        part = target.with_name(part.name)
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
    if target.is_file() and target.stat().st_size >= len(_DATABASE):
        with target.open("rb") as file:
            if file.read(len(_DATABASE)) == _DATABASE:
                return True
    for parent in target.parents:
        if (parent / "lineage.db").exists():
            return target.relative_to(parent).parts[0].startswith(_OWN)
    return False


def _write_lines(path: Path, records: Iterable[dict[str, Any]]) -> int:
    written = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            written += 1
    return written


def _write_array(path: Path, records: Iterable[dict[str, Any]]) -> int:
    written = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[")
        for record in records:
            # Line breaks inside texts are escaped, so each one here is JSON's own and takes the indent.
            text = json.dumps(record, ensure_ascii=False, indent=1).replace("\n", "\n ")
            file.write(("," if written else "") + "\n " + text)
            written += 1
        file.write("\n]\n" if written else "]\n")
    return written


def _write_parquet(path: Path, records: Iterator[dict[str, Any]], columns: tuple[str, ...]) -> int:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(column, pyarrow.string()) for column in columns])
    written = 0
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while rows := list(islice(records, _ROW_GROUP)):
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
            written += len(rows)
    return written
