"""Students on a Ray cluster: workers with one each, and the pool that gives them jobs.

A worker that dies, alone or with its node, is replaced, and its jobs are given again.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import ray
from ray import cloudpickle
from ray.exceptions import RayTaskError

from reflectune.agents.cluster.connection import (
    Connection,
    last_line,
    own_versions,
    refuse_other_versions,
)
from reflectune.agents.cluster.places import Places
from reflectune.agents.cluster.room import Asked
from reflectune.agents.cluster.shipping import ShippedStudent
from reflectune.agents.processes import describe_process
from reflectune.agents.student.student import Student, StudentBase
from reflectune.state.errors import StudentError
from reflectune.state.live import Worker

__all__ = ["RayPool", "StudentWorkers"]

Result = TypeVar("Result")

_JOBS = 2  # at one worker: while it computes one job's texts it encodes the other's
_LIVES = 3  # workers that may die of a job, or in one place one after the other at their start
_LOOK = 1.0  # seconds without news before it is looked whether there can be any


class RayPool(AbstractContextManager["RayPool"]):
    """The pool of the workers' students. Closed, it leaves them open for the next one."""

    def __init__(self, workers: "StudentWorkers", student: ShippedStudent) -> None:
        self.at_once = _JOBS * workers.number
        self._workers, self._student = workers, student
        self._under_way: set[Future[Any]] = set()

    def submit(self, job: Callable[[Any], Result], about: str = "", size: int = 1) -> "Future[Result]":
        """Give the job to a worker; the first one starts them."""
        future: Future[Result] = Future()
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        self._workers.give(_Job(cloudpickle.dumps(job), about, size, self._student, future))
        return future

    def workers(self) -> Sequence[Worker]:
        """The workers that are there or start."""
        return self._workers.describe()

    def close(self) -> None:
        """Let the jobs that have begun end, drop the others."""
        wait([future for future in [*self._under_way] if not future.cancel()])

    def __exit__(self, *error: object) -> None:
        self.close()


@dataclass(eq=False)
class _Job:
    pickled: bytes
    about: str
    size: int  # samples
    student: ShippedStudent
    future: Future[Any]
    deaths: int = 0  # of workers that had it


@dataclass(eq=False)
class _Worker:
    actor: Any
    place: int  # from 1
    replaced: int  # others that died in this place
    done: int  # samples, theirs too
    failures: int  # of those to start, one after the other
    process: dict[str, Any] = field(default_factory=dict)  # where it is and what it holds, as it last said
    jobs: list[_Job] = field(default_factory=list)

    def has_room(self, job: _Job) -> bool:
        """A job that a worker died with has one for itself: nothing else shall be suspected."""
        is_suspect = job.deaths or any(each.deaths for each in self.jobs)
        return len(self.jobs) < (1 if is_suspect else _JOBS)

    def describe(self) -> Worker:
        """What it does. For any thread."""
        told = {"replaced": self.replaced, "waits_for": "" if self.process else "its start", **self.process}
        return Worker("student", str(self.place), sum(job.size for job in [*self.jobs]), self.done, **told)


