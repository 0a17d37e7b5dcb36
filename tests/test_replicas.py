"""Replicas of a teacher on a real Ray cluster: who is asked, and what a death costs."""

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from reflectune.agents.listener import Listener
from reflectune.agents.teacher.engines import OpenEngine, Request, TeacherModel, open_engine
from reflectune.state.config import ScaleConfig, StudentConfig, TeacherConfig, load_config
from reflectune.state.errors import ConfigError, TeacherError
from tests.clusters import cluster, give
from tests.replica_engine import NoModel, open_echo
from tests.teachers import asked
from tests.tiny_models import save_tiny_llama
from tests.worlds import write_world

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While this file is there, no replica opens."""
    return tmp_path_factory.mktemp("replicas") / "hold"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of two nodes."""
    with cluster((1, 1), gpus=(2, 1)) as nodes:
        yield nodes.address


@pytest.fixture(scope="module")
def open_replicas(address: str, hold: Path) -> Iterator[Any]:
    """Opens so many replicas."""
    from reflectune.agents.cluster.connection import connect
    from reflectune.agents.cluster.places import Places
    from reflectune.agents.cluster.room import Asked
    from reflectune.agents.cluster.teachers import ReplicaEngine

    config = TeacherConfig(engine="transformers", model="echo")
    model = TeacherModel("echo", StudentConfig(model="none"))
    with connect(ScaleConfig(engine="ray", address=address)):
        echo, open_one = (config, model, NoModel()), partial(open_echo, hold)

        def open_some(
            number: int, stopping: Any = lambda: False, of: Any = echo, open_one: OpenEngine = open_one
        ) -> ReplicaEngine:
            asked = Asked("teachers", number, gpus=0, cpus=1)
            return ReplicaEngine(*of, asked, Places(), stopping, open_one=open_one)

        yield open_some


@pytest.fixture(scope="module")
def engine(open_replicas: Any) -> Iterator[Any]:
    with closing(open_replicas(2)) as replicas:
        wait_until_open(replicas)
        yield replicas


def wait_until_open(engine: Any) -> None:
    deadline = time.monotonic() + 180
    while not all(replica.is_open for replica in engine._replicas):
        assert not engine.has_answer()
        assert time.monotonic() < deadline, engine.waiting
        time.sleep(0.02)


numbers = count()


def submit(engine: Any, *texts: str) -> dict[str, str]:
    """Ask; returns the texts by request id."""
    given = {str(next(numbers)): text for text in texts}
    for id, text in given.items():
        engine.submit(Request(id, asked(), ({"role": "user", "content": text},), None, 0))
    return given


def answers(engine: Any, given: dict[str, str]) -> dict[str, Any]:
    """What each text was answered; every request is answered once."""
    found = [engine.next_answer() for _ in given]
    assert sorted(answer.request_id for answer in found) == sorted(given)
    return {given[answer.request_id]: answer for answer in found}


def test_students_and_teachers_at_once_have_their_places_or_are_refused(address: str, tmp_path: Path) -> None:
    """It is the first one here: a process can be at one cluster at a time, and all others share that."""
    from reflectune.agents.cluster.machines import ClusterMachines

    folder = str(save_tiny_llama(tmp_path / "llama", chat=True, context=512))
    teacher = {"engine": "transformers", "model": folder, "path": None, "max_tokens": 4}
    scale = {"engine": "ray", "address": address, "overlap": True, "gpus_per_teacher": 2}
    for students in (2, 1):
        path = write_world(tmp_path, teacher=teacher, scale=scale | {"students": students})
        config = load_config(path)
        machines = ClusterMachines(config, Listener())
        if students == 2:
            each = "scale.students = 2 with 1 GPU and 1 CPU each beside scale.teachers = 1 with 2 GPU"
            with pytest.raises(ConfigError, match=f"^{each} .* room for 1 students; lower"), machines:
                pass
    with machines, machines.open_students(None) as pool:
        assert pool.submit(partial(give, 7)).result(180) == 7  # it is there first, and would fit anywhere
        model = TeacherModel("tiny", StudentConfig(model=folder))
        with closing(machines.open_engine(config.teacher, model, None, lambda: False)) as engine:
            wait_until_open(engine)
            assert len(answers(engine, submit(engine, "hello"))) == 1
            assert pool.submit(partial(give, 8)).result(180) == 8


def test_replicas_share_the_requests(engine: Any) -> None:
    assert engine.capacity == 32  # 16 each
    given = submit(engine, *(f"say {number}" for number in range(12)))
    found = answers(engine, given)
    who = Counter(answer.text.rpartition("|")[2] for answer in found.values())
    assert all(answer.text.startswith(f"{text}|") for text, answer in found.items())
    assert len(who) == 2
    workers = engine.workers()
    assert [(each.name, each.done, each.waits_for) for each in workers] == [("1", 6, ""), ("2", 6, "")]
    assert all(each.node and each.memory_bytes > 2**20 for each in workers)
    assert not engine.has_answer()


