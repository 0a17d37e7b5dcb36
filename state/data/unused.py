"""Fields that are no part of a pair, and which of them may change what the pair means."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from reflectune.state.data.fields import Given, read_list
from reflectune.state.records import TOLD_FIELDS
from reflectune.state.text import is_empty

__all__ = ["Place", "place_fields"]

# Where a field of a row goes. "meta" is kept with the sample and harmless; "unused" is kept as well, but may
# change what the pair means, which neither teacher nor student sees.
Place = Literal["pair", "context", "meta", "ignored", "unused", "refused"]

# Words in the names of fields whose texts and lists bear on a pair, and of those whose numbers do.
_TELLING = {
    "audio", "background", "constraint", "constraints", "context", "contexts", "cot", "doc", "docs",
    "document", "documents", "evidence", "explanation", "file", "files", "functions", "history", "image",
    "images", "input", "inputs", "knowledge", "passage", "passages", "persona", "rationale", "reasoning",
    "rules", "solution", "system", "thinking", "thought", "thoughts", "tools", "video", "videos",
}  # fmt: skip
_WEIGHING = {"label", "labels", "mask", "weight", "weights"}
_LONG = 200  # characters of a text that may well matter, whatever its field is called
_LEAST = 20  # characters of a text that stands in another by no chance
_KEPT = {"rejected"}  # what was not chosen is kept beside the pair by design
_GIVEN = {"role", "content", "from", "value", *TOLD_FIELDS}  # of a turn, to teacher and student


def place_fields(row: Mapping[str, Any], given: Given, ignored: Sequence[str]) -> Iterator[tuple[str, Place]]:
    """Where each field of a row that was read goes; a field of turns is named as messages[].weight."""
    for field, value in row.items():
        if field in given.fields:
            yield field, given.fields[field]
        else:
            yield field, _place(field, field, value, given, ignored)
    for field in given.fields:
        yield from _place_in_turns(field, row.get(field), given, ignored)


def _place_in_turns(
    field: str, turns: object, given: Given, ignored: Sequence[str]
) -> Iterator[tuple[str, Place]]:
    turns = read_list(turns)
    turns = [turns] if isinstance(turns, dict) else turns
    if not isinstance(turns, list):
        return
    places: dict[str, Place] = {}
    for turn in turns:
        for name, value in turn.items() if isinstance(turn, dict) else ():
            is_told = name in _GIVEN or (name.lower() in _WEIGHING and _is_as_usual(turn, value))
            if not is_told and _place(name, f"{field}[].{name}", value, given, ignored) != "meta":
                places[name] = _place(name, f"{field}[].{name}", value, given, ignored)
    for name, place in places.items():
        yield f"{field}[].{name}", place


def _is_as_usual(turn: Mapping[str, Any], weight: object) -> bool:
    """Whether a turn's weight is what training here goes by: assistants' turns count, the others do not."""
    speaker = str(turn.get("role") or turn.get("from")).lower()
    return weight == 1 or (weight == 0 and speaker not in ("assistant", "gpt"))


def _place(name: str, shown: str, value: object, given: Given, ignored: Sequence[str]) -> Place:
    if is_empty(value) or name in _KEPT:
        return "meta"
    if shown in ignored:
        return "ignored"
    weighs, tells = _judge_name(name)
    texts = list(_texts(value))
    if weighs and value != 1:
        return "unused"
    if tells and texts and not _is_said(texts, given):
        return "unused"
    long = [text for text in texts if len(text) > _LONG]
    return "unused" if long and not _is_said(long, given) else "meta"


@lru_cache(maxsize=1000)
def _judge_name(name: str) -> tuple[bool, bool]:
    """Whether a name is one of weights, and whether it is one of what bears on a pair."""
    words = set(re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()))
    return bool(words & _WEIGHING), bool(words & _TELLING)


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for item in value:
                yield from _texts(item)
        case dict():
            for item in value.values():
                yield from _texts(item)


def _is_said(texts: Sequence[str], given: Given) -> bool:
    """Whether the turns say these texts as well, or a text is the prompt that a trainer made of the turns."""
    contents = [turn.content.strip() for turn in given.turns]
    said = "\0".join(contents)
    return all(
        text in contents
        or (len(text) >= _LEAST and text in said)
        or all(content in text for content in contents[-2:])
        for text in map(str.strip, texts)
    )
