"""What a student's scores tell about pairs, measured on the very data.

Can it tell a pair from one whose response belongs to another instruction? How far do its values follow
length? What do the policies choose, and is that what people prefer?
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import TypedDict

from reflectune.loop.bias import Bias
from reflectune.loop.matching import (
    Scoring,
    TermScores,
    measure_matching,
    score_matching,
    score_pairs,
    share_of,
)
from reflectune.loop.selection import are_alike, value_of
from reflectune.state.intervals import wilson
from reflectune.state.lineage.documents import Matching, Share
from reflectune.state.policies import POLICIES, TITLES
from reflectune.state.records import Pair

__all__ = ["Choice", "Evidence", "PolicyEvidence", "measure_evidence"]

Choice = tuple[Pair, Pair]  # two of one instruction


class PolicyEvidence(TypedDict):
    """What one policy chooses between two responses to an instruction."""

    policy: str
    longer: Share  # how often the longer one, where they differ in length
    right: Share | None  # how often the preferred one; None without preferences
    right_at_like_length: Share | None  # the same where lengths differ by selection.length_band at most


class Evidence(Matching):
    """What a student's scores tell, as `signal --json` prints it."""

    source: str
    student: str
    choices: int  # of two responses
    labelled: bool  # whether it is known which of the two is preferred
    policies: list[PolicyEvidence]
    agreement: dict[str, dict[str, float | None]]  # how often two policies choose the same
    bias: Bias | None  # of a run with a second round: what its student makes of what it was trained on
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

    given, mixed = score_matching(pairs, score, on_scored)
    firsts, seconds = (score_pairs((choice[side] for choice in choices), score, on_scored) for side in (0, 1))
    sides = list(zip(firsts, seconds, strict=True))
    chosen = {
        name: [_choose(name, *two, band) for two in sides]
        for name, policy in POLICIES.items()
        if policy.response is not None
    }
    lengths = [_difference(*two) for two in sides]
    alike = [are_alike(*two, band) for two in sides]
    evidence = Evidence(
        **measure_matching(given, mixed),
        source=source,
        student=student,
        choices=len(choices),
        labelled=labelled and bool(choices),
        policies=[
            _judge_policy(name, signs, lengths, alike, labelled=labelled) for name, signs in chosen.items()
        ],
        agreement=_compare_policies(chosen),
        bias=None,
        conclusion="",
    )
    return evidence | {"conclusion": _conclude(evidence)}


def _judge_policy(
    name: str, signs: Sequence[int], lengths: Sequence[int], alike: Sequence[bool], *, labelled: bool
) -> PolicyEvidence:
    decided = [said for said in zip(signs, lengths, alike, strict=True) if said[0]]
    return PolicyEvidence(
        policy=name,
        longer=share_of([sign == long for sign, long, _ in decided if long]),
        right=share_of([sign > 0 for sign, _, _ in decided]) if labelled else None,
        right_at_like_length=share_of([sign > 0 for sign, _, like in decided if like]) if labelled else None,
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
    telling = [
        f"{TITLES[name]} (right in {share['value']:.0%})"
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
