"""Exact log-probabilities of targets, many sequences in one forward pass.

Sequences stand one behind the other in a row without padding. Where the model heeds a mask of ours, what
they begin with in common (BOS, a prompt's opening, a whole prompt) stands there once, as in a tree: every
token attends to the tokens before it in its own sequence. Else positions that restart tell the model
where each sequence begins. Nothing here knows texts, pairs or terms.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from agents.targets import Encoded
from state.errors import StudentError
from state.records import Score

__all__ = [
    "Packing",
    "Row",
    "build_row",
    "build_tree_row",
    "choose_packing",
    "pack",
    "score_sequences",
    "target_logprobs",
]

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
    mask: torch.Tensor | None = None  # (T, T) which tokens each token attends to; None: by positions


@dataclass(frozen=True, slots=True)
class Packing:
    """How sequences go into rows for one model."""

    row_tokens: int  # most tokens of a row; 1 where every sequence needs a row of its own
    shares_prefixes: bool  # whether what sequences begin with in common is computed once


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


def build_tree_row(sequences: Sequence[Encoded]) -> Row:
    """Put sequences behind one another, each without what it begins with in common with the one before.

    In lexicographic order that is all there is in common with any before. At least the last token of a
    sequence is its own.
    """
    ids: list[int] = []
    positions: list[int] = []
    predicting: list[int] = []
    targets: list[int] = []
    branches: list[tuple[int, int, list[int]]] = []  # new tokens from start to end, shared ones before
    path: list[int] = []  # where the tokens of the sequence before stand
    before: list[int] = []
    for sequence in sequences:
        shared = _count_shared(before, sequence.ids)
        start, end = len(ids), len(ids) + len(sequence.ids) - shared
        branches.append((start, end, path[:shared]))
        path = path[:shared] + list(range(start, end))
        ids += sequence.ids[shared:]
        positions += range(shared, len(sequence.ids))
        predicting += path[sequence.first_target - 1 : -1]
        targets += sequence.ids[sequence.first_target :]
        before = sequence.ids
    mask = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    for start, end, shared_path in branches:
        mask[start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril()
        mask[start:end, shared_path] = True
    return Row(
        torch.tensor(ids), torch.tensor(positions), torch.tensor(predicting), torch.tensor(targets), mask
    )


def score_sequences(model: Any, sequences: Sequence[Encoded], packing: Packing) -> list[Score]:
    """Sum the log-probabilities of each sequence's targets, in nats, in the given order.

    Formula: sum_logprob = sum_t log softmax(logits_(t-1))[id_t], in float32 per token and float64 in
    sums. Every score depends on its own sequence only (float32: within 1e-5 of it alone).

    Args:
        model: a causal language model in eval mode.
        sequences: what to score; empty and cut-away targets never get here.
        packing: from `choose_packing` for this model.

    Returns:
        Scores that are "ok" or, where a sum is not a finite number, "non-finite" without sums.
    """
    scores: dict[int, Score] = {}
    for members in _rows(sequences, packing):
        row = [sequences[member] for member in members]
        sums = _sum_logprobs(model, row, packing)
        if len(row) > 1 and not all(map(math.isfinite, sums)):
            # Attention multiplies what is masked away by 0, and 0 * NaN is NaN: ask for each alone.
            sums = [_sum_logprobs(model, [sequence], packing)[0] for sequence in row]
        scores |= zip(members, map(_score, row, sums), strict=True)
    return [scores[index] for index in range(len(sequences))]


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
    if row.mask is not None:
        inputs["attention_mask"] = row.mask.to(device)[None, None]  # (1, 1, T, T)
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


def choose_packing(model: Any, batch_tokens: int, *, share_prefixes: bool) -> Packing:
    """How to put sequences into rows for a model, found by trying what it heeds.

    Args:
        model: a causal language model in eval mode.
        batch_tokens: most tokens of a row.
        share_prefixes: compute what sequences begin with in common once, where the model allows it.
    """
    row_tokens = min(batch_tokens, _CPU_ROW) if model.device.type == "cpu" else batch_tokens
    if not _accepts(model, "position_ids"):
        return Packing(1, shares_prefixes=False)
    if share_prefixes and _attends_to_everything(model) and _is_exact(model, build_tree_row):
        return Packing(row_tokens, shares_prefixes=True)
    return Packing(row_tokens if _is_exact(model, build_row) else 1, shares_prefixes=False)


def _attends_to_everything(model: Any) -> bool:
    """Whether every layer attends to the whole sequence: a mask of ours would lift a sliding window."""
    config = model.config
    layers = getattr(config, "layer_types", None)
    if layers is not None:
        return set(layers) == {"full_attention"}
    return not getattr(config, "sliding_window", None)


def _is_exact(model: Any, build: Callable[[Sequence[Encoded]], Row]) -> bool:
    """Whether a row of sequences, some of which begin alike, gives what each of them gives alone.

    Recurrent layers carry something across sequences, and some models ignore positions or masks.
    """
    vocabulary = model.get_input_embeddings().num_embeddings
    token = [index * (vocabulary - 1) // 7 for index in range(8)]
    sequences = [
        Encoded([token[index] for index in line], 1) for line in ((0, 1, 2, 3), (0, 1, 4, 5), (6, 7))
    ]
    with torch.no_grad():  # not inference mode: what the model keeps from this may go into training
        together = target_logprobs(model, build(sequences))
        alone = torch.cat([target_logprobs(model, build_row([sequence])) for sequence in sequences])
    together, alone = together.nan_to_num(), alone.nan_to_num()
    # Kernels may round differently by what stands beside; a leak is far larger.
    tolerance = torch.finfo(model.dtype).eps ** 0.5 * alone.abs().max()
    return bool((together - alone).abs().max() <= tolerance)


def _rows(sequences: Sequence[Encoded], packing: Packing) -> list[list[int]]:
    """Indexes of the sequences of each row; those that begin alike stand together if that saves work."""
    order = list(range(len(sequences)))
    if not packing.shares_prefixes:
        return pack([len(sequences[index].ids) for index in order], packing.row_tokens)
    order.sort(key=lambda index: sequences[index].ids)
    rows: list[list[int]] = []
    room = 0
    before: list[int] = []
    for index in order:
        ids = sequences[index].ids
        new = len(ids) - _count_shared(before, ids)
        if not rows or new > room:
            rows.append([])
            room, new = packing.row_tokens, len(ids)
        rows[-1].append(index)
        room -= new
        before = ids
    return rows


def _count_shared(before: Sequence[int], ids: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common, leaving the second one its last."""
    most = min(len(before), len(ids) - 1)
    return next((place for place in range(most) if before[place] != ids[place]), most)


def _gather_logprobs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    logits = logits.float()  # (n, V)
    return logits.gather(-1, ids[:, None])[:, 0] - logits.logsumexp(-1)  # (n,)


def _sum_logprobs(model: Any, sequences: Sequence[Encoded], packing: Packing) -> list[float]:
    row = build_tree_row(sequences) if packing.shares_prefixes else build_row(sequences)
    with torch.inference_mode():
        logprobs = target_logprobs(model, row).cpu().double()  # (N,)
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
