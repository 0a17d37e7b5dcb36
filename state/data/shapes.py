"""The known shapes of rows: which fields hold instruction, input, response, system message and turns.

A shape is one entry of SHAPES. `data.columns` puts other fields in the place of a shape's own.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from reflectune.state.config import Column
from reflectune.state.data.conversations import is_transcript, read_turns, user_turn
from reflectune.state.data.fields import Given, Refusal, read_list, read_text
from reflectune.state.records import Turn
from reflectune.state.text import clean_text, is_empty, list_names

__all__ = ["MAPPED", "PAIR_FIELDS", "SHAPES", "Shape", "list_shapes", "read_given"]

Shape = dict[Column, tuple[str, ...]]  # where each part may be; the first field that is there counts

_ANSWERS = ("chosen", "response", "output", "completion", "answer")  # beside turns that end with a question

# Where a row has several shapes, the first of these counts: what was chosen says more than the prompt
# beside it, a conversation may hold more than the fields beside it.
SHAPES: dict[str, Shape] = {
    "preference": {"instruction": ("prompt", "question", "instruction"), "response": ("chosen",)},
    "messages": {"messages": ("messages",), "response": _ANSWERS},
    "sharegpt": {"messages": ("conversations", "conversation"), "response": _ANSWERS},
    "dolly": {"instruction": ("instruction",), "input": ("context",), "response": ("response",)},
    "alpaca": {
        "instruction": ("instruction",), "input": ("input",),
        "response": ("output", "response", "generation"),
    },
    "question": {
        "instruction": ("question", "query", "problem"), "response": ("solution", "answer", "response"),
    },
    "prompt": {"instruction": ("prompt",), "response": ("completion", "response")},
    "generations": {"instruction": ("instruction", "prompt"), "response": ("generations",)},
    "segments": {"messages": ("segments",)},
    "ultrachat": {"messages": ("data",), "response": _ANSWERS},
}  # fmt: skip
# Fields that hold a question, an answer or turns: a row that has one is a record.
PAIR_FIELDS = frozenset(
    field
    for shape in SHAPES.values()
    for column in ("instruction", "response", "messages")
    for field in shape.get(column, ())
)
MAPPED = "columns"  # the shape that data.columns makes up
_BESIDE: Shape = {"system": ("system", "system_prompt"), "history": ("history",)}


def list_shapes(format: str, columns: Mapping[Column, str]) -> dict[str, Shape]:
    """The shapes to look for, by name: those of a configured format, with the fields of data.columns."""
    own: Shape = {column: (field,) for column, field in columns.items()}
    if "messages" in own:
        known: dict[str, Shape] = {MAPPED: {"response": _ANSWERS}}
    elif {"instruction", "response"} <= set(own):
        known = {MAPPED: {"input": ("input",)}}
    else:
        known = SHAPES if format == "auto" else {format: SHAPES[format]}
        if own.keys() & {"instruction", "input", "response"}:
            known = {name: shape for name, shape in known.items() if "messages" not in shape}
    claimed = set(columns.values())
    shapes = {
        name: {
            column: tuple(field for field in fields if field not in claimed)
            for column, fields in (_BESIDE | shape).items()
        }
        | own
        for name, shape in known.items()
    }
    return {
        name: shape
        for name, shape in shapes.items()
        if all(shape.get(column, True) for column in ("messages", "instruction", "response"))
    }


def read_given(row: Mapping[str, Any], shapes: dict[str, Shape], roles: Mapping[str, str]) -> Given:
    """What the row holds, by the first of these shapes whose fields are there."""
    for name, shape in shapes.items():
        if all(map(row.keys().isdisjoint, shape.values())):
            continue
        found = {}
        for column, fields in shape.items():
            if field := _find(row, fields):
                found[column] = field
        if "messages" in found:
            given = _read_conversation(row, found["messages"], found.get("response"), roles)
        elif "messages" in shape:
            continue
        elif name == "dolly" and "input" not in found:
            continue  # it is the context that makes it one
        elif "response" in found and _is_turns(row[found["response"]], name):
            given = _read_answers(row, found, roles)
            if all(turn.role != "user" for turn in given.turns):
                continue  # the question stands in other turns
        elif {"instruction", "response"} <= set(found):
            given = _read_columns(row, found, roles)
            given.fields.update({field: "pair" for field in shape.get("input", ()) if field in row})
        else:
            continue
        _add_system(row, found.get("system"), given)
        given.shape = name
        return given
    if other := next((name for name in SHAPES if name not in shapes and _has(row, SHAPES[name])), None):
        raise Refusal("shape", f"looks like {other}")
    raise Refusal("invalid", _say_what_lacks(row, shapes))


def _is_turns(value: object, shape: str = "") -> bool:
    """Whether it is a list of messages; a transcript counts only where one is common."""
    if shape == "preference" and is_transcript(value):
        return True
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) for turn in value)


def _find(row: Mapping[str, Any], fields: tuple[str, ...]) -> str | None:
    for field in fields:
        if row.get(field) is not None:
            return field
    return None


def _has(row: Mapping[str, Any], shape: Shape) -> bool:
    if "messages" in shape:
        return _find(row, shape["messages"]) is not None
    return all(_find(row, fields) for column, fields in shape.items() if column != "input")


def _say_what_lacks(row: Mapping[str, Any], shapes: dict[str, Shape]) -> str:
    # Of those that are alike the ones with more fields come first in `shapes`; lists of answers are rare.
    for name in [name for name in reversed(shapes) if name != "generations"] or shapes:
        shape = shapes[name]
        if "instruction" in shape and _find(row, shape["instruction"]):
            return f"no {shape['response'][0]}; its fields: {list_names(row)}"
    wanted = [(shape.get("messages") or shape["instruction"])[0] for shape in shapes.values()]
    return f"no {wanted[0] if len(wanted) == 1 else 'known pair'}; its fields: {list_names(row)}"


def _read_conversation(
    row: Mapping[str, Any], field: str, answer: str | None, roles: Mapping[str, str]
) -> Given:
    """A list of turns, with the answer of another field where they end with a question."""
    given = Given([*read_turns(row[field], field, roles)], {field: "pair"})
    if answer and given.turns and given.turns[-1].role == "user" and not is_empty(row[answer]):
        value = [row[answer]] if isinstance(row[answer], dict) else row[answer]
        is_text = isinstance(value, str)
        given.turns += (
            [Turn("assistant", read_text(row, answer))] if is_text else read_turns(value, answer, roles)
        )
        given.fields[answer] = "pair"
    return given


def _read_columns(row: Mapping[str, Any], found: Mapping[Column, str], roles: Mapping[str, str]) -> Given:
    """A question and its answer as texts; the question may be a list of turns as well."""
    question, answer = found["instruction"], found["response"]
    given = Given([], {question: "pair", answer: "pair"})
    history = found.get("history")
    if history and not is_empty(row[history]):
        given.turns += read_turns(row[history], history, roles)
        given.fields[history] = "context"
    if _is_turns(row[question]):
        given.turns += read_turns(row[question], question, roles)
    else:
        input = read_text(row, found["input"]) if "input" in found else ""
        given.asked = read_text(row, question), input
        given.turns.append(Turn("user", user_turn(*given.asked)))
    if answer == "generations":
        given.turns.append(Turn("assistant", _choose_generation(row, answer)))
        given.kept = answer
    else:
        given.turns.append(Turn("assistant", read_text(row, answer)))
    return given


def _choose_generation(row: Mapping[str, Any], field: str) -> str:
    """Of distilabel's generations the only one, or the first of those with the best of `ratings`."""
    texts, ratings = read_list(row[field]), read_list(row.get("ratings"))
    if not isinstance(texts, list):
        return read_text(row, field)
    found = {place: text for place, text in enumerate(texts) if isinstance(text, str)}
    if len(found) > 1 and isinstance(ratings, list) and len(ratings) == len(texts):
        rated = [
            place for place in found if isinstance(ratings[place], int | float) and isfinite(ratings[place])
        ]
        if rated:
            found = {0: found[max(rated, key=ratings.__getitem__)]}
    if len(found) != 1:
        raise Refusal("invalid", f"{len(found)} {field}, and no ratings that say which is the best")
    return clean_text(*found.values())


def _read_answers(row: Mapping[str, Any], found: Mapping[Column, str], roles: Mapping[str, str]) -> Given:
    """An answer as a list of turns: those after the question, or the conversation from its beginning."""
    question, answer = found.get("instruction"), found["response"]
    turns = [*read_turns(row[answer], answer, roles)]
    given = Given(turns, {answer: "pair"})
    if question is None:
        return given
    if _is_turns(row[question]):
        asked = [*read_turns(row[question], question, roles)]
    else:
        asked = [Turn("user", read_text(row, question))]
    if turns and turns[0].role == "assistant":
        given.turns[:0] = asked
        given.fields[question] = "pair"
    elif all(turn in turns for turn in asked):
        given.fields[question] = "pair"  # said again
    return given


def _add_system(row: Mapping[str, Any], field: str | None, given: Given) -> None:
    """The system message of a field of its own, where the turns have none."""
    if field and not is_empty(row[field]) and not any(turn.role == "system" for turn in given.turns[:1]):
        given.turns.insert(0, Turn("system", read_text(row, field)))
        given.fields[field] = "context"
