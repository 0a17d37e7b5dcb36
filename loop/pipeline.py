"""Groups of work: some are computed while the next are prepared and the last committed, in their order.

Nothing here knows what a group is, or who computes it.
"""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["completed", "compute_groups"]

Group = TypeVar("Group")
Computed = TypeVar("Computed")


def compute_groups(
    groups: Iterable[Group],
    begin: Callable[[Group], Future[Computed]],
    commit: Callable[[Computed], None],
    at_once: int,
    is_stopping: Callable[[], bool] = lambda: False,
) -> None:
    """Begin groups and commit what they come to, in their order; at most `at_once` are under way.

    Groups are read, begun and committed on the calling thread. Once `is_stopping` says yes the groups under
    way are waited for and committed, and no other is begun. What a step raises ends it: the groups before
    are committed.
    """
    under_way: deque[Future[Computed]] = deque()

    def commit_first() -> None:
        try:
            commit(under_way.popleft().result())
        except BaseException:
            under_way.clear()  # no group may be committed behind a gap
            raise

    try:
        for group in groups:
            under_way.append(begin(group))
            while under_way and (len(under_way) >= at_once or under_way[0].done()):
                commit_first()
            if is_stopping():
                break
    finally:
        while under_way:
            commit_first()


def completed(result: Computed) -> Future[Computed]:
    """A group that nobody need compute."""
    future: Future[Computed] = Future()
    future.set_result(result)
    return future
