"""What the judge is asked after a round, and what its verdicts come to."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any

from reflectune.agents.judge.prompts import read_verdict
from reflectune.agents.judge.winning import measure_wins
from reflectune.loop.asking import refuse_uncounted
from reflectune.loop.context import LoopContext
from reflectune.loop.stopping import is_spent
from reflectune.state.config import JudgeConfig
from reflectune.state.judgements import REFERENCES
from reflectune.state.lineage.judging import (
    find_comparisons,
    find_previous,
    read_answers,
    read_judged,
)
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.records import ANSWERLESS, Evaluation

__all__ = ["find_misread", "find_opponents", "judge_student", "measure_student"]


def find_opponents(lineage: LoopReader, judge: JudgeConfig, student_id: str) -> dict[str, str]:
    """With whose answers a student's are compared: name in `judge.against` -> student id or REFERENCES.

    The base student has no other to be compared with.
    """
    before = find_previous(lineage, student_id)
    known = {"s0": "s0" if before else None, "previous": before, "references": REFERENCES}
    return {name: opponent for name in judge.against if (opponent := known[name]) is not None}


def measure_student(lineage: LoopReader, judge: JudgeConfig, student_id: str) -> list[Evaluation]:
    """The win rates that the stored verdicts on a student's answers come to."""
    opponents = find_opponents(lineage, judge, student_id)
    return [
        measure
        for name, opponent in opponents.items()
        for measure in measure_wins(name, [*read_judged(lineage, student_id, opponent)])
    ]


def judge_student(
    context: LoopContext, judge: JudgeConfig, round: int, student_id: str, sample_ids: Sequence[str]
) -> None:
    """Have a student's answers compared, where that is missing, and commit verdicts as they come.

    Once the judge's budget is spent, what was judged by then is all there is.

    Raises:
        TeacherError: the judge cannot be reached, answers nothing, or cannot be held to its budget.
    """
    lineage = context.lineage
    opponents = [*dict.fromkeys(find_opponents(lineage, judge, student_id).values())]
    spending = lineage.spending("judge_calls")
    wanted = student_id, opponents, sample_ids, judge.attempts
    missing = (asked for asked, settled in find_comparisons(lineage, *wanted) if not settled)
    first = next(missing, None)
    if first is None or is_spent(judge, spending):
        return
    failures = Counter[str]()
    settled = Counter(settled for _, settled in find_comparisons(lineage, *wanted))
    done, total = settled[True], settled.total()

    def may_ask() -> bool:
        return not (is_spent(judge, spending) or context.stopping())

    title = f"round {round} · evaluate · judge of {student_id}"
    with ExitStack() as stack:
        opened = stack.enter_context(context.open_judge(judge))
        stage = stack.enter_context(context.display.stage(title, total=total, done=done))
        stage.watch(opened.workers, lambda: opened.waiting)
        for group in opened.compare(chain([first], missing), may_ask):
            lineage.add_judge_calls(group)
            for call in group:
                refuse_uncounted(judge, call)
                spending = spending.plus(call)
                if call.is_final(judge.attempts):
                    done += 1
                    failures[call.status] += call.verdict is None
            stage.update(done, total, failed=str(failures.total()))
        shares = {item.name: f"{item.value:.1%}" for item in measure_student(lineage, judge, student_id)}
        stage.update(done, total, **shares)
    context.leave_if_asked()
    if failed := failures.total():
        (status, _), *_ = failures.most_common(1)
        context.display.say(f"{title}: no verdict in {failed} of {done} calls, mostly {status}")


def find_misread(lineage: LoopReader, rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Those of some rows of judge_calls whose status and verdict are not what their text says."""
    for row in rows:
        if row["status"] in ANSWERLESS:
            continue
        read = read_verdict(row["text"], row["finish_reason"])
        if not row["prompt_hash"]:  # nobody was asked
            sample = [row["sample_id"]]
            own, other = (read_answers(lineage, row[whose], sample) for whose in ("student_id", "opponent"))
            read = ("ok", "tie" if own == other else None)
        if read != (row["status"], row["verdict"]):
            yield row
