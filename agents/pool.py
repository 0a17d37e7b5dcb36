"""Students at work on jobs, several jobs at once: one in this process, or many on a cluster.

Nothing here knows what a job is.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from threading import Lock
from typing import Any, Protocol, Self, TypeVar

from reflectune.agents.processes import describe_process
from reflectune.state.live import Worker

__all__ = ["LocalPool", "StudentPool"]

Result = TypeVar("Result")

# While the student computes one job's texts it encodes the other's.
_AT_ONCE = 2


class StudentPool(Protocol):
    """Students that are all alike, opened with the first job. A context manager."""

    at_once: int  # how many jobs it is worth having under way

    def submit(self, job: Callable[[Any], Result], about: str = "", size: int = 1) -> "Future[Result]":
        """Give a job to a student; what it returns depends on the job alone, not on which student it was.

        What a failure calls the job is `about`, such as the samples it is of; `size` is their number.
        """

    def workers(self) -> Sequence[Worker]:
        """What each student does now. For any thread, at any time; returns at once."""

    def close(self) -> None:
        """Let the jobs that have begun end, drop the others, give memory back. Once more does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class LocalPool(AbstractContextManager["LocalPool"]):
    """The pool of one student, in this process."""

    def __init__(
        self, open_student: Callable[[], AbstractContextManager[Any]], at_once: int = _AT_ONCE
    ) -> None:
        self.at_once = at_once
        self._open_student = open_student
        self._student: Any = None
        self._threads = ThreadPoolExecutor(at_once, "pool")
        self._given = self._under_way = self._done = 0  # samples
        self._counting = Lock()

    def submit(self, job: Callable[[Any], Result], about: str = "", size: int = 1) -> "Future[Result]":
        """Give the student a job; the first one opens it, on the calling thread."""
        if self._student is None:
            self._student = self._open_student().__enter__()
        self._given += size
        return self._threads.submit(self._work, job, size)

    def workers(self) -> Sequence[Worker]:
        """The one student, once it is open."""
        if (student := self._student) is None:
            return ()
        device = getattr(student, "device", None)  # who writes in its place tells none
        counts = self._under_way, self._done, self._given - self._under_way - self._done
        return (Worker("student", "1", *counts, device=device, **describe_process()),)

    def close(self) -> None:
        """Let the jobs that have begun end, drop the others, close the student."""
        self._threads.shutdown(cancel_futures=True)
        if self._student is not None:
            self._student.__exit__(None, None, None)
            self._student = None

    def _work(self, job: Callable[[Any], Result], size: int) -> Result:
        with self._counting:
            self._under_way += size
        try:
            return job(self._student)
        finally:
            with self._counting:
                self._under_way, self._done = self._under_way - size, self._done + size

    def __exit__(self, *error: object) -> None:
        self.close()
