"""The judge: asks an engine which of two answers is better, and makes calls with verdicts of what it says.

Stores nothing: how often a comparison was already asked for comes in with it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import count
from operator import attrgetter

from reflectune.agents.judge.prompts import open_judge_prompts, read_verdict, write_messages
from reflectune.agents.teacher.engines import (
    FAILED,
    MOST_AT_ONCE,
    Engine,
    OpenEngine,
    Request,
    open_engine,
    take_answers,
)
from reflectune.agents.teacher.engines.cached import Cache
from reflectune.agents.teacher.engines.opening import check_engine, find_model, open_through_cache
from reflectune.state.config import JudgeConfig, StudentConfig
from reflectune.state.config.prices import find_cost, find_prices
from reflectune.state.errors import TeacherError
from reflectune.state.judgements import Comparison, JudgeCall, Verdict
from reflectune.state.live import Worker
from reflectune.state.records import Answer, CallStatus, Pair, Reflection, content_hash
from reflectune.state.text import clean_text

__all__ = ["Judge", "check_judge", "open_judge"]

_MAX_SILENT = 8  # calls in a row without a text, or the engine's capacity if that is more
_NOBODY = Answer("", cached=True)  # was asked
_ASKED_FOR = attrgetter("student_id", "opponent", "sample_id", "swapped")  # of a call


class Judge(AbstractContextManager["Judge"]):
    """Compares answers through an engine, in free text; what is asked follows from the texts alone."""

    def __init__(self, engine: Engine, texts: Mapping[str, str], config: JudgeConfig) -> None:
        self._engine, self._texts, self._config = engine, texts, config
        self._prices = find_prices(config)
        self._request_ids = map(str, count())
        self._silent = 0  # calls in a row without a text

    def compare(
        self, comparisons: Iterable[Comparison], may_ask: Callable[[], bool] = lambda: True
    ) -> Iterator[list[JudgeCall]]:
        """Ask for every comparison, again where nothing is decided, and yield finished calls in groups.

        Whoever asks for the next group has committed the last one. Once `may_ask` says no, nothing more is
        asked; calls under way are still taken in. Equal answers are a tie that nobody is asked about.
        Failures are held back until the judge says something or nothing is under way: they may be its
        fault. An answer without a text, and a failure that was counted, have been paid for: they are yielded
        at once.

        Raises:
            TeacherError: the judge cannot be reached, or answers nothing, not even what was under way when
                that showed.
        """
        new, again = iter(comparisons), deque[Comparison]()
        under_way: dict[str, tuple[Comparison, str]] = {}  # with the prompt's hash
        held: list[JudgeCall] = []
        fault: TeacherError | None = None
        while True:
            finished: list[JudgeCall] = []
            while fault is None and len(finished) < MOST_AT_ONCE:
                if len(under_way) >= self._engine.capacity or not may_ask():
                    break
                asked = again.popleft() if again else next(new, None)
                if asked is None:
                    break
                if asked.answers[0] == asked.answers[1]:
                    finished.append(self._conclude(asked, "", _NOBODY, "ok", "tie"))
                    continue
                request = self._prepare(asked)
                under_way[request.id] = asked, content_hash(request.messages)
                self._engine.submit(request)
            if not (finished or under_way):
                break
            try:
                for answer in take_answers(self._engine, len(under_way)):
                    if answer.request_id not in under_way:
                        continue  # asked by an earlier compare() whose reader stopped early
                    asked, prompt_hash = under_way.pop(answer.request_id)
                    if not answer.cached:  # those tell nothing of the judge as it is now
                        fault = self._find_fault(answer)
                    if answer.error == "unavailable":
                        again.append(asked)
                        continue
                    call = self._conclude(asked, prompt_hash, answer, *_read(answer))
                    if not call.is_final(self._config.attempts):
                        again.append(replace(asked, attempts=call.attempt))
                    held.append(call)
                    ready, held = self._release(held, answer)
                    finished += ready
            finally:  # what was paid for is handed over also where the next answer is an error
                if finished:
                    yield finished
        if fault is not None:
            raise fault
        if held:
            yield held

    @property
    def waiting(self) -> str:
        """What holds up all answers, and for how long by now; empty where nothing does. For any thread."""
        return self._engine.waiting

    def workers(self) -> Sequence[Worker]:
        """What each server or replica does now. For any thread."""
        return [replace(worker, kind="judge") for worker in self._engine.workers()]

    def __exit__(self, *error: object) -> None:
        """Give back the engine's memory, threads and connections."""
        self._engine.close()

    def _prepare(self, asked: Comparison) -> Request:
        messages = write_messages(self._texts, asked)
        # Engines tell by it what a process may have died of.
        subject = Pair(asked.pair.instruction, asked.pair.input, "\n".join(asked.answers))
        reflection = Reflection(asked.sample_id, "", subject, 0, "response", 0, asked.attempts)
        seed = content_hash("seed", messages)
        return Request(next(self._request_ids), reflection, messages, None, int(seed[:8], 16) >> 1)  # 31 bits

    def _find_fault(self, answer: Answer) -> TeacherError | None:
        """Count calls in a row without a text; so many are the fault of the judge as a whole."""
        speaks = answer.text.strip() or answer.error == "no-entry"
        self._silent = 0 if speaks else self._silent + 1
        if self._silent <= self._config.attempts * max(_MAX_SILENT, self._engine.capacity):
            return None
        reason = clean_text(answer.message or f"no text, finish reason {answer.finish_reason}")
        return TeacherError(f"judge {self._engine.model}: {self._silent} calls in a row failed: {reason}")

    def _release(self, held: list[JudgeCall], answer: Answer) -> tuple[list[JudgeCall], list[JudgeCall]]:
        """What to yield after an answer, to the last one of these, and what to hold on to."""
        if self._silent == 0:
            return held, []
        if answer.error is not None and answer.prompt_tokens is None:
            return [], held
        # Earlier attempts go with it, so that none is missing from the books.
        ready = [call for call in held if _ASKED_FOR(call) == _ASKED_FOR(held[-1])]
        return ready, [call for call in held if call not in ready]

    def _conclude(
        self,
        asked: Comparison,
        prompt_hash: str,
        answer: Answer,
        status: CallStatus,
        verdict: Verdict | None,
    ) -> JudgeCall:
        return JudgeCall(
            student_id=asked.student_id,
            opponent=asked.opponent,
            sample_id=asked.sample_id,
            swapped=asked.swapped,
            attempt=asked.attempts + 1,
            engine=self._engine.name,
            model=self._engine.model,
            prompt_hash=prompt_hash,
            text=clean_text(answer.text),
            finish_reason=answer.finish_reason,
            status=status,
            error=answer.message and clean_text(answer.message),
            verdict=verdict,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            cost_usd=find_cost(self._prices, answer),
            seconds=answer.seconds,
            cached=answer.cached,
            server=answer.server,
        )


def _read(answer: Answer) -> tuple[CallStatus, Verdict | None]:
    if answer.error is not None:
        return FAILED.get(answer.error, "error"), None
    return read_verdict(answer.text, answer.finish_reason)


def open_judge(
    config: JudgeConfig,
    student: StudentConfig | None = None,
    cache: Cache | None = None,
    stopping: Callable[[], bool] = lambda: False,
    open_engine: OpenEngine = open_engine,
) -> Judge:
    """Open the configured prompts and engine, and a judge on them; close it after use.

    The arguments are as of `open_teacher`.
    """
    texts = open_judge_prompts(config.prompts)
    engine = open_through_cache(config, find_model(config, student), cache, stopping, open_engine)
    return Judge(engine, texts, config)


def check_judge(config: JudgeConfig) -> None:
    """Raise a ConfigError for a judge that surely cannot work, by files and environment alone."""
    open_judge_prompts(config.prompts)
    check_engine(config)
