"""Given data into samples: files and hub datasets read as pairs, and the held-out split.

Rows come from sources.py, one after another; what they mean is in rows.py; how pairs go out is in exports.py.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from reflectune.state.config import DataConfig, OddKind
from reflectune.state.data.fields import Refusal
from reflectune.state.data.rows import Record, RowReader
from reflectune.state.data.sources import Source, open_source
from reflectune.state.errors import DatasetError
from reflectune.state.records import Sample, SkippedRows, Split, content_hash, hash_stream

__all__ = ["Dataset", "Record", "assign_samples", "dataset_hash", "read_dataset", "sample_id"]

_SHOWN = 3  # odd rows that a message spells out

# What a message says of each kind of odd row, and what it advises where there is a config.
_EXPLAINED: dict[OddKind, tuple[str, str]] = {
    "shape": ("of another format than the configured one", 'set data.format to "auto", or to the right one'),
    "roles": ("with speakers of unknown names", "name them in data.roles"),
    "turns": ("with turns out of order", "repair these"),
    "tools": ("whose answers call tools, which no teacher here can", "remove these"),
    "media": ("with images or sound", "remove these"),
    "invalid": ("without a usable instruction or response", "repair these, or set data.columns"),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """What one row came to."""

    row: object
    records: list[Record]  # in the order of its turns


class Dataset:
    """The records of a file or hub dataset, in its order; every iteration reads them anew.

    Its size in memory does not depend on their number. `read_dataset`, which makes it, has checked them all.
    """

    def __init__(
        self, readings: Callable[[], Iterator[Reading]], number: int, skipped: Sequence[SkippedRows] = ()
    ) -> None:
        self.readings, self._number, self.skipped = readings, number, skipped

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[Record]:
        found = 0
        for reading in self.readings():
            found += len(reading.records)
            yield from reading.records
        if found != self._number:
            counts = f"{self._number} pairs when they were checked, {found} now"
            raise DatasetError(f"{counts}; start again, and leave the data alone while it is read")


def read_dataset(data: DataConfig, *, allow_empty: bool = False, has_config: bool = True) -> Dataset:
    """Open the configured file or hub dataset and check all its rows, before any record is given out.

    In `meta`, what JSON cannot hold becomes text, and NaN and infinities become null. Reading stops at
    `data.limit` pairs, at the end of a conversation. With `allow_empty` a text that is there but blank is
    taken as it is. Without a config, messages name options of a command instead of keys.

    Raises:
        DatasetError: nothing there, not readable, or odd rows of a kind that `data.odd` does not skip.
    """
    source = data.path or f"data.hf = {data.hf}, split {data.split}"
    rows = open_source(data)
    outcomes = partial(_outcomes, rows, data, allow_empty)
    counts: Counter[OddKind] = Counter()
    examples: defaultdict[OddKind, list[str]] = defaultdict(list)
    number = 0
    for where, outcome in outcomes():
        if isinstance(outcome, Record):
            number += 1
            continue
        counts[outcome.kind] += 1
        if counts[outcome.kind] <= _SHOWN:
            examples[outcome.kind].append(f"{where}: {outcome}")
    shown = {kind: "; ".join(examples[kind] + ["..."] * (counts[kind] > _SHOWN)) for kind in counts}
    complaints = [
        f"{counts[kind]} of {number + counts.total()} records {what} ({shown[kind]}); "
        + (
            f'{advice}, or leave them out with data.odd.{kind} = "skip"'
            if has_config
            else f"repair these, or leave them out with --skip {kind}"
        )
        for kind, (what, advice) in _EXPLAINED.items()
        if kind in counts and data.odd.get(kind) != "skip"
    ]
    if complaints:
        raise DatasetError(f"{source}: " + ". Also ".join(complaints))
    if not number:
        why = f" that can be used ({'; '.join(shown.values())})" if counts else ""
        raise DatasetError(f"{source}: no records{why}; give some pairs")
    skipped = [SkippedRows(kind, counts[kind], tuple(examples[kind])) for kind in sorted(counts)]
    return Dataset(partial(_readings, rows, data, allow_empty), number, skipped)


def _readings(rows: Source, data: DataConfig, allow_empty: bool) -> Iterator[Reading]:
    reader, pairs = RowReader(data, allow_empty), 0
    for _, row in rows():
        records = [each for each in reader.read(row) if isinstance(each, Record)]
        yield Reading(row, records)
        pairs += len(records)
        if data.limit is not None and pairs >= data.limit:
            return


def assign_samples(records: Dataset | Sequence[Record], holdout: int | float, seed: int) -> Iterator[Sample]:
    """Give records their ids and their side of the held-out split, one after another.

    An id is made of the pair's texts and of how often they came before, so it outlives a reordering
    of the data. Whole instructions are held out, with all their records: those that are equal but
    for case and white space count as one. They are drawn in an order that depends on the seed and on
    their text alone, until the wanted number of records is reached or first exceeded.

    `holdout` is a count (int), or a share of all (float; above 0 it is at least one record). A DatasetError
    where nothing would be left to train on. The records are read twice; of each, a hash of 16 bytes is held.
    """
    is_share = isinstance(holdout, float) and holdout > 0
    wanted = max(1, round(holdout * len(records))) if is_share else int(holdout)
    groups = Counter(_instruction_group(record, seed) for record in records) if wanted else Counter()
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
        is_held_out = bool(held) and _instruction_group(record, seed) in held
        id = sample_id(pair_hash, occurrences[known])
        split: Split = "holdout" if is_held_out else "train"
        given = record.pair, record.meta, record.conversation, record.turn
        yield Sample(id, position, split, *given)
        occurrences[known] += 1


def sample_id(pair_hash: str, before: int) -> str:
    """The id of a sample whose pair came so many times before it."""
    return content_hash(pair_hash, before)[:16]


def dataset_hash(sample_ids: Iterable[str]) -> str:
    """Hash of the pairs in their order, by their samples' ids; neither split nor other fields change it."""
    return hash_stream(sample_ids)


def _instruction_group(record: Record, seed: int) -> bytes:
    """What is the same for records that begin alike: a hash that puts their beginnings in random order."""
    text = f"{record.pair.instruction} {record.pair.input}"
    if record.conversation is not None:
        text = next(turn.content for turn in record.conversation.turns if turn.role == "user")
    return bytes.fromhex(content_hash(seed, " ".join(text.casefold().split())))


def _outcomes(rows: Source, data: DataConfig, allow_empty: bool) -> Iterator[tuple[str, Record | Refusal]]:
    """What became of every row, with where it stands, until the limit is reached."""
    reader = RowReader(data, allow_empty)
    records = 0
    for where, row in rows():
        for outcome in reader.read(row):
            yield where, outcome
            records += isinstance(outcome, Record)
        if data.limit is not None and records >= data.limit:
            return
