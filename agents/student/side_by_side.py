"""Rows of one model passed side by side, where the CPU's threads can share them out.

Nothing here knows what a row is, or what is done with it.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from typing import Any, TypeVar

import torch

from reflectune.agents.architecture import steady_length
from reflectune.agents.hardware import torch_threads
from reflectune.agents.memory import alike_when_exhausted

__all__ = ["pass_rows"]

_MOST = 4  # rows side by side: each has activations and logits of its own

_Row = TypeVar("_Row")
_Result = TypeVar("_Result")


def pass_rows(
    model: Any, work: Callable[[_Row], _Result], rows: Sequence[_Row], *, in_turn: bool
) -> Iterator[_Result]:
    """What `work` gives for each row, in order, up to the first that memory runs out on.

    On a CPU each thread takes rows of its own, unless they have to go in turn: up to a third faster than all
    threads at one row, to the bit the same, and none waits for one that a busy machine keeps from running.
    Some models keep elastic rotary embeddings from one row to the next, and always take turns.
    """

    def attempt(row: _Row) -> _Result | None:
        try:
            with alike_when_exhausted():
                return work(row)
        except torch.OutOfMemoryError:  # nothing is left that holds memory
            return None

    def is_done(result: _Result | None) -> bool:
        return result is not None

    threads = torch.get_num_threads()
    in_turn = in_turn or model.device.type != "cpu" or steady_length(model) is not None
    if in_turn or threads == 1 or len(rows) == 1:
        yield from takewhile(is_done, map(attempt, rows))
        return
    workers = min(threads, _MOST)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,))
    with torch_threads(threads), pool:  # what a worker sets is the default of threads to come
        yield from takewhile(is_done, pool.map(attempt, rows))
