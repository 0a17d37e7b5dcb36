"""The four nodes of the machine.

Every node asks the lineage store what is still missing for its round and phase, does that in small
batches and commits each, so it can be killed at any instant and run again. A node opens the model it
needs, only when there is work for it, and closes it before it returns. Asked to stop, it finishes the
batch in flight and raises Interrupted, so that the machine takes it for unfinished.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from langgraph.runtime import Runtime

from reflectune.agents.student.adapters import hash_adapter
from reflectune.agents.student.trainer import StoppedError
from reflectune.loop.context import (
    SAMPLES_AT_ONCE,
    Judge,
    LoopContext,
    LoopState,
    adapter_of,
    round_student,
    timed,
)
from reflectune.loop.measuring import evaluate_round, score_frozen
from reflectune.loop.selection import choose_training_set, decide, needed_scores
from reflectune.loop.signals import Interrupted
from reflectune.loop.stopping import is_spent, stop_reason
from reflectune.state.config import RunConfig, TeacherConfig
from reflectune.state.errors import TeacherError
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.records import (
    ANSWERLESS,
    PHASES,
    TERMS,
    CallStatus,
    Contest,
    Decision,
    Evaluation,
    Pair,
    Phase,
    Reason,
    Scores,
    StudentRecord,
    TeacherCall,
)

__all__ = [
    "evaluate",
    "refinetune",
    "reflect",
    "select",
    "why_stop",
]

# Reasons of decisions that compared nothing, for want of a proposal.
_UNCONTESTED: tuple[Reason, ...] = ("no-candidate", "frozen")


def reflect(state: LoopState, runtime: Runtime[LoopContext]) -> dict[str, object]:
    """Ask the teacher for every proposal that is missing; commit each answer as it arrives."""
    context, round, phase = runtime.context, state["round"], state["phase"]
    context.leave_if_asked()
    store, teacher_config = context.store, context.config.teacher
    store.start_round(round)
    total = _count_wanted(store, teacher_config, round)
    settled = store.count_settled(round, phase, attempts=teacher_config.attempts)
    reflections = store.pending_reflections(
        round,
        phase,
        candidates=teacher_config.candidates,
        attempts=teacher_config.attempts,
        patience=teacher_config.freeze_after,
    )
    spending = store.spending()
    cached = store.count_cached(round, phase)

    def may_ask() -> bool:
        return not is_spent(teacher_config, spending) and not context.stopping()

    with timed(context, round, "reflect"), _moot_if_asked(context), ExitStack() as stack:
        stage = stack.enter_context(
            context.display.stage(f"round {round} · reflect · {phase}", total=total, done=settled.total())
        )
        # What was not asked before a phase was decided is asked no more: nobody would decide about it.
        is_over = settled.total() == total or store.count_decisions(round, phase) > 0
        if is_over or not may_ask():
            context.leave_if_asked()
            return {}
        teacher = stack.enter_context(context.open_teacher(round_student(store, round - 1)))
        for call, version in teacher.reflect(reflections, may_ask):
            store.add_reflections([call], [] if version is None else [version])
            _refuse_uncounted(teacher_config, call)
            spending = spending.plus(call)
            settled[call.status] += call.is_final(teacher_config.attempts)
            cached += call.cached
            stage.update(settled.total(), total, **_reflection_facts(settled, cached))
        context.leave_if_asked()
    return {}


def select(state: LoopState, runtime: Runtime[LoopContext]) -> dict[str, object]:
    """Let the student of the last round decide every contest of a phase.

    After the phase response every pair that goes on has all four scores under this student: what the
    training filter needs.
    """
    context, round, phase = runtime.context, state["round"], state["phase"]
    context.leave_if_asked()
    store = context.store
    scorer = round_student(store, round - 1)
    total, done = store.samples()["train"], store.count_decisions(round, phase)
    accepted = store.count_decisions(round, phase, "accepted")
    compared = done - sum(store.count_decisions(round, phase, reason) for reason in _UNCONTESTED)
    with timed(context, round, "select"), ExitStack() as stack:
        stage = stack.enter_context(
            context.display.stage(f"round {round} · select · {phase}", total=total, done=done)
        )
        judge = Judge(context, scorer, stack)
        patience = context.config.teacher.freeze_after
        for contests in store.contests(round, phase, SAMPLES_AT_ONCE, patience=patience):
            decisions = _decide_together(judge, contests, round, phase)
            done += len(decisions)
            compared += sum(decision.reason not in _UNCONTESTED for decision in decisions)
            accepted += sum(decision.reason == "accepted" for decision in decisions)
            stage.update(done, total, accepted=f"{accepted} of {compared}")
            context.leave_if_asked()
    return {"phase": "response" if phase == "instruction" else "instruction"}


def refinetune(state: LoopState, runtime: Runtime[LoopContext]) -> dict[str, object]:
    """Choose the round's training set and train the next student on it.

    An empty training set trains nothing: the round keeps the student it began with.
    """
    context, round = runtime.context, state["round"]
    context.leave_if_asked()
    store, config = context.store, context.config
    previous = round_student(store, round - 1)
    if (student := store.round_student(round)) is not None:
        return {"student": student.id}
    with timed(context, round, "refinetune"):
        pairs = list(store.training(round))
        if not pairs:
            store.set_training_set(
                round,
                choose_training_set(
                    store.scored_pool(round, previous.id),
                    store.original_ids(),
                    selection=config.selection,
                    anchor=config.refinetune.anchor,
                    round=round,
                    seed=config.seed,
                ),
            )
            pairs = list(store.training(round))
        if not pairs:
            context.display.say(f"round {round} · refinetune: no pair passes the filter, {previous.id} stays")
            store.set_round_student(round, previous.id)
            return {"student": previous.id}
        student = _train(context, round, pairs, previous)
        store.add_student(student)
    return {"student": student.id}


def evaluate(state: LoopState, runtime: Runtime[LoopContext]) -> dict[str, object]:
    """Measure the round's student and pool, then stop or go to the next round."""
    context, round = runtime.context, state["round"]
    context.leave_if_asked()
    store = context.store
    ends = why_stop(store, context.config, round, {}) is not None
    if ends or round % context.config.evaluate.every == 0:
        evaluate_round(context, round)
        score_frozen(context, round)
    reason = why_stop(store, context.config, round, store.held_out_measures())
    store.finish_round(round, reason)
    return {"stop_reason": reason} if reason else {"round": round + 1}


