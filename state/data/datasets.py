"""Given data into samples: files and hub datasets read as pairs, and the held-out split.

Texts stay exactly as given, but for lone surrogates and NULs, which SQLite cannot hold: they become
U+FFFD. A record that is more than one pair (several exchanges, a system message) is refused, never cut
down to one. Rows come from sources.py, one after another; how pairs go out is in exports.py.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from reflectune.state.config import DataConfig
from reflectune.state.data.sources import FIELDS, Source, clean, list_names, open_source
from reflectune.state.errors import DatasetError
from reflectune.state.records import (
    Conversation,
    Pair,
    Sample,
    SkippedRows,
    Split,
    content_hash,
    content_part,
    hash_stream,
)

__all__ = ["Dataset", "Record", "assign_samples", "dataset_hash", "read_dataset", "sample_id"]

_ROLES = {"human": "user", "gpt": "assistant", "developer": "system"}
_SHOWN = 3  # refused records that a message spells out

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
    conversation: Conversation | None = None  # None for a pair that stands alone
    turn: int = 0  # index in the conversation of the user's turn


class Dataset:
    """The records of a file or hub dataset, in its order; every iteration reads them anew.

    Its size in memory does not depend on their number. `read_dataset`, which makes it, has checked them all.
    """

    def __init__(
        self, records: Callable[[], Iterator[Record]], number: int, skipped: Sequence[SkippedRows] = ()
    ) -> None:
        self._records, self._number, self.skipped = records, number, skipped

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[Record]:
        found = 0
        for record in self._records():
            found += 1
            yield record
        if found != self._number:
            counts = f"{self._number} pairs when they were checked, {found} now"
            raise DatasetError(f"{counts}; start again, and leave the data alone while it is read")


class _Refusal(Exception):
    """One record cannot be read as a pair; read_dataset makes one DatasetError of all of these."""

    def __init__(self, problem: _Problem, detail: str) -> None:
        super().__init__(detail)
        self.problem = problem


def read_dataset(data: DataConfig, *, allow_empty: bool = False) -> Dataset:
    """Open the configured file or hub dataset and check all its records, before any is given out.

    Reads alpaca records (instruction, optional input, output or else response), OpenAI messages and
    ShareGPT conversations, whose first turn is the instruction. Several exchanges, and a system message (a
    turn, or a `system` field) that is not blank, have no place in a pair and are refused. In `meta`, what
    JSON cannot hold becomes text, and NaN and infinities become null. Reading stops at `data.limit` pairs.
    With `allow_empty` a text that is there but blank is taken as it is.

    Raises:
        DatasetError: nothing there, not readable, or records that are not pairs. With
            `data.skip_invalid`, records without a usable instruction or response are left out
            instead; several exchanges, system messages and other formats are always refused.
    """
    source = data.path or f"data.hf = {data.hf}, split {data.split}"
    outcomes = partial(_outcomes, open_source(data), data, allow_empty)
    counts: Counter[_Problem] = Counter()
    examples: defaultdict[_Problem, list[str]] = defaultdict(list)
    number = 0
    for where, outcome in outcomes():
        if isinstance(outcome, Record):
            number += 1
            continue
        counts[outcome.problem] += 1
        if counts[outcome.problem] <= _SHOWN + 1:
            is_shown = counts[outcome.problem] <= _SHOWN
            examples[outcome.problem].append(f"{where}: {outcome}" if is_shown else "...")
    complaints = [
        f"{counts[problem]} of {number + counts.total()} records {what} "
        f"({'; '.join(examples[problem])}); {advice}"
        for problem, (what, advice) in _EXPLAINED.items()
        if problem in counts and not (problem == "invalid" and data.skip_invalid)
    ]
    if complaints:
        raise DatasetError(f"{source}: " + ". Also ".join(complaints))
    if not number:
        why = f" that can be used ({examples['invalid'][0]})" if counts else ""
        raise DatasetError(f"{source}: no records{why}; give [data] some pairs")
    return Dataset(lambda: (each for _, each in outcomes() if isinstance(each, Record)), number)


def assign_samples(records: Dataset | Sequence[Record], holdout: int | float, seed: int) -> Iterator[Sample]:
    """Give records their ids and their side of the held-out split, one after another.

    An id is a position, and a hash of the pair's texts and of how often they came before, which outlives a
    reordering of the data. Whole instructions are held out, with all their records: those that are equal but
    for case and white space count as one. They are drawn in an order that depends on the seed and on
    their text alone, until the wanted number of records is reached or first exceeded.

    `holdout` is a count (int), or a share of all (float; above 0 it is at least one record). A DatasetError
    where nothing would be left to train on. The records are read twice; of each, a hash of 16 bytes is held.
    """
    is_share = isinstance(holdout, float) and holdout > 0
    wanted = max(1, round(holdout * len(records))) if is_share else int(holdout)
    groups = Counter(_instruction_group(record.pair, seed) for record in records) if wanted else Counter()
    held: set[bytes] = set()
    room = wanted
    for group in sorted(groups):
        if groups[group] <= room:
            held.add(group)
            room -= groups[group]
    if wanted and not held:
        held.add(min(sorted(groups), key=lambda group: groups[group]))
    if held and len(held) == len(groups):
        raise DatasetError(
            f"data.holdout = {holdout} holds out all {len(records)} pairs (different instructions: "
            f"{len(groups)}) and leaves none to train on; lower it, or set it to 0"
        )
    return _make_samples(records, held, seed)


def _make_samples(records: Iterable[Record], held: Container[bytes], seed: int) -> Iterator[Sample]:
    occurrences: Counter[bytes] = Counter()
    for position, record in enumerate(records):
        pair_hash = record.pair.content_hash
        known = bytes.fromhex(pair_hash)
        is_held_out = bool(held) and _instruction_group(record.pair, seed) in held
        id = sample_id(position, pair_hash, occurrences[known])
        split: Split = "holdout" if is_held_out else "train"
        given = record.pair, record.meta, record.conversation, record.turn
        yield Sample(id, position, split, *given)
        occurrences[known] += 1


def sample_id(position: int, pair_hash: str, before: int) -> str:
    """The id of a sample whose pair came so many times before it; ids sort as samples do."""
    return f"{position:08d}-{content_hash(pair_hash, before)[:16]}"


def dataset_hash(sample_ids: Iterable[str]) -> str:
    """Hash of the pairs in their order, by their samples' ids; neither split nor other fields change it."""
    return hash_stream(map(content_part, sample_ids))


