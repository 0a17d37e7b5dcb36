"""The node in which the student decides."""

from collections.abc import Sequence
from contextlib import ExitStack

from langgraph.runtime import Runtime

from reflectune.loop.context import SAMPLES_AT_ONCE, LoopContext, LoopState, Scorer
from reflectune.loop.selection import decide, needed_scores
from reflectune.state.records import TERMS, UNCONTESTED, Contest, Decision, Phase, Scores

__all__ = ["select"]


def select(state: LoopState, runtime: Runtime[LoopContext]) -> dict[str, object]:
    """Let the student of the last round decide every contest of a phase.

    After the phase response every pair that goes on has all four scores under this student: what the
    training filter needs.
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
        scorer = Scorer(context, student, stack)
        freeze_after = context.config.teacher.freeze_after
        for contests in lineage.contests(round, phase, SAMPLES_AT_ONCE, freeze_after=freeze_after):
            decisions = _decide_together(scorer, contests, round, phase)
            done += len(decisions)
            compared += sum(decision.reason not in UNCONTESTED for decision in decisions)
            accepted += sum(decision.reason == "accepted" for decision in decisions)
            stage.update(done, total, accepted=f"{accepted} of {compared}")
            context.leave_if_asked()
    return {"phase": "response" if phase == "instruction" else "instruction"}


def _decide_together(scorer: Scorer, contests: Sequence[Contest], round: int, phase: Phase) -> list[Decision]:
    """Score, decide and commit a group of contests."""
    lineage, config = scorer.context.lineage, scorer.context.config
    known = lineage.scores([version for contest in contests for version in contest.pairs], scorer.student.id)
    fresh = scorer.score_missing(
        (
            (version, contest.pairs[version], term)
            for contest in contests
            for version, term in needed_scores(contest, config.selection.policy, phase)
        ),
        known,
    )
    scores = _union(known, fresh)
    decisions = [
        decide(contest, scores, config, round=round, phase=phase, student_id=scorer.student.id)
        for contest in contests
    ]
    if phase == "response":
        winners = (
            (decision.winner_id, contest.pairs[decision.winner_id], term)
            for decision, contest in zip(decisions, contests, strict=True)
            for term in TERMS
        )
        fresh = _union(fresh, scorer.score_missing(winners, scores))
    lineage.add_decisions(fresh, scorer.student.id, decisions)
    return decisions


def _union(known: Scores, fresh: Scores) -> Scores:
    return {key: {**known.get(key, {}), **fresh.get(key, {})} for key in {**known, **fresh}}
