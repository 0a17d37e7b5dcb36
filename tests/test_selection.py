import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reflectune.loop.selection import choose_training_set, decide, explain_empty_set, needed_scores
from reflectune.state.config import RefinetuneConfig, RunConfig, SelectionConfig, parse_model
from reflectune.state.errors import ConfigError
from reflectune.state.policies import POLICIES
from reflectune.state.records import (
    PHASES,
    Contest,
    Decision,
    Pair,
    Phase,
    PolicyName,
    PoolPair,
    Score,
    Term,
)
from tests.lineages import scores_of

FAILURES = ("empty", "truncated-away", "non-finite")


def failed(scores: dict[Term, Score], term: Term, status: str) -> dict[Term, Score]:
    return scores | {term: Score(None, None, status)}  # type: ignore[arg-type]


def contest(candidates: int, sample: str = "sample") -> Contest:
    names = ["old", *(f"new{index}" for index in range(candidates))]
    return Contest(sample, "old", tuple(names[1:]), {name: Pair(name, "", name) for name in names})


def decide_between(
    old: dict[Term, Score],
    *new: dict[Term, Score],
    phase: Phase = "response",
    policy: str = "ifd+r-ifd",
    margin: float = 0.0,
    rate: float | list[float] = 0.5,
    seed: int = 0,
    ifd_cap: float | None = None,
) -> Decision:
    scores = {"old": old} | {f"new{index}": terms for index, terms in enumerate(new)}
    selection = SelectionConfig(policy=policy, margin=margin, random_rate=rate, ifd_cap=ifd_cap)
    return decide(contest(len(new)), scores, selection, seed=seed, round=1, phase=phase, student_id="s0")


def test_decide_takes_the_best_and_keeps_what_was_compared() -> None:
    decision = decide_between(scores_of(ifd=0.5), scores_of(ifd=0.8), phase="instruction")
    assert (decision.reason, decision.winner_id, decision.student_id) == ("accepted", "new0", "s0")
    assert decision.incumbent_value == pytest.approx(0.5)
    assert decision.winner_value == decision.challenger_value == pytest.approx(0.8)
    decision = decide_between(scores_of(r_ifd=0.9), scores_of(r_ifd=0.7), scores_of(r_ifd=0.6))
    assert (decision.reason, decision.winner_id) == ("accepted", "new1")
    decision = decide_between(scores_of(r_ifd=0.7), scores_of(r_ifd=0.9))
    assert (decision.reason, decision.winner_id, decision.challenger_id) == ("refused", "old", "new0")
    assert decision.winner_value == pytest.approx(0.7)
    assert decision.challenger_value == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("old", "new", "uncapped", "capped"),
    [
        (3.0, 0.2, "refused", "accepted"),  # the incumbent does not fit its instruction
        (0.2, 3.0, "accepted", "refused"),  # the candidate does not
        (0.2, 1.0, "accepted", "refused"),  # at the cap is not below it
        (0.2, 0.8, "accepted", "accepted"),  # both fit: the highest wins
        (0.8, 0.2, "refused", "refused"),
        (2.0, 3.0, "accepted", "accepted"),  # neither fits
        (0.5, 0.5, "tie", "tie"),
    ],
)
def test_decide_with_a_cap_prefers_pairs_below_it(old: float, new: float, uncapped: str, capped: str) -> None:
    contests = scores_of(ifd=old), scores_of(ifd=new)
    assert decide_between(*contests, phase="instruction").reason == uncapped
    assert decide_between(*contests, phase="instruction", ifd_cap=1.0).reason == capped
    assert decide_between(*contests, policy="ifd", ifd_cap=1.0).reason == capped


def test_decide_caps_nothing_but_ifd() -> None:
    fitting = decide_between(scores_of(r_ifd=3.0), scores_of(r_ifd=2.0), ifd_cap=1.0)
    longer = decide_between(scores_of(), scores_of(tokens=8), policy="longest", ifd_cap=1.0)
    assert (fitting.reason, longer.reason) == ("accepted", "accepted")


def test_decide_with_a_cap_takes_the_best_candidate_below_it_whatever_the_margin() -> None:
    new = [scores_of(ifd=value) for value in (5.0, 0.3, 0.6)]
    decision = decide_between(scores_of(ifd=1.2), *new, phase="instruction", margin=0.5, ifd_cap=1.0)
    assert (decision.reason, decision.winner_id) == ("accepted", "new2")


