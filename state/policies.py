"""The policies: what each compares in each phase, and which way.

Decisions, their explanations, the index of samples and the highlights of a report go by this one table. How
a value comes from scores is in `agents.student.formulas`, a decision from values in `loop.selection`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from reflectune.state.records import Term

__all__ = ["POLICIES", "TITLES", "Measure", "MeasureKey", "Policy", "find_policy", "is_own"]

MeasureKey = Literal["ifd", "r_ifd", "perplexity", "nll", "pmi", "response_tokens", "own"]


@dataclass(frozen=True, slots=True)
class Measure:
    """A number that two pairs are compared by."""

    key: MeasureKey
    title: str  # as people read it
    unit: str  # of `selection.margin` too; empty for none, or where the title says it
    sign: Literal[1, -1]  # +1 where the highest value wins, -1 where the lowest does
    terms: tuple[Term, ...]  # the scores it is derived from


@dataclass(frozen=True, slots=True)
class Policy:
    """What a policy compares in each phase; None where it compares nothing."""

    instruction: Measure | None
    response: Measure | None
    what: str  # what it does and does not look at, in a few words
    at_like_length: bool = False  # whether a proposal must be about as long as the incumbent

    def measure(self, phase: str) -> Measure | None:
        """What it compares in a phase."""
        return self.instruction if phase == "instruction" else self.response

    def is_refused_for_length(self, gain: float) -> bool:
        """Whether a refused proposal that is better by `gain` was not of like length."""
        return self.at_like_length and gain >= 0

    def terms(self, phase: str) -> tuple[Term, ...]:
        """The scores that a decision rests on; one where nothing is compared, for no failure may win."""
        measure = self.measure(phase)
        if measure is None:
            return ("response_given_instruction",)
        length: tuple[Term, ...] = ("response_given_instruction",) if self.at_like_length else ()
        return tuple(dict.fromkeys(measure.terms + length))


_RESPONSE: tuple[Term, ...] = ("response_given_instruction", "response_alone")
_IFD = Measure("ifd", "IFD", "", +1, _RESPONSE)
_R_IFD = Measure("r_ifd", "r-IFD", "", -1, ("instruction_given_response", "instruction_alone"))
_PERPLEXITY = Measure("perplexity", "perplexity", "", -1, _RESPONSE[:1])
_NLL = Measure("nll", "nll of the response", "nats per token", +1, _RESPONSE[:1])
_PMI = Measure("pmi", "mutual information", "nats", +1, _RESPONSE)
_LENGTH = Measure("response_tokens", "response tokens", "", +1, _RESPONSE[:1])

# Of what is known of every pair, whatever the policy; by their keys in documents.
TITLES: Mapping[str, str] = {measure.key: measure.title for measure in (_IFD, _R_IFD)}

POLICIES: Mapping[str, Policy] = {
    # Selective Reflection-Tuning (arXiv 2402.10110, sections 3.2 and 3.3)
    "ifd+r-ifd": Policy(_IFD, _R_IFD, "the method; IFD favours long responses"),
    "ifd": Policy(_IFD, _IFD, "favours long responses, and ones that do not fit"),
    "r-ifd": Policy(_R_IFD, _R_IFD, "does not ask whether a response is good"),
    "lc-ifd": Policy(_IFD, _IFD, "ifd, among responses of like length", at_like_length=True),
    "lc-r-ifd": Policy(_R_IFD, _R_IFD, "r-ifd, among responses of like length", at_like_length=True),
    # Pointwise mutual information: Church and Hanks 1990
    "pmi": Policy(_PMI, _PMI, "log p(y|x) - log p(y) of the whole response; grows with its length"),
    "surprise": Policy(
        _NLL, _NLL, "nll(y|x) among responses of like length; takes noise too", at_like_length=True
    ),
    "perplexity": Policy(_PERPLEXITY, _PERPLEXITY, "ppl(y|x): takes what the student would say itself"),
    "longest": Policy(_LENGTH, _LENGTH, "looks at nothing else"),
    "random": Policy(None, None, "takes the share selection.random_rate of the proposals"),
    "accept-all": Policy(None, None, "takes every proposal: Reflection-Tuning, arXiv 2310.11716"),
    "reject-all": Policy(None, None, "takes none"),
}


def is_own(name: str) -> bool:
    """Whether a policy is a function of the user's, named "module:function"."""
    return ":" in name


def find_policy(name: str) -> Policy:
    """The policy of a name. A function of the user's own is given all four scores; its highest value wins."""
    if not is_own(name):
        return POLICIES[name]
    terms = (*_RESPONSE, *_R_IFD.terms)
    own = Measure("own", name, "its own", +1, terms)
    return Policy(own, own, "a function of your own")
