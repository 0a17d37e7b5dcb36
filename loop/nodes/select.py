"""The node in which the student decides."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from langgraph.runtime import Runtime

from reflectune.loop.context import SAMPLES_AT_ONCE, LoopContext, LoopState, Scorer, Texts
from reflectune.loop.pipeline import compute_groups
from reflectune.loop.selection import decide, needed_scores
from reflectune.state.config import RunConfig
from reflectune.state.records import TERMS, UNCONTESTED, Contest, Decision, Phase, Scores, Term

__all__ = ["select"]


def select(state: LoopState, runtime: Runtime[LoopContext]) -> dict[str, object]:
    """Let the student of the last round decide every contest of a phase.

    After the phase response every pair that goes on has all four scores under this student: what the
    training filter needs. While a group is scored and decided the next is read, and the last committed.
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
        judge = _Judge(Scorer(context, student, stack), context.config, round, phase)

        def commit(decided: tuple[Scores, Sequence[Decision]]) -> None:
            nonlocal done, compared, accepted
            scores, decisions = decided
            lineage.add_decisions(scores, student.id, decisions)
            done += len(decisions)
            compared += sum(decision.reason not in UNCONTESTED for decision in decisions)
            accepted += sum(decision.reason == "accepted" for decision in decisions)
            stage.update(done, total, accepted=f"{accepted} of {compared}")

        freeze_after = context.config.teacher.freeze_after
        contests = lineage.contests(round, phase, SAMPLES_AT_ONCE, freeze_after=freeze_after)
        compute_groups(contests, judge.prepare, judge.decide, commit, context.stopping)
        context.leave_if_asked()
    return {"phase": "response" if phase == "instruction" else "instruction"}


@dataclass(frozen=True, slots=True)
class _Group:
    """Contests that are scored and decided at once."""

    contests: Sequence[Contest]
    known: Scores
    texts: Texts  # what may have to be scored


@dataclass(frozen=True, slots=True)
class _Judge:
    """Decides groups of contests of a phase."""

    scorer: Scorer
    config: RunConfig
    round: int
    phase: Phase

    def prepare(self, contests: Sequence[Contest]) -> _Group:
        """Read what is known of a group, and encode what is not."""
        versions = [version for contest in contests for version in contest.pairs]
        known = self.scorer.context.lineage.scores(versions, self.scorer.student.id)
        wanted = [
            (version, contest.pairs[version], term)
            for contest in contests
            for version, term in dict.fromkeys([*self._needed(contest), *self._goes_on(contest.pairs)])
        ]
        return _Group(contests, known, self.scorer.prepare(wanted, known))

    def decide(self, group: _Group) -> tuple[Scores, Sequence[Decision]]:
        """Score and decide a group, and score what is still missing of the pairs that go on."""
        fresh = self._score(group, (key for contest in group.contests for key in self._needed(contest)))
        scores = _union(group.known, fresh)
        student_id = self.scorer.student.id
        decisions = [
            decide(each, scores, self.config, round=self.round, phase=self.phase, student_id=student_id)
            for each in group.contests
        ]
        winners = self._goes_on(decision.winner_id for decision in decisions)
        missing = (key for key in winners if key[1] not in scores.get(key[0], {}))
        return _union(fresh, self._score(group, missing)), decisions

    def _score(self, group: _Group, keys: Iterable[tuple[str, Term]]) -> Scores:
        return self.scorer.compute({key: group.texts[key] for key in keys if key in group.texts})

    def _needed(self, contest: Contest) -> Iterable[tuple[str, Term]]:
        return needed_scores(contest, self.config.selection.policy, self.phase)

    def _goes_on(self, versions: Iterable[str]) -> Iterable[tuple[str, Term]]:
        """What has to be known of pairs that may go on to the training set."""
        return [(version, term) for version in versions for term in TERMS if self.phase == "response"]


def _union(known: Scores, fresh: Scores) -> Scores:
    return {key: {**known.get(key, {}), **fresh.get(key, {})} for key in {**known, **fresh}}
