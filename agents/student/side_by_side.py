"""Rows of one model passed side by side, where the CPU's threads can share them out.

Nothing here knows what a row is, or what is done with it.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import takewhile
from typing import Any, TypeVar

import torch

from reflectune.agents.architecture import base_model, steady_length
from reflectune.agents.hardware import torch_threads
from reflectune.agents.memory import alike_when_exhausted

__all__ = ["pass_rows", "rows_at_once"]

_MOST = 4  # rows side by side: each has activations and logits of its own

_Row = TypeVar("_Row")
_Result = TypeVar("_Result")


def rows_at_once(model: Any) -> int:
    """How many rows may pass side by side: one for each of torch's threads on a CPU, else one.

    Some models keep elastic rotary embeddings or states from one row to the next, and adapters of experts are
    put into the model for each pass.
    """
    base = base_model(model)
    adapters = getattr(base, "peft_config", {}).values()
    takes_turns = (
        model.device.type != "cpu"
        or base._is_stateful
        or steady_length(model) is not None
        or any(adapter.target_parameters for adapter in adapters)
    )
    return 1 if takes_turns else min(torch.get_num_threads(), _MOST)


def pass_rows(work: Callable[[_Row], _Result], rows: Sequence[_Row], at_once: int) -> Iterator[_Result]:
    """What `work` gives for each row, in order, up to the first that memory runs out on.

    With so many at once each thread takes rows of its own: up to a third faster than all threads at one row,
    and no thread waits for another that a busy machine has suspended.
    """

    def attempt(row: _Row) -> _Result | None:
        try:
            with alike_when_exhausted():
                return work(row)
        except torch.OutOfMemoryError:  # nothing is left that holds memory
            return None

    def is_done(result: _Result | None) -> bool:
        return result is not None

    workers = min(at_once, len(rows))
    if workers <= 1:
        yield from takewhile(is_done, map(attempt, rows))
        return
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,))
    with torch_threads(threads):  # what a worker sets is the default of threads to come
        try:
            yield from takewhile(is_done, _map_ahead(pool, attempt, rows, 2 * workers))
        finally:
            pool.shutdown(cancel_futures=True)


def _map_ahead(
    pool: ThreadPoolExecutor, work: Callable[[_Row], _Result], rows: Sequence[_Row], ahead: int
) -> Iterator[_Result]:
    """The pool's map, at most so many rows ahead: what is done and waits holds memory."""
    waiting: deque[Future[_Result]] = deque()
    for row in rows:
        if len(waiting) == ahead:
            yield waiting.popleft().result()
        waiting.append(pool.submit(work, row))
    while waiting:
        yield waiting.popleft().result()
