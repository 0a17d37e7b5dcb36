"""What each policy compares in each phase.

Decisions, their explanations, the index of samples and the highlights of a report go by this one table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from reflectune.state.records import Term

__all__ = ["COMPARED", "Measure", "MeasureKey"]

MeasureKey = Literal["ifd", "r_ifd", "perplexity", "response_tokens"]


@dataclass(frozen=True, slots=True)
class Measure:
    """A number that two pairs are compared by."""

    key: MeasureKey
    title: str  # as people read it
    sign: Literal[1, -1]  # +1 where the highest value wins, -1 where the lowest does
    terms: tuple[Term, ...]  # the scores it is derived from


_IFD = Measure("ifd", "IFD", +1, ("response_given_instruction", "response_alone"))
_R_IFD = Measure("r_ifd", "r-IFD", -1, ("instruction_given_response", "instruction_alone"))
_PERPLEXITY = Measure("perplexity", "perplexity", -1, ("response_given_instruction",))
_LENGTH = Measure("response_tokens", "response tokens", +1, ("response_given_instruction",))

# None where a policy compares nothing. Highest IFD, then lowest r-IFD is Selective Reflection-Tuning
# (arXiv 2402.10110, sections 3.2 and 3.3); accept-all is Reflection-Tuning (arXiv 2310.11716).
COMPARED: Mapping[str, Mapping[str, Measure | None]] = {
    "ifd+r-ifd": {"instruction": _IFD, "response": _R_IFD},
    "ifd": {"instruction": _IFD, "response": _IFD},
    "r-ifd": {"instruction": _R_IFD, "response": _R_IFD},
    "perplexity": {"instruction": _PERPLEXITY, "response": _PERPLEXITY},
    "longest": {"instruction": _LENGTH, "response": _LENGTH},
    "random": {"instruction": None, "response": None},
    "accept-all": {"instruction": None, "response": None},
    "reject-all": {"instruction": None, "response": None},
}
