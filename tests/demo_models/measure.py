"""What the demo's models can do on operands they were never trained on, for their model cards.

Asks the models as a run does: the teacher through its engine and parser, the student through its template.
"""

import random
from collections import defaultdict
from itertools import chain

from reflectune.agents.student.evaluation import summarise
from reflectune.agents.student.student import Student
from reflectune.agents.teacher.teacher import open_teacher
from reflectune.loop.demo.account import share
from reflectune.loop.demo.noise import INPUT_RATE, draw_instruction, draw_pair
from reflectune.loop.demo.world import KINDS, Task, check, draw_task, is_right
from reflectune.state.config import RunConfig
from reflectune.state.records import PHASES, CallStatus, Evaluation, Pair, Reflection

__all__ = ["measure_student", "measure_teacher"]

PAIRS = 1000


def measure_teacher(config: RunConfig, number: int = PAIRS) -> dict[str, dict[str, float | None]]:
    """How a demo's teacher fares with noisy pairs whose instruction is clear.

    Returns:
        phase, and then kind of task (over both phases) -> "repaired", the share of wrong pairs for which
        it proposes a right one; "damaged", the share of right pairs for which it proposes a wrong one;
        "unusable", the share of answers that hold no pair (one that repeats the given pair holds one).
    """
    rng = random.Random("measure/teacher")
    drawn: list[tuple[Task, Pair]] = []
    while len(drawn) < number:
        task, pair, _ = draw_pair(rng, reserved=True)
        if check(pair.instruction, pair.input, pair.response) is not None:
            drawn.append((task, pair))
    groups: defaultdict[str, list[tuple[Pair, CallStatus, Pair | None]]] = defaultdict(list)
    with open_teacher(config.teacher, config.seed) as teacher:
        for phase in PHASES:
            asked = [Reflection(str(i), str(i), pair, 1, phase, 0) for i, (_, pair) in enumerate(drawn)]
            for call, version in chain.from_iterable(teacher.reflect(asked)):
                if call.is_final(config.teacher.attempts):
                    task, pair = drawn[int(call.sample_id)]
                    outcome = pair, call.status, None if version is None else version.pair
                    groups[phase].append(outcome)
                    groups[task.kind.name].append(outcome)
    return {name: _judge(groups[name]) for name in (*PHASES, *KINDS)}


def measure_student(config: RunConfig, number: int = PAIRS) -> dict[str, Evaluation]:
    """Exact match of a demo's base student on clear tasks: of "all", and then by kind of task."""
    rng = random.Random("measure/student")
    tasks, pairs = [], []
    for _ in range(number):
        tasks.append(draw_task(rng, reserved=True))
        pairs.append(Pair(*draw_instruction(tasks[-1], rng, input_rate=INPUT_RATE), tasks[-1].answer))
    with Student.open(config.student) as student:
        responses = student.respond(pairs, config.evaluate.max_tokens)
    verdicts: defaultdict[str, list[float]] = defaultdict(list)
    for task, pair, response in zip(tasks, pairs, responses, strict=True):
        right = response and check(pair.instruction, pair.input, response.text, pair.response)
        if right is not None:
            verdicts["all"].append(float(right))
            verdicts[task.kind.name].append(float(right))
    return {name: summarise("accuracy", verdicts[name]) for name in ("all", *KINDS)}


def _judge(outcomes: list[tuple[Pair, CallStatus, Pair | None]]) -> dict[str, float | None]:
    return {
        "repaired": share(new is not None and is_right(new) for old, _, new in outcomes if not is_right(old)),
        "damaged": share(new is not None and not is_right(new) for old, _, new in outcomes if is_right(old)),
        "unusable": share(status not in ("ok", "unchanged") for _, status, _ in outcomes),
    }
