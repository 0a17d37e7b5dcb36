"""Students on a Ray cluster of two nodes: the lineage of a run, workers that die, and what is shipped."""

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from unittest import mock

import pytest

from reflectune.agents.listener import Listener, StoppedError
from reflectune.state.config import RunConfig, load_config
from reflectune.state.errors import ConfigError, StudentError
from tests.clusters import Nodes, cluster, fail, give, kill_worker, receive_elsewhere
from tests.lives import Life, started
from tests.torture import read_tables
from tests.worlds import reflectune, write_world

pytestmark = [pytest.mark.slow, pytest.mark.no_cover]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with cluster() as started:
        yield started


@pytest.fixture(scope="module")
def address(nodes: Nodes) -> str:
    return nodes.address


def configure(folder: Path, **scale: Any) -> RunConfig:
    return load_config(write_world(folder, scale={"engine": "ray"} | scale))


def test_a_run_all_of_whose_parts_are_killed_has_the_lineage_of_one_on_this_machine(
    nodes: Nodes, finished_world: Path, tmp_path: Path
) -> None:
    def live(*words: object, until: dict[str, Callable[[Life], object]]) -> tuple[int, str]:
        with started(*words, "--runs", tmp_path, folder=finished_world) as life:
            for sign, strike in until.items():
                assert life.live_until(lambda life, sign=sign: sign in life.text), life.text
                strike(life)
            return life.end(), life.text

    scale = {"engine": '"ray"', "address": f'"{nodes.address}"', "students": "2"}
    words = [word for key, value in scale.items() for word in ("--set", f"scale.{key}={value}")]
    code, text = live(
        *("run", "config.toml", "--set", "rounds=1", *words),
        until={
            "round 1 · select · instruction": lambda life: nodes.workers()[0].kill(),
            "round 1 · select · response": lambda life: nodes.replace_a_node(),
            "round 1 · refinetune": lambda life: nodes.start_anew(),
        },
    )
    assert code == 1
    last = text.splitlines()[-1]
    assert last.startswith(f"reflectune: the Ray cluster {nodes.address} is lost: its head is gone")
    assert last.endswith(f"start the cluster again (go on with `reflectune resume tiny --runs {tmp_path}`)")
    code, text = live("resume", "tiny", until={"round 1 · evaluate": lambda life: life.send(signal.SIGKILL)})
    assert code == -signal.SIGKILL
    code, text = live("resume", "tiny", until={})
    assert code == 0, text
    local, there = (
        {table: [row for row in rows if dict(row).get("round", 0) < 2] for table, rows in tables.items()}
        for tables in (read_tables(finished_world / "runs/tiny"), read_tables(tmp_path / "tiny"))
    )
    assert len(local["decisions"]) == len(there["decisions"]) > 50
    for table in ("samples", "teacher_calls", "versions", "decisions", "training_sets", "evaluations"):
        assert there[table] == local[table], table
    assert set(there["scores"]) <= set(local["scores"])
    assert len(there["scores"]) > 300
    assert (tmp_path / "tiny/adapters/round-01/adapter_model.safetensors").read_bytes() == (
        finished_world / "runs/tiny/adapters/round-01/adapter_model.safetensors"
    ).read_bytes()


def test_a_worker_that_dies_is_replaced_and_a_job_that_kills_three_is_named(
    address: str, tmp_path: Path
) -> None:
    from reflectune.agents.cluster.machines import ClusterMachines

    config = configure(tmp_path, address=address, students=2)
    with ClusterMachines(config, Listener()) as machines, machines.open_students(None) as pool:
        assert pool.at_once == 4
        killing = pool.submit(partial(kill_worker, tmp_path / "once", 1), "samples a to b")
        given = [pool.submit(partial(give, number), size=2) for number in range(20)]
        assert {(each.name, each.waits_for) for each in pool.workers()} <= {
            (name, reason) for name in "12" for reason in ("", "its start")
        }
        assert [future.result(300) for future in given] == list(range(20))
        assert killing.result(300) == "survived 1"
        one, other = pool.workers()
        assert (one.name, other.name, one.done + other.done) == ("1", "2", 20 * 2 + 1)
        assert one.replaced + other.replaced == 1
        assert next(each for each in (one, other) if not each.waits_for).memory_bytes > 2**20
        with pytest.raises(StudentError, match=r"^out of memory; lower student.batch_tokens$"):
            pool.submit(fail).result(60)
        deadly = pool.submit(partial(kill_worker, tmp_path / "always", 9), "samples c to d")
        with pytest.raises(StudentError, match="samples c to d: 3 workers died of it"):
            deadly.result(300)
        assert len(list((tmp_path / "always").iterdir())) == 3
        assert pool.submit(partial(give, 7)).result(300) == 7


