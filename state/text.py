"""Text of unknown origin made safe to store, and to show: it can neither steer a terminal nor break a line.

Stored and exported texts stay as they are, but for what cannot be stored; the rest is for what people see.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    "clean_text", "inert", "inert_document", "is_empty", "list_names", "one_line", "shorten", "to_json",
]  # fmt: skip

# Control characters but tab and line feed, and marks that change the direction of what follows.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# No text of SQLite, JSON or a tokenizer may hold these.
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")


def clean_text(text: str) -> str:
    """The text with U+FFFD for NULs and lone surrogates, which cannot be stored."""
    return _UNSTORABLE.sub("\ufffd", text)


def is_empty(value: object) -> bool:
    """Whether a field says nothing: null, blank, or a list or object without anything in it."""
    if isinstance(value, str):
        return value.strip() in ("", "[]", "{}", "null")
    return value is None or value == [] or value == {}


def inert(text: str) -> str:
    """The text with U+FFFD for control and direction characters and lone surrogates."""
    return _SURROGATE.sub("\ufffd", _CONTROL.sub("\ufffd", text))


def inert_document(document: Any) -> Any:
    """The document with all its texts made inert, whoever wrote them."""
    match document:
        case str():
            return inert(document)
        case Mapping():
            return {inert_document(key): inert_document(value) for key, value in document.items()}
        case list() | tuple():
            return [inert_document(item) for item in document]
    return document


def one_line(text: str) -> str:
    """The inert text with its lines, of whatever kind of line break, joined by spaces."""
    return inert(" ".join(line.strip() for line in text.splitlines() if line.strip()))


def shorten(text: object) -> str:
    """What an error says, or a list of names, as one line of at most 300 characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= 300 else f"{line[:297]}..."


def list_names(fields: Iterable[object]) -> str:
    """Names of fields as a message shows them."""
    return shorten(", ".join(map(str, fields))) or "none"


def to_json(document: object, *, indent: int | None = None) -> str:
    """JSON that reads back equal and that a terminal only shows: what could steer it is escaped."""
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    return _SURROGATE.sub(_escape, _CONTROL.sub(_escape, text))


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
