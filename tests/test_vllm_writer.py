"""vLLM as the writer of a student's answers: when it is taken, and that it writes what the student does."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from reflectune.agents.machines import Machines
from reflectune.agents.models import open_model
from reflectune.agents.student import vllm_writer as module
from reflectune.agents.student.student import Student
from reflectune.agents.student.vllm_writer import VllmWriter, find_obstacle, open_writer
from reflectune.state.config import RunConfig, StudentConfig
from reflectune.state.errors import TeacherError
from reflectune.state.records import Pair
from tests import test_vllm
from tests.tiny_models import save_tiny_adapter, save_tiny_llama

ON_GPU = StudentConfig(model="m", device="cuda:0")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with CUDA and vLLM."""
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def test_vllm_writes_thousands_of_answers_on_a_gpu(gpu: None, tmp_path: Path) -> None:
    model = str(save_tiny_llama(tmp_path / "model"))
    for config in (StudentConfig(model=model, device="cuda:0"), StudentConfig(model=model)):
        assert find_obstacle(config, None, 2000) is None
        assert find_obstacle(config, tmp_path, 2000) is None


def test_the_student_writes_where_vllm_cannot_or_is_slower(
    gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_obstacle(ON_GPU, None, 1999) == "vLLM takes longer to start than 1999 answers take"
    folder = save_tiny_llama(tmp_path / "other")
    settings = {"model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"]}
    (folder / "config.json").write_text(json.dumps(settings))
    other = StudentConfig(model=str(folder), device="cuda:0")
    assert find_obstacle(other, None, 2000) is None
    assert "adapters are trained on Qwen3_5ForCausalLM" in str(find_obstacle(other, tmp_path, 2000))
    on_cpu = StudentConfig(model="m", device="cpu")
    assert find_obstacle(on_cpu, None, 2000) == "the student is not on the first CUDA device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (
        find_obstacle(StudentConfig(model="m"), None, 2000) == "the student is not on the first CUDA device"
    )
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert find_obstacle(ON_GPU, None, 2000) == "vLLM is not installed"
    assert make_machines().open_writers(None, 2000) is None


def make_machines() -> Machines:
    given = {"data": {"path": "d"}, "teacher": {"engine": "recorded", "path": "p"}}
    given |= {"evaluate": {"max_tokens": 8}, "student": ON_GPU.model_dump()}
    return Machines(RunConfig.model_validate({"name": "n"} | given))


def test_machines_close_their_base_before_vllm_opens(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    monkeypatch.setattr(module, "VllmWriter", lambda *how: nullcontext(said.append(how)))
    machines = make_machines()
    monkeypatch.setattr(machines._base, "close", lambda: said.append("closed"))
    pool = machines.open_writers(None, 2000)
    assert pool is not None
    with pool:
        assert (pool.at_once, said) == (1, [])
        pool.submit(lambda writer: None).result()
    assert said == ["closed", (ON_GPU, None, 8, None)]


def test_the_student_writes_where_vllm_does_not_open(
    gpu: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*how: object) -> None:
        raise TeacherError("no such model")

    monkeypatch.setattr(module, "VllmWriter", fail)
    monkeypatch.setattr(module.Student, "open", lambda config, adapter: (config, adapter))
    assert open_writer(ON_GPU, None, 8, None) == (ON_GPU, None)
    assert caplog.messages == ["no such model; the student writes by itself"]


def real_vllm(test: Any) -> Any:
    """Of a test that needs what those of the engine need."""
    for mark in test_vllm.pytestmark:
        test = mark(test)
    return test


@real_vllm
def test_vllm_writes_the_students_answers_token_for_token(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path / "llama", chat=True, heads=1)
    config = StudentConfig(model=str(folder), template="chat", dtype="float32", max_length=64, threads=1)
    adapter = save_tiny_adapter(tmp_path / "round-01", open_model(config), seed=1)
    pairs = [Pair(f"Name {number} things.", "red" * (number % 2), "") for number in range(9)]
    pairs.append(Pair("word " * 200, "", ""))  # fills max_length
    with Student.open(config, adapter) as student:
        expected = student.respond(pairs, 12)
    with VllmWriter(config, adapter, 12, share=0.15) as writer:
        assert writer.respond(pairs, 12) == expected
        assert writer.respond(pairs[:2], 12) == expected[:2]
    with Student.open(config) as base:
        assert base.respond(pairs, 12) != expected
    assert expected[-1] is None
    assert len({response.text for response in expected[:-1] if response}) > 4
