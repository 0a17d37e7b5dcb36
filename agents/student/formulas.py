"""The numbers that the student's choices rest on, from summed log-probabilities and token counts.

y is the response, x the instruction with its input. A measure is None where a score it needs is missing or
not "ok", and where the result would not be a finite number: a failure is never a score.

Where the pair has a context c (a system message, earlier turns), all four terms are given it: IFD is
ppl(y|c,x) / ppl(y|c), with an empty user's turn in place of x, and r-IFD is ppl(x|c,y) / ppl(x|c), with an
empty response in place of y. So each says what the one adds to what the context says of the other already.
"""

import math
from collections.abc import Mapping

from reflectune.state.records import Score, Term

__all__ = ["ifd", "ifd_loss", "nll", "perplexity", "pmi", "r_ifd", "r_ifd_loss"]

Scores = Mapping[Term, Score]


def nll(scores: Scores, term: Term) -> float | None:
    """Mean negative log-likelihood of one target, nats per token: nll = -sum_logprob / num_tokens."""
    score = scores.get(term)
    if score is None or score.status != "ok" or score.sum_logprob is None or not score.num_tokens:
        return None
    return _finite(-score.sum_logprob / score.num_tokens)


def perplexity(scores: Scores, term: Term) -> float | None:
    """Perplexity of one target: ppl = exp(nll). No unit."""
    return _exp(nll(scores, term))


def ifd(scores: Scores) -> float | None:
    """Instruction-following difficulty; high where the instruction helps little with the response.

    Formula: IFD = ppl(y|x) / ppl(y) = exp(nll(y|x) - nll(y)). No unit.
    Source: arXiv 2402.10110, the ratio of perplexities; the idea is from arXiv 2308.12032.
    """
    return _exp(_difference(scores, "response_given_instruction", "response_alone"))


def r_ifd(scores: Scores) -> float | None:
    """Reversed IFD; low where the response points back to its instruction.

    Formula: r-IFD = ppl(x|y) / ppl(x) = exp(nll(x|y) - nll(x)). No unit. Source: arXiv 2402.10110.
    """
    return _exp(_difference(scores, "instruction_given_response", "instruction_alone"))


def pmi(scores: Scores) -> float | None:
    """Pointwise mutual information of a pair, nats: how much likelier x makes the whole of y.

    Formula: pmi = log p(y|x) - log p(y) = num_tokens(y) * (nll(y) - nll(y|x)). It grows with the length of y.
    Source: Church and Hanks 1990.
    """
    difference = _difference(scores, "response_alone", "response_given_instruction")
    tokens = None if difference is None else scores["response_given_instruction"].num_tokens
    return None if difference is None or tokens is None else _finite(difference * tokens)


def ifd_loss(scores: Scores) -> float | None:
    """Cherry LLM's ratio of losses (arXiv 2308.12032): nll(y|x) / nll(y). No unit; None where nll(y) is 0."""
    return _ratio(scores, "response_given_instruction", "response_alone")


def r_ifd_loss(scores: Scores) -> float | None:
    """The ratio of losses in reverse: r_ifd_loss = nll(x|y) / nll(x). No unit; None where nll(x) is 0."""
    return _ratio(scores, "instruction_given_response", "instruction_alone")


def _difference(scores: Scores, given: Term, alone: Term) -> float | None:
    nll_given, nll_alone = nll(scores, given), nll(scores, alone)
    return None if nll_given is None or nll_alone is None else nll_given - nll_alone


def _ratio(scores: Scores, given: Term, alone: Term) -> float | None:
    nll_given, nll_alone = nll(scores, given), nll(scores, alone)
    return None if nll_given is None or not nll_alone else _finite(nll_given / nll_alone)


def _exp(exponent: float | None) -> float | None:
    """e**exponent, or None where that leaves the range of a float: a lowest value of 0.0 would win."""
    try:
        return None if exponent is None else math.exp(exponent) or None
    except OverflowError:
        return None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
