"""The process that vLLM runs in: takes prompts, hands every answer over as it finishes, ends to free memory.

Speaks through two pipes. It reads requests, and writes `Ready`, then an `Answer` for each; a
`Fault` is its last word. It ends as soon as nobody holds the other end of its requests.
"""

import importlib.metadata
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from reflectune.agents.teacher.engines import Request
from reflectune.state.config import EngineConfig, StudentConfig
from reflectune.state.errors import StudentError
from reflectune.state.functions import describe_error
from reflectune.state.records import Answer, content_hash

__all__ = ["Fault", "ModelSettings", "Ready", "Word", "serve"]

# What vLLM has been built for; an adapter takes the next larger.
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What to open, and how."""

    engine: Mapping[str, Any]  # vLLM's engine arguments
    source: StudentConfig
    adapter: Path | None
    log: Path  # takes all that vLLM prints
    teacher: EngineConfig


class Ready:
    """The model is open."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why the process ends."""

    message: str


Word = Ready | Answer | Fault


def serve(requests: Connection, words: Connection, settings: ModelSettings) -> None:
    """Open the model and answer until there can be no more requests. Runs in a fresh process only."""
    _print_to(settings.log)
    # This is a process of its own already, and its exit frees the memory.
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    # FlashInfer's sampler is built by CUDA's compiler when it first runs. Requests with seeds never use it.
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    if _is_for_cpu():
        # vLLM's own choice, a thread bound to each visible CPU, is a hundred times slower beside other work.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // 2)))
    try:
        worker = _Worker(settings)
        words.send(Ready())
        worker.work(requests, words)
    except (EOFError, BrokenPipeError):
        return  # nobody wants the answers any more
    except Exception as error:  # noqa: BLE001 - whatever it is, the other side tells it
        traceback.print_exc()
        with suppress(BrokenPipeError):
            words.send(Fault(describe_error(error)))


class _Worker:
    """The open model and what is under way in it."""

    def __init__(self, settings: ModelSettings) -> None:
        from vllm import EngineArgs, LLMEngine
        from vllm.lora.request import LoRARequest
        from vllm.usage.usage_lib import UsageContext

        from reflectune.agents.models import check_adapters_fit_vllm, count_embeddings
        from reflectune.agents.teacher.engines.local_chat import LocalChat
        from reflectune.agents.tokenizers import open_tokenizer

        how = dict(settings.engine)
        if _is_for_cpu():
            how["enforce_eager"] = True  # compiling takes longer than the small models of a CPU are worth
            # A prompt that is read in several parts has no seed of its own on a CPU: vLLM dies of it.
            how["enable_chunked_prefill"] = False
        self._adapter = None
        if settings.adapter is not None:
            check_adapters_fit_vllm(settings.source)
            how |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _lora_rank(settings.adapter)}
            # vLLM's caches know an adapter by name and number, and so these must be the folder's own.
            number = int(content_hash(str(settings.adapter))[:7], 16) + 1
            self._adapter = LoRARequest(str(settings.adapter), number, str(settings.adapter))
        self._teacher = settings.teacher
        source = settings.source
        self._chat = LocalChat(open_tokenizer(source), source, count_embeddings(source))
        # What is unset gets vLLM's defaults for work without anybody waiting.
        self._engine = LLMEngine.from_engine_args(EngineArgs(**how), UsageContext.LLM_CLASS)
        self._context: int = self._engine.model_config.max_model_len  # that vLLM has found room for
        self._began: dict[str, float] = {}

    def work(self, requests: Connection, words: Connection) -> None:
        """Answer until there can be no more requests, which an EOFError says."""
        while True:
            while requests.poll(0.0 if self._began else None):
                if refusal := self._begin(requests.recv()):
                    words.send(refusal)
            for output in self._engine.step():
                if output.finished:
                    words.send(self._answer(output))

    def _begin(self, request: Request) -> Answer | None:
        """Have vLLM work on a request; the answer to one that it cannot take."""
        try:
            prompt = [*request.prompt] if request.prompt else self._chat.encode(request.messages)
            if len(prompt) >= self._context:
                message = f"a prompt of {len(prompt)} tokens fills the context of {self._context}"
                return Answer(request.id, error="refused-request", message=message)
            self._engine.add_request(
                request.id,
                {"prompt_token_ids": prompt},
                self._sampling(request, self._context - len(prompt)),
                lora_request=self._adapter,
            )
        except (StudentError, ValueError) as error:
            return Answer(request.id, error="refused-request", message=describe_error(error))
        self._began[request.id] = time.monotonic()
        return None

    def _sampling(self, request: Request, room: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        temperature, top_p = self._teacher.sampling
        return SamplingParams(
            temperature=temperature,
            top_p=top_p,
            max_tokens=min(self._teacher.max_tokens, room),
            seed=request.seed,
            stop_token_ids=[*request.stops] if request.prompt else self._chat.stop_ids,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            structured_outputs=request.schema and StructuredOutputsParams(json=dict(request.schema)),
        )

    def _answer(self, output: Any) -> Answer:
        written = output.outputs[0]
        is_whole = written.finish_reason in ("stop", "length")
        return Answer(
            output.request_id,
            text=self._chat.decode(written.token_ids),
            ids=tuple(written.token_ids),
            finish_reason=written.finish_reason,
            error=None if is_whole else "failed",
            message=None if is_whole else f"vLLM gave up on it: {written.finish_reason}",
            prompt_tokens=len(output.prompt_token_ids),
            completion_tokens=len(written.token_ids),
            seconds=time.monotonic() - self._began.pop(output.request_id),
        )


def _is_for_cpu() -> bool:
    """Whether the vLLM that is installed is the one built for CPUs."""
    return bool(list(importlib.metadata.distributions(name="vllm-cpu")))


def _lora_rank(adapter: Path) -> int:
    """The smallest rank that vLLM has room for the adapter in."""
    rank = int(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"])
    if rank > _LORA_RANKS[-1]:
        raise ValueError(f"{adapter}: vLLM takes LoRA ranks up to {_LORA_RANKS[-1]}, this one is {rank}")
    return min(known for known in _LORA_RANKS if known >= rank)


def _print_to(path: Path) -> None:
    """Send what this process and its libraries print to a file, not into our display."""
    with path.open("ab", buffering=0) as file:
        for number, stream in enumerate((sys.stdout, sys.stderr), start=1):
            stream.flush()
            os.dup2(file.fileno(), number)
