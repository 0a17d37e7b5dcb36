import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from reflectune.agents.teacher.engines import Engine, Request, TeacherModel, open_engine, pacing
from reflectune.agents.teacher.engines.local_transformers import TransformersEngine
from reflectune.agents.teacher.engines.openai_server import OpenAIEngine
from reflectune.agents.teacher.engines.recorded import RecordedEngine
from reflectune.agents.teacher.engines.replies import read_completion
from reflectune.agents.teacher.forms import answer_schema
from reflectune.state.cache import AnswerCache
from reflectune.state.config import StudentConfig, TeacherConfig
from reflectune.state.errors import AdapterError, ConfigError, TeacherError
from reflectune.state.records import Answer, Pair, Phase, Turn
from tests.teacher_server import Reply, TeacherServer, serve_teacher
from tests.teachers import asked, config
from tests.tiny_models import save_bigram_llama, save_tiny_adapter, save_tiny_llama
from tests.worlds import child_environment

PAIR = Pair("Say it.", "", "It.")


def request(id: str = "0", text: str = "Say something.", **changes: Any) -> Request:
    fields: dict[str, Any] = {"messages": ({"role": "user", "content": text},), "schema": None, "seed": 7}
    own = {name: changes.pop(name) for name in fields if name in changes}
    return Request(id, asked(**{"pair": PAIR} | changes), **fields | own)


def ask(engine: Engine, *requests: Request) -> dict[str, Answer]:
    for item in requests:
        engine.submit(item)
    answers = [engine.next_answer() for _ in requests]
    return {answer.request_id: answer for answer in answers}


# Recorded


def recorded(tmp_path: Path, *entries: Mapping[str, object]) -> RecordedEngine:
    path = tmp_path / "recorded.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return RecordedEngine(TeacherConfig(engine="recorded", path=str(path)))


def entry(phase: Phase = "response", new: str = "better", **changes: object) -> dict[str, object]:
    return {"phase": phase, "instruction": "Say it.", "input": "", "new_response": new} | changes


def played(engine: RecordedEngine, **changes: Any) -> str | None:
    """The new response that is played for a request; None where there is no entry."""
    (answer,) = ask(engine, request(**changes)).values()
    if answer.error is not None:
        assert answer.error == "no-entry"
        return None
    return str(json.loads(answer.text)["response"])


def test_recorded_answers_in_json(tmp_path: Path) -> None:
    engine = recorded(
        tmp_path,
        entry(new="r", critique="Weak.", teacher="someone"),
        entry("instruction", "ir", new_instruction="i"),
    )
    answers = ask(engine, request("a"), request("b", phase="instruction"))
    assert json.loads(answers["a"].text) == {"critique": "Weak.", "response": "r"}
    assert json.loads(answers["b"].text) == {"critique": "", "instruction": "i", "response": "ir"}
    assert answers["a"].finish_reason == "stop"
    assert engine.model == "recorded"


def test_recorded_matches_phase_instruction_and_input(tmp_path: Path) -> None:
    engine = recorded(tmp_path, entry(new="plain"), entry(new="with input", input="x"))
    assert played(engine) == "plain"
    assert played(engine, pair=Pair("Say it.", "x", "It.")) == "with input"
    assert played(engine, pair=Pair("Say it.", "y", "It.")) is None
    assert played(engine, pair=Pair("Say that.", "", "It.")) is None
    assert played(engine, phase="instruction") is None


def test_recorded_entry_naming_the_response_answers_that_alone_and_first(tmp_path: Path) -> None:
    engine = recorded(tmp_path, entry(new="any", round=1), entry(new="exact", response="It."))
    assert played(engine) == "exact"
    assert played(engine, pair=Pair("Say it.", "", "Other.")) == "any"


def test_recorded_entry_naming_the_round_answers_that_alone_and_first(tmp_path: Path) -> None:
    engine = recorded(tmp_path, entry(new="any"), entry(new="second", round=2))
    assert [played(engine, round=round) for round in (1, 2, 3)] == ["any", "second", "any"]
    assert played(recorded(tmp_path, entry(round=2)), round=1) is None


