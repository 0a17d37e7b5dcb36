"""The first token of a text alone, predicted in float32 whatever the model's number format.

Only the separator stands in front of it. There a language model's activations are the largest, and half
precision rounds them most: on SmolLM2 bfloat16 is up to 2.6 nats off, nearly always to the same side.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from reflectune.agents.student.scoring import Packing, score_sequences
from reflectune.agents.student.targets import Encoded
from reflectune.state.records import Score

__all__ = ["predict_first", "score_with_first"]

_HALF = (torch.bfloat16, torch.float16)


def predict_first(model: Any, separator: int) -> list[float] | None:
    """Log-probability of every token behind the separator alone, nats; None for a model in float32.

    A layer's weights are in float32 while the token passes it, and then what they were.
    """
    if model.dtype == torch.float32:
        return None
    ids = torch.tensor([[separator]], device=model.device)
    with torch.no_grad(), _in_float32(model):  # not inference mode: the weights may be trained on later
        logits = model(input_ids=ids, use_cache=False).logits[0, -1]  # (V,)
        logprobs: list[float] = logits.double().log_softmax(-1).tolist()
    return logprobs


def score_with_first(
    model: Any, sequences: Sequence[Encoded], packing: Packing, first: list[float] | None
) -> list[Score]:
    """What `score_sequences` gives, with `predict_first`'s value for the first token of a target alone."""
    if first is None:
        return score_sequences(model, sequences, packing)
    rest = [replace(item, first_target=2) if item.first_target == 1 else item for item in sequences]
    scores = iter(score_sequences(model, [item for item in rest if item.num_targets], packing))
    return [
        _add_first(
            next(scores) if behind.num_targets else Score(0.0, 0, "ok", item.truncated), first[item.ids[1]]
        )
        if item.first_target == 1
        else next(scores)
        for item, behind in zip(sequences, rest, strict=True)
    ]


def _add_first(rest: Score, logprob: float) -> Score:
    if rest.sum_logprob is None or rest.num_tokens is None or not math.isfinite(logprob):
        return Score(None, None, "non-finite", rest.truncated)
    return replace(rest, sum_logprob=rest.sum_logprob + logprob, num_tokens=rest.num_tokens + 1)


@contextmanager
def _in_float32(model: Any) -> Iterator[None]:
    """Have a model compute in float32, a layer at a time: half precision survives the way there and back."""
    layers = [layer for part in model.modules() if isinstance(part, torch.nn.ModuleList) for layer in part]
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    widened = _widen(parameter for parameter in model.parameters() if id(parameter) not in inside)
    four_bit = [(part, part.compute_dtype) for part in model.modules() if hasattr(part, "compute_dtype")]
    for part, _ in four_bit:
        part.compute_dtype = torch.float32
    passing: dict[int, list[tuple[Any, torch.dtype]]] = {}

    def widen(layer: Any, inputs: Any) -> None:
        passing[id(layer)] = _widen(layer.parameters())

    def narrow(layer: Any, inputs: Any, output: Any) -> None:
        _narrow(passing.pop(id(layer)))

    hooks = [layer.register_forward_pre_hook(widen) for layer in layers]
    hooks += [layer.register_forward_hook(narrow, always_call=True) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for part, dtype in four_bit:
            part.compute_dtype = dtype
        _narrow(widened)


def _widen(parameters: Iterable[Any]) -> list[tuple[Any, torch.dtype]]:
    """Take half precision to float32; what was, with its number format."""
    widened = [(parameter, parameter.dtype) for parameter in parameters if parameter.dtype in _HALF]
    for parameter, _ in widened:
        parameter.data = parameter.data.float()
    return widened


def _narrow(widened: list[tuple[Any, torch.dtype]]) -> None:
    while widened:
        parameter, dtype = widened.pop()
        parameter.data = parameter.data.to(dtype)