class StudentWorkers:
    """So many workers on the cluster, started by the first job; those that are there already begin.

    One thread decides what becomes of jobs and workers: whatever happens is told to it in a queue.
    """

    def __init__(self, asked: Asked, connection: Connection, places: Places) -> None:
        self.number = asked.number
        self._asked, self._connection, self._places = asked, connection, places
        once = {"max_restarts": 0, "max_task_retries": 0}
        actor = ray.remote(num_cpus=asked.cpus, num_gpus=asked.gpus, max_concurrency=_JOBS, **once)
        self._actor = actor(_OpenStudent)
        self._thread: threading.Thread | None = None

    def give(self, job: _Job) -> None:
        """Have a job done by the worker that has least to do."""
        if self._thread is None:
            self._events: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
            self._waiting: deque[_Job] = deque()
            self._workers: list[_Worker] = []
            self._starting: set[_Worker] = set()
            self._thread = threading.Thread(target=self._watch, name="students", daemon=True)
            self._thread.start()
        self._events.put(partial(self._take, job))

    def describe(self) -> Sequence[Worker]:
        """What each worker does that is there or starts. For any thread."""
        there = [] if self._thread is None else [*self._workers, *self._starting]
        return [worker.describe() for worker in sorted(there, key=lambda worker: worker.place)]

    def close(self) -> None:
        """End the workers; only call with no job under way. Another job starts others."""
        if self._thread is None:
            return
        self._events.put(None)
        self._thread.join()
        self._thread = None
        for worker in [*self._workers, *self._starting]:
            ray.kill(worker.actor)

    def _watch(self) -> None:
        while True:
            try:
                event = self._events.get(timeout=_LOOK)
            except Empty:
                event = self._look
            if event is None:
                return
            try:
                event()
                self._hand_out()
            except Exception as error:  # noqa: BLE001 - whatever it is, jobs must hear of it
                self._fail(error)

    def _look(self) -> None:
        if self._waiting and len(self._workers) < self.number:
            self._room.look(len(self._workers))

    def _take(self, job: _Job) -> None:
        self._waiting.append(job)
        if not self._workers and not self._starting:
            self._room = self._connection.wait_for(self._asked)
            for place in range(self.number):
                self._start(place + 1)

    def _fail(self, why: Exception) -> None:
        """Have all jobs end with an error."""
        for job in [*self._waiting, *(job for worker in self._workers for job in worker.jobs)]:
            if not job.future.done():
                job.future.set_exception(why)
        self._waiting.clear()

    def _start(self, place: int, replaced: int = 0, done: int = 0, failures: int = 0) -> None:
        where = self._places.find(self._asked.key, place)
        actor = self._actor.options(scheduling_strategy=where).remote(own_versions())
        worker = _Worker(actor, place, replaced, done, failures)
        self._starting.add(worker)
        self._when_done(worker.actor.describe.remote(), partial(self._enlist, worker))

    def _when_done(self, reference: Any, then: Callable[[Future[Any]], None]) -> None:
        events = self._events  # of these workers: others, started after a close, shall not hear of it
        reference.future().add_done_callback(lambda outcome: events.put(partial(then, outcome)))

    def _enlist(self, worker: _Worker, outcome: Future[Any]) -> None:
        self._starting.remove(worker)
        if (error := outcome.exception()) is None:
            worker.process = outcome.result()
            self._workers.append(worker)
            return
        if (failures := worker.failures + 1) < _LIVES:
            self._start(worker.place, worker.replaced + 1, worker.done, failures)
        elif not self._workers and not self._starting:  # else the others do without
            self._fail(StudentError(f"no student starts on the cluster: {last_line(error)}"))

    def _hand_out(self) -> None:
        while self._waiting:
            job = self._waiting[0]
            fit = [worker for worker in self._workers if worker.has_room(job)]
            if not fit:
                return
            self._waiting.popleft()
            if job.deaths == 0 and not job.future.set_running_or_notify_cancel():
                continue
            worker = min(fit, key=lambda worker: len(worker.jobs))
            worker.jobs.append(job)
            reference = worker.actor.work.remote(job.student, job.pickled)
            self._when_done(reference, partial(self._finish, worker, job))

    def _finish(self, worker: _Worker, job: _Job, outcome: Future[Any]) -> None:
        worker.jobs.remove(job)
        error = outcome.exception()
        is_dead = error is not None and not isinstance(error, RayTaskError)
        if is_dead:
            self._replace(worker)
        else:
            worker.done += job.size
        if job.future.done():  # it was given up
            return
        if error is None:
            result, worker.process = outcome.result()
            job.future.set_result(result)
        elif isinstance(error, RayTaskError):  # of the job itself
            job.future.set_exception(error.cause)
        elif job.deaths + 1 < _LIVES:
            job.deaths += 1
            self._waiting.appendleft(job)
        else:
            job.future.set_exception(_explain_deaths(job, error))

    def _replace(self, worker: _Worker) -> None:
        if worker in self._workers:
            self._room = self._connection.wait_for(self._asked)
            self._workers.remove(worker)
            ray.kill(worker.actor)  # it may only be out of reach
            self._start(worker.place, worker.replaced + 1, worker.done)


def _explain_deaths(job: _Job, error: BaseException) -> StudentError:
    return StudentError(
        f"{job.about or 'a job'}: {_LIVES} workers died of it, the last one with: {last_line(error)}; lower "
        "student.batch_tokens, or give workers more memory"
    )


class _OpenStudent:
    """A student on a node, which as many threads ask as it has jobs."""

    def __init__(self, versions: dict[str, str]) -> None:
        self._versions = versions  # of the driver
        self._opening = threading.Lock()
        self._base: StudentBase | None = None
        self._opened: tuple[ShippedStudent, Student] | None = None

    def describe(self) -> dict[str, Any]:
        """Where it is and what it holds, by the names that a Worker has for them."""
        device = None if self._opened is None else self._opened[1].device
        return {"device": device, **describe_process()}

    def work(self, shipped: ShippedStudent, pickled: bytes) -> tuple[Any, dict[str, Any]]:
        """What a job comes to with a student, and what the worker holds then."""
        return cloudpickle.loads(pickled)(self._open(shipped)), self.describe()

    def _open(self, shipped: ShippedStudent) -> Student:
        """The student that was asked for last, or another on the same base: nobody asks that one any more."""
        with self._opening:
            if self._opened is None or self._opened[0] != shipped:
                refuse_other_versions(self._versions)
                config, adapter = shipped.receive()
                if self._opened is not None:
                    self._opened[1].close()
                    self._opened = None
                self._base = self._base or StudentBase(config)
                self._opened = shipped, Student(self._base, adapter)
            return self._opened[1]