def why_stop(
    store: LoopReader, config: RunConfig, round: int, measures: Mapping[int, Mapping[str, Evaluation]]
) -> str | None:
    """Why the loop ends after a round, by its stored rows and the measures up to it; None: it goes on."""
    teacher = config.teacher
    wanted = _count_wanted(store, teacher, round)
    return stop_reason(
        config,
        round,
        proposals=store.count_proposals(round),
        accepted=store.count_decisions(round, reason="accepted"),
        measures={at: named for at, named in measures.items() if at <= round},
        cut=any(
            store.count_settled(round, phase, attempts=teacher.attempts).total() < wanted for phase in PHASES
        ),
        spent=is_spent(teacher, store.spending()),
    )


def _decide_together(judge: Judge, contests: Sequence[Contest], round: int, phase: Phase) -> list[Decision]:
    """Score, decide and commit a group of contests."""
    store, config = judge.context.store, judge.context.config
    known = store.scores([version for contest in contests for version in contest.pairs], judge.student.id)
    fresh = judge.score_missing(
        (
            (version, contest.pairs[version], term)
            for contest in contests
            for version, term in needed_scores(contest, config.selection.policy, phase)
        ),
        known,
    )
    scores = _union(known, fresh)
    decisions = [
        decide(
            contest,
            scores,
            selection=config.selection,
            round=round,
            phase=phase,
            student_id=judge.student.id,
            seed=config.seed,
        )
        for contest in contests
    ]
    if phase == "response":
        winners = (
            (decision.winner_id, contest.pairs[decision.winner_id], term)
            for decision, contest in zip(decisions, contests, strict=True)
            for term in TERMS
        )
        fresh = _union(fresh, judge.score_missing(winners, scores))
    store.add_decisions(fresh, judge.student.id, decisions)
    return decisions


def _train(context: LoopContext, round: int, pairs: Sequence[Pair], previous: StudentRecord) -> StudentRecord:
    config = context.config
    out = context.folder.adapter(round)
    goes_on = config.refinetune.start_from == "previous" and previous.adapter is not None
    with context.display.stage(f"round {round} · refinetune · {len(pairs)} pairs", total=0) as stage:

        def on_step(step: int, steps: int, loss: float | None) -> None:
            stage.update(step, steps, **({} if loss is None else {"loss": f"{loss:.3f}"}))

        try:
            metrics = context.refinetune_student(
                config,
                pairs,
                out,
                previous=adapter_of(context, previous) if goes_on else None,
                round=round,
                on_step=on_step,
                is_stopping=context.stopping,
            )
        except StoppedError as error:
            raise Interrupted from error
    return StudentRecord(
        id=f"s{round}",
        round=round,
        base_model=config.student.model,
        base_revision=config.student.revision,
        adapter=str(out.relative_to(context.folder.path)),
        adapter_hash=hash_adapter(out),
        parent_id=previous.id if goes_on else "s0",
        metrics=metrics,
    )


def _count_wanted(store: LoopReader, teacher: TeacherConfig, round: int) -> int:
    """How many proposals a phase of the round asks for."""
    return (store.samples()["train"] - store.count_frozen(round, teacher.freeze_after)) * teacher.candidates


def _refuse_uncounted(teacher: TeacherConfig, call: TeacherCall) -> None:
    """A budget that cannot be kept must not be overrun in silence."""
    is_counted = call.prompt_tokens is not None and call.completion_tokens is not None
    if call.status in ANSWERLESS or call.cached or is_counted:
        return
    budget = [key for key in ("budget_tokens", "budget_usd") if getattr(teacher, key) is not None]
    if budget:
        raise TeacherError(
            f"teacher {call.model}: answers without token counts, so teacher.{budget[0]} cannot be kept; "
            f"resume with {' '.join(f'--set teacher.{key}=unset' for key in budget)}"
        )


def _reflection_facts(settled: Counter[CallStatus], cached: int) -> dict[str, str]:
    """How many proposals came to what, and how many calls nobody was asked for."""
    proposed, unchanged = settled["ok"], settled["unchanged"]
    failed = settled.total() - proposed - unchanged
    facts = {"proposed": str(proposed), "unchanged": str(unchanged), "failed": str(failed)}
    return facts | ({"from_cache": str(cached)} if cached else {})


def _union(known: Scores, fresh: Scores) -> Scores:
    versions = [*known, *(version for version in fresh if version not in known)]
    return {version: {**known.get(version, {}), **fresh.get(version, {})} for version in versions}


@contextmanager
def _moot_if_asked(context: LoopContext) -> Iterator[None]:
    """Who stops does not mind a teacher that failed meanwhile; the same signal may have ended its server."""
    try:
        yield
    except TeacherError:
        context.leave_if_asked()
        raise
