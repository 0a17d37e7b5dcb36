"""The texts of a version as pages show them: runs of words that stay, go or come, and what is left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from reflectune.loop.show.diffs import Change, diff_words
from reflectune.loop.show.journey import TEXTS

__all__ = ["Run", "Text", "cut_text", "cut_texts", "fold_change", "fold_text", "fold_texts"]

Document = Mapping[str, Any]
Run = tuple[Change | Literal["left out"], str]

# Of the browser, which links to whole texts: characters that are shown, and that are compared.
_MAX_SHOWN, _MAX_COMPARED = 20_000, 6_000
# Of a report: characters that are compared, that are shown, and of a stretch that stays or goes.
_MAX_FOLD_COMPARED, _MAX_FOLD_SHOWN, _MAX_STRETCH = 20_000, 1_600, 400

# Two texts are compared once, for both kinds of diff and for whoever turns the pages back and forth.
_diff = lru_cache(maxsize=256)(diff_words)


@dataclass(frozen=True, slots=True)
class Text:
    """One text of a version."""

    name: str
    runs: Sequence[Run]
    is_changed: bool  # from its parent's
    length: int  # characters
    cut: int = 0  # characters at its end that are not shown


def cut_texts(version: Document, parent: Document | None = None) -> list[Text]:
    """The texts of a version with what changed from its parent's; the end of a long one is cut off."""
    return [
        _cut(name, version[name], version[name] if parent is None else parent[name])
        for name in TEXTS
        if version[name] or (parent is not None and parent[name])
    ]


def _cut(name: str, new: str, old: str) -> Text:
    is_changed = old != new
    room = _MAX_COMPARED if is_changed else _MAX_SHOWN
    runs = _diff(old[:room], new[:room]) if is_changed else cut_text(new)
    return Text(name, runs, is_changed, len(new), max(0, len(new) - room, len(old) - room))


def cut_text(text: str) -> list[Run]:
    """A text that is no version's; the end of a long one is cut off."""
    runs: list[Run] = [("same", text[:_MAX_SHOWN])]
    return [*runs, ("left out", f"{len(text) - _MAX_SHOWN:,} more characters")] if text[_MAX_SHOWN:] else runs


def fold_texts(version: Document, parent: Document | None = None) -> list[Text]:
    """The texts of a version, or those that it changed from its parent's, each in a few lines."""
    if parent is None:
        return [
            Text(name, fold_text(version[name]), False, len(version[name])) for name in TEXTS if version[name]
        ]
    return [
        Text(name, fold_change(parent[name], version[name]), True, len(version[name]))
        for name in TEXTS
        if parent[name] != version[name]
    ]


def fold_text(text: str) -> list[Run]:
    """The beginning of a text."""
    return _fold([("same", text)], 0)


def fold_change(old: str, new: str) -> list[Run]:
    """What changed between two texts, with the beginning of what stays and goes."""
    changes = diff_words(old[:_MAX_FOLD_COMPARED], new[:_MAX_FOLD_COMPARED])
    if all(change != "same" for change, _ in changes):
        gone = max(len(old) - _MAX_FOLD_COMPARED, 0)
    else:
        gone = 0  # what is beyond may be in both
        while max(len(old), len(new)) > _MAX_FOLD_COMPARED and changes[-1][0] != "same":
            changes.pop()  # where texts were cut they seem to end differently
    come = len(new) - sum(len(text) for change, text in changes if change != "removed")
    return _fold(changes, come, gone)


def _fold(changes: Sequence[tuple[Change, str]], left: int, removed: int = 0) -> list[Run]:
    """Long unchanged and removed stretches folded, and what is beyond a few lines only counted.

    `left` and `removed` are characters beyond the changes that are known to be there, or to be removed.
    """
    runs: list[Run] = []
    room = _MAX_FOLD_SHOWN
    for place, (change, text) in enumerate(changes):
        if change == "removed":
            shown = text[:_MAX_STRETCH] if room > 0 else ""
            removed += len(text) - len(shown)
            runs.append((change, shown))
        elif change == "same" and len(changes) > 1 and len(text) > _MAX_STRETCH and room > 0:
            head = text[: _MAX_STRETCH // 4] if place > 0 else ""
            tail = text[-_MAX_STRETCH // 4 :] if place < len(changes) - 1 else ""
            between = f"{len(text) - len(head) - len(tail):,} characters as before"
            runs += [("same", head), ("left out", between), ("same", tail)]
            room -= len(head) + len(tail)
        else:
            shown = text[: max(room, 0)]
            room -= len(shown)
            left += len(text) - len(shown)
            runs.append((change, shown))
    notes = {"more characters": left, "more characters removed": removed}
    runs += [("left out", f"{n:,} {what}") for what, n in notes.items() if n]
    return [run for run in runs if run[1]]
