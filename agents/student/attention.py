"""Attention over tree rows on a CPU, branch by branch: what the row's mask hides costs nothing.

Registered with transformers under a name of our own. In a pass without branches, such as writing, the
model attends as it did before. Nothing here knows how rows are made or what is scored.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from reflectune.agents.student.rows import Branch

__all__ = ["attend_by_branches", "attends_by_branches"]

_NAME = "reflectune_branches"  # what transformers calls this attention


def attend_by_branches(model: Any) -> bool:
    """Have a model call our attention instead of torch's; whether it can."""
    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    if model.config._attn_implementation == "sdpa" and inspect.Parameter.VAR_KEYWORD in kinds:
        model.set_attn_implementation(_NAME)
    return attends_by_branches(model)


def attends_by_branches(model: Any) -> bool:
    """Whether a model was made to."""
    return bool(model.config._attn_implementation == _NAME)


def _branch_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    branches: Sequence[Branch] = (),
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of transformers' models, branch by branch where a row comes with branches, in its order.

    Shapes: query (1, H, T, D); key and value (1, G, T, D), each of the G heads for H / G heads of the query;
    mask (1, 1, T, T), the same as the branches. Returns (1, T, H, D), and no weights.
    """
    if not branches:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        return output, None
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    outputs = [
        torch.nn.functional.scaled_dot_product_attention(
            query[:, :, branch.start : branch.end],
            key[:, :, branch.seen],
            value[:, :, branch.seen],
            attn_mask=branch.mask,
            is_causal=branch.mask is None,
            scale=settings.get("scaling"),
        )
        for branch in branches
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, _branch_attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)
