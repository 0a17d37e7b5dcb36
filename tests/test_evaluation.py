import math

import numpy as np
import pytest
import torch

from reflectune.agents.student.evaluation import judge, measure_held_out
from reflectune.state.errors import ConfigError
from reflectune.state.intervals import quantile_of_t
from reflectune.state.records import HeldOutAnswer, Pair, Score

PAIRS = [Pair(f"Add {number}.", "", str(number)) for number in range(10)]


def is_reference(instruction, given_input, response, reference):
    return response == reference


def evaluate(sums, answers, checker=None):
    """Measures of scores of 2 tokens each with the given sums, and of answers of a token a character; None
    cannot be measured."""
    scores = [Score(None, None, "non-finite") if total is None else Score(total, 2, "ok") for total in sums]
    written = [
        HeldOutAnswer(str(number), None, None, None)
        if text is None
        else HeldOutAnswer(str(number), text, len(text), checker and judge(checker, PAIRS[number], text))
        for number, text in enumerate(answers)
    ]
    return {item.name: item for item in measure_held_out(scores, written)}


def says(*verdicts):
    """A checker that says one after the other."""
    left = iter(verdicts)
    return lambda *texts: next(left)


@pytest.mark.parametrize(
    ("name", "sums", "answers", "checker", "value", "low", "high"),
    [
        # nll 1, 2 and 3 nats per token: mean 2, s = 1, half width 1.96 / sqrt(3) = 1.131607
        ("nll", [-2.0, -4.0, -6.0], ["a", "b", "c"], None, 2.0, 2 - 1.131607, 2 + 1.131607),
        # 1, 3 and 5 tokens: mean 3, s = 2
        ("response_tokens", [-2.0] * 3, ["a", "abc", "abcde"], None, 3.0, 3 - 2.263213, 3 + 2.263213),
        # 8 of 10 right. Wilson with z² = 3.8416: centre (0.8 + 0.19208) / 1.38416 = 0.716738,
        # half width 1.96 sqrt(0.016 + 0.009604) / 1.38416 = 0.226578
        ("accuracy", [-2.0] * 10, list("01234567??"), is_reference, 0.8, 0.490160, 0.943316),
        # 2 of 2: (1 + z²/4 - z sqrt(z²/16)) / (1 + z²/2) = 1 / 2.9208; 0 of 2 is its mirror image
        ("accuracy", [-2.0] * 2, ["a", "b"], says(True, True), 1.0, 0.342372, 1.0),
        ("accuracy", [-2.0] * 2, ["a", "b"], says(False, False), 0.0, 0.0, 0.657628),
        # Marks 0, 0.5 and 1: mean 0.5, s = 0.5
        ("accuracy", [-2.0] * 3, ["a", "b", "c"], says(0.0, 0.5, 1.0), 0.5, -0.065803, 1.065803),
    ],
)
def test_evaluate_gives_the_mean_and_its_interval(name, sums, answers, checker, value, low, high):
    measure = evaluate(sums, answers, checker)[name]
    assert (measure.value, measure.n) == (value, len(sums))
    assert (measure.low, measure.high) == pytest.approx((low, high), abs=1e-5)
    assert measure.low >= 0.0 or low < 0.0  # not even an ulp outside
    assert measure.high <= 1.0 or high > 1.0


def test_evaluate_leaves_out_what_cannot_be_measured():
    measures = evaluate([-2.0, None, -6.0], ["0", None, "x"], is_reference)
    assert (measures["nll"].value, measures["nll"].n) == (2.0, 2)
    assert measures["response_tokens"].n == 2
    assert (measures["accuracy"].value, measures["accuracy"].n) == (0.5, 2)


def test_evaluate_accuracy_leaves_out_what_its_checker_cannot_say():
    # Of 4 answers 1 is right, 1 wrong, 2 unknown: 1 of 2.
    measures = evaluate([-2.0] * 4, ["a", "b", "c", "d"], says(True, None, False, None))
    assert (measures["accuracy"].value, measures["accuracy"].n) == (0.5, 2)
    assert (measures["nll"].n, measures["response_tokens"].n) == (4, 4)


@pytest.mark.parametrize("checker", [None, lambda *texts: None])
def test_evaluate_has_no_accuracy_where_nothing_says_what_is_right(checker):
    assert set(evaluate([-2.0] * 2, ["a", "b"], checker)) == {"nll", "response_tokens"}


def test_evaluate_names_no_measure_without_samples():
    assert evaluate([None], [None], is_reference) == {}


# Abramowitz and Stegun 1964, table 26.10
@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.706), (30, 2.042), (31, 2.040), (40, 2.021), (60, 2.000), (120, 1.980)]
)
def test_quantiles_of_t(degrees, quantile):
    assert quantile_of_t(degrees) == pytest.approx(quantile, abs=6e-4)


def test_evaluate_gives_a_single_sample_no_interval():
    measures = evaluate([-2.0], ["0"], is_reference)
    assert {(m.value, m.n, m.low, m.high) for m in measures.values()} == {(1.0, 1, None, None)}
    assert len(measures) == 3


def test_judge_shows_the_checker_all_four_texts():
    seen = []
    assert judge(lambda *texts: seen.append(texts) or True, Pair("Add.", "1 2", "3"), "the answer") == 1.0
    assert seen == [("Add.", "1 2", "the answer", "3")]


def test_evaluate_names_the_sample_its_checker_failed_on_in_a_line():
    def fail(*texts):
        raise ValueError("first line\n  second line")

    with pytest.raises(ConfigError, match=r"on the answer to 'Add 0\.': ValueError: first line second line$"):
        evaluate([-2.0], ["a"], fail)


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (math.nan, "said nan on"),
        (math.inf, "said inf on"),
        ("yes\nor no", r"said 'yes\nor no' on"),
        ("x" * 1000, "said 'xxxxxxxxxxxx...xxxxxxxxxxxxx' on"),
        (np.True_, "said np.True_ on"),
        (np.float32(0.5), "said np.float32(0.5) on"),
        (torch.tensor(1.0), "said tensor(1.) on"),
        (torch.zeros(40, 40), "said tensor([["),
    ],
)
def test_evaluate_refuses_verdicts_that_are_no_numbers_of_pythons_in_a_line(verdict, said):
    with pytest.raises(ConfigError) as caught:
        evaluate([-2.0], ["a"], lambda *texts: verdict)
    message = str(caught.value)
    assert message.startswith(f"evaluate.checker {said}")
    assert message.endswith(
        " on the answer to 'Add 0.'; want true, false, a number or None, in Python's own types"
    )
    assert "\n" not in message
    assert len(message) < 200
