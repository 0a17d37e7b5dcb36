"""Rows of JSON text, one after another: an array, objects in any layout, or one object with a list.

Python's own decoder, because ijson refuses the NaN that Python and pandas write, turns lone surrogates into
question marks, and does not tell the line of an error. NaN is pandas' nothing, and is read as null.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from reflectune.state.data.containers import CHUNK
from reflectune.state.data.shapes import PAIR_FIELDS
from reflectune.state.errors import DatasetError

__all__ = ["read_array", "read_objects"]

_DECODER = json.JSONDecoder(parse_constant=lambda name: None if name == "NaN" else float(name))
_SPACE = re.compile(r"[ \t\n\r]*")
_LONGEST_TOKEN = len(r"\ud83d\ude00")  # that could be torn, but for strings and numbers
# Fields of turns and of tools, of which a list is part of one record, as one of segments is.
_PARTS = {"role", "from", "speaker", "function", "parameters"}
_SEGMENT = {"label", "text"}


def read_array(open_text: Callable[[], TextIO], name: str) -> Iterator[tuple[str, object]]:
    """The elements of the array that a text is."""
    with open_text() as file:
        reader = _Reader(file, name)
        for index, element in enumerate(reader.elements()):
            yield f"index {index}", element
        reader.end()


def read_objects(open_text: Callable[[], TextIO], name: str) -> Iterator[tuple[str, object]]:
    """The values of a text that begins with an object, in lines or not; of a single one, its list of records.

    Raises:
        DatasetError: not JSON, or a single object that holds several lists of records.
    """
    with open_text() as file:
        field = _find_list(_Reader(file, name), name)
    with open_text() as file:
        reader = _Reader(file, name)
        if field is None:
            while reader.peek():
                yield f"line {reader.line}", reader.value()
            return
        for key in reader.names():
            if key == field:
                for index, element in enumerate(reader.elements()):
                    yield f"{field}, index {index}", element
            else:
                reader.value()


def _find_list(reader: "_Reader", name: str) -> str | None:
    """The field of a text's only object that holds the records; None where its objects are the records."""
    fields, beside = [], set()
    for key in reader.names():
        beside.add(key)
        if reader.peek() != "[":
            reader.value()
        elif set(map(_is_record, reader.elements())) == {True}:
            fields.append(key)
    if reader.peek() or not fields or (beside - {*fields}) & PAIR_FIELDS:
        return None
    if len(fields) > 1:
        raise DatasetError(
            f"{name}: is one object with several lists of records ({', '.join(fields)}); "
            f"keep one of them, as `jq .{fields[0]}` does"
        )
    return fields[0]


def _is_record(element: object) -> bool:
    return isinstance(element, dict) and not element.keys() & _PARTS and element.keys() != _SEGMENT


class _Reader:
    """Takes JSON values from a text one by one; of the text, a chunk is held, or a longer value.

    `line` is the line of the file in which the next of them begins.
    """

    def __init__(self, file: TextIO, name: str) -> None:
        self.line = 1
        self._file, self._name = file, name
        self._text, self._at = "", 0

    def peek(self) -> str:
        """The next character that is not white space; none at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._go(space.end() if space else self._at)
            if self._at < len(self._text) or not self._read_on():
                return self._text[self._at : self._at + 1]

    def value(self) -> Any:
        """The next value, whole."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._is_torn(error) and self._read_on():
                    continue
                raise self._invalid(error) from error
            except (ValueError, RecursionError) as error:
                raise self._invalid(error) from error
            if end + len("e-") >= len(self._text) and self._read_on():
                continue  # a number may have been torn
            self._go(end)
            return value

    def elements(self) -> Iterator[Any]:
        """The elements of the array that comes next."""
        self._take("[", "array")
        is_open = self.peek() != "]" or self._take("]", "") != "]"
        while is_open:
            yield self.value()
            is_open = self._take(",]", "',' delimiter") == ","

    def names(self) -> Iterator[str]:
        """The names in the object that comes next; the caller takes the value after each."""
        self._take("{", "object")
        is_open = self.peek() != "}" or self._take("}", "") != "}"
        while is_open:
            if self.peek() != '"':
                raise self._expected("property name enclosed in double quotes")
            key = self.value()
            self._take(":", "':' delimiter")
            yield key
            is_open = self._take(",}", "',' delimiter") == ","

    def end(self) -> None:
        """Refuse what comes after the last value."""
        if self.peek():
            raise self._invalid(json.JSONDecodeError("Extra data", self._text, self._at))

    def _take(self, wanted: str, called: str) -> str:
        found = self.peek()
        if not found or found not in wanted:
            raise self._expected(called)
        self._go(self._at + 1)
        return found

    def _go(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to

    def _read_on(self) -> bool:
        if more := self._file.read(max(CHUNK, len(self._text) - self._at)):
            self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)

    def _is_torn(self, error: json.JSONDecodeError) -> bool:
        """Whether the end of what is held may be all that is wrong."""
        return error.msg.startswith("Unterminated") or error.pos + _LONGEST_TOKEN >= len(self._text)

    def _expected(self, what: str) -> DatasetError:
        return self._invalid(json.JSONDecodeError(f"Expecting {what}", self._text, self._at))

    def _invalid(self, error: Exception) -> DatasetError:
        line = self.line
        if isinstance(error, json.JSONDecodeError):
            line += self._text.count("\n", self._at, error.pos)
            begins = f" (the record begins in line {self.line})" if line > self.line else ""
            what = f"not valid JSON: {error.msg}{begins}"
        else:  # a number of thousands of digits, thousands of brackets
            what = f"JSON that cannot be read: {error}"
        return DatasetError(
            f"{self._name}: line {line}: {what}; want one array of records, or one record a line"
        )
