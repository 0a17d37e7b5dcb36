"""What servers refuse, and the words they do it with: error bodies as the named projects send them."""

import json
import logging
import re
import threading
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from reflectune.agents.teacher.engines import Request, faults, openai_server, pacing
from reflectune.agents.teacher.engines.openai_server import OpenAIEngine
from reflectune.agents.teacher.teacher import open_teacher
from reflectune.state import cache as state_cache
from reflectune.state.cache import AnswerCache
from reflectune.state.errors import TeacherError
from tests.teacher_server import Reply, improve, serve_teacher
from tests.teachers import ask, ask_one, asked, config, flat, statuses, take_until_error

FORBIDDEN = {"type": "extra_forbidden", "msg": "Extra inputs are not permitted", "input": 7}


def openai_body(message: str, param: str | None = None, code: str | None = None) -> str:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return json.dumps({"error": error})


USE_THE_NEW = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. "
    "Use 'max_completion_tokens' instead."
)
DEFAULT_ONLY = (
    "Unsupported value: 'temperature' does not support 0 with this model. "
    "Only the default (1) value is supported."
)
TOO_LARGE = "max_tokens is too large: 50000. This model supports at most 16384 completion tokens."
VLLM_TOO_LARGE = (
    "This model's maximum context length is 2048 tokens. However, your request has 8 input tokens plus 2045 "
    "'max_tokens'. Please reduce one or the other. (parameter=input_tokens, max_tokens, value=(8, 2045))"
)
VLLM_TEXT = {"object": "error", "type": "BadRequestError", "param": None, "code": 400}
SEED = [FORBIDDEN | {"loc": ["body", "seed"]}]
ONE_OF_TWO = "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
GPT_5 = (
    "gpt-5-nano doesn't support temperature=0.1 while reasoning is active. Only temperature=1 is supported"
)
# As people quote them in reports to the projects named, but for the two marked "from memory".
REFUSALS: dict[str, tuple[str, str | None]] = {
    "OpenAI": (openai_body(USE_THE_NEW, "max_tokens", "unsupported_parameter"), "max_tokens"),
    "OpenAI, one value": (openai_body(DEFAULT_ONLY, "temperature", "unsupported_value"), "temperature"),
    "OpenAI, too large (from memory)": (openai_body(TOO_LARGE, "max_tokens", "invalid_value"), None),
    "GitHub Copilot": (
        json.dumps({"error": {"message": USE_THE_NEW, "code": "invalid_request_body"}}),
        "max_tokens",
    ),
    "Mistral": (
        json.dumps(
            {
                "object": "Error",
                "detail": SEED,
                "message": SEED,
                "type": "invalid_request_error",
                "code": 3001,
            }
        ),
        "seed",
    ),
    "vLLM, text": (
        json.dumps(VLLM_TEXT | {"message": str([FORBIDDEN | {"loc": ("body", "seed")}])}),
        "seed",
    ),
    "vLLM, too large": (openai_body(VLLM_TOO_LARGE, "input_tokens, max_tokens"), None),
    "vLLM, nothing left": (
        json.dumps(VLLM_TEXT | {"message": "max_tokens must be at least 1, got -186."}),
        None,
    ),
    "LiteLLM": (
        openai_body(
            "litellm.UnsupportedParamsError: anthropic does not support parameters: ['seed'], for model=m. "
            "To drop these, set `litellm.drop_params=True`"
        ),
        "seed",
    ),
    "LiteLLM, one value": (openai_body(f"litellm.UnsupportedParamsError: {GPT_5}"), "temperature"),
    "Fireworks": (openai_body("Extra inputs are not permitted, field: 'seed'"), "seed"),
    "Anthropic": (json.dumps({"type": "error", "error": {"type": "x", "message": ONE_OF_TWO}}), "top_p"),
    "Anthropic, through LiteLLM": (
        openai_body(
            f'litellm.BadRequestError: AnthropicException - {{"error":{{"message":"{ONE_OF_TWO}"}}}}'
        ),
        "top_p",
    ),
    "Bedrock": (openai_body("This model doesn't support the seed field. Remove seed and try again."), "seed"),
    "xAI": (openai_body("Argument not supported on this model: seed"), "seed"),
    "TGI, a range": (
        json.dumps(
            {"error": "Input validation error: `top_p` must be > 0.0 and < 1.0", "error_type": "validation"}
        ),
        None,
    ),
    "a prompt's own words (from memory)": (openai_body("content policy: not allowed here"), None),
}


