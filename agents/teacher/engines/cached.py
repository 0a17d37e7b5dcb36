"""Takes answers from a cache, and asks another engine only for those that are not in it.

Nothing here knows where the cache lies. What asks for the same prompt, with the same schema, of the same
model, sampled in the same way, is the same request, whichever engine or address serves it.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from reflectune.agents.model_files import fingerprint
from reflectune.agents.teacher.engines import Batches, Engine, OpenEngine, Request, TeacherModel, open_engine
from reflectune.agents.teacher.engines.parameters import Parameters
from reflectune.state.config import EngineConfig
from reflectune.state.live import Worker
from reflectune.state.records import Answer, AnswerError, content_hash
from reflectune.state.text import clean_text

__all__ = ["Cache", "CachedEngine"]


class Cache(Batches, Protocol):
    """Where answers are kept, by the hash of all that they depend on, and notes of what is at servers."""

    def get(self, key: str, request_id: str) -> Answer | None:
        """The answer kept under a key, as one to this request."""

    def put(self, key: str, model: str, answer: Answer) -> None:
        """Keep what a model answered; the first answer under a key stays."""

    def fingerprint(self, folder: str) -> str | None:
        """What a model folder was last found to hold."""

    def set_fingerprint(self, folder: str, fingerprint: str) -> None:
        """Note what a model folder holds now."""

    def grants_schemas(self, address: str, model: str) -> bool | None:
        """Whether a server takes schemas for a model; None where it has not shown it."""

    def set_grants_schemas(self, address: str, model: str, granted: bool) -> None:
        """Note whether a server takes schemas for a model."""

    def refused_parameters(self, key: str) -> frozenset[str]:
        """What a server refused by name of late, by the hash of all that it was asked."""

    def add_refused_parameter(self, key: str, name: str) -> None:
        """Note that a server refused a parameter."""


class CachedEngine:
    """An engine around another one, which is opened when the first answer is missing.

    With `teacher.cache = "only"` none is ever opened: what is missing has no entry.

    Kept is every answer that was paid for, of use or not; failures are not, but what a server refuses by name
    is. It is kept when the next request is submitted, or on closing. By then its reader has committed it, so
    that a run killed at any instant finds no answer of its own that its books lack.

    Requests alike that are under way together are asked as one, whose answer or failure all of them get.
    """

    def __init__(
        self,
        config: EngineConfig,
        model: TeacherModel,
        cache: Cache,
        stopping: Callable[[], bool] = lambda: False,
        open_engine: OpenEngine = open_engine,
    ) -> None:
        self.name: str = config.engine
        self.model = model.name
        self.structured, self.capacity = config.takes_schemas(thinking=model.source.thinking), config.capacity
        self._config, self._cache = config, cache
        self._open: Callable[[], Engine] = partial(open_engine, config, model, cache, stopping)
        self._sampling = (_identify(config, model, cache), *_sampling(config))
        self._engine: Engine | None = None
        self._hits: deque[Answer] = deque()
        self._asked: dict[str, str] = {}  # request id -> key
        self._alike: dict[str, list[Request]] = {}  # by key: what waits for the answer of one
        self._handed_out: dict[str, Answer] = {}  # by key
        self._refused: dict[str, frozenset[str]] = {}  # key of a server's parameters -> what the cache knows

    @property
    def parameters(self) -> Sequence[Parameters]:
        """What each server takes; empty where none was asked."""
        return () if self._engine is None else self._engine.parameters

    @property
    def waiting(self) -> str:
        """What holds up all requests that are not in the cache."""
        return "" if self._engine is None else self._engine.waiting

    def workers(self) -> Sequence[Worker]:
        """Those of the engine; none where it was not opened."""
        return () if self._engine is None else self._engine.workers()

    def submit(self, request: Request) -> None:
        """Find the request's answer, or hand it on; opening the engine for it can fail."""
        self._keep()
        key = self._key(request)
        if (kept := self._cache.get(key, request.id)) is not None:
            self._hits.append(kept)
        elif self._config.cache == "only":
            # It may have the answer to the prompt without a schema.
            error: AnswerError = "no-entry" if request.schema is None else "refused-request"
            message = f'not in the cache, and {self._config.section}.cache = "only"'
            self._hits.append(Answer(request.id, error=error, message=message))
        elif key in self._alike:
            self._alike[key].append(request)
        else:
            if self._engine is None:
                self._engine = self._open()
                self.capacity = self._engine.capacity  # which may be that of several replicas
                self._recall()
            self._asked[request.id] = key
            self._alike[key] = []
            self._engine.submit(request)

    def next_answer(self) -> Answer:
        """The next answer: those of the cache first, while the engine goes on with the others."""
        if self._hits:
            return self._hits.popleft()
        assert self._engine is not None, "nothing is under way"
        answer = self._engine.next_answer()
        # What is read now and what a replay reads shall be the same to the last character.
        answer = replace(answer, text=clean_text(answer.text))
        key = self._asked.pop(answer.request_id)
        alike = self._alike.pop(key)
        if answer.error is None:
            self._handed_out.setdefault(key, answer)
        server = answer.server if answer.error else None  # the one that refused a schema
        same = replace(answer, seconds=0.0, cached=True, server=server)
        self._hits += (replace(same, request_id=request.id) for request in alike)
        return answer

    def has_answer(self) -> bool:
        """Whether the cache had something, or the engine has."""
        return bool(self._hits) or (self._engine is not None and self._engine.has_answer())

    def close(self) -> None:
        """Keep what was handed out since the last request, and close the engine if it was opened."""
        try:
            self._keep()
        finally:
            if self._engine is not None:
                self._engine.close()

    def _recall(self) -> None:
        """Tell an engine that was opened now what its servers refused before."""
        for known in self.parameters:
            self._refused[known.key] = self._cache.refused_parameters(known.key)
            known.refused |= self._refused[known.key]

    def _keep(self) -> None:
        handed_out, self._handed_out = self._handed_out, {}
        for key, answer in handed_out.items():
            self._cache.put(key, clean_text(self.model), answer)
        for known in self.parameters:
            for name in known.refused - self._refused[known.key]:
                self._refused[known.key] |= {name}
                self._cache.add_refused_parameter(known.key, name)

    def _key(self, request: Request) -> str:
        """Hash of all that an answer depends on."""
        return content_hash(
            "answer",
            request.messages,
            request.schema,
            self._sampling,
            self._config.max_tokens,
            request.seed if self._config.draws else None,
        )


