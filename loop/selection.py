"""Which proposals the student takes, and which pairs it trains on.

Every rule here is a pure function of stored scores and a seed: it opens no model and no database, so a
decision can be derived again from the rows it was taken on.
"""

import itertools
import math
import random
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from reflectune.agents.student.formulas import ifd, nll, perplexity, pmi, r_ifd
from reflectune.state.config import RunConfig, SelectionConfig
from reflectune.state.errors import ConfigError
from reflectune.state.functions import describe_error, load_function
from reflectune.state.policies import MeasureKey, Policy, find_policy
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

__all__ = ["are_alike", "choose_training_set", "decide", "explain_empty_set", "needed_scores", "value_of"]

TermScores = Mapping[Term, Score]

_VALUES: Mapping[MeasureKey, Callable[[TermScores], float | None]] = {
    "ifd": ifd,
    "r_ifd": r_ifd,
    "perplexity": lambda scores: perplexity(scores, "response_given_instruction"),
    "nll": lambda scores: nll(scores, "response_given_instruction"),
    "pmi": pmi,
    "response_tokens": lambda scores: scores["response_given_instruction"].num_tokens,
}


def decide(
    contest: Contest,
    scores: Scores,
    selection: SelectionConfig,
    *,
    seed: int,
    round: int,
    phase: Phase,
    student_id: str,
) -> Decision:
    """Decide which of a sample's pairs goes on.

    The incumbent wins ties. A candidate replaces it only by more than `selection.margin`, or where the
    incumbent itself cannot be scored; an unscorable candidate never wins. Among equal candidates the
    first wins. With `selection.ifd_cap`, where the highest IFD wins, any pair below the cap beats any that is
    not, by whatever margin. A policy that compares at like length takes no proposal whose response has more
    than `selection.length_band` times the incumbent's tokens, or less than that part of them.

    All scores are of the one student `student_id`. Policy `random` draws from (seed, round, phase, sample).
    """
    policy = find_policy(selection.policy)
    measure = policy.measure(phase)
    if measure is None:  # nothing is compared
        values = {}
        terms = policy.terms(phase)
        scorable = [id for id in contest.candidate_ids if _are_scored(terms, scores.get(id, {}))]
    else:
        values = {id: value_of(policy, phase, scores.get(id, {})) for id in contest.pairs}
        scorable = [id for id in contest.candidate_ids if values[id] is not None]
    challenger, sample = None, content_part(contest.sample_id)
    reason: Reason
    if not contest.candidate_ids:
        reason = "frozen" if contest.is_frozen else "no-candidate"
    elif measure is None and not _is_taken(selection, seed, round, phase, sample):
        reason = "policy"
    elif not scorable:
        reason = "unscorable"
    elif measure is None:
        reason, challenger = "accepted", scorable[0]
    else:
        is_free = measure.key != "ifd" or policy.at_like_length
        cap = math.inf if selection.ifd_cap is None or is_free else selection.ifd_cap
        ranks = {
            each: (value < cap, measure.sign * value) for each, value in values.items() if value is not None
        }
        band = selection.length_band if policy.at_like_length else math.inf
        given = scores.get(contest.incumbent_id, {})
        alike = [id for id in scorable if are_alike(scores[id], given, band)]
        challenger = max(alike or scorable, key=lambda version: ranks[version])
        incumbent = ranks.get(contest.incumbent_id)
        reason = _compare(ranks[challenger], incumbent, selection.margin) if alike else "refused"
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


def _is_taken(selection: SelectionConfig, seed: int, round: int, phase: Phase, sample: str) -> bool:
    """Whether a policy that compares nothing takes a proposal."""
    drawn = selection.random_share(round, phase)
    share = {"random": drawn, "accept-all": 1.0, "reject-all": 0.0}[selection.policy]
    return random.Random(f"{seed}/{round}/{phase}/{sample}").random() < share


def _compare(challenger: Rank, incumbent: Rank | None, margin: float) -> Reason:
    """What becomes of the best candidate; an incumbent without a rank cannot be scored."""
    if incumbent is None:
        return "accepted"
    if challenger[0] != incumbent[0]:
        return "accepted" if challenger[0] else "refused"
    gain = challenger[1] - incumbent[1]
    return "accepted" if gain > margin else "tie" if gain >= 0 else "refused"


def are_alike(one: TermScores, other: TermScores, band: float) -> bool:
    """Whether neither response has more than `band` times the other's tokens, as far as both are known."""
    term: Term = "response_given_instruction"
    counts = [scores[term].num_tokens for scores in (one, other) if term in scores]
    return len(counts) < 2 or not all(counts) or max(counts) <= band * min(counts)  # type: ignore[type-var, operator]


def needed_scores(contest: Contest, policy: str, phase: Phase) -> Iterator[tuple[str, Term]]:
    """The scores that the decision about a contest rests on, as (version id, term)."""
    if not contest.candidate_ids:
        return iter(())
    found = find_policy(policy)
    compared = contest.candidate_ids if found.measure(phase) is None else contest.pairs
    return itertools.product(compared, found.terms(phase))


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


def explain_empty_set(pool: Iterable[PoolPair], selection: SelectionConfig) -> str:
    """Why no pair of a pool is trained on: how many there are of which each bound of the filter lets pass."""
    pairs = wanted = passed = r_passed = 0
    for pair in pool:
        pairs += 1
        if pair.improved or selection.keep == "all":
            pair_ifd, pair_r_ifd = ifd(pair.scores), r_ifd(pair.scores)
            wanted += 1
            passed += pair_ifd is not None and pair_ifd < selection.train_max_ifd
            r_passed += pair_r_ifd is not None and pair_r_ifd < selection.train_max_r_ifd
    if not wanted:
        return f'none of {pairs} pairs is improved (selection.keep = "{selection.keep}")'
    kind = "" if selection.keep == "all" else "improved "
    return (
        f"of {wanted} {kind}pairs {passed} have IFD below selection.train_max_ifd = "
        f"{selection.train_max_ifd:g}, and {r_passed} r-IFD below selection.train_max_r_ifd = "
        f"{selection.train_max_r_ifd:g}"
    )


def value_of(policy: Policy, phase: Phase, scores: TermScores) -> float | None:
    """A pair's value by what a policy compares, in its unit; None where it cannot be compared."""
    measure = policy.measure(phase)
    if measure is None or not _are_scored(policy.terms(phase), scores):
        return None
    return _own_value(measure.title, phase, scores) if measure.key == "own" else _VALUES[measure.key](scores)


def _own_value(name: str, phase: Phase, scores: TermScores) -> float | None:
    """What a function of the user's own says of a pair: function(scores, phase)."""
    function = load_function("selection.policy", name)
    try:
        value = function(scores, phase)
    except Exception as error:
        raise ConfigError(f"selection.policy: {name} failed: {describe_error(error)}") from error
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"selection.policy: {name} said {reprlib.repr(value)}; want a number or None")
    return float(value) if math.isfinite(value) else None


def _are_scored(terms: Iterable[Term], scores: TermScores) -> bool:
    return all(term in scores and scores[term].status == "ok" for term in terms)
