"""Lets vLLM write a student's answers where that is faster: thousands of them, on a CUDA device.

The student has to be closed before: vLLM takes most of the device's memory.
"""

import importlib.util
import json
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from reflectune.agents import models
from reflectune.agents.architecture import context_length
from reflectune.agents.generation import stop_ids
from reflectune.agents.student.answering import Answering, Response, Writer
from reflectune.agents.student.pairs import PairEncoder
from reflectune.agents.student.student import Student, open_encoder
from reflectune.agents.student.templates import open_template
from reflectune.agents.teacher.engines import Request, TeacherModel
from reflectune.agents.teacher.engines.vllm_engine import VllmEngine
from reflectune.agents.tokenizers import open_tokenizer
from reflectune.state.config import StudentConfig, TeacherConfig
from reflectune.state.errors import StudentError, TeacherError
from reflectune.state.records import Pair, Reflection

__all__ = ["VllmWriter", "find_obstacle", "open_writer"]

_logger = logging.getLogger(__name__)

# An estimate: transformers writes about so many answers in the minute that vLLM takes to start.
_WORTH = 2000


def find_obstacle(config: StudentConfig, adapter: Path | None, answers: int) -> str | None:
    """Why a student writes so many answers by itself; None where vLLM writes them."""
    if importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed"
    if config.device not in ("auto", "cuda", "cuda:0") or not torch.cuda.is_available():
        return "the student is not on the first CUDA device"
    if config.load_in_4bit:
        return "the student has 4-bit weights, of which vLLM makes others"
    if answers < _WORTH:
        return f"vLLM takes longer to start than {answers} answers take"
    if adapter is not None:
        try:
            models.check_adapters_fit_vllm(config)
        except StudentError as error:
            return str(error)
    return None


def open_writer(config: StudentConfig, adapter: Path | None, max_tokens: int, share: float | None) -> Writer:
    """Open vLLM as `VllmWriter` does, or the student where vLLM does not open."""
    try:
        return VllmWriter(config, adapter, max_tokens, share)
    except TeacherError as error:
        _logger.warning("%s; the student writes by itself", error)
        return Student.open(config, adapter)


class VllmWriter(AbstractContextManager["VllmWriter"]):
    """A student whose answers vLLM writes, from the same prompts and to the same ends."""

    at_once = 1024

    def __init__(
        self, config: StudentConfig, adapter: Path | None, max_tokens: int, share: float | None = None
    ) -> None:
        """Open vLLM, which takes a `share` of the device's memory; a TeacherError where it does not open."""
        tokenizer, shell = open_tokenizer(config), _open_shell(config)
        template = open_template(config, tokenizer)
        encoder = open_encoder(shell, tokenizer, template, config)
        self._answering = Answering(tokenizer, template, PairEncoder(template, encoder))
        self._stops = tuple(stop_ids(shell, tokenizer, template.end_id(tokenizer)))
        length = encoder.max_length + max_tokens
        settings = TeacherConfig(
            engine="vllm",
            model=config.model,
            max_tokens=max_tokens,
            max_model_len=min(length, context_length(shell) or length),
            gpu_memory_utilization=share,
        )
        self._engine = VllmEngine(settings, TeacherModel("student", config, adapter))

    def respond(self, pairs: Sequence[Pair], max_tokens: int) -> list[Response | None]:
        """Answer instructions greedily, in the given order, as `Student.respond` does."""
        return self._answering.respond(pairs, self._write)

    def _write(self, prompts: list[list[int]]) -> list[list[int] | None]:
        for number, prompt in enumerate(prompts):
            # No two prompts are one subject: vLLM's process may die of one.
            asked = Reflection("", "", Pair(json.dumps(prompt), "", ""), 0, "response", 0)
            self._engine.submit(Request(str(number), asked, (), None, 0, tuple(prompt), self._stops))
        written: list[list[int] | None] = [None] * len(prompts)
        for _ in prompts:
            answer = self._engine.next_answer()
            if answer.error is None:
                ids = [id for id in answer.ids if id not in self._stops]
                written[int(answer.request_id)] = ids
        return written

    def __exit__(self, *error: object) -> None:
        self._engine.close()


def _open_shell(config: StudentConfig) -> Any:
    """A student's model without weights: what its files say of it."""
    with models.opening(config, "model"), torch.device("meta"):
        settings = AutoConfig.from_pretrained(config.model, **models.source(config))
        shell = AutoModelForCausalLM.from_config(settings)
    with suppress(OSError):  # a model need not have any
        shell.generation_config = GenerationConfig.from_pretrained(config.model, revision=config.revision)
    return shell
