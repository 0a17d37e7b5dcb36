"""What changed between two texts, word by word; and text of unknown origin made safe to print."""

import difflib
import re
from typing import Literal

from rich.text import Text

__all__ = ["diff_words", "inert", "render_diff"]

Change = Literal["same", "removed", "added"]

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
_SENTENCES = re.compile(r"[^.!?\n]*[.!?\n]+\s*|[^.!?\n]+")
# Comparing takes the product of the lengths: beyond this, whole sentences are compared.
_MOST_COMPARISONS = 4_000_000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_STYLES = {"same": "", "removed": "red strike", "added": "green"}


def diff_words(old: str, new: str) -> list[tuple[Change, str]]:
    """The way from `old` to `new` as runs of words (sentences, in long texts) that stay, go or come.

    Joining all runs but "added" gives `old`, all but "removed" gives `new`.
    """
    before, after = _WORDS.findall(old), _WORDS.findall(new)
    if len(before) * len(after) > _MOST_COMPARISONS:
        before, after = _SENTENCES.findall(old), _SENTENCES.findall(new)
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    changes: list[tuple[Change, str]] = []
    removed = added = ""
    for opcode, start, end, new_start, new_end in matcher.get_opcodes():
        gone, come = "".join(before[start:end]), "".join(after[new_start:new_end])
        if opcode == "equal" and not (gone.isspace() and (removed or added)):
            changes += _changes(removed, added)
            changes.append(("same", gone))
            removed = added = ""
        else:  # a space between two changes belongs to both
            removed, added = removed + gone, added + come
    return changes + _changes(removed, added)


def _changes(removed: str, added: str) -> list[tuple[Change, str]]:
    pairs: tuple[tuple[Change, str], ...] = (("removed", removed), ("added", added))
    return [(change, text) for change, text in pairs if text]


def render_diff(old: str, new: str, *, colour: bool) -> Text:
    """A word diff for a terminal: coloured, or marked [-gone-] and {+come+} where there is no colour."""
    marks = {"same": "{}", "removed": "[-{}-]", "added": "{{+{}+}}"}
    rendered = Text()
    for change, text in diff_words(old, new):
        text = inert(text)
        rendered.append(text if colour else marks[change].format(text), style=_STYLES[change])
    return rendered


def inert(text: str) -> str:
    """The text with control and direction characters replaced, so that a terminal only shows it."""
    return _CONTROL.sub("\ufffd", text)
