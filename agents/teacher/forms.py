"""The two forms of an answer: text between tags, and a JSON object. Finds answers in what a teacher wrote.

Tags carry a nonce, which data cannot fake. Nothing here knows prompts, or whether an answer is any good.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from reflectune.state.records import Phase
from reflectune.state.text import clean_text

__all__ = [
    "FIELDS", "answer_schema", "find_json", "find_members", "find_tags", "hide_answers",
    "join_spaces", "read_json",
]  # fmt: skip

# What an answer holds besides the critique: key of the JSON form -> tag of the tagged form.
FIELDS: dict[str, dict[str, str]] = {
    "instruction": {"instruction": "new-instruction", "response": "new-response"},
    "response": {"response": "new-response"},
}
# A JSON object, roughly: what nests deeper than this is no answer. Possessive and of bounded depth, so that
# no text takes long, and no error is raised at every brace of one.
_OUTSIDE = r'[^"\\{}\[\]]++'
_STRING = r'"(?:[^"\\]++|\\.)*+"'
_INSIDE = f"{_OUTSIDE}|{_STRING}"
for _depth in range(3):
    _INSIDE = rf"{_OUTSIDE}|{_STRING}|[\[{{](?:{_INSIDE})*+[\]}}]"
_OBJECT = re.compile(rf"\{{(?=\s*\")(?:{_INSIDE})*+\}}", re.DOTALL)
# A key of an answer and its text, as JSON in a pair may hold them.
_MEMBER = re.compile(r'(?="(instruction|response)"\s*:\s*("(?:[^"\\]++|\\.)*+"))', re.DOTALL)
_ESCAPES = re.compile(r'(?:\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})+')
_DEEPEST = 4  # raw, and in three strings within each other, as a tool call may hold it
# \beta, \frac, \times, \right, \nabla and the like, whose backslash JSON took for an escape.
_MISREAD = re.compile(
    r"\x08(?:eta\b|inom\{|ar\{|egin\{|oxed\{|f\{)|\x0c(?:rac\{|orall\b)"
    r"|\t(?:ext(?:bf|it|rm|tt|sf)?\{|imes\b|heta\b|frac\{)|\r(?:ightarrow|ight\b|ho\b|angle\b)|\nabla\b"
)
_FENCE = re.compile(r"\A```\w*|```\Z")


def answer_schema(phase: Phase) -> dict[str, Any]:
    """JSON schema of an answer in structured form; the critique comes first, to guide the rest."""
    keys = ["critique", *FIELDS[phase]]
    return {
        "type": "object",
        "properties": {key: {"type": "string"} for key in keys},
        "required": keys,
        "additionalProperties": False,
    }


def find_tags(text: str, nonce: str, fields: Mapping[str, str]) -> list[dict[str, str]]:
    """The last answer between tags whose fields are all there, in any order; none where there is none."""
    keys = {"critique": "critique"} | {tag: key for key, tag in fields.items()}
    opened: dict[str, int] = {}
    blocks: dict[str, tuple[int, int]] = {}  # of the answer that is being read
    complete: dict[str, tuple[int, int]] = {}
    for mark in _find_marks(text, nonce, fields):
        key = keys[mark[2]]
        if not mark[1]:
            opened[key] = mark.end()
            if key in blocks:
                blocks = {}
        elif key in opened:
            blocks[key] = opened[key], mark.start()
            if fields.keys() <= blocks.keys():
                complete = blocks
    if not complete:
        return []
    complete = {"critique": (0, 0)} | complete
    return [{key: clean_text(text[start:end]).strip() for key, (start, end) in complete.items()}]


def _find_marks(text: str, nonce: str, fields: Mapping[str, str]) -> Iterator[re.Match[str]]:
    """Where tags open and close: a slash or nothing, and the tag's name."""
    # One pattern for all nonces: to compile one takes longer than to search.
    pattern = rf"<(/?)(critique|{'|'.join(fields.values())})-([^<>]*)>"
    return (mark for mark in re.finditer(pattern, text) if mark[3] == nonce)


def find_json(text: str, fields: Mapping[str, str]) -> list[dict[str, str]]:
    """All answers that are JSON objects, in their order."""
    return [answer for _, answer in _find_objects(text, fields)]


def hide_answers(text: str, nonce: str, fields: Mapping[str, str]) -> str:
    """The text with blanks for all that stands between tags, and for answers that are JSON objects.

    A tag that opens again begins anew, as in `find_tags`.
    """
    spans = [match.span() for match, _ in _find_objects(text, fields)]
    opened: dict[str, int] = {}
    for mark in _find_marks(text, nonce, fields):
        if not mark[1]:
            opened[mark[2]] = mark.end()
        elif (start := opened.pop(mark[2], None)) is not None:
            spans.append((start, mark.start()))
    shown = list(text)
    for start, end in spans:
        shown[start:end] = " " * (end - start)
    return "".join(shown)


def read_json(text: str, fields: Mapping[str, str]) -> list[dict[str, str]]:
    """The answer that a whole text is, white space and a code fence aside; none where it is not one."""
    match = _OBJECT.fullmatch(_FENCE.sub("", text.strip()).strip())
    return _read_object(match[0], fields) if match else []


def _find_objects(text: str, fields: Mapping[str, str]) -> Iterator[tuple[re.Match[str], dict[str, str]]]:
    """JSON objects that are answers, as they stand in a text, with what they say."""
    start = 0
    while match := _OBJECT.search(text, start):
        answer = _read_object(match[0], fields)
        yield from ((match, each) for each in answer)
        start = match.end() if answer else match.start() + 1


def _read_object(source: str, fields: Mapping[str, str]) -> list[dict[str, str]]:
    """The answer that a JSON object is; none where it is not one, or has LaTeX that JSON reads otherwise."""
    with suppress(ValueError):
        value = json.loads(source, strict=False)  # models leave line breaks in strings
        texts = {key: value.get(key) for key in ("critique", *fields)}
        if all(isinstance(text, str) for text in texts.values()):
            if any(_MISREAD.search(texts[key]) for key in fields):
                return []
            return [{key: clean_text(text).strip() for key, text in texts.items()}]
    return []


def find_members(text: str) -> set[tuple[str, str]]:
    """Keys of an answer and their texts wherever they stand as JSON, raw or in strings within strings.

    They need be in no whole object. White space in the texts is single spaces.
    """
    found = set()
    for _ in range(_DEEPEST):
        for match in _MEMBER.finditer(text):
            with suppress(ValueError):
                found.add((match[1], join_spaces(clean_text(json.loads(match[2], strict=False)))))
        text = _ESCAPES.sub(lambda escapes: clean_text(json.loads(f'"{escapes[0]}"')), text)
    return found


def join_spaces(text: str) -> str:
    """A text with all its white space made single spaces."""
    return " ".join(text.split())
