"""The student: scores pairs from its own token probabilities and answers instructions.

Importing this loads neither torch nor transformers; opening a student does. Nothing here decides
anything about a pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from reflectune.agents.model_files import find_fault
from reflectune.agents.student.targets import Encoded, TargetEncoder, TargetFailure
from reflectune.agents.student.templates import NO_CHAT_TEMPLATE, Template, check_template, open_template
from reflectune.state.config import StudentConfig
from reflectune.state.errors import StudentError
from reflectune.state.records import Pair, Score, Term

__all__ = ["Response", "Student", "check_student"]

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


class Student:
    """One open model, the base or with an adapter. A context manager; closing gives memory back."""

    def __init__(self, model: Any, tokenizer: Any, template: Template, config: StudentConfig) -> None:
        """Prefer `Student.open`; this takes parts that are open already."""
        from reflectune.agents import generation, models
        from reflectune.agents.student import scoring

        self._model = model
        self._tokenizer = tokenizer
        self._template = template
        self._batch_tokens = config.batch_tokens
        self._stops = generation.stop_ids(model, tokenizer)
        self.max_length = min(config.max_length, models.context_length(model) or config.max_length)
        self._encoder = TargetEncoder(tokenizer, self.max_length)
        self._packing = scoring.choose_packing(model, config.batch_tokens, share_prefixes=True)

    @classmethod
    def open(cls, config: StudentConfig, adapter: Path | None = None) -> Self:
        """Load the base model, with a LoRA adapter where one is given.

        A `max_length` above the model's context counts as the model's context.

        Raises:
            StudentError: model, tokenizer, template or device cannot be used.
            AdapterError: the adapter is missing, damaged or of another model.
        """
        check_student(config)
        from reflectune.agents import models  # torch loads here, so that checking and importing stay cheap

        config = models.resolve_student(config)
        models.set_threads(config.threads)
        tokenizer = models.open_tokenizer(config)
        template = open_template(config.template, tokenizer)
        model = models.open_model(config)
        models.check_match(model, tokenizer)
        if adapter is not None:
            model = models.attach_adapter(model, adapter).get_base_model()
        return cls(model, tokenizer, template, config)

    def score(self, targets: Sequence[tuple[Pair, Term]]) -> list[Score]:
        """Score targets, in the given order; equal renderings are computed once.

        Where max_length cuts a target behind its prompt, the same target alone is cut to as many tokens:
        the two sides of an IFD or r-IFD are about the same tokens.

        Returns:
            One score a target. One that cannot be scored says so in its status and has no sums.

        Raises:
            StudentError: out of memory.
        """
        from reflectune.agents.student.scoring import score_sequences

        rooms = self._find_rooms(targets)
        texts = [(self._render(pair, term), rooms.get(index)) for index, (pair, term) in enumerate(targets)]
        distinct = list(dict.fromkeys(texts))
        encoded = self._encoder.encode([text for text, _ in distinct], [room for _, room in distinct])
        sequences = [item for item in encoded if isinstance(item, Encoded)]
        scored = iter(score_sequences(self._model, sequences, self._packing))
        scores = {
            text: next(scored) if isinstance(item, Encoded) else _failed(item)
            for text, item in zip(distinct, encoded, strict=True)
        }
        return [scores[text] for text in texts]

    def respond(self, pairs: Sequence[Pair], max_tokens: int) -> list[Response | None]:
        """Answer instructions greedily, in the given order, at most `max_tokens` tokens each.

        None where the prompt alone fills `max_length`. Special tokens are stripped.

        Raises:
            StudentError: out of memory.
        """
        import torch

        from reflectune.agents.generation import generate_greedy

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
        from reflectune.agents.models import free_memory

        self._model = None
        free_memory()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _find_rooms(self, targets: Sequence[tuple[Pair, Term]]) -> dict[int, int]:
        """Tokens that max_length leaves of a target behind its prompt, for targets alone that it cuts.

        Returns:
            Index of the target -> tokens; targets that are not cut are missing.
        """
        asked = {
            index: self._render(pair, _BEHIND_PROMPT[term])
            for index, (pair, term) in enumerate(targets)
            if term in _BEHIND_PROMPT
        }
        # A text has about as many tokens as bytes at the most: the others need no look.
        long = [
            i
            for i, (prefix, target) in asked.items()
            if len((prefix + target).encode()) + 9 > self.max_length
        ]
        encoded = self._encoder.encode([asked[index] for index in long])
        return {
            index: len(item.ids) - item.first_target
            for index, item in zip(long, encoded, strict=True)
            if isinstance(item, Encoded) and item.truncated
        }

    def _render(self, pair: Pair, term: Term) -> tuple[str, str]:
        match term:
            case "response_given_instruction":
                return self._template.prompt(pair), pair.response
            case "response_alone":
                return "", pair.response
            case "instruction_given_response":
                return self._template.reverse(pair.response), self._template.instruction_target(pair)
            case "instruction_alone":
                return "", self._template.instruction_target(pair)


def check_student(config: StudentConfig) -> None:
    """Refuse a student that surely cannot be opened. Looks at files only; a hub name passes.

    Raises:
        StudentError: missing folder, config.json, weights, tokenizer.json, or a template it cannot use.
    """
    check_template(config.template)
    if fault := find_fault(config.model):
        raise StudentError(fault)
    if config.template == "chat" and Path(config.model).is_dir() and not _has_chat_template(config.model):
        raise StudentError(f"{config.model}: {NO_CHAT_TEMPLATE}")


def _has_chat_template(folder: str) -> bool:
    if (Path(folder) / "chat_template.jinja").is_file():
        return True
    settings = Path(folder) / "tokenizer_config.json"
    return settings.is_file() and "chat_template" in settings.read_text(encoding="utf-8", errors="replace")


def _failed(status: TargetFailure) -> Score:
    return Score(None, None, status, truncated=status == "truncated-away")
