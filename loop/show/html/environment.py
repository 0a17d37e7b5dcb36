"""How texts and numbers get into HTML: escaped, inert, with units; the same in a report and in a browser."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reflectune.loop.show.diffs import diff_words
from reflectune.loop.show.html.formats import install_formats
from reflectune.loop.show.numbers import format_number, format_share
from reflectune.state.text import inert

__all__ = ["STATIC", "mark_sides", "mark_words", "open_environment"]

_FOLDER = Path(__file__).parent
STATIC = _FOLDER / "static"

# Two texts are compared once for both kinds of diff, and for whoever turns the pages back and forth.
_compare = lru_cache(maxsize=256)(diff_words)
_TAGS = {"same": "{}", "removed": "<del>{}</del>", "added": "<ins>{}</ins>"}


def open_environment() -> Environment:
    """A Jinja environment over `templates/` that escapes everything and knows no undefined name."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters |= {"number": format_number, "share": format_share}
    install_formats(environment)
    return environment


def mark_words(new: str, old: str) -> Markup:
    """A word diff as HTML: what went in <del>, what came in <ins>."""
    return _mark(new, old, "same", "removed", "added")


def mark_sides(new: str, old: str) -> tuple[Markup, Markup]:
    """Both texts of a word diff as HTML: the old one with what went, the new one with what came."""
    return _mark(new, old, "same", "removed"), _mark(new, old, "same", "added")


def _mark(new: str, old: str, *kinds: str) -> Markup:
    return Markup("").join(
        Markup(_TAGS[change]).format(inert(text)) for change, text in _compare(old, new) if change in kinds
    )


def _finalize(value: Any) -> Any:
    """Texts of unknown origin become inert wherever a template puts them."""
    return inert(value) if isinstance(value, str) and not isinstance(value, Markup) else value
