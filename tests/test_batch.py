"""Engine "batch": requests in files, with the real client, at a server that keeps files and batches."""

import itertools
import json
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reflectune.agents.teacher.engines import openai_batch
from reflectune.agents.teacher.engines.openai_batch import BatchEngine
from reflectune.agents.teacher.prompts import open_prompts
from reflectune.agents.teacher.teacher import Reflected, Teacher
from reflectune.state.cache import AnswerCache
from reflectune.state.config import TeacherConfig
from reflectune.state.errors import TeacherError
from tests.batch_server import BatchServer, serve_batches
from tests.lives import started
from tests.teacher_server import Reply, given, improve, is_structured, prompt_of
from tests.teachers import ask, asked, config, flat, statuses
from tests.torture import read_tables
from tests.worlds import reflectune, write_world

PROMPTS = open_prompts(None)


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[AnswerCache]:
    with AnswerCache.open(tmp_path) as cache:
        yield cache


def batched(server: BatchServer, **changes: Any) -> TeacherConfig:
    return config(server.url, engine="batch", **changes)


def opened(
    settings: TeacherConfig, notes: AnswerCache, stopping: Callable[[], bool] = lambda: False
) -> BatchEngine:
    return BatchEngine(settings, notes, stopping, first_pause=0.001)


def reflect(settings: TeacherConfig, notes: AnswerCache, number: int) -> list[Reflected]:
    """What a teacher makes of so many reflections, which a run has no answers to yet."""
    with Teacher(opened(settings, notes), PROMPTS, settings, 0) as teacher:
        return flat(teacher.reflect(asked(n) for n in range(number)))