def test_recorded_entry_naming_the_context_answers_behind_that_alone_and_first(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "tool_calls": [{"id": "1"}], "content": None},
        {"name": "f", "content": "4", "role": "tool"},
    ]
    engine = recorded(
        tmp_path,
        entry(new="any", response="It.", round=1),
        entry(new="behind it", context=messages),
        entry(new="alone", context=[]),
    )
    turns = (Turn("system", "Be brief."), Turn("assistant", "", '{"tool_calls": [{"id": "1"}]}'))
    turns += (Turn("tool", "4", '{"name":"f"}'),)
    assert played(engine, pair=Pair("Say it.", "", "It.", turns)) == "behind it"
    assert played(engine, pair=Pair("Say it.", "", "It.")) == "alone"
    assert played(engine, pair=Pair("Say it.", "", "It.", turns[:2])) == "any"
    assert played(engine, pair=Pair("Say it.", "", "That.", turns[:2])) is None


def test_recorded_alike_entries_are_candidates(tmp_path: Path) -> None:
    engine = recorded(tmp_path, entry(new="a"), entry(new="b"), entry(new="c", round=9))
    assert [played(engine, candidate=candidate) for candidate in (0, 1, 2)] == ["a", "b", None]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[1]", "want a JSON object, got list"),
        (json.dumps(entry() | {"phase": "both"}), "phase is 'both', want one of: instruction, response"),
        (json.dumps(entry(round="1")), "round is '1', want a whole number"),
        (json.dumps(entry(instruction=None)), "instruction is missing"),
        (json.dumps(entry(input=3)), "input is 3, want a text"),
        (json.dumps(entry(new=" ")), "new_response is empty"),
        (json.dumps(entry("instruction")), "new_instruction is missing"),
        (json.dumps(entry(context="Be brief.")), "context is no list of messages"),
        (json.dumps(entry(context=["Be brief."])), "context is no list of messages"),
        (json.dumps(entry(context=[{"content": "Be brief."}])), "role is missing"),
        (json.dumps(entry(context=[{"role": "user", "content": ["x"]}])), "content is ['x'], want a text"),
    ],
)
def test_recorded_names_the_line_that_is_no_entry(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "recorded.jsonl"
    path.write_text(json.dumps(entry()) + "\n" + line + "\n")
    with pytest.raises(ConfigError) as caught:
        RecordedEngine(TeacherConfig(engine="recorded", path=str(path)))
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert problem in str(caught.value)


@pytest.mark.parametrize(("content", "problem"), [(b"\n", "holds no"), (b'"\xe4"', "cannot be read")])
def test_recorded_refuses_an_unreadable_file(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "recorded.jsonl").write_bytes(content)
    with pytest.raises(ConfigError, match=problem):
        RecordedEngine(TeacherConfig(engine="recorded", path=str(tmp_path / "recorded.jsonl")))


# OpenAI-compatible server


@contextmanager
def served(reply: Any, **changes: Any) -> Iterator[tuple[TeacherServer, OpenAIEngine]]:
    with serve_teacher(reply) as server:
        settings = config(server.url, **{"concurrency": 1} | changes)
        with closing(OpenAIEngine(settings)) as engine:
            yield server, engine


def test_openai_sends_what_is_configured() -> None:
    schema = answer_schema("response")
    settings = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 11, "send_seed": True}
    with served(lambda r, n: Reply("hello"), **settings) as (server, engine):
        answer = ask(engine, request(schema=schema, text="Hi"))["0"]
        (sent,) = server.requests
    assert sent == {
        "model": "fake",
        "messages": [{"role": "user", "content": "Hi"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 11,
        "seed": 7,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "reflection", "schema": schema, "strict": True},
        },
    }
    assert (answer.text, answer.finish_reason, answer.error) == ("hello", "stop", None)
    assert (answer.prompt_tokens, answer.completion_tokens) == (1, 1)
    assert answer.seconds > 0


