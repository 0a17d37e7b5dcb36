"""Engines: what turns a teacher's prompts into text.

An engine knows nothing of reflection: it takes requests and gives each answer back as it finishes.
Opening one imports its libraries. What is known of it before, `EngineConfig` tells.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from reflectune.state.config import EngineConfig, StudentConfig, TeacherConfig
from reflectune.state.live import Worker
from reflectune.state.records import Answer, CallStatus, Reflection

if TYPE_CHECKING:
    from reflectune.agents.teacher.engines.parameters import Parameters

__all__ = [
    "FAILED", "MOST_AT_ONCE", "Batches", "Engine", "OpenEngine", "Request", "TeacherModel", "open_engine",
    "take_answers",
]  # fmt: skip

MOST_AT_ONCE = 64  # finished calls that are handed over together
# What an answer's error makes of a call; others: "error".
FAILED: dict[str, CallStatus] = {"refused-request": "refused", "no-entry": "no-entry"}


@dataclass(frozen=True, slots=True)
class TeacherModel:
    """Which model answers, and how one on this machine is opened."""

    name: str  # as calls are recorded under it
    source: StudentConfig  # weights, revision and number format
    adapter: Path | None = None  # LoRA folder on top of them
    adapter_hash: str | None = None  # of what it holds


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt for the teacher, and the reflection that it asks for.

    An engine that plays recorded answers looks the reflection up, every other engine reads `messages` only.
    """

    id: str
    reflection: Reflection
    messages: tuple[Mapping[str, str], ...]  # {"role", "content"}
    schema: Mapping[str, Any] | None  # JSON schema the answer must follow; None asks for free text
    seed: int
    prompt: tuple[int, ...] | None = None  # token ids to go on from, not messages; for vLLM alone
    stops: tuple[int, ...] = ()  # ids that end what is written to such a prompt


class Engine(Protocol):
    """Many requests under way at once; each answer is handed over as soon as it is there."""

    name: str
    model: str
    structured: bool  # whether requests may carry a schema
    capacity: int  # how many requests it is worth having under way

    @property
    def parameters(self) -> "Sequence[Parameters]":
        """What each of its servers takes of requests; empty for what is no server."""

    @property
    def waiting(self) -> str:
        """What holds up all requests, and for how long by now; empty where nothing does."""

    def workers(self) -> Sequence[Worker]:
        """What each server or replica does now. For any thread, at any time; returns at once."""

    def submit(self, request: Request) -> None:
        """Take one request. Returns at once. By now the answers given so far have been committed."""

    def next_answer(self) -> Answer:
        """Wait for the next finished answer, in any order. Only call with a request under way.

        A TeacherError says that no request can succeed, such as with a wrong key or model name.
        """

    def has_answer(self) -> bool:
        """Whether `next_answer` has something to tell at once."""

    def close(self) -> None:
        """Drop what is under way and give back memory, threads and connections. Never waits for it."""


def take_answers(engine: Engine, under_way: int) -> Iterator[Answer]:
    """Wait for one of so many answers, if any, and take those that are there then."""
    if under_way:
        yield engine.next_answer()
    for _ in range(min(under_way, MOST_AT_ONCE) - 1):
        if not engine.has_answer():
            return
        yield engine.next_answer()


class Batches(Protocol):
    """Notes of the batches at a server, kept from one life of a run to the next."""

    def begin_batch(self, tag: str, requests: Iterable[str]) -> None:
        """Note that these requests are about to be sent as a batch that carries a tag."""

    def set_batch(self, tag: str, id: str) -> None:
        """Note the id that the server gave the batch with a tag."""

    def find_batch(self, request: str) -> tuple[str, str | None] | None:
        """Tag and id of the last batch that a request went into; no id where it was not noted."""


# What a teacher opens its engine with: config, model, batches, stopping.
OpenEngine = Callable[[EngineConfig, TeacherModel, Batches | None, Callable[[], bool]], Engine]


def open_engine(
    config: EngineConfig,
    model: TeacherModel,
    batches: Batches | None,
    stopping: Callable[[], bool],
) -> Engine:
    """Open the engine that `teacher.engine` names, its model on this machine if it has one."""
    match config.engine:
        case "batch":
            from reflectune.agents.teacher.engines.openai_batch import BatchEngine

            assert batches is not None, "the config refuses to go without notes"
            return BatchEngine(config, batches, stopping)
        case "openai":
            from reflectune.agents.teacher.engines.openai_server import OpenAIEngine

            return OpenAIEngine(config, stopping)
        case "recorded":
            from reflectune.agents.teacher.engines.recorded import RecordedEngine

            assert isinstance(config, TeacherConfig), "only a teacher plays a recording"
            return RecordedEngine(config)
        case "transformers":
            from reflectune.agents.teacher.engines.local_transformers import TransformersEngine

            return TransformersEngine(config, model)
        case "vllm":
            from reflectune.agents.teacher.engines.vllm_engine import VllmEngine

            return VllmEngine(config, model)
