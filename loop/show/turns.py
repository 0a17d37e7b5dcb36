"""The turns before a sample's exchange: who spoke, what was said and called, and which of many are shown."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reflectune.state.records import CALLING_FIELDS
from reflectune.state.text import is_empty, one_line

__all__ = ["ShownTurn", "fold_turns", "read_turns"]

# Of many turns, so many of the first are shown: what the system said, and how the user began.
_FIRST = 2


@dataclass(frozen=True, slots=True)
class ShownTurn:
    """One turn of a context."""

    role: str
    name: str  # of the tool or the speaker; empty without one
    text: str
    calls: tuple[str, ...]  # of tools, a line each
    left_out: int = 0  # turns before it that are not shown


def read_turns(context: Sequence[Mapping[str, Any]]) -> list[ShownTurn]:
    """The turns of a context as `trace --json` has it."""
    called: dict[str, str] = {}  # the tool's name, by the call's id
    turns = []
    for message in context:
        calls = list(_read_calls(message))
        called |= {id: tool for id, tool, _ in calls if id}
        name = message.get("name") or called.get(str(message.get("tool_call_id", "")), "")
        told = tuple(one_line(f"{tool}({arguments})") for _, tool, arguments in calls)
        turns.append(ShownTurn(message["role"], one_line(str(name)), message["content"], told))
    return turns


def _read_calls(message: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Id, tool and arguments of each call that a message makes; of one of unknown form, what there is."""
    calls: Any = next((message[name] for name in CALLING_FIELDS if not is_empty(message.get(name))), [])
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function", call) if isinstance(call, dict) else call
        if isinstance(function, dict) and "name" in function:
            arguments = function.get("arguments", "")
            yield str(call.get("id", "")), str(function["name"]), _as_text(arguments)
        else:
            yield "", "", _as_text(call)


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def fold_turns(turns: Sequence[ShownTurn], most: int) -> list[ShownTurn]:
    """The first two and the last turns where there are more than `most`."""
    left_out = len(turns) - most
    if left_out <= 0:
        return list(turns)
    after = turns[_FIRST + left_out :]
    return [*turns[:_FIRST], replace(after[0], left_out=left_out), *after[1:]]
