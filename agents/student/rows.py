"""Sequences behind one another in a row without padding, for one forward pass.

In a plain row positions that restart tell the model where each sequence begins. In a tree row, what
sequences begin with in common (BOS, a prompt's opening, a whole prompt) stands once, and a mask lets every
token attend to the tokens before it in its own sequence. Nothing here knows models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from reflectune.agents.student.targets import Encoded

__all__ = ["Branch", "Row", "build_row", "build_tree_row", "count_shared", "pack", "pad_to_step"]

# Longer rows are filled up to multiples of this: kernels are prepared for each length, and take memory.
_STEP = 64
_FEW = 256


@dataclass(frozen=True, slots=True)
class Branch:
    """The tokens of a tree row from `start` to `end`: one sequence's own, B in number."""

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
    mask: torch.Tensor | None = None  # (T, T) which tokens each token attends to; None: by positions
    branches: Sequence[Branch] = ()  # the same as the mask, without what it hides


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
    # Alone a sequence may be all that the context holds, for a model that counts positions by itself.
    filler = pad_to_step(len(ids)) if len(sequences) > 1 else 0
    ids += [0] * filler
    positions += range(filler)
    return Row(torch.tensor(ids), torch.tensor(positions), *_count_once(predicting), torch.tensor(targets))


def build_tree_row(sequences: Sequence[Encoded]) -> Row:
    """Put sequences behind one another, each without what it begins with in common with the one before.

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
        shared = count_shared(before, sequence.ids)
        start, end = len(ids), len(ids) + len(sequence.ids) - shared
        spans.append((start, end, path[:shared]))
        path = path[:shared] + list(range(start, end))
        ids += sequence.ids[shared:]
        positions += range(shared, len(sequence.ids))
        predicting += path[sequence.first_target - 1 : -1]
        targets += sequence.ids[sequence.first_target :]
        before = sequence.ids
    if filler := pad_to_step(len(ids)):
        spans.append((len(ids), len(ids) + filler, []))
        ids += [0] * filler
        positions += range(filler)
    mask = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    branches = [_branch(mask, start, end, shared_path) for start, end, shared_path in spans]
    return Row(
        torch.tensor(ids),
        torch.tensor(positions),
        *_count_once(predicting),
        torch.tensor(targets),
        mask,
        branches,
    )


def _count_once(predicting: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The distinct indexes (P,), and which of them each of the N given ones is."""
    distinct, places = torch.tensor(predicting).unique(return_inverse=True)
    return distinct, places


def pad_to_step(length: int) -> int:
    """How many places fill `length` up to a multiple of the step; 0 for few places."""
    return -length % _STEP if length > _FEW else 0


def count_shared(before: Sequence[int], ids: Sequence[int]) -> int:
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
