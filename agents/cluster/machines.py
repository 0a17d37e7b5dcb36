"""A Ray cluster as the place of a run's models. The driver's own machine need have no GPU."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError

from reflectune.agents.cluster.connection import connect, last_line, own_versions, refuse_other_versions
from reflectune.agents.cluster.places import Places
from reflectune.agents.cluster.room import ask_for_students, ask_for_teachers, refuse_lack
from reflectune.agents.cluster.shipping import Sender, ShippedStudent
from reflectune.agents.cluster.students import RayPool, StudentWorkers
from reflectune.agents.cluster.teachers import ReplicaEngine
from reflectune.agents.listener import Listener
from reflectune.agents.machines import Machines
from reflectune.agents.pool import StudentPool
from reflectune.agents.student.refinetune import check_refinetune
from reflectune.agents.student.student import settle_student
from reflectune.agents.teacher.engines import Batches, Engine, TeacherModel
from reflectune.state.config import EngineConfig, RunConfig, StudentConfig
from reflectune.state.errors import StudentError

__all__ = ["ClusterMachines"]


class ClusterMachines(Machines):
    """Workers of a cluster, which this process tells what to do while it keeps the lineage."""

    def __init__(self, config: RunConfig, listener: Listener) -> None:
        super().__init__(config)
        self._listener = listener
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        config = self._config
        with ExitStack() as stack:
            connection = connect(config.scale, self._listener)
            self._connection = stack.enter_context(connection)
            self._asked_students = ask_for_students(config, "students")
            self._asked_trainers = ask_for_students(config, "trainers")
            self._places = self._plan_places()
            self._sender = Sender()
            self._workers = StudentWorkers(self._asked_students, self._connection, self._places)
            stack.callback(self._workers.close)
            self._stack = stack.pop_all()
        return self

    def _plan_places(self) -> Places:
        """Places for who is at work at once; ConfigError where the cluster could never hold them."""
        scale, teacher = self._config.scale, self._config.teacher
        refuse_lack(self._asked_trainers)
        others = [ask_for_teachers(scale, teacher)] if teacher.is_local else []
        if scale.overlap and others:
            refuse_lack(self._asked_students, *others)
            return Places(self._asked_students, *others)
        for alone in (self._asked_students, *others):
            refuse_lack(alone)
        return Places()

    def settle_student(self) -> StudentConfig:
        """The run's student, settled on a worker."""
        ours = self._config.student
        settled: StudentConfig = self._ask_worker(_settle, self._sender.ship_student(ours, None))
        return settled.model_copy(update={"model": ours.model, "template": ours.template})

    def check_refinetune(self, config: RunConfig) -> None:
        """Do as `check_refinetune` does, on a worker."""
        self._ask_worker(_check, self._sender.ship_student(config.student, None), config)

    def open_students(self, adapter: Path | None) -> StudentPool:
        """The pool of the workers' students."""
        self._places.take()
        return RayPool(self._workers, self._sender.ship_student(self._config.student, adapter))

    def open_writers(self, adapter: Path | None, answers: int) -> None:
        """Nothing: the students of many workers write at once."""

    def open_engine(
        self,
        config: EngineConfig,
        model: TeacherModel,
        batches: Batches | None,
        stopping: Callable[[], bool],
    ) -> Engine:
        """The engine; replicas with models of their own take the students' place, unless both overlap."""
        if not config.is_local:
            return super().open_engine(config, model, batches, stopping)
        if self._config.scale.overlap and config == self._config.teacher:
            self._places.take()
        else:
            self._make_room()
        asked = ask_for_teachers(self._config.scale, config)
        refuse_lack(asked)
        shipped = self._sender.ship_student(model.source, model.adapter)
        return ReplicaEngine(config, model, shipped, asked, self._places, stopping)

    def _make_room(self) -> None:
        """Let the students go: somebody else is to have their places."""
        self._workers.close()
        self._places.give_back()

    def refinetune(self, *training: Any, **how: Any) -> dict[str, float]:
        """Train on workers, which have the place of the students."""
        from reflectune.agents.cluster.training import refinetune_on_cluster  # importing it takes seconds

        self._make_room()
        place = self._connection, self._sender, self._asked_trainers
        with self._training():
            return refinetune_on_cluster(*place, *training, trainers=self._trainers, **how)

    def _ask_worker(self, work: Callable[..., Any], *arguments: object) -> Any:
        """What a function returns that runs on a worker, where a student finds room."""
        asked = replace(self._asked_students, number=1)
        on_worker = ray.remote(num_cpus=asked.cpus, num_gpus=asked.gpus)(work)
        try:
            answer = on_worker.remote(own_versions(), *arguments)
            return self._connection.get(answer, self._connection.wait_for(asked).look)
        except RayTaskError as error:
            raise error.cause from error
        except RayError as error:
            raise StudentError(
                f"{self._config.student.model}: a worker of the cluster died: {last_line(error)}"
            ) from error

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        super().__exit__(*error)


def _settle(versions: dict[str, str], student: ShippedStudent) -> StudentConfig:
    refuse_other_versions(versions)
    return settle_student(student.receive()[0])


def _check(versions: dict[str, str], student: ShippedStudent, config: RunConfig) -> None:
    refuse_other_versions(versions)
    check_refinetune(config.model_copy(update={"student": student.receive()[0]}))
