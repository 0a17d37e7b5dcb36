"""What a student's scores tell about pairs, measured on the very data.

Can it tell a pair from one whose response belongs to another instruction? How far do its values follow
length? What do the policies choose, and is that what people prefer?
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TypedDict

from reflectune.agents.student.evaluation import wilson
from reflectune.agents.student.formulas import ifd, nll, r_ifd
from reflectune.loop.selection import are_alike, value_of
from reflectune.state.policies import POLICIES
from reflectune.state.records import TERMS, Pair, Score, Term

__all__ = ["Choice", "Evidence", "PolicyEvidence", "Share", "measure_evidence"]

TermScores = Mapping[Term, Score]
Choice = tuple[Pair, Pair]  # two of one instruction
Scoring = Callable[[Sequence[tuple[Pair, Term]]], Sequence[Score]]

_AT_ONCE = 32  # pairs that are scored together
_MEASURES = {"ifd": ifd, "r_ifd": r_ifd}


class Share(TypedDict):
    """A share of n, with its 95 % interval; None where n is 0."""

    value: float | None
    low: float | None
    high: float | None
    n: int


class PolicyEvidence(TypedDict):
    """What one policy chooses between two responses to an instruction."""

    policy: str
    longer: Share  # how often the longer one, where they differ in length
    right: Share | None  # how often the preferred one; None without preferences
    right_at_like_length: Share | None  # the same where lengths differ by selection.length_band at most


class Evidence(TypedDict):
    """What a student's scores tell, as `signal --json` prints it."""

    source: str
    student: str
    pairs: int  # that could be scored
    matched: dict[str, Share]  # by measure: how often a pair is below one with another pair's response
    below_one: dict[str, float | None]  # by measure: share of the pairs
    below_one_shuffled: dict[str, float | None]  # of pairs with another's response
    follows_length: dict[str, float | None]  # by measure: rank correlation with the response's tokens
    choices: int  # of two responses
    labelled: bool  # whether it is known which of the two is preferred
    policies: list[PolicyEvidence]
    agreement: dict[str, dict[str, float | None]]  # how often two policies choose the same
    conclusion: str


def measure_evidence(
    source: str,
    student: str,
    pairs: Sequence[Pair],
    choices: Sequence[Choice],
    score: Scoring,
    *,
    labelled: bool,
    band: float,
    on_scored: Callable[[int], None] = lambda number: None,
) -> Evidence:
    """Score pairs, the same with the next one's response, and choices of two; see what the scores tell.

    Args:
        source: what is measured, in words.
        student: who scores, in words.
        pairs: of different instructions.
        choices: two pairs of one instruction; with `labelled` the first is the one that people prefer.
        score: scores targets, in their order.
        labelled: whether it is known which of two is preferred.
        band: the most by which lengths differ that count as alike, as a factor.
        on_scored: told how many pairs each group had.
    """

    def score_pairs(asked: Iterable[Pair]) -> list[TermScores]:
        rest, found = list(asked), list[TermScores]()
        for start in range(0, len(rest), _AT_ONCE):
            group = rest[start : start + _AT_ONCE]
            scores = iter(score([(pair, term) for pair in group for term in TERMS]))
            found += [{term: next(scores) for term in TERMS} for _ in group]
            on_scored(len(group))
        return found

    shuffled = [
        replace(pair, response=other.response)
        for pair, other in zip(pairs, [*pairs[1:], *pairs[:1]], strict=True)
    ]
    given, mixed = score_pairs(pairs), score_pairs(shuffled)
    firsts, seconds = (score_pairs(choice[side] for choice in choices) for side in (0, 1))
    sides = list(zip(firsts, seconds, strict=True))
    chosen = {
        name: [_choose(name, *two, band) for two in sides]
        for name, policy in POLICIES.items()
        if policy.response is not None
    }
    lengths = [_difference(*two) for two in sides]
    alike = [are_alike(*two, band) for two in sides]
    evidence = Evidence(
        source=source,
        student=student,
        pairs=sum(ifd(scores) is not None and r_ifd(scores) is not None for scores in given),
        matched={name: _auc(_values(name, given), _values(name, mixed)) for name in _MEASURES},
        below_one={name: _below_one(_values(name, given)) for name in _MEASURES},
        below_one_shuffled={name: _below_one(_values(name, mixed)) for name in _MEASURES},
        follows_length={name: _follow_length(name, given) for name in (*_MEASURES, "nll")},
        choices=len(choices),
        labelled=labelled and bool(choices),
        policies=[
            _judge_policy(name, signs, lengths, alike, labelled=labelled) for name, signs in chosen.items()
        ],
        agreement=_compare_policies(chosen),
        conclusion="",
    )
    return evidence | {"conclusion": _conclude(evidence)}


def _judge_policy(
    name: str, signs: Sequence[int], lengths: Sequence[int], alike: Sequence[bool], *, labelled: bool
) -> PolicyEvidence:
    decided = [said for said in zip(signs, lengths, alike, strict=True) if said[0]]
    return PolicyEvidence(
        policy=name,
        longer=_share([sign == long for sign, long, _ in decided if long]),
        right=_share([sign > 0 for sign, _, _ in decided]) if labelled else None,
        right_at_like_length=_share([sign > 0 for sign, _, like in decided if like]) if labelled else None,
    )


