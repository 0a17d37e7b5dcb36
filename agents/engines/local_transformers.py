"""Generates a teacher's answers with a transformers model on this machine, batch by batch.

For trying things out and for machines without a server: a server batches better. It cannot hold a
model to a schema.
"""

import time
from collections import deque
from pathlib import Path
from typing import Any

from agents.engines import Answer, Request
from state.config import StudentConfig, TeacherConfig
from state.errors import ConfigError, StudentError, TeacherError

__all__ = ["TransformersEngine", "check_model"]


class TransformersEngine:
    """Collects requests and answers up to `teacher.concurrency` of them in one batch."""

    name = "transformers"
    structured = False

    def __init__(self, config: TeacherConfig) -> None:
        """Load the model, as a student's is loaded.

        Raises:
            TeacherError: model or tokenizer cannot be opened.
        """
        from agents.models import context_length, open_model, open_tokenizer, set_threads, stop_ids

        assert config.model is not None
        self.model = config.model
        self.capacity = config.concurrency
        self._config = config
        set_threads(None)
        source = StudentConfig(model=config.model)
        try:
            self._tokenizer = open_tokenizer(source)
            self._network = open_model(source)
        except StudentError as error:
            raise TeacherError(f"teacher {error}; check teacher.model") from error
        self._context: int | None = context_length(self._network)
        self._stops: list[int] = stop_ids(self._network, self._tokenizer)
        self._waiting: deque[tuple[Request, list[int]]] = deque()
        self._answers: deque[Answer] = deque()

    def submit(self, request: Request) -> None:
        """Tokenise the request and put it in line; one that leaves no room to answer is refused."""
        prompt = self._render(request)
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
        from agents.models import free_memory

        self._network = self._tokenizer = None
        self._waiting.clear()
        self._answers.clear()
        free_memory()

    def _render(self, request: Request) -> list[int]:
        if self._tokenizer.chat_template:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in request.messages], add_generation_prompt=True, tokenize=False
            )
            return list(self._tokenizer(text, add_special_tokens=False).input_ids)
        text = "\n\n".join(message["content"] for message in request.messages)
        return list(self._tokenizer(text).input_ids)

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
        prompts = [prompt for _, prompt in batch]
        written = self._write(prompts, seed=batch[0][0].seed)
        seconds = time.monotonic() - began
        return [
            self._answer(request, prompt, tokens, seconds)
            for (request, prompt), tokens in zip(batch, written, strict=True)
        ]

    def _write(self, prompts: list[list[int]], seed: int) -> list[list[int]]:
        import torch
        from transformers import GenerationConfig

        longest = max(map(len, prompts))
        # Padding stands on the left and is masked away, so that every prompt ends where writing begins.
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])  # (B, T)
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        device = self._network.device
        sampling: dict[str, Any] = {"do_sample": False}
        if self._config.temperature > 0:
            sampling = {
                "do_sample": True,
                "temperature": self._config.temperature,
                "top_p": self._config.top_p,
                "top_k": 0,
            }
        settings = GenerationConfig(
            max_new_tokens=self._room(prompts[0]),
            eos_token_id=self._stops or None,
            pad_token_id=(self._stops or [0])[0],
            **sampling,
        )
        self._network.generation_config = GenerationConfig()  # the model's own may add penalties
        devices = [device] if device.type == "cuda" else []
        try:
            with torch.inference_mode(), torch.random.fork_rng(devices=devices):
                torch.manual_seed(seed)  # generate() takes no generator of its own
                full = self._network.generate(
                    ids.to(device), attention_mask=mask.to(device), generation_config=settings
                )
        except torch.OutOfMemoryError as error:
            raise TeacherError(
                f"teacher {self.model}: out of memory writing {len(prompts)} answers at once; "
                "lower teacher.concurrency or teacher.max_tokens"
            ) from error
        written: list[list[int]] = full[:, longest:].tolist()  # (B, <= max_new_tokens)
        return written

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


def check_model(name: str) -> None:
    """Refuse a model that surely cannot be opened. Looks at files only; a hub name passes.

    Raises:
        ConfigError: a folder that is missing, or has no config.json or no weights.
    """
    folder = Path(name)
    if not folder.is_dir():
        if folder.is_absolute():
            raise ConfigError(f"teacher.model: {folder}: no such model folder")
        return
    if not (folder / "config.json").is_file():
        raise ConfigError(f"teacher.model: {folder}: not a model folder, it has no config.json")
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise ConfigError(f"teacher.model: {folder}: it has no *.safetensors or *.bin weights")
