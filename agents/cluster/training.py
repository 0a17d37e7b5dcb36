"""The refinetune on several GPUs and nodes, by Ray Train. No disk is shared.

Workers compute. The driver keeps the hidden folder with the checkpoints, and begins again from the newest
where a worker dies. What workers say goes over a desk, an actor beside the driver.
"""

import itertools
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from reflectune.agents.cluster.connection import (
    Connection,
    last_line,
    own_versions,
    refuse_other_versions,
)
from reflectune.agents.cluster.room import Asked
from reflectune.agents.cluster.shipping import Sender, ShippedStudent
from reflectune.agents.listener import StoppedError
from reflectune.agents.processes import describe_process
from reflectune.agents.student.ranks import is_first
from reflectune.agents.student.refinetune import make_adapter, train_adapter
from reflectune.agents.student.trainer import (
    NotFiniteError,
    OnStep,
    keep_newest,
    last_whole_checkpoint,
)
from reflectune.state.config import RunConfig
from reflectune.state.errors import AdapterError, ReflectuneError
from reflectune.state.groups import in_groups
from reflectune.state.live import Worker
from reflectune.state.records import Pairs

__all__ = ["refinetune_on_cluster"]

_ATTEMPTS = 3  # without a new checkpoint
_PAIRS = 2048  # in one block
_PAUSE = 0.2  # seconds between two looks at the desk
_GOODBYE = 10.0  # seconds that workers have to end in
# What another attempt would not better.
_FINAL = (ReflectuneError, StoppedError, NotFiniteError, torch.OutOfMemoryError, OSError)
# By these transformers would know of the ranks, share the steps once more and wrap the model.
_TRACES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


def refinetune_on_cluster(
    connection: Connection,
    sender: Sender,
    asked: Asked,
    config: RunConfig,
    pairs: Pairs,
    out: Path,
    *,
    previous: Path | None,
    round: int,
    on_step: OnStep,
    is_stopping: Callable[[], bool] = lambda: False,
    trainers: dict[int, Worker],
) -> dict[str, float]:
    """Train as `refinetune_student` does, on as many workers of the cluster as are asked for.

    How many they are changes losses by their rounding alone. A training goes on here that began on one
    machine or with another number of workers, and the reverse. `trainers` gets what each does, by its rank.

    Raises:
        AdapterError: what `refinetune_student` says; workers died three times without a new checkpoint.
        ConfigError: the cluster has no room for the workers, or other versions.
        StudentError: the base model cannot be opened.
    """
    place = connection, sender, asked
    train = partial(_train, *place, config, pairs, previous, round, on_step, is_stopping, trainers)
    return make_adapter(config, pairs, out, previous=previous, round=round, train=train)


@dataclass(frozen=True)
class _Work:
    """What every worker is told."""

    config: RunConfig
    student: ShippedStudent  # with the adapter to go on with
    blocks: Sequence[Any]  # the pairs, in the object store
    round: int
    versions: dict[str, str]  # of the driver
    checkpoint: tuple[str, Any] | None  # its name, and its files in the object store
    desk: Any


class _Desk:
    """Where workers put what they have to say, and see whether to stop."""

    def __init__(self) -> None:
        self._told: list[tuple[Any, ...]] = []
        self._is_stopping = False

    def tell(self, *what: Any) -> None:
        self._told.append(what)

    def take(self, is_stopping: bool) -> list[tuple[Any, ...]]:
        self._is_stopping = is_stopping
        told, self._told = self._told, []
        return told

    def is_stopping(self) -> bool:
        return self._is_stopping


def _train(
    connection: Connection,
    sender: Sender,
    asked: Asked,
    config: RunConfig,
    pairs: Pairs,
    previous: Path | None,
    round: int,
    on_step: OnStep,
    is_stopping: Callable[[], bool],
    trainers: dict[int, Worker],
    folder: Path,
) -> dict[str, float]:
    """Do as `train_adapter` does, on workers, as often as it takes."""
    student = sender.ship_student(config.student, previous)
    blocks = [ray.put(block) for block in in_groups(pairs, _PAIRS)]
    deaths = failures = 0
    while True:
        for rank in range(config.scale.trainers):
            trainers[rank] = Worker("trainer", str(rank + 1), 0, 0, replaced=deaths, waits_for="its start")
        newest = last_whole_checkpoint(folder)
        checkpoint = None if newest is None else (newest.name, ray.put(_read(newest)))
        work = _Work(config, student, blocks, round, own_versions(), checkpoint, _open_desk())
        attempt = _Attempt(connection, asked, work, folder, on_step, is_stopping, trainers)
        metrics = attempt.run()
        if metrics is not None:
            return metrics
        deaths += 1
        failures = failures + 1 if last_whole_checkpoint(folder) == newest else 1
        if failures == _ATTEMPTS:
            raise AdapterError(
                f"{folder}: workers died {failures} times without a new checkpoint, the last one with: "
                f"{attempt.failure}; give them more memory, or lower student.batch_tokens"
            )


def _open_desk() -> Any:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, num_gpus=0)(_Desk).options(scheduling_strategy=here).remote()


