"""The teacher: asks an engine for reflections on pairs, and makes proposals of its answers.

Keeps the engine busy, asks again where that can help, and hands over finished calls as soon as they
are there. It stores no call: how often one was already asked comes in with the reflection.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import count
from operator import attrgetter
from pathlib import Path

from reflectune.agents.teacher.engines import (
    FAILED,
    Engine,
    OpenEngine,
    Request,
    TeacherModel,
    open_engine,
    take_answers,
)
from reflectune.agents.teacher.engines.addresses import list_addresses
from reflectune.agents.teacher.engines.cached import Cache
from reflectune.agents.teacher.engines.faults import is_about_schema
from reflectune.agents.teacher.engines.opening import check_engine, find_model, open_through_cache
from reflectune.agents.teacher.forms import answer_schema
from reflectune.agents.teacher.parsing import AnswerParser, Proposal
from reflectune.agents.teacher.prompts import Prompts, make_nonce, open_prompts
from reflectune.state.config import SELF, TeacherConfig
from reflectune.state.config.prices import find_cost, find_prices
from reflectune.state.errors import TeacherError
from reflectune.state.live import Worker
from reflectune.state.records import (
    Answer,
    CallStatus,
    Reflection,
    TeacherCall,
    Version,
    content_hash,
    content_part,
)
from reflectune.state.text import clean_text

__all__ = ["Reflected", "Teacher", "check_teacher", "open_teacher"]

Reflected = tuple[TeacherCall, Version | None]  # a finished call, and the version it proposed, if any

# So many calls in a row may bring no text, or the engine's capacity if that is more.
_MAX_TEXTLESS = 8
_NO_MORE = object()  # reflections
_ASKED_FOR = attrgetter("round", "phase", "sample_id", "candidate")  # of a call: which proposal


class Teacher(AbstractContextManager["Teacher"]):
    """Reflects on pairs through an engine.

    The first attempt asks for JSON by schema, where config and engine allow it; further attempts ask for
    tagged text, so that even a greedy model reads something new. Prompts without words for tagged text ask
    for JSON in every attempt, with a schema wherever one is allowed. What an attempt asks follows from
    seed, reflection and attempt alone, and so is the same in a resumed run.
    """

    def __init__(
        self, engine: Engine, prompts: Prompts, config: TeacherConfig, seed: int, cache: Cache | None = None
    ) -> None:
        self._engine, self._prompts, self._config = engine, prompts, config
        self._seed, self._cache = seed, cache
        self._attempts = config.attempts
        self._prices = find_prices(config)
        self._request_ids = map(str, count())
        self._grants_schemas: dict[str | None, bool | None] = {}  # by server; None until it has shown it
        if cache is not None:
            names = (address.name for address in list_addresses(config))
            self._grants_schemas = {name: cache.grants_schemas(name, engine.model) for name in names}
        # In the attempt that is next or under way, by this server.
        self._schema_refused: dict[Reflection, str | None] = {}
        self._blames_schema = False  # whether a refusal said that it is the schema
        self._has_answered = False
        self._failures = 0  # calls in a row without a text
        self._unavailable = 0  # requests in a row that nobody took

    def reflect(
        self,
        reflections: Iterable[Reflection | None],
        may_ask: Callable[[], bool] = lambda: True,
        *,
        waits: Callable[[], bool] = lambda: True,
    ) -> Iterator[list[Reflected]]:
        """Ask for every reflection, again where an answer is no use, and yield all finished calls, in groups.

        A group is what is there without waiting once the first is, at most 64. Whoever asks for the next has
        committed it: only then are more reflections pulled, as many as there is room for, unless `may_ask`
        says no. Then nothing more is asked; calls under way are still taken in.

        Whoever has other work meanwhile says by `waits` whether an answer is waited for; else an empty group
        says that none is there. A reflection may be None: there is none for now, but may be later. Then an
        empty group also says that nothing is under way.

        Failures in a row are held back until the teacher answers something or nothing is under way: they may
        be its fault rather than the pairs'. An answer without a text is no better than a failure, but has
        been paid for: it is yielded at once, and so is a failure that was counted.

        Raises:
            TeacherError: the teacher cannot be reached, or answers nothing, not even what was under way when
                that showed. Calls not yielded cost nothing: ask for their reflections again.
        """
        new = (
            asked for asked in reflections if asked is None or asked.attempts < asked.spared + self._attempts
        )
        again: deque[Reflection] = deque()
        under_way: dict[str, Request] = {}
        held: list[Reflected] = []
        fault: TeacherError | None = None
        while True:
            may_come = False
            while fault is None and len(under_way) < self._engine.capacity and may_ask():
                reflection = again.popleft() if again else next(new, _NO_MORE)
                if not isinstance(reflection, Reflection):
                    may_come = reflection is None
                    break
                request = self._prepare(reflection)
                under_way[request.id] = request
                self._engine.submit(request)
            if not under_way:
                if fault is not None:
                    raise fault
                if held:
                    yield held
                    held = []
                if not may_come:
                    return
            if not under_way or not (waits() or self._engine.has_answer()):
                yield []
                continue
            finished: list[Reflected] = []
            others = len(under_way) - 1
            try:
                for answer in take_answers(self._engine, len(under_way)):
                    if answer.request_id not in under_way:
                        continue  # asked by an earlier reflect() whose reader stopped early
                    request = under_way.pop(answer.request_id)
                    fault = self._find_fault(request, answer, others, fault)
                    reflection = request.reflection
                    if answer.error == "unavailable" or _refuses_schema(request, answer):
                        if answer.error == "refused-request":
                            self._schema_refused[reflection] = answer.server
                            self._blames_schema |= is_about_schema(answer.message or "")
                        again.append(reflection)
                        continue
                    call, version = self._conclude(request, answer)
                    if not call.is_final(reflection.spared + self._attempts):
                        again.append(replace(reflection, attempts=call.attempt))
                    ready, held = self._release([*held, (call, version)], answer)
                    finished += ready
                    self._learn_schemas(request, answer)
            finally:  # what was paid for is handed over also where the next answer is an error
                if finished:
                    yield finished

    @property
    def waiting(self) -> str:
        """What holds up all answers, and for how long by now; empty where nothing does. For any thread."""
        return self._engine.waiting

    def workers(self) -> Sequence[Worker]:
        """What each server or replica does now. For any thread."""
        return self._engine.workers()

    @property
    def parameters(self) -> dict[str, bool]:
        """Whether a server takes what it was sent, by name of the parameter; empty where none was asked."""
        known = self._engine.parameters
        taken = {name for each in known for name in each.taken}
        refused = {name for each in known for name in each.refused}
        if known and not self._may_ask_for_schemas:
            refused.add("response_format")
        return dict.fromkeys(sorted(taken - refused), True) | dict.fromkeys(sorted(refused), False)

    def prompt(self, reflection: Reflection) -> str:
        """What the next attempt at a proposal asks, as far as is known of the engine by now."""
        return "\n".join(message["content"] for message in self._prepare(reflection).messages)

    def close(self) -> None:
        """Give back the engine's memory, threads and connections."""
        self._engine.close()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _prepare(self, asked: Reflection) -> Request:
        by_schema = (
            (asked.attempts == asked.spared or not self._prompts.has_tags)
            and asked not in self._schema_refused
            and self._config.structured
            and self._engine.structured
            and self._may_ask_for_schemas
        )
        # Candidates of a pair share their whole prompt, so that engines compute it once.
        place = self._place(asked)
        nonce = make_nonce(asked.pair, *place)
        messages = self._prompts.messages(asked.phase, asked.pair, structured=by_schema, nonce=nonce)
        schema = answer_schema(asked.phase) if by_schema else None
        seed = content_hash("seed", *place, asked.candidate)
        return Request(next(self._request_ids), asked, messages, schema, int(seed[:8], 16) >> 1)  # 31 bits

    @property
    def _may_ask_for_schemas(self) -> bool:
        """Whether no server is known to refuse them: any of several may be asked."""
        return False not in self._grants_schemas.values()

    def _place(self, asked: Reflection) -> tuple[object, ...]:
        """What tells the prompt of one attempt from any other, in whatever order the data is."""
        return self._seed, asked.round, asked.phase, content_part(asked.sample_id), asked.attempts + 1

    def _find_fault(
        self, request: Request, answer: Answer, others_under_way: int, fault: TeacherError | None
    ) -> TeacherError | None:
        """What keeps the teacher as a whole from answering, after one more answer."""
        if answer.cached:
            return fault  # it tells nothing of the teacher as it is now
        if answer.error == "unavailable":
            self._unavailable += 1
            # One that has answered may be starting again; an address nobody answers at is soon given up.
            turns = self._attempts if self._has_answered else 1
            if self._unavailable >= max(turns * (others_under_way + 1), self._attempts):
                return fault or self._error("cannot be reached", answer)
            return fault
        self._unavailable = 0
        if _refuses_schema(request, answer):
            return fault
        if self._is_sign_of_life(answer):
            self._has_answered = True
            self._failures = 0
            return None
        self._failures += 1
        if self._failures > self._attempts * max(_MAX_TEXTLESS, self._engine.capacity):
            return fault or self._error(f"{self._failures} calls in a row failed", answer)
        return fault

    def _is_sign_of_life(self, answer: Answer) -> bool:
        """Whether the teacher works, so that failures before it were the pairs'."""
        if answer.error is None:
            return bool(answer.text.strip()) and not answer.cached
        return answer.error == "no-entry" or (answer.error == "refused-request" and self._has_answered)

    def _release(self, held: list[Reflected], answer: Answer) -> tuple[list[Reflected], list[Reflected]]:
        """What to yield after an answer, to the last one of these, and what to hold on to."""
        if self._is_sign_of_life(answer):
            return held, []
        ready = []
        if answer.error is None or answer.prompt_tokens is not None:
            # Earlier attempts go with it: the resumed run goes on by how many are in the books.
            ready = [made for made in held if _ASKED_FOR(made[0]) == _ASKED_FOR(held[-1][0])]
        return ready, [made for made in held if made not in ready]

    def _learn_schemas(self, request: Request, answer: Answer) -> None:
        """Note whether a server takes schemas, as an answer shows it. Once granted they stay."""
        granted = request.schema is not None
        is_refused = request.reflection in self._schema_refused
        refuser = self._schema_refused.pop(request.reflection, None)
        server = answer.server if granted else refuser
        known = self._grants_schemas.get(server)
        if answer.error is not None or answer.cached or not (granted or (is_refused and known is None)):
            return
        is_sure = granted or self._blames_schema  # the cache tells runs to come
        if is_sure and granted != known and self._cache is not None and server is not None:
            self._cache.set_grants_schemas(server, self._engine.model, granted)
        self._grants_schemas[server] = granted

    def _conclude(self, request: Request, answer: Answer) -> Reflected:
        """Make a call's record of an answer, with the version it proposes."""
        asked = request.reflection
        parsed = self._parse(request, answer)
        proposal = parsed if isinstance(parsed, Proposal) else None
        call = TeacherCall(
            round=asked.round,
            phase=asked.phase,
            sample_id=asked.sample_id,
            candidate=asked.candidate,
            attempt=asked.attempts + 1,
            engine=self._engine.name,
            model=self._engine.model,
            prompt_hash=content_hash(request.messages),
            text=clean_text(answer.text),
            finish_reason=answer.finish_reason,
            status="ok" if isinstance(parsed, Proposal) else parsed,
            error=_explain(parsed, answer),
            critique=None if proposal is None else proposal.critique,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            cost_usd=find_cost(self._prices, answer),
            seconds=answer.seconds,
            cached=answer.cached,
            server=answer.server,
        )
        if proposal is None:
            return call, None
        place = asked.sample_id, asked.incumbent_id, asked.round, asked.phase, asked.candidate
        return call, Version(*place, proposal.pair, call.id)

    def _parse(self, request: Request, answer: Answer) -> Proposal | CallStatus:
        if answer.error is not None:
            return FAILED.get(answer.error, "error")
        asked, structured = request.reflection, request.schema is not None
        nonce = make_nonce(asked.pair, *self._place(asked))
        parser = AnswerParser(self._prompts, asked.phase, asked.pair, structured, nonce)
        return parser.parse(answer.text, answer.finish_reason)

    def _error(self, what: str, answer: Answer) -> TeacherError:
        silence = f"no text in the answer, finish reason {answer.finish_reason}"
        message = clean_text(answer.message or ("no reason given" if answer.error else silence))
        return TeacherError(f"teacher {self._engine.model}: {what}: {message}")


