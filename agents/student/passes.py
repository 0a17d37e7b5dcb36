"""Forward and backward passes over the sequences of a step, in as many rows as the memory has room for.

Nothing here knows pairs, optimizers or rounds.
"""

from collections.abc import Sequence
from typing import Any

import torch

from reflectune.agents.memory import alike_when_exhausted, free_memory
from reflectune.agents.student.ranks import share, sum_gradients
from reflectune.agents.student.rows import build_row, pack
from reflectune.agents.student.scoring import target_logprobs
from reflectune.agents.student.targets import Encoded

__all__ = ["Passes", "checkpoint_layers"]


class Passes:
    """Gradients of one PEFT model. What it had to do to save memory, it goes on doing."""

    def __init__(self, model: Any, row_tokens: int) -> None:
        """Take a model with an adapter to train, and the most tokens of a row."""
        self._model, self._row_tokens = model, row_tokens

    def add_gradients(self, sequences: Sequence[Encoded]) -> torch.Tensor:
        """Compute the gradients of a step that has none yet; its loss, detached.

        Formula: mean negative log-likelihood over all targets, nats per token, however they are cut into
        rows and shared by ranks, which all call this with the same sequences. A bfloat16 base computes its
        adapter's branches in bfloat16 too. Where memory runs out, rows are halved down to single sequences,
        then layers are computed again in the backward pass, on all ranks alike; a torch.OutOfMemoryError
        where that is not enough.
        """
        self._model.train()  # in eval mode no layer is computed again
        own, targets = share(sequences), sum(sequence.num_targets for sequence in sequences)
        while (loss := sum_gradients(self._model, self._try_rows(own, targets))) is None:
            self._model.zero_grad()
            self._save_memory(max(len(sequence.ids) for sequence in sequences))
            free_memory()
        return loss

    def _try_rows(self, sequences: Sequence[Encoded], targets: int) -> torch.Tensor | None:
        """Their part in the loss of a step of so many targets; None where memory runs out."""
        device = self._model.device
        in_half = torch.autocast(device.type, torch.bfloat16, enabled=self._model.dtype == torch.bfloat16)
        total = torch.zeros((), device=device)
        try:
            with alike_when_exhausted():
                for row in pack(sequences, self._row_tokens):
                    with in_half:
                        logprobs = target_logprobs(self._model, build_row([sequences[at] for at in row]))
                    loss = -logprobs.sum() / targets
                    loss.backward()
                    total += loss.detach()
        except torch.OutOfMemoryError:  # nothing is left that holds memory
            return None
        return total

    def _save_memory(self, longest: int) -> None:
        if self._row_tokens > longest:
            self._row_tokens = max(self._row_tokens // 2, longest)
        elif self._model.supports_gradient_checkpointing and not self._model.is_gradient_checkpointing:
            checkpoint_layers(self._model)
        else:
            raise torch.OutOfMemoryError(f"no memory to train on one text of {longest} tokens")


def checkpoint_layers(model: Any) -> None:
    """Have a model compute its layers again in the backward pass instead of keeping what they made."""
    # The reentrant kind gives no gradients where a layer's input, from a frozen base, needs none.
    model.gradient_checkpointing_enable({"use_reentrant": False})