def _choose(policy: str, first: TermScores, second: TermScores, band: float) -> int:
    """Which of two pairs a policy would keep, +1 the first, -1 the second; 0 where it has no say."""
    rule = POLICIES[policy]
    assert rule.response is not None
    one, other = (value_of(rule, "response", scores) for scores in (first, second))
    if one is None or other is None or (rule.at_like_length and not are_alike(first, second, band)):
        return 0
    return rule.response.sign * ((one > other) - (one < other))


def _difference(first: TermScores, second: TermScores) -> int:
    """Which of two responses is the longer one in tokens, +1 the first, -1 the second; 0 where neither is."""
    one, other = (scores["response_given_instruction"].num_tokens or 0 for scores in (first, second))
    return (one > other) - (one < other)


def _values(name: str, scores: Iterable[TermScores]) -> list[float]:
    return [value for each in scores if (value := _MEASURES[name](each)) is not None]


def _below_one(values: Sequence[float]) -> float | None:
    return sum(value < 1 for value in values) / len(values) if values else None


def _follow_length(name: str, scores: Iterable[TermScores]) -> float | None:
    term: Term = "response_given_instruction"
    known = [
        (value, each[term].num_tokens or 0)
        for each in scores
        if (value := nll(each, term) if name == "nll" else _MEASURES[name](each)) is not None
    ]
    return rank_correlation([value for value, _ in known], [tokens for _, tokens in known])


def rank_correlation(ones: Sequence[float], others: Sequence[float]) -> float | None:
    """Spearman's rank correlation, from -1 to 1; equal values share their mean rank. None for constants."""
    if len(set(ones)) < 2 or len(set(others)) < 2:
        return None
    return statistics.correlation(_rank(ones), _rank(others))


def _rank(values: Sequence[float]) -> list[float]:
    places: dict[float, list[int]] = {}
    for place, value in enumerate(sorted(values)):
        places.setdefault(value, []).append(place)
    return [statistics.fmean(places[value]) for value in values]


def _auc(lower: Sequence[float], higher: Sequence[float]) -> Share:
    """How often one of the first is below one of the second; a tie counts half.

    The interval is Hanley and McNeil's (1982). With A the share, Q1 = A / (2 - A) and Q2 = 2A² / (1 + A), its
    variance is (A(1 - A) + (m - 1)(Q1 - A²) + (n - 1)(Q2 - A²)) / mn. It is a point where A is 0 or 1, and
    takes the samples for independent; so it is at least as wide as Wilson's of as many pairs.
    """
    m, n = len(lower), len(higher)
    if not m or not n:
        return Share(value=None, low=None, high=None, n=0)
    area = statistics.fmean((a < b) + (a == b) / 2 for a in lower for b in higher)
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (m - 1) * (q1 - area**2) + (n - 1) * (q2 - area**2)) / (m * n)
    half = 1.96 * math.sqrt(max(variance, 0.0))
    low, high = wilson(area, min(m, n))
    return Share(
        value=area, low=max(min(area - half, low), 0.0), high=min(max(area + half, high), 1.0), n=min(m, n)
    )


def _share(said: Sequence[bool]) -> Share:
    if not said:
        return Share(value=None, low=None, high=None, n=0)
    share = statistics.fmean(said)
    low, high = wilson(share, len(said))
    return Share(value=share, low=low, high=high, n=len(said))


def _compare_policies(chosen: Mapping[str, Sequence[int]]) -> dict[str, dict[str, float | None]]:
    agreement: dict[str, dict[str, float | None]] = {name: {} for name in chosen}
    for one, other in combinations(chosen, 2):
        both = [a == b for a, b in zip(chosen[one], chosen[other], strict=True) if a and b]
        agreement[one][other] = agreement[other][one] = statistics.fmean(both) if both else None
    return agreement


def _conclude(evidence: Evidence) -> str:
    """The findings in a sentence."""
    if not evidence["pairs"]:
        return "No pair could be scored: nothing is known."
    titles = {"ifd": "IFD", "r_ifd": "r-IFD"}
    telling = [
        f"{titles[name]} (right in {share['value']:.0%})"
        for name, share in evidence["matched"].items()
        if share["low"] is not None and share["low"] > 0.5
    ]
    if not telling:
        return "This student cannot tell pairs from pairs with another's response: its choices mean nothing."
    first = f"This student tells pairs from pairs with another's response by {' and '.join(telling)}"
    if not evidence["choices"]:
        return f"{first}; what it keeps of two responses is not known without two to choose from."
    if not evidence["labelled"]:
        longer = {item["policy"]: item["longer"]["value"] for item in evidence["policies"]}
        shown = [f"{name} in {kept:.0%}" for name in ("ifd", "r-ifd") if (kept := longer[name]) is not None]
        return f"{first}; the longer of two responses is kept by {', '.join(shown) or 'none'}."
    # Whoever asks so many policies finds one in twenty right by chance.
    z = statistics.NormalDist().inv_cdf(1 - 0.025 / len(evidence["policies"]))
    able = {
        item["policy"]: share["value"]
        for item in evidence["policies"]
        if (share := item["right_at_like_length"]) is not None
        and share["value"] is not None
        and wilson(share["value"], share["n"], z)[0] > 0.5
    }
    if not able:
        return (
            f"{first}, but of two responses of like length no policy keeps the preferred one more often than "
            "chance: what else they are right about is length."
        )
    best = max(able, key=lambda policy: able[policy])
    return f"{first}; of two responses of like length {best} keeps the preferred one in {able[best]:.0%}."
