"""Attention over rows of many sequences: what a row hides costs nothing, and caps on logits are kept.

Registered with transformers under a name of our own. Each branch of a row attends by itself: on a GPU in half
precision all in one kernel, elsewhere one after the other. In a pass without branches a model attends as it
did before, but that writing a token copies no keys unless logits are capped. Nothing here knows how rows are
made or what is scored.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from reflectune.agents.architecture import text_config
from reflectune.agents.memory import send
from reflectune.agents.student.rows import Branch, Row, build_row
from reflectune.agents.student.targets import Encoded

__all__ = ["attends_by_branches", "attention_inputs", "settle_attention"]

_NAME = "reflectune_branches"  # what transformers calls this attention
_WIDEST = 256  # numbers of a head that the kernel takes, in eights


@dataclass(frozen=True, slots=True)
class _Spans:
    """The B branches of a row as a kernel takes them: int32 (B + 1,), where each begins and the last ends."""

    queries: torch.Tensor  # among the tokens of the row
    keys: torch.Tensor  # among those that are attended to, branch by branch
    longest_query: int
    longest_key: int
    seen: torch.Tensor | None  # indexes of those; None: every branch attends to its own


class _UnservedError(TypeError):
    """A layer asks attention for something that ours does not do."""


def settle_attention(model: Any) -> None:
    """Have a model call our attention instead of torch's, if ours does all that its layers ask for.

    Torch's forgets the caps that Gemma 2 puts on its logits; ours keeps them in writing too.
    """
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(_NAME)
        if not _serves(model):
            model.set_attn_implementation("sdpa")


def attends_by_branches(model: Any) -> bool:
    """Whether a model attends branch by branch in rows, rather than under masks."""
    if model.config._attn_implementation != _NAME:
        return False
    return model.device.type == "cpu" or _caps(model) or _has_kernel(model.device, model.dtype)


def attention_inputs(model: Any, row: Row) -> dict[str, Any]:
    """What a pass over a row needs, so that each token attends to its own sequence up to itself.

    A plain row needs nothing where the model goes by positions.
    """
    if not row.branches or not attends_by_branches(model):
        return {} if row.mask is None else {"attention_mask": send(row.mask, model.device)[None, None]}
    # It keeps transformers from making one, and hides nothing from whoever should go by it all the same.
    mask = torch.ones(1, dtype=torch.bool, device=model.device).expand(1, 1, len(row.ids), len(row.ids))
    if _has_kernel(model.device, model.dtype) and not _caps(model):
        return {"attention_mask": mask, "branches": row.branches, "spans": _find_spans(row, model.device)}
    return {"attention_mask": mask, "branches": [_send_branch(each, model.device) for each in row.branches]}


def _serves(model: Any) -> bool:
    """Whether our attention is called by every layer that keeps keys and values, with nothing it cannot do.

    Models of other code may refuse what they do not know, or look for the names of attentions they do.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    if not any(parameter.kind == inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return False
    row = build_row([Encoded([0, 0], 1)])
    windows: list[int | None] = []
    try:
        with torch.no_grad():
            model(
                input_ids=row.ids[None].to(model.device),
                use_cache=False,
                attention_mask=torch.ones(1, 1, 2, 2, dtype=torch.bool, device=model.device),
                branches=row.branches,
                windows=windows,
            )
    except (TypeError, ValueError):
        return False
    layers = DynamicCache(config=text_config(model)).layers
    return windows == [getattr(layer, "sliding_window", None) for layer in layers]


def _caps(model: Any) -> bool:
    return getattr(text_config(model), "attn_logit_softcapping", None) is not None


@cache
def _has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a device has the kernel that attends within sequences of many lengths."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    states, ends = torch.zeros(1, 1, 8, device=device, dtype=dtype), torch.arange(2, device=device).int()
    try:
        varlen_attn(states, states, states, ends, ends, 1, 1, window_size=(-1, 0))
    except RuntimeError:  # of a build or a card without it
        return False
    return True


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    branches: Sequence[Branch] = (),
    spans: _Spans | None = None,
    windows: list[int | None] | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of transformers' models, by branches where a row comes with some, in its order.

    Shapes: query (1, H, T, D); key and value (1, G, T, D), each of the G heads for H / G heads of the query;
    in a pass without branches B texts instead of one, and S keys. `windows` is filled with each layer's
    sliding window. Returns (1, T, H, D), of B texts (B, T, H, D), and no weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if not branches and softcap is None:
        if query.shape[2] == 1 and not dropout:
            return _attend_one(query, key, value, attention_mask, scale), None
        others |= {"dropout": dropout, "scaling": scaling, "sliding_window": sliding_window}
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **others)
        return output, None
    _check_asked(attention_mask, others)
    if windows is not None:
        windows.append(sliding_window)
    if spans:
        if not dropout and query.shape[-1] == value.shape[-1] <= _WIDEST and query.shape[-1] % 8 == 0:
            return _attend_spans(query, key, value, spans, scale, sliding_window), None
        branches = [
            _send_branch(branch, query.device) for branch in branches
        ]  # whose masks spans are without
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    if not branches:
        return _weigh(query, key, value, attention_mask, scale, dropout, softcap), None
    outputs = [
        _weigh(
            query[:, :, branch.start : branch.end],
            key[:, :, branch.seen],
            value[:, :, branch.seen],
            _narrow(branch, sliding_window, query.device),
            scale,
            dropout,
            softcap,
        )
        for branch in branches
    ]
    return torch.cat(outputs, dim=1), None


