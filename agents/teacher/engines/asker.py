"""Asks an engine for many things: keeps it busy, asks again where that can help, and tells whose fault it is.

Stores nothing. What is asked, and what is made of an answer, is said by the teacher and the judge.
"""

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import count
from typing import Any, ClassVar, Generic, TypeVar

from reflectune.agents.teacher.engines import Engine, Request, take_answers
from reflectune.state.config import JudgeConfig, TeacherConfig
from reflectune.state.config.prices import find_cost, find_prices
from reflectune.state.errors import TeacherError
from reflectune.state.judgements import Comparison
from reflectune.state.live import Worker, WorkerKind
from reflectune.state.records import Answer, Reflection, content_hash
from reflectune.state.text import clean_text

__all__ = ["Asker", "draw_seed"]

Asked = TypeVar("Asked", Reflection, Comparison)
Made = TypeVar("Made")  # of a finished call

# So many calls in a row may bring no text, or the engine's capacity if that is more.
_MAX_TEXTLESS = 8


class Asker(AbstractContextManager[Any], Generic[Asked, Made]):
    """Who asks an engine, and goes on or gives up by what it answers."""

    _kind: ClassVar[WorkerKind]

    def __init__(self, engine: Engine, config: TeacherConfig | JudgeConfig) -> None:
        self._engine = engine
        self._attempts = config.attempts
        self._prices = find_prices(config)
        self._request_ids = map(str, count())
        self._has_answered = False
        self._failures = 0  # calls in a row without a text
        self._unavailable = 0  # requests in a row that nobody took

    @abstractmethod
    def _prepare(self, asked: Asked) -> Request:
        """What the next attempt sends."""

    @abstractmethod
    def _conclude(self, asked: Asked, request: Request, answer: Answer) -> tuple[Made, bool]:
        """What is made of an answer, and whether nothing more is asked for the same."""

    def _drop_schema(self, asked: Asked, answer: Answer) -> None:
        """Note that the next attempt goes without a schema, which may be what was refused."""
        raise NotImplementedError("only who sends schemas drops them")

    @property
    def waiting(self) -> str:
        """What holds up all answers, and for how long by now; empty where nothing does. For any thread."""
        return self._engine.waiting

    def workers(self) -> Sequence[Worker]:
        """What each server or replica does now. For any thread."""
        return [replace(worker, kind=self._kind) for worker in self._engine.workers()]

    def close(self) -> None:
        """Give back the engine's memory, threads and connections."""
        self._engine.close()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _ask(
        self,
        wanted: Iterable[Asked | None],
        may_ask: Callable[[], bool],
        waits: Callable[[], bool] = lambda: True,
    ) -> Iterator[list[Made]]:
        """Ask for everything, again where an answer is no use, and yield what is made of it, in groups.

        A group is what is there without waiting once the first is, at most 64. Whoever asks for the next has
        committed it: only then is more pulled, as much as there is room for, unless `may_ask` says no. Then
        nothing more is asked; calls under way are still taken in.

        Whoever has other work meanwhile says by `waits` whether an answer is waited for; else an empty group
        says that none is there. What is wanted may be None: there is none for now, but may be later. Then an
        empty group also says that nothing is under way.

        Failures in a row are held back until the engine answers something or nothing is under way: they may
        be its fault rather than the samples'. An answer without a text is no better than a failure, but has
        been paid for: it is yielded at once, and so is a failure that was counted.

        Raises:
            TeacherError: the engine cannot be reached, or answers nothing, not even what was under way when
                that showed. Calls not yielded cost nothing: ask for the same again.
        """
        new = iter(wanted)
        again: deque[Asked] = deque()
        under_way: dict[str, tuple[Asked, Request]] = {}
        held: list[tuple[Asked, Made]] = []  # with what was asked for, as before the first attempt
        fault: TeacherError | None = None
        while True:
            may_come = False
            while fault is None and len(under_way) < self._engine.capacity and may_ask():
                try:
                    asked = again.popleft() if again else next(new)
                except StopIteration:
                    break
                if asked is None:
                    may_come = True
                    break
                request = self._prepare(asked)
                under_way[request.id] = asked, request
                self._engine.submit(request)
            if not under_way:
                if fault is not None:
                    raise fault
                if held:
                    yield [made for _, made in held]
                    held = []
                if not may_come:
                    return
            if not under_way or not (waits() or self._engine.has_answer()):
                yield []
                continue
            finished: list[Made] = []
            others = len(under_way) - 1
            try:
                for answer in take_answers(self._engine, len(under_way)):
                    if answer.request_id not in under_way:
                        continue  # asked for one whose reader stopped early
                    asked, request = under_way.pop(answer.request_id)
                    if answer.error == "refused-request" and request.schema is not None:
                        self._unavailable = 0
                        self._drop_schema(asked, answer)
                        again.append(asked)
                        continue
                    fault = self._find_fault(answer, others, fault)
                    if answer.error == "unavailable":
                        again.append(asked)
                        continue
                    made, is_final = self._conclude(asked, request, answer)
                    if not is_final:
                        again.append(replace(asked, attempts=asked.attempts + 1))
                    held.append((replace(asked, attempts=0), made))
                    ready, held = self._release(held, answer)
                    finished += ready
            finally:  # what was paid for is handed over also where the next answer is an error
                if finished:
                    yield finished

    def _find_fault(
        self, answer: Answer, others_under_way: int, fault: TeacherError | None
    ) -> TeacherError | None:
        """What keeps the engine as a whole from answering, after one more answer."""
        if answer.cached:
            return fault  # it tells nothing of the engine as it is now
        if answer.error == "unavailable":
            self._unavailable += 1
            # One that has answered may be starting again; an address nobody answers at is soon given up.
            turns = self._attempts if self._has_answered else 1
            if self._unavailable >= max(turns * (others_under_way + 1), self._attempts):
                return fault or self._error("cannot be reached", answer)
            return fault
        self._unavailable = 0
        if self._is_sign_of_life(answer):
            self._has_answered = True
            self._failures = 0
            return None
        self._failures += 1
        if self._failures > self._attempts * max(_MAX_TEXTLESS, self._engine.capacity):
            return fault or self._error(f"{self._failures} calls in a row failed", answer)
        return fault

    def _is_sign_of_life(self, answer: Answer) -> bool:
        """Whether the engine works, so that failures before it were the samples'."""
        if answer.error is None:
            return bool(answer.text.strip()) and not answer.cached
        return answer.error == "no-entry" or (answer.error == "refused-request" and self._has_answered)

    def _release(
        self, held: list[tuple[Asked, Made]], answer: Answer
    ) -> tuple[list[Made], list[tuple[Asked, Made]]]:
        """Split what is held after an answer to the last one of it: what to yield now, and what to keep."""
        if self._is_sign_of_life(answer):
            return [made for _, made in held], []
        if answer.error is not None and answer.prompt_tokens is None:
            return [], held
        # Earlier attempts go with it: a resumed run goes on by how many are in the books.
        last, _ = held[-1]
        return [made for asked, made in held if asked == last], [each for each in held if each[0] != last]

    def _error(self, what: str, answer: Answer) -> TeacherError:
        silence = f"no text in the answer, finish reason {answer.finish_reason}"
        message = clean_text(answer.message or ("no reason given" if answer.error else silence))
        return TeacherError(f"{self._kind} {self._engine.model}: {what}: {message}")

    def _describe(self, prompt_hash: str, answer: Answer) -> dict[str, Any]:
        """What the record of a call says, whatever was asked."""
        return {
            "engine": self._engine.name,
            "model": self._engine.model,
            "prompt_hash": prompt_hash,
            "text": clean_text(answer.text),
            "finish_reason": answer.finish_reason,
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "cost_usd": find_cost(self._prices, answer),
            "seconds": answer.seconds,
            "cached": answer.cached,
            "server": answer.server,
        }


def draw_seed(*parts: object) -> int:
    """A seed of 31 bits that follows from these parts."""
    return int(content_hash("seed", *parts)[:8], 16) >> 1
