"""What the fields of a row hold, and why a row cannot be read as a pair.

Texts stay exactly as given, but for lone surrogates and NULs, which SQLite cannot hold: they become U+FFFD.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, time, timedelta
from numbers import Number
from typing import Any, Literal
from uuid import UUID

from reflectune.state.config import OddKind
from reflectune.state.records import Turn
from reflectune.state.text import clean_text, list_names

__all__ = ["TEMPLATE_MARKS", "Given", "Refusal", "find_media", "jsonable", "read_list", "read_text"]

TEMPLATE_MARKS = re.compile(r"<\|\w+\|>|\[/?INST\]|<</?SYS>>|</?s>|<(start|end)_of_turn>")
_PLAIN = (str, int, float, Number, date, time, timedelta, UUID)  # what JSON holds, or a text says as well
_DEEPEST = 100  # lists and objects in one another


class Refusal(Exception):
    """A row, or one exchange of it, cannot be read as a pair."""

    def __init__(self, kind: OddKind, detail: str, *, is_blank: bool = False) -> None:
        super().__init__(detail)
        self.kind, self.is_blank = kind, is_blank  # blank: a text is there and says nothing


@dataclass(slots=True)
class Given:
    """What the fields of a row hold, as it is put together."""

    turns: list[Turn]
    fields: dict[str, Literal["pair", "context"]]  # those that hold it
    asked: tuple[str, str] | None = None  # instruction and input of the last exchange, where they are apart
    shape: str = ""
    kept: str | None = None  # a field of these that holds more, and stays with the pair as it is


def read_text(values: Mapping[str, Any], field: str) -> str:
    """The text that a field must hold."""
    value = values.get(field)
    if value is None:
        raise Refusal("invalid", f"no {field}")
    if not isinstance(value, str):
        raise Refusal("invalid", f"{field} is of type {type(value).__name__}, not text")
    return clean_text(value)


def read_list(value: object) -> object:
    """The list that JSON text holds, as tables keep lists; anything else as it is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def find_media(value: object, depth: int = 0) -> str | None:
    """The type of what a value holds that is no plain value: bytes, an opened image or recording."""
    if value is None or isinstance(value, _PLAIN):
        return None
    if not isinstance(value, dict | list | tuple):
        return type(value).__name__
    if depth < _DEEPEST:
        for item in value.values() if isinstance(value, dict) else value:
            if found := find_media(item, depth + 1):
                return found
    return None


def jsonable(value: object, field: str, depth: int = 0) -> Any:
    """The value of a field as JSON can hold it: NaN, infinities and what is no plain value null.

    Raises:
        Refusal: lists and objects too deep in one another.
    """
    match value:
        case dict() | list() | tuple() if depth == _DEEPEST:
            raise Refusal(
                "invalid", f"{list_names([field])} has more than {_DEEPEST} lists or objects in one another"
            )
        case float():
            return value if math.isfinite(value) else None
        case None | bool() | int():
            return value
        case bytes():
            return None
        case dict():
            return {clean_text(str(key)): jsonable(item, field, depth + 1) for key, item in value.items()}
        case list() | tuple():
            return [jsonable(item, field, depth + 1) for item in value]
        case _:
            return clean_text(str(value)) if isinstance(value, _PLAIN) else None
