"""Whether a student tells pairs from shuffled ones, and how far its values follow length."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from reflectune.agents.student.formulas import ifd, nll, r_ifd
from reflectune.state.groups import in_groups
from reflectune.state.intervals import wilson
from reflectune.state.lineage.documents import Matching, Share
from reflectune.state.policies import TITLES
from reflectune.state.records import TERMS, Pair, Score, Term

__all__ = [
    "Scoring", "TermScores", "measure_matching", "rank_correlation", "score_matching",
    "score_pairs", "share_of", "warn_of",
]  # fmt: skip

TermScores = Mapping[Term, Score]
Scoring = Callable[[Sequence[tuple[Pair, Term]]], Sequence[Score]]

_AT_ONCE = 32  # pairs that are scored together
_MEASURES = {"ifd": ifd, "r_ifd": r_ifd}
_STRONGLY = 0.7  # a rank correlation with length that is warned of


def score_matching(
    pairs: Sequence[Pair], score: Scoring, on_scored: Callable[[int], None] = lambda number: None
) -> tuple[list[TermScores], list[TermScores]]:
    """The scores of pairs, and of each with the next one's response."""
    following = [*pairs[1:], *pairs[:1]]
    mixed = (replace(pair, response=other.response) for pair, other in zip(pairs, following, strict=True))
    # Side by side: texts alone are the same in both, and computed once.
    both = score_pairs(chain.from_iterable(zip(pairs, mixed, strict=True)), score, on_scored)
    return both[::2], both[1::2]


def measure_matching(given: Sequence[TermScores], mixed: Sequence[TermScores]) -> Matching:
    """What a student tells, by its scores of pairs of different instructions and of the same shuffled."""
    return Matching(
        pairs=sum(ifd(scores) is not None and r_ifd(scores) is not None for scores in given),
        matched={name: _auc(_values(name, given), _values(name, mixed)) for name in _MEASURES},
        below_one={name: _below_one(_values(name, given)) for name in _MEASURES},
        below_one_shuffled={name: _below_one(_values(name, mixed)) for name in _MEASURES},
        follows_length={name: _follow_length(name, given) for name in (*_MEASURES, "nll")},
    )


def score_pairs(
    pairs: Iterable[Pair], score: Scoring, on_scored: Callable[[int], None] = lambda number: None
) -> list[TermScores]:
    """All four scores of each pair; `on_scored` is told how many pairs each group had."""
    found: list[TermScores] = []
    for group in in_groups(pairs, _AT_ONCE):
        scores = iter(score([(pair, term) for pair in group for term in TERMS]))
        found += [{term: next(scores) for term in TERMS} for _ in group]
        on_scored(len(group))
    return found


def warn_of(matching: Matching) -> list[str]:
    """What a user should know of a student before trusting its choices; nothing where all is well."""
    if not matching["pairs"]:
        return ["the student can score none of the given pairs; raise student.max_length"]
    blind = [
        f"{TITLES[name]} ({share['value']:.0%}, {share['low']:.0%} to {share['high']:.0%})"
        for name, share in matching["matched"].items()
        if share["value"] is not None and share["low"] is not None and share["low"] <= 0.5
    ]
    long = [
        f"{TITLES[name]} (rank correlation {value:+.2f})"
        for name in _MEASURES
        if (value := matching["follows_length"][name]) is not None and abs(value) >= _STRONGLY
    ]
    warnings = []
    if blind:
        warnings.append(
            f"by {' and by '.join(blind)} the student is not surely better than guessing at telling pairs "
            "from shuffled ones: what is chosen by it means little"
        )
    if long:
        warnings.append(f"how long a response is says much of its {' and '.join(long)}")
    return warnings


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
    # Of the ranks among all, those among the second themselves are n(n - 1) / 2.
    area = (sum(_rank([*lower, *higher])[m:]) - n * (n - 1) / 2) / (m * n)
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (m - 1) * (q1 - area**2) + (n - 1) * (q2 - area**2)) / (m * n)
    half = 1.96 * math.sqrt(max(variance, 0.0))
    low, high = wilson(area, min(m, n))
    return Share(
        value=area, low=max(min(area - half, low), 0.0), high=min(max(area + half, high), 1.0), n=min(m, n)
    )


def share_of(said: Sequence[bool]) -> Share:
    """The share of what is true, with Wilson's interval."""
    if not said:
        return Share(value=None, low=None, high=None, n=0)
    share = statistics.fmean(said)
    low, high = wilson(share, len(said))
    return Share(value=share, low=low, high=high, n=len(said))
