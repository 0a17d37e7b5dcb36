"""Exact log-probabilities of targets, many sequences in one forward pass.

Finds out by trying how sequences may stand in one row for a model, runs the rows, and halves them where
memory runs out. Nothing here knows texts, pairs or terms.
"""

import inspect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from reflectune.agents.architecture import base_model, cache_layers, steady_length, text_config
from reflectune.agents.memory import alike_when_exhausted, send
from reflectune.agents.student.attention import attends_by_branches, attention_inputs
from reflectune.agents.student.head import logprobs_at
from reflectune.agents.student.rows import (
    Batch,
    Row,
    build_batch,
    build_row,
    fill_up,
    pack,
    pack_padded,
)
from reflectune.agents.student.side_by_side import pass_rows, rows_at_once
from reflectune.agents.student.targets import Encoded
from reflectune.state.errors import StudentError
from reflectune.state.records import Score

__all__ = ["Packing", "choose_packing", "score_sequences", "target_logprobs"]

# Attention under a mask pays for the masked-away part of a row too, which grows with its square: at 2,048
# tokens of an 8B model a twelfth of the arithmetic. Branch by branch it does not, and longer rows share more.
_CPU_ROW = 512
_CPU_TREE_ROW = 1024  # beyond this nothing more is gained
_MASKED_ROW = 2048


@dataclass(slots=True)
class Packing:
    """How sequences go into rows for one model. Scoring halves the rows when memory runs out."""

    row_tokens: int  # most tokens of a row; 1 where every sequence needs a row of its own
    shares_prefixes: bool  # whether what sequences begin with in common is computed once
    pads: bool = False  # whether sequences are padded below one another, instead of behind one another


def score_sequences(model: Any, sequences: Sequence[Encoded], packing: Packing) -> list[Score]:
    """Sum the log-probabilities of each sequence's targets, in nats, in the given order.

    Formula: sum_logprob = sum_t log softmax(logits_(t-1))[id_t], in float32 per token and float64 in
    sums. Every score depends on its own sequence only (float32: within 1e-5 of it alone). One whose sum is
    not a finite number is "non-finite" and has none. A row that memory runs out on is packed anew with the
    rows still to come, at half of `packing.row_tokens`, which stays halved; a StudentError for a single one.
    """
    totals: dict[int, float] = {}
    for row, sums in _sum_logprobs(model, sequences, packing):
        if len(row) > 1 and not all(map(math.isfinite, sums)):
            # Attention multiplies what is masked away by 0, and 0 * NaN is NaN: ask for each alone.
            sums = [_sum_logprobs(model, [sequences[index]], packing)[0][1][0] for index in row]
        totals |= zip(row, sums, strict=True)
    return [
        Score(totals[index], sequence.num_targets, "ok", sequence.truncated)
        if math.isfinite(totals[index])
        else Score(None, None, "non-finite", sequence.truncated)
        for index, sequence in enumerate(sequences)
    ]


@alike_when_exhausted()
def target_logprobs(model: Any, row: Row) -> torch.Tensor:
    """Log-probability of every target in a row, nats, float32 (N,).

    The head runs on the predicting tokens only. Gradients flow if they are on. The values stay on the model's
    device, and nothing here waits for them.
    """
    device = model.device
    inputs: dict[str, Any] = {"input_ids": send(row.ids, device)[None]}  # (1, T)
    inputs |= attention_inputs(model, row)
    if _accepts(model, "position_ids"):
        inputs["position_ids"] = send(row.positions, device)[None]  # (1, T)
    predicting = send(fill_up(row.predicting), device)  # (P,) and filler
    order = row.predictors.argsort(stable=True)  # of the N targets, by what predicts them
    at, targets = (torch.zeros_like(predicting), predicting), send(row.targets[order], device)
    logprobs = logprobs_at(base_model(model), inputs, at, row.predictors[order], targets)
    return logprobs[send(order.argsort(), device)]


def choose_packing(model: Any, batch_tokens: int, *, share_prefixes: bool) -> Packing:
    """How to put sequences into rows of at most `batch_tokens` for a model, by its layers and by trying.

    Without `share_prefixes` in plain rows or each alone, as training needs them.
    """
    batch_tokens = min(batch_tokens, steady_length(model) or batch_tokens)
    on_cpu, by_branches = model.device.type == "cpu", attends_by_branches(model)
    plain = Packing(min(batch_tokens, _CPU_ROW) if on_cpu else batch_tokens, shares_prefixes=False)
    if _accepts(model, "position_ids") and _attends_by_positions(model):
        # A mask of ours would lift a sliding window.
        if share_prefixes and (by_branches or cache_layers(model) == {DynamicLayer}):
            longest = (_CPU_ROW, _CPU_TREE_ROW) if on_cpu else (_MASKED_ROW, batch_tokens)
            tree = Packing(min(batch_tokens, longest[by_branches]), shares_prefixes=True)
            if _is_exact(model, tree):
                return tree
        if _is_exact(model, plain):
            return plain
    padded = replace(plain, pads=True)
    if share_prefixes and _accepts(model, "attention_mask") and _is_exact(model, padded):
        return padded
    return Packing(1, shares_prefixes=False)


