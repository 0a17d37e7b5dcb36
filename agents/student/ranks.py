"""What the processes that train one adapter together do as one: share a step, add up, agree.

They are the ranks of torch's default process group; a process without one is the only rank. Each has the
whole model and the same adapter, and takes the same steps. Nothing here knows who started them.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist

from reflectune.agents.student.targets import Encoded

__all__ = ["first_says", "is_first", "own_rank", "share", "sum_gradients"]


def _ranks() -> tuple[int, int]:
    """This process's rank and the number of them."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def own_rank() -> int:
    """This process's rank, from 0."""
    return _ranks()[0]


def is_first() -> bool:
    """Whether this is the rank that writes and reports."""
    return own_rank() == 0


def first_says(answer: bool) -> bool:
    """The first rank's answer; all ranks have to ask."""
    if _ranks()[1] == 1:
        return answer
    said = torch.tensor(answer)
    dist.broadcast(said, 0)
    return bool(said)


def share(sequences: Sequence[Encoded]) -> list[Encoded]:
    """This rank's sequences of a step, in order; it may have none.

    The longest first, each goes to the rank that has the fewest tokens.
    """
    rank, number = _ranks()
    loads, own = [0] * number, []
    for at in sorted(range(len(sequences)), key=lambda at: -len(sequences[at].ids)):
        least = loads.index(min(loads))
        loads[least] += len(sequences[at].ids)
        if least == rank:
            own.append(at)
    return [sequences[at] for at in sorted(own)]


def sum_gradients(trained: Sequence[torch.Tensor], loss: torch.Tensor | None) -> torch.Tensor | None:
    """Add up the gradients of all ranks, and their losses, which are sums over parts of one step.

    None, and gradients of no use, where some rank brings None instead of a loss.
    """
    if _ranks()[1] == 1:
        return loss
    # A rank without sequences has no gradients.
    parts = [torch.zeros_like(weights) if weights.grad is None else weights.grad for weights in trained]
    ends = torch.tensor([0.0, 1.0] if loss is None else [float(loss), 0.0], device=trained[0].device)
    summed = torch.cat([*(part.flatten() for part in parts), ends])
    dist.all_reduce(summed)
    *gradients, loss, missing = summed.split([*(weights.numel() for weights in trained), 1, 1])
    for weights, gradient in zip(trained, gradients, strict=True):
        weights.grad = gradient.view_as(weights)
    return None if missing else loss[0]
