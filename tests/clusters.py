"""Ray clusters of several nodes on this machine, each node with a folder for what it receives."""

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reflectune.state.errors import StudentError

# Before ray is imported: nobody else shall use the cluster, or be told of it.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@contextmanager
def cluster(cpus: Sequence[int] = (1, 1)) -> Iterator[Any]:
    """A cluster with a node for each number of CPUs, the first one its head. Skips where ray is missing."""
    pytest.importorskip("ray", reason="ray is not installed; `pip install 'reflectune[ray]'`")
    from ray.cluster_utils import Cluster

    folder = Path(tempfile.mkdtemp(prefix="r-"))  # paths of sockets must be short
    (folder / "ray").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(folder))  # also for the note of which cluster is the newest
        started = Cluster()
        try:
            for number, count in enumerate(cpus):
                head = {"include_dashboard": False} if number == 0 else {}
                add_node(started, folder / f"node-{number}", num_cpus=count, **head)
            yield started
        finally:
            started.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def add_node(started: Any, received: Path, **how: Any) -> Any:
    """Another node, which keeps what it receives in a folder of its own."""
    settings = {"num_gpus": 0, "object_store_memory": 80 * 2**20}
    return started.add_node(env_vars={"XDG_CACHE_HOME": str(received)}, **settings | how)


# What workers do for tests: of a module that they can import


def give(number: int, student: Any) -> int:
    return number


def fail(student: Any) -> None:
    raise StudentError("out of memory; lower student.batch_tokens")


def kill_worker(deaths: Path, most: int, student: Any) -> str:
    """Kill the worker that does this, so many times at most."""
    died = len(list(deaths.iterdir())) if deaths.exists() else 0
    if died < most:
        deaths.mkdir(exist_ok=True)
        (deaths / str(died)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return f"survived {died}"


def receive_elsewhere(shipment: Any) -> tuple[str, list[str]]:
    """Where a node keeps what it has received, as if it had no disk in common with the driver."""
    from unittest import mock

    from reflectune.agents.cluster import shipping

    has_content = shipping._has_content

    def has_received(path: Path, wanted: str) -> bool:
        return path != shipment.path and has_content(path, wanted)

    with mock.patch.object(shipping, "_has_content", has_received):
        received = [shipment.receive() for _ in range(2)]
    assert received[0] == received[1]
    return str(received[0]), sorted(file.read_bytes().hex() for file in received[0].iterdir())
