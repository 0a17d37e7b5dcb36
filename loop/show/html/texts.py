"""The texts of a sample as pages show them: runs of words that stay, go or come, and what is left out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from reflectune.loop.show.diffs import Run, diff_words, fold_changes
from reflectune.loop.show.journey import TEXTS
from reflectune.loop.show.turns import ShownTurn, fold_turns
from reflectune.state.lineage.documents import VersionDocument

__all__ = ["Text", "cut_text", "cut_texts", "fold_text", "fold_texts", "shorten_turns"]

# Characters that are shown in the browser, which links to whole texts, and in a report; that are compared.
_MAX_SHOWN, _MAX_FOLDED, _MAX_COMPARED = 20_000, 1_600, 6_000

# Turns of a context that are shown, and characters of each.
_MAX_TURNS, _OF_TURN = 100, 1_600

# Two texts are compared once, for both kinds of diff and for whoever turns the pages back and forth.
_diff = lru_cache(maxsize=256)(diff_words)


@dataclass(frozen=True, slots=True)
class Text:
    """One text of a version."""

    name: str
    runs: Sequence[Run]
    is_changed: bool  # from its parent's
    length: int  # characters
    cut: int  # characters at its end that are not shown


def cut_texts(
    version: VersionDocument, parent: VersionDocument | None = None, most: int = _MAX_SHOWN
) -> list[Text]:
    """The texts of a version with what changed from its parent's; the end of a long one is cut off."""
    return [
        _cut(name, version[name], (parent or version)[name], most)
        for name in TEXTS
        if version[name] or (parent and parent[name])
    ]


def _cut(name: str, new: str, old: str, most: int) -> Text:
    if new == old:
        return Text(name, [("same", new[:most])], False, len(new), max(0, len(new) - most))
    changes = list(_diff(old[:_MAX_COMPARED], new[:_MAX_COMPARED]))
    # Where one text is cut, the end of the other seems to differ.
    doubtful = {side for side, text in (("added", old), ("removed", new)) if len(text) > _MAX_COMPARED}
    if end := max((place for place, (change, _) in enumerate(changes, 1) if change == "same"), default=0):
        changes = changes[:end] + [run for run in changes[end:] if run[0] not in doubtful]
    come = sum(len(text) for change, text in changes if change != "removed")
    gone = sum(len(text) for change, text in changes if change != "added")
    return Text(name, changes, True, len(new), max(len(new) - come, len(old) - gone))


def cut_text(text: str, most: int = _MAX_SHOWN) -> list[Run]:
    """A text that is no version's; the end of a long one is cut off."""
    runs: list[Run] = [("same", text[:most])]
    return [*runs, ("left out", f"{len(text) - most:,} more characters")] if text[most:] else runs


def fold_texts(version: VersionDocument, parent: VersionDocument | None = None) -> list[Text]:
    """The texts of a version, or those that it changed from its parent's, each in a few lines."""
    texts = cut_texts(version, parent, _MAX_FOLDED)
    return [
        replace(text, runs=list(fold_changes(text.runs)) if text.is_changed else text.runs)
        for text in texts
        if text.is_changed or parent is None
    ]


def fold_text(text: str) -> list[Run]:
    """The beginning of a text."""
    return cut_text(text, _MAX_FOLDED)


def shorten_turns(
    turns: Sequence[ShownTurn], most: int = _MAX_TURNS, of_each: int = _OF_TURN
) -> list[tuple[ShownTurn, list[Run]]]:
    """The turns of a context that are shown, each with how its text begins."""
    return [(turn, cut_text(turn.text, of_each)) for turn in fold_turns(turns, most)]
