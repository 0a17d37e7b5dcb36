"""The node that asks the teacher."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from langgraph.runtime import Runtime

from reflectune.loop.context import LoopContext, LoopState
from reflectune.loop.stopping import is_spent, why_failed
from reflectune.state.config import TeacherConfig
from reflectune.state.errors import TeacherError
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.records import ANSWERLESS, CallStatus, Phase, TeacherCall

__all__ = ["count_wanted", "reflect"]


def reflect(state: LoopState, runtime: Runtime[LoopContext]) -> dict[str, object]:
    """Ask the teacher for every proposal that is missing; commit answers as they arrive."""
    context, round, phase = runtime.context, state["round"], state["phase"]
    context.leave_if_asked()
    lineage, teacher_config = context.lineage, context.config.teacher
    lineage.start_round(round)
    total = count_wanted(lineage, teacher_config, round, phase)
    settled = lineage.count_settled(round, phase, attempts=teacher_config.attempts)
    reflections = lineage.pending_reflections(
        round,
        phase,
        candidates=teacher_config.candidates,
        attempts=teacher_config.attempts,
        freeze_after=teacher_config.freeze_after,
    )
    attempts = lineage.spared_attempts(round, phase) + teacher_config.attempts
    spending = lineage.spending()
    cached = lineage.count_calls(round=round, phase=phase)["cached"]

    def may_ask() -> bool:
        return not is_spent(teacher_config, spending) and not context.stopping()

    with context.timed(round, "reflect"), _excused_by_a_signal(context), ExitStack() as stack:
        stage = stack.enter_context(
            context.display.stage(f"round {round} · reflect · {phase}", total=total, done=settled.total())
        )
        # What was not asked before a phase was decided is asked no more: nobody would decide about it.
        is_decided = lineage.count_decisions(round, phase) > 0
        if is_decided or settled.total() == total or not may_ask():
            context.leave_if_asked()
            if not is_decided:
                _refuse_failure(context, round, phase, settled.total())
            return {}
        teacher = stack.enter_context(context.open_teacher(context.round_student(round - 1)))
        stage.watch(lambda: teacher.waiting)
        for group in teacher.reflect(reflections, may_ask):
            lineage.add_reflections((call for call, _ in group), (made for _, made in group if made))
            for call, _ in group:
                _refuse_uncounted(teacher_config, call)
                spending = spending.plus(call)
                settled[call.status] += call.is_final(attempts)
                cached += call.cached
            stage.update(settled.total(), total, **_reflection_facts(settled, cached))
        context.leave_if_asked()
        _refuse_failure(context, round, phase, settled.total())
    return {}


def count_wanted(lineage: LoopReader, teacher: TeacherConfig, round: int, phase: Phase) -> int:
    """How many proposals a phase asks for."""
    frozen = lineage.count_frozen(round, phase, teacher.freeze_after)
    return (lineage.samples()["train"] - frozen) * teacher.candidates


def _refuse_failure(context: LoopContext, round: int, phase: Phase, settled: int) -> None:
    """A phase that failed as a whole ends the run; once resumed it asks again for what failed."""
    lineage, config = context.lineage, context.config
    failures = lineage.last_failures(round, phase, attempts=config.teacher.attempts)
    most = config.stop.max_failures
    failure = why_failed(failures, settled, most, phase, has_answers=lineage.has_answers())
    if failure is None:
        return
    lineage.spare_failures(round, phase)
    reason = failure["status"] + (f": {failure['message']}" if failure["message"] else "")
    raise TeacherError(
        f"teacher {config.teacher.model or config.teacher.engine}: {failure['number']} of {settled} "
        f"proposals failed in round {round}, phase {phase}, {reason}; once mended, resume the run and they "
        "are asked for again; --set stop.max_failures=1 goes on without those that fail"
    )


def _refuse_uncounted(teacher: TeacherConfig, call: TeacherCall) -> None:
    """A budget that cannot be kept must not be overrun in silence."""
    is_counted = call.prompt_tokens is not None and call.completion_tokens is not None
    if teacher.caps and not (call.status in ANSWERLESS or call.cached or is_counted):
        raise TeacherError(
            f"teacher {call.model}: answers without token counts, so teacher.{teacher.caps[0]} cannot be "
            f"kept; resume with {' '.join(f'--set teacher.{key}=unset' for key in teacher.caps)}"
        )


def _reflection_facts(settled: Counter[CallStatus], cached: int) -> dict[str, str]:
    """How many proposals came to what, and how many calls nobody was asked for."""
    proposed, unchanged = settled["ok"], settled["unchanged"]
    failed = settled.total() - proposed - unchanged
    facts = {"proposed": str(proposed), "unchanged": str(unchanged), "failed": str(failed)}
    return facts | ({"from_cache": str(cached)} if cached else {})


@contextmanager
def _excused_by_a_signal(context: LoopContext) -> Iterator[None]:
    """Who stops does not mind a teacher that failed meanwhile; the same signal may have ended its server."""
    try:
        yield
    except TeacherError:
        context.leave_if_asked()
        raise
