"""Groups of work, one after the other: one is computed while the next is prepared and the last is committed.

Nothing here knows what a group is.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["compute_groups"]

Group = TypeVar("Group")
Prepared = TypeVar("Prepared")
Computed = TypeVar("Computed")


def compute_groups(
    groups: Iterable[Group],
    prepare: Callable[[Group], Prepared],
    compute: Callable[[Prepared], Computed],
    commit: Callable[[Computed], None],
    is_stopping: Callable[[], bool] = lambda: False,
) -> None:
    """Prepare, compute and commit groups in their order; at most one is ahead of the one in flight.

    A thread of its own computes, and has ended on return; the rest is done where this is called. Once
    `is_stopping` says yes the group in flight is computed and committed, and no other is begun. What a step
    raises ends it: the groups before are committed.
    """
    computing: list[Future[Computed]] = []  # one, or none
    with ThreadPoolExecutor(1, "compute") as worker:
        for group in groups:
            try:
                prepared = prepare(group)
            except BaseException:
                for future in computing:
                    commit(future.result())
                raise
            computed = [future.result() for future in computing]
            computing = [] if is_stopping() else [worker.submit(compute, prepared)]
            for each in computed:
                commit(each)
            if not computing:
                return
        for future in computing:
            commit(future.result())
