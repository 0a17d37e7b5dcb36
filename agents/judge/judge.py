"""The judge: asks an engine which of two answers is better, and makes calls with verdicts of what it says.

Stores nothing: how often a comparison was already asked for comes in with it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from reflectune.agents.judge.prompts import open_judge_prompts, read_verdict, write_messages
from reflectune.agents.teacher.engines import (
    FAILED,
    MOST_AT_ONCE,
    Engine,
    OpenEngine,
    Request,
    open_engine,
)
from reflectune.agents.teacher.engines.asker import Asker, draw_seed
from reflectune.agents.teacher.engines.cached import Cache
from reflectune.agents.teacher.engines.opening import check_engine, find_model, open_through_cache
from reflectune.state.config import JudgeConfig, StudentConfig
from reflectune.state.judgements import Comparison, JudgeCall, Verdict
from reflectune.state.records import Answer, CallStatus, Pair, Reflection, content_hash
from reflectune.state.text import clean_text

__all__ = ["Judge", "check_judge", "open_judge"]

_NOBODY = Answer("", cached=True)  # was asked


class Judge(Asker[Comparison, JudgeCall]):
    """Compares answers through an engine, in free text; what is asked follows from the texts alone."""

    _kind = "judge"

    def __init__(self, engine: Engine, texts: Mapping[str, str], config: JudgeConfig) -> None:
        super().__init__(engine, config)
        self._texts = texts

    def compare(
        self, comparisons: Iterable[Comparison], may_ask: Callable[[], bool] = lambda: True
    ) -> Iterator[list[JudgeCall]]:
        """Ask for every comparison, again where nothing is decided, and yield finished calls in groups.

        Equal answers are a tie that nobody is asked about. All else is as `Asker._ask` says.
        """
        ties: list[JudgeCall] = []

        def asked() -> Iterator[Comparison | None]:
            for each in comparisons:
                if each.answers[0] != each.answers[1]:
                    yield each
                    continue
                ties.append(self._record(each, "", _NOBODY, "ok", "tie"))
                if len(ties) >= MOST_AT_ONCE:
                    yield None  # to be committed, and to ask whether to go on

        for group in self._ask(asked(), may_ask):
            yield [*ties, *group]
            ties.clear()
        if ties:
            yield ties

    def _prepare(self, asked: Comparison) -> Request:
        messages = write_messages(self._texts, asked)
        # Engines tell by it what a process may have died of.
        subject = Pair(asked.pair.instruction, asked.pair.input, "\n".join(asked.answers))
        reflection = Reflection(asked.sample_id, "", subject, 0, "response", 0, asked.attempts)
        return Request(next(self._request_ids), reflection, messages, None, draw_seed(messages))

    def _conclude(self, asked: Comparison, request: Request, answer: Answer) -> tuple[JudgeCall, bool]:
        call = self._record(asked, content_hash(request.messages), answer, *_read(answer))
        return call, call.is_final(self._attempts)

    def _record(
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
            status=status,
            error=answer.message and clean_text(answer.message),
            verdict=verdict,
            **self._describe(prompt_hash, answer),
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
