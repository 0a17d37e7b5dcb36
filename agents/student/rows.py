"""Sequences behind one another in a row, or below one another in a batch, for one forward pass.

In a plain row positions that restart tell the model where each sequence begins. In a tree row what sequences
begin with in common (BOS, a prompt's opening, a whole prompt) stands once, and a mask lets every token attend
to the tokens before it in its own sequence. A batch is padded behind them. Nothing here knows models.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from reflectune.agents.student.targets import Encoded

__all__ = ["Batch", "Branch", "Row", "build_batch", "build_row", "fill_up", "pack", "pack_padded"]

# Longer rows are filled up to multiples of this: kernels are prepared for each length, and take memory.
_STEP = 64
_FEW = 256


@dataclass(frozen=True, slots=True)
class Branch:
    """The tokens of a row from `start` to `end`: one sequence's own, B in number."""

    start: int
    end: int
    seen: torch.Tensor | slice  # indexes of the S tokens they attend to: shared ones, then their own
    mask: torch.Tensor | None  # (B, S) which of them each attends to; None: its own up to itself


@dataclass(frozen=True, slots=True)
class Row:
    """Sequences behind one another, and what fills the row up: T tokens, of which N are targets."""

    ids: torch.Tensor  # (T,) token ids
    positions: torch.Tensor  # (T,) from 0 in every sequence
    predicting: torch.Tensor  # (P,) indexes of the tokens that predict a target, each once
    predictors: torch.Tensor  # (N,) which of them predicts each target
    targets: torch.Tensor  # (N,) the ids they should predict
    branches: Sequence[Branch] = ()  # which tokens each token attends to
    mask: torch.Tensor | None = None  # (T, T) the same of a tree row; None: positions say it too


@dataclass(frozen=True, slots=True)
class Batch:
    """B sequences below one another, padded behind to T tokens, N of which are targets."""

    ids: torch.Tensor  # (B, T) token ids
    mask: torch.Tensor  # (B, T) 1 for a sequence's own tokens, 0 for what fills it up
    owners: torch.Tensor  # (N,) indexes of the sequences that the targets belong to
    predicting: torch.Tensor  # (N,) indexes of the tokens in them that predict one
    targets: torch.Tensor  # (N,) the ids they should predict


def pack(sequences: Sequence[Encoded], budget: int, *, share_prefixes: bool = False) -> list[list[int]]:
    """Indexes of sequences for each row, filled in the given order with at most `budget` tokens.

    For tree rows they are sorted first, and what a row holds already does not count. A sequence longer than
    the budget has a row of its own.
    """
    order: Sequence[int] = range(len(sequences))
    if share_prefixes:
        order = sorted(order, key=lambda index: sequences[index].ids)
    rows: list[list[int]] = []
    room = 0
    before: list[int] = []
    for index in order:
        ids = sequences[index].ids
        new = len(ids) - (_count_shared(before, ids) if share_prefixes else 0)
        if not rows or new > room:
            rows.append([])
            room, new = budget, len(ids)
        rows[-1].append(index)
        room -= new
        before = ids
    return rows


def pack_padded(sequences: Sequence[Encoded], budget: int) -> list[list[int]]:
    """Indexes of sequences for each batch of at most `budget` tokens, padding included, shortest first."""
    batches: list[list[int]] = []
    for index in sorted(range(len(sequences)), key=lambda index: len(sequences[index].ids)):
        if not batches or (len(batches[-1]) + 1) * len(sequences[index].ids) > budget:
            batches.append([])
        batches[-1].append(index)
    return batches


def build_batch(sequences: Sequence[Encoded]) -> Batch:
    """Put sequences below one another."""
    longest = max(len(sequence.ids) for sequence in sequences)
    ids = [sequence.ids + [0] * (longest - len(sequence.ids)) for sequence in sequences]
    mask = [[1] * len(sequence.ids) + [0] * (longest - len(sequence.ids)) for sequence in sequences]
    places = [
        (owner, place, sequence.ids[place])
        for owner, sequence in enumerate(sequences)
        for place in range(sequence.first_target, len(sequence.ids))
    ]
    owners, targeted, targets = torch.tensor(places).T  # (N,) each
    return Batch(torch.tensor(ids), torch.tensor(mask), owners, targeted - 1, targets)


def build_row(sequences: Sequence[Encoded], *, share_prefixes: bool = False) -> Row:
    """Put sequences behind one another, in a tree row without what each begins with as the one before did.

    In lexicographic order that is all there is in common with any before. At least the last token of a
    sequence is its own.
    """
    ids: list[int] = []
    positions: list[int] = []
    predicting: list[int] = []
    targets: list[int] = []
    spans: list[tuple[int, int, list[int]]] = []  # new tokens from start to end, shared ones before
    path: list[int] = []  # where the tokens of the sequence before stand
    before: list[int] = []
    for sequence in sequences:
        shared = _count_shared(before, sequence.ids) if share_prefixes else 0
        start, end = len(ids), len(ids) + len(sequence.ids) - shared
        spans.append((start, end, path[:shared]))
        path = [*path[:shared], *range(start, end)]
        ids += sequence.ids[shared:]
        positions += range(shared, len(sequence.ids))
        predicting += path[sequence.first_target - 1 : -1]
        targets += sequence.ids[sequence.first_target :]
        before = sequence.ids
    # In a plain row a single sequence may be all that the context holds: it is not filled up.
    filler = _pad_to_step(len(ids)) if share_prefixes or len(sequences) > 1 else 0
    if filler:
        spans.append((len(ids), len(ids) + filler, []))
        ids += [0] * filler
        positions += range(filler)
    distinct, places = torch.tensor(predicting).unique(return_inverse=True)
    row = Row(torch.tensor(ids), torch.tensor(positions), distinct, places, torch.tensor(targets))
    if not share_prefixes:
        plain = [Branch(start, end, slice(start, end), None) for start, end, _ in spans]
        return replace(row, branches=plain)
    mask = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    branches = [_branch(mask, start, end, shared_path) for start, end, shared_path in spans]
    return replace(row, mask=mask, branches=branches)


def fill_up(indexes: torch.Tensor) -> torch.Tensor:
    """Indexes (N,), and the first one again and again up to a multiple of the step."""
    return torch.cat([indexes, indexes[:1].expand(_pad_to_step(len(indexes)))])


def _pad_to_step(length: int) -> int:
    """How many places fill `length` up to a multiple of the step; 0 for few places."""
    return -length % _STEP if length > _FEW else 0


def _count_shared(before: Sequence[int], ids: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common, leaving the second one its last."""
    limit = min(len(before), len(ids) - 1)
    return next((place for place in range(limit) if before[place] != ids[place]), limit)


def _branch(mask: torch.Tensor, start: int, end: int, shared: list[int]) -> Branch:
    """A branch after the shared tokens, written into the mask (T, T) of its row."""
    mask[start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril()
    mask[start:end, shared] = True
    if not shared:
        return Branch(start, end, slice(start, end), None)
    seen = torch.tensor([*shared, *range(start, end)])
    return Branch(start, end, seen, mask[start:end, seen])