def _attend_one(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Attention of one token of each text, (B, 1, H, D): the heads that share a key are rows of one product.

    Copied for each of them, keys and values would take about as long as all the rest.
    """
    batch, heads, _, width = query.shape
    rows = query.reshape(batch, key.shape[1], heads // key.shape[1], width)
    output = functional.scaled_dot_product_attention(rows, key, value, mask, scale=scale)
    return output.reshape(batch, 1, heads, value.shape[-1])


def _check_asked(mask: torch.Tensor | None, others: dict[str, Any]) -> None:
    """Raise an _UnservedError for a mask that a layer has changed, or for something we know nothing of."""
    unknown = {name for name, asked in others.items() if asked is not None and asked is not False}
    if unknown - {"position_ids", "is_causal"} or others.get("is_causal") is False:
        raise _UnservedError(f"attention with {', '.join(sorted(unknown))}")
    if mask is not None and mask.dtype != torch.bool:
        raise _UnservedError("attention with more than a mask")


def _narrow(branch: Branch, window: int | None, device: torch.device) -> torch.Tensor | None:
    """A branch's mask, within a layer's sliding window."""
    own = branch.end - branch.start
    among = own if branch.mask is None else branch.mask.shape[1]
    if window is None or among <= window:
        return branch.mask
    causal = torch.ones(own, among, dtype=torch.bool, device=device).tril(among - own)
    return causal.triu(among - own - window + 1)


def _weigh(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    dropout: float,
    softcap: float | None,
) -> torch.Tensor:
    """Values weighed by keys, (1, T, H, D), each token's up to itself where there is no mask.

    With a softcap c every logit l is c tanh(l / c), as in Gemma 2 (arXiv 2408.00118, section 2).
    """
    if softcap is None:
        output = functional.scaled_dot_product_attention(
            query, key, value, mask, dropout, is_causal=mask is None, scale=scale
        )
        return output.transpose(1, 2).contiguous()
    logits = softcap * torch.tanh(query @ key.mT * scale / softcap)  # (1, H, T, S)
    if mask is None:
        mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device)
        mask = mask.tril(logits.shape[-1] - logits.shape[-2])
    logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    weights = functional.dropout(logits.softmax(-1, dtype=torch.float32).to(query.dtype), dropout)
    return (weights @ value).transpose(1, 2).contiguous()


def _attend_spans(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    spans: _Spans,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """All branches in one kernel. A branch's last token goes with the last that it attends to."""
    queries, keys, values = (states[0].transpose(0, 1) for states in (query, key, value))  # (T, H or G, D)
    # Under autocast a norm of queries and keys may give float32, which the kernel does not take.
    queries, keys = queries.to(values.dtype), keys.to(values.dtype)
    if spans.seen is not None:
        keys, values = keys[spans.seen], values[spans.seen]
    output = varlen_attn(
        queries,
        keys,
        values,
        spans.queries,
        spans.keys,
        spans.longest_query,
        spans.longest_key,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),  # tokens before, and behind
        enable_gqa=True,
    )
    return output[None]


def _find_spans(row: Row, device: torch.device) -> _Spans:
    own = [branch.end - branch.start for branch in row.branches]
    indexes = [
        torch.arange(branch.start, branch.end) if isinstance(branch.seen, slice) else branch.seen
        for branch in row.branches
    ]
    among = [len(each) for each in indexes]
    queries, keys = (torch.tensor([0, *accumulate(each)], dtype=torch.int32) for each in (own, among))
    seen = None if row.mask is None else send(torch.cat(indexes), device)
    return _Spans(send(queries, device), send(keys, device), max(own), max(among), seen)


def _send_branch(branch: Branch, device: torch.device) -> Branch:
    seen = branch.seen if isinstance(branch.seen, slice) else send(branch.seen, device)
    return replace(branch, seen=seen, mask=None if branch.mask is None else send(branch.mask, device))


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)