def _refuses_schema(request: Request, answer: Answer) -> bool:
    """Whether it may be the schema that the engine does not take."""
    return answer.error == "refused-request" and request.schema is not None


def _explain(parsed: Proposal | CallStatus, answer: Answer) -> str | None:
    """Why a call brought no proposal, where more can be said than its status says."""
    is_cut = answer.finish_reason == "length"
    if parsed == "thought" and not is_cut:
        return "only thought, and no answer behind it"
    if parsed == "thought":
        return "only thought, cut at the token limit: raise teacher.max_tokens, or let the model think less"
    if parsed == "cut":
        return "at the token limit: raise teacher.max_tokens"
    return answer.message and clean_text(answer.message)


def open_teacher(
    config: TeacherConfig,
    seed: int,
    student: TeacherModel | None = None,
    cache: Cache | None = None,
    stopping: Callable[[], bool] = lambda: False,
    open_engine: OpenEngine = open_engine,
) -> Teacher:
    """Open the configured prompts and engine, and a teacher on them; close the teacher after use.

    What is asked and drawn follows from the run's `seed`; `student` teaches where `teacher.model` is "self",
    and says how other models on this machine are prompted.
    With a cache the engine is opened when the first answer is missing, if ever; None asks for every answer.
    What may wait for hours leaves where somebody is `stopping`. `open_engine` says where the engine is.
    """
    prompts = open_prompts(config.prompts)
    engine = open_through_cache(config, _teacher_model(config, student), cache, stopping, open_engine)
    is_served = config.is_cached and not config.is_local
    return Teacher(engine, prompts, config, seed, cache if is_served else None)


def check_teacher(config: TeacherConfig) -> None:
    """Raise a ConfigError for a teacher that surely cannot work, by files and environment alone.

    One that answers from the cache alone needs no more than its prompts.
    """
    open_prompts(config.prompts)
    if config.engine == "recorded":
        from reflectune.agents.teacher.engines.recorded import read_recording

        read_recording(Path(config.path or ""))
    check_engine(config)


def _teacher_model(config: TeacherConfig, student: TeacherModel | None) -> TeacherModel:
    if config.model != SELF:
        return find_model(config, None if student is None else student.source)
    assert student is not None, "nobody said which student is the teacher"
    if config.dtype == "auto":
        return student
    return replace(student, source=student.source.model_copy(update={"dtype": config.dtype}))