class Starting:
    """In the place of an actor class: each actor starts, or fails to, when the test says so."""

    def __init__(self) -> None:
        self.outcomes: SimpleQueue[Future[dict[str, Any]]] = SimpleQueue()

    def options(self, **how: object) -> "Starting":
        return self

    def remote(self, versions: dict[str, str]) -> Any:
        starts: Future[dict[str, Any]] = Future()
        done: Future[tuple[object, dict[str, Any]]] = Future()
        done.set_result(("done", {}))
        self.outcomes.put(starts)
        actor = mock.Mock()
        actor.describe.remote.return_value.future.return_value = starts
        actor.work.remote.return_value.future.return_value = done
        return actor


def test_workers_that_fail_to_start_are_counted_in_each_place(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    from reflectune.agents.cluster import students
    from reflectune.agents.cluster.connection import Connection
    from reflectune.agents.cluster.places import Places
    from reflectune.agents.cluster.room import Asked

    monkeypatch.setattr(students.ray, "kill", mock.Mock())
    starting = Starting()
    asked = Asked("students", 3, gpus=0, cpus=1)
    workers = students.StudentWorkers(asked, Connection(Listener()), Places())
    monkeypatch.setattr(workers, "_actor", starting)
    with students.RayPool(workers, mock.Mock()) as pool:
        job = pool.submit(partial(give, 1))
        for _ in range(3):  # a node is lost with all that start on it
            starting.outcomes.get(timeout=10).set_exception(RuntimeError("node lost"))
        starting.outcomes.get(timeout=10).set_result({"process": 1})
        assert job.result(10) == "done"
    workers.close()
    with students.RayPool(workers, mock.Mock()) as pool:
        job = pool.submit(partial(give, 1))
        for left in range(2 + 3 * 3, 0, -1):  # two are those that still started at the close
            assert not job.done(), left
            starting.outcomes.get(timeout=10).set_exception(RuntimeError("node lost"))
        with pytest.raises(StudentError, match=r"^no student starts on the cluster: node lost$"):
            job.result(10)
    workers.close()


def test_samples_by_the_thousand_cost_the_driver_little(address: str, tmp_path: Path) -> None:
    from tests.bench.cluster import measure_cluster

    found = measure_cluster(tmp_path, 2000, address)
    assert found["phases"]["select"][1] / 2000 < 0.004  # CPU seconds; it takes a tenth of that
    assert found["peak"] - found["before"] < 256 * 2**20
    with sqlite3.connect(tmp_path / "runs/made-up/lineage.db") as lineage:
        assert lineage.execute("SELECT COUNT(*) FROM decisions").fetchone() == (2 * 1980,)


def test_what_a_node_lacks_is_sent_once_and_what_it_has_is_used(address: str, tmp_path: Path) -> None:
    import ray

    from reflectune.agents.cluster.connection import connect
    from reflectune.agents.cluster.shipping import Sender

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes(b"{}")
    (folder / "model.safetensors").write_bytes(os.urandom(17 * 2**20))  # more than one message
    (folder / "notes.txt").write_bytes(b"not read by whoever opens a model")
    with connect(configure(tmp_path / "world", address=address).scale):
        shipment = Sender().ship(folder)
        ask = ray.remote(num_cpus=1, num_gpus=0)(receive_elsewhere)
        received, content = ray.get(ask.remote(shipment))
        assert received != str(folder)
        assert content == sorted((folder / name).read_bytes().hex() for name, _ in shipment.files)
        assert [name for name, _ in shipment.files] == ["config.json", "model.safetensors"]
        assert shipment.receive() == folder


def test_what_was_received_and_used_least_recently_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    from reflectune.agents.cluster import shipping

    for used, name in enumerate("abc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (used, used))
    monkeypatch.setattr(shipping.shutil, "disk_usage", lambda folder: mock.Mock(total=600))
    for size, left in ((0, "abc"), (1, "bc"), (100, "bc"), (250, "")):
        shipping._make_room(tmp_path, size)
        assert "".join(sorted(path.name for path in tmp_path.iterdir())) == left


def test_a_cluster_that_cannot_be_used_is_told_in_one_line(address: str, tmp_path: Path) -> None:
    from reflectune.agents.machines import open_machines

    faults = {
        ("ray://127.0.0.1:10001", 1): "cannot be a client of Ray",
        ("127.0.0.1:1", 1): r"the Ray cluster 127.0.0.1:1 cannot be used: .*refused; see scale.address",
        (address, 3): r"scale.students = 3 with 1 CPU each: the cluster has 2 CPU on 2 nodes, room for 2",
    }
    for (where, students), message in faults.items():
        config = configure(tmp_path, address=where, students=students)
        with pytest.raises(ConfigError, match=message), open_machines(config, Listener()):
            pass


def test_who_finds_no_room_says_so_and_hears_a_stop(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from reflectune.agents.cluster import room
    from reflectune.agents.cluster.machines import ClusterMachines

    monkeypatch.setattr(room, "_SILENCE", 0.0)
    said: list[str] = []
    stops: list[bool] = []
    config = configure(tmp_path, address=address, students=2)
    with ClusterMachines(config, Listener(said.append, lambda: bool(stops))) as machines:
        others = ray.util.placement_group([{"CPU": 1}] * 2)
        assert others.wait(60)
        with machines.open_students(None) as pool:
            waiting = pool.submit(partial(give, 1))
            deadline = time.monotonic() + 60
            while not said:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            stops.append(True)
            with pytest.raises(StoppedError):
                waiting.result(30)
        with pytest.raises(StoppedError):
            machines.settle_student()
        ray.util.remove_placement_group(others)
    assert said == [
        "scale.students = 2 with 1 CPU each: none has answered yet; the cluster has 2 CPU, 0 free; waiting "
        "for them"
    ]


def test_room_is_counted_by_node_and_by_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from reflectune.agents.cluster.room import Asked, refuse_lack

    nodes = [{"Alive": True, "Resources": {"CPU": 64.0, "GPU": 4.0}}] * 2
    nodes += [
        {"Alive": True, "Resources": {"CPU": 64.0}},
        {"Alive": False, "Resources": nodes[0]["Resources"]},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    refuse_lack(Asked("students", 80, gpus=0.1, cpus=1))
    refuse_lack(Asked("students", 4, gpus=1, cpus=1), Asked("teachers", 1, gpus=4, cpus=1))
    faults = {
        (Asked("students", 17, gpus=0.4, cpus=1),): "room for 16 students",  # two to a GPU
        (Asked("teachers", 3, gpus=3, cpus=1),): "the cluster has 8 GPU and 192 CPU on 3 nodes, room for 2 t",
        (Asked("trainers", 4, gpus=0, cpus=50),): "scale.trainers = 4 with 50 CPU each: .* room for 3 tr",
        (
            Asked("students", 5, gpus=1, cpus=1),
            Asked("teachers", 1, gpus=4, cpus=1),
        ): "beside .* room for 4 s",
    }
    for asked, message in faults.items():
        with pytest.raises(ConfigError, match=message):
            refuse_lack(*asked)


def test_a_driver_that_is_killed_leaves_no_workers(address: str, tmp_path: Path) -> None:
    import ray

    from reflectune.agents.cluster.connection import connect

    # One worker, for each takes seconds to import its libraries.
    write_world(tmp_path, samples=12, scale={"engine": "ray", "address": address, "students": 1})
    with started("run", "config.toml", "--set", "rounds=1", folder=tmp_path) as life:
        assert life.live_until(lambda life: "round 1 · select" in life.text), life.text
        life.send(signal.SIGKILL)
        assert life.end() == -signal.SIGKILL
    with connect(configure(tmp_path / "again", address=address).scale):
        deadline = time.monotonic() + 60
        while ray.available_resources().get("CPU") != 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    result = reflectune("resume", "tiny", "--set", "scale.engine=local", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
