"""Forward and backward passes over the sequences of a step, in as many rows as the memory has room for.

Nothing here knows pairs, optimizers or rounds.
"""

from collections.abc import Sequence
from typing import Any

import torch

from reflectune.agents.memory import free_memory
from reflectune.agents.student.ranks import share, sum_gradients
from reflectune.agents.student.rows import build_row, pack
from reflectune.agents.student.scoring import target_logprobs
from reflectune.agents.student.side_by_side import pass_rows, rows_at_once
from reflectune.agents.student.targets import Encoded

__all__ = ["Passes", "checkpoint_layers"]


class Passes:
    """Gradients of one PEFT model. What it had to do to save memory, it goes on doing."""

    def __init__(self, model: Any, row_tokens: int) -> None:
        """Take a model with an adapter to train, and the most tokens of a row."""
        self._model, self._row_tokens = model, row_tokens
        self._trained = [weights for weights in model.parameters() if weights.requires_grad]
        model.train()  # in eval mode nothing is dropped, and no layer is computed again
        # Which of several rows draws first would be chance. All ranks decide alike, whatever their threads.
        self._in_turn = model.device.type != "cpu" or self._draws_numbers()

    @property
    def rows_at_once(self) -> int:
        """How many rows pass side by side at most."""
        return 1 if self._in_turn else rows_at_once(self._model)

    def add_gradients(self, sequences: Sequence[Encoded]) -> torch.Tensor:
        """Compute the gradients of a step that has none yet; its loss, detached.

        Formula: mean negative log-likelihood over all targets, nats per token, however they are cut into
        rows and shared by ranks, which all call this with the same sequences. A bfloat16 base computes its
        adapter's branches in bfloat16 too. Where memory runs out, rows are halved down to single sequences,
        then take turns, then layers are computed again in the backward pass, on all ranks alike; a
        torch.OutOfMemoryError where that is not enough.
        """
        own, targets = share(sequences), sum(sequence.num_targets for sequence in sequences)
        while (loss := sum_gradients(self._trained, self._try_rows(own, targets))) is None:
            self._model.zero_grad()
            self._save_memory(max(len(sequence.ids) for sequence in sequences))
            free_memory()
        return loss

    def _try_rows(self, sequences: Sequence[Encoded], targets: int) -> torch.Tensor | None:
        """Their part in the loss of a step of so many targets; None where memory runs out."""

        def differentiate(row: Sequence[int]) -> tuple[torch.Tensor, Sequence[torch.Tensor | None]]:
            loss = -self._logprobs([sequences[at] for at in row]).sum() / targets
            return loss.detach(), torch.autograd.grad(loss, self._trained, allow_unused=True)

        rows = pack(sequences, self._row_tokens)
        total, done = torch.zeros((), device=self._model.device), 0
        for loss, gradients in pass_rows(differentiate, rows, self.rows_at_once):
            for weights, gradient in zip(self._trained, gradients, strict=True):
                if gradient is not None:
                    weights.grad = gradient if weights.grad is None else weights.grad.add_(gradient)
            total, done = total + loss, done + 1
            del gradients  # before the next row needs its memory
        return total if done == len(rows) else None

    def _logprobs(self, sequences: Sequence[Encoded]) -> torch.Tensor:
        """Log-probability of every target of sequences in one row, nats, float32 (N,)."""
        kind, in_half = self._model.device.type, self._model.dtype == torch.bfloat16
        with torch.autocast(kind, torch.bfloat16, enabled=in_half):
            return target_logprobs(self._model, build_row(sequences))

    def _draws_numbers(self) -> bool:
        """Whether a pass draws random numbers, as dropout does."""
        before = torch.get_rng_state()
        with torch.no_grad():
            self._logprobs([Encoded([0, 0], 1)])
        return not torch.equal(torch.get_rng_state(), before)

    def _save_memory(self, longest: int) -> None:
        if self._row_tokens > longest:
            self._row_tokens = max(self._row_tokens // 2, longest)
        elif not self._in_turn:
            self._in_turn = True
        elif self._model.supports_gradient_checkpointing and not self._model.is_gradient_checkpointing:
            checkpoint_layers(self._model)
        else:
            raise torch.OutOfMemoryError(f"no memory to train on one text of {longest} tokens")


def checkpoint_layers(model: Any) -> None:
    """Have a model compute its layers again in the backward pass instead of keeping what they made."""
    # The reentrant kind gives no gradients where a layer's input, from a frozen base, needs none.
    model.gradient_checkpointing_enable({"use_reentrant": False})
