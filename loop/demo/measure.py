"""What the demo's models can do on operands they were never trained on, for their model cards.

Asks the models as a run does: the teacher through its engine and parser, the student through its template.
"""

import random
from collections.abc import Iterable

from agents.evaluation import evaluate_student
from agents.student import Student
from agents.teacher import Question, open_teacher
from loop.demo.noise import INPUT_RATE, draw_instruction, draw_pair
from loop.demo.world import check, draw_task, is_right
from state.config import RunConfig
from state.records import PHASES, Evaluation, Pair, Phase

__all__ = ["measure_student", "measure_teacher"]

_PAIRS = 1000


def measure_teacher(config: RunConfig) -> dict[Phase, dict[str, float]]:
    """How a demo's teacher fares with noisy pairs whose instruction is clear, by phase.

    Returns:
        phase -> "repaired", the share of wrong pairs for which it proposes a right one; "damaged", the
        share of right pairs for which it proposes a wrong one; "unusable", the share of answers that
        hold no pair at all (an answer that repeats the pair holds one).
    """
    rng = random.Random("measure/teacher")
    pairs: list[Pair] = []
    while len(pairs) < _PAIRS:
        _, pair, _ = draw_pair(rng, reserved=True)
        if check(pair.instruction, pair.input, pair.response) is not None:
            pairs.append(pair)
    with open_teacher(config.teacher, config.seed) as teacher:
        figures: dict[Phase, dict[str, float]] = {}
        for phase in PHASES:
            questions = [Question(str(i), str(i), pair, 1, phase, 0) for i, pair in enumerate(pairs)]
            ended: dict[int, tuple[str, Pair | None]] = {
                int(item.question.sample_id): (item.call.status, item.proposal)
                for item in teacher.reflect(questions)
                if item.final
            }
            proposals = [ended[i][1] for i in range(len(pairs))]
            figures[phase] = {
                "repaired": _share(
                    new is not None and is_right(new)
                    for old, new in zip(pairs, proposals, strict=True)
                    if not is_right(old)
                ),
                "damaged": _share(
                    new is not None and not is_right(new)
                    for old, new in zip(pairs, proposals, strict=True)
                    if is_right(old)
                ),
                "unusable": _share(status not in ("ok", "unchanged") for status, _ in ended.values()),
            }
    return figures


def measure_student(config: RunConfig) -> Evaluation:
    """Held-out exact match of a demo's base student on clear tasks."""
    rng = random.Random("measure/student")
    pairs = []
    for _ in range(_PAIRS):
        task = draw_task(rng, reserved=True)
        pairs.append(Pair(*draw_instruction(task, rng, input_rate=INPUT_RATE), task.answer))
    with Student.open(config.student, None) as student:
        measures = evaluate_student(
            student, pairs, check, max_tokens=config.evaluate.max_tokens, on_done=lambda done: None
        )
    return next(measure for measure in measures if measure.name == "accuracy")


def _share(verdicts: Iterable[bool]) -> float:
    values = list(verdicts)
    return sum(values) / len(values)