def test_openai_asks_openai_itself_without_a_base_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://somewhere.else")
    engine = OpenAIEngine(config(None, max_tokens=11))
    (server,) = engine._servers
    assert str(server.client.base_url) == "https://api.openai.com/v1/"
    assert server.parameters.build(request())["max_completion_tokens"] == 11
    engine.close()


@pytest.mark.parametrize("body", ["", "[]", '{"choices": null}', '{"choices": [{"message": null}]}'])
def test_openai_reply_without_an_answer_fails(body: str) -> None:
    answer = read_completion("1", body)
    assert (answer.error, answer.text) == ("failed", "")
    assert "not a chat completion" in (answer.message or "")


THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}


@pytest.mark.parametrize(
    ("message", "finish", "text", "reason"),
    [
        ({"content": None, "refusal": "I will not"}, "stop", "I will not", "refusal"),
        ({"content": "", "refusal": "I will not"}, None, "I will not", "refusal"),
        ({"refusal": "I will not"}, "content_filter", "I will not", "refusal"),
        ({"content": "Yes.", "refusal": "I will not"}, "stop", "Yes.", "stop"),
        ({"content": None}, "content_filter", "", "content_filter"),
        ({"content": None, "refusal": ""}, "stop", "", "stop"),
        ({}, None, "", None),
        ({"content": 3, "refusal": {"a": 1}}, "stop", "", "stop"),
        ({"content": "Ye"}, "st\ud800op", "Ye", "st\ufffdop"),  # SQLite cannot hold a lone surrogate
        ({"content": None, "reasoning_content": "Hm."}, "length", "<think>\nHm.", "length"),
        ({"content": "", "reasoning": "Hm."}, "stop", "<think>\nHm.", "stop"),
        (
            {"content": [THOUGHT, {"type": "text", "text": "Ye"}, {"type": "text", "text": "s."}]},
            "stop",
            "Yes.",
            "stop",
        ),
        (
            {"content": [THOUGHT, {"type": "reasoning", "text": "Hm."}, {"type": "text"}, None, "a"]},
            "stop",
            "<think>\nHm.Hm.",
            "stop",
        ),
    ],
)
def test_openai_refusal_or_silence_is_an_answer(
    message: object, finish: str | None, text: str, reason: str | None
) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 4}
    body = json.dumps({"choices": [{"message": message, "finish_reason": finish}], "usage": usage})
    answer = read_completion("1", body)
    assert (answer.text, answer.finish_reason, answer.error) == (text, reason, None)
    assert (answer.prompt_tokens, answer.completion_tokens) == (9, 4)


@pytest.mark.parametrize("content", ["Yes.", [THOUGHT, {"type": "text", "text": "Yes."}]])
@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_openai_takes_no_thought_for_an_answer(field: str, content: object) -> None:
    message = {"role": "assistant", field: "Hm.", "content": content}
    with served(lambda r, n: Reply(body=json.dumps({"choices": [{"message": message}]}))) as (_, engine):
        assert ask(engine, request())["0"].text == "Yes."


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        (None, (None, None)),
        ({"prompt_tokens": 0, "completion_tokens": 10**23}, (0, None)),
        ({"prompt_tokens": True, "completion_tokens": -1}, (None, None)),
        ({"prompt_tokens": "7", "completion_tokens": 1.5}, (None, None)),
    ],
)
def test_openai_counts_only_what_can_be_a_number_of_tokens(usage: object, counts: object) -> None:
    body = {"choices": [{"message": {"content": "text"}}], "usage": usage}
    answer = read_completion("1", json.dumps(body))
    assert (answer.prompt_tokens, answer.completion_tokens) == counts


