"""Given data into samples: files and hub datasets read as pairs, and the held-out split.

Rows come from sources.py, one after another; what they mean is in rows.py; how pairs go out is in exports.py.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from functools import partial
from typing import cast

from reflectune.state.config import DataConfig, OddKind
from reflectune.state.data.account import Account
from reflectune.state.data.rows import Reading, Record, RowReader
from reflectune.state.data.sources import Source, open_source
from reflectune.state.errors import DatasetError
from reflectune.state.records import (
    Conversation,
    Sample,
    SkippedRows,
    Split,
    content_hash,
    content_part,
    hash_stream,
)
from reflectune.state.text import list_names

__all__ = ["Dataset", "Record", "assign_samples", "dataset_hash", "read_dataset", "read_rows", "sample_id"]

# What a message says of each kind of odd row and advises: by keys of a config, by options of `score`.
_EXPLAINED: dict[OddKind, tuple[str, str, str]] = {
    "shape": (
        "of another format than asked for", 'set data.format to "auto", or to the right one',
        "leave --format out",
    ),
    "roles": ("with speakers of unknown names", "name them in data.roles", "call them user and assistant"),
    "turns": ("with turns out of order", "repair these", "repair these"),
    "tools": ("whose answers call tools, which no teacher here can", "remove these", "remove these"),
    "earlier_tools": ("whose earlier turns call tools", "remove these", "remove these"),
    "media": (
        "with images or sound", "remove these, name their columns in data.ignore", "remove these"
    ),
    "invalid": (
        "without a usable instruction or response", "repair these, name their fields in data.columns",
        "repair these, name their fields by --columns",
    ),
}  # fmt: skip


class Dataset:
    """The records of a file or hub dataset, in its order; every iteration reads them anew.

    Its size in memory does not depend on their number. `read_dataset`, which makes it, has checked them all.
    """

    def __init__(self, readings: Callable[[], Iterator[Reading]], account: Account) -> None:
        self.readings, self.account = readings, account  # what each row came to, from the first

    def __len__(self) -> int:
        return self.account.pairs

    def __iter__(self) -> Iterator[Record]:
        found = 0
        for reading in self.readings():
            found += len(reading.records)
            yield from reading.records
        if found != len(self):
            counts = f"{len(self)} pairs when they were checked, {found} now"
            raise DatasetError(f"{counts}; start again, and leave the data alone while it is read")


def read_dataset(data: DataConfig, *, allow_empty: bool = False, has_config: bool = True) -> Dataset:
    """Open the configured file or hub dataset and check all its rows, before any record is given out.

    In `meta`, what JSON cannot hold becomes text, but NaN, infinities and bytes become null. Reading stops at
    `data.limit` pairs, at the end of a conversation. With `allow_empty` a text that is there but blank is
    taken as it is. Without a config, messages name options of a command instead of keys.

    Raises:
        DatasetError: nothing there, not readable, or odd rows of a kind that `data.odd` does not skip.
    """
    source = data.path or f"data.hf = {data.hf}, split {data.split}"
    rows = open_source(data)
    account = Account()
    for reading in read_rows(data, rows, allow_empty):
        account.add(reading, data.ignore)
    missing = [field for field in data.columns.values() if field not in account.fields]
    if account.rows and missing:
        option = "data.columns" if has_config else "--columns"
        raise DatasetError(
            f"{source}: {option}: no record has {list_names(missing)}; want some of the fields that they "
            f"have: {list_names(account.fields)}"
        )
    complaints = [
        _complain(skipped, account, has_config)
        for skipped in account.skipped
        if data.odd.get(cast(OddKind, skipped.kind)) != "skip"
    ]
    if complaints:
        raise DatasetError(f"{source}: " + ". Also ".join(complaints))
    if not account.pairs:
        why = "; ".join(rows.examples[0] for rows in account.skipped)
        raise DatasetError(
            f"{source}: no records{f' that can be used ({why})' if why else ''}; give some pairs"
        )
    return Dataset(partial(read_rows, data, rows, allow_empty), account)


def read_rows(data: DataConfig, rows: Source, allow_empty: bool = False) -> Iterator[Reading]:
    """What each row came to, until there are `data.limit` pairs."""
    reader = RowReader(data, allow_empty)
    pairs = 0
    for where, row in rows():
        reading = reader.read(where, row)
        yield reading
        pairs += len(reading.records)
        if data.limit is not None and pairs >= data.limit:
            return


def _complain(odd: SkippedRows, account: Account, has_config: bool) -> str:
    what, by_keys, by_options = _EXPLAINED[cast(OddKind, odd.kind)]
    shown = "; ".join([*odd.examples, *["..."] * (odd.number > len(odd.examples))])
    by_key, by_option = f'data.odd.{odd.kind} = "skip"', f"--skip {odd.kind}"
    advice, skip = (by_keys, by_key) if has_config else (by_options, by_option)
    return (
        f"{odd.number} of {account.pairs + account.odd.total()} records {what} ({shown}); "
        f"{advice}, or leave them out with {skip}"
    )


def assign_samples(records: Dataset | Sequence[Record], holdout: int | float, seed: int) -> Iterator[Sample]:
    """Give records their ids and their side of the held-out split, one after another.

    An id is a position, and a hash of the pair's texts and of how often they came before, which outlives a
    reordering of the data. Whole instructions are held out, with all their records: those that are equal but
    for case and white space count as one, and a conversation joins the one that it begins with to the first
    that is recycled of it. They are drawn in an order that depends on the seed and on their text alone, as
    long as no more records are held out than wanted; the smallest one is where none fits.

    `holdout` is a count (int), or a share of all (float; above 0 it is at least one record). A DatasetError
    where nothing would be left to train on. The records are read twice; of each different
    instruction, a hash of 16 bytes is held.
    """
    is_share = isinstance(holdout, float) and holdout > 0
    wanted = max(1, round(holdout * len(records))) if is_share else int(holdout)
    groups = _Groups(seed)
    counts = groups.count(records) if wanted else Counter()
    held: set[bytes] = set()
    room = wanted
    for group in sorted(counts):
        if counts[group] <= room:
            held.add(group)
            room -= counts[group]
    if wanted and not held:
        held.add(min(sorted(counts), key=lambda group: counts[group]))
    if held and len(held) == len(counts):
        raise DatasetError(
            f"data.holdout = {holdout} holds out all {len(records)} pairs (different instructions: "
            f"{len(counts)}) and leaves none to train on; lower it, or set it to 0"
        )
    return _make_samples(records, held, groups)


def _make_samples(records: Iterable[Record], held: Container[bytes], groups: "_Groups") -> Iterator[Sample]:
    occurrences: Counter[bytes] = Counter()
    for position, record in enumerate(records):
        pair_hash = record.pair.content_hash
        known = bytes.fromhex(pair_hash)
        is_held_out = bool(held) and groups.find(record) in held
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


class _Groups:
    """What instructions belong together, as a union-find over hashes that put them in random order."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._above: dict[bytes, bytes] = {}  # a smaller hash of the same group; the smallest has none

    def count(self, records: Iterable[Record]) -> Counter[bytes]:
        """How many records each group has, once all of them have joined what they must."""
        found: Counter[bytes] = Counter()
        last: Conversation | None = None
        for record in records:
            begins = self._hash_beginning(record)
            found[begins] += 1
            # Of a conversation that gives several, the first: later ones are often as short as "Go on."
            if record.conversation is not last and (last := record.conversation) is not None:
                asked = self._hash(f"{record.pair.instruction} {record.pair.input}")
                low, high = sorted((self._find_root(begins), self._find_root(asked)))
                if low != high:
                    self._above[high] = low
        counts: Counter[bytes] = Counter()
        for begins, number in found.items():
            counts[self._find_root(begins)] += number
        return counts

    def find(self, record: Record) -> bytes:
        """The group of a record that was counted."""
        return self._find_root(self._hash_beginning(record))

    def _hash_beginning(self, record: Record) -> bytes:
        if record.conversation is None:
            return self._hash(f"{record.pair.instruction} {record.pair.input}")
        return self._hash(next(turn.content for turn in record.conversation.turns if turn.role == "user"))

    def _hash(self, text: str) -> bytes:
        return bytes.fromhex(content_hash(self._seed, " ".join(text.casefold().split())))

    def _find_root(self, hash: bytes) -> bytes:
        while (above := self._above.get(hash)) is not None:
            self._above[hash] = self._above.get(above, above)  # halves the way for the next time
            hash = above
        return hash
