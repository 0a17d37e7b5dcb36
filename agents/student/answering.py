"""What a student is asked and what it answered: pairs to prompts, token ids to answers.

Nothing here knows what writes: the student itself, or vLLM for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from reflectune.agents.student.pairs import PairEncoder
from reflectune.agents.student.templates import Template
from reflectune.agents.thoughts import decode_written, drop_thoughts, find_opened
from reflectune.state.records import Pair

__all__ = ["Answering", "Response", "Write", "Writer"]

# Goes on from prompts, greedily: token ids without those that end an answer; None for one that fails.
Write = Callable[[list[list[int]]], Sequence[list[int] | None]]


@dataclass(frozen=True, slots=True)
class Response:
    """What a student answered. `num_tokens` counts its own tokens, without the one that ends it."""

    text: str
    num_tokens: int


class Writer(Protocol):
    """Answers instructions as one student does. A context manager; closing gives memory back."""

    at_once: int  # how many answers it is worth asking for together

    def respond(self, pairs: Sequence[Pair], max_tokens: int) -> list[Response | None]:
        """Answer greedily, in the given order; None where there can be no answer."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class Answering:
    """The prompts of one student and the way its answers are read."""

    def __init__(self, tokenizer: Any, template: Template, pairs: PairEncoder) -> None:
        self._tokenizer, self._template, self._pairs = tokenizer, template, pairs

    def respond(self, pairs: Sequence[Pair], write: Write) -> list[Response | None]:
        """Have answers written to pairs' instructions, in the given order.

        None where the prompt alone fills `max_length`, or writing failed. Special tokens are stripped, and
        thoughts where there may be some.
        """
        openings = self._pairs.encode_openings(pairs)
        fitting = [index for index, (_, ids) in enumerate(openings) if len(ids) < self._pairs.max_length]
        responses: list[Response | None] = [None] * len(pairs)
        for index, ids in zip(fitting, write([openings[index][1] for index in fitting]), strict=True):
            if ids is not None:
                responses[index] = Response(self._read(openings[index][0], ids), len(ids))
        return responses

    def _read(self, opening: str, ids: Sequence[int]) -> str:
        if self._template.chat is None or not self._template.chat.thinking:
            text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            return str(text).removeprefix(opening[len(opening.rstrip(" ")) :])
        text = find_opened(opening) + decode_written(self._tokenizer, ids)
        return drop_thoughts(text, text).strip()
