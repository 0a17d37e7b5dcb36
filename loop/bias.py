"""How much better a student makes of pairs for having been trained on them, and what that does to choices.

A student s[r] decides about the pool that it was trained on a part of. What it makes of a pair since it was
trained is compared between pairs of its training set and others: a difference in differences.
"""

import math
import statistics
from collections.abc import Collection, Sequence
from typing import NamedTuple, TypedDict

from reflectune.loop.selection import decide
from reflectune.state.config import RunConfig
from reflectune.state.intervals import quantile_of_t
from reflectune.state.policies import POLICIES, Measure, find_policy, is_own
from reflectune.state.records import Contest, Phase, Scores

__all__ = ["Bias", "Contrast", "Gain", "PolicyBias", "compare_trained", "conclude", "find_gain"]

_RATIOS = ("ifd", "r_ifd", "perplexity")
_FEW = 20  # pairs on a side: of fewer nothing is said


class Contrast(TypedDict):
    """A mean over what was trained on minus the mean over the rest, with its 95 % interval.

    The interval is Welch's, by Student's t with as many degrees of freedom as the smaller side has. All is
    None where a side has fewer than twenty, the interval also where neither side varies.
    """

    value: float | None
    low: float | None
    high: float | None
    trained: int  # how many the student was trained on
    others: int


class PolicyBias(TypedDict):
    """What training on a pair does to a policy's choices. Values are in its unit; above 0 is for the pair."""

    policy: str
    phase: Phase
    unit: str
    incumbents: Contrast  # what they gained
    leads: Contrast  # what they gained on their best proposals
    acceptance: Contrast  # how the share of accepted proposals changed; below 0 is for the pair


class Bias(TypedDict):
    """What a student that was trained makes of the pairs that it was trained on."""

    student: str
    round: int  # that it decided in
    contests: dict[Phase, int]  # that were looked at
    policies: list[PolicyBias]
    conclusion: str


class Gain(NamedTuple):
    """What one contest came to under a student beside another; None where it cannot be said."""

    incumbent: float | None
    lead: float | None  # of the incumbent on its best proposal
    accepted: int  # 1: a proposal is accepted now, and was not; -1: the other way round


def compare_trained(
    contests: Sequence[Contest],
    trained: Collection[str],
    before: Scores,
    after: Scores,
    config: RunConfig,
    phase: Phase,
) -> list[PolicyBias]:
    """Compare contests whose incumbent a student was trained on with the others, by every policy.

    With v the policy's value, signed so that the higher wins, of an incumbent i under the student s[r] and
    under s[0], which was trained on neither:

        gain(i) = v(i; s[r]) - v(i; s[0])
        incumbents = mean of gain(i) over i in T[r] - mean over the others
        leads = the same of gain(i) - gain(its best proposal)
        acceptance = the same of [accepted under s[r]] - [accepted under s[0]], each 0 or 1

    The interval of acceptance is of the means with a 1 and a -1 added to each side (after Agresti and Caffo
    2000), so that it has a width also where nothing changed.

    IFD, r-IFD and perplexity are ratios, of which few pairs would make the mean: v is their logarithm.

    It takes the training sets as they are, and these were chosen: a student that has learned more about pairs
    such as those shows the same. Leads are less prone to that, for proposals are such pairs too.

    Args:
        contests: with proposals.
        trained: version ids of what s[r] was trained on.
        before: scores under s[0], of all four terms.
        after: scores under s[r].
        config: of the run. Other policies than its own are asked without a margin.
        phase: that the contests are of.
    """
    own = config.selection.policy
    names = [name for name, policy in POLICIES.items() if policy.measure(phase) is not None]
    found = []
    for name in names + [own] * is_own(own):
        gains: dict[bool, list[Gain]] = {True: [], False: []}
        for contest in contests:
            gain = find_gain(contest, name, before, after, config, phase)
            gains[contest.incumbent_id in trained].append(gain)
        incumbents, leads, acceptance = (
            contrast(*([gain[place] for gain in gains[side]] for side in (True, False)), added=added)
            for place, added in enumerate(((), (), (1, -1)))
        )
        found.append(
            PolicyBias(
                policy=name,
                phase=phase,
                unit=_unit(name, phase),
                incumbents=incumbents,
                leads=leads,
                acceptance=acceptance,
            )
        )
    return found


def find_gain(
    contest: Contest, policy: str, before: Scores, after: Scores, config: RunConfig, phase: Phase
) -> Gain:
    """What a contest comes to by a policy under one student's scores, beside another's."""
    measure = find_policy(policy).measure(phase)
    assert measure is not None
    margin = config.selection.margin if policy == config.selection.policy else 0.0
    selection = config.selection.model_copy(update={"policy": policy, "margin": margin})
    old, new = (
        decide(contest, scores, selection, seed=config.seed, round=0, phase=phase, student_id="")
        for scores in (before, after)
    )
    incumbent = _difference(old.incumbent_value, new.incumbent_value, measure)
    other = _difference(old.challenger_value, new.challenger_value, measure)
    lead = None if incumbent is None or other is None else incumbent - other
    return Gain(incumbent, lead, (new.reason == "accepted") - (old.reason == "accepted"))


def _difference(old: float | None, new: float | None, measure: Measure) -> float | None:
    if old is None or new is None:
        return None
    if measure.key not in _RATIOS:
        return measure.sign * (new - old)
    return measure.sign * (math.log(new) - math.log(old)) if min(old, new) > 0 else None


def _unit(policy: str, phase: Phase) -> str:
    measure = find_policy(policy).measure(phase)
    assert measure is not None
    return f"log {measure.title}" if measure.key in _RATIOS else measure.unit or measure.title


def contrast(
    trained: Sequence[float | None], others: Sequence[float | None], *, added: Sequence[float] = ()
) -> Contrast:
    """The difference of two means of what is known, with its interval: of both sides with some values added.

    It begins no later than the difference and ends no earlier.
    """
    ones, rest = ([value for value in side if value is not None] for side in (trained, others))
    found = Contrast(value=None, low=None, high=None, trained=len(ones), others=len(rest))
    if min(len(ones), len(rest)) < _FEW:
        return found
    value = statistics.fmean(ones) - statistics.fmean(rest)
    sides = [[*side, *added] for side in (ones, rest)]
    middle = statistics.fmean(sides[0]) - statistics.fmean(sides[1])
    error = math.sqrt(sum(statistics.variance(side) / len(side) for side in sides))
    half = quantile_of_t(min(map(len, sides)) - 1) * error
    found["value"] = value
    if half:
        found |= {"low": min(value, middle - half), "high": max(value, middle + half)}
    return found


def conclude(policies: Sequence[PolicyBias], own: str, student: str) -> str:
    """What training on pairs did to the run's own choices, in a sentence a phase."""
    told = []
    for found in policies:
        share = found["acceptance"]
        if found["policy"] != own:
            continue
        if share["value"] is None or share["low"] is None or share["high"] is None:
            told.append(f"phase {found['phase']}: too few pairs to tell")
            continue
        proof = "beyond chance" if share["low"] > 0 or share["high"] < 0 else "within chance"
        told.append(
            f"phase {found['phase']}: {share['value']:+.0%}, {proof} "
            f"({share['low']:+.0%} to {share['high']:+.0%})"
        )
    if not told:
        return f"Policy {own} compares nothing: what {student} was trained on does not matter to it."
    return (
        f"Since s0, proposals against pairs that {student} was trained on gained acceptance beside others "
        f"in {'; in '.join(told)}."
    )
