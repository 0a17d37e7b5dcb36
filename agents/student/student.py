"""The student: scores pairs from its own token probabilities and answers instructions.

Nothing here decides anything about a pair.
"""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Self

import torch

from reflectune.agents import models
from reflectune.agents.architecture import context_length
from reflectune.agents.chat import find_separator
from reflectune.agents.generation import generate_greedy, stop_ids
from reflectune.agents.hardware import measure_threads
from reflectune.agents.memory import free_memory
from reflectune.agents.student.answering import Answering, Response
from reflectune.agents.student.first_token import predict_first, score_with_first
from reflectune.agents.student.pairs import PairEncoder, Prepared
from reflectune.agents.student.scoring import choose_packing
from reflectune.agents.student.targets import Encoded, TargetEncoder
from reflectune.agents.student.templates import Template, check_student, open_template
from reflectune.agents.tokenizers import open_tokenizer
from reflectune.state.config import StudentConfig
from reflectune.state.errors import StudentError
from reflectune.state.records import Pair, Score, Term, Turn

__all__ = [
    "Response",
    "Student",
    "StudentBase",
    "check_contexts",
    "open_encoder",
    "settle_student",
]


def settle_student(config: StudentConfig) -> StudentConfig:
    """The same student with threads, number format and separator settled: a run does this once."""
    settled = models.resolve_student(config)
    separator = config.separator or find_separator(open_tokenizer(config))
    return settled.model_copy(update={"separator": separator})


def check_contexts(config: StudentConfig, contexts: Collection[tuple[Turn, ...]]) -> None:
    """Raise a StudentError for contexts, each made by `outline`, that the template does not take."""
    if contexts:
        open_template(config, open_tokenizer(config)).check_contexts(contexts)


class StudentBase(AbstractContextManager["StudentBase"]):
    """One base model with its tokenizer and template, which students with different adapters take in turn.

    Opened when it is first asked for, and kept until it is closed.
    """

    def __init__(self, config: StudentConfig, parts: tuple[Any, Any, Template] | None = None) -> None:
        """Take what is to be opened, or is open already."""
        self.config, self._parts = config, parts

    def open(self) -> tuple[Any, Any, Template]:
        """Model, tokenizer and template, which fit each other; sets torch's threads."""
        if self._parts is None:
            check_student(self.config)
            models.set_threads(self.config.threads or measure_threads())
            tokenizer = open_tokenizer(self.config)
            template = open_template(self.config, tokenizer)
            model = models.open_model(self.config)
            models.check_match(model, tokenizer)
            self._parts = model, tokenizer, template
        return self._parts

    def close(self) -> None:
        """Give the memory back."""
        self._parts = None
        free_memory()

    def __exit__(self, *error: object) -> None:
        self.close()


def open_encoder(model: Any, tokenizer: Any, template: Template, config: StudentConfig) -> TargetEncoder:
    """What turns a student's texts into tokens, within what its model can take."""
    return TargetEncoder(
        tokenizer,
        min(config.max_length, context_length(model) or config.max_length),
        config.separator or find_separator(tokenizer),  # a run has settled it
        marks=None if template.chat is None else template.chat.marks(),
        embeddings=model.get_input_embeddings().num_embeddings,
    )


class Student(AbstractContextManager["Student"]):
    """One open model, the base or with an adapter. A context manager; closing gives memory back.

    Several threads may ask it at once: the texts of one are encoded while those of another are computed.
    """

    def __init__(self, base: StudentBase, adapter: Path | None = None) -> None:
        """Take a base that is not in use otherwise; a LoRA adapter is attached to it until this is closed."""
        config = base.config
        model, tokenizer, template = base.open()
        self._adapted = None if adapter is None else models.attach_adapter(model, adapter)
        self._close = ExitStack()
        # The only thread that computes: each would keep memory and CPU threads of its own.
        self._computing = ThreadPoolExecutor(1, "student")
        self.device = str(model.device)
        self._model = model
        self._tokenizer = tokenizer
        self._template = template
        self._batch_tokens = config.batch_tokens
        # How many answers it is worth asking for together: a GPU writes one for the time of many.
        self.at_once = 512 if model.device.type == "cuda" else 64
        self._stops = stop_ids(model, tokenizer, template.end_id(tokenizer))
        encoder = open_encoder(model, tokenizer, template, config)
        self._pairs = PairEncoder(template, encoder)
        self._answering = Answering(tokenizer, template, self._pairs)
        self._packing = choose_packing(model, config.batch_tokens, share_prefixes=True)
        self._first = predict_first(model, encoder.separator)

    @classmethod
    def open(cls, config: StudentConfig, adapter: Path | None = None) -> Self:
        """Load the base model, with a LoRA adapter where one is given. Its context bounds `max_length`."""
        base = StudentBase(config)
        student = cls(base, adapter)
        student._close.callback(base.close)
        return student

    def score(self, targets: Sequence[tuple[Pair, Term]]) -> list[Score]:
        """Score targets, in the given order; equal sequences of tokens are computed once.

        A target that cannot be scored says so in its status and has no sums.
        """
        return self._computing.submit(self._compute, self._pairs.encode(targets)).result()

    def _compute(self, items: Sequence[Prepared]) -> list[Score]:
        sequences = {_key(item): item for item in items if isinstance(item, Encoded)}
        computed = score_with_first(self._model, list(sequences.values()), self._packing, self._first)
        scores = dict(zip(sequences, computed, strict=True))
        return [
            scores[_key(item)]
            if isinstance(item, Encoded)
            else Score(None, None, item, truncated=item == "truncated-away")
            for item in items
        ]

    def respond(self, pairs: Sequence[Pair], max_tokens: int) -> list[Response | None]:
        """Answer instructions greedily, in the given order, at most `max_tokens` tokens each.

        None where the prompt alone fills `max_length`. Answers may differ in their rounding with what is
        written beside them.
        """
        try:
            return self._answering.respond(
                pairs,
                lambda prompts: self._computing.submit(
                    generate_greedy, self._model, prompts, self._stops, max_tokens, self._batch_tokens
                ).result(),
            )
        except torch.OutOfMemoryError as error:
            raise StudentError(
                "out of memory writing a single answer; end what else uses the student's device"
            ) from error

    def close(self) -> None:
        """Take the adapter off; drop the model where nobody else has it. Of no use afterwards."""
        self._computing.shutdown(cancel_futures=True)
        if self._adapted is not None:
            self._adapted.unload()
        self._model = self._adapted = None
        self._close.close()

    def __exit__(self, *error: object) -> None:
        self.close()


def _key(sequence: Encoded) -> tuple[tuple[int, ...], int]:
    return tuple(sequence.ids), sequence.first_target
