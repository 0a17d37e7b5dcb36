"""The node that trains the next student."""

from pathlib import Path
from typing import Any

from langgraph.runtime import Runtime

from reflectune.agents.student.adapters import hash_adapter
from reflectune.loop.context import LoopContext, LoopState, find_adapter
from reflectune.loop.selection import choose_training_set, explain_empty_set
from reflectune.state.config import RunConfig
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.records import HALVES, Half, Pairs, StudentRecord

__all__ = ["choose_for_round", "refinetune"]


def refinetune(state: LoopState, runtime: Runtime[LoopContext]) -> dict[str, object]:
    """Choose the round's training set and train the next student on it.

    An empty training set trains nothing: the round keeps the student it began with.
    """
    context, round = runtime.context, state["round"]
    context.leave_if_asked()
    lineage, config = context.lineage, context.config
    previous = context.round_student(round - 1)
    if (student := lineage.round_student(round)) is not None:
        return {"student": student.id}
    with context.timed(round, "refinetune"):
        pairs, deciding = lineage.training_pairs(round), context.deciding_student(round)
        if not len(pairs):
            lineage.set_training_set(round, choose_for_round(lineage, config, round, deciding.id))
        if not len(pairs):
            why = explain_empty_set(lineage.scored_pool(round, deciding.id), config.selection)
            context.display.say(
                f"round {round} · refinetune: no pair passes the filter, {previous.id} stays: {why}"
            )
            lineage.set_round_student(round, previous.id)
            return {"student": previous.id}
        student = _train(context, round, pairs, previous)
        lineage.add_student(student)
    return {"student": student.id}


def choose_for_round(lineage: LoopReader, config: RunConfig, round: int, student_id: str) -> list[str]:
    """T[r] by the stored pool and its scores under the student that decided: version ids by rank."""
    pool = lineage.scored_pool(round, student_id)
    originals = lineage.original_ids() if config.refinetune.anchor else []
    return choose_training_set(pool, originals, config, round)


def _train(context: LoopContext, round: int, pairs: Pairs, previous: StudentRecord) -> StudentRecord:
    config, folder = context.config, context.folder
    out = folder.adapter(round)
    goes_on = config.refinetune.start_from == "previous" and previous.adapter is not None
    start = find_adapter(folder, previous) if goes_on else None
    metrics: dict[str, Any] = {**_train_adapter(context, config, round, pairs, out, start)}
    if cut := metrics.get("truncated"):
        context.display.say(
            f"round {round} · refinetune: student.max_length cut the response or context of {cut:.0f} of "
            f"{metrics['pairs']:.0f} pairs"
        )
    if config.selection.cross_fit:
        metrics["halves"] = [_train_half(context, round, half) for half in HALVES]
    return StudentRecord(
        id=f"s{round}",
        round=round,
        base_model=config.student.model,
        base_revision=config.student.revision,
        adapter=str(out.relative_to(folder.path)),
        adapter_hash=hash_adapter(out),
        parent_id=previous.id if goes_on else "s0",
        metrics=metrics,
    )


def _train_half(context: LoopContext, round: int, half: Half) -> str | None:
    """Train on one half of the training set, for as many epochs; the adapter's hash, None without a pair."""
    pairs, out = context.lineage.training_pairs(round, half), context.folder.adapter(round, half)
    if not len(pairs):
        return None
    refinetune = context.config.refinetune
    tokens = refinetune.tokens and max(refinetune.tokens // 2, 1)
    config = context.config.model_copy(
        update={"refinetune": refinetune.model_copy(update={"tokens": tokens})}
    )
    _train_adapter(context, config, round, pairs, out, None)
    return hash_adapter(out)


def _train_adapter(
    context: LoopContext, config: RunConfig, round: int, pairs: Pairs, out: Path, previous: Path | None
) -> dict[str, float]:
    with context.display.stage(f"round {round} · refinetune · {len(pairs)} pairs", total=0) as stage:
        stage.watch(context.trainers)

        def on_step(step: int, steps: int, loss: float | None) -> None:
            stage.update(step, steps, **({} if loss is None else {"loss": f"{loss:.3f}"}))

        return context.refinetune_student(
            config, pairs, out, previous=previous, round=round, on_step=on_step, is_stopping=context.stopping
        )
