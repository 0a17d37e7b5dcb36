"""A language model's head, run on a few states at a time: logits of many tokens would fill the memory.

Nothing here knows rows or targets.
"""

import copy
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.utils.checkpoint import checkpoint

from reflectune.agents.memory import send

__all__ = ["find_body", "logprobs_at"]

_CHUNK = 512  # states that the head takes at a time
_CPU_CHUNK = 128  # the same on a CPU, where more are no faster
_TRIED = 8  # tokens of the trial whether body and head can be run apart
_APART: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()  # what it said of each model


def find_body(base: Any) -> Any | None:
    """The part of a causal language model below its head; None where they cannot be run apart.

    The first question about a model tries it, in eval mode.
    """
    body = getattr(base, getattr(base, "base_model_prefix", ""), None)
    if body is None:
        return None
    if base not in _APART:
        ids = torch.arange(_TRIED, device=base.device)
        with torch.no_grad():
            whole = base(input_ids=ids[None], use_cache=False).logits[0]  # (T, V)
            states = body(input_ids=ids[None], use_cache=False).last_hidden_state[0]  # (T, W)
            apart = _logits(base, body, states)
        _APART[base] = apart.shape == whole.shape and torch.allclose(apart, whole, rtol=1e-2, equal_nan=True)
    return body if _APART[base] else None


def logprobs_at(
    base: Any,
    inputs: Mapping[str, Any],
    at: tuple[torch.Tensor, torch.Tensor],
    places: torch.Tensor,
    ids: torch.Tensor,
) -> torch.Tensor:
    """Log-probabilities of tokens after a pass, nats, float32 (N,).

    `at` says which P tokens of the pass, by row and column, predict something; `places` (N,), ascending and
    on the CPU, which of those predicts each of the `ids` (N,). With gradients, logits are computed again in
    the backward pass instead of being kept.
    """
    if (body := find_body(base)) is None:
        logits = base(**inputs, use_cache=False).logits[at].float()  # (P, V)
        places = send(places, ids.device)
        return logits[places, ids] - logits.logsumexp(-1)[places]
    states = body(**inputs, use_cache=False).last_hidden_state[at]  # (P, W)

    def pick(states: torch.Tensor, places: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        logits = _logits(base, body, states)
        return logits[places, ids].float() - logits.float().logsumexp(-1)[places]

    size = _CPU_CHUNK if states.device.type == "cpu" else _CHUNK
    parts = states.split(size)
    counts = (places // size).bincount(minlength=len(parts)).tolist()
    local = send(places % size, ids.device)
    chunks = zip(parts, local.split(counts), ids.split(counts), strict=True)
    if states.requires_grad:
        return torch.cat([checkpoint(pick, *chunk, use_reentrant=False) for chunk in chunks])
    return torch.cat([pick(*chunk) for chunk in chunks])


def _logits(base: Any, body: Any, states: torch.Tensor) -> torch.Tensor:
    """What a model makes of its body's last states (N, W): logits (N, V)."""
    head = copy.copy(base)  # other threads have it as it is
    head._modules = base._modules | {base.base_model_prefix: _Known(body, states[None])}
    logits: torch.Tensor = head(inputs_embeds=states[None], use_cache=False).logits[0]
    return logits


class _Known(torch.nn.Module):  # type: ignore[misc]  # torch is untyped
    """Stands for a body whose last states (1, N, W) are known; else it is that body."""

    def __init__(self, body: Any, states: torch.Tensor) -> None:
        super().__init__()
        self.__dict__ |= {"_body": body, "_output": _Output(states)}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    def forward(self, *inputs: Any, **settings: Any) -> Any:
        """Give the states."""
        return self._output


class _Output:
    """What models read of their body's output."""

    def __init__(self, states: torch.Tensor) -> None:
        self.last_hidden_state = states

    def __getitem__(self, place: int) -> torch.Tensor | None:
        return self.last_hidden_state if place == 0 else None

    def __getattr__(self, name: str) -> None:
        return None
