"""Teachers for tests: one whose engine answers as a function says, and what is asked of one."""

import json
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from reflectune.agents.teacher.engines import OpenEngine, Request, open_engine
from reflectune.agents.teacher.engines.cached import Cache
from reflectune.agents.teacher.prompts import open_prompts
from reflectune.agents.teacher.teacher import Reflected, Teacher, open_teacher
from reflectune.state.config import TeacherConfig
from reflectune.state.errors import TeacherError
from reflectune.state.records import Answer, AnswerError, Pair, Phase, Reflection, TeacherCall

PROMPTS = open_prompts(None)


def config(url: str | list[str] | None = "http://unused", **changes: Any) -> TeacherConfig:
    return TeacherConfig(**{"engine": "openai", "model": "fake", "base_url": url, "retries": 0} | changes)


def asked(number: int = 0, phase: Phase = "response", **changes: Any) -> Reflection:
    fields: dict[str, Any] = {
        "sample_id": f"sample-{number}",
        "incumbent_id": f"version-{number}",
        "pair": Pair(f"Say {number}.", "", f"{number}"),
        "round": 1,
        "phase": phase,
        "candidate": 0,
    }
    return Reflection(**fields | changes)


def ask(
    teacher_config: TeacherConfig,
    what: int | list[Reflection],
    cache: Cache | None = None,
    open_engine: OpenEngine = open_engine,
) -> list[Reflected]:
    """What a teacher makes of reflections, or of so many."""
    reflections = [asked(number) for number in range(what)] if isinstance(what, int) else what
    with open_teacher(teacher_config, 0, None, cache, open_engine=open_engine) as teacher:
        return flat(teacher.reflect(reflections))


def ask_one(teacher_config: TeacherConfig, reflection: Reflection | None = None) -> TeacherCall:
    """The one call that a teacher needs for a reflection."""
    ((call, _),) = ask(teacher_config, [reflection or asked()])
    return call


def flat(groups: Iterable[list[Reflected]]) -> list[Reflected]:
    return [made for group in groups for made in group]


def statuses(reflected: Iterable[Reflected]) -> list[str]:
    return [call.status for call, _ in reflected]


class ScriptedEngine:
    """Answers each request as a function says, in order; the real interface without a model.

    Every answer is waited for, unless it is `prompt`.
    """

    name = "scripted"
    model = "script"
    parameters = ()
    waiting, workers = "", tuple

    def __init__(
        self,
        answer: Callable[[Request], Answer],
        *,
        structured: bool = True,
        capacity: int = 4,
        prompt: bool = False,
        server: str | None = None,
    ):
        self.answer, self.structured, self.capacity, self.prompt = answer, structured, capacity, prompt
        self.server = server
        self.requests: list[Request] = []
        self.under_way: deque[Request] = deque()
        self.closed = False

    def submit(self, request: Request) -> None:
        assert len(self.under_way) < self.capacity
        self.requests.append(request)
        self.under_way.append(request)

    def next_answer(self) -> Answer:
        return replace(self.answer(self.under_way.popleft()), server=self.server)

    def has_answer(self) -> bool:
        return self.prompt and bool(self.under_way)

    def close(self) -> None:
        self.closed = True

    def schemas(self) -> list[bool]:
        """Whether each request carried one."""
        return [request.schema is not None for request in self.requests]


def scripted(engine: ScriptedEngine, **changes: Any) -> Teacher:
    return Teacher(engine, PROMPTS, config(**changes), 0)


def fail(request: Request, error: AnswerError = "failed", message: str | None = None) -> Answer:
    return Answer(request.id, error=error, message=message)


def reflect(engine: ScriptedEngine, number: int, **changes: Any) -> list[Reflected]:
    """What a teacher with this engine makes of so many reflections."""
    return flat(scripted(engine, **changes).reflect(asked(n) for n in range(number)))


def take_until_error(message: str, groups: Iterable[list[Reflected]]) -> list[Reflected]:
    """What comes before the TeacherError that this message tells."""
    taken: list[list[Reflected]] = []
    with pytest.raises(TeacherError, match=message):
        taken.extend(groups)
    return flat(taken)


def well(request: Request, **changes: Any) -> Answer:
    response = f"{request.reflection.pair.response} more"
    text = json.dumps({"critique": "c", "instruction": "New.", "response": response})
    return Answer(**{"request_id": request.id, "text": text, "finish_reason": "stop"} | changes)
