"""The demo's world: ten kinds of text tasks in plain English, each with exactly one right answer.

An instruction is a phrasing of a kind around an operand (a made-up word or a known one), or a phrasing with
the operand in the input. Nothing here knows models, prompts or noise.
"""

import random
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from typing import Literal

from reflectune.state.records import Pair

__all__ = ["KINDS", "OPPOSITES", "Task", "check", "draw_task", "is_reserved", "is_right", "solve"]

Operand = Literal["word", "known"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of task."""

    name: str
    operand: Operand  # what it is done to
    answer: Callable[[str], str]  # operand -> the right answer
    phrasings: tuple[str, ...]  # instructions, with {} where the operand stands
    input_phrasings: tuple[str, ...]  # instructions whose operand is the pair's input


@dataclass(frozen=True, slots=True)
class Task:
    """A kind with an operand."""

    kind: Kind
    operand: str

    @property
    def answer(self) -> str:
        """The right answer."""
        return self.kind.answer(self.operand)


_PAIRS = """
hot cold, big small, fast slow, high low, old young, dark light, wet dry, hard soft, early late, empty full,
loud quiet, rich poor, strong weak, thick thin, wide narrow, open shut, happy sad, clean dirty, near far,
sharp blunt
"""
OPPOSITES = {
    first: second for pair in _PAIRS.split(",") for first, second in (pair.split(), reversed(pair.split()))
}
_OPERANDS: Mapping[Operand, str] = {
    "word": "[a-z]{3,9}",
    "known": "|".join(OPPOSITES),
}
_CONSONANTS, _VOWELS = "bcdfghjklmnpqrstvwxyz", "aeiou"

_KINDS = (
    Kind("reverse", "word", lambda word: word[::-1],
         ("Reverse {}.", "Write {} backwards.", "Spell {} from its end to its start.",
          "Read {} from right to left.", "Turn the letters of {} around."),
         ("Write the input backwards.", "Reverse the given word.")),
    Kind("upper", "word", str.upper,
         ("Write {} in capitals.", "Put {} in upper case.", "Make every letter of {} a capital.",
          "Shout {}.", "How is {} written in capital letters?"),
         ("Write the input in capitals.", "Put the given word in upper case.")),
    Kind("double", "word", lambda word: f"{word} {word}",
         ("Say {} twice.", "Put {} beside itself.", "Write {} two times.", "Double {}.",
          "Give {} and then give it again."),
         ("Write the input two times.", "Put the given word beside itself.")),
    Kind("first", "word", lambda word: word[:2],
         ("Give the first two letters of {}.", "How does {} begin? Two letters.",
          "Cut {} down to its first two letters.", "Which two letters start {}?",
          "Take two letters from the front of {}."),
         ("Give the first two letters of the input.", "Which two letters start the given word?")),
    Kind("last", "word", lambda word: word[-2:],
         ("Give the last two letters of {}.", "How does {} end? Two letters.",
          "Cut {} down to its last two letters.", "Which two letters close {}?",
          "Take two letters from the back of {}."),
         ("Give the last two letters of the input.", "Which two letters close the given word?")),
    Kind("spell", "word", "-".join,
         ("Spell {} with dashes.", "Put a dash between the letters of {}.",
          "Split {} into letters joined by dashes.", "Spell out {} letter by letter.",
          "Write {} with a dash after each letter but the last."),
         ("Spell the input with dashes.", "Put a dash between the letters of the given word.")),
    Kind("count", "word", lambda word: str(len(word)),
         ("Count the letters of {}.", "How many letters does {} have?", "How long is {}?",
          "Give the length of {} as a number.", "Of how many letters is {} made?"),
         ("Count the letters of the input.", "How long is the given word?")),
    Kind("drop", "word", lambda word: word[1:],
         ("Leave out the first letter of {}.", "Drop the letter that {} begins with.",
          "Write {} without its first letter.", "What is left of {} behind its first letter?",
          "Take the first letter off {}."),
         ("Leave out the first letter of the input.", "Write the given word without its first letter.")),
    Kind("consonants", "word", lambda word: re.sub(f"[{_VOWELS}]", "", word),
         ("Write {} without its vowels.", "Keep the consonants of {}.", "Take all vowels out of {}.",
          "Which consonants are in {}, in their order?", "Strike every vowel from {}."),
         ("Keep the consonants of the input.", "Write the given word without its vowels.")),
    Kind("opposite", "known", OPPOSITES.__getitem__,
         ("What is the opposite of {}?", "Give the opposite of {}.", "Name the contrary of {}.",
          "Which word means the reverse of {}?", "Find an antonym of {}."),
         ("Give the opposite of the input.", "Name the contrary of the given word.")),
)  # fmt: skip
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _KINDS}


def draw_task(rng: random.Random, *, reserved: bool) -> Task:
    """Draw a kind and an operand for it, from those that `is_reserved` sets apart or from the others."""
    kind = rng.choice(_KINDS)
    while True:
        operand = _draw_operand(kind.operand, rng)
        if kind.operand == "known" or is_reserved(operand) == reserved:
            return Task(kind, operand)


def is_reserved(operand: str) -> bool:
    """Whether no model of the demo was trained on an operand: about a fifth of all, by hash.

    A word goes with its reversal. Known words are never reserved: there are only so many opposites.
    """
    return operand not in OPPOSITES and zlib.crc32(min(operand, operand[::-1]).encode()) % 5 == 0


def solve(instruction: str, input: str) -> str | None:
    """The right answer, or None for what is no clear task of this world."""
    for kind in _KINDS:
        if input:
            operand = input if instruction in kind.input_phrasings else ""
        else:
            match = re.fullmatch(_PATTERNS[kind.name], instruction)
            operand = "".join(filter(None, match.groups())) if match else ""
        if re.fullmatch(_OPERANDS[kind.operand], operand):
            return kind.answer(operand)
    return None


def check(instruction: str, input: str, response: str, reference: str = "") -> bool | None:
    """Whether a response is exactly right; None where the instruction does not say what to do.

    A checker as `evaluate.checker` takes it; the reference, which may be noise, is not looked at.
    """
    answer = solve(instruction, input)
    return None if answer is None else response == answer


def is_right(pair: Pair) -> bool:
    """Whether a pair teaches something true: a clear task with the right answer."""
    return check(*astuple(pair)) is True


def _draw_operand(operand: Operand, rng: random.Random) -> str:
    match operand:
        case "known":
            return rng.choice(list(OPPOSITES))
        case "word":
            word = ""
            for _ in range(rng.choice((1, 2, 2, 2, 3))):
                word += rng.choice(_CONSONANTS) + rng.choice(_VOWELS)
            return word + rng.choice(_CONSONANTS) if len(word) < 4 or rng.random() < 0.7 else word


_PATTERNS = {
    kind.name: "|".join(
        re.escape(phrasing).replace(r"\{\}", f"({_OPERANDS[kind.operand]})") for phrasing in kind.phrasings
    )
    for kind in _KINDS
}