@pytest.mark.alone
@pytest.mark.parametrize("retries", [0, 1])
def test_openai_hands_a_failure_over_after_a_pause_where_it_may_be_asked_again(
    retries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "_FIRST_STUMBLE", 0.8 if retries else 120.0)
    with served(lambda r, n: Reply("fine") if n else Reply(status=500), retries=retries) as (_, engine):
        began = time.monotonic()
        answers = ask(engine, request("0"), request("1"))
        seconds = time.monotonic() - began
    assert (answers["0"].error, answers["1"].text) == ("failed", "fine")
    assert seconds >= 0.4 if retries else seconds < 60  # the only place was kept meanwhile
    assert answers["0"].seconds <= seconds - 0.4 * retries  # what the server took


def test_openai_pauses_for_nothing_once_no_request_can_succeed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "_FIRST_STUMBLE", 60.0)

    def fail_then_turn_away(r: object, number: int) -> Reply:
        return Reply(status=401, delay=0.3) if number == 1 else Reply(status=500)

    with served(fail_then_turn_away, retries=1, concurrency=2) as (server, engine):
        began = time.monotonic()
        for number in range(5):
            engine.submit(request(str(number)))
        assert engine.next_answer().error == "failed"
        for _ in range(2):
            with pytest.raises(TeacherError, match="status 401"):
                engine.next_answer()
        engine.submit(request("5"))  # as a teacher may that has not come to the fault yet
        assert time.monotonic() - began < 5
        assert len(server.requests) == 2


@pytest.mark.parametrize("pauses", [(0.01,), (0.01, 0.01), (0.01, 0.01, 0.01)])
def test_openai_goes_on_where_a_pause_ends_while_it_is_read(
    monkeypatch: pytest.MonkeyPatch, pauses: tuple[float, ...]
) -> None:
    left = list(pauses)
    monkeypatch.setattr(pacing.Pace, "pause", property(lambda pace: left.pop() if left else 0.0))
    with served(lambda request, number: Reply("Here.")) as (_, engine):
        engine.submit(request())
        until = time.monotonic() + 20
        while not engine.has_answer():
            assert time.monotonic() < until
            time.sleep(0.01)
        assert engine.next_answer().text == "Here."


def test_openai_close_does_not_wait_for_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "_FIRST_STUMBLE", 60.0)
    with served(lambda r, n: Reply(status=500), retries=1) as (_, engine):
        engine.submit(request())
        while not engine._servers[0].pace._stumbles:
            time.sleep(0.01)
        engine.close()
        began = time.monotonic()
        while any(thread.name == "teacher" for thread in threading.enumerate()):
            assert time.monotonic() - began < 5
            time.sleep(0.01)


def test_openai_forbidden_after_an_answer_is_one_refused_request() -> None:
    with served(lambda r, n: Reply(status=403) if n else Reply("fine")) as (_, engine):
        answers = ask(engine, request("0"), request("1"))
    assert (answers["0"].text, answers["1"].error) == ("fine", "refused-request")


def test_openai_unforeseen_error_reaches_the_caller() -> None:
    with closing(OpenAIEngine(config())) as engine:
        engine.submit(request(schema={"not": {"json"}}))
        with pytest.raises(TypeError, match="not JSON serializable"):
            engine.next_answer()


@pytest.mark.alone
def test_openai_close_does_not_wait_for_requests_under_way() -> None:
    closed = threading.Event()

    def hold(r: object, number: int) -> Reply:
        assert closed.wait(timeout=60)
        return Reply(status=500)

    with served(hold, concurrency=2, retries=5) as (server, engine):
        for number in range(6):
            engine.submit(request(str(number)))
        while server.under_way < 2:
            time.sleep(0.01)
        engine.close()
        assert server.under_way == 2
        closed.set()
        while server.under_way or any(thread.name == "teacher" for thread in threading.enumerate()):
            time.sleep(0.01)
        assert len(server.requests) == 2  # nothing that waited was sent


