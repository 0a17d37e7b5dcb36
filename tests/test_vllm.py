"""The real vLLM, built for CPUs: embedded and as a server, with the demo's teacher and a random model."""

import importlib.util
import itertools
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors import safe_open

from reflectune.agents.models import open_model
from reflectune.agents.student.merging import merge_student
from reflectune.agents.teacher.engines import Request, TeacherModel, vllm_engine, vllm_process
from reflectune.agents.teacher.engines.local_transformers import TransformersEngine
from reflectune.agents.teacher.engines.vllm_engine import VllmEngine
from reflectune.agents.teacher.engines.vllm_process import ModelSettings, _Worker
from reflectune.agents.teacher.forms import answer_schema
from reflectune.agents.teacher.prompts import open_prompts
from reflectune.loop.demo.demo import FOLDER
from reflectune.loop.demo.noise import write_dataset
from reflectune.state.config import StudentConfig, TeacherConfig
from reflectune.state.errors import TeacherError
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import PHASES, Answer, Pair
from tests.teachers import ask as ask_teacher
from tests.teachers import asked, statuses
from tests.tiny_models import save_tiny_adapter, save_tiny_llama
from tests.worlds import child_environment, reflectune, write_world

CPUINFO = Path("/proc/cpuinfo")
HAS_AVX2 = CPUINFO.exists() and "avx2" in CPUINFO.read_text().split()

pytestmark = [
    pytest.mark.no_cover,
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_AVX2, reason="vLLM for CPUs needs AVX2, which this one lacks"),
    pytest.mark.skipif(
        HAS_AVX2 and importlib.util.find_spec("vllm") is None,
        reason="vLLM is not installed; `make test` installs it",
    ),
]

TEACHER = str(FOLDER / "models" / "teacher")
PROMPTS = open_prompts(FOLDER / "prompts.toml")
PAIR = Pair("Write vepumi backwards.", "", "vepumi")
# A share of this machine's memory that is plenty for models of a few megabytes.
SMALL: dict[str, Any] = {"gpu_memory_utilization": 0.15, "max_tokens": 60, "concurrency": 32}


@contextmanager
def opened(folder: str, adapter: Path | None = None, **settings: Any) -> Iterator[VllmEngine]:
    config = TeacherConfig(**{"engine": "vllm", "model": folder} | SMALL | settings)
    source = StudentConfig(model=folder, dtype="float32")
    engine = VllmEngine(config, TeacherModel("teacher", source, adapter))
    try:
        yield engine
    finally:
        engine.close()


def serve_in_few_blocks(requests: Connection, words: Connection, settings: ModelSettings) -> None:
    """Tell what vLLM has made of the arguments, then answer; with room for 3 blocks of 128 tokens."""
    work = _Worker.work

    def tell(self: _Worker, requests: Connection, words: Connection) -> None:
        config = self._engine.vllm_config
        told = {
            "asked": config.model_config.original_max_model_len,
            "context": config.model_config.max_model_len,
            "tokenizer": config.model_config.tokenizer_mode,
            "at once": config.scheduler_config.max_num_seqs,
            "tokens a pass": config.scheduler_config.max_num_batched_tokens,
        }
        words.send(Answer(requests.recv().id, text=json.dumps(told)))
        work(self, requests, words)

    _Worker.work = tell  # in this process only
    blocks = {"num_gpu_blocks_override": 4, "block_size": 128}  # vLLM keeps one to itself
    vllm_process.serve(requests, words, replace(settings, engine={**settings.engine, **blocks}))


def request(number: int, *, structured: bool = False, text: str | None = None) -> Request:
    messages = PROMPTS.messages("response", PAIR, structured=True, nonce="0")
    if text is not None:
        messages = ({"role": "user", "content": text},)
    schema = answer_schema("response") if structured else None
    return Request(str(number), asked(pair=PAIR), messages, schema, number)


def ask(engine: Any, *requests: Request) -> dict[str, Answer]:
    for item in requests:
        engine.submit(item)
    answers = [engine.next_answer() for _ in requests]
    assert len({answer.request_id for answer in answers}) == len(requests)
    return {answer.request_id: answer for answer in answers}


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    # vLLM's attention on a CPU knows no heads narrower than 32.
    folder = save_tiny_llama(tmp_path_factory.mktemp("models") / "llama", chat=True, heads=1)
    settings = folder / "tokenizer_config.json"  # by this class vLLM's own loses white space
    settings.write_text(settings.read_text().replace("TokenizersBackend", "LlamaTokenizerFast"))
    return str(folder)


