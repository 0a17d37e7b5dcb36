"""A Ray cluster as the place of a run's models. The driver's own machine need have no GPU."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError

from reflectune.agents.cluster.connection import (
    connect,
    gpus_each,
    own_versions,
    refuse_lack,
    refuse_other_versions,
)
from reflectune.agents.cluster.shipping import Sender, ShippedStudent
from reflectune.agents.cluster.students import RayPool, StudentWorkers
from reflectune.agents.cluster.teachers import ReplicaEngine
from reflectune.agents.machines import LocalMachines
from reflectune.agents.pool import StudentPool
from reflectune.agents.student.refinetune import check_refinetune
from reflectune.agents.student.student import settle_student
from reflectune.agents.teacher.engines import ENGINES, Batches, Engine, TeacherModel
from reflectune.state.config import EngineConfig, RunConfig, StudentConfig
from reflectune.state.errors import StudentError

__all__ = ["ClusterMachines"]


class ClusterMachines(LocalMachines):
    """Workers of a cluster, which this process tells what to do while it keeps the lineage."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        scale, threads = self._config.scale, self._config.student.threads
        with ExitStack() as stack:
            stack.enter_context(connect(scale))
            gpus = gpus_each(scale.gpus_per_student)
            cpus = 1 if gpus else threads or 1
            refuse_lack("students", scale.students, gpus=gpus, cpus=cpus)
            self._sender = Sender()
            self._workers = StudentWorkers(scale.students, cpus=cpus, gpus=gpus)
            stack.callback(self._workers.close)
            self._stack = stack.pop_all()
        return self

    def settle_student(self) -> StudentConfig:
        """The run's student, settled on a worker."""
        ours = self._config.student
        settled: StudentConfig = self._ask_worker(_settle, self._sender.ship_student(ours, None))
        return settled.model_copy(update={"model": ours.model, "template": ours.template})

    def check_refinetune(self, config: RunConfig) -> None:
        """Train on one text, on a worker."""
        self._ask_worker(_check, self._sender.ship_student(config.student, None), config)

    def open_students(self, adapter: Path | None) -> StudentPool:
        """The pool of the workers' students."""
        return RayPool(self._workers, self._sender.ship_student(self._config.student, adapter))

    def find_writer(self, adapter: Path | None, answers: int) -> None:
        """Nothing: the students of many workers write at once."""

    def open_engine(
        self,
        config: EngineConfig,
        model: TeacherModel,
        batches: Batches | None,
        stopping: Callable[[], bool],
    ) -> Engine:
        """The engine; replicas with models of their own take the students' place, unless both overlap."""
        if not ENGINES[config.engine].is_local:
            return super().open_engine(config, model, batches, stopping)
        scale = self._config.scale
        if not scale.overlap:
            self._workers.close()
        gpus = gpus_each(scale.gpus_per_teacher, unset=config.tensor_parallel_size or 1)
        refuse_lack("teachers", scale.teachers, gpus=gpus, cpus=1)
        shipped = self._sender.ship_student(model.source, model.adapter)
        return ReplicaEngine(config, model, shipped, stopping, number=scale.teachers, gpus=gpus)

    def refinetune(self, *training: Any, **how: Any) -> dict[str, float]:
        """Train on workers, which have the place of the students."""
        from reflectune.agents.cluster.training import refinetune_on_cluster  # importing it takes seconds

        self._workers.close()
        with self._training():
            return refinetune_on_cluster(*training, sender=self._sender, trainers=self._trainers, **how)

    def _ask_worker(self, work: Callable[..., Any], *arguments: object) -> Any:
        """What a function returns that runs on a worker, where a student finds room."""
        on_worker = ray.remote(num_cpus=1, num_gpus=gpus_each(self._config.scale.gpus_per_student))(work)
        try:
            return ray.get(on_worker.remote(own_versions(), *arguments))
        except RayTaskError as error:
            raise error.cause from error
        except RayError as error:
            reason = str(error).strip().partition("\n")[0]
            raise StudentError(
                f"{self._config.student.model}: a worker of the cluster died: {reason}"
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
