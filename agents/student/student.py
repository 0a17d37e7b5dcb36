"""The student: scores pairs from its own token probabilities and answers instructions.

Nothing here decides anything about a pair.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from reflectune.agents import models
from reflectune.agents.generation import generate_greedy, stop_ids
from reflectune.agents.student.scoring import choose_packing, score_sequences
from reflectune.agents.student.targets import Encoded, TargetEncoder
from reflectune.agents.student.templates import Template, check_student, open_template
from reflectune.agents.tokenizers import open_tokenizer
from reflectune.state.config import StudentConfig
from reflectune.state.errors import StudentError
from reflectune.state.records import Pair, Score, Term

__all__ = ["Response", "Student", "open_parts"]

# A target alone -> the same target behind its prompt.
_BEHIND_PROMPT: dict[Term, Term] = {
    "response_alone": "response_given_instruction",
    "instruction_alone": "instruction_given_response",
}


@dataclass(frozen=True, slots=True)
class Response:
    """What a student answered. `num_tokens` counts its own tokens, without the one that ends it."""

    text: str
    num_tokens: int


def open_parts(config: StudentConfig, *, load_in_4bit: bool = False) -> tuple[Any, Any, Template]:
    """A student's base model, tokenizer and template, which fit each other; sets torch's threads."""
    models.set_threads(config.threads)
    tokenizer = open_tokenizer(config)
    template = open_template(config.template, tokenizer)
    model = models.open_model(config, load_in_4bit=load_in_4bit)
    models.check_match(model, tokenizer)
    return model, tokenizer, template


class Student(AbstractContextManager["Student"]):
    """One open model, the base or with an adapter. A context manager; closing gives memory back."""

    def __init__(self, model: Any, tokenizer: Any, template: Template, config: StudentConfig) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._template = template
        self._batch_tokens = config.batch_tokens
        self._stops = stop_ids(model, tokenizer)
        self.max_length = min(config.max_length, models.context_length(model) or config.max_length)
        self._encoder = TargetEncoder(tokenizer, self.max_length)
        self._packing = choose_packing(model, config.batch_tokens, share_prefixes=True)

    @classmethod
    def open(cls, config: StudentConfig, adapter: Path | None = None) -> Self:
        """Load the base model, with a LoRA adapter where one is given. Its context bounds `max_length`."""
        check_student(config)
        config = models.resolve_student(config)
        model, tokenizer, template = open_parts(config)
        if adapter is not None:
            model = models.attach_adapter(model, adapter).get_base_model()
        return cls(model, tokenizer, template, config)

    def score(self, targets: Sequence[tuple[Pair, Term]]) -> list[Score]:
        """Score targets, in the given order; equal renderings are computed once.

        Where max_length cuts a target behind its prompt, the same target alone is cut to as many tokens:
        the two sides of an IFD or r-IFD are about the same tokens. A target that cannot be scored says so in
        its status and has no sums.
        """
        rooms = self._find_rooms(targets)
        rendered = (self._template.render(pair, term) for pair, term in targets)
        texts = [(text, rooms.get(index)) for index, text in enumerate(rendered)]
        distinct = list(dict.fromkeys(texts))
        encoded = self._encoder.encode([text for text, _ in distinct], [room for _, room in distinct])
        sequences = [item for item in encoded if isinstance(item, Encoded)]
        scored = iter(score_sequences(self._model, sequences, self._packing))
        scores = {
            text: next(scored)
            if isinstance(item, Encoded)
            else Score(None, None, item, truncated=item == "truncated-away")
            for text, item in zip(distinct, encoded, strict=True)
        }
        return [scores[text] for text in texts]

    def respond(self, pairs: Sequence[Pair], max_tokens: int) -> list[Response | None]:
        """Answer instructions greedily, in the given order, at most `max_tokens` tokens each.

        None where the prompt alone fills `max_length`. Special tokens are stripped.
        """
        prompts = self._encoder.encode_prompts([self._template.prompt(pair) for pair in pairs])
        fitting = [index for index, prompt in enumerate(prompts) if len(prompt) < self.max_length]
        asked = [prompts[index] for index in fitting]
        try:
            written = generate_greedy(self._model, asked, self._stops, max_tokens, self._batch_tokens)
        except torch.OutOfMemoryError as error:
            raise StudentError(
                f"out of memory writing {len(asked)} answers; lower student.batch_tokens "
                "or evaluate.max_tokens"
            ) from error
        responses: list[Response | None] = [None] * len(pairs)
        for index, ids in zip(fitting, written, strict=True):
            text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            responses[index] = Response(text, len(ids))
        return responses

    def close(self) -> None:
        """Drop the model and give its memory back. The student cannot be used afterwards."""
        self._model = None
        models.free_memory()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _find_rooms(self, targets: Sequence[tuple[Pair, Term]]) -> dict[int, int]:
        """Tokens that max_length leaves of targets alone behind their prompts, by index, if it cuts them."""
        long: dict[int, tuple[str, str]] = {}
        for index, (pair, term) in enumerate(targets):
            if term in _BEHIND_PROMPT:
                prefix, target = self._template.render(pair, _BEHIND_PROMPT[term])
                # A text has about as many tokens as bytes at the most: the others need no look.
                if len((prefix + target).encode()) + 9 > self.max_length:
                    long[index] = prefix, target
        encoded = self._encoder.encode(list(long.values()))
        return {
            index: item.num_targets
            for index, item in zip(long, encoded, strict=True)
            if isinstance(item, Encoded) and item.truncated
        }
