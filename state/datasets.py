"""Given data into samples: files and hub datasets read as pairs, and the held-out split.

A file is told apart by its content, never by its name. Texts stay exactly as given, but for lone
surrogates and NULs, which SQLite cannot hold: they become U+FFFD. A record that is more than one
pair (several exchanges, a system message) is refused, never cut down to one. Rows are read here and
nothing is written; how pairs go out is in exports.py.
"""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from state.config import DataConfig
from state.errors import DatasetError
from state.records import Pair, Sample, content_hash

__all__ = ["Record", "assign_samples", "dataset_hash", "read_dataset"]

# The field that holds the pair, by format. Where a record has several, the first of these counts: a
# conversation may hold more than the fields beside it.
_FIELDS = {"messages": "messages", "sharegpt": "conversations", "alpaca": "instruction"}
_ROLES = {"human": "user", "gpt": "assistant", "developer": "system"}
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")
_SHOWN = 3  # refused records that a message spells out

_Row = tuple[str, object]  # where it stands ("line 4", or "index 3" counted from 0), and what stands there
_Problem = Literal["shape", "turns", "system", "invalid"]

# What a message says of each kind of problem, and what it advises.
_EXPLAINED: dict[_Problem, tuple[str, str]] = {
    "shape": ("of another format than the configured one", 'set data.format to "auto", or to the right one'),
    "turns": ("not a single exchange", "Reflectune recycles single-turn pairs: split or remove these"),
    "system": (
        "with a system message, which a pair cannot hold",
        "remove it, write it into the user's turn, or put it into the prompt of a template file",
    ),
    "invalid": (
        "without a usable instruction or response",
        "repair these, or leave them out with data.skip_invalid = true",
    ),
}


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the given data: its pair, and its other fields as JSON-serialisable values."""

    pair: Pair
    meta: dict[str, Any]


class _Refusal(Exception):
    """One record cannot be read as a pair; read_dataset collects these into one DatasetError."""

    def __init__(self, problem: _Problem, detail: str) -> None:
        super().__init__(detail)
        self.problem = problem


def read_dataset(data: DataConfig, *, allow_empty: bool = False) -> list[Record]:
    """Read the configured file or hub dataset, in its order.

    Reads alpaca records (instruction, optional input, output or else response), OpenAI messages and
    ShareGPT conversations. Of a conversation the user's turn is the instruction and the input is
    empty. A system message changes what is asked and has no place in a pair, so records with one (a
    turn, or a `system` field) are refused like those of several exchanges; a blank one is ignored.
    In `meta`, what JSON cannot hold becomes text, and NaN and infinities become null. Reading stops
    at `data.limit` pairs: what comes after is not looked at.

    Args:
        data: where the data is and how to read it; `holdout` is not looked at.
        allow_empty: take a text that is there but blank as it is. A missing one is refused all the same.

    Raises:
        DatasetError: nothing there, not readable, or records that are not pairs. With
            `data.skip_invalid`, records without a usable instruction or response are left out
            instead; several exchanges, system messages and other formats are always refused.
    """
    source = data.path or f"data.hf = {data.hf}, split {data.split}"
    records: list[Record] = []
    refused: list[tuple[str, _Refusal]] = []
    for where, row in _hub_rows(data) if data.hf else _file_rows(data):
        try:
            records.append(_read_record(row, data.format, allow_empty))
        except _Refusal as refusal:
            refused.append((where, refusal))
        if len(records) == data.limit:
            break
    _refuse(source, refused, seen=len(records) + len(refused), skip_invalid=data.skip_invalid)
    if not records:
        why = f" that can be used ({refused[0][0]}: {refused[0][1]})" if refused else ""
        raise DatasetError(f"{source}: no records{why}; give [data] some pairs")
    return records


def assign_samples(records: Sequence[Record], holdout: int | float, seed: int) -> list[Sample]:
    """Give records their ids and their side of the held-out split.

    An id is made of the pair's texts and of how often they came before, so it outlives a reordering
    of the data. Whole instructions are held out, with all their records: those that are equal but
    for case and white space count as one. They are drawn in an order that depends on the seed and on
    their text alone, until the wanted number of records is reached or first exceeded.

    Args:
        records: the given data, in order.
        holdout: records to hold out: a count (int), or a share of all (float; above 0 it is at least one).
        seed: the run's.

    Raises:
        DatasetError: nothing would be left to train on.
    """
    groups: dict[str, list[int]] = {}
    for position, record in enumerate(records):
        groups.setdefault(_instruction_group(record.pair), []).append(position)
    wanted = holdout
    if isinstance(holdout, float) and holdout > 0:
        wanted = max(1, round(holdout * len(records)))
    held: set[int] = set()
    order = sorted(groups, key=lambda text: content_hash(seed, text))
    for group in order:
        if len(held) + len(groups[group]) <= wanted:
            held.update(groups[group])
    if wanted and not held:
        held.update(groups[min(order, key=lambda text: len(groups[text]))])
    if held and len(held) == len(records):
        raise DatasetError(
            f"data.holdout = {holdout} holds out all {len(records)} pairs (different instructions: "
            f"{len(groups)}) and leaves none to train on; lower it, or set it to 0"
        )
    occurrences: Counter[str] = Counter()
    samples = []
    for position, record in enumerate(records):
        pair_hash = record.pair.content_hash
        sample_id = content_hash(pair_hash, occurrences[pair_hash])[:16]
        occurrences[pair_hash] += 1
        split: Literal["train", "holdout"] = "holdout" if position in held else "train"
        samples.append(Sample(sample_id, position, split, record.pair, record.meta))
    return samples


def dataset_hash(samples: Sequence[Sample]) -> str:
    """Hash of the pairs in their order; neither the split nor the other fields change it."""
    return content_hash(*(sample.id for sample in sorted(samples, key=lambda sample: sample.position)))


def _instruction_group(pair: Pair) -> str:
    return " ".join(f"{pair.instruction} {pair.input}".casefold().split())


def _refuse(source: str, refused: list[tuple[str, _Refusal]], *, seen: int, skip_invalid: bool) -> None:
    """Raise one error for all records that may not be left out, if there are any."""
    complaints = []
    for problem, (what, advice) in _EXPLAINED.items():
        found = [f"{where}: {refusal}" for where, refusal in refused if refusal.problem == problem]
        if not found or (problem == "invalid" and skip_invalid):
            continue
        examples = "; ".join(found[:_SHOWN]) + ("; ..." if len(found) > _SHOWN else "")
        complaints.append(f"{len(found)} of {seen} records {what} ({examples}); {advice}")
    if complaints:
        raise DatasetError(f"{source}: " + ". Also ".join(complaints))


# One row into a record


def _read_record(row: object, format: str, allow_empty: bool) -> Record:
    if not isinstance(row, dict):
        raise _Refusal("invalid", f"{type(row).__name__} instead of an object")
    shapes = tuple(_FIELDS) if format == "auto" else (format,)
    shape = _shape(row, shapes)
    if shape is None and (other := _shape(row, _FIELDS)):
        raise _Refusal("shape", f"looks like {other}")
    if shape is None:
        wanted = " or ".join(_FIELDS[shape] for shape in shapes)
        raise _Refusal("invalid", f"no {wanted}; its fields: {_names(row)}")
    if isinstance(row.get("system"), str) and row["system"].strip():
        raise _Refusal("system", "has a system field")
    pair, used = _read_alpaca(row) if shape == "alpaca" else _read_turns(row, _FIELDS[shape])
    for name, text in (("instruction", pair.instruction), ("response", pair.response)):
        if not allow_empty and not text.strip():
            raise _Refusal("invalid", f"blank {name}")
    return Record(pair, {_clean(str(key)): _jsonable(value) for key, value in row.items() if key not in used})


def _shape(row: dict[str, Any], shapes: Iterable[str]) -> str | None:
    """The first of these formats whose field the row has."""
    return next((shape for shape in shapes if row.get(_FIELDS[shape]) is not None), None)


def _read_alpaca(row: dict[str, Any]) -> tuple[Pair, set[str]]:
    """The pair of an alpaca record, and the names of the fields that hold it."""
    if row.get("history"):
        raise _Refusal("turns", "has a history")
    given = "" if row.get("input") is None else _text(row, "input")
    answer = _either(row, "output", "response")
    return Pair(_text(row, "instruction"), given, _text(row, answer)), {"instruction", "input", answer}


def _read_turns(row: dict[str, Any], field: str) -> tuple[Pair, set[str]]:
    """The pair of a conversation of one exchange, and the name of the field that holds it."""
    turns = row[field]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise _Refusal("invalid", f"{field} is not a list of turns")
    exchange = [turn for turn in turns if _role(turn) != "system"]
    if len(exchange) > 2:
        raise _Refusal("turns", f"{len(exchange)} turns")
    if any(str(turn.get(_said(turn)) or "").strip() for turn in turns if _role(turn) == "system"):
        raise _Refusal("system", "has a system turn")
    roles = [_role(turn) for turn in exchange]
    if roles != ["user", "assistant"]:
        raise _Refusal("invalid", f"its turns: {_names(roles)}; want user, assistant")
    instruction, response = (_text(turn, _said(turn)) for turn in exchange)
    return Pair(instruction, "", response), {field}


def _role(turn: dict[str, Any]) -> str:
    role = str(turn.get(_either(turn, "role", "from")))
    return _ROLES.get(role, role)


def _said(turn: dict[str, Any]) -> str:
    return _either(turn, "content", "value")


def _either(values: dict[str, Any], field: str, synonym: str) -> str:
    """The name under which a value is there; the first where neither or both are."""
    return synonym if values.get(field) is None and values.get(synonym) is not None else field


def _text(values: dict[str, Any], field: str) -> str:
    value = values.get(field)
    if value is None:
        raise _Refusal("invalid", f"no {field}")
    if not isinstance(value, str):
        raise _Refusal("invalid", f"{field} is of type {type(value).__name__}, not text")
    return _clean(value)


def _clean(text: str) -> str:
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def _jsonable(value: object) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case None | bool() | int():
            return value
        case dict():
            return {_clean(str(key)): _jsonable(item) for key, item in value.items()}
        case list() | tuple():
            return [_jsonable(item) for item in value]
        case _:
            return _clean(str(value))


def _names(fields: Iterable[object]) -> str:
    return _one_line(", ".join(map(str, fields))) or "none"


def _one_line(text: object) -> str:
    line = " ".join(_clean(str(text)).split())
    return line if len(line) <= 300 else line[:297] + "..."


# A source into rows


def _file_rows(data: DataConfig) -> Iterator[_Row]:
    """Rows of a file of any format; the content says which."""
    path = Path(data.path or "")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read: {error.strerror}; data.path wants a file, data.hf takes a folder"
        ) from error
    if content.startswith(b"PAR1"):
        return _parquet_rows(content, path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"{path}: line {line}: not UTF-8 text (byte 0x{content[error.start]:02x}); "
            "save it as UTF-8 JSON, JSON Lines or CSV, or as Parquet"
        ) from error
    match text.lstrip()[:1]:
        case "":
            raise DatasetError(f"{path}: is empty; want JSON, JSON Lines, CSV or Parquet")
        case "[":
            return ((f"index {index}", row) for index, row in enumerate(_parse_json(text, path)))
        case "{":
            return _json_lines(text, path)
        case _:
            return _csv_rows(text, path)


def _parse_json(text: str, path: Path, line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{path}: line {line + error.lineno - 1}: not valid JSON: {error.msg}; "
            "want one array of records, or one record a line"
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise DatasetError(f"{path}: line {line}: JSON that cannot be read: {error}; repair it") from error


def _json_lines(text: str, path: Path) -> Iterator[_Row]:
    """Rows of JSON Lines, or of a file that is one object spread over lines."""
    try:
        only = json.loads(text)  # fails at the second line of JSON Lines
    except (ValueError, RecursionError):
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield f"line {number}", _parse_json(line, path, number)
        return
    if _shape(only, _FIELDS) is None:
        raise DatasetError(
            f"{path}: one JSON object that is no record (its fields: {_names(only)}); "
            "want one array of records, or one record a line"
        )
    yield "line 1", only


def _csv_rows(text: str, path: Path) -> Iterator[_Row]:
    csv.field_size_limit(2**31 - 1)  # the default refuses texts over 128 KiB; more than this fits no C long
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        _check_columns(reader.fieldnames or (), str(path))
        for row in reader:
            if None in row:
                raise DatasetError(
                    f"{path}: line {reader.line_num}: more fields than the header; quote texts with commas"
                )
            yield f"line {reader.line_num}", row
    except csv.Error as error:
        begins = reader.line_num + 1  # of the row that could not be read
        raise DatasetError(f"{path}: line {begins}: not valid CSV: {error}; repair its quotes") from error


def _parquet_rows(content: bytes, path: Path) -> Iterator[_Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content))
        _check_columns(file.schema_arrow.names, str(path))
        rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
        for index, row in enumerate(rows):
            yield f"index {index}", row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DatasetError(f"{path}: not readable as Parquet: {_one_line(error)}; write it anew") from error


def _hub_rows(data: DataConfig) -> Iterator[_Row]:
    import datasets

    source = f"data.hf = {data.hf}, split {data.split}"
    try:
        loaded = datasets.load_dataset(data.hf, split=data.split)
    except Exception as error:
        why = f"{error}: {error.__cause__}" if error.__cause__ else error
        raise DatasetError(f"{source}: cannot be loaded: {_one_line(why)}") from error
    _check_columns(loaded.column_names, source)
    for index, row in enumerate(loaded):
        yield f"index {index}", row


def _check_columns(columns: Iterable[str], source: str) -> None:
    """Refuse a table whose header already shows that no row can be a pair."""
    names = set(columns)
    if not names & {"messages", "conversations"} and not (
        "instruction" in names and names & {"output", "response"}
    ):
        raise DatasetError(
            f"{source}: its columns are {_names(columns)}; "
            "want instruction and output (or response), or messages, or conversations"
        )
