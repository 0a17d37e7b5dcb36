"""The node that measures a round, and says whether the loop ends."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from langgraph.runtime import Runtime

from reflectune.agents.student.evaluation import evaluate_student
from reflectune.loop.context import SAMPLES_AT_ONCE, LoopContext, LoopState, Scorer
from reflectune.loop.nodes.reflect import count_wanted
from reflectune.loop.stopping import is_spent, stop_reason
from reflectune.state.config import RunConfig
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.records import PHASES, TERMS, Evaluation, Pair, StudentRecord

__all__ = ["evaluate", "evaluate_round", "is_due", "score_base_samples", "why_stop"]


def evaluate(state: LoopState, runtime: Runtime[LoopContext]) -> dict[str, object]:
    """Measure the round's student and pool, then stop or go to the next round."""
    context, round = runtime.context, state["round"]
    context.leave_if_asked()
    lineage = context.lineage
    if is_due(context.config, round, why_stop(lineage, context.config, round, {})):
        evaluate_round(context, round)
        score_base_samples(context, round)
    reason = why_stop(lineage, context.config, round, lineage.held_out_measures())
    lineage.finish_round(round, reason)
    return {"stop_reason": reason} if reason else {"round": round + 1}


def is_due(config: RunConfig, round: int, reason: str | None) -> bool:
    """Whether a round is measured that ends the loop for a reason, or does not end it."""
    return reason is not None or round % config.evaluate.every == 0


def why_stop(
    lineage: LoopReader, config: RunConfig, round: int, measures: Mapping[int, Mapping[str, Evaluation]]
) -> str | None:
    """Why the loop ends after a round, by its stored rows and the measures up to it; None: it goes on."""
    teacher = config.teacher
    wanted = count_wanted(lineage, teacher, round)
    return stop_reason(
        config,
        round,
        proposals=lineage.count_proposals(round),
        accepted=lineage.count_decisions(round, reason="accepted"),
        measures={at: named for at, named in measures.items() if at <= round},
        cut=any(
            lineage.count_settled(round, phase, attempts=teacher.attempts).total() < wanted
            for phase in PHASES
        ),
        spent=is_spent(teacher, lineage.spending()),
    )


def evaluate_round(context: LoopContext, round: int) -> None:
    """Commit the held-out measures of a round's student, where they are missing."""
    lineage = context.lineage
    pairs, measured = lineage.holdout_pairs(), lineage.held_out_measures()
    if not pairs or round in measured:
        return
    student = context.round_student(round)
    with context.timed(round, "evaluate"):
        if student.round < round and student.round in measured:  # nothing was trained since
            evaluations = [*measured[student.round].values()]
        else:
            evaluations = _measure(context, round, student, pairs)
        lineage.add_evaluations(round, student.id, evaluations)


def _measure(
    context: LoopContext, round: int, student: StudentRecord, pairs: Sequence[Pair]
) -> list[Evaluation]:
    title = f"round {round} · evaluate · {student.id}"
    with context.display.stage(title, total=len(pairs)) as stage, context.open_with_adapter(student) as model:

        def on_done(done: int) -> None:
            stage.update(done, len(pairs))
            if done < len(pairs):
                context.leave_if_asked()

        context.leave_if_asked()
        longest = context.config.evaluate.max_tokens
        evaluations = evaluate_student(model, pairs, context.checker, max_tokens=longest, on_done=on_done)
        stage.update(len(pairs), len(pairs), **{item.name: f"{item.value:.3f}" for item in evaluations})
    return evaluations


def score_base_samples(context: LoopContext, round: int) -> None:
    """Let s[0] score the same samples in the given data and in the round's pool, so that rounds compare.

    What it scored when it decided about the first round is not scored again.
    """
    lineage, config = context.lineage, context.config
    sample_ids = lineage.choose_samples(config.evaluate.base_samples, config.seed)
    base = context.round_student(0)
    title = f"round {round} · evaluate · pool under {base.id}"
    with context.timed(round, "evaluate"), ExitStack() as stack:
        stage = stack.enter_context(context.display.stage(title, total=len(sample_ids)))
        scorer = Scorer(context, base, stack)
        for start in range(0, len(sample_ids), SAMPLES_AT_ONCE):
            context.leave_if_asked()
            group = sample_ids[start : start + SAMPLES_AT_ONCE]
            pairs = lineage.pool_pairs(0, group) | lineage.pool_pairs(round, group)
            wanted = ((version, pair, term) for version, pair in pairs.items() for term in TERMS)
            lineage.add_scores(scorer.score_missing(wanted, lineage.scores([*pairs], base.id)), base.id)
            stage.update(start + len(group), len(sample_ids))
        lineage.set_base_samples(round, len(sample_ids))
