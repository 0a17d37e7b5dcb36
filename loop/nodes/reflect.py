"""The node that asks the teacher."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain

from langgraph.runtime import Runtime

from reflectune.loop.asking import Asking
from reflectune.loop.context import LoopContext, LoopState
from reflectune.loop.overlap import work_at_once
from reflectune.state.errors import TeacherError
from reflectune.state.records import PHASES

__all__ = ["reflect"]

_PAGE = 500  # samples whose missing proposals are read together


def reflect(state: LoopState, runtime: Runtime[LoopContext]) -> dict[str, object]:
    """Ask the teacher for every proposal that is missing; commit answers as they arrive.

    What is decided is asked no more: nobody would decide about it. With `scale.overlap` the first phase goes
    through both, together with the student, as far as that goes; what is left is left to the nodes.
    """
    context, round, phase = runtime.context, state["round"], state["phase"]
    context.leave_if_asked()
    context.lineage.start_round(round)
    with context.timed(round, "reflect"), _excused_by_a_signal(context), ExitStack() as stack:
        if context.config.scale.overlap and phase == PHASES[0]:
            work_at_once(context, round)
        if context.is_decided(round, phase):
            return {}
        asking = Asking(context, round, [phase])
        asked = asking.phases[phase]
        asked.show(stack)
        missing = chain.from_iterable(asked.missing(_PAGE))
        if not asked.is_settled and asking.may_ask() and (first := next(missing, None)) is not None:
            teacher = stack.enter_context(context.open_teacher(context.round_student(round - 1)))
            asked.stage.watch(teacher.workers, lambda: teacher.waiting)
            for group in teacher.reflect(chain([first], missing), asking.may_ask):
                asking.commit(group)
        context.leave_if_asked()
        asking.refuse_failure()
    return {}


@contextmanager
def _excused_by_a_signal(context: LoopContext) -> Iterator[None]:
    """Who stops does not mind a teacher that failed meanwhile; the same signal may have ended its server."""
    try:
        yield
    except TeacherError:
        context.leave_if_asked()
        raise