def test_a_replica_is_sent_at_once_all_that_it_is_to_answer(engine: Any) -> None:
    given = submit(engine, *map(str, range(8)))
    sizes = Counter(answer.text.split("|")[1] for answer in answers(engine, given).values())
    assert sizes == {"4": 2, "3": 2, "2": 2, "1": 2}


def test_a_replica_that_dies_is_replaced_and_its_requests_go_to_another(engine: Any, hold: Path) -> None:
    pid = int(answers(engine, submit(engine, "who"))["who"].text.rpartition("|")[2])
    hold.touch()  # as if a model took long to open
    given = submit(engine, *(f"tell {number}" for number in range(8)))
    os.kill(pid, signal.SIGKILL)
    found = answers(engine, given)
    assert all(answer.error is None for answer in found.values())
    (other,) = {answer.text.rpartition("|")[2] for answer in found.values()} - {str(pid)}
    told = sorted((each.replaced, each.waits_for) for each in engine.workers())
    assert told in ([(0, ""), (1, reason)] for reason in ("its start", "its model"))
    hold.unlink()
    wait_until_open(engine)
    found = answers(engine, submit(engine, "one", "two"))
    assert len({answer.text.rpartition("|")[2] for answer in found.values()} - {other}) == 1


def test_replica_without_room_is_told_and_a_stop_is_heard(open_replicas: Any, engine: Any) -> None:
    asks = threading.Event()
    assert engine.waiting == ""
    with closing(open_replicas(1, asks.is_set)) as third:  # there are two CPUs
        submit(third, "hello")
        assert not third.has_answer()
        waiting = r"waiting for room on the cluster: \d+ s"
        assert re.fullmatch(rf"{waiting} \(a replica asks for 1 CPU of one node\)", third.waiting)
        threading.Timer(0.3, asks.set).start()
        with pytest.raises(TeacherError, match=f"^teacher echo: {waiting}"):
            third.next_answer()


def test_what_ends_an_engine_ends_the_teacher(engine: Any) -> None:
    submit(engine, "fail now")
    with pytest.raises(TeacherError, match=r"^teacher echo: it has no voice$"):
        engine.next_answer()


def test_replicas_that_are_open_do_the_work_of_those_that_never_are(
    open_replicas: Any, engine: Any, hold: Path
) -> None:
    engine.close()
    hold.touch()
    with closing(open_replicas(3)) as replicas:  # there are two CPUs, as if a node was lost meanwhile
        given = submit(replicas, *map(str, range(40)))
        deadline = time.monotonic() + 180
        while sum(replica.is_placed for replica in replicas._replicas) < 2:
            assert not replicas.has_answer()
            assert time.monotonic() < deadline, replicas.waiting
        assert replicas.waiting.startswith("waiting for the model to open")
        hold.unlink()
        assert all(answer.error is None for answer in answers(replicas, given).values())
        assert sorted(worker.done > 0 for worker in replicas.workers()) == [False, True, True]


def test_a_request_that_kills_three_replicas_is_refused_and_no_other(
    open_replicas: Any, engine: Any, tmp_path: Path
) -> None:
    engine.close()  # there is one CPU for each
    with closing(open_replicas(1)) as replica:
        kills = f"die {tmp_path / 'always'}"
        given = submit(replica, f"once {tmp_path / 'accident'}", kills, *map(str, range(6)))
        found = answers(replica, given)
    refused = {text: answer for text, answer in found.items() if answer.error}
    assert [*refused] == [kills]
    assert refused[kills].error == "refused-request"
    assert refused[kills].message.startswith("3 replicas died with it")


def test_a_replica_of_a_model_that_was_shipped_answers_as_one_here_does(
    open_replicas: Any, engine: Any, tmp_path: Path
) -> None:
    from reflectune.agents.cluster.shipping import Sender

    engine.close()  # there is one CPU for each
    folder = save_tiny_llama(tmp_path / "llama", chat=True, context=512)
    model = TeacherModel("tiny", StudentConfig(model=str(folder)))
    config = TeacherConfig(engine="transformers", model="tiny", temperature=1.0, max_tokens=8)
    shipped = Sender().ship_student(model.source, None)
    here = open_engine(config, model, None, lambda: False)
    found = []
    for opened in (here, open_replicas(1, of=(config, model, shipped), open_one=open_engine)):
        with closing(opened):
            found.append({text: each.text for text, each in answers(opened, submit(opened, *"abc")).items()})
    assert found[0] == found[1]
    assert len(set(found[0].values())) == 3
