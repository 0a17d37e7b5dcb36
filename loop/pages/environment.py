"""How texts and numbers get into HTML: escaped, inert, with units; the same in a report and in a browser."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from loop.sentences import say_decision, say_failure
from loop.tables import format_number, format_share
from loop.words import diff_words
from state.text import inert

__all__ = ["PAGES", "install_filters", "open_environment"]

PAGES = Path(__file__).parent

_TAGS = {"same": "{}", "removed": "<del>{}</del>", "added": "<ins>{}</ins>"}


def open_environment() -> Environment:
    """A Jinja environment over `templates/` that escapes everything and knows no undefined name."""
    environment = Environment(
        loader=FileSystemLoader(PAGES / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    install_filters(environment)
    return environment


def install_filters(environment: Environment) -> None:
    """Give an environment the filters `number`, `share`, `words`, `decision` and `failure`."""
    environment.filters |= {
        "number": format_number,
        "share": format_share,
        "words": mark_words,
        "decision": say_decision,
        "failure": say_failure,
        "inert": inert,
    }


def mark_words(new: str, old: str) -> Markup:
    """A word diff as HTML: what went in <del>, what came in <ins>."""
    return Markup("").join(
        Markup(_TAGS[change]).format(inert(text)) for change, text in diff_words(old, new)
    )


def _finalize(value: Any) -> Any:
    """Texts of unknown origin become inert wherever a template puts them."""
    return inert(value) if isinstance(value, str) and not isinstance(value, Markup) else value
