"""How often a student's answers win, as the judge's verdicts say, and what is left of it at equal lengths."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from reflectune.agents.student.evaluation import summarise
from reflectune.state.intervals import Z
from reflectune.state.judgements import Judged
from reflectune.state.records import Evaluation

__all__ = ["measure_wins"]

# Keeps the fit finite where verdicts and lengths leave it open. Where lengths say nothing it moves a share by
# at most 0.001 from seven samples on, and by 0.006 of a single one.
_RIDGE = 1e-3
# Two wins and two losses, of a longer answer and of a shorter one, as (length term, value).
_ADDED = ((1.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (-1.0, 0.0))


def measure_wins(name: str, judged: Sequence[Judged]) -> list[Evaluation]:
    """Win rate and length-controlled win rate over samples, each a share with its 95 % interval.

    "win_rate_NAME": mean of 1 for a win, 1/2 for a tie and 0 for a loss. Its interval is of the mean with two
    wins and two losses added (Agresti and Coull 1998), so that it has a width also where all verdicts
    are the same.

    "lc_win_rate_NAME": the share that a logistic model of the verdicts predicts at equal lengths,

        P(win) = 1 / (1 + exp(-(theta + phi tanh(d / std(d))))),  LC = 1 / (1 + exp(-theta)),

    d the student's characters less the opponent's, std over the samples: AlpacaEval 2 (Dubois et al. 2024,
    arXiv 2404.04475, equation 2) without its term for the difficulty of an instruction, which is fitted over
    many models. Its interval is the delta method's with a variance that is robust to ties, of the
    fit with the same four verdicts added.

    Nothing where no sample has a verdict; no intervals from a single one.
    """
    if not judged:
        return []
    values, terms = [item.value for item in judged], _length_terms(judged)
    rate = summarise(f"win_rate_{name}", values)
    theta, _ = _fit(terms, values)
    controlled = replace(rate, name=f"lc_win_rate_{name}", value=float(_sigmoid(theta)))
    if len(values) < 2:
        return [rate, controlled]
    more_values = [*values, *(value for _, value in _ADDED)]
    mean = summarise(rate.name, more_values)
    theta, error = _fit([*terms, *(term for term, _ in _ADDED)], more_values)
    share = float(_sigmoid(theta))
    half = Z * share * (1 - share) * error
    return [_bound(rate, mean.low, mean.high), _bound(controlled, share - half, share + half)]


def _bound(measure: Evaluation, low: float | None, high: float | None) -> Evaluation:
    """A share with an interval, which ends at 0 and 1, and begins no later than the share."""
    assert low is not None
    assert high is not None
    return replace(measure, low=min(max(0.0, low), measure.value), high=max(min(1.0, high), measure.value))


def _length_terms(judged: Sequence[Judged]) -> list[float]:
    """tanh(d / std(d)) of each sample; 0 where all differences are the same."""
    differences = [own - other for own, other in (item.lengths for item in judged)]
    spread = statistics.pstdev(differences)
    return [math.tanh(difference / spread) if spread else 0.0 for difference in differences]


def _fit(terms: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """theta of the greatest likelihood, by Newton's method with halved steps, and its standard error.

    The error is from the residuals (Huber's sandwich), since ties vary less than wins and losses.
    """
    x = np.stack([np.ones(len(terms)), np.array(terms)], axis=1)  # (n, 2)
    y, ridge = np.array(values), _RIDGE * np.eye(2)

    def loss(weights: np.ndarray) -> float:
        logits = x @ weights
        return float((np.logaddexp(0, logits) - y * logits).sum() + weights @ ridge @ weights / 2)

    weights, step = np.zeros(2), np.ones(2)
    while abs(step).max() > 1e-9:
        shares = _sigmoid(x @ weights)
        curvature = x.T * (shares * (1 - shares)) @ x + ridge
        step = np.linalg.solve(curvature, x.T @ (shares - y) + ridge @ weights)
        while loss(weights - step) > loss(weights) + 1e-9:  # more than rounding
            step /= 2
        weights = weights - step
    shares = _sigmoid(x @ weights)
    bread = np.linalg.inv(x.T * (shares * (1 - shares)) @ x + ridge)
    covariance = bread @ (x.T * (y - shares) ** 2 @ x) @ bread
    return float(weights[0]), math.sqrt(covariance[0, 0])


def _sigmoid(logits: Any) -> Any:
    return 1 / (1 + np.exp(-logits))
