"""Both phases of a round at once: the student decides while the teacher is asked.

A sample whose instruction was decided goes on to its response while others wait. Every row is one that the
nodes would write one after another; groups of samples are the same, and decided in the same order. So a run
goes on alike with and without, and the nodes do what is left here: what cannot be decided before the whole
phase was asked, and what budget or a wish to stop left undone.
"""

import math
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack

from reflectune.agents.teacher.teacher import Teacher
from reflectune.loop.asking import Asking
from reflectune.loop.context import SAMPLES_AT_ONCE, LoopContext
from reflectune.loop.nodes.select import Deciding
from reflectune.loop.pipeline import Pipeline
from reflectune.state.records import PHASES, Reflection, TeacherCall

__all__ = ["work_at_once"]

_PAUSE = 0.01  # seconds between two looks at the teacher while the student is at work

Proposal = tuple[str, int]  # sample id, candidate


def work_at_once(context: LoopContext, round: int) -> None:
    """Ask and decide in both phases of a round, until nothing is missing or nothing more can be done here.

    The teacher is asked about instructions first, and the student decides those first: the budget is spent on
    the same proposals as without, and neither waits for the other while it has work.
    """
    asking = Asking(context, round, PHASES)
    if all(asked.is_settled for asked in asking.phases.values()) or not asking.may_ask():
        return
    student = context.round_student(round - 1)
    with ExitStack() as stack:
        pool = stack.enter_context(context.open_pool(context.deciding_student(round)))
        lanes = {phase: _Lane(asking, Deciding(context, pool, round, phase)) for phase in PHASES}
        for lane in lanes.values():
            lane.show(stack)
        teacher = stack.enter_context(context.open_teacher(student))
        for lane in lanes.values():
            lane.watch(teacher)
        pipeline = stack.enter_context(Pipeline(pool.at_once))
        for lane in lanes.values():
            lane.show_groups(pipeline)

        def is_idle() -> bool:
            return context.stopping() or not (pipeline or any(lane.may_begin for lane in lanes.values()))

        reflections = _reflections(lanes["instruction"], lanes["response"], pipeline)
        for group in teacher.reflect(reflections, asking.may_ask, waits=is_idle):
            for call in asking.commit(group):
                lanes[call.phase].settle(call)
            has_begun = not context.stopping() and any(lane.begin(pipeline) for lane in lanes.values())
            if pipeline.is_ready:
                pipeline.commit_first()
            elif not (group or has_begun):
                pipeline.pause(_PAUSE)
    context.leave_if_asked()
    asking.refuse_failure()


class _Lane:
    """One phase: groups of samples are asked about, and decided once all their proposals are settled."""

    def __init__(self, asking: Asking, deciding: Deciding) -> None:
        self._asking, self._deciding = asking, deciding
        self._asked = asking.phases[deciding.phase]
        self._missing = self._asked.missing(SAMPLES_AT_ONCE)
        self.total = _count_groups(deciding.total)
        self.read = self.decided  # groups whose proposals were asked for, or that were decided before
        self._unbegun: deque[set[Proposal]] = deque()  # of groups that were read: proposals not settled
        self.unsettled: dict[Proposal, set[Proposal]] = {}  # proposal -> those of its group

    @property
    def decided(self) -> int:
        """How many groups are decided."""
        return _count_groups(self._deciding.done)

    def show(self, stack: ExitStack) -> None:
        """Show how the phase gets on for as long as the stack lasts."""
        self._asked.show(stack)
        self._deciding.show(stack)

    def watch(self, teacher: Teacher) -> None:
        """Show what holds up the teacher while the phase waits for it."""
        self._asked.stage.watch(teacher.workers, lambda: teacher.waiting if self.unsettled else "")

    def show_groups(self, groups: Pipeline) -> None:
        """Show those of both phases: the student takes them from one line."""
        self._deciding.stage.show_groups(groups)

    def read_group(self) -> list[Reflection]:
        """What is to be asked about the next group."""
        reflections = next(self._missing)
        proposals = {(asked.sample_id, asked.candidate) for asked in reflections}
        self.read += 1
        self._unbegun.append(proposals)
        self.unsettled |= dict.fromkeys(proposals, proposals)
        return reflections

    def settle(self, call: TeacherCall) -> None:
        """Note that a proposal is settled."""
        proposal = call.sample_id, call.candidate
        self.unsettled.pop(proposal).discard(proposal)

    @property
    def may_begin(self) -> bool:
        """Whether the next group can be decided.

        None can while the phase has failed as a whole, by what is settled of it: it may recover, or be asked
        again.
        """
        is_asked = bool(self._unbegun) and not self._unbegun[0]
        return is_asked and self._asking.failure(self._deciding.phase) is None

    def begin(self, pipeline: Pipeline) -> bool:
        """Have groups decided that can be, as many as there is room for; returns whether there was one."""
        before = len(pipeline)
        while pipeline.has_room and self.may_begin:
            self._unbegun.popleft()
            pipeline.add(self._deciding.begin(next(self._deciding.groups)), self._deciding.commit)
        return len(pipeline) > before


def _reflections(instruction: _Lane, response: _Lane, pipeline: Pipeline) -> Iterator[Reflection | None]:
    """What to ask, instructions first; None while there is nothing yet."""
    while True:
        if instruction.read < instruction.total:
            yield from instruction.read_group()
        elif response.read < instruction.decided:
            yield from response.read_group()
        elif pipeline or any(lane.unsettled or lane.may_begin for lane in (instruction, response)):
            yield None
        else:
            return


def _count_groups(samples: int) -> int:
    return math.ceil(samples / SAMPLES_AT_ONCE)
