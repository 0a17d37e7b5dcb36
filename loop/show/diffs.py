"""What changed between two texts, word by word."""

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

__all__ = ["Change", "Run", "diff_words", "fold_changes"]

Change = Literal["same", "removed", "added"]
Run = tuple[Change | Literal["left out"], str]

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
_SENTENCES = re.compile(r"[^.!?\n]*[.!?\n]+\s*|[^.!?\n]+")
_TEXT = re.compile(r".+", re.DOTALL)
# Comparing takes time for every pair of equal pieces, and for every pair of pieces where changes are many:
# beyond these, whole sentences are compared, and then whole texts.
_MAX_EQUAL_PAIRS = 2_000_000
_MAX_PAIRS = 25_000_000
# Characters of what comes, and of what stays or goes, where changes are folded.
_MAX_ADDED, _MAX_STRETCH = 1_600, 400


def diff_words(old: str, new: str) -> list[tuple[Change, str]]:
    """The way from `old` to `new` as runs of words that stay, go or come.

    Where long texts differ in many places, the runs are of sentences, or one text replaces the other. Joining
    all runs but "added" gives `old`, all but "removed" gives `new`.
    """
    changes: list[tuple[Change, str]] = []
    removed = added = ""
    for gone, come in _align(old, new):
        if gone == come and not (gone.isspace() and (removed or added)):
            changes += _changes(removed, added)
            changes.append(("same", gone))
            removed = added = ""
        else:  # a space between two changes belongs to both
            removed, added = removed + gone, added + come
    return changes + _changes(removed, added)


def _align(old: str, new: str) -> Iterator[tuple[str, str]]:
    """What stands in the one text for what in the other, in order; equal where nothing changed."""
    for pieces in (_WORDS, _SENTENCES, _TEXT):
        before, after = pieces.findall(old), pieces.findall(new)
        head = _count_equal(before, after)
        tail = _count_equal(before[head:][::-1], after[head:][::-1])
        differing = before[head : len(before) - tail], after[head : len(after) - tail]
        if _is_quick(*differing):
            break
    if head:
        yield "".join(before[:head]), "".join(after[:head])
    matcher = difflib.SequenceMatcher(str.isspace, *differing, autojunk=False)
    for _, start, end, new_start, new_end in matcher.get_opcodes():
        yield "".join(differing[0][start:end]), "".join(differing[1][new_start:new_end])
    if tail:
        yield "".join(before[len(before) - tail :]), "".join(after[len(after) - tail :])


def _is_quick(before: Sequence[str], after: Sequence[str]) -> bool:
    """Whether two lists of pieces can be compared in a second or two."""
    if len(before) * len(after) > _MAX_PAIRS:
        return False
    counts = Counter(after)
    return sum(counts[piece] for piece in before) <= _MAX_EQUAL_PAIRS


def _count_equal(one: Sequence[str], other: Sequence[str]) -> int:
    """How many pieces two texts begin with alike."""
    differing = (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))


def _changes(removed: str, added: str) -> list[tuple[Change, str]]:
    pairs: tuple[tuple[Change, str], ...] = (("removed", removed), ("added", added))
    return [(change, text) for change, text in pairs if text]


def fold_changes(runs: Sequence[Run]) -> Iterator[Run]:
    """The beginning of what goes and comes, and both ends of what stays."""
    for change, text in runs:
        most = _MAX_ADDED if change == "added" else _MAX_STRETCH
        if len(text) <= most:
            yield change, text
        elif change == "same":
            yield change, text[: most // 4]
            yield "left out", f"{len(text) - most // 2:,} characters as before"
            yield change, text[-most // 4 :]
        else:
            yield change, text[:most]
            yield "left out", f"{len(text) - most:,} more characters {change}"
