"""Exact log-probabilities of targets, many sequences in one forward pass.

Sequences stand one behind the other in a row without padding; positions that restart tell the model
where each begins, and it masks the others away. Nothing here knows texts, pairs or terms.
"""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from agents.targets import Encoded
from state.errors import StudentError
from state.records import Score

__all__ = ["Row", "build_row", "pack", "row_budget", "score_sequences", "target_logprobs"]

_CHUNK = 512  # rows of logits taken to float32 at a time

# On a CPU attention pays for the masked-away part of a row too, which grows with its square: a 6M model
# scores 11 k tokens/s in rows of 512 and 7 k in rows of 2,048, larger models are equally fast in both.
_CPU_ROW = 512


@dataclass(frozen=True, slots=True)
class Row:
    """Sequences behind one another: T tokens, of which N are targets."""

    ids: torch.Tensor  # (T,) token ids
    positions: torch.Tensor  # (T,) from 0 in every sequence
    predicting: torch.Tensor  # (N,) indexes of the tokens that predict a target
    targets: torch.Tensor  # (N,) the ids they should predict


def pack(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indexes of sequences for each row, filled in the given order with at most `budget` tokens.

    A sequence longer than that has a row of its own.
    """
    rows: list[list[int]] = []
    room = 0
    for index, length in enumerate(lengths):
        if not rows or length > room:
            rows.append([])
            room = budget
        rows[-1].append(index)
        room -= length
    return rows


def build_row(sequences: Sequence[Encoded]) -> Row:
    """Put sequences behind one another."""
    ids: list[int] = []
    positions: list[int] = []
    predicting: list[int] = []
    targets: list[int] = []
    for sequence in sequences:
        start, end = len(ids), len(ids) + len(sequence.ids)
        ids += sequence.ids
        positions += range(len(sequence.ids))
        predicting += range(start + sequence.first_target - 1, end - 1)
        targets += sequence.ids[sequence.first_target :]
    return Row(torch.tensor(ids), torch.tensor(positions), torch.tensor(predicting), torch.tensor(targets))


def score_sequences(model: Any, sequences: Sequence[Encoded], budget: int) -> list[Score]:
    """Sum the log-probabilities of each sequence's targets, in nats, in the given order.

    Formula: sum_logprob = sum_t log softmax(logits_(t-1))[id_t], in float32 per token and float64 in
    sums. Every score depends on its own sequence only (float32: within 1e-5 of it alone).

    Args:
        model: a causal language model in eval mode.
        sequences: what to score; empty and cut-away targets never get here.
        budget: most tokens in one row, see `row_budget`.

    Returns:
        Scores that are "ok" or, where a sum is not a finite number, "non-finite" without sums.
    """
    scores: list[Score] = []
    for members in pack([len(sequence.ids) for sequence in sequences], budget):
        row = [sequences[member] for member in members]
        sums = _sum_logprobs(model, row)
        if len(row) > 1 and not all(map(math.isfinite, sums)):
            # Attention multiplies what is masked away by 0, and 0 * NaN is NaN: ask for each alone.
            sums = [_sum_logprobs(model, [sequence])[0] for sequence in row]
        scores += map(_score, row, sums)
    return scores


def target_logprobs(model: Any, row: Row) -> torch.Tensor:
    """Log-probability of every target in a row, nats, float32 (N,).

    The head runs on the predicting tokens only, where the model knows `logits_to_keep`; its own
    forward applies whatever it does to logits. Gradients flow if they are on.

    Raises:
        StudentError: out of memory.
    """
    device = model.device
    predicting, targets = row.predicting.to(device), row.targets.to(device)
    inputs: dict[str, Any] = {"input_ids": row.ids.to(device)[None], "use_cache": False}  # (1, T)
    if _accepts(model, "position_ids"):
        inputs["position_ids"] = row.positions.to(device)[None]  # (1, T)
    keeps = _accepts(model, "logits_to_keep")
    if keeps:
        inputs["logits_to_keep"] = predicting
    try:
        logits = model(**inputs).logits[0]  # (N, V), or (T, V) where the model keeps all
        logits = logits if keeps else logits[predicting]
        chunks = zip(logits.split(_CHUNK), targets.split(_CHUNK), strict=True)
        return torch.cat([_gather_logprobs(chunk, ids) for chunk, ids in chunks])
    except torch.OutOfMemoryError as error:
        raise StudentError(
            f"out of memory in a pass over {len(row.ids)} tokens; lower student.batch_tokens "
            "(or student.max_length, if it is one long pair)"
        ) from error


def row_budget(model: Any, batch_tokens: int) -> int:
    """Tokens to put into one row: 1, so every sequence alone, where the model cannot keep them apart."""
    if not _keeps_apart(model):
        return 1
    return min(batch_tokens, _CPU_ROW) if model.device.type == "cpu" else batch_tokens


def _keeps_apart(model: Any) -> bool:
    """Whether sequences in one row leave each other alone, found by trying.

    Two rows differ in their first sequence only; where that changes the second one's logits, the model
    carries something across (recurrent layers do, and models that ignore positions).
    """
    if not _accepts(model, "position_ids"):
        return False
    vocabulary = model.get_input_embeddings().num_embeddings
    spread = [index * (vocabulary - 1) // 7 for index in range(8)]
    second = Encoded(spread[2:6], first_target=1)
    rows = [build_row([Encoded(first, 1), second]) for first in (spread[:4], spread[4:])]
    with torch.no_grad():  # not inference mode: what the model keeps from this may go into training
        one, other = (target_logprobs(model, row)[3:].nan_to_num() for row in rows)
    # Kernels may round differently by what stands beside; a leak is far larger.
    tolerance = torch.finfo(model.dtype).eps ** 0.5 * one.abs().max()
    return bool((one - other).abs().max() <= tolerance)


def _gather_logprobs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    logits = logits.float()  # (n, V)
    return logits.gather(-1, ids[:, None])[:, 0] - logits.logsumexp(-1)  # (n,)


def _sum_logprobs(model: Any, sequences: Sequence[Encoded]) -> list[float]:
    with torch.inference_mode():
        logprobs = target_logprobs(model, build_row(sequences)).cpu().double()  # (N,)
    parts = logprobs.split([_num_targets(sequence) for sequence in sequences])
    return [float(part.sum()) for part in parts]


def _score(sequence: Encoded, total: float) -> Score:
    if not math.isfinite(total):
        return Score(None, None, "non-finite", sequence.truncated)
    return Score(total, _num_targets(sequence), "ok", sequence.truncated)


def _num_targets(sequence: Encoded) -> int:
    return len(sequence.ids) - sequence.first_target


def _accepts(model: Any, parameter: str) -> bool:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return parameter in inspect.signature(base.forward).parameters