class _Attempt:
    """One group of workers from its start to its end, as the driver sees it."""

    def __init__(
        self,
        connection: Connection,
        asked: Asked,
        work: _Work,
        folder: Path,
        on_step: OnStep,
        is_stopping: Callable[[], bool],
        trainers: dict[int, Worker],
    ) -> None:
        self._connection, self._asked, self._room = connection, asked, connection.wait_for(asked)
        self._work, self._folder, self._trainers = work, folder, trainers
        self._on_step, self._is_stopping = on_step, is_stopping
        self._has_begun = False
        self._metrics: dict[str, float] | None = None
        self.failure = ""  # what ended it

    def run(self) -> dict[str, float] | None:
        """The metrics, with the adapter in the folder; None where a worker died."""
        scaling = ray.train.ScalingConfig(
            num_workers=self._asked.number,
            use_gpu=self._asked.gpus > 0,
            resources_per_worker=self._asked.each,
        )
        # NCCL takes one worker a GPU; what ranks agree on is on the CPU.
        backend = ray.train.torch.TorchConfig("cpu:gloo,cuda:nccl" if self._asked.gpus >= 1 else "gloo")
        # In the main thread Ray Train would take Ctrl-C for itself.
        group = threading.Thread(target=self._fit, args=(scaling, backend), name="trainers", daemon=True)
        group.start()
        try:
            while group.is_alive():
                group.join(_PAUSE)
                self._clear_desk()
            self._clear_desk()  # its last words may have come in between
        except RayError as error:  # the desk's end
            self.failure = last_line(error)
        finally:
            ray.kill(self._work.desk)  # who is still at work ends when it asks whether to stop
            group.join(_GOODBYE)
        return self._metrics

    def _fit(self, scaling: Any, backend: Any) -> None:
        with tempfile.TemporaryDirectory() as notes:  # Ray Train's own, which nobody reads
            trainer = ray.train.torch.TorchTrainer(
                _train_on_worker,
                train_loop_config={"work": self._work},
                torch_config=backend,
                scaling_config=scaling,
                run_config=ray.train.RunConfig(
                    storage_path=notes,
                    # Only the driver knows the newest checkpoint.
                    failure_config=ray.train.FailureConfig(max_failures=0, max_preemption_failures=0),
                ),
            )
            try:
                trainer.fit()
            except (ray.train.TrainingFailedError, RayError) as error:
                self.failure = last_line(error)

    def _look(self) -> None:
        if not self._has_begun:
            self._room.look()

    def _clear_desk(self) -> None:
        self._look()
        error: BaseException | None = None
        told = self._work.desk.take.remote(self._is_stopping())
        for kind, *what in self._connection.get(told, self._look):
            self._has_begun = True
            if kind == "step":
                self._on_step(*what)
            elif kind == "worker":
                rank, told = what
                self._trainers[rank] = replace(self._trainers[rank], waits_for="", **told)
            elif kind == "checkpoint":
                _write(self._folder / what[0], what[1])
                keep_newest(self._folder)
            elif kind == "adapter":
                _write(self._folder / "adapter", what[0])
                self._metrics = what[1]
            else:
                error = error or what[0]
        if error is not None:  # a checkpoint may have come with it
            raise error


def _train_on_worker(given: dict[str, _Work]) -> None:
    """What every worker does: train as one alone would, but for what `ranks` does."""
    work = given["work"]
    for name in _TRACES:
        os.environ.pop(name, None)
    try:
        with tempfile.TemporaryDirectory(prefix="reflectune-") as folder:
            _train_here(work, Path(folder))
    except _FINAL as error:
        _tell(work.desk, "error", error)
        raise


def _train_here(work: _Work, folder: Path) -> None:
    refuse_other_versions(work.versions)
    student, previous = work.student.receive()
    device = ray.train.torch.get_device()
    if device.type != "cpu":  # else it is what the config says
        student = student.model_copy(update={"device": str(device)})
    if work.checkpoint is not None:
        name, files = work.checkpoint
        _write(folder / name, ray.get(files))
    metrics = train_adapter(
        work.config.model_copy(update={"student": student}),
        itertools.chain.from_iterable(map(ray.get, work.blocks)),
        folder,
        previous=previous,
        round=work.round,
        on_step=partial(_tell_step, work.desk),
        is_stopping=lambda: is_first() and ray.get(work.desk.is_stopping.remote()),
        on_checkpoint=lambda path: _tell(work.desk, "checkpoint", path.name, _read(path)),
    )
    if is_first():
        _tell(work.desk, "adapter", _read(folder / "adapter"), metrics)


def _tell_step(desk: Any, step: int, steps: int, loss: float | None) -> None:
    rank = ray.train.get_context().get_world_rank()
    desk.tell.remote("worker", rank, {"under_way": 1, "done": step, **describe_process()})
    if is_first():
        desk.tell.remote("step", step, steps, loss)


def _tell(desk: Any, *what: Any) -> None:
    """Put something on the desk, and wait until it is there."""
    ray.get(desk.tell.remote(*what))


def _read(folder: Path) -> dict[str, bytes]:
    """The files of a folder by their names."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
