"""Replicas of a teacher on a real Ray cluster: who is asked, and what a death costs."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from reflectune.agents.teacher.engines import Request, TeacherModel
from reflectune.state.config import ScaleConfig, StudentConfig, TeacherConfig
from reflectune.state.errors import TeacherError
from tests.clusters import cluster
from tests.replica_engine import NoModel, open_echo
from tests.teachers import asked

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """Two replicas on two nodes."""
    with cluster((1, 1)) as nodes:
        from reflectune.agents.cluster.connection import connect
        from reflectune.agents.cluster.teachers import ReplicaEngine

        config = TeacherConfig(engine="transformers", model="echo")
        model = TeacherModel("echo", StudentConfig(model="none"))
        with connect(ScaleConfig(engine="ray", address=nodes.address)):
            replicas = ReplicaEngine(config, model, NoModel(), number=2, gpus=0, open_one=open_echo)  # type: ignore[arg-type]
            yield replicas
            replicas.close()


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


def test_replicas_share_the_requests(engine: Any) -> None:
    assert engine.capacity == 32  # 16 each
    given = submit(engine, *(f"say {number}" for number in range(12)))
    found = answers(engine, given)
    who = Counter(answer.text.partition("|")[2] for answer in found.values())
    assert all(answer.text.startswith(f"{text}|") for text, answer in found.items())
    assert len(who) == 2
    assert [worker.done for worker in engine.workers()] == [6, 6]
    assert not engine.has_answer()


def test_a_replica_that_dies_is_replaced_and_its_requests_are_asked_again(engine: Any) -> None:
    pid = int(answers(engine, submit(engine, "who"))["who"].text.partition("|")[2])
    given = submit(engine, *(f"tell {number}" for number in range(8)))
    os.kill(pid, signal.SIGKILL)
    found = answers(engine, given)
    assert all(answer.error is None for answer in found.values())
    assert str(pid) not in {answer.text.partition("|")[2] for answer in found.values()}


def test_a_request_that_kills_three_replicas_is_refused_and_no_other(engine: Any, tmp_path: Path) -> None:
    given = submit(engine, f"die {tmp_path / 'always'}", f"once {tmp_path / 'accident'}", *map(str, range(6)))
    found = answers(engine, given)
    refused = {text: answer for text, answer in found.items() if answer.error}
    assert [*refused] == [f"die {tmp_path / 'always'}"]
    (answer,) = refused.values()
    assert answer.error == "refused-request"
    assert answer.message.startswith("3 replicas died with it")


def test_what_ends_an_engine_ends_the_teacher(engine: Any) -> None:
    submit(engine, "fail now")
    with pytest.raises(TeacherError, match=r"^teacher echo: it has no voice$"):
        engine.next_answer()
