"""Whole runs whose teacher fails: real command, real HTTP server, tiny student."""

import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.teacher_server import Reply, TeacherServer, given, improve, serve_teacher
from tests.test_cli import document, invoke
from tests.worlds import write_world

pytestmark = pytest.mark.slow

REFUSAL = Reply(status=400, body=json.dumps({"error": {"message": "Unsupported parameter: 'seed'"}}))


class Faulty:
    """Refuses every pair but those it `knows`, and answers all once mended."""

    def __init__(self) -> None:
        self.mended = False
        self.refusal = REFUSAL
        self.knows: tuple[str, ...] = ()

    def __call__(self, request: dict[str, Any], number: int) -> Reply:
        is_known = self.mended or given(request, "instruction").endswith(self.knows or ("\0",))
        return improve(request, number) if is_known else self.refusal


@pytest.fixture
def faulty() -> Faulty:
    return Faulty()


@pytest.fixture
def server(faulty: Faulty) -> Iterator[TeacherServer]:
    with serve_teacher(faulty) as server:
        yield server


@pytest.fixture
def run(tmp_path: Path, server: TeacherServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder to be, beside a config of ten pairs and one round."""
    teacher = {"engine": "openai", "model": "m", "path": None, "base_url": server.url, "cache": "off"}
    write_world(tmp_path, samples=16, teacher=teacher, selection={"policy": "accept-all"})
    config = tmp_path / "config.toml"
    config.write_text(config.read_text().replace("rounds = 2", "rounds = 1"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs/tiny"


def calls(run: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(run / "lineage.db") as connection:
        return connection.execute(
            "SELECT phase, sample_id, attempt, status FROM teacher_calls ORDER BY rowid"
        ).fetchall()


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_teacher_that_refuses_everything_fails_the_run(
    run: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    assert invoke("run", "config.toml", *options) == 1
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert "Unsupported parameter: 'seed'" in last, last
    assert "resume tiny" in last
    shown = document(capsys, "show", "tiny")
    assert shown["status"] == "failed"
    (reason,) = shown["rounds"][1]["instruction"]["reasons"]
    assert (reason["status"], reason["number"]) == ("refused", 10)
    assert "Unsupported parameter" in reason["message"]
    assert invoke("show", "tiny") == 0
    assert "Unsupported parameter: 'seed'" in capsys.readouterr().out
    assert invoke("report", "tiny", "-o", "report.html") == 0
    told = re.sub("(<[^>]+>)+", " ", Path("report.html").read_text())
    assert re.search("1 instruction 10 refused .*Unsupported parameter", told)


def test_resumed_run_asks_again_for_what_failed_and_pays_for_nothing_twice(
    run: Path, faulty: Faulty, server: TeacherServer, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty.knows = ("red.", "green.")  # of eight colours
    assert invoke("run", "config.toml") == 1
    first = calls(run)
    assert len(first) == 10
    answered = {call[1] for call in first if call[3] == "ok"}
    assert 0 < len(answered) < 5
    assert invoke("resume", "tiny") == 1  # nothing was mended
    again = calls(run)[10:]
    assert [(call[2], call[3]) for call in again] == [(2, "refused")] * (10 - len(answered))
    faulty.mended = True
    assert invoke("resume", "tiny") == 0
    mended = [call for call in calls(run)[10 + len(again) :] if call[0] == "instruction"]
    assert {call[1] for call in mended} == {call[1] for call in first} - answered
    assert {call[2:] for call in mended} == {(3, "ok")}
    assert document(capsys, "verify", "tiny")["faults"] == []
    assert document(capsys, "show", "tiny")["status"] == "finished"


def test_share_of_one_goes_on_without_what_fails(run: Path, faulty: Faulty) -> None:
    faulty.knows = ("red.", "green.")
    assert invoke("run", "config.toml") == 1
    assert invoke("resume", "tiny", "--set", "stop.max_failures=1") == 0
    assert {call[2:] for call in calls(run) if call[0] == "instruction"} == {
        (1, "ok"), (1, "refused"), (2, "refused"),
    }  # fmt: skip


def test_server_that_is_another_on_resume_is_followed(
    run: Path, server: TeacherServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke("run", "config.toml") == 1
    asked = len(server.requests)
    with serve_teacher() as other:
        changes = {
            "base_url": f'["{other.url}"]', "retries": 4, "structured": "false", "max_tokens": 100,
            "concurrency": 2,
        }  # fmt: skip
        options = (part for key, value in changes.items() for part in ("--set", f"teacher.{key}={value}"))
        assert invoke("resume", "tiny", *options) == 0
        assert len(other.requests) == 20
    assert len(server.requests) == asked
    assert document(capsys, "verify", "tiny")["faults"] == []
    with sqlite3.connect(run / "lineage.db") as connection:
        kept = connection.execute(
            "SELECT before FROM config_changes WHERE key = 'teacher.base_url'"
        ).fetchall()
    assert kept == [(json.dumps(server.url),)]
    rounds = document(capsys, "show", "tiny")["rounds"]
    assert rounds[1]["servers"] == {server.url: 10, other.url: 20}
    asked = document(capsys, "trace", "tiny", "0")
    assert [failure["server"] for failure in asked["failures"]] == [server.url]
    assert [version["server"] for version in asked["versions"]] == [None, other.url, other.url]
    for command in ("show", "trace"):
        assert invoke(command, "tiny", *["0"][: command == "trace"]) == 0
        out = capsys.readouterr().out
        assert server.url in out
        assert other.url in out
    assert invoke("report", "tiny", "-o", "report.html") == 0
    assert "Servers that were asked" in Path("report.html").read_text()


def test_model_that_a_server_lacks_leads_to_another_run(
    run: Path, faulty: Faulty, capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"error": {"message": "The model `m` does not exist."}}
    faulty.refusal = Reply(status=404, body=json.dumps(error))
    assert invoke("run", "config.toml", "--runs", "elsewhere") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith(
        "; check teacher.base_url and teacher.model (teacher.model cannot change in a run: where that is "
        "wrong, correct it and start another, `reflectune run CONFIG --name NEW --runs elsewhere`; else go "
        "on with `reflectune resume tiny --runs elsewhere`)"
    )


def test_recording_without_an_answer_leads_to_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_world(tmp_path, samples=16, selection={"policy": "accept-all"})
    recording = tmp_path / "teacher.jsonl"
    recording.write_text(
        recording.read_text().replace('"instruction": "', '"instruction": "No ')
    )  # of other pairs
    monkeypatch.chdir(tmp_path)
    assert invoke("run", "config.toml") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "resume the run" not in line
    assert (
        "(what teacher.path holds cannot change in a run: where that is wrong, correct it and start" in line
    )
