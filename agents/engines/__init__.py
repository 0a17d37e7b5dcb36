"""Engines: what turns a teacher's prompts into text.

An engine knows nothing of reflection: it takes requests and gives each answer back as it finishes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from state.records import Pair, Phase

__all__ = ["Answer", "AnswerError", "Engine", "Request"]

AnswerError = Literal["refused-request", "no-entry", "failed"]


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt for the teacher, with the question it stands for.

    `pair`, `phase`, `round` and `candidate` say what is asked; an engine that plays recorded answers
    looks them up, every other engine reads `messages` only.
    """

    id: str
    messages: tuple[Mapping[str, str], ...]  # {"role", "content"}
    schema: Mapping[str, Any] | None  # JSON schema the answer must follow; None asks for free text
    seed: int
    pair: Pair
    phase: Phase
    round: int
    candidate: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request.

    `error` is None for an answered request; "refused-request" where the server says the request
    itself is wrong (asking again the same way is useless), "no-entry" where a recording has nothing
    for it, "failed" for anything that may pass (network, overload).
    """

    request_id: str
    text: str = ""
    finish_reason: str | None = None
    error: AnswerError | None = None
    message: str | None = None  # what went wrong, where something did
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0


class Engine(Protocol):
    """Many requests under way at once; each answer is handed over as soon as it is there."""

    name: str
    model: str
    structured: bool  # whether requests may carry a schema
    capacity: int  # how many requests it is worth having under way

    def submit(self, request: Request) -> None:
        """Take one request. Returns at once."""

    def next_answer(self) -> Answer:
        """Wait for the next finished answer, in any order. Only call with a request under way."""

    def close(self) -> None:
        """Drop what is under way and give back memory, threads and connections."""
