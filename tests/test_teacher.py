import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import date
from itertools import cycle
from pathlib import Path
from typing import Any

import openai
import pytest

from reflectune.agents.teacher.engines import Request, TeacherModel
from reflectune.agents.teacher.engines.addresses import list_addresses
from reflectune.agents.teacher.engines.connection import request_headers
from reflectune.agents.teacher.engines.openai_server import OpenAIEngine
from reflectune.agents.teacher.prompts import open_prompts
from reflectune.agents.teacher.teacher import Reflected, Teacher, check_teacher, open_teacher
from reflectune.state.config import StudentConfig, TeacherConfig
from reflectune.state.errors import ConfigError, TeacherError
from reflectune.state.records import PHASES, Answer, Pair, Phase, Reflection, Version
from tests.prompting import write_own
from tests.teacher_server import (
    Reply,
    answer_text,
    given,
    improve,
    is_structured,
    prompt_of,
    serve_teacher,
)
from tests.teachers import (
    PROMPTS,
    ScriptedEngine,
    ask,
    ask_one,
    asked,
    config,
    fail,
    flat,
    reflect,
    scripted,
    statuses,
    take_until_error,
    well,
)

SHARED = Path(__file__).parent.parent.parent / "shared"


def test_reflect_makes_a_proposal_of_each_phase() -> None:
    wanted = [asked(1, "instruction"), asked(2, "response", candidate=3)]
    with serve_teacher() as server:
        (one, rewritten), (two, improved) = ask(config(server.url, concurrency=1), wanted)
    assert one.is_final(1)
    assert two.is_final(1)
    pair = Pair("Say 1. Explain why.", "", "1 And more than that.")
    assert rewritten == Version("sample-1", "version-1", 1, "instruction", 0, pair, one.id)
    pair = Pair("Say 2.", "", "2 And more than that.")
    assert improved == Version("sample-2", "version-2", 1, "response", 3, pair, two.id)


def test_reflect_records_the_whole_call() -> None:
    with serve_teacher() as server:
        call = ask_one(config(server.url, price_in=2.0, price_out=10.0), asked(3, round=2))
    place = call.round, call.phase, call.sample_id, call.candidate, call.attempt
    assert place == (2, "response", "sample-3", 0, 1)
    assert (call.engine, call.model, call.status, call.error) == ("openai", "fake", "ok", None)
    assert (call.finish_reason, call.critique, len(call.prompt_hash)) == ("stop", "Too short.", 32)
    assert json.loads(call.text)["response"] == "3 And more than that."
    assert call.seconds > 0
    assert call.prompt_tokens
    assert call.completion_tokens
    # 2 USD per million prompt tokens, 10 per million completion tokens
    assert call.cost_usd == pytest.approx((2 * call.prompt_tokens + 10 * call.completion_tokens) / 1_000_000)


@pytest.mark.parametrize(
    ("prices", "tokens", "cost"),
    [
        ({"price_in": 1.0, "price_out": 2.0}, (1000, 500), 0.002),
        ({"price_in": 0.0, "price_out": 0.0}, (1000, 500), 0.0),
        ({"price_in": 1.0}, (1000, 500), None),
        ({"price_in": 1.0, "price_out": 2.0}, (1000, None), None),
    ],
)
def test_cost_is_unknown_where_price_or_count_is(
    prices: dict[str, float], tokens: tuple[int | None, int | None], cost: float | None
) -> None:
    engine = ScriptedEngine(lambda r: well(r, prompt_tokens=tokens[0], completion_tokens=tokens[1]))
    (((call, _),),) = scripted(engine, **prices).reflect([asked()])
    assert call.cost_usd == cost


def test_reflect_yields_answers_as_they_finish() -> None:
    others_came = threading.Event()

    def first_last(request: dict[str, Any], number: int) -> Reply:
        if given(request, "response") == "0":
            assert others_came.wait(60)
        return improve(request, number)

    reflected: list[Reflected] = []
    with serve_teacher(first_last) as server, open_teacher(config(server.url, concurrency=2), 0) as teacher:
        for group in teacher.reflect(asked(number) for number in range(10)):
            reflected += group
            if len(reflected) == 9:
                others_came.set()
    assert statuses(reflected) == ["ok"] * 10
    assert reflected[-1][0].sample_id == "sample-0"