@pytest.mark.parametrize(
    ("new", "margin", "reason"), [(0.9, 0.0, "tie"), (0.85, 0.1, "tie"), (0.75, 0.1, "accepted")]
)
def test_decide_wants_more_than_the_margin(new: float, margin: float, reason: str) -> None:
    assert decide_between(scores_of(r_ifd=0.9), scores_of(r_ifd=new), margin=margin).reason == reason


def test_decide_without_candidates_has_its_own_reason() -> None:
    for policy in POLICIES:
        decision = decide_between(scores_of(), policy=policy)
        assert (decision.reason, decision.winner_id, decision.student_id) == ("no-candidate", "old", None)


@pytest.mark.parametrize("status", FAILURES)
@pytest.mark.parametrize("policy", list(POLICIES))
@pytest.mark.parametrize("phase", PHASES)
def test_decide_never_lets_a_failure_win(status: str, policy: PolicyName, phase: Phase) -> None:
    for _, term in needed_scores(contest(1), policy, phase):
        best = failed(scores_of(ifd=99.0, r_ifd=0.0001, tokens=9999), term, status)
        decision = decide_between(scores_of(), best, phase=phase, policy=policy, rate=1.0)
        assert decision.winner_id == "old"
        assert decision.reason == ("policy" if policy == "reject-all" else "unscorable")


def test_decide_replaces_an_unscorable_incumbent() -> None:
    old = failed(scores_of(), "instruction_alone", "empty")
    decision = decide_between(old, scores_of(r_ifd=5.0), {}, margin=10.0)  # what is missing cannot win
    assert (decision.reason, decision.winner_id, decision.incumbent_value) == ("accepted", "new0", None)


@pytest.mark.parametrize(
    ("policy", "better", "worse"),
    [
        ("ifd", scores_of(ifd=0.9), scores_of(ifd=0.4)),
        ("r-ifd", scores_of(r_ifd=0.4), scores_of(r_ifd=0.9)),
        ("perplexity", scores_of(ifd=0.4), scores_of(ifd=0.9)),
        ("longest", scores_of(tokens=20), scores_of(tokens=19)),
    ],
)
def test_decide_control_arms_compare_alike_in_both_phases(
    policy: PolicyName, better: dict[Term, Score], worse: dict[Term, Score]
) -> None:
    for phase in PHASES:
        assert decide_between(worse, better, policy=policy, phase=phase).reason == "accepted"
        assert decide_between(better, worse, policy=policy, phase=phase).reason == "refused"


def test_decide_accept_all_and_reject_all_look_at_no_value() -> None:
    worse = scores_of(ifd=0.1, r_ifd=9.0, tokens=1)
    accepted = decide_between(scores_of(), worse, policy="accept-all")
    refused = decide_between(scores_of(), worse, policy="reject-all")
    assert (accepted.reason, accepted.winner_value) == ("accepted", None)
    assert (refused.reason, refused.winner_id) == ("policy", "old")


def test_decide_random_accepts_about_its_rate_and_repeats_with_its_seed() -> None:
    def draw(seed: int) -> str:
        return decide_between(scores_of(), scores_of(), policy="random", rate=0.3, seed=seed).reason

    reasons = [draw(seed) for seed in range(1000)]
    # Binomial(1000, 0.3): mean 300, standard deviation 14.5; five of them on either side.
    assert 227 <= reasons.count("accepted") <= 373
    assert reasons == [draw(seed) for seed in range(1000)]


def test_policy_random_takes_a_share_of_its_own_in_each_phase_of_each_round() -> None:
    selection = SelectionConfig(policy="random", random_rate=[0.0, 1.0, 0.3, 0.4])
    shares = [[selection.random_share(round, phase) for phase in PHASES] for round in (1, 2, 3)]
    assert shares == [[0.0, 1.0], [0.3, 0.4], [0.3, 0.4]]
    reasons = [
        decide_between(scores_of(), scores_of(), policy="random", rate=[0.0, 1.0], phase=phase).reason
        for phase in PHASES
    ]
    assert reasons == ["policy", "accepted"]


@pytest.mark.parametrize("rate", [-0.1, 1.5, "half", [], [0.5], [0.1, 0.2, 0.3], [0.5, 1.5]])
def test_rates_that_are_no_shares_of_both_phases_are_refused_in_a_line(rate: Any) -> None:
    with pytest.raises(ConfigError, match="random_rate: want a share from 0 to 1, or a list") as refused:
        parse_model(SelectionConfig, {"random_rate": rate}, source="c.toml")
    assert "\n" not in str(refused.value)


