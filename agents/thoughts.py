"""Thoughts in what a model wrote: where they begin and end. They are no part of an answer.

Knows the marks of common models only: tags such as <think>, [THINK] of Magistral, START_THINKING of Command,
<|channel>thought of Gemma 4, the channels of gpt-oss, also where a server drops their marks ("analysisWe need
...assistantfinal").
What opens a thought and what ends it need not have the same name.
"""

import re
from collections.abc import Sequence
from typing import Any

__all__ = [
    "begins_with_thought", "decode_written", "drop_empty_thought", "drop_thoughts", "find_opened", "has_mark",
    "is_tag", "mark_thought", "skip_thought",
]  # fmt: skip

# Tags that chat templates write; nobody means anything else by them.
_BEGIN_TAG = r"<(?:seed:)?think>|\[THINK\]|<\|START_THINKING\|>|<\|channel>(?:thought)?"
_END_TAG = r"</(?:seed:)?think>|\[/THINK\]|<\|END_THINKING\|>|<channel\|>"
_WORDS = "(?:thinking|thought|reasoning)"
_TO = r"[^\n]{0,60}?<\|message\|>"  # a channel's name may be followed by a recipient or a format
_HEAD = r"(?:<\|start\|>assistant)?<\|channel\|>"
_BEGIN = rf"{_BEGIN_TAG}|<{_WORDS}>|{_HEAD}(?:analysis|commentary){_TO}|\Aanalysis(?=[A-Z])"
_END = rf"{_END_TAG}|</{_WORDS}>|{_HEAD}final{_TO}|assistantfinal"
_MARK = re.compile(rf"(?P<begin>{_BEGIN})|{_END}")
_OPENED = re.compile(rf"(?:{_BEGIN})\s*\Z")
_BEGUN = re.compile(rf"\s*(?:{_BEGIN_TAG})")
_EMPTY = re.compile(rf"(?:(?:{_BEGIN_TAG})\s*)?(?:{_END_TAG})\s*\Z")
_CHANNEL = ("<|channel|>", "<|message|>")


def drop_thoughts(text: str, shown: str) -> str:
    """A text without the thoughts in it.

    A mark ends the thought that was begun before it, or where none was, all that stands before it: chat
    templates may have opened the thought. One that begins the text and does not end leaves nothing. Any
    other mark is a word of the text.

    Args:
        text: what a model wrote.
        shown: the same, with blanks in place of whatever is none of its own words. Only marks in it count.
    """
    kept: list[str] = []
    start = 0
    begun: int | None = None
    for mark in _MARK.finditer(shown):
        if mark["begin"] is not None:
            begun = mark.start() if begun is None else begun
        elif begun is None:
            kept, start = [], mark.end()
        else:
            kept.append(text[start:begun])
            start, begun = mark.end(), None
    if begun is not None and not "".join([*kept, text[start:begun]]).strip():
        return ""
    return "".join([*kept, text[start:]])


def mark_thought(text: str) -> str:
    """A thought that came without marks, as one that begins and does not end: all marks in it go."""
    return "<think>\n" + _MARK.sub(" ", text)


def skip_thought(text: str) -> str:
    """What stands behind the thought that a text begins with, if it does; nothing where that has no end."""
    if not begins_with_thought(text):
        return text
    end = next((mark.end() for mark in _MARK.finditer(text) if mark["begin"] is None), len(text))
    return text[end:].strip()


def begins_with_thought(text: str) -> bool:
    """Whether a text begins with a tag of thoughts; words that may well be an answer's own do not count."""
    return _BEGUN.match(text) is not None


def drop_empty_thought(prompt: str) -> str:
    """A prompt without the empty thought, or its end alone, that it ends in."""
    return _EMPTY.sub("", prompt)


def is_tag(token: str) -> bool:
    """Whether a token is a tag of thoughts as chat templates write them."""
    return re.fullmatch(rf"{_BEGIN_TAG}|{_END_TAG}", token) is not None


def find_opened(prompt: str) -> str:
    """The mark of the thought that a prompt ends in; empty where it ends in none."""
    found = _OPENED.search(prompt)
    return found[0] if found else ""


def has_mark(text: str) -> bool:
    """Whether a thought begins or ends in a text."""
    return _MARK.search(text) is not None


def decode_written(tokenizer: Any, ids: Sequence[int]) -> str:
    """What a model wrote, without special tokens, but for those that mark thoughts."""
    added = tokenizer.added_tokens_decoder
    unseen = {id for id in ids if id in added and added[id].special and not _is_mark(added[id].content)}
    seen = [id for id in ids if id not in unseen]
    return str(tokenizer.decode(seen, clean_up_tokenization_spaces=False))


def _is_mark(token: str) -> bool:
    """Whether a token marks a thought, by itself or with others."""
    return token in _CHANNEL or _MARK.fullmatch(token) is not None