@pytest.mark.slow
def test_openai_request_under_way_does_not_hold_up_exit() -> None:
    script = """
import sys
from reflectune.agents.teacher.engines import Request
from reflectune.agents.teacher.engines.openai_server import OpenAIEngine
from tests.teachers import asked, config
OpenAIEngine(config(sys.argv[1])).submit(Request("0", asked(), (), None, 0))
sys.stdin.readline()
"""
    arguments = [sys.executable, "-c", script]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with (
        serve_teacher(lambda r, n: Reply("late", delay=60)) as server,
        subprocess.Popen([*arguments, server.url], env=child_environment(), **pipes) as process,
    ):
        while not server.under_way and process.poll() is None:
            time.sleep(0.01)
        _, errors = process.communicate(b"\n", timeout=20)
    assert (process.returncode, errors) == (0, b"")


# Local model


def local(folder: Path, adapter: Path | None = None, **changes: Any) -> TransformersEngine:
    settings = {"engine": "transformers", "model": str(folder), "max_tokens": 8, "concurrency": 4} | changes
    return TransformersEngine(
        TeacherConfig(**settings), TeacherModel(str(folder), StudentConfig(model=str(folder)), adapter)
    )


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "llama", chat=True, context=512)


@pytest.fixture(scope="module")
def alphabet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that goes on with the alphabet; after d it stops."""
    follows = {"a": {"b": 1.0}, "b": {"c": 1.0}, "c": {"d": 1.0}, "d": {"</s>": 1.0}, "x": {"x": 1.0}}
    return save_bigram_llama(tmp_path_factory.mktemp("models") / "alphabet", "abcdx", follows)


def test_transformers_writes_until_the_model_stops(alphabet: Path) -> None:
    engine = local(alphabet)
    answers = ask(engine, request("0", "xxa"), request("1", "c"), request("2", "x"))
    engine.close()
    assert (answers["0"].text, answers["0"].finish_reason) == ("bcd", "stop")
    assert (answers["1"].text, answers["1"].finish_reason) == ("d", "stop")
    assert (answers["2"].text, answers["2"].finish_reason) == ("x" * 8, "length")
    # The prompts are their letters; the end token counts as written.
    assert [answers[id].prompt_tokens for id in "012"] == [3, 1, 1]
    assert [answers[id].completion_tokens for id in "012"] == [4, 2, 8]
    assert all(answer.seconds > 0 for answer in answers.values())
    assert not engine.structured


@pytest.mark.parametrize(("thinking", "text"), [(False, "d"), (True, "bcd")])
def test_transformers_goes_on_from_the_answer_or_the_thought(
    alphabet: Path, tmp_path: Path, thinking: bool, text: str
) -> None:
    folder = shutil.copytree(alphabet, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m.role == 'assistant' %}c{% endif %}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}a{% endif %}"
    )
    source = StudentConfig(model=str(folder), thinking=thinking)
    settings = TeacherConfig(engine="transformers", model=str(folder), max_tokens=8)
    with closing(TransformersEngine(settings, TeacherModel("m", source))) as engine:
        assert ask(engine, request(text="x"))["0"].text == text


@pytest.mark.slow
def test_transformers_draw_follows_from_the_requests_own_seed(tiny_llama: Path) -> None:
    engine = local(tiny_llama, temperature=1.0)
    alone = ask(engine, request(seed=2))["0"]
    others = request("1", seed=1), request("2", "Why?", seed=2), request("3", seed=3)
    together = ask(engine, *others, request(seed=2))
    engine.close()
    assert together["0"].text == alone.text
    assert len({answer.text for answer in together.values()}) == 4


def test_transformers_computes_the_opening_of_a_phase_once(alphabet: Path) -> None:
    engine = local(alphabet, max_tokens=1)
    computed: list[int] = []
    engine._network.get_input_embeddings().register_forward_hook(
        lambda module, given, output: computed.append(given[0].numel())
    )
    for tails in (("aa", "aa", "b", "b"), ("cd", "d")):
        ask(engine, *(request(str(n), "x" * 20 + tail) for n, tail in enumerate(tails)))
    engine.close()
    # The opening; of two prompts what lies before the last token, the shorter one padded; four last tokens.
    # Then two remainders of two tokens.
    assert computed == [20, 2 * 1, 4, 2 * 2]


@pytest.mark.slow
def test_transformers_adapter_writes_as_peft_does(tiny_llama: Path, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    folder = save_tiny_adapter(tmp_path / "adapter", AutoModelForCausalLM.from_pretrained(tiny_llama))
    texts = {}
    for name, adapter in (("base", None), ("adapted", folder)):
        engine = local(tiny_llama, adapter, max_tokens=16)
        texts[name] = ask(engine, request())["0"].text
        engine.close()
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    prompt = tokenizer("<s><user>Say something.\n<assistant>", return_tensors="pt").input_ids
    network = PeftModel.from_pretrained(base, str(folder)).eval()
    written = network.generate(input_ids=prompt, max_new_tokens=16, do_sample=False)[0, prompt.shape[1] :]
    assert texts["adapted"] == tokenizer.decode(written, skip_special_tokens=True) != texts["base"]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("missing", "no adapter here"),
        ("cut", "not a readable LoRA adapter"),
        ("other", "an adapter of another model"),
    ],
)
def test_transformers_broken_adapter_is_one_clear_line(
    tiny_llama: Path, tmp_path: Path, damage: str, problem: str
) -> None:
    folder = save_tiny_adapter(tmp_path / "adapter", AutoModelForCausalLM.from_pretrained(tiny_llama))
    weights = folder / "adapter_model.safetensors"
    match damage:
        case "missing":
            weights.unlink()
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "other":
            shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
            save_tiny_adapter(folder, LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2)))
    with pytest.raises(AdapterError) as caught:
        local(tiny_llama, folder)
    assert str(caught.value).startswith(f"{folder}: {problem}")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_transformers_long_prompt_shortens_no_other_answer(alphabet: Path) -> None:
    engine = local(alphabet, max_tokens=100)  # the context is 512
    answers = ask(
        engine, request("0", "x" * 510), request("1", "x"), request("2", "x" * 512), request("3", "x")
    )
    engine.close()
    assert (answers["0"].text, answers["0"].finish_reason) == ("xx", "length")
    assert answers["1"].text == answers["3"].text == "x" * 100
    assert answers["2"].error == "refused-request"
    assert "512" in (answers["2"].message or "")


def test_transformers_missing_model_is_a_teacher_error(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"check teacher\.model"):
        local(tmp_path / "nothing")


def test_transformers_out_of_memory_is_a_teacher_error(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = local(tiny_llama)

    def run_out(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(engine._network, "generate", run_out)
    engine.submit(request())
    with pytest.raises(TeacherError, match="writing a single answer; end what else uses"):
        engine.next_answer()


KINDS = get_args(TeacherConfig.model_fields["engine"].annotation)


def test_open_engine_opens_every_configurable_engine(tmp_path: Path, alphabet: Path) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps(entry()))
    settings = [
        TeacherConfig(engine="recorded", path=str(tmp_path / "r.jsonl")),
        config(),
        config(engine="batch"),
        TeacherConfig(engine="transformers", model=str(alphabet)),
    ]
    assert {each.engine for each in settings} | {"vllm"} == {*KINDS}  # test_vllm.py opens that one
    model = TeacherModel("m", StudentConfig(model=str(alphabet)))
    for each in settings:
        with (
            AnswerCache.open(tmp_path) as cache,
            closing(open_engine(each, model, cache, lambda: False)) as engine,
        ):
            assert (engine.name, engine.structured) == (each.engine, each.takes_schemas(thinking=False))


def test_a_schema_holds_no_model_on_this_machine_that_thinks_first() -> None:
    kinds = [TeacherConfig(engine=kind, model="m", path="p") for kind in KINDS]
    for thinking in (False, True):
        taking = {kind.engine for kind in kinds if kind.takes_schemas(thinking=thinking)}
        assert taking == {"batch", "openai", "recorded"} | (set() if thinking else {"vllm"})
