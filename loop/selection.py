"""Which proposals the student takes, and which pairs it trains on.

Every rule here is a pure function of stored scores and a seed: it opens no model and no database, so a
decision can be derived again from the rows it was taken on.
"""

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from reflectune.agents.student.formulas import ifd, perplexity, r_ifd
from reflectune.state.config import SelectionConfig
from reflectune.state.lineage.writer import Contest, PoolPair, Scores
from reflectune.state.records import Decision, Phase, PolicyName, Reason, Score, Term

__all__ = ["POLICIES", "Policy", "Rule", "choose_training_set", "decide", "needed_versions"]

TermScores = Mapping[Term, Score]


@dataclass(frozen=True, slots=True)
class Rule:
    """How a policy values a pair.

    Attributes:
        terms: the scores that must be there before a pair can win.
        value: the pair's value in the policy's unit; None where it cannot be compared.
        sign: +1 where the highest value wins, -1 where the lowest does.
    """

    terms: tuple[Term, ...]
    value: Callable[[TermScores], float | None]
    sign: int


@dataclass(frozen=True, slots=True)
class Policy:
    """What decides in each phase. `share` is None where values are compared, else how many win by lot."""

    instruction: Rule
    response: Rule
    share: Callable[[SelectionConfig], float] | None = None

    def rule(self, phase: Phase) -> Rule:
        """The rule of a phase."""
        return self.instruction if phase == "instruction" else self.response


def _response_tokens(scores: TermScores) -> float | None:
    score = scores["response_given_instruction"]
    return score.num_tokens


def _perplexity(scores: TermScores) -> float | None:
    return perplexity(scores, "response_given_instruction")


_HIGHEST_IFD = Rule(("response_given_instruction", "response_alone"), ifd, +1)
_LOWEST_R_IFD = Rule(("instruction_given_response", "instruction_alone"), r_ifd, -1)
_LOWEST_PERPLEXITY = Rule(("response_given_instruction",), _perplexity, -1)
_MOST_TOKENS = Rule(("response_given_instruction",), _response_tokens, +1)

# The arms that compare nothing still need a scorable response: a failure never wins. Highest IFD then
# lowest r-IFD is Selective Reflection-Tuning (arXiv 2402.10110, sections 3.2 and 3.3); accept-all is
# Reflection-Tuning (arXiv 2310.11716).
POLICIES: dict[PolicyName, Policy] = {
    "ifd+r-ifd": Policy(_HIGHEST_IFD, _LOWEST_R_IFD),
    "ifd": Policy(_HIGHEST_IFD, _HIGHEST_IFD),
    "r-ifd": Policy(_LOWEST_R_IFD, _LOWEST_R_IFD),
    "perplexity": Policy(_LOWEST_PERPLEXITY, _LOWEST_PERPLEXITY),
    "longest": Policy(_MOST_TOKENS, _MOST_TOKENS),
    "random": Policy(_MOST_TOKENS, _MOST_TOKENS, share=lambda selection: selection.random_rate),
    "accept-all": Policy(_MOST_TOKENS, _MOST_TOKENS, share=lambda _: 1.0),
    "reject-all": Policy(_MOST_TOKENS, _MOST_TOKENS, share=lambda _: 0.0),
}


def decide(
    contest: Contest,
    scores: Scores,
    *,
    selection: SelectionConfig,
    round: int,
    phase: Phase,
    student_id: str,
    seed: int,
) -> Decision:
    """Decide which of a sample's pairs goes on.

    The incumbent wins ties. A candidate replaces it only by more than `selection.margin`, or where the
    incumbent itself cannot be scored; an unscorable candidate never wins. Among equal candidates the
    first wins. With `selection.ifd_cap`, where the highest IFD wins, any pair below the cap beats any that is
    not, by whatever margin.

    Args:
        contest: the incumbent and its candidates.
        scores: of all of them, under the one student `student_id`.
        selection: policy, margin and rate.
        round: the round, from 1.
        phase: the phase.
        student_id: whose scores these are.
        seed: of the run; policy `random` draws from (seed, round, phase, sample).
    """
    policy = POLICIES[selection.policy]
    rule = policy.rule(phase)
    values = {version: _value(rule, scores.get(version, {})) for version in contest.pairs}
    if policy.share is None:
        cap = math.inf if selection.ifd_cap is None or rule is not _HIGHEST_IFD else selection.ifd_cap
        reason, winner, challenger = _compare(contest, values, rule.sign, selection.margin, cap)
    else:
        draw = random.Random(f"{seed}/{round}/{phase}/{contest.sample_id}").random()
        reason, winner, challenger = _draw(contest, values, draw < policy.share(selection))
        values = {}  # nothing was compared
    return Decision(
        round=round,
        phase=phase,
        sample_id=contest.sample_id,
        student_id=student_id if values and contest.candidate_ids else None,
        policy=selection.policy,
        incumbent_id=contest.incumbent_id,
        winner_id=winner,
        challenger_id=challenger,
        reason=reason,
        incumbent_value=values.get(contest.incumbent_id),
        winner_value=values.get(winner),
        challenger_value=values.get(challenger) if challenger else None,
        margin=selection.margin,
    )


