"""The teacher: asks an engine for reflections on pairs, and makes proposals of its answers.

Keeps the engine busy, asks again where that can help, and hands over every finished call as soon as it
is there. It stores no call: what was already asked comes in with the questions.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Self

from reflectune.agents.model_files import find_fault
from reflectune.agents.teacher.engines import ENGINES, Answer, Engine, Request, TeacherModel
from reflectune.agents.teacher.engines.cached import Answers, CachedEngine
from reflectune.agents.teacher.prompts import (
    Prompts,
    Proposal,
    answer_schema,
    clean_text,
    hash_messages,
    make_nonce,
    open_prompts,
)
from reflectune.state.config import SELF, StudentConfig, TeacherConfig
from reflectune.state.errors import ConfigError, TeacherError
from reflectune.state.records import FINAL_STATUSES, CallStatus, Pair, Phase, TeacherCall, content_hash

__all__ = ["Question", "Reflection", "Teacher", "check_teacher", "open_teacher"]

# So many questions in a row may come to nothing, or the engine's capacity if that is more.
_PATIENCE = 8


@dataclass(frozen=True, slots=True)
class Question:
    """A proposal to ask for: one candidate for one incumbent in one round and phase."""

    sample_id: str
    incumbent_id: str  # version id
    pair: Pair
    round: int
    phase: Phase
    candidate: int
    attempts: int = 0  # calls already made for it before an interruption


@dataclass(frozen=True, slots=True)
class Reflection:
    """One finished call, and what the teacher proposed in it."""

    question: Question
    call: TeacherCall
    proposal: Pair | None  # None unless the call's status is "ok"
    final: bool  # whether nothing more is asked for this question


@dataclass(frozen=True, slots=True)
class _Ask:
    """An attempt at a question that is to be made."""

    question: Question
    attempt: int  # from 1
    schema_refused: bool = False  # in this very attempt


@dataclass(frozen=True, slots=True)
class _Sent:
    """An attempt under way."""

    ask: _Ask
    nonce: str
    request: Request


class Teacher:
    """Reflects on pairs through an engine.

    The first attempt at a question asks for JSON by schema, where config and engine allow it; further
    attempts ask for tagged text, so that even a greedy model reads something new. Prompts without words
    for tagged text ask for JSON in every attempt, with a schema wherever one is allowed. What an attempt
    asks follows from seed, question and attempt alone, and so is the same in a resumed run.
    """

    def __init__(
        self,
        engine: Engine,
        prompts: Prompts,
        config: TeacherConfig,
        seed: int,
        answers: Answers | None = None,
    ) -> None:
        """Take an engine, and where there is a cache, what it knows of the server behind the engine."""
        self._engine = engine
        self._prompts = prompts
        self._config = config
        self._seed = seed
        self._attempts = config.attempts
        self._request_ids = map(str, count())
        self._answers = answers
        self._server = config.base_url or "", engine.model
        # None until the server has shown it
        self._grants_schemas = None if answers is None else answers.grants_schemas(*self._server)
        self._has_answered = False
        self._failures = 0  # calls in a row without a text
        self._unavailable = 0  # requests in a row that nobody took

    def reflect(
        self, questions: Iterable[Question], may_ask: Callable[[], bool] = lambda: True
    ) -> Iterator[Reflection]:
        """Ask every question, again where an answer is no use, and yield every finished call.

        Once `may_ask` says no, nothing more is asked; calls under way are still taken in.

        Questions are pulled when there is room for them, so they may be far more than fit in memory.
        Failures in a row are held back until the teacher answers something: they may be its fault rather
        than the pairs'. A refused request is the pair's fault once anything was answered. An answer without
        a text is no better than a failure, but has been paid for: it is yielded at once, and so is a failure
        that was counted.

        Raises:
            TeacherError: the teacher cannot be reached, or answers nothing, not even what was under way when
                that showed. Calls not yielded cost nothing: ask their questions again.
        """
        new = (_Ask(q, q.attempts + 1) for q in questions if q.attempts < self._attempts)
        again: deque[_Ask] = deque()
        under_way: dict[str, _Sent] = {}
        held: list[Reflection] = []
        fault: TeacherError | None = None
        while True:
            while (
                fault is None
                and len(under_way) < self._engine.capacity
                and may_ask()
                and (ask := again.popleft() if again else next(new, None))
            ):
                sent = self._prepare(ask)
                under_way[sent.request.id] = sent
                self._engine.submit(sent.request)
            if not under_way:
                if fault is not None:
                    raise fault
                yield from held
                return
            answer = self._engine.next_answer()
            if answer.request_id not in under_way:
                continue  # asked by an earlier reflect() whose reader stopped early
            sent = under_way.pop(answer.request_id)
            fault = self._find_fault(sent, answer, len(under_way), fault)
            if answer.error == "unavailable":
                again.append(sent.ask)
                continue
            if answer.error == "refused-request" and sent.request.schema is not None:
                again.append(replace(sent.ask, schema_refused=True))
                continue
            reflection = self._conclude(sent, answer)
            if not reflection.final:
                again.append(_Ask(sent.ask.question, sent.ask.attempt + 1))
            held.append(reflection)
            ready, held = self._release(held, answer)
            yield from ready
            self._learn_schemas(sent, answer)

    def close(self) -> None:
        """Give back the engine's memory, threads and connections."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _prepare(self, ask: _Ask) -> _Sent:
        question = ask.question
        place = question.round, question.phase, question.sample_id, ask.attempt
        # Candidates of a pair share their whole prompt, so that engines compute it once.
        nonce = make_nonce(question.pair, self._seed, *place)
        structured = (
            (ask.attempt == 1 or not self._prompts.has_tags)
            and not ask.schema_refused
            and self._config.structured
            and self._engine.structured
            and self._grants_schemas is not False
        )
        request = Request(
            id=next(self._request_ids),
            messages=self._prompts.messages(
                question.phase, question.pair, structured=structured, nonce=nonce
            ),
            schema=answer_schema(question.phase) if structured else None,
            seed=int(content_hash("seed", self._seed, *place, question.candidate)[:8], 16) >> 1,  # 31 bits
            pair=question.pair,
            phase=question.phase,
            round=question.round,
            candidate=question.candidate,
        )
        return _Sent(ask, nonce, request)

    def _find_fault(
        self, sent: _Sent, answer: Answer, others_under_way: int, fault: TeacherError | None
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
        if answer.error == "refused-request" and sent.request.schema is not None:
            return fault
        if self._is_sign_of_life(answer):
            self._has_answered = True
            self._failures = 0
            return None
        self._failures += 1
        if self._failures > self._attempts * max(_PATIENCE, self._engine.capacity):
            return fault or self._error(f"{self._failures} calls in a row failed", answer)
        return fault

    def _is_sign_of_life(self, answer: Answer) -> bool:
        """Whether the teacher works, so that failures before it were the pairs'."""
        if answer.error is None:
            return bool(answer.text.strip()) and not answer.cached
        return answer.error == "no-entry" or (answer.error == "refused-request" and self._has_answered)

    def _release(self, held: list[Reflection], answer: Answer) -> tuple[list[Reflection], list[Reflection]]:
        """What to yield after an answer, to the last one of these, and what to hold on to."""
        if self._is_sign_of_life(answer):
            return held, []
        if answer.error is not None and answer.prompt_tokens is None:
            return [], held
        # Earlier attempts go with it: the resumed run goes on by how many are in the books.
        question = held[-1].question
        rest = [reflection for reflection in held if reflection.question is not question]
        return [reflection for reflection in held if reflection.question is question], rest

    def _learn_schemas(self, sent: _Sent, answer: Answer) -> None:
        """Note whether the server takes schemas, as an answer of its own shows it. Once granted they stay."""
        granted = sent.request.schema is not None
        refused = sent.ask.schema_refused and self._grants_schemas is None
        if answer.error is not None or answer.cached or not (granted or refused):
            return
        if granted != self._grants_schemas:
            self._grants_schemas = granted
            if self._answers is not None:
                self._answers.set_grants_schemas(*self._server, granted)

    def _conclude(self, sent: _Sent, answer: Answer) -> Reflection:
        """Make a call's record of an answer, with the proposal in it."""
        question, attempt = sent.ask.question, sent.ask.attempt
        status, proposal = self._read(sent, answer)
        call = TeacherCall(
            round=question.round,
            phase=question.phase,
            sample_id=question.sample_id,
            candidate=question.candidate,
            attempt=attempt,
            engine=self._engine.name,
            model=self._engine.model,
            prompt_hash=hash_messages(sent.request.messages),
            text=clean_text(answer.text),
            finish_reason=answer.finish_reason,
            status=status,
            error=None if answer.message is None else clean_text(answer.message),
            critique=proposal.critique if proposal else None,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            cost_usd=self._cost(answer),
            seconds=answer.seconds,
            cached=answer.cached,
        )
        final = status in FINAL_STATUSES or attempt >= self._attempts
        return Reflection(question, call, proposal.pair if proposal else None, final)

    def _read(self, sent: _Sent, answer: Answer) -> tuple[CallStatus, Proposal | None]:
        match answer.error:
            case None:
                question = sent.ask.question
                parsed = self._prompts.parse(
                    answer.text,
                    phase=question.phase,
                    pair=question.pair,
                    structured=sent.request.schema is not None,
                    nonce=sent.nonce,
                    finish_reason=answer.finish_reason,
                )
                return ("ok", parsed) if isinstance(parsed, Proposal) else (parsed, None)
            case "refused-request":
                return "refused", None
            case "no-entry":
                return "no-entry", None
            case _:
                return "error", None

    def _cost(self, answer: Answer) -> float | None:
        """Price of one call in USD; None where a price or a count is unknown, 0 for one from the cache."""
        if answer.cached:
            return 0.0
        price_in, price_out = self._config.price_in, self._config.price_out
        tokens_in, tokens_out = answer.prompt_tokens, answer.completion_tokens
        if price_in is None or price_out is None or tokens_in is None or tokens_out is None:
            return None
        return (price_in * tokens_in + price_out * tokens_out) / 1e6

    def _error(self, what: str, answer: Answer) -> TeacherError:
        silence = f"no text in the answer, finish reason {answer.finish_reason}"
        message = clean_text(answer.message or ("no reason given" if answer.error else silence))
        return TeacherError(f"teacher {self._engine.model}: {what}: {message}; once mended, resume the run")


def open_teacher(
    config: TeacherConfig, seed: int, student: TeacherModel | None = None, answers: Answers | None = None
) -> Teacher:
    """Open the configured prompts and engine, and a teacher on them; close the teacher after use.

    Args:
        config: of the teacher.
        seed: the run's; what is asked and drawn follows from it.
        student: who teaches where `teacher.model` is "self".
        answers: the cache that `teacher.cache` speaks of; None asks for every answer. With it the engine is
            opened when the first answer is missing, if ever, and what one teacher learns of a server is known
            to the next.

    Raises:
        ConfigError: prompts or engine cannot be used as configured.
        TeacherError: a local model cannot be opened.
        AdapterError: the student's adapter cannot be read.
    """
    prompts = _open_prompts(config)
    kind, model = ENGINES[config.engine], _teacher_model(config, student)
    if answers is None or config.cache == "off" or not kind.is_cached:
        assert config.cache != "only" or not kind.is_cached, "nobody said which cache to ask"
        return Teacher(kind.open(config, model), prompts, config, seed)
    engine = CachedEngine(config, model, answers)
    return Teacher(engine, prompts, config, seed, None if kind.is_local else answers)


def check_teacher(config: TeacherConfig) -> None:
    """Refuse a teacher that surely cannot work. Looks at files and environment, at no server or model.

    One that answers from the cache alone needs no more than its prompts.

    Raises:
        ConfigError: prompts or a recording that are missing or wrong, an unset key, no model in the
            folder, or no vLLM.
    """
    _open_prompts(config)
    if config.cache == "only" and ENGINES[config.engine].is_cached:
        return
    match config.engine:
        case "recorded":
            from reflectune.agents.teacher.engines.recorded import read_recording

            read_recording(Path(config.path or ""))
        case "openai":
            from reflectune.agents.teacher.engines.openai_server import read_api_key

            read_api_key(config)
        case "vllm":
            from reflectune.agents.teacher.engines.vllm_engine import check_vllm

            check_vllm()
    is_on_disk = ENGINES[config.engine].is_local and config.model != SELF
    if is_on_disk and (fault := find_fault(config.model or "")):
        raise ConfigError(f"teacher.model: {fault}")


def _teacher_model(config: TeacherConfig, student: TeacherModel | None) -> TeacherModel:
    if config.model != SELF:
        name = config.model or config.engine
        return TeacherModel(name, StudentConfig(model=name, revision=config.revision, dtype=config.dtype))
    assert student is not None, "nobody said which student is the teacher"
    if config.dtype == "auto":
        return student
    return replace(student, source=student.source.model_copy(update={"dtype": config.dtype}))


def _open_prompts(config: TeacherConfig) -> Prompts:
    return open_prompts(None if config.prompts is None else Path(config.prompts))
