"""A teacher at several addresses: real servers on loopback that share the work, die and come back."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError

from reflectune.agents.teacher.engines import Request, openai_server, pacing
from reflectune.agents.teacher.engines.openai_server import OpenAIEngine
from reflectune.agents.teacher.teacher import open_teacher
from reflectune.state.cache import AnswerCache
from reflectune.state.config import TeacherConfig, change_config, load_config
from reflectune.state.errors import TeacherError
from reflectune.state.records import Reflection
from tests.teacher_server import Reply, TeacherServer, given, improve, is_structured, serve_teacher
from tests.teachers import ask, asked, config, flat, statuses, take_until_error


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "_FIRST_PAUSE", 0.05)
    monkeypatch.setattr(pacing, "_FIRST_STUMBLE", 0.05)


def port_of(server: TeacherServer) -> int:
    return urlsplit(server.url).port or 0


def pairs_asked(*servers: TeacherServer) -> Counter[str]:
    return Counter(given(request, "response") for server in servers for request in server.requests)


def answer_and_hang_up(request: dict[str, Any], number: int) -> Reply:
    return replace(improve(request, number), headers={"Connection": "close"})


def test_the_server_with_the_fewest_requests_under_way_is_asked() -> None:
    def held(request: dict[str, Any], number: int) -> Reply:
        deadline = time.monotonic() + 20
        while slow.under_way + quick.under_way < 6 and not full.is_set() and time.monotonic() < deadline:
            time.sleep(0.005)
        full.set()
        return improve(request, number)

    full, done = threading.Event(), threading.Event()

    def never_first(request: dict[str, Any], number: int) -> Reply:
        reply = held(request, number)
        assert done.wait(20)
        return reply

    with serve_teacher(never_first) as slow, serve_teacher(held) as quick:
        with open_teacher(config([slow.url, quick.url], concurrency=6), 0) as teacher:
            made = []
            for group in teacher.reflect(asked(number) for number in range(12)):
                made += group
                if len(made) == 9:
                    done.set()
        assert statuses(made) == ["ok"] * 12
        assert (slow.most_at_once, len(slow.requests), len(quick.requests)) == (3, 3, 9)
        assert Counter(call.server for call, _ in made) == {slow.url: 3, quick.url: 9}


def test_server_that_dies_loses_nothing_and_is_asked_again_once_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pacing, "_LONGEST_PAUSE", 0.05)
    dies, is_back = threading.Event(), threading.Event()

    def until_it_dies(request: dict[str, Any], number: int) -> Reply:
        reply = improve(request, number)
        if number < 3:
            return reply
        dies.set()
        return Reply(reply.text, reset=True)  # it breaks all connections

    def again(request: dict[str, Any], number: int) -> Reply:
        is_back.set()
        return improve(request, number)

    def until_it_is_back() -> Iterator[Reflection]:
        for number in count():
            if number >= 60 and is_back.is_set():
                return
            yield asked(number)

    with ExitStack() as first, ExitStack() as second, serve_teacher() as other:
        mortal = first.enter_context(serve_teacher(until_it_dies))
        with open_teacher(config([mortal.url, other.url], concurrency=6), 0) as teacher:
            groups = teacher.reflect(until_it_is_back())
            made = list(next(groups))
            while not dies.is_set():
                made += next(groups)
            first.close()
            while len(made) < 20:
                made += next(groups)
            reborn = second.enter_context(serve_teacher(again, port_of(mortal)))
            made += flat(groups)
        assert [(call.status, call.attempt) for call, _ in made] == [("ok", 1)] * len(made)
        assert {call.sample_id for call, _ in made} == {f"sample-{number}" for number in range(len(made))}
        answered = Counter(call.server for call, _ in made)
        assert answered[mortal.url] == 3 + len(reborn.requests)
        assert reborn.requests
        assert set(pairs_asked(other, reborn).values()) == {1}, "what was answered is asked nobody again"
        assert (
            not {given(each, "response") for each in mortal.requests[:3]} & pairs_asked(other, reborn).keys()
        )


def test_all_servers_gone_for_longer_than_wait_end_the_run() -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(serve_teacher(answer_and_hang_up)) for _ in range(2)]
        settings = config([server.url for server in servers], concurrency=2, wait=0.4, retries=2)
        with open_teacher(settings, 0) as teacher:
            groups = teacher.reflect(asked(number) for number in range(50))
            made = list(next(groups))
            stack.close()
            made += take_until_error(r"takes no request within 0\.4 s \(teacher\.wait\)", groups)
    assert {(call.status, call.attempt) for call, _ in made} == {("ok", 1)}


def test_nobody_at_any_address_is_told_within_seconds() -> None:
    with serve_teacher() as one, serve_teacher() as two:
        urls = [one.url, two.url]
    began = time.monotonic()
    with pytest.raises(TeacherError, match="cannot be reached"):
        ask(config(urls, retries=2), 20)
    assert time.monotonic() - began < 10


def test_address_where_nobody_ever_was_uses_up_no_attempt() -> None:
    with serve_teacher() as gone:
        pass
    with serve_teacher() as there:
        made = ask(config([gone.url, there.url], concurrency=4), 12)
    assert [(call.status, call.attempt, call.server) for call, _ in made] == [("ok", 1, there.url)] * 12


@pytest.mark.parametrize("number_broken", [1, 2])
def test_attempt_is_used_up_where_every_server_failed(number_broken: int) -> None:
    replies = [lambda r, n: Reply(status=500)] * number_broken + [improve] * (2 - number_broken)
    with serve_teacher(replies[0]) as one, serve_teacher(replies[1]) as two:
        ((call, _),) = ask(config([one.url, two.url]), 1)
        assert (len(one.requests), len(two.requests)) == (1, 1)
    assert (call.status, call.attempt) == (("ok", 1), ("error", 1))[number_broken - 1]


def test_busy_server_of_two_is_not_waited_for() -> None:
    busy = Reply(status=429, headers={"Retry-After": "1000"})
    with serve_teacher(lambda r, n: busy) as one, serve_teacher() as two:
        made = ask(config([one.url, two.url], concurrency=4, wait=5.0), 20)
        assert len(one.requests) <= 2
    assert [(call.status, call.attempt) for call, _ in made] == [("ok", 1)] * 20


def test_failures_of_one_server_are_one_and_a_busy_one_is_waited_for() -> None:
    busy = Reply(status=429, headers={"Retry-After": "0.4"})
    with (
        serve_teacher(lambda r, n: Reply(status=500)) as broken,
        serve_teacher(lambda r, n: improve(r, n) if n else busy) as other,
    ):
        made = ask(config([other.url, broken.url], concurrency=4), 4)
        assert len(broken.requests) <= 4, "it is not asked twice about one pair"
    assert [(call.status, call.attempt, call.server) for call, _ in made] == [("ok", 1, other.url)] * 4


def test_what_waits_for_a_busy_server_does_not_hold_up_what_another_takes() -> None:
    """One pair fails at the free server, and has to wait for the other; all others are answered meanwhile."""

    def picky(request: dict[str, Any], number: int) -> Reply:
        return Reply(status=500) if "Say 0." in str(request) else improve(request, number)

    is_free = threading.Event()

    def late_reply(request: dict[str, Any], number: int) -> Reply:
        return improve(request, number) if is_free.is_set() else Reply(status=429)

    with (
        serve_teacher(late_reply) as late,
        serve_teacher(picky) as free,
        open_teacher(config([late.url, free.url], concurrency=2), 0) as teacher,
    ):
        groups = teacher.reflect(asked(number) for number in range(20))
        made = [made for _ in range(10) for made in next(groups)]
        assert {call.server for call, _ in made} == {free.url}
        is_free.set()
        made += flat(groups)
    assert [(call.status, call.attempt) for call, _ in made] == [("ok", 1)] * 20
    assert [call.server for call, _ in made if call.sample_id == "sample-0"] == [late.url]


def test_server_that_fails_at_once_is_asked_after_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "_FIRST_STUMBLE", 60.0)
    monkeypatch.setattr(pacing, "_LONGEST_STUMBLE", 60.0)

    def slowly(request: dict[str, Any], number: int) -> Reply:
        return replace(improve(request, number), delay=0.01)

    with serve_teacher(lambda r, n: Reply(status=500)) as broken, serve_teacher(slowly) as sound:
        made = ask(config([broken.url, sound.url], concurrency=3), 30)
        assert len(broken.requests) <= 3
    assert [(call.status, call.attempt) for call, _ in made] == [("ok", 1)] * 30


def test_stop_does_not_wait_for_a_busy_server_where_the_others_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openai_server, "_SHOWN_AFTER", 0.0)
    asks = threading.Event()
    busy = Reply(status=429, headers={"Retry-After": "100"})
    with (
        serve_teacher(lambda r, n: busy) as late,
        serve_teacher(lambda r, n: Reply(status=500)) as broken,
        closing(OpenAIEngine(config([late.url, broken.url]), stopping=asks.is_set)) as engine,
    ):
        engine.submit(Request("0", asked(), ({"role": "user", "content": "Do."},), None, 0))
        deadline = time.monotonic() + 20
        while not engine.waiting.startswith("waiting for 1 of 2 servers"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        asks.set()
        with pytest.raises(TeacherError, match="takes no request"):
            engine.next_answer()
        assert (len(late.requests), len(broken.requests)) == (1, 1)


def test_each_server_is_sent_what_it_takes() -> None:
    def picky(request: dict[str, Any], number: int) -> Reply:
        if "temperature" not in request:
            return improve(request, number)
        body = '{"error": {"message": "no", "param": "temperature", "code": "unsupported_parameter"}}'
        return Reply(status=400, body=body)

    with serve_teacher(picky) as one, serve_teacher() as two:
        settings = config([one.url, two.url], temperature=0.5, concurrency=2)
        assert set(statuses(ask(settings, 8))) == {"ok"}
        assert sum("temperature" in request for request in one.requests) <= 2
        assert all("temperature" in request for request in two.requests)


def test_answers_of_a_list_are_found_again_in_any_order_and_number(tmp_path: Path) -> None:
    def without_schemas(request: dict[str, Any], number: int) -> Reply:
        refusal = Reply(status=400, body='{"error": {"message": "response_format is not supported"}}')
        return refusal if is_structured(request) else improve(request, number)

    with serve_teacher(without_schemas) as one, serve_teacher(without_schemas) as two:
        urls = [one.url, two.url]
        for others in (urls, urls[::-1], urls[:1], urls[1], [*urls, "http://127.0.0.1:9/v1"]):
            with AnswerCache.open(tmp_path) as cache:
                made = ask(config(others), 6, cache)
            assert statuses(made) == ["ok"] * 6
            assert [call.cached for call, _ in made] == [others is not urls] * 6
        plain = [each for each in (*one.requests, *two.requests) if not is_structured(each)]
        assert len(plain) == 6


def test_schemas_are_asked_for_where_every_server_takes_them(tmp_path: Path) -> None:
    def without_schemas(request: dict[str, Any], number: int) -> Reply:
        refusal = Reply(status=400, body='{"error": {"message": "response_format is not supported"}}')
        return refusal if is_structured(request) else improve(request, number)

    with serve_teacher() as one, serve_teacher(without_schemas) as two, AnswerCache.open(tmp_path) as cache:
        settings = config([one.url, two.url], concurrency=2)
        assert set(statuses(ask(settings, 10, cache))) == {"ok"}
        assert (cache.grants_schemas(one.url, "fake"), cache.grants_schemas(two.url, "fake")) == (True, False)
        before = len(one.requests)
        assert set(statuses(ask(settings, [asked(number) for number in range(10, 20)], cache))) == {"ok"}
        assert not any(map(is_structured, one.requests[before:]))


def test_batches_are_at_one_address() -> None:
    fields = {"engine": "batch", "model": "m"}
    TeacherConfig(**fields, base_url=["http://a"])
    with pytest.raises(ValidationError, match="give base_url one address"):
        TeacherConfig(**fields, base_url=["http://a", "http://b"])
    with pytest.raises(ValidationError, match="at least 1 item"):
        TeacherConfig(engine="openai", model="m", base_url=[])


def test_addresses_change_on_resume_and_are_written_as_toml(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        'name = "r"\n[data]\nhf = "d"\n[student]\nmodel = "s"\n'
        '[teacher]\nengine = "openai"\nmodel = "m"\nbase_url = "http://a/v1"\n'
    )
    begun = load_config(path)
    assert begun.teacher.base_url == "http://a/v1"
    changed = change_config(begun, ['teacher.base_url=["http://b/v1", "http://a/v1"]'])
    assert changed.teacher.base_url == ["http://b/v1", "http://a/v1"]
    path.write_text(changed.to_toml())
    assert load_config(path) == changed
    assert change_config(changed, ["teacher.base_url=http://c/v1"]).teacher.base_url == "http://c/v1"
