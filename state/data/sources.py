"""Where given data comes from: the rows of files and hub datasets, one after another.

A file is told apart by its content, never by its name. However long it is, a small part of it is held at a
time. What a row means, and whether it is a pair, is for datasets.py to say.
"""

import csv
import itertools
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

from reflectune.state.config import DataConfig
from reflectune.state.data.containers import CHUNK, Text, Unpacked
from reflectune.state.data.hub import Hub
from reflectune.state.data.json_rows import read_array, read_objects
from reflectune.state.data.shards import find_files
from reflectune.state.data.writing import Container
from reflectune.state.errors import DatasetError
from reflectune.state.text import list_names, shorten

__all__ = ["Row", "Source", "find_kind", "open_source"]

Row = tuple[str, object]  # where it stands ("line 4", or "index 3" counted from 0), and what stands there
Source = Callable[[], Iterator[Row]]  # gives all rows, from the first, at every call

_DELIMITERS = ",\t;"
_ARROW = b"\xff\xff\xff\xff"  # how Arrow's streams begin, which `save_to_disk` of datasets writes
_LINE_END = re.compile(r"\r\n|\r|\n")
_BATCH = 256  # rows of a Parquet file decoded at once


def open_source(data: DataConfig) -> Source:
    """The rows of the configured files or hub dataset, as a function that reads them anew at every call."""
    if data.hf:
        hub = Hub(data)
        return hub
    path = Path(data.path or "")
    try:
        if path.is_fifo():
            return _pipe_source(path)
        files = find_files(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    return lambda: (
        (place + where, row) for file, place in files.items() for where, row in _file_rows(file, str(file))
    )


def _pipe_source(pipe: Path) -> Source:
    """The rows of a pipe, as in `reflectune score <(zcat pairs.gz)`; it can be read once, so it is copied."""
    copy = tempfile.NamedTemporaryFile(prefix="reflectune-")  # noqa: SIM115 (it goes with the source)
    with pipe.open("rb") as file:
        shutil.copyfileobj(file, copy)
    copy.flush()

    def read_copy() -> Iterator[Row]:
        yield from _file_rows(Path(copy.name), str(pipe))  # holds on to the copy

    return read_copy


def find_kind(path: Path) -> Container:
    """The kind of file that given data stands in, by its content; of a folder, that of its first file.

    Objects in any layout are JSON Lines, and so is what comes through a pipe, which is read only once.
    """
    if path.is_fifo():
        return "jsonl"
    first = next(iter(find_files(path)))
    kind = _find_kind(first, str(first))
    return "parquet" if kind == "arrow" else kind


def _file_rows(path: Path, name: str) -> Iterator[Row]:
    """Rows of a file of any kind."""
    try:
        match kind := _find_kind(path, name):
            case "json":
                yield from read_array(partial(Text, path, name, newline="\n"), name)
            case "jsonl":
                yield from read_objects(partial(Text, path, name, newline="\n"), name)
            case "csv":
                yield from _csv_rows(path, name)
            case _:
                with path.open("rb") as file:
                    yield from _table_rows(file, name, is_parquet=kind == "parquet")
    except OSError as error:
        raise _unreadable(name, error) from error


def _find_kind(path: Path, name: str) -> Container | Literal["arrow"]:
    with Unpacked(path.open("rb"), name) as unpacked:
        magic, compression = unpacked.read(4), unpacked.compression
    if magic in (b"PAR1", _ARROW):
        if compression:
            raise DatasetError(f"{name}: is Parquet or Arrow inside {compression}; decompress it first")
        return "parquet" if magic == b"PAR1" else "arrow"
    with Text(path, name, newline="\n") as text:
        beginning = ""
        while not beginning and (chunk := text.read(CHUNK)):
            beginning = chunk.lstrip()[:1]
    if not beginning:
        raise DatasetError(f"{name}: is empty; want JSON, JSON Lines, CSV or Parquet")
    return "json" if beginning == "[" else "jsonl" if beginning == "{" else "csv"


def _unreadable(name: object, error: OSError) -> DatasetError:
    return DatasetError(f"{name}: cannot be read: {error.strerror}; want a file, a folder or a pattern")


def _csv_rows(path: Path, name: str) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # the default refuses texts over 128 KiB; more than this fits no C long
    with Text(path, name, newline="") as file:
        header = file.readline()
        delimiter = max(_DELIMITERS, key=lambda each: len(next(csv.reader([header], delimiter=each))))
        reader = csv.DictReader(itertools.chain([header], file), delimiter=delimiter, strict=True)
        try:
            columns = reader.fieldnames or ()
            if twice := {column for column in columns if list(columns).count(column) > 1}:
                raise DatasetError(f"{name}: several columns are called {list_names(twice)}; rename them")
            for row in reader:
                if None in row:
                    raise DatasetError(
                        f"{name}: line {_begin(reader, row)}: more fields than the header; "
                        f"quote texts that hold {delimiter!r}"
                    )
                yield f"line {_begin(reader, row)}", row
        except csv.Error as error:
            begins = reader.line_num + 1  # of the row that could not be read
            raise DatasetError(f"{name}: line {begins}: not valid CSV: {error}; repair its quotes") from error


def _begin(reader: "csv.DictReader[str]", row: Mapping[str | None, Any]) -> int:
    """The line that the row just read begins on."""
    texts = [*row.values(), *row.get(None, ())]
    return reader.line_num - sum(len(_LINE_END.findall(text)) for text in texts if isinstance(text, str))


def _table_rows(file: IO[bytes], name: str, *, is_parquet: bool) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        if is_parquet:
            # A buffer, but no reading ahead and no threads: else Arrow's memory grows with the file.
            table = pyarrow.parquet.ParquetFile(file, buffer_size=CHUNK, pre_buffer=False)
            batches = table.iter_batches(batch_size=_BATCH, use_threads=False)
        else:
            batches = pyarrow.ipc.open_stream(file)
        rows = (row for batch in batches for row in batch.to_pylist(maps_as_pydicts="strict"))
        for index, row in enumerate(rows):
            yield f"index {index}", row
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        # Such as a day in the year 10^5, or a map with a key twice.
        kind = "Parquet" if is_parquet else "Arrow"
        raise DatasetError(f"{name}: not readable as {kind}: {shorten(error)}; write it anew") from error
