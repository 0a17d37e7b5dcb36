"""The list of samples: what an address asks for, and the addresses of other lists."""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar
from urllib.parse import urlencode

from reflectune.state.lineage.index import SORTS, SampleQuery
from reflectune.state.records import OUTCOMES, PHASES

__all__ = ["LABELS", "MAX_COUNTED", "PAGE_ROWS", "SampleSearch", "address"]

# Rows of a page, and rows that are counted and paged through; beyond them a question is to be narrowed.
PAGE_ROWS = 50
MAX_COUNTED = 10_000
_MAX_TEXT = 500
_BOUNDS = tuple(field.name for field in fields(SampleQuery) if field.name.startswith(("min_", "max_")))
_Value = TypeVar("_Value")
_CHOICES = {
    "phase": PHASES,
    "outcome": OUTCOMES,
    "trained": ("yes", "no"),
    "sort": SORTS,
    "order": ("up", "down"),
}
# Everything that an address can ask for, as people read it.
LABELS = {
    "q": "words",
    "round": "round",
    "phase": "phase",
    "outcome": "outcome",
    "trained": "trained on",
    "min_ifd_change": "least change of IFD",
    "max_ifd_change": "greatest change of IFD",
    "min_r_ifd_change": "least change of r-IFD",
    "max_r_ifd_change": "greatest change of r-IFD",
    "min_length_growth": "least response length",
    "max_length_growth": "greatest response length",
    "sort": "sort by",
    "order": "order",
    "page": "page",
}


class SampleSearch:
    """A search for samples as an address holds it.

    `problems` has a sentence for each value that makes no sense, by its name; such a value is not asked for.
    `bounded` are the changes and lengths with bounds, `change` the change that rows must have.
    """

    def __init__(self, args: Mapping[str, str]) -> None:
        """Read the values of an address; empty ones count as absent."""
        self.values = {name: args[name].strip() for name in LABELS if args.get(name, "").strip()}
        self.problems: dict[str, str] = {}
        self.page = self._whole("page", 1, MAX_COUNTED // PAGE_ROWS) or 1
        bounds: dict[str, Any] = {name: self._read(name, _read_number, "no number") for name in _BOUNDS}
        short = f"too long: at most {_MAX_TEXT} characters can be searched for"
        self.query = SampleQuery(
            text=self._read("q", lambda text: text if len(text) <= _MAX_TEXT else None, short) or "",
            most_matches=MAX_COUNTED,
            round=self._whole("round", 0, 1_000_000),
            phase=self._choice("phase"),
            outcome=self._choice("outcome"),
            trained={"yes": True, "no": False, None: None}[self._choice("trained")],
            sort=self._choice("sort") or "position",
            descending=self._choice("order") == "down",
            limit=PAGE_ROWS,
            offset=(self.page - 1) * PAGE_ROWS,
            **bounds,
        )
        self.bounded = [name[4:] for name in _BOUNDS if name in self.values]
        asked = (self.query.sort, *self.bounded)
        self.change = next((name for name in asked if name in ("ifd_change", "r_ifd_change")), None)

    def address(self, **changes: object) -> str:
        """The list with some values changed; None takes one away. It begins at the first page."""
        return address(**{**self.values, "page": None, **changes})

    def _read(self, name: str, read: Callable[[str], _Value | None], otherwise: str) -> _Value | None:
        """The value of a name; None where there is none, or none that makes sense."""
        text = self.values.get(name)
        value = None if text is None else read(text)
        if text is not None and value is None:
            self.problems[name] = f"“{text[:40]}{'…' if text[40:] else ''}” is {otherwise}"
        return value

    def _whole(self, name: str, least: int, most: int) -> int | None:
        def read(text: str) -> int | None:
            is_number = text.isascii() and text.isdecimal() and len(text) < 10
            return int(text) if is_number and least <= int(text) <= most else None

        return self._read(name, read, f"no whole number from {least:,d} to {most:,d}")

    def _choice(self, name: str) -> Any:
        choices = {choice: choice for choice in _CHOICES[name]}
        return self._read(name, choices.get, f"none of {', '.join(choices)}")


def _read_number(text: str) -> float | None:
    try:
        value = float(text.replace("−", "-"))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def address(**values: object) -> str:
    """The address of a list of samples."""
    asked = {name: value for name, value in values.items() if value not in (None, "")}
    return "/samples" + (f"?{urlencode(asked, errors='replace')}" if asked else "")
