"""Ray clusters of several nodes on this machine, each node with a folder for what it receives."""

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import psutil
import pytest

from reflectune.state.errors import StudentError

# Before ray is imported: nobody else shall use the cluster, or be told of it.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


_NO_WORKERS = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")  # a node ends with its agents


class Nodes:
    """A running cluster, any part of which can be killed."""

    def __init__(self, folder: Path, cpus: Sequence[int], gpus: Sequence[int]) -> None:
        from ray.cluster_utils import Cluster

        self._folder, self._cluster = folder, Cluster()
        self._nodes = [*zip_longest(cpus, gpus, fillvalue=0)]
        self._added = 0
        self._start({})

    @property
    def address(self) -> str:
        """Where its head is."""
        return str(self._cluster.address)

    def workers(self) -> list[psutil.Process]:
        """The processes that work for a driver."""
        raylets = [node.all_processes["raylet"][0].process.pid for node in self._cluster.list_all_nodes()]
        return [
            process
            for raylet in raylets
            for process in psutil.Process(raylet).children()
            if (name := title(process)).startswith("ray::") and not name.startswith(_NO_WORKERS)
        ]

    def replace_a_node(self) -> None:
        """Kill a node that is not the head; another joins."""
        self._cluster.remove_node(next(iter(self._cluster.worker_nodes)), allow_graceful=False)
        self._add(*self._nodes[-1])

    def start_anew(self) -> None:
        """Kill head and nodes, and start others at the same address."""
        port = int(self.address.rpartition(":")[2])
        self._cluster.remove_node(self._cluster.head_node, allow_graceful=False)
        self.end()
        self._cluster = type(self._cluster)()
        self._start({"gcs_server_port": port})

    def end(self) -> None:
        """Kill head and nodes."""
        self._cluster.shutdown()

    def _start(self, of_head: dict[str, Any]) -> None:
        for number, node in enumerate(self._nodes):
            self._add(*node, **({"include_dashboard": False} | of_head if number == 0 else {}))

    def _add(self, cpus: int, gpus: int, **how: Any) -> None:
        """Start a node, which keeps what it receives in a folder of its own."""
        self._added += 1
        settings = {"num_cpus": cpus, "num_gpus": gpus, "object_store_memory": 80 * 2**20}
        received = str(self._folder / f"node-{self._added}")
        self._cluster.add_node(env_vars={"XDG_CACHE_HOME": received}, **settings | how)


def title(process: psutil.Process) -> str:
    """What a process calls itself; nothing where it has just ended."""
    try:
        return str(process.cmdline()[0])
    except (psutil.Error, IndexError):
        return ""


@contextmanager
def cluster(cpus: Sequence[int] = (1, 1), gpus: Sequence[int] = ()) -> Iterator[Nodes]:
    """A cluster with a node for each number of CPUs, the first one its head. Skips where ray is missing.

    `gpus` are what the nodes say they have, by default none.
    """
    pytest.importorskip("ray", reason="ray is not installed; `pip install 'reflectune[ray]'`")
    folder = Path(tempfile.mkdtemp(prefix="r-"))  # paths of sockets must be short
    (folder / "ray").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(folder))  # also for the note of which cluster is the newest
        nodes = Nodes(folder, cpus, gpus)
        try:
            yield nodes
        finally:
            nodes.end()
            shutil.rmtree(folder, ignore_errors=True)


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
