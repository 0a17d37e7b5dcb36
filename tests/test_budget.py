"""Whole runs with a budget: real command, real HTTP teacher, tiny student."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reflectune.loop import asking
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import TeacherCall
from tests.teacher_server import Reply, TeacherServer, improve, serve_teacher
from tests.test_cli import complaint, document, invoke
from tests.worlds import write_world

pytestmark = [pytest.mark.slow, pytest.mark.no_cover]

CAP = 3000  # a call takes some 230 to 290 tokens of the fake teacher, so a cap inside the first phase


@pytest.fixture
def server() -> Iterator[TeacherServer]:
    with serve_teacher() as server:
        yield server


@pytest.fixture
def world(tmp_path: Path, server: TeacherServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A world whose teacher has a budget and is asked one question after the other."""
    write_world(
        tmp_path,
        samples=20,
        teacher={
            "engine": "openai", "model": "m", "path": None, "base_url": server.url, "concurrency": 1,
            "budget_tokens": CAP, "price_in": 1.0, "price_out": 2.0,
        },
        selection={"policy": "accept-all"},
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    return tmp_path


def calls(run: Path) -> list[tuple[Any, ...]]:
    """Place and spending of all calls, in the order they were stored."""
    with sqlite3.connect(run / "lineage.db") as connection:
        return connection.execute(
            "SELECT round, phase, sample_id, attempt, prompt_tokens + completion_tokens, cost_usd "
            "FROM teacher_calls ORDER BY rowid"
        ).fetchall()


def test_budget_ends_the_asking_and_then_the_run(
    world: Path, server: TeacherServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke("run", "config.toml") == 0
    line = (
        "tiny: the teacher's budget is spent; go on by a higher one: "
        "`reflectune resume tiny --set teacher.budget_tokens=N`"
    )
    assert line in capsys.readouterr().err.splitlines()
    tokens = [call[4] for call in calls(world / "runs/tiny")]
    assert sum(tokens[:-1]) < CAP <= sum(tokens)  # the call that reached the cap was the last
    assert len(server.requests) == len(tokens)
    shown = document(capsys, "show", "tiny")
    assert (shown["status"], shown["stop_reason"]) == ("budget", "budget")
    assert [row["round"] for row in shown["rounds"]] == [0, 1]
    one = shown["rounds"][1]
    assert one["instruction"]["accepted"] == len(tokens)
    assert one["response"]["reflected"] == 0
    assert "nll" in one["evaluations"]  # the round was finished

    before = calls(world / "runs/tiny")
    capsys.readouterr()
    assert invoke("resume", "tiny") == 0
    assert line in capsys.readouterr().err.splitlines()
    assert calls(world / "runs/tiny") == before
    assert document(capsys, "runs")[0]["status"] == "budget"


def test_budget_raised_goes_on_with_the_next_rounds(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke("run", "config.toml") == 0
    first = calls(world / "runs/tiny")
    options = ("--set", "teacher.budget_tokens=1000000", "--set", "rounds=3")
    assert invoke("resume", "tiny", *options) == 0
    later = calls(world / "runs/tiny")
    assert later[: len(first)] == first
    assert {call[0] for call in later[len(first) :]} == {2, 3}  # round 1 was decided, and stays
    assert len({call[:4] for call in later}) == len(later) == len(first) + 2 * 2 * 14
    shown = document(capsys, "show", "tiny")
    assert (shown["status"], shown["stop_reason"]) == ("finished", "rounds")
    assert document(capsys, "runs")[0]["rounds"] == 3
    with LineageWriter.open(world / "runs/tiny/lineage.db") as store:
        changes = [(row["key"], row["before"], row["after"]) for row in store.db["config_changes"].rows]
    assert changes == [("rounds", "2", "3"), ("teacher.budget_tokens", str(CAP), "1000000")]
    assert "budget_tokens = 1000000" in (world / "runs/tiny/config.toml").read_text()


@pytest.mark.parametrize("budget", [{}, {"budget_tokens": 10**9}])
def test_more_attempts_ask_nothing_of_a_round_that_is_over(
    budget: dict[str, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def mostly(request: dict[str, Any], number: int) -> Reply:
        return Reply("Hm.") if number % 4 == 0 else improve(request, number)

    monkeypatch.chdir(tmp_path)
    with serve_teacher(mostly) as server:
        teacher = {"engine": "openai", "model": "m", "path": None, "base_url": server.url, "retries": 0}
        write_world(tmp_path, samples=10, teacher=teacher | budget, selection={"policy": "reject-all"})
        assert invoke("run", "config.toml", "--set", "rounds=3") == 0
        assert document(capsys, "show", "tiny")["stop_reason"] == "nothing-accepted"
        asked = len(server.requests)
        assert invoke("resume", "tiny", "--set", "teacher.retries=1") == 0
        assert len(server.requests) == asked
    assert document(capsys, "show", "tiny")["stop_reason"] == "nothing-accepted"
    assert invoke("verify", "tiny") == 0


def test_budget_in_dollars_stops_at_its_cap(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--set", "teacher.budget_tokens=1000000", "--set", "teacher.budget_usd=0.002")
    assert invoke("run", "config.toml", *options) == 0
    costs = [call[5] for call in calls(world / "runs/tiny")]
    assert sum(costs[:-1]) < 0.002 <= sum(costs)
    err = capsys.readouterr().err
    assert "--set teacher.budget_tokens=N --set teacher.budget_usd=N`" in err
    assert document(capsys, "show", "tiny")["status"] == "budget"


def test_budget_counts_nothing_twice_after_an_interruption(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke("run", "config.toml", "--runs", "calm") == 0

    seen = 0

    def interrupt(teacher: object, call: TeacherCall) -> None:
        nonlocal seen
        seen += 1
        if seen == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(asking, "refuse_uncounted", interrupt)
        assert invoke("run", "config.toml") == 130
    assert len(calls(world / "runs/tiny")) == 5
    assert invoke("resume", "tiny") == 0
    assert calls(world / "runs/tiny") == calls(world / "calm/tiny")


def test_budget_takes_in_what_is_under_way_and_no_more(world: Path, server: TeacherServer) -> None:
    options = ("--set", "teacher.concurrency=4", "--set", "teacher.budget_tokens=1")
    assert invoke("run", "config.toml", *options) == 0
    assert len(calls(world / "runs/tiny")) == len(server.requests) == 4


def test_budget_is_not_touched_by_answers_from_the_cache(
    world: Path, server: TeacherServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(name: str, budget: int, *options: str) -> str:
        settings = ("--set", "rounds=1", "--set", f"teacher.budget_tokens={budget}", *options)
        assert invoke("run", "config.toml", "--name", name, *settings) == 0
        return str(document(capsys, "show", name)["status"])

    assert run("tiny", 1000000) == "finished"
    asked = len(server.requests)
    assert run("again", 1) == "finished"
    assert len(server.requests) == asked == 2 * 14
    # What differs is asked, up to the cap; the seed makes every prompt another.
    assert run("other", 1, "--set", "seed=1") == "budget"
    assert len(server.requests) == asked + 1


def test_budget_counts_what_a_teacher_without_words_takes(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def taken() -> int:
        stored = calls(world / "runs/tiny")
        assert len(stored) == len(server.requests)
        return sum(call[4] for call in stored)

    with serve_teacher(lambda request, number: Reply(None)) as server:
        options = {"base_url": server.url, "concurrency": 3, "retries": 1, "budget_tokens": 10**6}
        settings = [item for key, value in options.items() for item in ("--set", f"teacher.{key}={value}")]
        assert invoke("run", "config.toml", *settings) == 1
        message = "17 calls in a row failed: no text in the answer, finish reason stop"
        assert message in capsys.readouterr().err
        first = taken()
        assert 17 <= len(server.requests) <= 17 + 2  # what was under way was waited for
        assert invoke("resume", "tiny") == 1
        second = taken()
        assert second > first > 0
        assert invoke("resume", "tiny", "--set", f"teacher.budget_tokens={second + 1}") == 0
        assert taken() > second
        assert len(server.requests) < 2 * 14 * 2  # what both phases would have asked for
    assert document(capsys, "show", "tiny")["status"] == "budget"


def test_budget_of_a_teacher_that_does_not_count_is_refused(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def uncounted(request: dict[str, Any], number: int) -> Reply:
        message = {"role": "assistant", "content": improve(request, number).text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        return Reply(body=json.dumps(body))

    with serve_teacher(uncounted) as server:
        options = ("--set", f"teacher.base_url={server.url}", "--set", "rounds=1")
        assert invoke("run", "config.toml", *options) == 1
        message = "answers without token counts, so teacher.budget_tokens cannot be kept"
        assert message in capsys.readouterr().err
        assert len(calls(world / "runs/tiny")) == 1  # it is kept
        assert invoke("resume", "tiny", "--set", "teacher.budget_tokens=unset") == 0
    shown = document(capsys, "show", "tiny")
    assert (shown["status"], shown["rounds"][1]["teacher"]["calls"]) == ("finished", 28)
    assert shown["rounds"][1]["teacher"]["cost_usd"] is None
    # Whatever they took, it was paid before.
    assert invoke("run", "config.toml", "--name", "again", *options) == 0
    assert document(capsys, "show", "again")["rounds"][1]["teacher"]["cached"] == 28


def test_change_of_config_cut_short_is_made_whole_by_the_same_command(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke("run", "config.toml") == 0
    config = world / "runs/tiny/config.toml"
    config.write_text(config.read_text().replace(f"budget_tokens = {CAP}", f"budget_tokens = {CAP + 1}"))
    message = complaint(capsys, "resume", "tiny")
    assert f"changed since the run began (teacher.budget_tokens {CAP} -> {CAP + 1})" in message
    assert "`reflectune resume tiny --set KEY=VALUE` changes rounds, " in message
    assert "was changed" in complaint(capsys, "resume", "tiny", "--set", "rounds=3")
    assert invoke("resume", "tiny", "--set", f"teacher.budget_tokens={CAP + 1}") == 0
    assert invoke("resume", "tiny") == 0
