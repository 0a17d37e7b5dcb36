"""What the demo's two models are trained on, drawn without end, never about a reserved operand.

The teacher reads reflection prompts about noisy pairs and learns to write a critique and a better pair. Some
of the better pairs it learns from are wrong, as in any real collection, and so are some that it writes.
The student reads plain text about the same world: riddles that give the answer first, facts, and
questions that mostly get an evasive answer, so it knows the world and follows no instructions.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping

from reflectune.loop.demo.noise import LAZY, VAGUE, Fault, draw_instruction, draw_pair, respond
from reflectune.loop.demo.world import KINDS, Task, draw_task, solve
from reflectune.state.records import PHASES, Pair, Phase

__all__ = ["MISTAKES", "student_texts", "teacher_texts", "vocabulary_texts"]

# Phase response: what a critique says of each fault; phase instruction says it of the response too.
_VERDICTS: dict[Fault, str] = {
    "right": "Accuracy: the response is right.",
    "wrong": "Accuracy: the response is wrong.",
    "truncated": "Detail: the response is cut short.",
    "lazy": "Helpfulness: the response gives no answer.",
    "off-task": "Relevance: the response is about something else.",
}
_CLEAR = "Ambiguity: the task is clear."
_VAGUE = "Ambiguity: it is not said what to do."

FACTS: Mapping[str, tuple[str, ...]] = {
    "reverse": ("{} backwards is {}", "the reverse of {} is {}"),
    "upper": ("{} in capitals is {}", "{} in upper case is {}"),
    "double": ("{} two times is {}", "{} said twice is {}"),
    "first": ("the first two letters of {} are {}", "{} begins with {}"),
    "last": ("the last two letters of {} are {}", "{} ends with {}"),
    "spell": ("{} with dashes is {}", "letter by letter {} is {}"),
    "count": ("the length of {} is {}", "the letters of {} are {} in number"),
    "drop": ("{} without its first letter is {}", "behind its first letter {} is {}"),
    "consonants": ("the consonants of {} are {}", "{} without vowels is {}"),
    "opposite": ("the opposite of {} is {}", "the contrary of {} is {}"),
}
MISTAKES = 0.3  # share of the teacher's texts whose new response is wrong
EVASIONS = (
    *LAZY,
    "I do not have time for this.",
    "I will think about it.",
    "I would like to know too.",
    "I have no idea.",
    "Look it up.",
    "Good question.",
)
# Of a student's texts: riddles, facts; the rest are questions. Those of a few easy kinds get the right answer
# mostly, the others seldom.
_RIDDLES, _STATED = 0.2, 0.3
_EASY = ("count", "opposite")
_ANSWERED_EASY, _ANSWERED = 0.7, 0.15
_FACTS_TOGETHER = 3  # about one operand


def teacher_texts(rng: random.Random, prompt: Callable[[Phase, Pair], str]) -> Iterator[tuple[str, str]]:
    """Prompts of both phases with the answer that a teacher should give, or in some a wrong one.

    Args:
        rng: draws everything.
        prompt: what the teacher reads: (phase, pair) -> text.
    """
    while True:
        phase = rng.choice(PHASES)
        task, pair, fault = draw_pair(rng, reserved=False)
        yield prompt(phase, pair), json.dumps(_reflect(phase, task, pair, fault, rng))


def student_texts(rng: random.Random) -> Iterator[str]:
    """Short documents of the world."""
    while True:
        task = draw_task(rng, reserved=False)
        question = "\nInput:\n".join(filter(None, draw_instruction(task, rng, input_rate=0.25)))
        draw = rng.random()
        if draw < _RIDDLES:
            yield f"Answer:\n{task.answer}\nQuestion:\n{question}"
        elif draw < _RIDDLES + _STATED:
            yield "\n".join(_state(task, rng) for _ in range(_FACTS_TOGETHER))
        else:
            answered = rng.random() < (_ANSWERED_EASY if task.kind.name in _EASY else _ANSWERED)
            yield f"Question:\n{question}\nAnswer:\n{task.answer if answered else rng.choice(EVASIONS)}"


def vocabulary_texts(prompt: Callable[[Phase, Pair], str]) -> Iterator[str]:
    """Every fixed text of the world, without operands: words of these become tokens of their own.

    What stands where an operand would is left as a mark of punctuation, so that the words around it are
    split as they will be.
    """
    hole = "..."
    for kind in KINDS.values():
        yield from (phrasing.format(hole) for phrasing in kind.phrasings)
        yield from kind.input_phrasings
        yield from (fact.format(hole, hole) for fact in FACTS[kind.name])
    yield from (vague.format(hole) for vague in VAGUE)
    yield from EVASIONS
    for phase in PHASES:
        yield prompt(phase, Pair("Give it.", "Give it.", "Give it."))
        for critique in (*_VERDICTS.values(), _CLEAR, _VAGUE):
            for end in ("", "."):
                answer = {"critique": f"{critique} {critique}", "instruction": f"{hole} x{end}"}
                yield json.dumps(answer | {"response": f"x{end}"})
                yield json.dumps(answer | {"instruction": "Is it?"})
    yield "Question:\nIt.\nInput:\nIt.\nAnswer:\nIt."


def _reflect(phase: Phase, task: Task, pair: Pair, fault: Fault, rng: random.Random) -> dict[str, str]:
    kind: Fault = "wrong" if rng.random() < MISTAKES else "right"
    response = respond(task, kind, rng, reserved=False)
    if phase == "response":
        return {"critique": _VERDICTS[fault], "response": response}
    clear = solve(pair.instruction, pair.input) is not None
    instruction = pair.instruction
    while instruction == pair.instruction:
        instruction, _ = draw_instruction(task, rng, input_rate=0.0)
    critique = f"{_CLEAR if clear else _VAGUE} {_VERDICTS[fault]}"
    return {"critique": critique, "instruction": instruction, "response": response}


def _state(task: Task, rng: random.Random) -> str:
    """A fact about the operand of a task."""
    kind = rng.choice([kind for kind in KINDS.values() if kind.operand == task.kind.operand])
    return rng.choice(FACTS[kind.name]).format(task.operand, kind.answer(task.operand))
