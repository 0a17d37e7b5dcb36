"""`reflectune check CONFIG` asks the teacher about the first pairs before a run is paid for."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from reflectune.loop.trial import render_trial
from tests.teacher_server import Reply, TeacherServer, given, improve, is_structured, prompt_of, serve_teacher
from tests.worlds import reflectune, write_world

pytestmark = pytest.mark.slow


def served(folder: Path, server: TeacherServer, **teacher: Any) -> Path:
    settings = {"engine": "openai", "path": None, "model": "m", "base_url": server.url, "retries": 0}
    return write_world(folder, samples=20, teacher=settings | teacher)


def test_check_asks_about_two_pairs_and_the_run_does_not_pay_them_again(tmp_path: Path) -> None:
    with serve_teacher() as server:
        served(tmp_path, server, price_in=1.0, price_out=2.0)
        result = reflectune("check", "config.toml", "--json", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        trial = json.loads(result.stdout)["teacher"]
        asked = list(server.requests)
        assert len(asked) == 4
        shown = reflectune("check", "config.toml", cwd=tmp_path).stdout
        assert len(server.requests) == 4
        assert reflectune("run", "config.toml", "--set", "rounds=1", cwd=tmp_path).returncode == 0
        again = [request for request in server.requests[4:] if request in asked]
    assert again == []
    assert trial["error"] is None
    assert trial["parameters"] == {"max_tokens": True, "response_format": True}
    assert [one["phase"] for one in trial["asked"]] == ["instruction", "response"] * 2
    assert sorted(one["prompt"] for one in trial["asked"]) == sorted(map(prompt_of, asked))
    for one in trial["asked"]:
        (request,) = (request for request in asked if prompt_of(request) == one["prompt"])
        assert one["status"] == "ok"
        assert one["text"] == improve(request, 0).text
        assert one["response"] == f"{given(request, 'response')} And more than that."
        tokens = len(one["prompt"].split()), len(one["text"].split())
        assert (one["prompt_tokens"], one["completion_tokens"]) == tokens
        assert one["cost_usd"] == pytest.approx((tokens[0] + 2 * tokens[1]) / 1e6)
    for part in ("instruction: ok", "from the cache", "$0.0000", "Too short.", "And more than that."):
        assert part in shown
    assert "all from the cache: nobody was asked; `--set teacher.cache=off` asks" in shown


def test_check_says_what_the_server_says_and_ends_with_1(tmp_path: Path) -> None:
    refusal = json.dumps({"error": {"message": "no such model: m"}})
    with serve_teacher(lambda request, number: Reply(status=404, body=refusal)) as server:
        served(tmp_path, server)
        result = reflectune("check", "config.toml", cwd=tmp_path)
    assert result.returncode == 1
    assert "20 rows" in result.stdout
    told = " ".join(result.stdout.split())
    assert "the teacher could not be tried: teacher m at" in told
    assert "HTTP 404: no such model: m" in told


def test_check_shows_an_answer_that_is_no_proposal_and_what_the_server_does_not_take(tmp_path: Path) -> None:
    def refuse(request: dict[str, Any], number: int) -> Reply:
        refused = "temperature" in request or "response_format" in request
        name = "temperature" if "temperature" in request else "response_format"
        body = json.dumps({"error": {"message": f"{name} is not supported", "param": name}})
        return Reply(status=400, body=body) if refused else Reply("As you like.")

    with serve_teacher(refuse) as server:
        served(tmp_path, server, temperature=0.5)
        result = reflectune("check", "config.toml", "--json", cwd=tmp_path)
        trial = json.loads(result.stdout)["teacher"]
    assert trial["parameters"] == {"max_tokens": True, "response_format": False, "temperature": False}
    console = Console(file=io.StringIO(), width=120)
    console.print(render_trial(trial))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "the server takes: max_tokens\nthe server does not take: response_format, temperature\n" in shown
    assert {(one["status"], one["text"], one["response"]) for one in trial["asked"]} == {
        ("unparsable", "As you like.", None)
    }


def test_check_asks_nobody_where_told_so_or_given_data(tmp_path: Path) -> None:
    with serve_teacher() as server:
        served(tmp_path, server)
        for arguments in (("config.toml", "--ask", "0"), ("data.json",)):
            document = json.loads(reflectune("check", *arguments, "--json", cwd=tmp_path).stdout)
            assert "teacher" not in document
        assert server.requests == []
    assert not (tmp_path / "runs").exists()


def test_check_shows_the_prompt_that_was_answered(tmp_path: Path) -> None:
    refusal = Reply(status=400, body=json.dumps({"error": {"message": "no json_schema"}}))
    with serve_teacher(lambda r, n: refusal if is_structured(r) else improve(r, n)) as server:
        served(tmp_path, server)
        trial = json.loads(reflectune("check", "config.toml", "--json", cwd=tmp_path).stdout)["teacher"]
        answered = sorted(prompt_of(request) for request in server.requests if not is_structured(request))
    assert sorted(one["prompt"] for one in trial["asked"]) == answered


def test_trial_keeps_each_name_on_one_line() -> None:
    one = {
        "position": 0, "phase": "instruction", "status": "ok", "error": None, "prompt": "Improve.",
        "text": "{}", "critique": "dull", "instruction": "Ask.", "response": "The matter.",
        "prompt_tokens": 1, "completion_tokens": 2, "cost_usd": None, "cached": True,
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=80)
    console.print(render_trial({"asked": [one], "parameters": {}, "error": None}))
    lines = [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert ["new", "resp.", "The", "matter."] in lines
    assert ["new", "instr.", "Ask."] in lines
