"""Which proposals the student takes, and which pairs it trains on.

Every rule here is a pure function of stored scores and a seed: it opens no model and no database, so a
decision can be derived again from the rows it was taken on.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from reflectune.agents.student.formulas import ifd, perplexity, r_ifd
from reflectune.state.config import RunConfig, SelectionConfig
from reflectune.state.policies import COMPARED, Measure, MeasureKey
from reflectune.state.records import (
    Contest,
    Decision,
    Phase,
    PoolPair,
    Reason,
    Score,
    Scores,
    Term,
    content_part,
)

__all__ = ["choose_training_set", "decide", "needed_scores"]

TermScores = Mapping[Term, Score]

_VALUES: Mapping[MeasureKey, Callable[[TermScores], float | None]] = {
    "ifd": ifd,
    "r_ifd": r_ifd,
    "perplexity": lambda scores: perplexity(scores, "response_given_instruction"),
    "response_tokens": lambda scores: scores["response_given_instruction"].num_tokens,
}
# What a policy that compares nothing needs all the same: a failure never wins.
_SCORABLE: tuple[Term, ...] = ("response_given_instruction",)


def decide(
    contest: Contest, scores: Scores, config: RunConfig, *, round: int, phase: Phase, student_id: str
) -> Decision:
    """Decide which of a sample's pairs goes on.

    The incumbent wins ties. A candidate replaces it only by more than `selection.margin`, or where the
    incumbent itself cannot be scored; an unscorable candidate never wins. Among equal candidates the
    first wins. With `selection.ifd_cap`, where the highest IFD wins, any pair below the cap beats any that is
    not, by whatever margin.

    All scores are of the one student `student_id`. Policy `random` draws from (seed, round, phase, sample).
    """
    selection = config.selection
    measure = COMPARED[selection.policy][phase]
    if measure is None:  # nothing is compared
        values = {}
        scorable = [each for each in contest.candidate_ids if _are_scored(_SCORABLE, scores.get(each, {}))]
    else:
        values = {version: _value(measure, scores.get(version, {})) for version in contest.pairs}
        scorable = [each for each in contest.candidate_ids if values[each] is not None]
    challenger, sample = None, content_part(contest.sample_id)
    reason: Reason
    if not contest.candidate_ids:
        reason = "frozen" if contest.is_frozen else "no-candidate"
    elif measure is None and not _is_taken(selection, f"{config.seed}/{round}/{phase}/{sample}"):
        reason = "policy"
    elif not scorable:
        reason = "unscorable"
    elif measure is None:
        reason, challenger = "accepted", scorable[0]
    else:
        cap = math.inf if selection.ifd_cap is None or measure.key != "ifd" else selection.ifd_cap
        ranks = {
            each: (value < cap, measure.sign * value) for each, value in values.items() if value is not None
        }
        challenger = max(scorable, key=lambda version: ranks[version])
        reason = _compare(ranks[challenger], ranks.get(contest.incumbent_id), selection.margin)
    winner = challenger if challenger and reason == "accepted" else contest.incumbent_id
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


Rank = tuple[bool, float]  # whether a pair is below the cap, and its value, the higher the better


def _is_taken(selection: SelectionConfig, seed: str) -> bool:
    """Whether a policy that compares nothing takes a proposal."""
    share = {"random": selection.random_rate, "accept-all": 1.0, "reject-all": 0.0}[selection.policy]
    return random.Random(seed).random() < share


def _compare(challenger: Rank, incumbent: Rank | None, margin: float) -> Reason:
    """What becomes of the best candidate; an incumbent without a rank cannot be scored."""
    if incumbent is None:
        return "accepted"
    if challenger[0] != incumbent[0]:
        return "accepted" if challenger[0] else "refused"
    gain = challenger[1] - incumbent[1]
    return "accepted" if gain > margin else "tie" if gain >= 0 else "refused"


def needed_scores(contest: Contest, policy: str, phase: Phase) -> Iterator[tuple[str, Term]]:
    """The scores that the decision about a contest rests on, as (version id, term)."""
    if not contest.candidate_ids:
        return iter(())
    measure = COMPARED[policy][phase]
    if measure is None:
        return itertools.product(contest.candidate_ids, _SCORABLE)
    return itertools.product(contest.pairs, measure.terms)


def choose_training_set(
    pool: Iterable[PoolPair], originals: Sequence[str], config: RunConfig, round: int
) -> list[str]:
    """T[r]: the version ids to train on, hardest (highest IFD) first, then the anchors.

    A pair is taken where its IFD is below `train_max_ifd`, its r-IFD below `train_max_r_ifd`, and, unless
    `keep` is "all", its response was improved in some round; of those, the `top_fraction` with the highest
    IFD. Then original pairs are drawn, unfiltered, until they make up a share `anchor` of the whole, as
    far as there are any left; without an `anchor` nobody asks for `originals`. A proposal that cannot be
    scored is never trained on.

    Source: the filter of arXiv 2402.10110, section 3.4.
    """
    selection, anchor = config.selection, config.refinetune.anchor
    passed: list[tuple[float, str]] = []
    for pair in pool:
        pair_ifd, pair_r_ifd = ifd(pair.scores), r_ifd(pair.scores)
        if pair_ifd is None or pair_r_ifd is None:
            continue
        wanted = pair.improved or selection.keep == "all"
        if wanted and pair_ifd < selection.train_max_ifd and pair_r_ifd < selection.train_max_r_ifd:
            passed.append((-pair_ifd, pair.version_id))
    passed.sort()
    # In floating point 100 * 0.07 is a little more than 7.
    del passed[math.ceil(len(passed) * selection.top_fraction - 1e-9) :]
    chosen = [version for _, version in passed]
    if not anchor:
        return chosen
    taken = set(chosen)
    drawn = [version for version in originals if version not in taken]
    random.Random(f"{config.seed}/{round}/anchor").shuffle(drawn)
    already = len(originals) - len(drawn)
    missing = math.floor((anchor * len(chosen) - already) / (1 - anchor) + 0.5)
    return chosen + drawn[: max(missing, 0)]


def _value(measure: Measure, scores: TermScores) -> float | None:
    """A pair's value in the measure's unit; None where it cannot be compared."""
    return _VALUES[measure.key](scores) if _are_scored(measure.terms, scores) else None


def _are_scored(terms: Iterable[Term], scores: TermScores) -> bool:
    return all(term in scores and scores[term].status == "ok" for term in terms)