@pytest.mark.parametrize(("body", "name"), REFUSALS.values(), ids=REFUSALS)
def test_refused_parameter_is_found_by_its_name(body: str, name: str | None) -> None:
    assert (
        faults.find_refused(body, ["model", "messages", "temperature", "top_p", "seed", "max_tokens"]) == name
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (openai_body("No such model."), "No such model."),
        ('{"error": "model \'m\' not found"}', "model 'm' not found"),  # Ollama
        ('[{"error": {"code": 400, "message": "API key not valid."}}]', "API key not valid."),  # Gemini
        ('{"detail": "Not Found"}', "Not Found"),  # FastAPI
        (
            json.dumps({"detail": [FORBIDDEN | {"loc": ["body", "seed"]}]}),
            "body.seed: Extra inputs are not permitted",
        ),
        (
            '{"error": {"message": "Failed", "metadata": {"raw": "{\\"detail\\": \\"busy\\"}"}}}',
            "Failed; busy",  # OpenRouter
        ),
        ('{"choices": [{"error": {"message": "Lost"}, "message": {"content": ""}}]}', "Lost"),  # OpenRouter
        ('{"base_resp": {"status_code": 1008, "status_msg": "low"}}', "low"),  # MiniMax
        ("upstream connect error\n", "upstream connect error"),
        ("<html><head><title>502 Bad\nGateway</title></head><body>nginx</body></html>", "502 Bad Gateway"),
        ("<p>gone <b>away</b></p>", "gone away"),
        ("", "Service Unavailable"),
        ("[]", "Service Unavailable"),
        ("[" * 100_000, "[" * 400),
        ('{"odd": 1}', '{"odd": 1}'),
    ],
)
def test_reason_is_the_servers_own_words(body: str, reason: str) -> None:
    assert faults.read_reason(body, 503) == reason


def test_nothing_is_sent_that_was_not_asked_for() -> None:
    with serve_teacher() as server:
        assert ask_one(config(server.url, extra_body={"thinking": {"type": "off"}})).status == "ok"
    (sent,) = server.requests
    assert sent.keys() == {"model", "messages", "max_tokens", "response_format", "thinking"}


def test_parameters_refused_are_left_out_for_all_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(request: dict[str, Any], number: int) -> Reply:
        for name, body in (
            ("max_tokens", REFUSALS["OpenAI"][0]),
            ("temperature", REFUSALS["OpenAI, one value"][0]),
        ):
            if name in request:
                return Reply(status=400, body=body, delay=0.05)
        return improve(request, number)

    with serve_teacher(refuse) as server, caplog.at_level(logging.WARNING):
        reflected = ask(config(server.url, temperature=0, concurrency=16), 40)
    assert statuses(reflected) == ["ok"] * 40
    assert {call.attempt for call, _ in reflected} == {1}
    assert len(server.requests) <= 40 + 2 * 16
    assert server.requests[-1]["max_completion_tokens"] == 2048
    (warning,) = caplog.messages
    assert warning.endswith(f"{server.url}: the server does not take temperature = 0.0; it is left out")


def test_refusal_is_remembered_for_a_day_for_the_same_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(request: dict[str, Any], number: int) -> Reply:
        refused = Reply(status=400, body=REFUSALS["OpenAI, one value"][0])
        return refused if request.get("temperature") == 0 else improve(request, number)

    def sent(number: int, temperature: float = 0) -> list[float | None]:
        """The temperatures that a process sends to have a pair improved."""
        before = len(server.requests)
        with AnswerCache.open(tmp_path) as cache:
            asked_for = config(server.url, temperature=temperature)
            assert statuses(ask(asked_for, [asked(number)], cache)) == ["ok"]
        return [request.get("temperature") for request in server.requests[before:]]

    with serve_teacher(refuse) as server:
        assert [sent(0), sent(1), sent(2, 1.0)] == [[0, None], [None], [1]]
        monkeypatch.setattr(state_cache, "_REFUSED_FOR", timedelta(seconds=-1))
        assert sent(3) == [0, None]


def test_value_out_of_range_is_told_and_not_left_out() -> None:
    body = REFUSALS["vLLM, too large"][0]
    with serve_teacher(lambda r, n: Reply(status=400, body=body)) as server:
        call = ask_one(config(server.url, structured=False))
        assert len(server.requests) == 1
    assert (call.status, call.error) == ("refused", f"HTTP 400: {VLLM_TOO_LARGE}")


