"""Groups of work: some are computed while the next are prepared and the last committed, in their order.

Nothing here knows what a group is, or who computes it.
"""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, TypeVar

__all__ = ["Pipeline", "completed", "compute_groups"]

Group = TypeVar("Group")
Computed = TypeVar("Computed")


class Pipeline(AbstractContextManager["Pipeline"]):
    """Groups under way, at most `at_once`. They are committed in the order in which they were begun.

    What a commit raises ends it: the groups behind are dropped. Those that are under way when the block ends,
    however it does, are waited for and committed.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._under_way: deque[tuple[Future[Any], Callable[[Any], None]]] = deque()

    def __len__(self) -> int:
        """How many groups are under way."""
        return len(self._under_way)

    @property
    def computed(self) -> int:
        """How many of them wait for being committed. For any thread."""
        return sum(group.done() for group, _ in [*self._under_way])

    @property
    def has_room(self) -> bool:
        """Whether another group may be begun."""
        return len(self) < self._at_once

    def add(self, group: Future[Computed], commit: Callable[[Computed], None]) -> None:
        """Take in a group that has begun, and what will commit it."""
        self._under_way.append((group, commit))

    @property
    def is_ready(self) -> bool:
        """Whether the group that was begun first is computed."""
        return bool(self) and self._under_way[0][0].done()

    def pause(self, seconds: float) -> None:
        """Wait until the group that was begun first is computed, if there is one, so many seconds at most."""
        wait([group for group, _ in islice(self._under_way, 1)], seconds)

    def commit_first(self) -> None:
        """Wait for the group that was begun first, and commit it."""
        group, commit = self._under_way.popleft()
        try:
            commit(group.result())
        except BaseException:
            self._under_way.clear()  # no group may be committed behind a gap
            raise

    def __exit__(self, *error: object) -> None:
        while self:
            self.commit_first()


def compute_groups(
    groups: Iterable[Group],
    begin: Callable[[Group], Future[Computed]],
    commit: Callable[[Computed], None],
    at_once: int,
    is_stopping: Callable[[], bool] = lambda: False,
    show: Callable[[Pipeline], None] = lambda pipeline: None,
) -> None:
    """Begin groups and commit what they come to, in their order; at most `at_once` are under way.

    Groups are read, begun and committed on the calling thread. Once `is_stopping` says yes the groups under
    way are waited for and committed, and no other is begun. What a step raises ends it: the groups before
    are committed. `show` gets the groups under way, to watch them.
    """
    with Pipeline(at_once) as pipeline:
        show(pipeline)
        for group in groups:
            pipeline.add(begin(group), commit)
            while not pipeline.has_room or pipeline.is_ready:
                pipeline.commit_first()
            if is_stopping():
                break


def completed(result: Computed) -> Future[Computed]:
    """A group that nobody need compute."""
    future: Future[Computed] = Future()
    future.set_result(result)
    return future
