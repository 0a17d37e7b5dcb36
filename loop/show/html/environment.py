"""How numbers and texts get into HTML: with units, escaped and inert, in a report as in a browser."""

from functools import partial
from pathlib import Path, PurePath
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reflectune.loop.show import numbers, rounds
from reflectune.loop.show.explanations import (
    count_things,
    explain_given,
    explain_score,
    explain_signal,
    explain_skipped,
    name_outcome,
)
from reflectune.state.config import flatten
from reflectune.state.text import inert, one_line, to_json

__all__ = ["STATIC", "open_environment"]

_FOLDER = Path(__file__).parent
STATIC = _FOLDER / "static"


def open_environment(*, utc: bool = False) -> Environment:
    """A Jinja environment over `templates/` that escapes everything and knows no undefined name.

    Times are of this machine's zone, or UTC for whoever reads the page elsewhere.
    """
    environment = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_make_inert,
    )
    environment.filters |= {
        "calls": rounds.tabulate_calls,
        "change": partial(numbers.format_measure, sign="+"),
        "count": numbers.format_count,
        "failures": rounds.tabulate_failures,
        "flatten": flatten,
        "given": explain_given,
        "held_out": numbers.format_with_interval,
        "held_out_name": numbers.name_held_out,
        "held_out_unit": numbers.held_out_unit,
        "judging": rounds.tabulate_judging,
        "json": partial(to_json, indent=1),
        "measure": numbers.format_measure,
        "model_name": _name_model,
        "moment": partial(numbers.format_moment, utc=utc),
        "number": numbers.format_number,
        "one_line": one_line,
        "outcome_name": name_outcome,
        "score": explain_score,
        "seconds": numbers.format_seconds,
        "sentence": numbers.as_sentence,
        "servers": rounds.tabulate_servers,
        "setting": numbers.format_setting,
        "share": numbers.format_share,
        "share_of": numbers.format_share_of,
        "signal": explain_signal,
        "skipped": explain_skipped,
        "steps": rounds.tabulate_steps,
        "things": count_things,
        "times": numbers.format_times,
        "usd": numbers.format_usd,
        "version_name": numbers.name_version,
        "zip": zip,
    }
    return environment


def _make_inert(value: Any) -> Any:
    """Texts of unknown origin become inert wherever a template puts them."""
    return inert(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _name_model(model: str | None) -> str:
    """A model by the end of its path, or by its name on a hub."""
    if not model:
        return "-"
    return PurePath(model).name if model.startswith("/") else model