def test_decide_random_does_not_depend_on_the_position_of_the_sample() -> None:
    selection = SelectionConfig(policy="random", random_rate=0.5)
    scores = {"new0": scores_of()}
    drawn = [
        [
            decide(
                contest(1, f"{at}-{sample}"),
                scores,
                selection,
                seed=0,
                round=1,
                phase="response",
                student_id="s0",
            ).reason
            for sample in range(100)
        ]
        for at in ("00000003", "00000012")
    ]
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {"accepted", "policy"}


@pytest.mark.slow
@given(old=st.floats(0.01, 100), new=st.lists(st.floats(0.01, 100), min_size=1), margin=st.floats(0, 5))
def test_decide_winner_is_best_or_incumbent_within_the_margin(
    old: float, new: list[float], margin: float
) -> None:
    decision = decide_between(scores_of(r_ifd=old), *(scores_of(r_ifd=value) for value in new), margin=margin)
    assert decision.challenger_value == pytest.approx(min(new))
    if decision.reason == "accepted":
        assert decision.winner_id == decision.challenger_id
        assert old - min(new) > margin - 1e-9
    else:
        assert decision.winner_id == "old"
        assert old - min(new) <= margin + 1e-9


def test_needed_scores_leave_out_what_the_policy_does_not_compare() -> None:
    def needed(candidates: int, policy: PolicyName) -> list[tuple[str, Term]]:
        return list(needed_scores(contest(candidates), policy, "response"))

    of_r_ifd: tuple[Term, Term] = ("instruction_given_response", "instruction_alone")
    assert needed(1, "ifd+r-ifd") == [(version, term) for version in ("old", "new0") for term in of_r_ifd]
    assert needed(2, "accept-all") == [(f"new{number}", "response_given_instruction") for number in (0, 1)]
    assert needed(0, "r-ifd") == []


LIKED = {
    "ifd": scores_of(ifd=2.0),
    "r_ifd": scores_of(r_ifd=0.5),
    "perplexity": scores_of(ifd=0.5),
    "nll": scores_of(ifd=2.0),
    "pmi": scores_of(ifd=0.5),
    "response_tokens": scores_of(tokens=20),
}


def test_every_policy_says_what_it_compares_and_decides_by_it() -> None:
    assert set(POLICIES) == set(get_args(PolicyName))
    for name, policy in POLICIES.items():
        for phase in PHASES:
            if (measure := policy.measure(phase)) is not None:
                decision = decide_between(scores_of(), LIKED[measure.key], phase=phase, policy=name)
                assert decision.reason == "accepted", name
                assert measure.sign * (decision.challenger_value - decision.incumbent_value) > 0  # type: ignore[operator]


@pytest.mark.parametrize("policy", ["lc-ifd", "lc-r-ifd", "surprise"])
@pytest.mark.parametrize(
    ("tokens", "reason"), [(6, "accepted"), (7, "refused"), (3, "accepted"), (2, "refused")]
)
def test_decide_at_like_length_takes_no_response_that_is_far_longer_or_shorter(
    policy: str, tokens: int, reason: str
) -> None:
    # The incumbent has 4 tokens: 1.5 times as many are 6, and as few 2.67.
    decision = decide_between(scores_of(), scores_of(ifd=2.0, r_ifd=0.5, tokens=tokens), policy=policy)
    assert (decision.reason, decision.challenger_id) == (reason, "new0")


def test_decide_at_like_length_takes_the_best_of_those_that_are_and_needs_lengths() -> None:
    new = [scores_of(ifd=9.0, tokens=40), scores_of(ifd=2.0, tokens=5), scores_of(ifd=1.5)]
    assert decide_between(scores_of(), *new, policy="lc-ifd").winner_id == "new1"
    unknown = failed(scores_of(), "response_given_instruction", "empty")
    assert decide_between(unknown, *new, policy="lc-r-ifd").winner_id == "new0"  # nothing to be alike to
    needed = {term for _, term in needed_scores(contest(1), "lc-r-ifd", "response")}
    assert needed == {"instruction_given_response", "instruction_alone", "response_given_instruction"}


def test_decide_by_a_function_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("my_rule.py").write_text(
        "def shortest(scores, phase):\n"
        "    return -scores['response_given_instruction'].num_tokens if phase == 'response' else None\n"
        "def broken(scores, phase):\n    return 1 / 0\n"
        "def odd(scores, phase):\n    return 'good'\n"
        "def infinite(scores, phase):\n    return float('inf')\n"
    )
    new = scores_of(tokens=6), scores_of(tokens=3), scores_of(tokens=2)
    decision = decide_between(scores_of(), *new, policy="my_rule:shortest")
    assert (decision.reason, decision.winner_id, decision.winner_value) == ("accepted", "new2", -2.0)
    assert (
        decide_between(scores_of(), *new, policy="my_rule:shortest", phase="instruction").reason
        == "unscorable"
    )
    assert decide_between(scores_of(), *new, policy="my_rule:infinite").reason == "unscorable"
    with pytest.raises(ConfigError, match=r"my_rule:broken failed: ZeroDivisionError"):
        decide_between(scores_of(), *new, policy="my_rule:broken")
    with pytest.raises(ConfigError, match=r"my_rule:odd said 'good'; want a number or None"):
        decide_between(scores_of(), *new, policy="my_rule:odd")


