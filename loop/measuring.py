"""What a round is measured by: its student on held-out pairs, its pool by scores that rounds share."""

from collections.abc import Iterable
from contextlib import ExitStack

from reflectune.agents.student.evaluation import evaluate_student
from reflectune.loop.context import SAMPLES_AT_ONCE, Judge, LoopContext, adapter_of, round_student, timed
from reflectune.state.records import TERMS, Evaluation

__all__ = ["evaluate_round", "score_frozen"]


def evaluate_round(context: LoopContext, round: int) -> None:
    """Commit the held-out measures of a round's student, where they are missing."""
    store = context.store
    pairs = store.holdout_pairs()
    measured = store.held_out_measures()
    if not pairs or round in measured:
        return
    student = round_student(store, round)
    with timed(context, round, "evaluate"):
        evaluations: Iterable[Evaluation]
        if student.round < round and student.round in measured:
            evaluations = measured[student.round].values()  # nothing was trained since
        else:
            title = f"round {round} · evaluate · {student.id}"
            with (
                context.display.stage(title, total=len(pairs)) as stage,
                context.open_student(adapter_of(context, student)) as model,
            ):

                def on_done(done: int) -> None:
                    stage.update(done, len(pairs))
                    if done < len(pairs):
                        context.leave_if_asked()

                context.leave_if_asked()
                evaluations = evaluate_student(
                    model,
                    pairs,
                    context.checker,
                    max_tokens=context.config.evaluate.max_tokens,
                    on_done=on_done,
                )
                facts = {item.name: f"{item.value:.3f}" for item in evaluations}
                stage.update(len(pairs), len(pairs), **facts)
        store.add_evaluations(round, student.id, evaluations)


def score_frozen(context: LoopContext, round: int) -> None:
    """Let s[0] score the same samples in the given data and in the round's pool, so that rounds compare.

    What it scored when it decided about the first round is not scored again.
    """
    store, config = context.store, context.config
    sample_ids = store.choose_samples(config.evaluate.base_samples, config.seed)
    scorer = round_student(store, 0)
    title = f"round {round} · evaluate · pool under {scorer.id}"
    with timed(context, round, "evaluate"), ExitStack() as stack:
        stage = stack.enter_context(context.display.stage(title, total=len(sample_ids)))
        judge = Judge(context, scorer, stack)
        for start in range(0, len(sample_ids), SAMPLES_AT_ONCE):
            context.leave_if_asked()
            group = sample_ids[start : start + SAMPLES_AT_ONCE]
            pairs = store.pool_pairs(0, group) | store.pool_pairs(round, group)
            wanted = ((version, pair, term) for version, pair in pairs.items() for term in TERMS)
            store.add_scores(judge.score_missing(wanted, store.scores([*pairs], scorer.id)), scorer.id)
            stage.update(start + len(group), len(sample_ids))
        store.set_frozen(round, len(sample_ids))