def _instruction_group(pair: Pair, seed: int) -> bytes:
    """What is the same for pairs with one instruction: a hash that puts the instructions in random order."""
    text = " ".join(f"{pair.instruction} {pair.input}".casefold().split())
    return bytes.fromhex(content_hash(seed, text))


def _outcomes(rows: Source, data: DataConfig, allow_empty: bool) -> Iterator[tuple[str, Record | _Refusal]]:
    """What became of every row, with where it stands, until the limit is reached."""
    records = 0
    for where, row in rows():
        try:
            record = _read_record(row, data.format, allow_empty)
        except _Refusal as refusal:
            yield where, refusal
            continue
        yield where, record
        records += 1
        if records == data.limit:
            return


# One row into a record


def _read_record(row: object, format: str, allow_empty: bool) -> Record:
    if not isinstance(row, dict):
        raise _Refusal("invalid", f"{type(row).__name__} instead of an object")
    shapes = tuple(FIELDS) if format == "auto" else (format,)
    shape = _shape(row, shapes)
    if shape is None and (other := _shape(row, FIELDS)):
        raise _Refusal("shape", f"looks like {other}")
    if shape is None:
        wanted = " or ".join(FIELDS[shape] for shape in shapes)
        raise _Refusal("invalid", f"no {wanted}; its fields: {list_names(row)}")
    if isinstance(row.get("system"), str) and row["system"].strip():
        raise _Refusal("system", "has a system field")
    pair, used = _read_alpaca(row) if shape == "alpaca" else _read_turns(row, FIELDS[shape])
    for name, text in (("instruction", pair.instruction), ("response", pair.response)):
        if not allow_empty and not text.strip():
            raise _Refusal("invalid", f"blank {name}")
    return Record(pair, {clean(str(key)): _jsonable(value) for key, value in row.items() if key not in used})


def _shape(row: dict[str, Any], shapes: Iterable[str]) -> str | None:
    """The first of these formats whose field the row has."""
    return next((shape for shape in shapes if row.get(FIELDS[shape]) is not None), None)


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
        raise _Refusal("invalid", f"its turns: {list_names(roles)}; want user, assistant")
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
    return clean(value)


def _jsonable(value: object) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case None | bool() | int():
            return value
        case dict():
            return {clean(str(key)): _jsonable(item) for key, item in value.items()}
        case list() | tuple():
            return [_jsonable(item) for item in value]
        case _:
            return clean(str(value))
