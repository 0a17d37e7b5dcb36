"""Numbers and words as pages show them: with units, and None as a dash, never as a score."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import PurePath
from typing import Any

from jinja2 import Environment

from reflectune.loop.show.numbers import format_measure, held_out_unit
from reflectune.state.text import one_line

__all__ = ["install_formats"]

# Characters of a text that a page shows beside a link to the whole.
_MOST_SHOWN = 20_000
_STOPS = {
    "rounds": "all its rounds are done",
    "no-proposals": "the teacher proposed nothing in the last round",
    "nothing-accepted": "nothing was accepted in the last round",
    "min-acceptance": "too few proposals were accepted (stop.min_acceptance)",
    "max-drop": "the held-out measure dropped too far (stop.max_drop)",
    "patience": "the held-out measure did not improve (stop.patience)",
    "budget": "the teacher's budget is spent",
}


def install_formats(environment: Environment) -> None:
    """Give an environment the filters of the browser's pages."""
    environment.filters |= {
        "count": count,
        "measure": format_measure,
        "change": lambda value: format_measure(value, "+"),
        "times": times,
        "seconds": seconds,
        "usd": usd,
        "clock": clock,
        "date": date,
        "measure_name": lambda name: name.replace("_", " "),
        "measure_unit": held_out_unit,
        "held_out": held_out,
        "value": value,
        "interval": interval,
        "one_line": one_line,
        "zip": zip,
        "model_name": model_name,
        "shown": lambda text: text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} […]",
        "stop": lambda reason: _STOPS.get(reason, reason),
    }


def model_name(model: str | None) -> str:
    """A model by the end of its path, or by its name on a hub."""
    if not model:
        return "-"
    return PurePath(model).name if model.startswith("/") else model


def count(value: int | None) -> str:
    """A number of things."""
    return "-" if value is None else f"{value:,d}"


def times(value: float | None) -> str:
    """A ratio."""
    return "-" if value is None else f"× {value:.2f}"


def seconds(value: float | None) -> str:
    """A time in seconds, minutes or hours."""
    if value is None:
        return "-"
    if round(value, 1) < 60:
        return f"{value:.1f} s"
    if (whole := round(value)) < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(value / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def usd(value: float | None) -> str:
    """An amount of US dollars."""
    return "-" if value is None else f"${value:,.4f}" if value < 1 else f"${value:,.2f}"


def clock(moment: datetime) -> str:
    """When something was read."""
    return f"{moment:%H:%M:%S}"


def date(text: str | None) -> str:
    """A stored time, to the minute, in this machine's zone."""
    return "-" if text is None else f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M}"


def value(evaluation: Mapping[str, Any]) -> str:
    """A held-out measure with its unit."""
    return f"{_form(evaluation, evaluation['value'])} {held_out_unit(evaluation['name'])}".strip()


def held_out(evaluation: Mapping[str, Any] | None) -> str:
    """A held-out measure without its unit, and its 95 % interval in brackets."""
    if evaluation is None:
        return "-"
    shown = _form(evaluation, evaluation["value"])
    return f"{shown} ({bounds})" if (bounds := _bounds(evaluation)) else shown


def interval(evaluation: Mapping[str, Any]) -> str:
    """The interval of a held-out measure, with what it is; empty where there is none."""
    return f"95 % interval {bounds}; " if (bounds := _bounds(evaluation)) else ""


def _bounds(evaluation: Mapping[str, Any]) -> str:
    low, high = evaluation["low"], evaluation["high"]
    return "" if None in (low, high) else f"{_form(evaluation, low)} to {_form(evaluation, high)}"


def _form(evaluation: Mapping[str, Any], number: float) -> str:
    return f"{number:.1%}" if evaluation["name"] == "accuracy" else f"{number:.3f}"
