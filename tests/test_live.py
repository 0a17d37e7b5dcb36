"""What a run under way tells of its workers, and where it is shown."""

import io
import json
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
from rich.console import Console

from reflectune.agents.machines import Machines
from reflectune.loop.live import LiveDisplay
from reflectune.loop.pipeline import Pipeline, completed
from reflectune.loop.progress import BarDisplay, LineDisplay
from reflectune.loop.show.html.environment import open_environment
from reflectune.loop.show.workers import tabulate_stages, tabulate_workers
from reflectune.state.config import load_config
from reflectune.state.folder import RunFolder
from reflectune.state.live import Worker, read_live, write_live
from tests.worlds import write_world


def crew(done: int) -> list[Worker]:
    first = Worker("student", "1", 2, done, 1, "node-a", "cuda:0", 3 * 2**30, 2**30)
    return [first, Worker("student", "2", 1, 7, replaced=1)]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def test_stages_and_workers_are_told_with_their_rates_while_they_last(folder, monkeypatch) -> None:
    clock = iter([100.0, 100.0, 100.0, 110.0, 110.0, 110.0])
    display = LiveDisplay(LineDisplay(), folder)
    with display.stage("select", total=100) as stage:
        stage.watch(lambda: crew(done), lambda: "waiting\n for it")
        monkeypatch.setattr("reflectune.loop.live.time.monotonic", lambda: next(clock))
        done = 4
        display.look()
        stage.done, done = 30, 9
        stages, workers = display.look()
    assert stages == [
        {
            "title": "select",
            "done": 30,
            "total": 100,
            "per_second": 3.0,
            "hold_up": "waiting for it",
            "groups_under_way": 0,
            "groups_computed": 0,
        }
    ]
    assert [worker["per_second"] for worker in workers] == [0.5, 0.0]  # (9 - 4) / 10 s
    assert [worker["waits_for"] for worker in workers] == ["", ""]
    assert display.look() == ([], [])


def test_groups_that_wait_for_being_committed_are_told(folder) -> None:
    display, late = LiveDisplay(LineDisplay(), folder), Future()
    with display.stage("select", total=4) as stage, Pipeline(4) as groups:
        stage.show_groups(groups)
        for group in (late, completed(1), completed(2)):
            groups.add(group, lambda computed: None)
        (one,), _ = display.look()
        assert (one["groups_under_way"], one["groups_computed"]) == (3, 2)
        assert stage.tell() == "2 groups to commit"
        late.set_result(0)
        groups.commit_first()
        groups.commit_first()
        assert stage.tell() == ""  # one is as it should be


def test_a_trainer_on_this_machine_is_told_while_it_trains(tmp_path, monkeypatch) -> None:
    machines, seen = Machines(load_config(write_world(tmp_path))), []

    def train(*training, on_step, **how) -> dict[str, float]:
        on_step(3, 9, 0.5)
        seen.extend(machines.trainers())
        return {}

    monkeypatch.setattr("reflectune.agents.student.refinetune.refinetune_student", train)
    machines.refinetune(None, [], tmp_path, on_step=lambda *step: None)  # type: ignore[arg-type]
    assert [(each.kind, each.name, each.done, each.memory_bytes > 0) for each in seen] == [
        ("trainer", "1", 3, True)
    ]
    assert machines.trainers() == []


def test_a_worker_without_work_says_so_unless_it_waits_for_something_else(folder) -> None:
    display = LiveDisplay(LineDisplay(), folder)
    with display.stage("select", total=1) as stage:
        stage.watch(
            lambda: [Worker("student", "1", 0, 9), Worker("student", "2", 0, 0, waits_for="its start")]
        )
        _, workers = display.look()
    assert [worker["waits_for"] for worker in workers] == ["work", "its start"]


def test_the_file_is_there_while_the_run_goes_on(folder, monkeypatch) -> None:
    monkeypatch.setattr("reflectune.loop.live._EVERY", 0.01)
    with LiveDisplay(LineDisplay(), folder) as display, display.stage("select", total=1) as stage:
        stage.watch(lambda: crew(4))
        until = time.monotonic() + 10
        while not ((live := read_live(folder)) and live["workers"]) and time.monotonic() < until:
            time.sleep(0.01)
    assert live is not None
    assert [worker["done"] for worker in live["workers"]] == [4, 7]
    assert [*folder.path.iterdir()] == []


def test_what_a_killed_run_left_is_known_as_old(folder) -> None:
    assert read_live(folder) is None
    write_live(folder, {"stages": [], "workers": []})
    assert read_live(folder) == {"stages": [], "workers": []}
    written = json.loads(folder.live.read_text())
    folder.live.write_text(json.dumps(written | {"written_at": time.time() - 60}))
    assert read_live(folder) is None
    folder.live.write_text("{")
    assert read_live(folder) is None


def test_a_display_tells_of_more_workers_than_one() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    with BarDisplay(console).stage("select", total=4) as stage:
        stage.watch(lambda: crew(4))
        stage.update(1, 4, accepted="1 of 1")
        assert stage.tell() == "accepted 1 of 1, 2 students, 4 under way, 1 student replaced"
        stage.watch(lambda: crew(4)[:1])
        assert stage.tell() == "accepted 1 of 1"


def test_stages_and_workers_are_tables_of_a_page_and_of_a_terminal(folder) -> None:
    display = LiveDisplay(LineDisplay(), folder)
    with display.stage("select", total=8, done=3) as stage:
        stage.watch(lambda: [Worker("teacher", "<b>", 3, 9), *crew(4)])
        stages, workers = display.look()
    assert tabulate_stages(stages).rows == [["select", 3, 8]]  # of nothing else there is anything to tell
    table = tabulate_workers(workers)
    assert [*zip(table.heads, table.rows[1], strict=True)] == [
        ("worker", "student 1"), ("node", "node-a"), ("device", "cuda:0"), ("under\nway", 2), ("queued", 1),
        ("done", 4), ("memory\nGiB", "3.0"), ("GPU\nGiB", "1.0"), ("replaced", 0),
    ]  # fmt: skip
    template = (
        '{% import "parts.html" as parts %}{{ parts.numbers(t.title, t.heads, t.rows, texts=t.texts) }}'
    )
    page = open_environment().from_string(template).render(t=table)
    assert '<th scope="row">teacher &lt;b&gt;</th>' in page
    assert tabulate_stages(None).rows == tabulate_workers(None).rows == []
