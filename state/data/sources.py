"""Where given data comes from: the rows of files and hub datasets, one after another.

A file is told apart by its content, never by its name. However long it is, a small part of it is held at a
time. What a row means, and whether it is a pair, is for datasets.py to say.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, TextIO

from reflectune.state.config import DataConfig
from reflectune.state.errors import DatasetError

__all__ = ["FIELDS", "Row", "Source", "clean", "list_names", "open_source"]

Row = tuple[str, object]  # where it stands ("line 4", or "index 3" counted from 0), and what stands there
Source = Callable[[], Iterator[Row]]  # gives all rows, from the first, at every call

# The field that holds the pair, by format. Where a record has several, the first of these counts: a
# conversation may hold more than the fields beside it.
FIELDS = {"messages": "messages", "sharegpt": "conversations", "alpaca": "instruction"}
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")
_JSON_SPACE = re.compile(r"[ \t\n\r]*")
_CHUNK = 2**16  # characters or bytes of a file read at once
_BATCH = 256  # rows of a Parquet file decoded at once


def open_source(data: DataConfig) -> Source:
    """The rows of the configured file or hub dataset, as a function that reads them anew at every call."""
    if data.hf:
        return _hub_source(data)
    path = Path(data.path or "")
    try:  # a pipe, as in `reflectune score <(zcat pairs.gz)`, can be read only once
        piped = path.read_bytes() if path.is_fifo() else None
    except OSError as error:
        raise _unreadable(path, error) from error
    return partial(_file_rows, path, piped)


def clean(text: str) -> str:
    """The text, with U+FFFD for the lone surrogates and NULs that SQLite cannot hold."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def list_names(fields: Iterable[object]) -> str:
    """Names of fields as a message shows them."""
    return _shorten(", ".join(map(str, fields))) or "none"


def _shorten(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= 300 else f"{line[:297]}..."


def _file_rows(path: Path, piped: bytes | None) -> Iterator[Row]:
    """Rows of a file of any format; the content says which."""
    try:
        with path.open("rb") if piped is None else io.BytesIO(piped) as file:
            beginning = b""
            while not beginning and (chunk := file.read(_CHUNK)):
                beginning = chunk.removeprefix(codecs.BOM_UTF8).lstrip()
            file.seek(0)
            if beginning.startswith(b"PAR1"):
                yield from _parquet_rows(file, path)
            elif beginning.startswith(b"["):
                yield from _array_rows(_text(file, newline="\n"), path)
            elif beginning.startswith(b"{"):
                yield from _json_lines(_text(file, newline="\n"), path)
            elif beginning:
                yield from _csv_rows(_text(file, newline=""), path)
            else:
                raise DatasetError(f"{path}: is empty; want JSON, JSON Lines, CSV or Parquet")
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path}: not UTF-8 text (byte 0x{error.object[error.start]:02x}); "
            "save it as UTF-8 JSON, JSON Lines or CSV, or as Parquet"
        ) from error


def _unreadable(path: Path, error: OSError) -> DatasetError:
    return DatasetError(
        f"{path}: cannot be read: {error.strerror}; data.path wants a file, data.hf takes a folder"
    )


def _text(file: IO[bytes], newline: str) -> TextIO:
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)


def _array_rows(file: TextIO, path: Path) -> Iterator[Row]:
    """Rows of a JSON array, decoded one by one; of the text, a chunk is held, or a longer element.

    Python's own decoder, because ijson refuses the NaN that Python and pandas write, turns lone
    surrogates into question marks, and does not tell the line of an error.
    """
    text = file.read(_CHUNK)
    while "[" not in text and (more := file.read(_CHUNK)):
        text += more
    at, line = text.index("["), 1  # the bracket or comma to go on from; the line that `text` begins in
    index = 0
    while text[at] != "]":
        try:
            elements, at = _next_element(text, at)
        except json.JSONDecodeError as error:  # not JSON, or cut by the end of the chunk
            more = file.read(max(_CHUNK, len(text) - at))
            if not more:
                raise _invalid_json(error, path, line) from error
            line += text.count("\n", 0, at)
            text, at = text[at:] + more, 0
        except (ValueError, RecursionError) as error:
            begin = _skip_space(text, at + 1)
            raise _invalid_json(error, path, line + text.count("\n", 0, begin)) from error
        else:
            for element in elements:
                yield f"index {index}", element
                index += 1
    text += file.read()
    if (end := _skip_space(text, at + 1)) < len(text):
        raise _invalid_json(json.JSONDecodeError("Extra data", text, end), path, line)


def _next_element(text: str, at: int) -> tuple[list[Any], int]:
    """The element after the bracket or comma at `at`, if there is one, and where the next of these is."""
    begin = _skip_space(text, at + 1)
    if text[at] == "[" and text[begin : begin + 1] == "]":
        return [], begin
    element, end = json.JSONDecoder().raw_decode(text, begin)
    end = _skip_space(text, end)
    if text[end : end + 1] not in (",", "]"):  # a number may go on beyond the end of the text
        raise json.JSONDecodeError("Expecting ',' delimiter", text, end)
    return [element], end


def _skip_space(text: str, at: int) -> int:
    space = _JSON_SPACE.match(text, at)
    return space.end() if space else at


def _json_lines(file: TextIO, path: Path) -> Iterator[Row]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                row = json.loads(line.removesuffix("\n"))
            except (ValueError, RecursionError) as error:
                raise _invalid_json(error, path, number) from error
            yield f"line {number}", row


def _invalid_json(error: Exception, path: Path, line: int) -> DatasetError:
    """The error for text that begins in that line of the file."""
    if isinstance(error, json.JSONDecodeError):
        where, what = line + error.lineno - 1, f"not valid JSON: {error.msg}"
    else:  # a number of thousands of digits, thousands of brackets
        where, what = line, f"JSON that cannot be read: {error}"
    return DatasetError(f"{path}: line {where}: {what}; want one array of records, or one record a line")


def _csv_rows(file: TextIO, path: Path) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # the default refuses texts over 128 KiB; more than this fits no C long
    reader = csv.DictReader(file, strict=True)
    try:
        for row in reader:
            if None in row:
                raise DatasetError(
                    f"{path}: line {reader.line_num}: more fields than the header; quote texts with commas"
                )
            yield f"line {reader.line_num}", row
    except csv.Error as error:
        begins = reader.line_num + 1  # of the row that could not be read
        raise DatasetError(f"{path}: line {begins}: not valid CSV: {error}; repair its quotes") from error


def _parquet_rows(file: IO[bytes], path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        # A buffer, but no reading ahead and no threads: else Arrow's memory grows with the file.
        table = pyarrow.parquet.ParquetFile(file, buffer_size=_CHUNK, pre_buffer=False)
        batches = table.iter_batches(batch_size=_BATCH, use_threads=False)
        for index, row in enumerate(row for batch in batches for row in batch.to_pylist()):
            yield f"index {index}", row
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:  # a day in the year 10^5
        raise DatasetError(f"{path}: not readable as Parquet: {_shorten(error)}; write it anew") from error


def _hub_source(data: DataConfig) -> Source:
    import datasets

    source = f"data.hf = {data.hf}, split {data.split}"
    try:
        loaded = datasets.load_dataset(data.hf, split=data.split)
    except Exception as error:
        why = f"{error}: {error.__cause__}" if error.__cause__ else error
        raise DatasetError(f"{source}: cannot be loaded: {_shorten(why)}") from error
    return lambda: ((f"index {index}", row) for index, row in enumerate(loaded))
