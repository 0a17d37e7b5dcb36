import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflectune.agents.student.formulas import ifd, ifd_loss, nll, perplexity, pmi, r_ifd, r_ifd_loss
from reflectune.state.records import TERMS, Score

MEASURES = (ifd, r_ifd, ifd_loss, r_ifd_loss)


def scored(given=(-3.0, 2), alone=(-8.0, 4), instruction_given=(-1.0, 1), instruction_alone=(-6.0, 3)):
    sums = (given, alone, instruction_given, instruction_alone)
    return {term: Score(*sum_and_count, "ok") for term, sum_and_count in zip(TERMS, sums, strict=True)}


def test_nll_is_the_negative_mean_per_token():
    assert nll(scored(), "response_given_instruction") == 1.5  # 3 nats over 2 tokens


def test_perplexity_of_tokens_at_probability_one_quarter_is_four():
    scores = scored(given=(3 * math.log(0.25), 3))
    assert perplexity(scores, "response_given_instruction") == pytest.approx(4.0)


def test_ifd_is_the_ratio_of_perplexities():
    # nll(y|x) = 3/2, nll(y) = 8/4: IFD = e^1.5 / e^2 = e^-0.5
    assert ifd(scored()) == pytest.approx(math.exp(-0.5))


def test_r_ifd_is_the_ratio_of_perplexities():
    # nll(x|y) = 1/1, nll(x) = 6/3: r-IFD = e^1 / e^2 = e^-1
    assert r_ifd(scored()) == pytest.approx(math.exp(-1.0))


def test_pmi_is_the_difference_of_the_sums_over_the_same_tokens():
    # log p(y|x) = -3 and log p(y) = -8, both of two tokens: x makes y e^5 times as likely
    assert pmi(scored(given=(-3.0, 2), alone=(-8.0, 2))) == pytest.approx(5.0)
    assert pmi(scored() | {"response_alone": Score(None, None, "non-finite")}) is None


def test_loss_ratios_divide_nats_not_perplexities():
    assert ifd_loss(scored()) == 1.5 / 2.0
    assert r_ifd_loss(scored()) == 1.0 / 2.0


@pytest.mark.parametrize("status", ["empty", "truncated-away", "non-finite"])
@pytest.mark.parametrize("term", TERMS)
def test_measures_are_none_where_a_needed_score_failed(term, status):
    scores = scored() | {term: Score(None, None, status)}
    failed = (ifd, ifd_loss) if term.startswith("response") else (r_ifd, r_ifd_loss)
    assert nll(scores, term) is None
    assert perplexity(scores, term) is None
    for measure in MEASURES:
        assert (measure(scores) is None) == (measure in failed)


def test_measures_are_none_without_scores():
    assert [measure({}) for measure in MEASURES] == [None] * 4


def test_ifd_beyond_a_float_is_none_not_infinite():
    assert ifd(scored(given=(-1000.0, 1), alone=(-1.0, 1))) is None


def test_r_ifd_below_a_float_is_none_not_zero():
    # 0.0 would be the lowest r-IFD of all, and win.
    assert r_ifd(scored(instruction_given=(-1.0, 1), instruction_alone=(-1000.0, 1))) is None


def test_loss_ratio_of_a_certain_target_is_none():
    assert ifd_loss(scored(alone=(0.0, 4))) is None


sums = st.floats(min_value=-1e300, max_value=0.0)
counts = st.integers(min_value=1, max_value=10_000)


@given(st.lists(st.tuples(sums, counts), min_size=4, max_size=4))
def test_measures_are_positive_finite_numbers_or_none(values):
    scores = scored(*values)
    for measure in (ifd, r_ifd):
        value = measure(scores)
        assert value is None or (math.isfinite(value) and value > 0)
    for measure in (ifd_loss, r_ifd_loss):
        value = measure(scores)
        assert value is None or math.isfinite(value)