def _sampling(config: EngineConfig) -> tuple[object, ...]:
    """What is told a model about how to draw."""
    if config.is_local:
        return config.sampling
    extra = (config.extra_body,) if config.extra_body else ()
    return config.temperature, config.top_p, *extra


def _identify(config: EngineConfig, model: TeacherModel, cache: Cache) -> tuple[object, ...]:
    """What tells a model from every other, as far as it can be known without opening it.

    A server's model goes by its name and `teacher.revision`, and so does one from the hub; a model folder by
    what it holds, or where it is gone, by what it held when it was last seen.
    """
    if not config.is_local:
        return "named", model.name, config.revision
    source, folder = model.source, Path(model.source.model)
    content: str | None = None
    if folder.is_dir():
        content = fingerprint(folder)
        if config.cache != "only":
            cache.set_fingerprint(str(folder.absolute()), content)
    elif folder.is_absolute():
        content = cache.fingerprint(str(folder))
    weights = ("named", source.model, source.revision) if content is None else ("files", content)
    dtype = None if source.dtype == "auto" else source.dtype
    prompted = source.thinking, source.date.isoformat()
    rest = (*prompted, "nf4") if source.load_in_4bit else prompted
    return *weights, model.adapter_hash, dtype, config.quantization, config.max_model_len, *rest