def test_a_policy_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValidationError, match=r"'lc_ifd' is no policy; .*did you mean lc-ifd"):
        SelectionConfig(policy="lc_ifd")


def pool_pair(name: str, ifd: float, r_ifd: float, improved: bool = True) -> PoolPair:
    return PoolPair(name, improved, scores_of(ifd, r_ifd))


def choose(pool: list[PoolPair], anchor: float = 0.0, **selection: object) -> list[str]:
    config = RunConfig.model_construct(
        selection=SelectionConfig.model_validate(selection),
        refinetune=RefinetuneConfig(anchor=anchor),
        seed=0,
    )
    return choose_training_set(pool, [f"original-{index}" for index in range(10)], config, 1)


def test_empty_training_set_is_explained_by_what_each_bound_lets_pass() -> None:
    pool = [
        pool_pair("useless", 1.0, 0.5),
        pool_pair("unfit", 0.5, 1.0),
        pool_pair("worse", 2.0, 0.75),
        pool_pair("unimproved", 0.5, 0.5, improved=False),
        PoolPair("broken", True, failed(scores_of(0.5, 0.5), "response_alone", "empty")),
    ]
    assert explain_empty_set(pool, SelectionConfig(train_max_r_ifd=0.75)) == (
        "of 4 improved pairs 1 have IFD below selection.train_max_ifd = 1, "
        "and 2 r-IFD below selection.train_max_r_ifd = 0.75"
    )
    assert explain_empty_set(pool, SelectionConfig(keep="all", train_max_ifd=0.5)).startswith(
        "of 5 pairs 0 have IFD below selection.train_max_ifd = 0.5, "
    )
    unimproved = [pool_pair("one", 0.5, 0.5, improved=False)]
    assert explain_empty_set(unimproved, SelectionConfig()).startswith("none of 1 pairs is improved")


def test_training_set_filters_and_ranks_by_ifd() -> None:
    pool = [
        pool_pair("easy", 0.2, 0.5),
        pool_pair("hard", 0.9, 0.5),
        pool_pair("useless", 1.0, 0.5),  # IFD < 1 is strict
        pool_pair("unfit", 0.5, 1.0),  # so is r-IFD < 1
        pool_pair("unimproved", 0.5, 0.5, improved=False),
        PoolPair("broken", True, failed(scores_of(0.5, 0.5), "response_alone", "empty")),
    ]
    assert choose(pool) == ["hard", "easy"]
    assert choose(pool, keep="all") == ["hard", "unimproved", "easy"]
    assert choose(pool, top_fraction=0.5) == ["hard"]
    assert choose(pool, train_max_ifd=2.0, train_max_r_ifd=2.0) == ["useless", "hard", "unfit", "easy"]


def test_training_set_anchors_are_their_share_of_the_whole() -> None:
    pool = [pool_pair(str(index), 0.5, 0.5) for index in range(6)]
    chosen = choose(pool, anchor=0.4)
    assert len(chosen) == 10
    assert sum(version.startswith("original-") for version in chosen) == 4
    assert chosen == choose(pool, anchor=0.4)


def test_training_set_counts_originals_it_has_as_anchors_and_takes_none_twice() -> None:
    pool = [pool_pair("original-0", 0.5, 0.5), pool_pair("improved", 0.4, 0.5)]
    assert choose(pool, anchor=0.5, keep="all") == ["original-0", "improved"]
    chosen = choose(pool, anchor=0.9, keep="all")
    assert len(chosen) == len(set(chosen)) == 10
    assert sum(version.startswith("original-") for version in chosen) == 9


@pytest.mark.parametrize(("pairs", "share", "kept"), [(100, 0.07, 7), (100, 0.55, 55), (10, 0.25, 3)])
def test_training_set_top_fraction_is_rounded_up_exactly(pairs: int, share: float, kept: int) -> None:
    pool = [pool_pair(f"{index:03}", 0.5, 0.5) for index in range(pairs)]
    assert len(choose(pool, top_fraction=share)) == kept
