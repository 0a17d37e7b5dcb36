"""Sorts of contexts: what tells chat templates which contexts they do not take, without the words of any."""

import json
from collections.abc import Sequence

from reflectune.state.records import Turn

__all__ = ["outline"]


def outline(context: Sequence[Turn]) -> tuple[Turn, ...]:
    """A context of the same sort: other words, and calls of another tool."""
    return tuple(_outline(place, turn) for place, turn in enumerate(context))


def _outline(place: int, turn: Turn) -> Turn:
    said = f"Turn-{place}-4d1c" if turn.content.strip() else ""
    told = turn.told
    if not told:
        return Turn(turn.role, said)
    call, calls = {"name": "call", "arguments": "{}"}, told.get("tool_calls")
    number = len(calls) if isinstance(calls, list) else 1
    stand_ins = {
        "name": "name",
        "tool_calls": [{"id": "call12345", "type": "function", "function": call}] * number,
        "function_call": call,
        "tool_call_id": "call12345",
        "function_calls": "call()",
    }
    return Turn(turn.role, said, json.dumps({name: stand_ins[name] for name in told}))
