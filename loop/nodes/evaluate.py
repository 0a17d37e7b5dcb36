"""The node that measures a round, and says whether the loop ends."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, nullcontext
from functools import partial
from operator import attrgetter

from langgraph.runtime import Runtime

from reflectune.agents.pool import StudentPool
from reflectune.agents.student.answering import Response, Writer
from reflectune.agents.student.evaluation import Checker, judge, measure_held_out
from reflectune.loop.alarms import derive_figures
from reflectune.loop.asking import count_wanted
from reflectune.loop.context import (
    SAMPLES_AT_ONCE,
    LoopContext,
    LoopState,
    Scorer,
    Wanted,
    find_adapter,
    score_missing,
    unscored,
)
from reflectune.loop.judging import judge_student, measure_student
from reflectune.loop.pipeline import completed, compute_groups
from reflectune.loop.progress import Stage
from reflectune.loop.show.alarms import explain_firing
from reflectune.loop.stopping import is_spent, stop_reason
from reflectune.loop.tracking import track_round
from reflectune.state.config import RunConfig
from reflectune.state.groups import in_groups
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.records import (
    PHASES,
    TERMS,
    Evaluation,
    HeldOutAnswer,
    Pair,
    Scores,
    StudentRecord,
    Term,
)

__all__ = [
    "derive_measures",
    "evaluate",
    "evaluate_round",
    "finish_round",
    "is_due",
    "measure_round",
    "score_base_samples",
    "why_stop",
]

# How many held-out pairs are scored at once, and lost at most when the process dies. Fixed, as
# SAMPLES_AT_ONCE is.
_SCORED_AT_ONCE = 64


def evaluate(state: LoopState, runtime: Runtime[LoopContext]) -> dict[str, object]:
    """Measure the round's student and pool, then stop or go to the next round."""
    context, round = runtime.context, state["round"]
    context.leave_if_asked()
    lineage = context.lineage
    if is_due(context.config, round, why_stop(lineage, context.config, round, {})):
        measure_round(context, round)
    reason = why_stop(lineage, context.config, round, lineage.held_out_measures())
    finish_round(context, round, reason)
    return {"stop_reason": reason} if reason else {"round": round + 1}


def finish_round(context: LoopContext, round: int, reason: str | None) -> None:
    """Tell the trackers of a round, and end it, for a reason if the loop ends too."""
    track_round(context, round)
    context.lineage.finish_round(round, reason)


def is_due(config: RunConfig, round: int, reason: str | None) -> bool:
    """Whether a round is measured that ends the loop for a reason, or does not end it."""
    return reason is not None or round % config.evaluate.every == 0


def why_stop(
    lineage: LoopReader, config: RunConfig, round: int, measures: Mapping[int, Mapping[str, Evaluation]]
) -> str | None:
    """Why the loop ends after a round, by its stored rows and the measures up to it; None: it goes on."""
    teacher = config.teacher
    return stop_reason(
        config,
        round,
        proposals=lineage.count_proposals(round),
        accepted=lineage.count_decisions(round, reason="accepted"),
        measures={at: named for at, named in measures.items() if at <= round},
        cut=any(
            # More attempts than any proposal had may be allowed since: they are none of this round.
            lineage.count_settled(
                round, phase, attempts=min(teacher.attempts, lineage.most_attempts(round, phase))
            ).total()
            < count_wanted(lineage, teacher, round, phase)
            for phase in PHASES
        ),
        spent=is_spent(teacher, lineage.spending()),
    )


def measure_round(context: LoopContext, round: int) -> None:
    """Commit what a round's student and pool come to, where it is missing, and say which alarms fire."""
    lineage = context.lineage
    evaluate_round(context, round)
    score_base_samples(context, round)
    if not lineage.alarms(round):
        with context.timed(round, "evaluate"):
            lineage.add_alarms(round, derive_figures(lineage, context.config, round))
    if line := explain_firing(round, lineage.alarms(round)):
        context.display.say(line)


def evaluate_round(context: LoopContext, round: int) -> None:
    """Commit the held-out measures of a round's student, where they are missing."""
    lineage = context.lineage
    measured = lineage.held_out_measures()
    if round in measured or not lineage.samples()["holdout"]:
        return
    student = context.round_student(round)
    with context.timed(round, "evaluate"):
        if student.round < round and student.round in measured:  # nothing was trained since
            evaluations = [*measured[student.round].values()]
        else:
            evaluations = _measure(context, round, student)
        lineage.add_evaluations(round, student.id, evaluations)


def derive_measures(lineage: LoopReader, config: RunConfig, student_id: str) -> list[Evaluation]:
    """The held-out measures that a student's stored scores, answers and verdicts on them come to."""
    measures = measure_held_out(lineage.held_out_scores(student_id), lineage.held_out_answers(student_id))
    if measures and config.judge is not None:
        measures += measure_student(lineage, config.judge, student_id)
    return measures


