"""The published way of scoring, as the baseline of the benchmarks: one text, one pass, full logits.

A sample takes sixteen passes a round: in each of the two phases all four terms of both pairs. Every pass
tokenises its text anew, finds where the target begins by tokenising the prefix once more, asks for the
hidden states of all layers and for logits of all tokens, and turns the loss into a perplexity. Its faults
are kept as they are: a token that straddles the boundary counts for whichever side the prefix's own
tokenisation says.

Source: the description of Selective Reflection-Tuning, arXiv 2402.10110, sections 3.2 and 3.3.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from reflectune.agents.student.templates import Template
from reflectune.state.records import TERMS, Pair, Phase, Term

__all__ = ["OneAtATime", "Perplexity", "measure_loss"]


@dataclass(frozen=True, slots=True)
class Perplexity:
    """One pass: loss of the target in nats per token, and over how many tokens it was taken."""

    loss: float  # NaN where nothing of the target is left
    num_tokens: int

    @property
    def value(self) -> float:
        """ppl = exp(loss)."""
        return math.exp(self.loss)


class OneAtATime:
    """Perplexities of pairs under an open model."""

    def __init__(self, model: Any, tokenizer: Any, template: Template, max_length: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._template = template
        self._max_length = max_length

    def score(self, pair: Pair) -> dict[Term, Perplexity]:
        """All four terms, a pass each."""
        perplexities: dict[Term, Perplexity] = {}
        for term in TERMS:
            prefix, target = self._template.render(pair, term)
            perplexities[term] = self._measure("" if term.endswith("alone") else prefix, target)
        return perplexities

    def choose(
        self, phase: Phase, incumbent: Pair, candidate: Pair
    ) -> tuple[Pair, list[dict[Term, Perplexity]]]:
        """The pair with the higher IFD, in phase response with the lower r-IFD; and the scores of both."""
        scores = [self.score(incumbent), self.score(candidate)]
        if phase == "instruction":
            old, new = (_ratio(s, "response_given_instruction", "response_alone") for s in scores)
            return (candidate if new > old else incumbent), scores
        old, new = (_ratio(s, "instruction_given_response", "instruction_alone") for s in scores)
        return (candidate if new < old else incumbent), scores

    def _measure(self, prefix: str, target: str) -> Perplexity:
        ids = self._tokenizer(
            prefix + target, return_tensors="pt", truncation=True, max_length=self._max_length
        ).input_ids  # (1, T)
        start = len(self._tokenizer(prefix).input_ids) if prefix else 0
        loss = measure_loss(self._model, ids.to(self._model.device), start)
        return Perplexity(loss, max(0, ids.shape[1] - max(start, 1)))


def measure_loss(model: Any, ids: torch.Tensor, start: int) -> float:
    """Mean negative log-likelihood of the tokens from `start` on, nats per token; ids are (1, T)."""
    labels = ids.clone()
    labels[0, :start] = -100
    with torch.no_grad():
        return float(model(ids, labels=labels, output_hidden_states=True).loss)


def _ratio(scores: Mapping[Term, Perplexity], given: Term, alone: Term) -> float:
    return scores[given].value / scores[alone].value
