"""A chart with what it says for those who do not see it, and how its numbers are written."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Chart",
    "Document",
    "as_sentence",
    "choose_unit",
    "describe_when",
    "format_duration",
    "or_nothing",
]

Document = Mapping[str, Any]

_TIMES = (("hours", 3600.0, 2 * 3600.0), ("minutes", 60.0, 180.0), ("seconds", 1.0, 0.0))


@dataclass(frozen=True, slots=True)
class Chart:
    """One drawing, with what it says for those who do not see it."""

    name: str  # a word for addresses and ids
    title: str
    svg: str
    description: str
    head: tuple[str, ...]  # of the table below
    rows: tuple[tuple[str, ...], ...]


def describe_when(round: int) -> str:
    """When a round's numbers were so."""
    return f"after round {round}" if round else "in the given data"


def choose_unit(seconds: float) -> tuple[str, float]:
    """The unit that a time reads best in, and how many seconds it has."""
    return next((unit, per) for unit, per, least in _TIMES if seconds >= least)


def format_duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    unit, per = choose_unit(seconds)
    return f"{seconds / per:,.1f} {unit}"


def as_sentence(text: str) -> str:
    """A text with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def or_nothing(value: float | None) -> float:
    """0 for None, where a bar has no length."""
    return value or 0.0
