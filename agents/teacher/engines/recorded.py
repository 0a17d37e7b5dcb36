"""Plays recorded reflections from a JSONL file, one object a line.

    {"phase": "instruction"|"response", "context"?, "instruction", "input", "response"?,
     "new_instruction"?, "new_response", "critique"?, "round"?}

Keys with a question mark may be missing, except that phase instruction needs its new_instruction;
others are ignored. An entry answers the pairs whose texts it gives, in its round where it names one, and
behind its context where it has one: the messages before the pair, none for a pair that stands alone.
"""

import json
from collections import defaultdict, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from reflectune.agents.teacher.engines import Request
from reflectune.agents.teacher.forms import FIELDS
from reflectune.state.config import TeacherConfig
from reflectune.state.errors import ConfigError
from reflectune.state.records import PHASES, Answer, Reflection

__all__ = ["RecordedEngine", "read_recording"]

_Key = tuple[str, str, str]  # phase, instruction, input


class _Entry(NamedTuple):
    place: tuple[object, ...]  # context (messages), response and round of what it answers; None for any
    answer: str  # what the teacher is taken to have written: JSON


class RecordedEngine:
    """Answers at once and always the same."""

    name = "recorded"
    parameters = ()
    waiting = ""
    model = "recorded"
    structured = True
    capacity = 64  # as many as are committed together

    def __init__(self, config: TeacherConfig) -> None:
        assert config.path is not None
        self._recording = read_recording(Path(config.path))
        self._answers: deque[Answer] = deque()

    def workers(self) -> tuple[()]:
        """Nobody is at work."""
        return ()

    def submit(self, request: Request) -> None:
        """Look the answer up."""
        candidates = self._find(request.reflection)[request.reflection.candidate :]
        if candidates:
            answer = Answer(request.id, text=candidates[0].answer, finish_reason="stop")
        else:
            answer = Answer(request.id, error="no-entry", message="the recording has no entry for this pair")
        self._answers.append(answer)

    def next_answer(self) -> Answer:
        """Answers in the order of the requests."""
        return self._answers.popleft()

    def has_answer(self) -> bool:
        """Whether anything was asked."""
        return bool(self._answers)

    def close(self) -> None:
        """Nothing to give back."""

    def _find(self, asked: Reflection) -> list[_Entry]:
        """The most specific entries for a pair: to name its context counts most, then its response."""
        pair = asked.pair
        place = [turn.as_message() for turn in pair.context], pair.response.strip(), asked.round
        fitting: defaultdict[tuple[bool, ...], list[_Entry]] = defaultdict(list)
        for entry in self._recording.get((asked.phase, pair.instruction.strip(), pair.input.strip()), []):
            if all(named in (None, given) for named, given in zip(entry.place, place, strict=True)):
                fitting[tuple(named is not None for named in entry.place)].append(entry)
        return fitting[max(fitting)] if fitting else []


def read_recording(path: Path) -> Mapping[_Key, list[_Entry]]:
    """Read a file of recorded reflections; a ConfigError names the line that is no entry."""
    recording: defaultdict[_Key, list[_Entry]] = defaultdict(list)
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    try:
                        key, entry = _read_entry(line)
                    except ValueError as error:
                        raise ConfigError(f"{path}, line {number}: {error}") from None
                    recording[key].append(entry)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file of recorded answers; set teacher.path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not recording:
        raise ConfigError(f"{path}: holds no recorded answers")
    return recording


def _read_entry(line: str) -> tuple[_Key, _Entry]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError(f"want a JSON object, got {type(record).__name__}")
    phase = record.get("phase")
    if phase not in PHASES:
        raise ValueError(f"phase is {phase!r}, want one of: {', '.join(PHASES)}")
    round = record.get("round")
    if round is not None and type(round) is not int:
        raise ValueError(f"round is {round!r}, want a whole number")
    answer = {"critique": _text(record, "critique", "")}
    answer |= {key: _text(record, f"new_{key}") for key in FIELDS[phase]}
    response = None if record.get("response") is None else _text(record, "response", "").strip()
    key = phase, _text(record, "instruction").strip(), _text(record, "input", "").strip()
    place = _read_context(record), response, round
    return key, _Entry(place, json.dumps(answer, ensure_ascii=False))


def _read_context(record: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    messages = record.get("context")
    if messages is None:
        return None
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError("context is no list of messages")
    return [
        message | {"role": _text(message, "role"), "content": _text(message, "content", "")}
        for message in messages
    ]


def _text(record: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """A text of an entry; one without a default must be there and not be blank."""
    value = record.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise ValueError(f"{key} is {'missing' if value is None else repr(value)}, want a text")
    if default is None and not value.strip():
        raise ValueError(f"{key} is empty")
    return value