Outcome = tuple[Reason, str, str | None]  # why, the winner, the best scorable candidate


def _compare(
    contest: Contest, values: Mapping[str, float | None], sign: int, margin: float, cap: float
) -> Outcome:
    incumbent = contest.incumbent_id
    if not contest.candidate_ids:
        return "frozen" if contest.is_frozen else "no-candidate", incumbent, None
    scorable = {version: value for version in contest.candidate_ids if (value := values[version]) is not None}
    if not scorable:
        return "unscorable", incumbent, None
    challenger = max(scorable, key=lambda version: (scorable[version] < cap, sign * scorable[version]))
    value, incumbent_value = scorable[challenger], values[incumbent]
    if incumbent_value is None:
        return "accepted", challenger, challenger
    if (value < cap) != (incumbent_value < cap):
        return ("accepted", challenger, challenger) if value < cap else ("refused", incumbent, challenger)
    gain = sign * (value - incumbent_value)
    if gain > margin:
        return "accepted", challenger, challenger
    return ("tie" if gain >= 0 else "refused"), incumbent, challenger


def _draw(contest: Contest, values: Mapping[str, float | None], taken: bool) -> Outcome:
    incumbent = contest.incumbent_id
    if not contest.candidate_ids:
        return "frozen" if contest.is_frozen else "no-candidate", incumbent, None
    if not taken:
        return "policy", incumbent, None
    scorable = [version for version in contest.candidate_ids if values[version] is not None]
    if not scorable:
        return "unscorable", incumbent, None
    return "accepted", scorable[0], scorable[0]


def needed_versions(contest: Contest, policy: Policy) -> tuple[str, ...]:
    """The versions of a contest that its decision needs scores of."""
    if not contest.candidate_ids:
        return ()
    return tuple(contest.pairs) if policy.share is None else contest.candidate_ids


def choose_training_set(
    pool: Iterable[PoolPair],
    originals: Sequence[str],
    *,
    selection: SelectionConfig,
    anchor: float,
    round: int,
    seed: int,
) -> list[str]:
    """T[r]: the version ids to train on, hardest (highest IFD) first, then the anchors.

    A pair is taken where its IFD is below `max_ifd`, its r-IFD below `max_r_ifd`, and, unless `keep`
    is "all", its response was improved in some round; of those, the `top_fraction` with the highest
    IFD. Then original pairs are drawn, unfiltered, until they make up a share `anchor` of the whole, as
    far as there are any left. A proposal that cannot be scored is never trained on.

    Source: the filter of arXiv 2402.10110, section 3.4.
    """
    hardness: dict[str, float] = {}
    for pair in pool:
        pair_ifd, pair_r_ifd = ifd(pair.scores), r_ifd(pair.scores)
        if pair_ifd is None or pair_r_ifd is None:
            continue
        wanted = pair.improved or selection.keep == "all"
        if wanted and pair_ifd < selection.max_ifd and pair_r_ifd < selection.max_r_ifd:
            hardness[pair.version_id] = pair_ifd
    ranked = sorted(hardness, key=lambda version: (-hardness[version], version))
    # In floating point 100 * 0.07 is a little more than 7.
    chosen = ranked[: math.ceil(len(ranked) * selection.top_fraction - 1e-9)]
    taken = set(chosen)
    drawn = [version for version in originals if version not in taken]
    random.Random(f"{seed}/{round}/anchor").shuffle(drawn)
    already = len(originals) - len(drawn)
    missing = math.floor((anchor * len(chosen) - already) / (1 - anchor) + 0.5)
    return chosen + drawn[: max(missing, 0)]


def _value(rule: Rule, scores: TermScores) -> float | None:
    if any(term not in scores or scores[term].status != "ok" for term in rule.terms):
        return None
    return rule.value(scores)