def answer_alike(folder: str, adapter: Path | None = None, **settings: Any) -> list[str]:
    """Have vLLM and transformers answer the same requests in every respect alike; the texts."""
    wanted = [request(n, text=f"Name {n} things.") for n in range(6)]
    with opened(folder, adapter, max_tokens=12, **settings) as engine:
        answers = ask(engine, *wanted)
    source = StudentConfig(model=folder, dtype="float32")
    config = TeacherConfig(engine="transformers", model=folder, max_tokens=12)
    with closing(TransformersEngine(config, TeacherModel("teacher", source, adapter))) as other:
        expected = ask(other, *wanted)
    for name, answer in answers.items():
        known = expected[name]
        assert answer.text == known.text
        assert answer.finish_reason == known.finish_reason
        assert answer.prompt_tokens == known.prompt_tokens
        assert answer.completion_tokens == known.completion_tokens
    return [answers[request.id].text for request in wanted]


def test_every_kind_of_answer_is_the_one_transformers_gives(tiny_llama: str, tmp_path: Path) -> None:
    """With an adapter; and of the merged model, with Mistral's own files beside the others."""
    student = StudentConfig(model=tiny_llama)
    adapter = save_tiny_adapter(tmp_path / "round-01", open_model(student), seed=1)
    merge_student(student, adapter, folder := tmp_path / "merged")
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights.keys(), "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("consolidated.safetensors", "params.json", "tekken.json"):
        (folder / name).write_text("no file of ours")
    assert answer_alike(tiny_llama, adapter) == answer_alike(str(folder))


def test_a_schema_holds_even_a_random_model(tiny_llama: str) -> None:
    with opened(tiny_llama, temperature=1.0, max_tokens=400) as engine:
        free = ask(engine, *(request(n) for n in range(8)))
        held = ask(engine, *(request(n, structured=True) for n in range(8)))
        again = ask(engine, *(request(n) for n in reversed(range(8))))
        long = ask(engine, request(0, text="word " * 600), request(1))
    assert not [answer for answer in free.values() if answer.text.startswith("{")]
    whole = [answer for answer in held.values() if answer.finish_reason == "stop"]
    assert all(answer.text.startswith("{") for answer in held.values())
    assert whole
    assert all(json.loads(answer.text).keys() == {"critique", "response"} for answer in whole)
    assert {name: answer.text for name, answer in again.items()} == {
        name: answer.text for name, answer in free.items()
    }  # a draw follows from its request's seed alone
    assert len({answer.text for answer in free.values()}) == 8
    assert long["0"].error == "refused-request"
    assert "fills the context of 512" in str(long["0"].message)
    assert long["1"].error is None


def test_an_answer_has_the_room_that_vllm_has_found(tiny_llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine, "serve", serve_in_few_blocks)
    with opened(tiny_llama, gpu_memory_utilization=0.1) as engine:
        (told,) = ask(engine, request(0)).values()
        answers = ask(engine, request(1, text="e" * 350), request(2, text="e" * 390))
    assert json.loads(told.text) == {
        "asked": -1, "context": 384, "tokenizer": "hf", "at once": 32, "tokens a pass": 4096,
    }  # fmt: skip
    assert answers["1"].prompt_tokens is not None
    assert answers["1"].finish_reason == "length"
    assert answers["1"].prompt_tokens + (answers["1"].completion_tokens or 0) == 384
    assert answers["2"].error == "refused-request"
    assert "fills the context of 384" in str(answers["2"].message)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no two CUDA devices")
