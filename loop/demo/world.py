"""The demo's world: ten kinds of text tasks in plain English, each with exactly one right answer.

An instruction is a phrasing of a kind around an operand (a made-up word, a known word, or two numbers), or
a phrasing with the operand in the input. Nothing here knows models, prompts or noise.
"""

import random
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from reflectune.state.records import Pair

__all__ = [
    "KINDS",
    "OPPOSITES",
    "Kind",
    "Operand",
    "Task",
    "check",
    "draw_task",
    "is_reserved",
    "is_right",
    "solve",
]

Operand = Literal["word", "numbers", "known"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of task.

    Attributes:
        name: short name.
        operand: what it is done to.
        phrasings: instructions, with {} where the operand stands.
        input_phrasings: instructions whose operand is the pair's input.
        answer: operand -> the right answer.
    """

    name: str
    operand: Operand
    phrasings: tuple[str, ...]
    input_phrasings: tuple[str, ...]
    answer: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Task:
    """A kind with an operand."""

    kind: Kind
    operand: str

    @property
    def answer(self) -> str:
        """The right answer."""
        return self.kind.answer(self.operand)


OPPOSITES = {
    first: second
    for pair in (
        ("hot", "cold"),
        ("big", "small"),
        ("fast", "slow"),
        ("high", "low"),
        ("old", "young"),
        ("dark", "light"),
        ("wet", "dry"),
        ("hard", "soft"),
        ("early", "late"),
        ("empty", "full"),
        ("loud", "quiet"),
        ("rich", "poor"),
        ("strong", "weak"),
        ("thick", "thin"),
        ("wide", "narrow"),
        ("open", "shut"),
        ("happy", "sad"),
        ("clean", "dirty"),
        ("near", "far"),
        ("sharp", "blunt"),
    )
    for first, second in (pair, pair[::-1])
}


def _numbers(operand: str) -> tuple[int, int]:
    first, _, second = operand.partition(" and ")
    return int(first), int(second)


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "reverse",
            "word",
            (
                "Reverse {}.",
                "Write {} backwards.",
                "Spell {} from its end to its start.",
                "Read {} from right to left.",
                "Turn the letters of {} around.",
            ),
            ("Write the input backwards.", "Reverse the given word."),
            lambda word: word[::-1],
        ),
        Kind(
            "upper",
            "word",
            (
                "Write {} in capitals.",
                "Put {} in upper case.",
                "Make every letter of {} a capital.",
                "Shout {}.",
                "How is {} written in capital letters?",
            ),
            ("Write the input in capitals.", "Put the given word in upper case."),
            str.upper,
        ),
        Kind(
            "double",
            "word",
            (
                "Say {} twice.",
                "Put {} beside itself.",
                "Write {} two times.",
                "Double {}.",
                "Give {} and then give it again.",
            ),
            ("Write the input two times.", "Put the given word beside itself."),
            lambda word: f"{word} {word}",
        ),
        Kind(
            "first",
            "word",
            (
                "Give the first two letters of {}.",
                "How does {} begin? Two letters.",
                "Cut {} down to its first two letters.",
                "Which two letters start {}?",
                "Take two letters from the front of {}.",
            ),
            ("Give the first two letters of the input.", "Which two letters start the given word?"),
            lambda word: word[:2],
        ),
        Kind(
            "last",
            "word",
            (
                "Give the last two letters of {}.",
                "How does {} end? Two letters.",
                "Cut {} down to its last two letters.",
                "Which two letters close {}?",
                "Take two letters from the back of {}.",
            ),
            ("Give the last two letters of the input.", "Which two letters close the given word?"),
            lambda word: word[-2:],
        ),
        Kind(
            "spell",
            "word",
            (
                "Spell {} with dashes.",
                "Put a dash between the letters of {}.",
                "Split {} into letters joined by dashes.",
                "Spell out {} letter by letter.",
                "Write {} with a dash after each letter but the last.",
            ),
            ("Spell the input with dashes.", "Put a dash between the letters of the given word."),
            lambda word: "-".join(word),
        ),
        Kind(
            "count",
            "word",
            (
                "Count the letters of {}.",
                "How many letters does {} have?",
                "How long is {}?",
                "Give the length of {} as a number.",
                "Of how many letters is {} made?",
            ),
            ("Count the letters of the input.", "How long is the given word?"),
            lambda word: str(len(word)),
        ),
        Kind(
            "drop",
            "word",
            (
                "Leave out the first letter of {}.",
                "Drop the letter that {} begins with.",
                "Write {} without its first letter.",
                "What is left of {} behind its first letter?",
                "Take the first letter off {}.",
            ),
            ("Leave out the first letter of the input.", "Write the given word without its first letter."),
            lambda word: word[1:],
        ),
        Kind(
            "larger",
            "numbers",
            (
                "Which is larger of {}?",
                "Name the larger of {}.",
                "Give the greater of {}.",
                "Pick the bigger number of {}.",
                "Of {}, which is more?",
            ),
            ("Name the larger number in the input.", "Give the greater of the given numbers."),
            lambda operand: str(max(_numbers(operand))),
        ),
        Kind(
            "opposite",
            "known",
            (
                "What is the opposite of {}?",
                "Give the opposite of {}.",
                "Name the contrary of {}.",
                "Which word means the reverse of {}?",
                "Find an antonym of {}.",
            ),
            ("Give the opposite of the input.", "Name the contrary of the given word."),
            OPPOSITES.__getitem__,
        ),
    )
}

_OPERANDS: Mapping[Operand, re.Pattern[str]] = {
    "word": re.compile("[a-z]{3,9}"),
    "numbers": re.compile("[1-9][0-9]? and [1-9][0-9]?"),
    "known": re.compile("|".join(OPPOSITES)),
}
_CONSONANTS, _VOWELS = "bcdfghjklmnpqrstvwxyz", "aeiou"


def draw_task(rng: random.Random, *, reserved: bool) -> Task:
    """Draw a kind and an operand for it, from those that `is_reserved` sets apart or from the others."""
    kind = rng.choice(list(KINDS.values()))
    while True:
        operand = _draw_operand(kind.operand, rng)
        if kind.operand == "known" or is_reserved(operand) == reserved:
            return Task(kind, operand)


def is_reserved(operand: str) -> bool:
    """Whether no model of the demo was trained on an operand: about a fifth of all, by hash.

    A word goes with its reversal, a pair of numbers with the same two in the other order. Known words are
    never reserved: there are only so many opposites.
    """
    if operand in OPPOSITES:
        return False
    first, _, second = operand.partition(" and ")
    alike = min(f"{first} and {second}", f"{second} and {first}") if second else min(operand, operand[::-1])
    return zlib.crc32(alike.encode()) % 5 == 0


def solve(instruction: str, input: str) -> str | None:
    """The right answer, or None for what is no clear task of this world."""
    for kind in KINDS.values():
        if input and instruction in kind.input_phrasings:
            operand = input
        elif not input and (match := _PATTERNS[kind.name].fullmatch(instruction)):
            operand = next(group for group in match.groups() if group is not None)
        else:
            continue
        if _OPERANDS[kind.operand].fullmatch(operand):
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
    return check(pair.instruction, pair.input, pair.response) is True


def _draw_operand(operand: Operand, rng: random.Random) -> str:
    match operand:
        case "known":
            return rng.choice(list(OPPOSITES))
        case "numbers":
            first, second = rng.sample(range(1, 100), 2)
            return f"{first} and {second}"
        case "word":
            word = ""
            for _ in range(rng.choice((1, 2, 2, 2, 3))):
                word += rng.choice(_CONSONANTS) + rng.choice(_VOWELS)
            return word + rng.choice(_CONSONANTS) if len(word) < 4 or rng.random() < 0.7 else word


def _pattern(kind: Kind) -> re.Pattern[str]:
    operand = f"({_OPERANDS[kind.operand].pattern})"
    return re.compile("|".join(re.escape(phrasing).replace(r"\{\}", operand) for phrasing in kind.phrasings))


_PATTERNS = {kind.name: _pattern(kind) for kind in KINDS.values()}
