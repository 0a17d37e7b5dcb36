"""The node in which the student decides."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from langgraph.runtime import Runtime

from reflectune.agents.pool import StudentPool
from reflectune.loop.context import (
    SAMPLES_AT_ONCE,
    LoopContext,
    LoopState,
    Scorer,
    Wanted,
    score_missing,
    unscored,
)
from reflectune.loop.pipeline import completed, compute_groups
from reflectune.loop.selection import decide, needed_scores
from reflectune.state.config import RunConfig
from reflectune.state.records import TERMS, UNCONTESTED, Contest, Decision, Phase, Scores, StudentRecord, Term

__all__ = ["select"]


def select(state: LoopState, runtime: Runtime[LoopContext]) -> dict[str, object]:
    """Let the student of the last round decide every contest of a phase.

    After the phase response every pair that goes on has all four scores under this student: what the
    training filter needs. While groups are scored and decided the next is read, and the last committed.
    """
    context, round, phase = runtime.context, state["round"], state["phase"]
    context.leave_if_asked()
    lineage = context.lineage
    student = context.round_student(round - 1)
    total, done = lineage.samples()["train"], lineage.count_decisions(round, phase)
    accepted = lineage.count_decisions(round, phase, "accepted")
    compared = done - sum(lineage.count_decisions(round, phase, reason) for reason in UNCONTESTED)
    with context.timed(round, "select"), ExitStack() as stack:
        stage = stack.enter_context(
            context.display.stage(f"round {round} · select · {phase}", total=total, done=done)
        )
        pool = stack.enter_context(context.open_pool(student))

        def commit(decided: Decided) -> None:
            nonlocal done, compared, accepted
            scores, decisions = decided
            lineage.add_decisions(scores, student.id, decisions)
            done += len(decisions)
            compared += sum(decision.reason not in UNCONTESTED for decision in decisions)
            accepted += sum(decision.reason == "accepted" for decision in decisions)
            stage.update(done, total, accepted=f"{accepted} of {compared}")

        freeze_after = context.config.teacher.freeze_after
        contests = lineage.contests(round, phase, SAMPLES_AT_ONCE, freeze_after=freeze_after)
        begin = partial(_begin, context, pool, round, phase, student)
        compute_groups(contests, begin, commit, pool.at_once, context.stopping)
        context.leave_if_asked()
    return {"phase": "response" if phase == "instruction" else "instruction"}


Decided = tuple[Scores, Sequence[Decision]]  # the new scores, and the decisions they led to


@dataclass(frozen=True, slots=True)
class _Group:
    """Contests of a phase that are scored and decided at once, wherever the student is."""

    contests: Sequence[Contest]
    known: Scores
    config: RunConfig
    round: int
    phase: Phase
    student_id: str

    def needed(self) -> Iterator[Wanted]:
        """What the decisions rest on."""
        for contest in self.contests:
            for version, term in needed_scores(contest, self.config.selection.policy, self.phase):
                yield version, contest.pairs[version], term

    def goes_on(self, versions: Iterable[str]) -> Iterator[Wanted]:
        """What has to be known of pairs that may go on to the training set."""
        pairs = {version: pair for contest in self.contests for version, pair in contest.pairs.items()}
        terms: Sequence[Term] = TERMS if self.phase == "response" else ()
        return ((version, pairs[version], term) for version in versions for term in terms)


def _begin(
    context: LoopContext,
    pool: StudentPool,
    round: int,
    phase: Phase,
    student: StudentRecord,
    contests: Sequence[Contest],
) -> Future[Decided]:
    """Have a group decided: by the pool, unless all that it may need is known."""
    versions = [version for contest in contests for version in contest.pairs]
    known = context.lineage.scores(versions, student.id)
    group = _Group(contests, known, context.config, round, phase, student.id)
    if not unscored([*group.needed(), *group.goes_on(versions)], known):
        return completed(_decide(group, None))
    return pool.submit(partial(_decide, group))


def _decide(group: _Group, scorer: Scorer | None) -> Decided:
    """Score and decide a group, and score what is still missing of the pairs that go on."""
    fresh = score_missing(group.needed(), group.known, scorer)
    scores = _union(group.known, fresh)
    round, phase, student_id = group.round, group.phase, group.student_id
    decisions = [
        decide(each, scores, group.config, round=round, phase=phase, student_id=student_id)
        for each in group.contests
    ]
    winners = group.goes_on(decision.winner_id for decision in decisions)
    return _union(fresh, score_missing(winners, scores, scorer)), decisions


def _union(known: Scores, fresh: Scores) -> Scores:
    return {key: {**known.get(key, {}), **fresh.get(key, {})} for key in {**known, **fresh}}
