"""The whole loop with teachers that answer while it runs: a real HTTP server, a real local model."""

import json
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.lives import started
from tests.teacher_server import (
    Reply,
    answer_text,
    improve,
    is_about_instruction,
    is_structured,
    serve_teacher,
)
from tests.tiny_models import save_tiny_llama
from tests.worlds import reflectune, run_process, write_world

pytestmark = [pytest.mark.slow, pytest.mark.no_cover]

SAMPLES, TRAIN = 40, 34


def live_world(folder: Path, url: str, **teacher: Any) -> Path:
    settings = {"engine": "openai", "model": "fake", "base_url": url, "path": None}
    return write_world(folder, samples=SAMPLES, teacher=settings | teacher)


def shown(folder: Path) -> dict[str, Any]:
    result = reflectune("show", "tiny", "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


@pytest.mark.parametrize("grants_schemas", [True, False])
def test_loop_against_a_server_runs_both_phases(tmp_path: Path, grants_schemas: bool) -> None:
    def reply(request: Mapping[str, Any], number: int) -> Reply:
        if is_structured(request) and not grants_schemas:
            return Reply(status=400, body='{"error": {"message": "response_format is not supported"}}')
        return improve(dict(request), number)

    with serve_teacher(reply) as server:
        live_world(tmp_path, server.url, price_in=1.0, price_out=2.0)
        result = reflectune("run", "config.toml", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        asked = list(server.requests)
        assert server.most_at_once > 1
    assert {is_about_instruction(request) for request in asked} == {True, False}
    structured = sum(map(is_structured, asked))
    assert structured == len(asked) if grants_schemas else structured < len(asked) / 2
    run = shown(tmp_path)
    assert run["status"] == "finished"
    one = run["rounds"][1]
    for key, count in {"reflected": TRAIN, "unchanged": 0, "failed": 0}.items():
        assert one["instruction"][key] == count
    assert one["response"]["reflected"] == TRAIN
    assert one["teacher"]["calls"] == 2 * TRAIN
    assert one["teacher"]["cost_usd"] > 0


def slowly(seconds: float) -> Callable[[dict[str, Any], int], Reply]:
    return lambda request, number: replace(improve(request, number), delay=seconds)


def test_loop_killed_at_random_counts_every_call_once_and_takes_none_from_the_cache(tmp_path: Path) -> None:
    moments = random.Random(5)
    with serve_teacher(slowly(0.05)) as server:
        live_world(tmp_path, server.url, concurrency=4, price_in=1.0, price_out=2.0)
        arguments = ["run", "config.toml", "--set", "rounds=1"]
        for _ in range(3):
            enough = len(server.requests) + moments.randint(1, 20)
            with started(*arguments, folder=tmp_path) as life:
                assert life.live_until(lambda life, enough=enough: len(server.requests) >= enough), life.text
                time.sleep(moments.uniform(0, 0.06))  # anywhere in the arrival of an answer
                life.send(signal.SIGKILL)
            arguments = ["resume", "tiny"]
        assert reflectune("resume", "tiny", cwd=tmp_path).returncode == 0
        asked = len(server.requests)
    teacher = shown(tmp_path)["rounds"][1]["teacher"]
    assert (teacher["calls"], teacher["cached"]) == (2 * TRAIN, 0)
    assert 2 * TRAIN <= asked <= 2 * TRAIN + 3 * 4, "only what was in flight is asked again"
    with sqlite3.connect(tmp_path / "runs/tiny/lineage.db") as connection:
        sums = "SUM(prompt_tokens), SUM(completion_tokens), SUM(cost_usd)"
        stored = connection.execute(f"SELECT {sums} FROM teacher_calls").fetchone()
    told = teacher["prompt_tokens"], teacher["completion_tokens"], teacher["cost_usd"]
    assert told == pytest.approx(stored, rel=1e-12)  # added up in another order
    assert teacher["cost_usd"] == pytest.approx((stored[0] + 2 * stored[1]) / 1e6)


def test_two_runs_at_once_share_their_answers_and_count_what_each_paid(tmp_path: Path) -> None:
    with serve_teacher(slowly(0.02)) as server:
        live_world(tmp_path, server.url, concurrency=2)
        one_round = ("run", "config.toml", "--set", "rounds=1", "--name")
        with (
            started(*one_round, "tiny", folder=tmp_path) as tiny,
            started(*one_round, "twin", folder=tmp_path) as twin,
        ):
            assert (tiny.end(), twin.end()) == (0, 0), tiny.text + twin.text
        asked = len(server.requests)
        assert reflectune(*one_round, "last", cwd=tmp_path).returncode == 0
        assert len(server.requests) == asked
    assert 2 * TRAIN <= asked <= 2 * 2 * TRAIN
    pools, paid = [], 0
    for name in ("tiny", "twin", "last"):
        with sqlite3.connect(tmp_path / f"runs/{name}/lineage.db") as connection:
            pools.append(connection.execute("SELECT * FROM versions ORDER BY id").fetchall())
            paid += connection.execute("SELECT COUNT(*) FROM teacher_calls WHERE NOT cached").fetchone()[0]
    assert pools[0] == pools[1] == pools[2]
    assert paid == asked


def test_loop_survives_a_server_that_breaks_down_on_the_way(tmp_path: Path) -> None:
    broken = True

    def reply(request: Mapping[str, Any], number: int) -> Reply:
        return Reply(status=500) if broken and number >= 10 else improve(dict(request), number)

    with serve_teacher(reply) as server:
        live_world(tmp_path, server.url, concurrency=2, retries=0)
        failed = reflectune("run", "config.toml", "--set", "rounds=1", cwd=tmp_path)
        assert failed.returncode == 1
        assert "calls in a row failed" in failed.stderr.splitlines()[-1]
        assert "`reflectune resume tiny`" in failed.stderr.splitlines()[-1]
        assert shown(tmp_path)["status"] == "failed"
        broken = False
        result = reflectune("resume", "tiny", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    one = shown(tmp_path)["rounds"][1]
    assert one["instruction"]["reflected"] == TRAIN, "the outage is no fault of any pair"
    assert one["instruction"]["failed"] == 0


def test_loop_with_a_babbling_local_teacher_accepts_nothing(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path / "teacher", context=2048)
    settings = {"engine": "transformers", "model": "teacher", "path": None}
    teacher = settings | {"max_tokens": 8, "retries": 1}
    write_world(tmp_path, samples=12, teacher=teacher, stop={"max_failures": 1})
    result = reflectune("run", "config.toml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = shown(tmp_path)
    assert (run["status"], run["stop_reason"]) == ("finished", "no-proposals")
    one = run["rounds"][1]
    for phase in ("instruction", "response"):
        counted = {name: one[phase][name] for name in ("reflected", "unchanged", "failed", "accepted")}
        assert counted == {"reflected": 0, "unchanged": 0, "failed": 6, "accepted": 0}
    assert one["teacher"]["calls"] == 2 * 2 * 6
    assert one["student"] == "s0"


def test_api_key_is_nowhere_in_what_a_run_writes_or_prints(tmp_path: Path) -> None:
    secret = "sk-very/secret-0123456789"
    tells_why = True

    def echo_the_key(request: Mapping[str, Any], number: int) -> Reply:
        header = server.keys[number]
        if not tells_why:
            return Reply(status=401, body=json.dumps({"error": {"message": f"bad header {header}"}}))
        match number % 5:
            case 0:
                body = json.dumps({"error": {"message": header}})
                return Reply(status=500, body=body, headers={"X": header or ""})
            case 1:
                return Reply(body=f"<p>{header}")
            case 2:
                return Reply(answer_text(request, response=f"I was told {header}.", instruction="Why?"))
            case 3:
                return Reply(body=json.dumps({"error": header}).replace("/", "\\/"))
        return Reply("no answer", finish_reason=header or "")

    with serve_teacher(echo_the_key) as server:
        live_world(tmp_path, server.url, api_key_env="TEACHER_KEY")
        unset = reflectune("run", "config.toml", cwd=tmp_path)
        assert unset.returncode == 2
        assert "TEACHER_KEY is not set" in unset.stderr
        assert not (tmp_path / "runs/tiny").exists()
        aloud = {"TEACHER_KEY": secret, "OPENAI_LOG": "debug"}
        one_round = ("--set", "rounds=1", "--set", "teacher.retries=0")
        result = run_process("--debug", "run", "config.toml", *one_round, cwd=tmp_path, **aloud)
        assert result.returncode == 0, result.stderr
        assert server.keys[0] == f"Bearer {secret}"
        tells_why = False
        named = ("--name", "rejected")
        rejected = run_process("--debug", "run", "config.toml", *named, cwd=tmp_path, **aloud)
        assert rejected.returncode == 1
        assert "bad header Bearer [key]" in rejected.stderr
        trace = reflectune("show", "tiny", cwd=tmp_path)
    printed = [text for done in (unset, result, rejected, trace) for text in (done.stdout, done.stderr)]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"cache.db", "lineage.db", "config.toml"} <= {path.name for path in files}
    written = [path.read_bytes() for path in files]
    assert any(b"I was told Bearer [key]." in content for content in written)
    for content in [*written, *(text.encode() for text in printed)]:
        assert secret.encode() not in content
        assert secret.replace("/", "\\/").encode() not in content
