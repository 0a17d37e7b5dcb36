"""The refinetune by Ray Train on a cluster of two nodes that share no folder of received models."""

import asyncio
import math
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from unittest.mock import Mock

import psutil
import pytest
import torch

from reflectune.agents.listener import Listener, StoppedError
from reflectune.agents.machines import open_machines
from reflectune.agents.student.trainer import NotFiniteError
from reflectune.state.config import ScaleConfig
from reflectune.state.errors import AdapterError
from tests.clusters import cluster, title
from tests.test_refinetune import PAIRS, configure, folder, train, weights  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def address():
    with cluster((1, 1)) as started:
        yield started.address


@contextmanager
def training_on(address, config, trainers):
    """`machines.refinetune` with so many workers, and what tells of them."""
    scale = {"engine": "ray", "address": address, "trainers": trainers}
    config = type(config).model_validate(config.model_dump() | {"scale": scale})
    with open_machines(config, Listener()) as machines:
        refinetune = partial(machines.refinetune, config, PAIRS, previous=None, round=1)
        yield refinetune, machines.trainers


def kill_a_worker():
    """End one process of Ray Train's workers."""
    ours = psutil.Process().children(recursive=True)
    next(each for each in ours if "TrainWorker" in title(each)).kill()


class Sender:
    """In the place of one that sends models: whoever receives something meets with a fault."""

    def __init__(self, fault):
        self._fault = fault

    def ship_student(self, student, adapter):
        return self

    def receive(self):
        raise self._fault


FAULTS = {
    "not finite": (NotFiniteError("loss is not finite"), "loss is not finite; try a lower refinetune.lr"),
    "memory": (torch.OutOfMemoryError("out of memory"), "memory; end what else uses the student's device"),
    "deaths": (
        MemoryError("killed"),
        "workers died 3 times without a new checkpoint, the last .*killed",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_worker_ends_the_training_as_what_it_is(
    folder,  # noqa: F811
    address,
    tmp_path,
    monkeypatch,
    fault,
):
    from reflectune.agents.cluster import training
    from reflectune.agents.cluster.connection import connect
    from reflectune.agents.cluster.room import Asked

    def fit_here(attempt, *how):
        """Do what a worker does, in the place of Ray Train, whose start takes seconds."""
        try:
            training._train_on_worker({"work": attempt._work})
        except Exception as error:  # noqa: BLE001 - as Ray Train
            attempt.failure = str(error)

    monkeypatch.setattr(training._Attempt, "_fit", fit_here)
    error, message = FAULTS[fault]
    with connect(ScaleConfig(engine="ray", address=address)) as connection:
        place = connection, Sender(error), Asked("trainers", 1, gpus=0, cpus=1)
        how = {"previous": None, "round": 1, "on_step": print, "trainers": {}}
        with pytest.raises(AdapterError, match=message):
            training.refinetune_on_cluster(*place, configure(folder), PAIRS, tmp_path / "a", **how)


def test_a_desk_that_does_not_answer_is_not_waited_for_in_silence(monkeypatch):
    pytest.importorskip("ray", reason="ray is not installed")
    from reflectune.agents.cluster import connection, room, training

    monkeypatch.setattr(connection, "_LOOK", 0.01)
    monkeypatch.setattr(room, "_SILENCE", 0.0)
    monkeypatch.setattr(room, "_describe_room", lambda asked: "the cluster has 2 CPU, 2 free")
    said, answer, desk = [], Future(), Mock()
    desk.take.remote.return_value.future.return_value = answer

    listener = Listener(said.append, iter((False, False, True)).__next__)
    asked = room.Asked("trainers", 2, gpus=0, cpus=1)
    place = connection.Connection(listener), asked, Mock(desk=desk), None
    attempt = training._Attempt(*place, on_step=print, is_stopping=bool, trainers={})
    with pytest.raises(StoppedError, match=r"stopped before scale.trainers = 2 with 1 CPU each answered"):
        attempt._clear_desk()
    line = "none has answered yet; the cluster has 2 CPU, 2 free; waiting for them"
    assert said == [f"scale.trainers = 2 with 1 CPU each: {line}"]


@pytest.mark.slow
def test_training_outlives_a_worker_and_goes_on_after_a_stop_with_another_number(
    folder,  # noqa: F811
    address,
    tmp_path,
    monkeypatch,
):
    from reflectune.agents.cluster import training

    class StepByStep(training._Desk):
        """No worker goes on before the driver has heard of its step, so none ends before it is stopped."""

        async def is_stopping(self):
            while self._told:
                await asyncio.sleep(0.01)
            return super().is_stopping()

    monkeypatch.setattr(training, "_Desk", StepByStep)
    monkeypatch.setattr(training, "_PAUSE", 0.02)
    config = configure(folder, epochs=10, lr=1e-3)
    _, calm = train(config, tmp_path / "calm")
    told, killed, seen = [], [], set()

    def on_step(step, steps, loss):
        seen.update((each.name, each.replaced, each.done > 0, each.waits_for) for each in trainers())
        told.append((step, steps, loss))
        if not killed and step == 2 * math.ceil(steps / 5) + 2:  # well after the second checkpoint
            killed.append(step)
            kill_a_worker()

    def has_begun_again():
        return any(later[0] <= earlier[0] for earlier, later in pairwise(told))

    out = tmp_path / "adapter"
    with (
        training_on(address, config, 2) as (refinetune, trainers),
        pytest.raises(StoppedError, match="after step"),
    ):
        refinetune(out, on_step=on_step, is_stopping=has_begun_again)
    assert seen >= {(name, replaced, True, "") for name in "12" for replaced in (0, 1)}
    assert trainers() == []
    again = next(later[0] for earlier, later in pairwise(told) if later[0] <= earlier[0])
    assert again == 2 * math.ceil(len(calm) / 5) + 1
    assert not out.exists()
    _, steps = train(config, out)  # on this machine, alone
    assert steps[0][0] == told[-1][0] + 1
    for step, _, loss in [*told, *steps]:
        assert loss == pytest.approx(calm[step - 1][2], rel=1e-5)
    other = weights(tmp_path / "calm")
    for name, values in weights(out).items():
        assert torch.allclose(values, other[name], atol=1e-5), name
