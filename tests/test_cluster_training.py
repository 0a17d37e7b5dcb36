"""The refinetune by Ray Train on a cluster of two nodes that share no folder of received models."""

import math
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import psutil
import pytest
import torch

from reflectune.agents.machines import open_machines
from reflectune.agents.student.trainer import StoppedError
from tests.clusters import cluster
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
    with open_machines(config) as machines:
        refinetune = partial(machines.refinetune, config, PAIRS, previous=None, round=1)
        yield refinetune, machines.trainers


def kill_a_worker():
    """End one process of Ray Train's workers."""
    ours = psutil.Process().children(recursive=True)
    next(each for each in ours if "TrainWorker" in " ".join(each.cmdline())).kill()


@pytest.mark.slow
def test_training_outlives_a_worker_and_goes_on_after_a_stop_with_another_number(
    folder,  # noqa: F811
    address,
    tmp_path,
):
    config = configure(folder, epochs=180, lr=1e-3)  # long enough to be stopped
    _, calm = train(config, tmp_path / "calm")
    told, killed, seen = [], [], set()

    def on_step(step, steps, loss):
        seen.update((each.name, each.replaced, each.done > 0, each.waits_for) for each in trainers())
        told.append((step, steps, loss))
        if not killed and step > 2 * steps // 5:  # the checkpoint of the first fifth has come
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
    assert (again - 1) % math.ceil(len(calm) / 5) == 0
    assert again > 1
    assert not out.exists()
    _, steps = train(config, out)  # on this machine, alone
    assert steps[0][0] == told[-1][0] + 1
    for step, _, loss in [*told, *steps]:
        assert loss == pytest.approx(calm[step - 1][2], rel=1e-5)
    other = weights(tmp_path / "calm")
    for name, values in weights(out).items():
        assert torch.allclose(values, other[name], atol=1e-5), name
