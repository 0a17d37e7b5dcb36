"""The demo's noisy dataset: pairs whose responses and instructions are faulty at known rates.

Nothing here trains, scores or judges.
"""

import json
import random
from pathlib import Path
from typing import Literal

from reflectune.loop.demo.world import KINDS, OPPOSITES, Task, draw_task, is_right
from reflectune.state.records import Pair

__all__ = [
    "FAULTS", "INPUT_RATE", "LAZY", "VAGUE", "VAGUE_RATE", "Fault", "draw_instruction", "draw_pair",
    "respond", "write_dataset",
]  # fmt: skip

Fault = Literal["right", "wrong", "truncated", "lazy", "off-task"]

# Shares of responses: right; wrong (another task's answer for the same operand, or a slip in the right
# one); cut before its end; no answer at all; the answer to something else.
FAULTS: dict[Fault, float] = {"right": 0.4, "wrong": 0.2, "truncated": 0.15, "lazy": 0.15, "off-task": 0.1}
# Share of instructions that do not say what to do; of the others, those whose operand is the input.
VAGUE_RATE = 0.15
INPUT_RATE = 0.25

VAGUE = ("Do something with {}.", "Take care of {}.", "You know what to do with {}.", "Please handle {}.")
LAZY = ("I do not know.", "Sure.", "That is easy.", "No idea.", "Ask me later.", "It depends.")


def draw_pair(rng: random.Random, *, reserved: bool) -> tuple[Task, Pair, Fault]:
    """Draw a task and a noisy pair for it; `reserved` as in `draw_task`."""
    fault = rng.choices(list(FAULTS), list(FAULTS.values()))[0]
    task = draw_task(rng, reserved=reserved)
    while fault == "truncated" and len(task.answer) == 1:
        task = draw_task(rng, reserved=reserved)
    instruction, input = draw_instruction(task, rng, input_rate=INPUT_RATE)
    if rng.random() < VAGUE_RATE:
        instruction, input = rng.choice(VAGUE).format(task.operand), ""
    return task, Pair(instruction, input, respond(task, fault, rng, reserved=reserved)), fault


def draw_instruction(task: Task, rng: random.Random, *, input_rate: float) -> tuple[str, str]:
    """A clear instruction for a task, and its input, which is mostly empty."""
    if rng.random() < input_rate:
        return rng.choice(task.kind.input_phrasings), task.operand
    return rng.choice(task.kind.phrasings).format(task.operand), ""


def write_dataset(path: Path, size: int, seed: int, *, clean: bool = False) -> None:
    """Write noisy pairs about reserved operands as an Alpaca file; with `clean` only right ones.

    No made-up word is in it twice, so that none that is held out is trained on, whatever the teacher writes.
    """
    rng = random.Random(f"dataset/{seed}")
    pairs: list[Pair] = []
    taken: set[str] = set()
    while len(pairs) < size:
        task, pair, _ = draw_pair(rng, reserved=True)
        if task.operand not in taken and (is_right(pair) or not clean):
            pairs.append(pair)
            taken |= {task.operand} - OPPOSITES.keys()
    records = [{"instruction": p.instruction, "input": p.input, "output": p.response} for p in pairs]
    path.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def respond(task: Task, fault: Fault, rng: random.Random, *, reserved: bool) -> str:
    """A response to a task with a fault in it, or the right one."""
    response = right = task.answer
    while response == right and fault != "right":
        match fault:
            case "wrong":
                response = rng.choice((_confuse, _slip))(task, rng)
            case "truncated":
                response = right[: rng.randrange(1, len(right))].rstrip(" -")
            case "lazy":
                response = rng.choice(LAZY)
            case "off-task":
                response = draw_task(rng, reserved=reserved).answer
    return response


def _confuse(task: Task, rng: random.Random) -> str:
    """The answer to another kind of task about the same operand."""
    others = [kind for kind in KINDS.values() if kind.operand == task.kind.operand and kind is not task.kind]
    return rng.choice(others).answer(task.operand) if others else _slip(task, rng)


def _slip(task: Task, rng: random.Random) -> str:
    """The right answer with one letter or the number changed."""
    right = task.answer
    if task.kind.operand == "known":
        return rng.choice(list(OPPOSITES))
    if right.isdecimal():
        return str(max(0, int(right) + rng.choice((-10, -2, -1, 1, 2, 10))))
    place = rng.choice([index for index, letter in enumerate(right) if letter.isalpha()])
    letter = rng.choice("abcdefghijklmnopqrstuvwxyz")
    return right[:place] + (letter.upper() if right[place].isupper() else letter) + right[place + 1 :]
