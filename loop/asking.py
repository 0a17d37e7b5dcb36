"""What a teacher is asked in a round, and what comes of it: proposals by phase, spending, failures."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

from reflectune.agents.teacher.teacher import Reflected
from reflectune.loop.context import LoopContext
from reflectune.loop.progress import Stage
from reflectune.loop.stopping import is_spent, why_failed
from reflectune.state.config import EngineConfig, TeacherConfig
from reflectune.state.errors import TeacherError
from reflectune.state.judgements import JudgeCall
from reflectune.state.lineage.documents import ReasonDocument
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.records import ANSWERED, ANSWERLESS, Phase, Reflection, TeacherCall

__all__ = ["Asking", "PhaseAsked", "count_wanted", "refuse_uncounted"]


def count_wanted(lineage: LoopReader, teacher: TeacherConfig, round: int, phase: Phase) -> int:
    """How many proposals a phase asks for."""
    frozen = lineage.count_frozen(round, phase, teacher.freeze_after)
    return (lineage.samples()["train"] - frozen) * teacher.candidates


class PhaseAsked:
    """The proposals of one phase: how many are settled, what they came to, and which are missing."""

    stage: Stage

    def __init__(self, context: LoopContext, round: int, phase: Phase) -> None:
        lineage, teacher = context.lineage, context.config.teacher
        self._context, self._round, self._phase = context, round, phase
        self._attempts = lineage.spared_attempts(round, phase) + teacher.attempts
        self._cached = lineage.count_calls(round=round, phase=phase)["cached"]
        self.total = count_wanted(lineage, teacher, round, phase)
        self.settled = lineage.count_settled(round, phase, attempts=teacher.attempts)
        self.failures = lineage.last_failures(round, phase, attempts=teacher.attempts)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to ask."""
        return self.settled.total() == self.total

    def show(self, stack: ExitStack) -> None:
        """Show how the phase gets on for as long as the stack lasts."""
        title = f"round {self._round} · reflect · {self._phase}"
        stage = self._context.display.stage(title, total=self.total, done=self.settled.total())
        self.stage = stack.enter_context(stage)

    def missing(self, size: int) -> Iterator[list[Reflection]]:
        """The proposals still to be asked for, those of so many samples at once."""
        teacher = self._context.config.teacher
        return self._context.lineage.pending_groups(
            self._round,
            self._phase,
            size,
            candidates=teacher.candidates,
            attempts=teacher.attempts,
            freeze_after=teacher.freeze_after,
        )

    def count(self, call: TeacherCall) -> bool:
        """Count a call; returns whether it settles its proposal."""
        self._cached += call.cached
        if not call.is_final(self._attempts):
            return False
        self.settled[call.status] += 1
        if call.status not in ANSWERED:
            self.failures.add(call.status, call.error)
        return True

    def update(self) -> None:
        """Show how many proposals came to what, and how many calls nobody was asked for."""
        proposed, unchanged = self.settled["ok"], self.settled["unchanged"]
        failed = self.settled.total() - proposed - unchanged
        facts = {"proposed": str(proposed), "unchanged": str(unchanged), "failed": str(failed)}
        cached = {"from_cache": str(self._cached)} if self._cached else {}
        self.stage.update(self.settled.total(), self.total, **facts, **cached)


class Asking:
    """A teacher's calls in one phase of a round, or in both: committed, counted, and judged."""

    def __init__(self, context: LoopContext, round: int, phases: Iterable[Phase]) -> None:
        self._context, self._round = context, round
        self._spending = context.lineage.spending()
        self._has_answers = context.lineage.has_answers()
        self.phases = {phase: PhaseAsked(context, round, phase) for phase in phases}

    def may_ask(self) -> bool:
        """Whether the budget has something left, and nobody asked to stop."""
        return not (is_spent(self._context.config.teacher, self._spending) or self._context.stopping())

    def commit(self, group: Sequence[Reflected]) -> list[TeacherCall]:
        """Commit finished calls with what they proposed; returns those that settle their proposals.

        Raises:
            TeacherError: there is a budget, and a call that cannot be counted.
        """
        teacher, settling = self._context.config.teacher, []
        self._context.lineage.add_reflections(
            (call for call, _ in group), (made for _, made in group if made)
        )
        for call, _ in group:
            refuse_uncounted(teacher, call)
            self._spending = self._spending.plus(call)
            self._has_answers |= call.status not in ANSWERLESS
            if self.phases[call.phase].count(call):
                settling.append(call)
        for phase in {call.phase for call, _ in group}:
            self.phases[phase].update()
        return settling

    def failure(self, phase: Phase) -> ReasonDocument | None:
        """Why a phase has failed as a whole, by what is settled now; None where it has not."""
        asked, most = self.phases[phase], self._context.config.stop.max_failures
        settled, reasons = asked.settled.total(), asked.failures.reasons
        return why_failed(reasons, settled, most, phase, has_answers=self._has_answers)

    def refuse_failure(self) -> None:
        """A phase that failed as a whole ends the run; once resumed it asks again for what failed.

        Raises:
            TeacherError: why the first of the phases failed that did.
        """
        found = {phase: failure for phase in self.phases if (failure := self.failure(phase))}
        undecided = {it: why for it, why in found.items() if not self._context.is_decided(self._round, it)}
        for phase in undecided:
            self._context.lineage.spare_failures(self._round, phase)
        for phase, failure in undecided.items():
            teacher, settled = self._context.config.teacher, self.phases[phase].settled.total()
            reason = failure["status"] + (f": {failure['message']}" if failure["message"] else "")
            is_recorded = teacher.engine == "recorded"
            again = "" if is_recorded else "once mended, resume the run and they are asked for again; "
            raise TeacherError(
                f"teacher {teacher.model or teacher.engine}: {failure['number']} of {settled} proposals "
                f"failed in round {self._round}, phase {phase}, {reason}; {again}"
                "--set stop.max_failures=1 goes on without those that fail",
                kept="what teacher.path holds" if is_recorded else "",
            )


def refuse_uncounted(config: EngineConfig, call: TeacherCall | JudgeCall) -> None:
    """A budget that cannot be kept must not be overrun in silence."""
    is_counted = call.prompt_tokens is not None and call.completion_tokens is not None
    if config.caps and not (call.status in ANSWERLESS or call.cached or is_counted):
        section = config.section
        raise TeacherError(
            f"{section} {call.model}: answers without token counts, so {section}.{config.caps[0]} cannot be "
            f"kept; resume with {' '.join(f'--set {section}.{key}=unset' for key in config.caps)}"
        )
