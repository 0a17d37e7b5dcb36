"""Replicas of a teacher on a Ray cluster, behind the protocol of one engine.

Each replica is an actor with an engine of its own, which does the batching. A replica that dies, alone or
with its node, is replaced, and what it had not answered is asked again.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayTaskError

from reflectune.agents.cluster.connection import last_line, own_versions, refuse_other_versions
from reflectune.agents.cluster.places import Places
from reflectune.agents.cluster.room import Asked
from reflectune.agents.cluster.shipping import ShippedStudent
from reflectune.agents.processes import describe_process
from reflectune.agents.teacher.engines import OpenEngine, Request, TeacherModel, open_engine
from reflectune.state.config import EngineConfig
from reflectune.state.errors import TeacherError
from reflectune.state.live import Worker
from reflectune.state.records import Answer

__all__ = ["ReplicaEngine"]

_SLICE = 0.2  # seconds within which a wish to stop is noticed
_DESCRIBED_EVERY = 2.0  # seconds
_LIVES = 3  # replicas that may die of a request, the last one of it alone


_UNKNOWN = Worker("teacher", "", 0, 0)


@dataclass(eq=False)
class _Replica:
    actor: Any
    asked: Any  # what it is doing; it returns with the answers that are there
    requests: dict[str, Request] = field(default_factory=dict)  # sent to it, and not answered
    is_placed: bool = False  # on a node that has room
    is_open: bool = False
    replaced: int = 0  # others that died in this place
    done: int = 0  # theirs too
    told: Worker = _UNKNOWN  # by itself: where it is and what it holds

    def describe(self, place: int, queued: int) -> Worker:
        """What it does. For any thread."""
        return replace(
            self.told,
            name=str(place),
            under_way=len(self.requests),
            done=self.done,
            queued=queued,
            replaced=self.replaced + self.told.replaced,
            waits_for="" if self.is_open else "its model" if self.is_placed else "its start",
        )


class ReplicaEngine:
    """One queue, from which each open replica takes its share, and gives answers back as they finish."""

    name: str
    parameters = ()

    def __init__(
        self,
        config: EngineConfig,
        model: TeacherModel,
        shipped: ShippedStudent,
        asked: Asked,
        places: Places,
        stopping: Callable[[], bool] = lambda: False,
        *,
        open_one: OpenEngine = open_engine,
    ) -> None:
        """Start as many replicas of a model as are asked for, each on one node.

        While somebody is `stopping`, nobody waits for a replica to open.
        """
        self.name, self.model = config.engine, model.name
        self.structured = config.takes_schemas(thinking=model.source.thinking)
        self.capacity = config.concurrency or asked.number * config.capacity
        self._asked, self._places, self._stopping = asked, places, stopping
        once = {"max_restarts": 0, "max_task_retries": 0}
        self._actor = ray.remote(num_cpus=asked.cpus, num_gpus=asked.gpus, **once)(_Teacher)
        self._settings = config, model, shipped, own_versions(), open_one
        self._replicas = [self._start(place) for place in range(1, asked.number + 1)]
        self._none_open_since = time.monotonic()
        self._queue: deque[Request] = deque()
        self._suspects: deque[Request] = deque()  # that all replicas but the last died with
        self._answers: deque[Answer] = deque()
        self._deaths: Counter[str] = Counter()  # request id -> replicas that died with it
        self._silent_deaths = 0  # in a row, with nothing answered

    def submit(self, request: Request) -> None:
        """Queue the request; it is sent with all others once an answer is waited for."""
        self._queue.append(request)

    def next_answer(self) -> Answer:
        """The next answer that a replica finishes."""
        while not self._answers:
            self._take(_SLICE)
            if self._stopping() and not self._is_open:
                raise TeacherError(f"teacher {self.model}: {self.waiting}")
        return self._answers.popleft()

    def has_answer(self) -> bool:
        """Whether an answer is there; where none is, takes in what the replicas have by now."""
        if not self._answers:
            self._take(timeout=0)
        return bool(self._answers)

    def workers(self) -> Sequence[Worker]:
        """The replicas; what is queued is queued for all of them, and told where there is one."""
        replicas = [*self._replicas]
        queued = len(self._queue) if len(replicas) == 1 else 0
        return tuple(each.describe(place, queued) for place, each in enumerate(replicas, start=1))

    @property
    def waiting(self) -> str:
        """What keeps all replicas from opening, and for how long by now; empty once one is open."""
        if self._is_open:
            return ""
        seconds = time.monotonic() - self._none_open_since
        if any(replica.is_placed for replica in self._replicas):
            return f"waiting for the model to open: {seconds:.0f} s"
        return (
            f"waiting for room on the cluster: {seconds:.0f} s (a replica asks for {self._asked.place} of "
            "one node)"
        )

    def close(self) -> None:
        """End the replicas."""
        for replica in self._replicas:
            ray.kill(replica.actor)

    @property
    def _is_open(self) -> bool:
        return any(replica.is_open for replica in self._replicas)

    def _start(self, place: int, replaced: int = 0, done: int = 0) -> _Replica:
        where = self._places.find(self._asked.key, place)
        actor = self._actor.options(scheduling_strategy=where).remote(*self._settings)
        return _Replica(actor, asked=actor.wait_for.remote(), replaced=replaced, done=done)

    def _take(self, timeout: float) -> None:
        """Send what there is to send, and take in what replicas tell, once one does."""
        self._hand_out()
        asked = {each.asked: each for each in self._replicas if each.asked is not None}
        for told in ray.wait([*asked], timeout=timeout)[0] if asked else ():
            replica = asked[told]
            try:
                answers, worker = ray.get(told)
            except RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayError as error:
                self._replace(replica, error)
                continue
            replica.told = worker or replica.told
            if not replica.is_placed:
                replica.is_placed, replica.asked = True, replica.actor.open.remote()
                continue
            replica.asked, replica.is_open = None, True
            for answer in answers:
                del replica.requests[answer.request_id]
                self._deaths.pop(answer.request_id, None)
                self._silent_deaths = 0
            replica.done += len(answers)
            self._answers += answers

    def _hand_out(self) -> None:
        """Give each open replica that has told what it had its share of all that is unanswered."""
        opened = [replica for replica in self._replicas if replica.is_open]
        unanswered = len(self._queue) + sum(len(replica.requests) for replica in opened)
        most = math.ceil(self.capacity / len(self._replicas))
        for replica in opened:
            if replica.asked is None:
                share = min(most, math.ceil(unanswered / len(opened)))
                sent = self._next_for(replica, share)
                replica.requests |= {request.id: request for request in sent}
                if replica.requests:
                    replica.asked = replica.actor.exchange.remote(sent)

    def _next_for(self, replica: _Replica, share: int) -> list[Request]:
        """What a replica is sent. A suspect is sent by itself: nothing else shall be suspected."""
        if self._suspects:
            return [] if replica.requests else [self._suspects.popleft()]
        if any(self._is_suspect(id) for id in replica.requests):
            return []
        number = min(len(self._queue), share - len(replica.requests))
        return [self._queue.popleft() for _ in range(number)]

    def _is_suspect(self, request_id: str) -> bool:
        return self._deaths[request_id] == _LIVES - 1

    def _replace(self, replica: _Replica, error: Exception) -> None:
        """Start another in the place of a replica that died, and queue what it had not answered."""
        reason = last_line(error)
        self._silent_deaths += 1
        if self._silent_deaths > _LIVES * len(self._replicas):
            message = f"teacher {self.model}: its replicas die one after the other: {reason}"
            raise TeacherError(message) from error
        ray.kill(replica.actor)  # it may only be out of reach
        at = self._replicas.index(replica)
        self._replicas[at] = self._start(at + 1, replica.replaced + 1, replica.done)
        if replica.is_open and not self._is_open:
            self._none_open_since = time.monotonic()
        for request in reversed(replica.requests.values()):
            self._deaths[request.id] += 1
            if self._deaths[request.id] == _LIVES:
                message = f"{_LIVES} replicas died with it, the last one with: {reason}"
                self._answers.append(Answer(request.id, error="refused-request", message=message))
            else:
                (self._suspects if self._is_suspect(request.id) else self._queue).appendleft(request)


class _Teacher:
    """An engine on a node. One call at a time: engines are for one thread."""

    def __init__(
        self,
        config: EngineConfig,
        model: TeacherModel,
        shipped: ShippedStudent,
        versions: dict[str, str],
        open_one: OpenEngine,
    ) -> None:
        self._config, self._model, self._shipped = config, model, shipped
        self._versions, self._open_one = versions, open_one
        self._under_way = 0
        self._described = -math.inf  # when it last told where it is and what it holds

    def wait_for(self) -> tuple[list[Answer], Worker]:
        """Return once the replica is there."""
        return [], replace(_UNKNOWN, **describe_process())

    def open(self) -> tuple[list[Answer], Worker | None]:
        """Open the engine; there are no answers yet."""
        refuse_other_versions(self._versions)
        source, adapter = self._shipped.receive()
        model = TeacherModel(self._model.name, source, adapter, self._model.adapter_hash)
        self._engine = self._open_one(self._config, model, None, lambda: False)
        return [], self._describe()

    def exchange(self, requests: Sequence[Request]) -> tuple[list[Answer], Worker | None]:
        """Take more requests, and tell the answers that are there once one is.

        Now and then it also tells where it is and what it holds.
        """
        for request in requests:
            self._engine.submit(request)
        self._under_way += len(requests)
        answers: list[Answer] = []
        while len(answers) < self._under_way and (not answers or self._engine.has_answer()):
            answers.append(self._engine.next_answer())
        self._under_way -= len(answers)
        return answers, self._describe()

    def _describe(self) -> Worker | None:
        if (now := time.monotonic()) - self._described < _DESCRIBED_EVERY:
            return None
        self._described = now
        found = self._engine.workers()  # an engine with one model has one
        return found[0] if found else replace(_UNKNOWN, **describe_process())