def _attends_by_positions(model: Any) -> bool:
    """Whether all that a token takes from others is by attention that goes by positions, or by distances.

    Recurrent layers, attention in chunks and ALiBi count from the beginning of the row.
    """
    config = text_config(model)
    return (
        not base_model(model)._is_stateful
        and cache_layers(model) <= {DynamicLayer, DynamicSlidingWindowLayer}
        and not getattr(config, "attention_chunk_size", None)
        and not getattr(config, "alibi", False)
    )


def _is_exact(model: Any, packing: Packing) -> bool:
    """Whether a sequence gives the same behind whichever other one, and alone.

    Some models ignore positions or masks. Rows of one shape are rounded alike: other tokens in front make no
    difference at all, or with a mixture of experts the least; another place in the row makes a small one.
    """
    last = model.get_input_embeddings().num_embeddings - 1
    lines = ((0, 1, 2, 3, 2, 3), (0, 1, 4, 5, 4, 5), (0, 1, 6, 7))
    one, other, own = (Encoded([index * last // 7 for index in line], 1) for line in lines)
    try:
        with torch.no_grad():  # not inference mode: what the model keeps from this may go into training
            behind_one, behind_other, alone = (
                _row_logprobs(model, sequences, packing).nan_to_num()
                for sequences in ([one, own], [other, own], [own])
            )
    except torch.OutOfMemoryError as error:
        raise StudentError(f"no memory is left on {model.device} for a pass over a few tokens") from error
    count, eps, largest = own.num_targets, torch.finfo(model.dtype).eps, behind_one.abs().max()
    leaked = (behind_one - behind_other)[-count:].abs().max()
    moved = (behind_one[-count:] - alone).abs().max()
    return bool(leaked <= eps * largest and moved <= eps**0.5 * largest)


def _row_logprobs(model: Any, sequences: Sequence[Encoded], packing: Packing) -> torch.Tensor:
    """Log-probability of every target of sequences in one row or batch, in order, nats, float32 (N,)."""
    if packing.pads:
        return _padded_logprobs(model, build_batch(sequences))
    return target_logprobs(model, build_row(sequences, share_prefixes=packing.shares_prefixes))


@alike_when_exhausted()
def _padded_logprobs(model: Any, batch: Batch) -> torch.Tensor:
    """The same for a batch."""
    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask}  # (B, T)
    inputs, at, targets = (
        {name: send(values, model.device) for name, values in inputs.items()},
        (send(batch.owners, model.device), send(batch.predicting, model.device)),
        send(batch.targets, model.device),
    )
    return logprobs_at(base_model(model), inputs, at, torch.arange(len(batch.targets)), targets)


def _sum_logprobs(
    model: Any, sequences: Sequence[Encoded], packing: Packing
) -> list[tuple[list[int], list[float]]]:
    """Indexes of the sequences of each row, and their sums."""
    passed = _pass_rows(model, sequences, packing)
    if not passed:
        return []
    logprobs = torch.cat([logprobs for _, logprobs in passed]).cpu().double()  # the only wait for a GPU
    counts = torch.tensor([sequences[index].num_targets for row, _ in passed for index in row])
    owners = torch.arange(len(counts)).repeat_interleave(counts)  # of every target
    sums = iter(logprobs.new_zeros(len(counts)).index_add_(0, owners, logprobs).tolist())
    return [(row, list(itertools.islice(sums, len(row)))) for row, _ in passed]


def _pass_rows(
    model: Any, sequences: Sequence[Encoded], packing: Packing
) -> list[tuple[list[int], torch.Tensor]]:
    """Indexes of the sequences of each row, and the log-probabilities (N,) of the row on the device."""

    def infer(row: Sequence[Encoded]) -> torch.Tensor:
        with torch.inference_mode():
            return _row_logprobs(model, row, packing)

    passed: list[tuple[list[int], torch.Tensor]] = []
    left = list(range(len(sequences)))
    while left:
        waiting = [sequences[index] for index in left]
        if packing.pads:
            packed = pack_padded(waiting, packing.row_tokens)
        else:
            packed = pack(waiting, packing.row_tokens, share_prefixes=packing.shares_prefixes)
        rows = [[left[place] for place in row] for row in packed]
        taken = [[sequences[index] for index in row] for row in rows]
        done = list(pass_rows(infer, taken, 1 if packing.pads else rows_at_once(model)))
        passed += zip(rows, done, strict=False)
        failed = rows[len(done) :]
        if failed and len(failed[0]) == 1:
            raise StudentError(
                f"out of memory in a pass over one sequence of {len(sequences[failed[0][0]].ids)} tokens; "
                "end what else uses the student's device"
            )
        if failed:
            packing.row_tokens = max(1, packing.row_tokens // 2)
        left = sorted(itertools.chain(*failed))
    return passed


def _accepts(model: Any, parameter: str) -> bool:
    return parameter in inspect.signature(base_model(model).forward).parameters