def test_reflect_pulls_reflections_as_it_needs_them() -> None:
    pulled = 0

    def endless() -> Iterator[Reflection]:
        nonlocal pulled
        for number in range(1000):
            pulled += 1
            yield asked(number)

    engine = ScriptedEngine(well, capacity=4)
    reflected = scripted(engine).reflect(endless())
    assert pulled == 0
    next(reflected)
    assert pulled == 4
    next(reflected)
    assert pulled == 5


def test_reflect_hands_over_together_what_is_there_and_asks_no_more_before() -> None:
    engine = ScriptedEngine(well, capacity=100, prompt=True)
    groups = scripted(engine).reflect(asked(n) for n in range(150))
    sizes = []
    for sent in (100, 150, 150):  # at first a hundred; then as many as were answered, or are left
        sizes.append(len(next(groups)))
        assert len(engine.requests) == sent
    assert sizes == [64, 64, 22]
    assert list(groups) == []


def test_reflect_hands_over_what_came_before_an_error_of_the_engine() -> None:
    def break_at_the_third(request: Request) -> Answer:
        if request.id == "2":
            raise TeacherError("no key")
        return well(request)

    groups = scripted(ScriptedEngine(break_at_the_third, prompt=True)).reflect(asked(n) for n in range(9))
    assert statuses(take_until_error("no key", groups)) == ["ok", "ok"]


def test_reflect_can_stop_early_and_go_on() -> None:
    engine = ScriptedEngine(well, capacity=4)
    teacher = scripted(engine)
    first = teacher.reflect(asked(n) for n in range(10))
    next(first)
    first.close()
    rest = flat(teacher.reflect([asked(20)]))
    assert [call.sample_id for call, _ in rest] == ["sample-20"]


def test_reflect_asks_no_more_once_it_may_not_and_takes_in_what_is_under_way() -> None:
    # Of 4 questions under way the first gets no answer of use: it would be asked again.
    engine = ScriptedEngine(lambda request: well(request, text="") if request.id == "0" else well(request))
    teacher = scripted(engine, retries=1)
    taken: list[Reflected] = []
    for group in teacher.reflect((asked(number) for number in range(9)), lambda: not taken):
        taken.extend(group)
    assert statuses(taken) == ["unparsable", "ok", "ok", "ok"]
    assert not taken[0][0].is_final(2)
    assert len(engine.requests) == 4


def test_reflect_that_does_not_wait_says_that_nothing_is_there() -> None:
    class Ponderous(ScriptedEngine):
        """Has an answer whenever it was looked at in vain before."""

        has_pondered = True

        def has_answer(self) -> bool:
            self.has_pondered = not self.has_pondered
            return self.has_pondered and bool(self.under_way)

        def next_answer(self) -> Answer:
            assert self.has_pondered, "it was waited for"
            return super().next_answer()

    # In the last but one turn nothing is under way.
    reflections = iter([asked(0), None, None, None, asked(1)])
    groups = list(scripted(Ponderous(well)).reflect(reflections, waits=lambda: False))
    assert [len(group) for group in groups] == [0, 1, 0, 0, 1]


def test_reflect_that_has_nothing_under_way_hands_over_what_it_held_back() -> None:
    engine = ScriptedEngine(fail, prompt=True)
    groups = scripted(engine).reflect(iter([asked(0), asked(1), None, None, asked(2)]), waits=lambda: False)
    assert [statuses(group) for group in groups if group] == [["error"] * 2, ["error"]]