def _measure(context: LoopContext, round: int, student: StudentRecord) -> list[Evaluation]:
    lineage, config = context.lineage, context.config
    chosen = lineage.choose_samples(config.evaluate.answers, config.seed, "holdout")
    total = lineage.samples()["holdout"] + len(chosen)
    title = f"round {round} · evaluate · {student.id}"
    with context.display.stage(title, total=total) as stage, ExitStack() as stack:
        pool = stack.enter_context(context.open_pool(student))
        stage.watch(pool.workers)
        groups = ((len(pairs), pairs) for pairs in lineage.held_out_pairs(_SCORED_AT_ONCE))
        _score(context, pool, student, groups, ("response_given_instruction",), stage)
        _write_answers(context, pool, student, chosen, stage)
        measured = derive_measures(lineage, config, student.id)
        stage.update(total, total, **{item.name: f"{item.value:.3f}" for item in measured})
    if config.judge is not None:
        judge_student(context, config.judge, round, student.id, chosen)
        measured = derive_measures(lineage, config, student.id)
    return measured


def _write_answers(
    context: LoopContext,
    pool: StudentPool,
    student: StudentRecord,
    chosen: Sequence[str],
    stage: Stage,
) -> None:
    """Commit the student's answers to some samples.

    A group is the same samples whether or not a run was interrupted: an answer may differ in its rounding
    with what is written beside it.
    """
    lineage = context.lineage
    answered = {answer.sample_id for answer in lineage.held_out_answers(student.id)}
    if answered.issuperset(chosen):
        return
    faster = context.open_writers(find_adapter(context.folder, student), len(chosen))
    if faster is not None:
        pool.close()
    with faster or nullcontext(pool) as writers:
        size = writers.submit(attrgetter("at_once")).result()

        def begin(group: Sequence[str]) -> Future[_Written]:
            pairs = lineage.given_pairs([sample for sample in group if sample not in answered])
            if not pairs:
                return completed((len(group), pairs, []))
            job = partial(_respond, len(group), pairs, context.config.evaluate.max_tokens)
            return writers.submit(job, f"answering samples {group[0]} to {group[-1]}", len(pairs))

        def commit(written: _Written) -> None:
            number, pairs, responses = written
            lineage.add_answers(student.id, [*_judge(context.checker, pairs, responses)])
            stage.advance(number)

        groups = in_groups(chosen, size)
        compute_groups(groups, begin, commit, writers.at_once, context.stopping, stage.show_groups)
        context.leave_if_asked()


_Written = tuple[int, Mapping[str, Pair], Sequence[Response | None]]  # a group's size, whom it asked, answers


def _respond(number: int, pairs: Mapping[str, Pair], max_tokens: int, writer: Writer) -> _Written:
    return number, pairs, writer.respond([*pairs.values()], max_tokens)


def _judge(
    checker: Checker | None, pairs: Mapping[str, Pair], responses: Sequence[Response | None]
) -> Iterator[HeldOutAnswer]:
    """A student's answers to some samples' pairs, with what the checker says of them."""
    for (sample, pair), response in zip(pairs.items(), responses, strict=True):
        if response is None:
            yield HeldOutAnswer(sample, None, None, None)
            continue
        verdict = None if checker is None else judge(checker, pair, response.text)
        yield HeldOutAnswer(sample, response.text, response.num_tokens, verdict)


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
        pool = stack.enter_context(context.open_pool(base))
        stage.watch(pool.workers)
        groups = in_groups(sample_ids, SAMPLES_AT_ONCE)
        pairs = ((len(ids), lineage.pool_pairs(0, ids) | lineage.pool_pairs(round, ids)) for ids in groups)
        _score(context, pool, base, pairs, TERMS, stage)
        lineage.set_base_samples(round, len(sample_ids))


def _score(
    context: LoopContext,
    pool: StudentPool,
    student: StudentRecord,
    groups: Iterable[tuple[int, Mapping[str, Pair]]],
    terms: Sequence[Term],
    stage: Stage,
) -> None:
    """Commit those of some versions' scores that are missing, and count each group's number."""
    lineage = context.lineage

    def begin(group: tuple[int, Mapping[str, Pair]]) -> Future[tuple[int, Scores]]:
        number, pairs = group
        wanted = ((version, pair, term) for version, pair in pairs.items() for term in terms)
        missing = unscored(wanted, lineage.scores([*pairs], student.id))
        if not missing:
            return completed((number, {}))
        about = f"scoring versions {missing[0][0]} to {missing[-1][0]}"
        return pool.submit(partial(_score_group, number, missing), about, number)

    def commit(group: tuple[int, Scores]) -> None:
        number, scores = group
        lineage.add_scores(scores, student.id)
        stage.advance(number)

    context.leave_if_asked()
    compute_groups(groups, begin, commit, pool.at_once, context.stopping, stage.show_groups)
    context.leave_if_asked()


def _score_group(number: int, missing: Sequence[Wanted], scorer: Scorer) -> tuple[int, Scores]:
    return number, score_missing(missing, {}, scorer)
