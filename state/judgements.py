"""What a judge is asked and what it says: two answers to one held-out instruction, in one order."""

from dataclasses import dataclass
from typing import Literal

from reflectune.state.records import Call, Pair

__all__ = ["REFERENCES", "Comparison", "JudgeCall", "Judged", "Verdict"]

Verdict = Literal["first", "second", "tie"]  # which of two answers, as they were shown

# The opponent where answers are compared with the records' own responses.
REFERENCES = "references"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A verdict to ask for: a student's answer beside an opponent's."""

    student_id: str
    opponent: str  # id of another student, or REFERENCES
    sample_id: str
    pair: Pair  # the given one, which holds the instruction
    answers: tuple[str, str]  # as they are shown
    swapped: bool  # whether the opponent's is shown first
    attempts: int = 0  # calls already made for it


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeCall(Call):
    """A request for a verdict. It is cached also where there was nothing to compare, and nobody was asked."""

    student_id: str
    opponent: str
    sample_id: str
    swapped: bool
    verdict: Verdict | None  # None unless status is ok


@dataclass(frozen=True, slots=True)
class Judged:
    """A sample whose answers were compared in both orders."""

    verdicts: tuple[Verdict, Verdict]  # of the order with the student's answer first, and of the other one
    lengths: tuple[int, int]  # characters of the student's answer, and of the opponent's

    @property
    def value(self) -> float:
        """1: the student's answer is better, 0: the opponent's is, 1/2: a tie, or verdicts that disagree."""
        return {("first", "second"): 1.0, ("second", "first"): 0.0}.get(self.verdicts, 0.5)