@pytest.mark.parametrize("granted", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_reflect_asks_in_the_form_that_is_set_and_can_be(wanted: bool, granted: bool) -> None:
    engine = ScriptedEngine(well, structured=granted)
    assert statuses(reflect(engine, 3, structured=wanted)) == ["ok"] * 3
    assert engine.schemas() == [wanted and granted] * 3


def no_schemas(request: dict[str, Any], number: int) -> Reply:
    return Reply(status=400) if is_structured(request) else improve(request, number)


@pytest.mark.parametrize(("concurrency", "refused"), [(1, 1), (8, 16)])
def test_reflect_falls_back_to_tags_and_remembers(concurrency: int, refused: int) -> None:
    with serve_teacher(no_schemas) as server:
        reflected = ask(config(server.url, concurrency=concurrency), 50)
        assert 1 <= sum(map(is_structured, server.requests)) <= refused
        assert len(server.requests) == 50 + sum(map(is_structured, server.requests))
    assert statuses(reflected) == ["ok"] * 50
    assert {call.attempt for call, _ in reflected} == {1}


def refuse_schema_of(pair: str) -> Callable[[Request], Answer]:
    def answer(request: Request) -> Answer:
        is_refused = request.schema and request.reflection.pair.response == pair
        return fail(request, "refused-request") if is_refused else well(request)

    return answer


def test_reflect_keeps_schemas_that_were_granted_once() -> None:
    engine = ScriptedEngine(refuse_schema_of("1"), capacity=1)
    assert statuses(reflect(engine, 4)) == ["ok"] * 4
    assert engine.schemas() == [True, True, False, True, True]


def test_reflect_schema_that_is_granted_late_is_granted() -> None:
    class Unfair(ScriptedEngine):
        """Leaves the second request for later, until six have been sent."""

        def next_answer(self) -> Answer:
            if len(self.under_way) > 1 and self.under_way[0].id == "1" and len(self.requests) < 6:
                self.under_way.rotate(-1)
            return super().next_answer()

    engine = Unfair(refuse_schema_of("0"), capacity=2)
    reflect(engine, 8)
    assert engine.schemas() == [True] * 2 + [False] * 4 + [True] * 3


def test_reflect_failed_attempt_does_not_end_schemas() -> None:
    engine = ScriptedEngine(lambda r: fail(r) if r.id == "0" else well(r), capacity=1)
    reflect(engine, 2, retries=1)
    assert engine.schemas() == [True, False, True]


@pytest.fixture
def own_prompts(tmp_path: Path) -> Path:
    # It knows only JSON.
    return write_own(tmp_path, tagged=None)


ASKED_IN_OWN_WORDS = (
    "Improve the response: {} and {0}.\n\nI: Say 2.\nR (NONCE): 2\n"
    'JSON: {"critique": "...", "response": "a better one"}'
)


def prompt_of_own(request: Mapping[str, Any]) -> str:
    return re.sub(r"\(\w{8}\)", "(NONCE)", prompt_of(request))


def test_reflect_asks_in_the_words_of_own_prompts(own_prompts: Path) -> None:
    reply = Reply('{"critique": "c", "instruction": "New.", "response": "More."}')
    with serve_teacher(lambda request, number: reply) as server:
        settings = config(server.url, prompts=str(own_prompts), concurrency=1)
        (_, rewritten), (_, improved) = ask(settings, [asked(1, "instruction"), asked(2, "response")])
        first, second = server.requests
    assert prompt_of_own(first).startswith("Rewrite {it}.\n\nI: Say 1.\nR (NONCE): 1\nJSON: ")
    assert prompt_of_own(second) == ASKED_IN_OWN_WORDS
    assert is_structured(first)
    assert rewritten
    assert improved
    assert (rewritten.pair, improved.pair) == (Pair("New.", "", "More."), Pair("Say 2.", "", "More."))


def test_reflect_asks_for_tagged_text_in_the_words_of_own_prompts(tmp_path: Path) -> None:
    with serve_teacher(lambda request, number: Reply("nonsense")) as server:
        ask(config(server.url, prompts=str(write_own(tmp_path)), retries=1), [asked(2)])
        first, second = server.requests
    assert prompt_of_own(first) == ASKED_IN_OWN_WORDS
    assert re.search(r"R \((\w{8})\): 2\n<new-response-\1>a better one</new-response-\1>$", prompt_of(second))
    assert [is_structured(first), is_structured(second)] == [True, False]


@pytest.mark.parametrize("granted", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_reflect_by_prompts_without_tags_asks_for_json_in_every_attempt(
    own_prompts: Path, granted: bool, wanted: bool
) -> None:
    engine = ScriptedEngine(lambda request: Answer(request.id, "nonsense"), structured=granted)
    settings = config(structured=wanted, retries=2)
    list(Teacher(engine, open_prompts(own_prompts), settings, 0).reflect([asked(2)]))
    for request in engine.requests:
        assert prompt_of_own({"messages": request.messages}) == ASKED_IN_OWN_WORDS
    assert engine.schemas() == [granted and wanted] * 3


def test_reflect_by_prompts_without_tags_does_without_schemas_that_are_refused(own_prompts: Path) -> None:
    def no_schemas_no_sense(request: dict[str, Any], number: int) -> Reply:
        return Reply(status=400) if is_structured(request) else Reply("nonsense")

    with serve_teacher(no_schemas_no_sense) as server:
        settings = config(server.url, prompts=str(own_prompts), concurrency=1, retries=1)
        reflected = ask(settings, [asked(1), asked(2)])
        assert [is_structured(request) for request in server.requests] == [True] + [False] * 4
        assert all("JSON: " in prompt_of(request) for request in server.requests)
    assert [(call.sample_id, call.attempt, call.status) for call, _ in reflected] == [
        (f"sample-{number}", attempt, "unparsable") for number in (1, 2) for attempt in (1, 2)
    ]


@pytest.mark.parametrize("status", [400, 422])
def test_reflect_refused_pair_fails_alone(status: int) -> None:
    def poisoned(request: dict[str, Any], number: int) -> Reply:
        return Reply(status=status) if given(request, "response") == "0" else improve(request, number)

    with serve_teacher(poisoned) as server:
        reflected = ask(config(server.url, concurrency=2, retries=3), 10)
        requests = [
            is_structured(request) for request in server.requests if given(request, "response") == "0"
        ]
        assert requests == [True, False]  # never again
        assert sum(map(is_structured, server.requests)) == 10
    by_sample = {call.sample_id: call for call, _ in reflected}
    refused = by_sample.pop("sample-0")
    assert (refused.status, refused.is_final(4)) == ("refused", True)
    assert f"status {status}" in (refused.error or "")
    assert [call.status for call in by_sample.values()] == ["ok"] * 9


def test_reflect_retries_are_bounded() -> None:
    with serve_teacher(lambda request, number: Reply("nonsense")) as server:
        calls = [call for call, _ in ask(config(server.url, retries=2), 1)]
        assert [is_structured(request) for request in server.requests] == [True, False, False]
    assert [(call.status, call.attempt, call.is_final(3)) for call in calls] == [
        ("unparsable", 1, False),
        ("unparsable", 2, False),
        ("unparsable", 3, True),
    ]
    assert len({call.id for call in calls}) == 3
    assert {call.critique for call in calls} == {None}


@pytest.mark.parametrize("bad", ["declined", "placeholder", "echoed", "repetition", "unparsable"])
def test_reflect_asks_again_after_every_answer_of_no_use(bad: str) -> None:
    def at_first_bad(request: dict[str, Any], number: int) -> Reply:
        text = {
            "declined": "I cannot help with that.",
            "placeholder": answer_text(request, response="TODO"),
            "echoed": answer_text(request, response=prompt_of(request)),
            "repetition": "no " * 200,
            "unparsable": "hm",
        }[bad]
        return Reply(text) if number == 0 else improve(request, number)

    with serve_teacher(at_first_bad) as server:
        (failed, none), (made, version) = ask(config(server.url, retries=1, send_seed=True), 1)
        first, second = server.requests
    assert (failed.status, failed.is_final(2), failed.critique, none) == (bad, False, None, None)
    assert (made.status, made.attempt, made.is_final(2)) == ("ok", 2, True)
    assert version
    assert first["seed"] != second["seed"]


def test_reflect_takes_an_unchanged_pair_for_an_answer() -> None:
    with serve_teacher(lambda request, number: Reply(answer_text(request, response="0"))) as server:
        (call,) = [call for call, _ in ask(config(server.url, retries=2), 1)]
    assert (call.status, call.attempt) == ("unchanged", 1)


def test_reflect_begins_anew_after_attempts_that_are_spared() -> None:
    with serve_teacher(lambda request, number: Reply("nonsense")) as server:
        calls = [call for call, _ in ask(config(server.url, retries=1), [asked(0, attempts=3, spared=3)])]
        assert [is_structured(request) for request in server.requests] == [True, False]
    assert [call.attempt for call in calls] == [4, 5]


def test_reflect_goes_on_by_the_attempts_that_were_made() -> None:
    with serve_teacher(lambda request, number: Reply("nonsense")) as server:
        whole = ask(config(server.url, retries=2, concurrency=1), 1)
        resumed = ask(
            config(server.url, retries=2, concurrency=1), [asked(0, attempts=1), asked(1, attempts=3)]
        )
        assert server.requests[1:3] == server.requests[3:]
    assert [call.prompt_hash for call, _ in whole[1:]] == [call.prompt_hash for call, _ in resumed]
    assert [(call.sample_id, call.attempt) for call, _ in resumed] == [("sample-0", 2), ("sample-0", 3)]


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("phase", PHASES)
def test_reflect_survives_texts_that_cannot_be_stored(phase: Phase, structured: bool) -> None:
    def dirty(request: dict[str, Any], number: int) -> Reply:
        # The completion's own JSON escapes reach the client as a lone surrogate and a NUL.
        return Reply(answer_text(request, instruction="a\ud800", response="b\x00", critique="c\ud800"))

    with serve_teacher(dirty) as server:
        ((call, version),) = ask(config(server.url, structured=structured), [asked(0, phase)])
    assert version
    assert version.pair.response == "b\ufffd"
    assert call.critique == "c\ufffd"
    call.text.encode("utf-8")
    assert "\x00" not in call.text


def test_reflect_unreachable_server_is_a_teacher_error() -> None:
    with serve_teacher() as server:
        pass  # the port was free a moment ago, and is again
    began = time.monotonic()
    with pytest.raises(TeacherError, match=r"teacher fake: cannot be reached: .*ConnectionRefused") as caught:
        ask(config(server.url, concurrency=4), 100)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("status", [400, 500])
def test_reflect_teacher_that_answers_nothing_marks_no_pair(status: int) -> None:
    with (
        serve_teacher(lambda request, number: Reply(status=status)) as server,
        open_teacher(config(server.url, concurrency=2), 0) as teacher,
    ):
        reflected = teacher.reflect(asked(n) for n in range(1000))
        assert take_until_error("9 calls in a row failed", reflected) == []
    assert len(server.requests) < 50


@pytest.mark.parametrize(("finish", "named"), [("length", True), ("stop", False)])
def test_reflect_thought_alone_is_paid_and_shows_that_the_teacher_is_there(finish: str, named: bool) -> None:
    text = "<think>\nHm."
    engine = ScriptedEngine(lambda request: well(request, text=text, finish_reason=finish, prompt_tokens=5))
    groups = list(scripted(engine).reflect(asked(n) for n in range(30)))
    calls = [call for group in groups for call, _ in group]
    assert {(call.status, call.text, call.prompt_tokens) for call in calls} == {("thought", text, 5)}
    assert len({call.sample_id for call in calls}) == 30
    assert {"teacher.max_tokens" in (call.error or "") for call in calls} == {named}


def test_reflect_teacher_that_says_nothing_is_paid_and_given_up() -> None:
    engine = ScriptedEngine(lambda request: well(request, text=" ", prompt_tokens=5, completion_tokens=0))
    message = "9 calls in a row failed: no text in the answer, finish reason stop"
    yielded = take_until_error(message, scripted(engine).reflect(asked(n) for n in range(1000)))
    assert statuses(yielded) == ["unparsable"] * len(engine.requests)  # what was under way too
    assert len(engine.requests) == 9 + 3


def test_reflect_yields_a_paid_answer_with_the_attempts_before_it() -> None:
    def answer(request: Request) -> Answer:
        is_paid = request.reflection.pair.response == "1" and request.reflection.attempts == 1
        return well(request, text="", prompt_tokens=5, completion_tokens=0) if is_paid else fail(request)

    teacher = scripted(ScriptedEngine(answer, capacity=2), retries=1)
    yielded = take_until_error("17 calls in a row failed", teacher.reflect(asked(n) for n in range(99)))
    made = [(call.sample_id, call.attempt, call.status) for call, _ in yielded]
    assert made == [("sample-1", 1, "error"), ("sample-1", 2, "unparsable")]


@pytest.mark.parametrize("error", ["failed", "unavailable"])
def test_reflect_goes_on_where_what_was_under_way_is_answered(error: Any) -> None:
    def answer(request: Request) -> Answer:
        first = 8 if error == "failed" else 3
        return fail(request, error) if int(request.id) < first or request.id == "8" else well(request)

    class Unfair(ScriptedEngine):
        """Hands over the last request's answer first."""

        def next_answer(self) -> Answer:
            return self.answer(self.under_way.popleft() if len(self.requests) < 9 else self.under_way.pop())

    assert Counter(statuses(reflect(Unfair(answer, capacity=4), 20)))["ok"] >= 11


def test_reflect_takes_no_answer_of_the_cache_for_a_sign_of_life() -> None:
    def every_other(request: Request) -> Answer:
        return well(request, cached=True) if int(request.id) % 2 == 0 else fail(request)

    reflected = scripted(ScriptedEngine(every_other)).reflect(asked(n) for n in range(1000))
    assert set(statuses(take_until_error("9 calls in a row failed", reflected))) == {"ok"}
    silent = ScriptedEngine(lambda request: well(request, text="", cached=True))
    assert len(reflect(silent, 99)) == 99


def test_reflect_takes_in_what_was_sent_before_a_fatal_status() -> None:
    all_came = threading.Event()

    def turn_away_the_tenth(request: dict[str, Any], number: int) -> Reply:
        if number == 15:
            all_came.set()
        if number == 9:
            assert all_came.wait(60)
            return Reply(status=402)
        deadline = time.monotonic() + 60
        while not engine._fault.done():  # the others are answered once the tenth's reply was read
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return improve(request, number)

    settings = {"concurrency": 16, "retries": 2}
    with (
        serve_teacher(turn_away_the_tenth) as server,
        closing(OpenAIEngine(config(server.url, **settings))) as engine,
    ):
        teacher = Teacher(engine, PROMPTS, config(server.url, **settings), 0)
        reflected = teacher.reflect(asked(n) for n in range(100))
        yielded = take_until_error("status 402; check the account's credit", reflected)
        assert take_until_error("status 402", teacher.reflect([asked(200)])) == []
        assert len(server.requests) == 16
    assert statuses(yielded) == ["ok"] * 15


def test_reflect_failures_before_the_first_answer_are_kept() -> None:
    engine = ScriptedEngine(lambda r: fail(r) if r.reflection.pair.response in "012" else well(r))
    assert statuses(reflect(engine, 6)) == ["error"] * 3 + ["ok"] * 3


def test_reflect_asks_again_what_nobody_took() -> None:
    engine = ScriptedEngine(lambda r: fail(r, "unavailable", "busy") if r.id in "023" else well(r))
    reflected = reflect(engine, 6)
    assert statuses(reflected) == ["ok"] * 6
    assert {call.attempt for call, _ in reflected} == {1}
    assert len(engine.requests) == 9


def test_reflect_bears_any_number_of_short_outages() -> None:
    turns = cycle((1, 2, 3))
    engine = ScriptedEngine(lambda r: well(r) if next(turns) == 3 else fail(r, "unavailable"))
    assert statuses(reflect(engine, 20, retries=2)) == ["ok"] * 20


@pytest.mark.parametrize(("answered", "retries", "turned_away"), [(0, 2, 4), (1, 2, 12), (5, 0, 4)])
def test_reflect_bears_a_server_that_has_answered_for_longer(
    answered: int, retries: int, turned_away: int
) -> None:
    engine = ScriptedEngine(lambda r: well(r) if int(r.id) < answered else fail(r, "unavailable", "gone"))
    reflected = scripted(engine, retries=retries).reflect(asked(n) for n in range(100))
    message = "cannot be reached: gone"
    assert statuses(take_until_error(message, reflected)) == ["ok"] * answered
    assert len(engine.requests) == answered + turned_away + 3  # the last under way are taken in


def test_seeds_follow_from_the_place_of_a_call() -> None:
    def seeds(seed: int) -> list[int]:
        engine = ScriptedEngine(well)
        places = [{}, {"sample_id": "other"}, {"candidate": 1}, {"round": 2}, {"phase": "instruction"}]
        list(Teacher(engine, PROMPTS, config(), seed).reflect(asked(**place) for place in places))
        return [request.seed for request in engine.requests]

    first = seeds(0)
    assert first == seeds(0)
    assert len({*first, *seeds(1)}) == 10
    assert all(0 <= seed < 2**31 for seed in first)


def test_what_is_asked_does_not_depend_on_the_position_of_its_sample() -> None:
    engine = ScriptedEngine(well)
    places = [{"sample_id": id} for id in ("00000003-a", "00000012-a", "00000012-b")]
    list(Teacher(engine, PROMPTS, config(), 0).reflect(asked(**place) for place in places))
    here, there, other = ((request.seed, request.messages) for request in engine.requests)
    assert here == there != other


def test_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-very-secret-0123456789"
    monkeypatch.setenv("SOME_KEY", key)

    def quote_the_key(request: dict[str, Any], number: int) -> Reply:
        body = json.dumps({"error": {"message": f"Bearer {key} may not do this"}})
        return [Reply(body=f'"{key}'), Reply(status=500, body=body), Reply(status=401, body=body)][number]

    settings = config(api_key_env="SOME_KEY", concurrency=1)
    with serve_teacher(quote_the_key) as server:
        settings = settings.model_copy(update={"base_url": server.url})
        unparsable, failed = ask_one(settings), ask_one(settings)
        with pytest.raises(TeacherError, match=r"Bearer \[key\] may not") as caught:
            ask_one(settings)
        assert server.keys == [f"Bearer {key}"] * 3
    assert "Bearer [key] may not" in (failed.error or "")
    assert key not in repr((unparsable, failed, caught.value))


def test_no_key_is_sent_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-another-server")
    with serve_teacher() as server:
        ask(config(server.url), [asked(0)])
        assert server.keys == [None]


@pytest.mark.parametrize(
    ("path", "query", "version"),
    [
        ("/openai/deployments/gpt", "", "2024-10-21"),
        ("/openai/deployments/gpt", "?api-version=2024-10-21", None),
        ("/openai/deployments/gpt", "?api-version=old", "2024-10-21"),
        ("/openai/v1", "", "2024-10-21"),
    ],
)
def test_azure_is_asked_at_its_address_with_its_header(
    path: str, query: str, version: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-1")
    with serve_teacher() as server:
        address = server.url.replace("/v1", path + query)
        changes = {"api_key_env": "SOME_KEY", "api_version": version, "extra_headers": {"X-Title": "mine"}}
        assert ask_one(config(address, **changes)).status == "ok"
        assert server.paths == [f"{path}/chat/completions?api-version=2024-10-21"]
        assert server.keys == [None]
        sent = {name.lower(): value for name, value in server.headers[0].items()}
    assert (sent["api-key"], sent["x-title"]) == ("sk-1", "mine")


def test_azures_newer_address_needs_no_version() -> None:
    urls = ["https://mine.openai.azure.com/openai/v1/", "https://openai.azure.com.example.org/v1"]
    settings = config(urls)
    azure, other = (request_headers(settings, address) for address in list_addresses(settings, "sk-1"))
    assert azure["api-key"] == "sk-1"
    assert isinstance(azure["Authorization"], openai.Omit)
    assert "api-key" not in other


def test_check_teacher_wants_the_key_to_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(api_key_env="SOME_KEY")
    monkeypatch.delenv("SOME_KEY", raising=False)
    for use in (check_teacher, lambda config: open_teacher(config, 0)):
        with pytest.raises(ConfigError, match="SOME_KEY is not set"):
            use(settings)
    for value in ("", "  ", "kéy", "two\nlines"):
        monkeypatch.setenv("SOME_KEY", value)
        with pytest.raises(ConfigError, match="SOME_KEY"):
            check_teacher(settings)
    monkeypatch.setenv("SOME_KEY", "sk-1")
    check_teacher(settings)
    check_teacher(config())


def test_check_teacher_wants_prompts_that_can_be_used(own_prompts: Path) -> None:
    settings = config(prompts=str(own_prompts))
    check_teacher(settings)
    own_prompts.write_text(own_prompts.read_text().replace("X: {text}", "X"))
    for use in (check_teacher, lambda config: open_teacher(config, 0)):
        with pytest.raises(ConfigError, match=r"mine\.toml: \[pair\]\.input must hold \{text\}"):
            use(settings)


def test_check_teacher_wants_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "recorded.jsonl"
    settings = TeacherConfig(engine="recorded", path=str(path))
    with pytest.raises(ConfigError, match="no such file"):
        check_teacher(settings)
    path.write_text('{"phase": "response", "instruction": "i", "input": "", "new_response": "r"}\n\n')
    check_teacher(settings)


def test_check_teacher_wants_a_model_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    settings = TeacherConfig(engine="transformers", model=str(folder))
    for name, message in (
        (None, "no such model folder"),
        ("config.json", r"no config\.json"),
        ("tokenizer.json", r"no tokenizer\.json"),
        ("model.safetensors", "weights"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_teacher(settings)
        folder.mkdir(exist_ok=True)
        if name:
            (folder / name).touch()
    check_teacher(settings)
    check_teacher(TeacherConfig(engine="transformers", model="organisation/name"))


def test_student_says_whether_a_teacher_on_this_machine_thinks_and_which_day_it_is() -> None:
    opened: list[TeacherModel] = []

    def open_engine(config: TeacherConfig, model: TeacherModel, *rest: object) -> ScriptedEngine:
        opened.append(model)
        return ScriptedEngine(well)

    student = TeacherModel("self:s1", StudentConfig(model="s", thinking=True, date=date(2025, 1, 2)))
    for name in ("other", "self"):
        settings = TeacherConfig(engine="transformers", model=name)
        open_teacher(settings, 0, student, open_engine=open_engine).close()
    assert [model.source.model for model in opened] == ["other", "s"]
    assert {(model.source.thinking, model.source.date) for model in opened} == {(True, date(2025, 1, 2))}


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the shared data in {SHARED}")
@pytest.mark.parametrize("round", [1, 2])
def test_recorded_teacher_answers_every_shared_pair(round: int) -> None:
    settings = TeacherConfig(engine="recorded", path=str(SHARED / "data" / "recorded-teacher.jsonl"))
    records = json.loads((SHARED / "data" / "recycle-800.json").read_text(encoding="utf-8"))
    pairs = [Pair(record["instruction"], record["input"], record["output"]) for record in records]
    found = ask(settings, [asked(n, pair=pair, round=round) for n, pair in enumerate(pairs)])
    assert len(found) == 797
    # A few of the given responses are what the stronger models said too.
    assert Counter(statuses(found)).keys() <= {"ok", "unchanged"}
    assert Counter(statuses(found))["ok"] > 780
    for call, version in found:
        given_pair = pairs[int(call.sample_id.removeprefix("sample-"))]
        assert version is None or version.pair.instruction == given_pair.instruction
    call = ask_one(settings, asked(0, "instruction", pair=pairs[0]))
    assert (call.status, call.is_final(9)) == ("no-entry", True)


def test_cut_answer_says_what_to_raise() -> None:
    engine = ScriptedEngine(lambda request: Answer(request.id, '{"critique": "c', "length"))
    ((call, _),) = reflect(engine, 1)
    assert (call.status, call.error) == ("cut", "at the token limit: raise teacher.max_tokens")