def test_ctrl_c_leaves_a_model_on_two_devices_alone_and_a_kill_ends_all_of_it(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path / "llama", chat=True, heads=4, width=128)
    script = f"""
import os, signal, time
from tests.test_vllm import ask, opened, request
if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda number, frame: None)
    with opened({str(folder)!r}, tensor_parallel_size=2) as engine:
        print(len(ask(engine, request(0))), flush=True)
        os.killpg(0, signal.SIGINT)
        time.sleep(1)
        print(len(ask(engine, request(1))), flush=True)
        time.sleep(600)
"""
    (tmp_path / "owner.py").write_text(script)
    command = [sys.executable, str(tmp_path / "owner.py")]
    with subprocess.Popen(
        command, env=child_environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "1\n"
        (child,) = _engine_processes(owner.pid)
        family = [child, *child.children(recursive=True)]
        assert len(family) > 2
        assert owner.stdout.readline() == "1\n"
        assert all(process.is_running() for process in family)
        owner.kill()
    _, alive = psutil.wait_procs(family, timeout=300)
    assert not alive


def test_killed_in_mid_batch_it_answers_every_request_once_and_it_ends_with_its_owner(tmp_path: Path) -> None:
    script = """
import os, signal, time
from tests.test_vllm import TEACHER, _engine_process, opened, request
if __name__ == "__main__":
    with opened(TEACHER, temperature=1.0, concurrency=4) as engine:
        for number in range(40):
            engine.submit(request(number))
        answers = [engine.next_answer() for _ in range(10)]
        os.kill(_engine_process().pid, signal.SIGKILL)
        answers += [engine.next_answer() for _ in range(30)]
        assert sorted(int(answer.request_id) for answer in answers) == list(range(40))
        assert {answer.error for answer in answers} == {None}
        for number in range(40, 90):
            engine.submit(request(number))
        engine.next_answer()
        print("answered", flush=True)
        time.sleep(600)
"""
    (tmp_path / "owner.py").write_text(script)
    command = [sys.executable, str(tmp_path / "owner.py")]
    with subprocess.Popen(command, env=child_environment(), stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "answered\n"
        (child,) = _engine_processes(owner.pid)
        owner.kill()
    child.wait(timeout=300)


def test_a_model_that_vllm_cannot_open_is_named_in_a_line(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path / "damaged")
    (folder / "model.safetensors").write_bytes(b"damaged")
    message = r"^teacher teacher: vLLM: .*what it printed is in .*\.log"
    with pytest.raises(TeacherError, match=message) as got, opened(str(folder)):
        pass
    assert "\n" not in str(got.value)
    assert _engine_processes() == []


def test_the_newest_student_is_its_own_teacher(tmp_path: Path) -> None:
    write_dataset(tmp_path / "noisy.json", 40, seed=0)
    itself = {
        "engine": "transformers",
        "model": "self",
        "path": None,
        "prompts": str(FOLDER / "prompts.toml"),
    }
    config = write_world(
        tmp_path,
        data={"path": "noisy.json", "holdout": 10},
        teacher=itself | {"max_tokens": 60, "structured": False, "temperature": 1.0, "retries": 0},
        student={"model": TEACHER, "template": str(FOLDER / "template.toml"), "dtype": "float32"},
        selection={"policy": "accept-all"},
        refinetune={"lr": 1e-4},
    )
    by_vllm = ("--set", "teacher.engine=vllm", "--set", "teacher.gpu_memory_utilization=0.15")
    told = []
    # The same answers make the same students: what one engine has said need not be asked of the other.
    for name, options in (("one", ("--set", "rounds=1")), ("two", by_vllm), ("three", ())):
        result = reflectune("run", config.name, "--name", name, *options, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        with LineageReader.open(tmp_path / f"runs/{name}/lineage.db") as history:
            told.append(history.rounds())
            calls = "SELECT round, model FROM teacher_calls"
            models = Counter((row["round"], row["model"]) for row in history.db.query(calls))
    assert models == {(1, "self:s0"): 60, (2, "self:s1"): 60}
    assert [[row["teacher"]["cached"] for row in rows] for rows in told] == [[0, 0], [0, 60, 0], [0, 60, 60]]
    for row in (told[0][1], told[1][2]):  # by transformers; by vLLM with an adapter
        assert row["instruction"]["reflected"] > 12
        assert row["response"]["reflected"] > 6
        assert row["teacher"]["completion_tokens"] > 30 * 10


def test_vllms_own_server_teaches_both_phases(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", TEACHER),
        *("--served-model-name", "demo-teacher", "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--enforce-eager", "--gpu-memory-utilization", "0.15"),
        *("--max-num-seqs", "32", "--no-enable-chunked-prefill"),
        *("--chat-template", "{{ bos_token }}{{ messages[0]['content'] }}"),  # the model has none
    ]
    own = {"OMP_NUM_THREADS": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    write_dataset(tmp_path / "noisy.json", 30, seed=0)
    pairs = [Pair(*record.values()) for record in json.loads((tmp_path / "noisy.json").read_text())]
    settings = {
        **{"base_url": f"http://127.0.0.1:{port}/v1", "model": "demo-teacher", "temperature": 1.0},
        **{"max_tokens": 60, "prompts": str(FOLDER / "prompts.toml"), "retries": 0},
    }
    log = (tmp_path / "server.log").open("wb")
    with log, subprocess.Popen(command, env=child_environment(**own), stdout=log, stderr=log) as server:
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", server)
            for structured, phase in itertools.product((True, False), PHASES):
                wanted = [asked(number, phase, pair=pair) for number, pair in enumerate(pairs)]
                config = TeacherConfig(engine="openai", structured=structured, **settings)
                made = ask_teacher(config, wanted)
                # The teacher proposes something for nine pairs in ten; for the rest it repeats the pair.
                assert Counter(statuses(made))["ok"] > 15
                assert sum(call.completion_tokens or 0 for call, _ in made) > 30 * 10
            with pytest.raises(TeacherError, match=r"check teacher\.base_url and teacher\.model"):
                ask_teacher(config.model_copy(update={"model": "nobody"}), 1)
        finally:
            server.terminate()


def _engine_processes(parent: int | None = None) -> list[psutil.Process]:
    """The processes of open engines; Python's resource tracker is none."""
    children = psutil.Process(parent).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def _engine_process() -> psutil.Process:
    (process,) = _engine_processes()
    return process


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server has ended"
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError("the server does not answer")
