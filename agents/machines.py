"""Where a run's models are: on this machine, or on a cluster. Whoever asks for one need not know.

Nothing here knows what the models are asked.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflectune.agents.listener import Listener
from reflectune.agents.pool import LocalPool, StudentPool
from reflectune.agents.processes import describe_process
from reflectune.agents.student.answering import Writer
from reflectune.agents.student.student import Student, StudentBase, settle_student
from reflectune.agents.student.vllm_writer import find_obstacle, open_writer
from reflectune.agents.teacher.engines import Batches, Engine, TeacherModel, open_engine
from reflectune.state.config import EngineConfig, RunConfig, ScaleConfig, StudentConfig
from reflectune.state.live import Worker
from reflectune.state.records import Pairs

if TYPE_CHECKING:
    from reflectune.agents.student.trainer import OnStep

__all__ = ["Machines", "open_machines", "say_one_of_each"]


class Machines(AbstractContextManager["Machines"]):
    """The models of one run. A context manager; closing gives back all that they hold.

    These are on this machine, where one base model stays open and adapters take turns. Whatever else wants a
    model of its own closes the base first: there may not be memory for both.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config, self._base = config, StudentBase(config.student)
        self._trainers: dict[int, Worker] = {}  # by their rank

    def settle_student(self) -> StudentConfig:
        """The run's student as `settle_student` makes it, where students will be."""
        return settle_student(self._config.student)

    def check_refinetune(self, config: RunConfig) -> None:
        """Do as `check_refinetune` does, where students will be trained."""
        from reflectune.agents.student.refinetune import check_refinetune

        check_refinetune(config)

    def open_students(self, adapter: Path | None) -> StudentPool:
        """Students with an adapter, or without one."""
        return LocalPool(lambda: Student(self._base, adapter))

    def open_writers(self, adapter: Path | None, answers: int) -> StudentPool | None:
        """What writes so many answers faster than students, which must be closed by then; None: nothing."""
        config, share = self._config, self._config.teacher.gpu_memory_utilization
        if find_obstacle(config.student, adapter, answers) is not None:
            return None

        def open_one() -> Writer:
            self._base.close()
            return open_writer(config.student, adapter, config.evaluate.max_tokens, share)

        return LocalPool(open_one, at_once=1)

    def open_engine(
        self,
        config: EngineConfig,
        model: TeacherModel,
        batches: Batches | None,
        stopping: Callable[[], bool],
    ) -> Engine:
        """Open the teacher's engine. One with a model of its own may close the students first."""
        if config.is_local:
            self._base.close()
        return open_engine(config, model, batches, stopping)

    def refinetune(
        self, config: RunConfig, pairs: Pairs, out: Path, *, on_step: "OnStep", **how: Any
    ) -> dict[str, float]:
        """Train a student, as `refinetune_student` does; `how` are the rest of what it takes."""
        from reflectune.agents.student.refinetune import refinetune_student  # which takes seconds to import

        def tell(step: int, steps: int, loss: float | None) -> None:
            self._trainers[0] = Worker("trainer", "1", 1, step, **describe_process())
            on_step(step, steps, loss)

        with self._training():
            return refinetune_student(config, pairs, out, on_step=tell, base=self._base, **how)

    @contextmanager
    def _training(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._trainers.clear()

    def trainers(self) -> Sequence[Worker]:
        """What each trainer does now; none while nothing is trained. For any thread; returns at once."""
        return [*self._trainers.values()]

    def __exit__(self, *error: object) -> None:
        self._base.close()


def open_machines(config: RunConfig, listener: Listener) -> Machines:
    """The machines that `scale.engine` names."""
    if config.scale.engine == "local":
        return Machines(config)
    from reflectune.agents.cluster.machines import ClusterMachines

    return ClusterMachines(config, listener)


def say_one_of_each(scale: ScaleConfig, say: Callable[[str], None]) -> None:
    """Say in a line where more are asked for than one machine has."""
    more = [key for key in ("students", "teachers", "trainers") if getattr(scale, key) > 1]
    if more and scale.engine == "local":
        keys = " and ".join(f"scale.{key} = {getattr(scale, key)}" for key in more)
        say(f'{keys}: here is one of each; more need scale.engine = "ray"')