LOADING = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
LIMITED = {
    "message": "Provider returned error",
    "code": 429,
    "metadata": {"raw": "m is temporarily rate-limited upstream. Please retry shortly", "provider_name": "p"},
}
EMPTY = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": None}}
# Quoted like REFUSALS; TGI's by its source.
BUSY = {
    "llama.cpp loads": Reply(status=503, body=json.dumps(LOADING)),
    "Anthropic": Reply(status=529, body='{"type": "error", "error": {"type": "overloaded_error"}}'),
    "TGI": Reply(status=429, body='{"error": "Model is overloaded", "error_type": "overloaded"}'),
    "proxy's 500": Reply(status=500, body='{"error": {"message": "The engine is currently overloaded"}}'),
    "vLLM's router": Reply(status=500, body='{"error": "no capacity available for this model"}'),
    "OpenRouter in a 200": Reply(body=json.dumps({"error": LIMITED, "user_id": "u"})),
    "OpenRouter beside an empty answer": Reply(body=json.dumps({"choices": [EMPTY], "error": LIMITED})),
    "OpenRouter in a choice": Reply(
        body='{"choices": [{"error": {"code": 429, "message": "Slow down"}, "message": {"content": ""}}]}'
    ),
    "a code alone in a 200": Reply(body='{"error": {"code": 429}}'),
    "FastAPI in a 200": Reply(body='{"detail": "Model is loading"}'),
}


@pytest.mark.parametrize("reply", BUSY.values(), ids=BUSY)
def test_busy_in_every_dress_uses_up_no_attempt(reply: Reply, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "_FIRST_PAUSE", 0.05)
    with serve_teacher(lambda r, n: reply if n < 3 else improve(r, n)) as server:
        reflected = ask(config(server.url, concurrency=1), 2)
    assert [(call.status, call.attempt) for call, _ in reflected] == [("ok", 1)] * 2


def test_server_busy_for_longer_than_wait_ends_the_run_and_uses_up_no_attempt() -> None:
    with (
        serve_teacher(lambda r, n: BUSY["llama.cpp loads"]) as server,
        open_teacher(config(server.url, wait=0.3, retries=2), 0) as teacher,
    ):
        groups = teacher.reflect(asked(number) for number in range(50))
        message = r"within 0\.3 s \(teacher\.wait\): HTTP 503: Loading model"
        assert take_until_error(message, groups) == []


def test_wait_for_a_busy_server_is_told_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "_FIRST_PAUSE", 0.05)
    monkeypatch.setattr(openai_server, "_SHOWN_AFTER", 0.0)
    told: list[str] = []

    def busy_at_first(request: dict[str, Any], number: int) -> Reply:
        told.append(teacher.waiting)
        return BUSY["llama.cpp loads"] if number < 2 else improve(request, number)

    with (
        serve_teacher(busy_at_first) as server,
        open_teacher(config(server.url, concurrency=1), 0) as teacher,
    ):
        assert statuses(flat(teacher.reflect([asked()]))) == ["ok"]
        told.append(teacher.waiting)
    assert [re.sub(r"\d+ s", "0 s", text) for text in told] == [
        "",
        *["waiting for the server: 0 s (HTTP 503: Loading model)"] * 2,
        "",
    ]


def test_server_that_has_answered_and_is_gone_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "_FIRST_PAUSE", 0.05)

    def answer_and_hang_up(request: dict[str, Any], number: int) -> Reply:
        return replace(improve(request, number), headers={"Connection": "close"})

    with ExitStack() as first, ExitStack() as second:
        server = first.enter_context(serve_teacher(answer_and_hang_up))
        again = serve_teacher(answer_and_hang_up, urlsplit(server.url).port or 0)
        with open_teacher(config(server.url, concurrency=1), 0) as teacher:
            groups = teacher.reflect(asked(number) for number in range(3))
            next(groups)
            first.close()
            threading.Timer(0.5, second.enter_context, [again]).start()
            assert [(call.status, call.attempt) for call, _ in flat(groups)] == [("ok", 1)] * 2


def test_gateway_whose_server_starts_again_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "_FIRST_PAUSE", 0.02)
    gateway = Reply(status=502, body="<title>502 Bad Gateway</title>")
    with serve_teacher(lambda r, n: gateway if 0 < n < 6 else improve(r, n)) as server:
        reflected = ask(config(server.url, concurrency=1), 3)
    assert [(call.status, call.attempt) for call, _ in reflected] == [("ok", 1)] * 3


def test_pair_that_a_gateway_finds_too_slow_fails_alone() -> None:
    def slow(request: dict[str, Any], number: int) -> Reply:
        return Reply(status=504) if "Say 1." in str(request) else improve(request, number)

    with serve_teacher(slow) as server:
        assert sorted(statuses(ask(config(server.url, concurrency=1), 3))) == ["error", "ok", "ok"]


def test_nobody_is_waited_for_once_somebody_asked_to_stop() -> None:
    request = Request("0", asked(), ({"role": "user", "content": "Do."},), None, 0)
    with (
        serve_teacher(lambda r, n: BUSY["llama.cpp loads"]) as server,
        closing(OpenAIEngine(config(server.url), stopping=lambda: True)) as engine,
    ):
        engine.submit(request)
        with pytest.raises(TeacherError, match=r"takes no request \(teacher\.wait\)"):
            engine.next_answer()
        assert len(server.requests) == 1


