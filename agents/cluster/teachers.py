"""Replicas of a teacher on a Ray cluster, behind the protocol of one engine.

Each replica is an actor with an engine of its own, which does the batching. A replica that dies, alone or
with its node, is replaced, and what it had not answered is asked again.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayTaskError

from reflectune.agents.cluster.connection import last_line, own_versions, refuse_other_versions
from reflectune.agents.cluster.shipping import ShippedStudent
from reflectune.agents.teacher.engines import ENGINES, Engine, OpenEngine, Request, TeacherModel, open_engine
from reflectune.state.config import EngineConfig
from reflectune.state.errors import TeacherError
from reflectune.state.live import Worker
from reflectune.state.records import Answer

__all__ = ["ReplicaEngine"]

_LIVES = 3  # replicas that may die of a request, the last one of it alone


@dataclass(eq=False)
class _Replica:
    actor: Any
    requests: dict[str, Request] = field(default_factory=dict)  # its own that are not answered
    unsent: list[Request] = field(default_factory=list)  # of these
    exchange: Any = None  # what it is asked now; it returns with the answers that are there
    is_open: bool = False
    done: int = 0


class ReplicaEngine:
    """Gives each request to the open replica with the fewest, and its answers back as they finish."""

    name: str
    parameters = ()
    waiting = ""

    def __init__(
        self,
        config: EngineConfig,
        model: TeacherModel,
        shipped: ShippedStudent,
        *,
        number: int,
        gpus: float,
        open_one: OpenEngine = open_engine,
    ) -> None:
        """Start so many replicas of a model, each with so many GPUs of one node."""
        self.name, self.model, self._section = config.engine, model.name, config.section
        self.structured = ENGINES[config.engine].takes_schemas(thinking=model.source.thinking)
        self.capacity = config.concurrency or number * config.capacity
        actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0, max_task_retries=0)(_Teacher)
        self._open_actor = partial(actor.remote, config, model, shipped, own_versions(), open_one)
        self._replicas = [self._start() for _ in range(number)]
        self._answers: deque[Answer] = deque()
        self._deaths: Counter[str] = Counter()  # request id -> replicas that died with it
        self._silent_deaths = 0  # in a row, with nothing answered

    def submit(self, request: Request) -> None:
        """Give the request to a replica, which is sent it with all others once an answer is waited for."""
        replica = min(self._replicas, key=lambda each: (not each.is_open, len(each.requests)))
        replica.requests[request.id] = request
        replica.unsent.append(request)

    def next_answer(self) -> Answer:
        """The next answer that a replica finishes."""
        while not self._answers:
            self._take(timeout=None)
        return self._answers.popleft()

    def has_answer(self) -> bool:
        """Whether an answer is there; where none is, takes in what the replicas have by now."""
        if not self._answers:
            self._take(timeout=0)
        return bool(self._answers)

    def workers(self) -> Sequence[Worker]:
        """The replicas."""
        return tuple(
            Worker("teacher", str(place), len(each.requests) - len(each.unsent), each.done, len(each.unsent))
            for place, each in enumerate([*self._replicas], start=1)
        )

    def close(self) -> None:
        """End the replicas."""
        for replica in self._replicas:
            ray.kill(replica.actor)

    def _start(self) -> _Replica:
        actor = self._open_actor()
        return _Replica(actor, exchange=actor.exchange.remote([]))

    def _exchange(self, replica: _Replica) -> None:
        """Hand over what was not sent, unless the replica still has something to tell.

        What all replicas but the last died with is sent by itself: nothing else shall be suspected.
        """
        if replica.exchange is not None or not replica.requests:
            return
        sent = replica.unsent
        if suspects := [request for request in sent if self._deaths[request.id] == _LIVES - 1]:
            is_idle = len(replica.unsent) == len(replica.requests)
            sent = suspects[:1] if is_idle else []
        replica.unsent = [request for request in replica.unsent if request not in sent]
        replica.exchange = replica.actor.exchange.remote(sent)

    def _take(self, timeout: float | None) -> None:
        """Send what there is to send, and take in what replicas tell, once one does."""
        for replica in self._replicas:
            self._exchange(replica)
        asked = {each.exchange: each for each in self._replicas if each.exchange is not None}
        for told in ray.wait([*asked], timeout=timeout)[0] if asked else ():
            replica = asked[told]
            try:
                answers: list[Answer] = ray.get(told)
            except RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayError as error:
                self._replace(replica, error)
                continue
            replica.exchange, replica.is_open = None, True
            for answer in answers:
                del replica.requests[answer.request_id]
                self._silent_deaths = 0
            replica.done += len(answers)
            self._answers += answers

    def _replace(self, replica: _Replica, error: Exception) -> None:
        """Start another in the place of a replica that died, and ask others what it had not answered."""
        reason = last_line(error)
        self._silent_deaths += 1
        if self._silent_deaths > _LIVES * len(self._replicas):
            message = f"{self._section} {self.model}: its replicas die one after the other: {reason}"
            raise TeacherError(message) from error
        ray.kill(replica.actor)  # it may only be out of reach
        self._replicas[self._replicas.index(replica)] = self._start()
        self._deaths.update(replica.requests.keys() - {request.id for request in replica.unsent})
        for request in replica.requests.values():
            if self._deaths[request.id] < _LIVES:
                self.submit(request)
                continue
            message = f"{_LIVES} replicas died with it, the last one with: {reason}"
            self._answers.append(Answer(request.id, error="refused-request", message=message))


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
        self._engine: Engine | None = None
        self._under_way = 0

    def exchange(self, requests: Sequence[Request]) -> list[Answer]:
        """Take more requests, and tell the answers that are there once one is; none where none is due."""
        if self._engine is None:
            self._engine = self._open()
        for request in requests:
            self._engine.submit(request)
        self._under_way += len(requests)
        answers: list[Answer] = []
        while len(answers) < self._under_way and (not answers or self._engine.has_answer()):
            answers.append(self._engine.next_answer())
        self._under_way -= len(answers)
        return answers

    def _open(self) -> Engine:
        refuse_other_versions(self._versions)
        source, adapter = self._shipped.receive()
        model = TeacherModel(self._model.name, source, adapter, self._model.adapter_hash)
        return self._open_one(self._config, model, None, lambda: False)
