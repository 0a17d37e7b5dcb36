"""Conversations as all kinds of data write them: their turns, and the exchanges that can be recycled.

A turn keeps what its message says beside role and text. Tool calls and their results are context as they
were given; an exchange that has them between its question and its answer is refused.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeGuard

from reflectune.state.data.fields import TEMPLATE_MARKS, Refusal, jsonable, read_list
from reflectune.state.records import CALLING_FIELDS, Turn
from reflectune.state.text import clean_text, is_empty, list_names

__all__ = ["calls_tools", "find_exchanges", "is_transcript", "name_roles", "read_turns", "user_turn"]

# What data calls the speakers, in lower case. Those of tools keep their names.
_USERS = ("user", "human", "prompter")
_ASSISTANTS = ("assistant", "gpt", "bot", "model", "chatgpt", "chatbot", "bing", "bard", "claude", "ai")
_SYSTEMS = ("system", "developer")
_CALLS = ("function_call", "tool_call", "function-call")
_RESULTS = (
    "tool", "function", "observation", "ipython", "environment", "tool_response", "tool_result",
    "function_response", "function-response",
)  # fmt: skip
_SPEAKER, _SAID = ("role", "from", "speaker"), ("content", "value", "text")
_MEDIA = ("image", "image_url", "input_image", "audio", "input_audio", "video", "video_url", "file")


def name_roles(more: Mapping[Any, Sequence[str]]) -> dict[str, str]:
    """The role that each name of a speaker stands for, with those of data.roles."""
    known = {"user": _USERS, "assistant": _ASSISTANTS, "system": _SYSTEMS}
    roles = {name: role for role, names in known.items() for name in names}
    roles |= {name: name for name in (*_CALLS, *_RESULTS)}
    return roles | {name.strip().lower(): role for role, names in more.items() for name in names}


def read_turns(value: object, field: str, roles: Mapping[str, str]) -> tuple[Turn, ...]:
    """The turns of a field, but for system messages that say nothing.

    A list of messages (role and content, from and value), of texts by user and assistant in turn, or of
    exchanges ({input, output}, or [user's text, assistant's]); Axolotl's segments where there are a question
    and an answer to train on; or JSON text of one; or a transcript.
    """
    given = _split(value) if is_transcript(value) else read_list(value)
    if not isinstance(given, list):
        raise Refusal("invalid", f"{field} is not a list of turns")
    if given and all(isinstance(item, dict) and item.keys() == {"label", "text"} for item in given):
        given = _read_segments(given, field)
    turns = [turn for index, item in enumerate(given) for turn in _read_item(item, index, field, roles)]
    return tuple(turn for turn in turns if turn.role != "system" or turn.content.strip() or turn.more)


def is_transcript(value: object) -> TypeGuard[str]:
    """Whether a text is a conversation as Anthropic's HH writes it."""
    return isinstance(value, str) and value.startswith("\n\nHuman: ")


def _split(transcript: str) -> list[dict[str, str]]:
    _, *parts = re.split(r"\n\n(Human|Assistant):(?: |$)", transcript)
    return [{"from": speaker, "value": said} for speaker, said in zip(parts[::2], parts[1::2], strict=True)]


def _read_segments(segments: list[Any], field: str) -> list[str]:
    match segments:
        case [{"label": False, "text": str(asked)}, {"label": True, "text": str(answer)}]:
            if not TEMPLATE_MARKS.search(asked + answer):
                return [asked, answer]
    raise Refusal(
        "invalid", f"{field} are raw text, not a question (label false) and its answer (label true)"
    )


def user_turn(instruction: str, input: str) -> str:
    """What a user says to ask for the response: the instruction, then a blank line and the input if any."""
    return f"{instruction}\n\n{input}" if input.strip() else instruction


def find_exchanges(turns: Sequence[Turn]) -> Iterator[int | Refusal]:
    """For every user's turn that was answered, its index, or why its exchange cannot be recycled."""
    users = [index for index, turn in enumerate(turns) if turn.role == "user"]
    for index, end in pairwise([*users, len(turns)]):
        replies = turns[index + 1 : end]
        if calls_tools(replies):
            yield Refusal("tools", f"tools are called for the answer to turn {index}")
        elif any(turn.role == "assistant" for turn in replies):
            is_next = replies[0].role == "assistant"
            yield index if is_next else Refusal("turns", f"turn {index + 1} is between question and answer")


def calls_tools(turns: Iterable[Turn]) -> bool:
    """Whether tools are called, or say something, in some of these turns."""
    return any(map(_is_of_tools, turns))


def _is_of_tools(turn: Turn) -> bool:
    return turn.calls_tools or turn.role not in ("user", "assistant", "system")


def _read_item(item: object, index: int, field: str, roles: Mapping[str, str]) -> Iterator[Turn]:
    match item:
        case str():
            yield Turn("assistant" if index % 2 else "user", clean_text(item))
        case [str(asked), str(answer)] | {"input": str(asked), "output": str(answer)}:
            yield Turn("user", clean_text(asked))
            yield Turn("assistant", clean_text(answer))
        case dict():
            yield _read_message(item, roles)
        case _:
            raise Refusal("invalid", f"{field} is not a list of turns")


def _read_message(message: dict[str, Any], roles: Mapping[str, str]) -> Turn:
    speaker, said = (
        next((name for name in names if message.get(name) is not None), names[0])
        for names in (_SPEAKER, _SAID)
    )
    name = str(message.get(speaker))
    role = roles.get(name.strip().lower())
    if role is None:
        raise Refusal("roles", f"a turn by {list_names([name])}")
    rest = {key: value for key, value in message.items() if key not in (speaker, said) and value is not None}
    more = json.dumps(jsonable(rest, "a turn"), ensure_ascii=False) if rest else ""
    is_call = any(not is_empty(rest.get(name)) for name in CALLING_FIELDS)
    return Turn(role, _read_content(message.get(said), said, may_lack=is_call), more)


def _read_content(value: object, field: str, *, may_lack: bool) -> str:
    match value:
        case str():
            return clean_text(value)
        case None if may_lack:
            return ""
        case None:
            raise Refusal("invalid", f"no {field}")
        case list() if all(isinstance(part, dict) for part in value):
            if media := [part["type"] for part in value if part.get("type") in _MEDIA]:
                raise Refusal("media", f"a turn with {list_names(dict.fromkeys(media))}")
            texts = [part.get("text") for part in value]
            if texts and all(isinstance(text, str) for text in texts):
                return clean_text("\n".join(map(str, texts)))
    raise Refusal("invalid", f"{field} is of type {type(value).__name__}, not text")
