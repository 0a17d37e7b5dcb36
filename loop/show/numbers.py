"""How numbers and values are written, wherever they are shown. None is a dash, never a score."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from reflectune.state.records import content_part

__all__ = [
    "as_sentence", "format_apart", "format_count", "format_held_out", "format_measure", "format_moment",
    "format_number", "format_seconds", "format_setting", "format_share", "format_share_of",
    "format_short", "format_times", "format_usd", "format_with_interval", "held_out_unit",
    "is_share", "name_held_out", "name_version",
]  # fmt: skip

# Units of held-out measures.
_UNITS = {"accuracy": "right answers", "nll": "nats per token", "response_tokens": "tokens"}
_WINS = "win_rate_"


def format_number(value: float | None, form: str) -> str:
    """A number by a format specification."""
    return "-" if value is None else format(value, form)


def format_count(value: int | None) -> str:
    """A number of things."""
    return format_number(value, ",d")


def format_share(value: float | None) -> str:
    """A share in percent."""
    return format_number(value, ".0%")


def format_share_of(part: float, whole: float) -> str:
    """The share of a part in percent; a dash where there is no whole."""
    return format_share(part / whole if whole else None)


def format_times(value: float | None) -> str:
    """A ratio."""
    return "-" if value is None else f"×{value:.2f}"


def format_short(value: float) -> str:
    """A number in at most about five characters."""
    for least, unit, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / unit:.3g}{letter}"
    return f"{value:,.4g}"


# What scores and students measure


def format_measure(value: float | None, sign: str = "", more: int = 0) -> str:
    """IFD, r-IFD or, with `sign` "+", a change of one; no number that is not 0 as 0.

    It has `more` decimals than its size asks for.
    """
    if value is None:
        return "-"
    size = abs(value)
    decimals, kind = (2, "e") if size < 0.001 or size >= 100_000 else (4, "f") if size < 10 else (1, "f")
    return format(value, f"{sign}.{decimals + more}{kind}") if size else "0"


def format_apart(one: float | None, other: float | None) -> tuple[str, str]:
    """Two measures that are compared, with so many decimals that they look different where they are."""
    for more in range(17):
        written = format_measure(one, more=more), format_measure(other, more=more)
        if one == other or written[0] != written[1]:
            break
    return written


def format_held_out(name: str, value: float | None, sign: str = "") -> str:
    """A held-out measure, or a change of one with `sign` "+": shares in percent, others by their size."""
    if value is None:
        return "-"
    size = abs(value)
    form = ".1%" if is_share(name) else ".3f" if size < 10 else ".1f" if size < 1000 else ".0f"
    return format(value, sign + form)


def format_with_interval(evaluation: Mapping[str, Any] | None) -> str:
    """A held-out measure of {name, value, low, high}, and its 95 % interval in brackets if it has one."""
    if evaluation is None:
        return "-"
    name, low, high = evaluation["name"], evaluation["low"], evaluation["high"]
    value = format_held_out(name, evaluation["value"])
    if low is None or high is None:
        return value
    return f"{value} ({format_held_out(name, low)} to {format_held_out(name, high)})"


def name_held_out(name: str) -> str:
    """A held-out measure as people read it; an LC win rate is length-controlled."""
    kind, wins, opponent = name.partition(_WINS)
    return f"{'LC ' if kind else ''}win rate against {opponent}" if wins else name.replace("_", " ")


def is_share(name: str) -> bool:
    """Whether a held-out measure is a share, from 0 to 1."""
    return name == "accuracy" or _WINS in name


def held_out_unit(name: str) -> str:
    """The unit of a held-out measure; empty where it is not known."""
    return "wins, a tie half" if _WINS in name else _UNITS.get(name, "")


def name_version(id: str) -> str:
    """A version beside the others of its sample."""
    return content_part(id)[:12]


def format_setting(value: object, unset: str = "-") -> str:
    """A value of the config."""
    return unset if value is None else value if isinstance(value, str) else json.dumps(value)


def as_sentence(text: str) -> str:
    """A text with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


# Time and money


def format_seconds(value: float | None) -> str:
    """A time in seconds, minutes or hours."""
    if value is None:
        return "-"
    if round(value, 1) < 60:
        return f"{value:.1f} s"
    if (whole := round(value)) < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(value / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def format_usd(value: float | None) -> str:
    """An amount of US dollars."""
    return "-" if value is None else f"${value:,.4f}" if value < 1 else f"${value:,.2f}"


def format_moment(stored: str | None, *, utc: bool = False) -> str:
    """A stored time, to the minute: in this machine's zone, or in UTC where any zone may read it."""
    if stored is None:
        return "-"
    moment = datetime.fromisoformat(stored)
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if utc else f"{moment.astimezone():%Y-%m-%d %H:%M}"