def test_pause_of_a_busy_server_ends_once_somebody_asks_to_stop() -> None:
    request = Request("0", asked(), ({"role": "user", "content": "Do."},), None, 0)
    asks = threading.Event()
    busy = replace(BUSY["llama.cpp loads"], headers={"Retry-After": "100"})
    with (
        serve_teacher(lambda r, n: busy) as server,
        closing(OpenAIEngine(config(server.url), stopping=asks.is_set)) as engine,
    ):
        engine.submit(request)
        threading.Timer(0.3, asks.set).start()
        with pytest.raises(TeacherError, match="Loading model"):
            engine.next_answer()
        assert len(server.requests) == 1


def test_pair_that_is_put_off_while_others_are_taken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "_FIRST_PAUSE", 0.01)

    def answer(request: dict[str, Any], number: int) -> Reply:
        return BUSY["TGI"] if "Say 1." in str(request) else replace(improve(request, number), delay=0.02)

    with serve_teacher(answer) as server:
        found = ask(config(server.url, concurrency=3, wait=0.2, retries=2), 40)
    assert sorted(statuses(found)) == ["ok"] * 39 + ["refused"]
    assert {call.attempt for call, _ in found} == {1}


def test_longer_pause_than_wait_is_told_as_the_server_asks_for_it() -> None:
    busy = Reply(status=429, body=openai_body("Slow down"), headers={"Retry-After": "700"})
    with (
        serve_teacher(lambda r, n: busy) as server,
        open_teacher(config(server.url, wait=5), 0) as teacher,
    ):
        message = r"wants no request for 700 s \(teacher\.wait\): HTTP 429: Slow down"
        assert take_until_error(message, teacher.reflect([asked()])) == []


def test_parameter_that_was_taken_is_not_left_out_for_a_quoted_word() -> None:
    def blocked(request: dict[str, Any], number: int) -> Reply:
        quoted = "blocked: 'which temperature is not allowed in a fridge?'"
        return Reply(status=400, body=openai_body(quoted)) if number == 1 else improve(request, number)

    with serve_teacher(blocked) as server:
        found = ask(config(server.url, concurrency=1, temperature=0.5, structured=False), 3)
    assert sorted(statuses(found)) == ["ok", "ok", "refused"]
    assert all(request["temperature"] == 0.5 for request in server.requests)


@pytest.mark.parametrize("status", [403, 404])
def test_refused_schema_is_not_a_wrong_model_or_key(status: int) -> None:
    def refuse(request: dict[str, Any], number: int) -> Reply:
        if "response_format" in request:
            return Reply(status=status, body=openai_body("response_format json_schema is not supported"))
        return improve(request, number)

    with serve_teacher(refuse) as server:
        assert statuses(ask(config(server.url), 3)) == ["ok"] * 3


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (429, "You exceeded your current quota.", "insufficient_quota"),  # OpenAI
        (400, "Your credit balance is too low to access the Anthropic API.", None),
        (403, "Your team has either used all available credits or reached its limit.", None),  # xAI
        (429, "Your account has insufficient balance.", None),
    ],
)
def test_spent_credit_ends_the_run_whatever_its_status(status: int, message: str, code: str | None) -> None:
    spent = Reply(status=status, body=openai_body(message, code=code))
    with (
        serve_teacher(lambda r, n: spent if n else improve(r, n)) as server,
        open_teacher(config(server.url, concurrency=1), 0) as teacher,
    ):
        groups = teacher.reflect(asked(number) for number in range(5))
        taken = take_until_error(f"HTTP {status}: {message}; check the account's credit", groups)
        assert statuses(taken) == ["ok"]
        assert len(server.requests) == 2


def test_request_larger_than_the_limit_of_a_minute_is_not_waited_for() -> None:
    too_large = Reply(status=429, body=openai_body("Request too large for m on tokens per min (TPM)"))
    with serve_teacher(lambda r, n: improve(r, n) if "Say 0." in str(r) else too_large) as server:
        assert statuses(ask(config(server.url, concurrency=1), 2)) == ["ok", "refused"]


def test_error_inside_a_success_ends_the_run_where_its_code_says_so() -> None:
    gone = Reply(body='{"object": "error", "message": "The model m does not exist.", "code": 404}')
    with (
        serve_teacher(lambda r, n: gone) as server,
        open_teacher(config(server.url), 0) as teacher,
    ):
        assert take_until_error("HTTP 404: The model m does not exist.", teacher.reflect([asked()])) == []