def test_batch_asks_all_at_once_in_openais_format(
    notes: AnswerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCH_KEY", "sk-secret")
    with serve_batches(lambda body: Reply(improve(body, 0).text + " sk-secret")) as server:
        settings = batched(server, api_key_env="BATCH_KEY", temperature=0.5)
        found = reflect(settings, notes, 20)
    assert statuses(found) == ["ok"] * 20
    assert {(call.engine, call.server) for call, _ in found} == {("batch", server.url)}
    assert {call.text[-5:] for call, _ in found} == {"[key]"}
    assert server.keys == {"Bearer sk-secret"}
    (batch,) = server.batches.values()
    assert (batch["endpoint"], batch["completion_window"]) == ("/v1/chat/completions", "24h")
    lines = server.lines(batch)
    assert len({line["custom_id"] for line in lines}) == 20
    assert {(line["method"], line["url"]) for line in lines} == {("POST", "/v1/chat/completions")}
    assert {tuple(line["body"]) for line in lines} == {
        ("model", "messages", "temperature", "max_tokens", "response_format")
    }
    for call, version in found:
        assert version is not None
        assert version.pair.response == f"{call.sample_id.removeprefix('sample-')} And more than that."


def test_batch_asks_again_for_answers_of_no_use_in_a_further_batch(notes: AnswerCache) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        is_useless = given(body, "response") in ("3", "7") and is_structured(body)
        return Reply("Let me think.") if is_useless else improve(body, 0)

    with serve_batches(answer) as server:
        found = reflect(batched(server, retries=1), notes, 10)
    assert [len(ids) for ids in server.asked()] == [10, 2]
    assert sorted(statuses(found)) == ["ok"] * 10 + ["unparsable"] * 2


def test_batch_sends_more_than_a_file_holds_in_several(
    notes: AnswerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_batches() as server:
        monkeypatch.setattr(openai_batch, "_MAX_REQUESTS", 4)
        assert len(reflect(batched(server), notes, 10)) == 10
        assert [len(ids) for ids in server.asked()] == [4, 4, 2]
        size = len(next(iter(server.files.values()))) // 4
        server.forget()
        monkeypatch.setattr(openai_batch, "_MAX_BYTES", int(2.5 * size))
        assert len(reflect(batched(server, top_p=0.5), notes, 5)) == 5
        assert [len(ids) for ids in server.asked()] == [2, 2, 1]


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_batch_that_ends_early_is_taken_in_and_the_rest_asked_in_another(
    notes: AnswerCache, status: str
) -> None:
    late = {"2", "4"}

    def answer(body: dict[str, Any]) -> Reply | None:
        is_late = given(body, "response") in late
        late.discard(given(body, "response"))
        return None if is_late else improve(body, 0)

    with serve_batches(answer, status=lambda number: "completed" if number else status) as server:
        found = reflect(batched(server), notes, 6)
    assert [len(ids) for ids in server.asked()] == [6, 2]
    assert statuses(found) == ["ok"] * 6
    assert {call.attempt for call, _ in found} == {1}


def test_batch_that_fails_or_brings_nothing_ends_the_run_and_is_sent_anew_once_resumed(
    notes: AnswerCache,
) -> None:
    with serve_batches(
        lambda body: None, status=lambda number: ("failed", "expired", "expired")[number]
    ) as server:
        for number, reason in enumerate(("the file's model is unknown", "expired")):
            with pytest.raises(TeacherError, match=f"batch batch_{number} brought no answer: {reason}"):
                reflect(batched(server), notes, 3)
        assert len(server.batches) == 2
        server.answer, server.status = (lambda body: improve(body, 0)), lambda number: "completed"
        assert statuses(reflect(batched(server), notes, 3)) == ["ok"] * 3
    assert len(server.batches) == 3


def test_batch_that_is_too_large_for_the_account_says_which_key_makes_it_smaller(notes: AnswerCache) -> None:
    error = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached for m."}
    advice = r"Enqueued token limit.*; lower teacher\.concurrency"
    with (
        serve_batches(lambda body: None, status=lambda number: "failed", error=error) as server,
        pytest.raises(TeacherError, match=advice),
    ):
        reflect(batched(server), notes, 3)


def test_batch_takes_a_refused_line_for_that_lines_failure(notes: AnswerCache) -> None:
    replies = {
        "1": Reply(status=400, body='{"error": {"message": "not this text"}}'),
        "2": Reply(status=500, body='{"error": {"message": "stumbled"}}'),
        "3": Reply(body='{"error": {"message": "no room", "code": 503}}'),
        "4": Reply(body=json.dumps({"odd": "x" * 1000})),
    }
    with serve_batches(lambda body: replies.get(given(body, "response")) or improve(body, 0)) as server:
        found = reflect(batched(server, structured=False), notes, 5)
    told = {call.sample_id[-1]: (call.status, call.error) for call, _ in found if call.error}
    assert told.pop("4") == ("error", "not a chat completion: " + ('{"odd": "' + "x" * 1000)[:400])
    assert told == {
        "1": ("refused", "HTTP 400: not this text"),
        "2": ("error", "HTTP 500: stumbled"),
        "3": ("error", "HTTP 503: no room"),
    }
    assert len(server.batches) == 1


def test_batch_leaves_out_what_the_server_does_not_take(notes: AnswerCache) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        error = {"message": "Unsupported parameter: 'max_tokens'", "param": "max_tokens"}
        is_refused = "max_tokens" in body
        return Reply(status=400, body=json.dumps({"error": error})) if is_refused else improve(body, 0)

    with serve_batches(answer) as server:
        found = reflect(batched(server), notes, 3)
        first = server.asked()
        # The next life finds both batches.
        assert statuses(reflect(batched(server), notes, 3)) == ["ok"] * 3
        assert server.asked() == first
    assert statuses(found) == ["ok"] * 3
    assert ["max_tokens" in bodies[0] for bodies in server.bodies()] == [True, False]
    assert "max_completion_tokens" in server.bodies()[1][0]


def test_batch_whose_schemas_are_refused_is_followed_by_one_without(notes: AnswerCache) -> None:
    refusal = Reply(status=400, body='{"error": {"message": "json_schema is not supported"}}')
    with serve_batches(lambda body: refusal if is_structured(body) else improve(body, 0)) as server:
        assert statuses(reflect(batched(server), notes, 3)) == ["ok"] * 3
    assert [is_structured(bodies[0]) for bodies in server.bodies()] == [True, False]


def test_batch_is_found_again_whatever_part_of_it_is_wanted(notes: AnswerCache) -> None:
    """A life that takes fewer at once, and one whose batches the server keeps no longer."""
    with serve_batches() as server:
        reflect(batched(server), notes, 10)
        assert len(reflect(batched(server, concurrency=3), notes, 10)) == 10
        assert [len(ids) for ids in server.asked()] == [10]
        ((_, batch),) = server.batches.items()
        del server.files[batch["output_file_id"]]
        assert len(reflect(batched(server), notes, 10)) == 10
        assert [len(ids) for ids in server.asked()] == [10, 10]
        server.batches.clear()
        assert len(reflect(batched(server), notes, 10)) == 10
        assert [len(ids) for ids in server.asked()] == [10]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", ["upload", "list", "create", "poll", "read"])
def test_batch_outlasts_a_server_that_stumbles_and_sends_nothing_twice(
    notes: AnswerCache, when: str, what: str
) -> None:
    said: list[Reply] = []

    def stumble(doing: str, number: int) -> Reply | None:
        if doing != f"{when} {what}" or said:
            return None
        said.append(Reply(status=503))
        return said[0]

    with serve_batches(watch=stumble) as server:
        assert statuses(reflect(batched(server), notes, 3)) == ["ok"] * 3
    assert (len(server.batches), len(said), server.keys) == (1, 1, {None})


def test_batch_gives_up_on_a_server_that_takes_nothing(notes: AnswerCache) -> None:
    said = '{"error": {"message": "wrong key sk-secret"}}'
    with serve_batches(watch=lambda doing, number: Reply(status=401, body=said)) as server:
        with pytest.raises(TeacherError, match="HTTP 401: wrong key"):
            reflect(batched(server), notes, 3)
        assert sum(server.done.values()) == 1
        server.watch = lambda doing, number: Reply(status=404)
        with pytest.raises(TeacherError, match=r"HTTP 404: .*; engine batch needs /files and /batches there"):
            reflect(batched(server), notes, 3)
        server.watch = lambda doing, number: Reply(status=503)
        with pytest.raises(TeacherError, match="HTTP 503"):
            reflect(batched(server, wait=0.01), notes, 3)
    with pytest.raises(TeacherError, match="Connection error"):
        reflect(batched(server, wait=0.0), notes, 3)


def test_batch_is_left_at_the_server_by_whoever_stops(
    notes: AnswerCache, caplog: pytest.LogCaptureFixture
) -> None:
    with serve_batches(status=lambda number: "in_progress") as server:
        settings = batched(server)
        engine = opened(settings, notes, stopping=lambda: server.done["poll"] >= 5)
        with Teacher(engine, PROMPTS, settings, 0) as teacher:
            with pytest.raises(TeacherError, match=r"that go on at http://.*: batch_0; a resumed run"):
                flat(teacher.reflect(asked(n) for n in range(3)))
            assert engine.waiting == "batch batch_0: in_progress"
        assert "go on at" in caplog.text
        # Nothing is sent by one who stops before.
        engine = opened(settings, notes, stopping=lambda: True)
        with Teacher(engine, PROMPTS, settings, 1) as teacher, pytest.raises(TeacherError, match="none"):
            flat(teacher.reflect([asked(0)]))
        assert len(server.batches) == 1
        server.batches["batch_0"]["will_be"]["status"] = "completed"
        assert statuses(reflect(settings, notes, 3)) == ["ok"] * 3
    assert len(server.batches) == 1


# Whole runs


def some_useless(body: dict[str, Any]) -> Reply:
    is_useless = random.Random(prompt_of(body)).random() < 0.2
    return Reply("Let me think.") if is_useless else improve(body, 0)


def live(
    folder: Path, server: BatchServer, *words: object, at: str = "never", send: int = signal.SIGKILL
) -> tuple[int, str]:
    """One life of a run, sent a signal when the server is at something; its exit code and what it said."""
    with started(*words, "--runs", folder / "runs", folder=folder) as life:
        server.watch = lambda doing, number: life.send(send) if doing == at else None
        return life.end(), life.text


@pytest.mark.slow
def test_run_killed_wherever_its_batches_are_pays_nothing_twice_and_ends_like_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    kills = [
        "after upload", "after create", "before poll", "after read",
        # The first answers are in, and those of no use are asked for again.
        "before upload", "after create", "after read",
        # In the other phase.
        "after create",
    ]  # fmt: skip
    with serve_batches(some_useless) as server:
        teacher = {"engine": "batch", "path": None, "model": "m", "base_url": server.url, "retries": 1}
        world = write_world(tmp_path / "world", samples=18, teacher=teacher, evaluate={"answers": 0})
        run = ("run", world, "--set", "rounds=1")
        assert live(tmp_path / "calm", server, *run)[0] == 0
        expected = sorted(itertools.chain(*server.asked()))
        assert [len(ids) for ids in server.asked()] == [12, 3, 12, 4]
        server.forget()
        folder = tmp_path / "killed"
        assert live(folder, server, *run, at="before upload")[0] == -signal.SIGKILL
        for kill in kills:
            assert live(folder, server, "resume", "tiny", at=kill)[0] == -signal.SIGKILL
        code, said = live(folder, server, "resume", "tiny", at="before poll", send=signal.SIGINT)
        assert code == 128 + signal.SIGINT
        assert f"go on at {server.url}: batch_2; a resumed run takes their answers in" in said
        assert said.endswith("interrupted; go on with `reflectune resume tiny`\n")
        assert live(folder, server, "resume", "tiny")[0] == 0
        assert sorted(itertools.chain(*server.asked())) == expected
    assert read_tables(folder / "runs/tiny") == read_tables(tmp_path / "calm/runs/tiny")


@pytest.mark.slow
def test_check_asks_at_once_what_a_run_would_send_in_a_batch(tmp_path: Path) -> None:
    with serve_batches() as server:
        teacher = {"engine": "batch", "path": None, "model": "m", "base_url": server.url}
        write_world(tmp_path, samples=20, teacher=teacher)
        shown = reflectune("check", "config.toml", "--json", cwd=tmp_path)
        assert len(json.loads(shown.stdout)["teacher"]["asked"]) == 4
        assert server.done == {"ask": 4}


def test_batch_sends_nothing_that_was_answered_outside_of_one(notes: AnswerCache) -> None:
    with serve_batches() as server:
        asked_at_once = ask(config(server.url), 3, notes)
        assert [call.cached for call, _ in ask(batched(server), 3, notes)] == [True] * 3
        assert server.done == {"ask": 3}
    assert statuses(asked_at_once) == ["ok"] * 3
