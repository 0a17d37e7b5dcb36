"""Generates a teacher's answers with a transformers model on this machine, batch by batch.

An answer follows from its prompt and seed, up to rounding, whatever else is in its batch. For trying
things out and for machines without a server: a server batches better. It cannot hold a model to a schema.
"""

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from reflectune.agents import generation, models
from reflectune.agents.architecture import context_length
from reflectune.agents.memory import free_memory
from reflectune.agents.processes import describe_process
from reflectune.agents.teacher.engines import Request, TeacherModel
from reflectune.agents.teacher.engines.local_chat import LocalChat
from reflectune.agents.tokenizers import open_tokenizer
from reflectune.state.config import EngineConfig
from reflectune.state.errors import StudentError, TeacherError
from reflectune.state.live import Worker
from reflectune.state.records import Answer

__all__ = ["TransformersEngine"]


class TransformersEngine:
    """Collects requests and answers up to `teacher.concurrency` of them in one batch."""

    name = "transformers"
    structured = False
    parameters = ()
    waiting = ""

    def __init__(self, config: EngineConfig, model: TeacherModel) -> None:
        self.model = model.name
        self.capacity = config.capacity
        self._config = config
        models.set_threads(model.source.threads)
        try:
            tokenizer = open_tokenizer(model.source)
            self._chat: Any = LocalChat(tokenizer, model.source, models.count_embeddings(model.source))
            self._network = models.open_model(model.source)
        except StudentError as error:
            key = f"{config.section}.model"
            raise TeacherError(f"{config.section} {error}; check {key}", kept=key) from error
        if model.adapter is not None:
            self._network = models.attach_adapter(self._network, model.adapter).get_base_model()
        self._context: int | None = context_length(self._network)
        self._stops = generation.stop_ids(self._network, tokenizer, *self._chat.stop_ids)
        self._opening: Any = generation.Opening()  # all prompts of a phase begin with the task
        self._waiting: deque[tuple[Request, list[int]]] = deque()
        self._answers: deque[Answer] = deque()
        self._device = str(self._network.device)
        self._under_way = self._done = 0  # requests

    def workers(self) -> Sequence[Worker]:
        """The one model."""
        counts = self._under_way, self._done, len(self._waiting)
        return (Worker("teacher", "1", *counts, device=self._device, **describe_process()),)

    def submit(self, request: Request) -> None:
        """Tokenise the request and put it in line; one that the model cannot take is refused."""
        try:
            prompt = self._chat.encode(request.messages)
        except StudentError as error:
            message = str(error)
        else:
            if self._room(prompt) > 0:
                self._waiting.append((request, prompt))
                return
            message = f"a prompt of {len(prompt)} tokens fills the context of {self._context}"
        self._answers.append(Answer(request.id, error="refused-request", message=message))

    def next_answer(self) -> Answer:
        """The next answer of the last batch, or the first of a new one."""
        if not self._answers:
            began, batch = time.monotonic(), self._next_batch()
            self._under_way = len(batch)
            written = self._write(batch)
            self._under_way, self._done = 0, self._done + len(batch)
            seconds = time.monotonic() - began
            for (request, prompt), tokens in zip(batch, written, strict=True):
                self._answers.append(self._answer(request, prompt, tokens, seconds))
        return self._answers.popleft()

    def has_answer(self) -> bool:
        """Whether any of the last batch is left."""
        return bool(self._answers)

    def close(self) -> None:
        """Drop the model and free its memory."""
        self._network = self._chat = self._opening = None
        free_memory()

    def _room(self, prompt: list[int]) -> int:
        return generation.find_room(prompt, self._context, self._config.max_tokens)

    def _next_batch(self) -> list[tuple[Request, list[int]]]:
        """Requests that can write as long an answer as the first, so that none is cut for another."""
        room = self._room(self._waiting[0][1])
        batch = [item for item in self._waiting if self._room(item[1]) == room][: self.capacity]
        for item in batch:
            self._waiting.remove(item)
        return batch

    def _write(self, batch: list[tuple[Request, list[int]]]) -> list[list[int]]:
        prompts = [prompt for _, prompt in batch]
        sampling = None
        temperature, top_p = self._config.sampling
        if temperature > 0:
            seeds = [request.seed for request, _ in batch]
            sampling = generation.Sampling(temperature, top_p, seeds)
        try:
            room = self._room(prompts[0])
            return generation.continue_prompts(
                self._network, prompts, self._stops, room, sampling, self._opening
            )
        except torch.OutOfMemoryError as error:
            who = f"{self._config.section} {self.model}"
            raise TeacherError(
                f"{who}: out of memory writing a single answer; end what else uses its device"
            ) from error

    def _answer(self, request: Request, prompt: list[int], tokens: list[int], seconds: float) -> Answer:
        has_ended = tokens[-1] in self._stops
        return Answer(
            request.id,
            text=self._chat.decode(tokens[:-1] if has_ended else tokens),
            finish_reason="stop" if has_ended else "length",
            prompt_tokens=len(prompt),
            completion_tokens=len(tokens),
            seconds=seconds,
        )
