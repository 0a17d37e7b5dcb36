"""Generates a teacher's answers with a transformers model on this machine, batch by batch.

An answer follows from its prompt and seed, up to rounding, whatever else is in its batch. For trying
things out and for machines without a server: a server batches better. It cannot hold a model to a schema.
"""

import time
from collections import deque
from typing import Any

from reflectune.agents.teacher.engines import Request, TeacherModel
from reflectune.state.config import TeacherConfig
from reflectune.state.errors import StudentError, TeacherError
from reflectune.state.records import Answer

__all__ = ["TransformersEngine"]


class TransformersEngine:
    """Collects requests and answers up to `teacher.concurrency` of them in one batch."""

    name = "transformers"
    structured = False

    def __init__(self, config: TeacherConfig, model: TeacherModel) -> None:
        """Load the model, as a student's is loaded.

        Raises:
            TeacherError: model or tokenizer cannot be opened.
            AdapterError: the adapter is missing, damaged or of another model.
        """
        from reflectune.agents.generation import Opening, stop_ids
        from reflectune.agents.models import (
            attach_adapter,
            context_length,
            open_model,
            open_tokenizer,
            set_threads,
        )

        self.model = model.name
        self.capacity = config.capacity
        self._config = config
        set_threads(model.source.threads)
        try:
            self._tokenizer = open_tokenizer(model.source)
            self._network = open_model(model.source)
        except StudentError as error:
            raise TeacherError(f"teacher {error}; check teacher.model") from error
        if model.adapter is not None:
            self._network = attach_adapter(self._network, model.adapter).get_base_model()
        self._context: int | None = context_length(self._network)
        self._stops: list[int] = stop_ids(self._network, self._tokenizer)
        self._opening: Any = Opening()  # all prompts of a phase begin with the task
        self._waiting: deque[tuple[Request, list[int]]] = deque()
        self._answers: deque[Answer] = deque()

    def submit(self, request: Request) -> None:
        """Tokenise the request and put it in line.

        One that leaves no room to answer, or that the model's template does not take, is refused.
        """
        from reflectune.agents.generation import render_messages

        try:
            prompt = render_messages(self._tokenizer, request.messages)
        except ValueError as error:
            message = str(error)
        else:
            if self._room(prompt) > 0:
                self._waiting.append((request, prompt))
                return
            message = f"a prompt of {len(prompt)} tokens fills the context of {self._context}"
        self._answers.append(Answer(request.id, error="refused-request", message=message))

    def next_answer(self) -> Answer:
        """The next answer of the last batch, or the first of a new one.

        Raises:
            TeacherError: out of memory.
        """
        if not self._answers:
            self._answers.extend(self._generate(self._next_batch()))
        return self._answers.popleft()

    def close(self) -> None:
        """Drop the model and free its memory."""
        from reflectune.agents.models import free_memory

        self._network = self._tokenizer = self._opening = None
        self._waiting.clear()
        self._answers.clear()
        free_memory()

    def _room(self, prompt: list[int]) -> int:
        """Most tokens that can be written after a prompt."""
        if self._context is None:
            return self._config.max_tokens
        return min(self._config.max_tokens, self._context - len(prompt))

    def _next_batch(self) -> list[tuple[Request, list[int]]]:
        """Requests that can write as long an answer as the first, so that none is cut for another."""
        room = self._room(self._waiting[0][1])
        batch = [item for item in self._waiting if self._room(item[1]) == room][: self.capacity]
        taken = {request.id for request, _ in batch}
        self._waiting = deque(item for item in self._waiting if item[0].id not in taken)
        return batch

    def _generate(self, batch: list[tuple[Request, list[int]]]) -> list[Answer]:
        began = time.monotonic()
        written = self._write(batch)
        seconds = time.monotonic() - began
        return [
            self._answer(request, prompt, tokens, seconds)
            for (request, prompt), tokens in zip(batch, written, strict=True)
        ]

    def _write(self, batch: list[tuple[Request, list[int]]]) -> list[list[int]]:
        import torch

        from reflectune.agents.generation import Sampling, continue_prompts

        prompts = [prompt for _, prompt in batch]
        sampling = None
        if self._config.temperature > 0:
            seeds = [request.seed for request, _ in batch]
            sampling = Sampling(self._config.temperature, self._config.top_p, seeds)
        try:
            return continue_prompts(
                self._network, prompts, self._stops, self._room(prompts[0]), sampling, self._opening
            )
        except torch.OutOfMemoryError as error:
            raise TeacherError(
                f"teacher {self.model}: out of memory writing {len(prompts)} answers at once; "
                "lower teacher.concurrency or teacher.max_tokens"
            ) from error

    def _answer(self, request: Request, prompt: list[int], tokens: list[int], seconds: float) -> Answer:
        end = next((place for place, token in enumerate(tokens) if token in self._stops), None)
        text = self._tokenizer.decode(tokens[:end], skip_special_tokens=True)
        return Answer(
            request.id,
            text=text,
            finish_reason="length" if end is None else "stop",
            prompt_tokens=len(prompt),
            completion_tokens=len(tokens) if end is None else end + 1,
            seconds=seconds,
        )
