"""The teacher against real servers that misbehave on command."""

import email.utils
import gzip
import json
import math
import socket
import threading
import time
from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from reflectune.agents.teacher.engines import connection, openai_server, pacing
from reflectune.state.config import TeacherConfig
from reflectune.state.errors import TeacherError
from tests.teacher_server import Reply, given, improve, is_structured, serve_teacher
from tests.teachers import ask, ask_one, config, statuses

pytestmark = pytest.mark.alone

ANSWER = '{"choices": [{"message": {"content": %s}, "finish_reason": "%s"}]}'


HUGE = "x" * (9 * 2**20)
BOMB = gzip.compress(bytes(2**27))
GZIP = {"Content-Encoding": "gzip"}
ODD_CHARSET = {"Content-Type": "text/html; charset=hex"}
REFUSAL = '{"choices": [{"message": {"content": null, "refusal": "Never."}}]}'
BAD_REPLIES: dict[str, tuple[Reply, str, str | None]] = {
    "hangs": (Reply(delay=30), "error", "teacher.timeout"),
    "drips": (Reply("x", drip=0.05), "error", "teacher.timeout"),
    "resets in mid-body": (Reply("x" * 100, reset=True), "error", "onnection"),
    "truncated JSON": (Reply(body=ANSWER[:30]), "error", "not a chat completion"),
    "HTML": (Reply(body="<p>Hi" * 1000), "error", "not a chat completion"),
    "charset that is none": (Reply(body="<p>", headers=ODD_CHARSET), "error", "not a chat completion"),
    "error page in such a charset": (Reply(status=500, body="<p>", headers=ODD_CHARSET), "error", ""),
    "nested deeply": (Reply(body="[" * 100_000), "error", "not a chat completion"),
    "no text": (Reply(body=b"\xff\xfe\x00"), "error", "not a chat completion"),
    "no choices": (Reply(body='{"choices": []}'), "error", "not a chat completion"),
    "null": (Reply(None), "unparsable", None),
    "null, thought too long": (Reply(None, finish_reason="length"), "cut", "teacher.max_tokens"),
    "declines": (Reply(body=REFUSAL), "declined", None),
    "filtered": (Reply(None, finish_reason="content_filter"), "declined", None),
    "huge": (Reply(body=HUGE), "error", "larger than"),
    "huge error": (Reply(status=500, body=HUGE), "error", "larger than"),
    "compressed bomb": (Reply(body=BOMB, headers=GZIP), "error", "larger than"),
    "compressed garbage": (Reply(body="not compressed", headers=GZIP), "error", "onnection"),
    "redirects": (Reply(status=302, headers={"Location": "/v1/chat/completions"}), "error", ""),
    "odd status": (Reply(status=418), "error", "status 418"),
    "refuses": (Reply(status=400), "refused", "status 400"),
}


@pytest.mark.parametrize(("reply", "status", "error"), BAD_REPLIES.values(), ids=BAD_REPLIES)
def test_one_bad_reply_is_the_status_of_one_call(reply: Reply, status: str, error: str | None) -> None:
    def one_bad(request: dict[str, Any], number: int) -> Reply:
        return reply if given(request, "response") == "2" else improve(request, number)

    began = time.monotonic()
    with serve_teacher(one_bad) as server:
        timeout = 1.0 if reply.delay or reply.drip else 5.0
        reflections = ask(config(server.url, concurrency=2, timeout=timeout), 12)
    assert time.monotonic() - began < 25
    by_sample = {call.sample_id: call for call, _ in reflections}
    bad = by_sample.pop("sample-2")
    assert (bad.status, bad.attempt) == (status, 1)
    assert bad.error is None if error is None else error in (bad.error or ""), bad.error
    assert len(bad.error or "") <= 500
    assert [call.status for call in by_sample.values()] == ["ok"] * 11


@pytest.mark.parametrize(
    ("reply", "concurrency"),
    [
        (Reply(status=500), 1),
        (Reply(status=500), 16),
        (Reply(status=502), 16),
        (Reply(status=504), 16),
        (Reply("x" * 100, reset=True), 16),
        (Reply(body="<html>"), 16),
    ],
)
def test_server_that_stumbles_is_survived_by_the_default_retries(
    reply: Reply, concurrency: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a fifth of the speed: by two pauses of at least 1 and 2 seconds, a fault of 2.5 seconds."""
    monkeypatch.setattr(pacing, "_FIRST_STUMBLE", pacing._FIRST_STUMBLE / 5)
    fault_began = math.inf

    def stumble(request: dict[str, Any], number: int) -> Reply:
        nonlocal fault_began
        if number == 20:
            fault_began = time.monotonic()
        return reply if 0 <= time.monotonic() - fault_began < 0.5 else improve(request, number)

    retries = TeacherConfig.model_fields["retries"].default
    with serve_teacher(stumble) as server:
        reflections = ask(config(server.url, concurrency=concurrency, retries=retries), 60)
        assert len(server.requests) > 60
    made = Counter((call.status, call.is_final(retries + 1)) for call, _ in reflections)
    assert made.pop(("ok", True)) == 60
    assert made.keys() == (set() if reply.status == 502 else {("error", False)})  # no attempt of ours


@pytest.mark.parametrize("reply", [Reply(delay=30), Reply(status=500)])
@pytest.mark.parametrize("retries", [0, 2])
def test_failure_is_asked_again_as_configured(
    reply: Reply, retries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "_FIRST_STUMBLE", 0.05)
    with serve_teacher(lambda r, n: reply if n < 2 else improve(r, n)) as server:
        reflections = ask(config(server.url, retries=retries, timeout=1.0), 1)
        assert len(server.requests) == 1 + retries
    made = [(call.status, call.attempt, call.is_final(1 + retries)) for call, _ in reflections]
    failures = [("error", 1, retries == 0), ("error", 2, False), ("ok", 3, True)]
    assert made == failures[: 1 + retries]


def test_compressed_answer_that_nobody_asked_for_is_read() -> None:
    def compressed(request: dict[str, Any], number: int) -> Reply:
        body = ANSWER % (json.dumps(improve(request, number).text), "stop")
        return Reply(body=gzip.compress(body.encode()), headers=GZIP)

    with serve_teacher(compressed) as server:
        assert ask_one(config(server.url)).status == "ok"


def test_address_that_takes_no_connection_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_CONNECT_TIMEOUT", 0.2)
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (first, second):  # nobody accepts: the queue is full now
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        began = time.monotonic()
        with pytest.raises(TeacherError, match="cannot be reached"):
            ask(config(f"http://127.0.0.1:{full.getsockname()[1]}/v1", concurrency=1), 3)
        assert time.monotonic() - began < 8


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
def test_request_that_cannot_succeed_is_sent_once(status: int) -> None:
    # Some servers recommend to try again, whatever it is.
    headers = {"x-should-retry": "true", "Retry-After": "0"}
    with serve_teacher(lambda r, n: Reply(status=status, headers=headers)) as server:
        settings = config(server.url, structured=False, retries=3)
        if status in (400, 422):
            call = ask_one(settings)
            assert (call.status, call.is_final(4)) == ("refused", True)
        else:
            message = rf"teacher fake at {server.url}: .*status {status}; check "
            with pytest.raises(TeacherError, match=message) as caught:
                ask(settings, 1)
            assert "\n" not in str(caught.value)
        assert len(server.requests) == 1


def test_spent_credit_is_not_waited_for() -> None:
    body = json.dumps({"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}})
    with (
        serve_teacher(lambda r, n: Reply(status=429, body=body)) as server,
        pytest.raises(TeacherError, match=r"exceeded your quota.*check the account's credit"),
    ):
        ask(config(server.url), 3)


def test_wait_that_is_too_long_ends_the_run() -> None:
    reply = Reply(status=429, headers={"Retry-After": "86400"})
    with (
        serve_teacher(lambda r, n: reply) as server,
        pytest.raises(TeacherError, match=r"\(teacher\.wait\): .*status 429"),
    ):
        ask(config(server.url, concurrency=2), 10)


@pytest.mark.parametrize("status", [429, 503])
def test_storm_of_busy_replies_ends_with_every_pair_answered(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "_FIRST_PAUSE", pacing._FIRST_PAUSE / 5)

    # Bears two requests at once and turns all others away.
    def bears_two(request: dict[str, Any], number: int) -> Reply:
        if server.under_way > 2:
            return Reply(status=status, headers={"Retry-After": "0"})
        return Reply(improve(request, number).text, delay=0.02)

    with serve_teacher(bears_two) as server:
        reflections = ask(config(server.url, concurrency=16), 100)
        turned_away = len(server.requests) - 100
    assert Counter(statuses(reflections)) == {"ok": 100}
    assert {call.attempt for call, _ in reflections} == {1}
    # 16 at once all the time would be turned away seven times as often as answered.
    assert 0 < turned_away < 150


def test_storm_without_retry_after_is_weathered_by_backing_off() -> None:
    def busy_at_first(request: dict[str, Any], number: int) -> Reply:
        if time.monotonic() - began < 1.0:
            return Reply(status=429)
        return improve(request, number)

    with serve_teacher(busy_at_first) as server:
        began = time.monotonic()
        reflections = ask(config(server.url, concurrency=8), 30)
        assert len(server.requests) - 30 < 8 + 4 + 2 + 1 + 1
    assert statuses(reflections) == ["ok"] * 30
    assert {call.attempt for call, _ in reflections} == {1}
    assert all(is_structured(request) for request in server.requests)


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_holds_back_every_request(as_date: bool) -> None:
    arrivals: list[float] = []

    def busy_once(request: dict[str, Any], number: int) -> Reply:
        arrivals.append(time.monotonic())
        if number == 4:
            wait = email.utils.formatdate(time.time() + 2, usegmt=True) if as_date else "1"
            return Reply(status=429, headers={"Retry-After": wait})
        return Reply(improve(request, number).text, delay=0.05)

    with serve_teacher(busy_once) as server:
        reflections = ask(config(server.url, concurrency=4), 20)
    assert statuses(reflections) == ["ok"] * 20
    # Dates are whole seconds: two of them ahead is more than one. What left before the refusal was read may
    # still come; fifteen would come if nothing was held back.
    assert len([arrival for arrival in arrivals[5:] if arrival - arrivals[4] < 0.9]) <= 6
    assert max(arrivals) - arrivals[4] > 0.9


def test_key_in_the_address_is_refused() -> None:
    with pytest.raises(ValidationError, match="a key's variable in api_key_env") as caught:
        config("https://user:sk-secret@example.com/v1")
    assert "sk-secret" not in str(caught.value)


def test_concurrency_is_kept_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server answers one of sixteen requests, and the next only when another has taken its place.

    Who waits for two answers, or until it looks again by itself, waits in vain.
    """
    monkeypatch.setattr(openai_server, "_SLICE", 3600.0)
    came = 0
    replaced = threading.Condition()

    def when_full(request: dict[str, Any], number: int) -> Reply:
        nonlocal came
        with replaced:
            came += 1
            if came == 160:
                replaced.notify_all()
            else:
                if came >= 16:
                    replaced.notify()  # the one that has waited longest
                assert replaced.wait(timeout=60)
        return improve(request, number)

    with serve_teacher(when_full) as server:
        assert statuses(ask(config(server.url, concurrency=16), 160)) == ["ok"] * 160
        assert server.most_at_once == 16
