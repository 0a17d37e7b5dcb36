import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from reflectune.agents import models
from reflectune.agents.model_files import find_fault
from reflectune.state.config import StudentConfig
from reflectune.state.errors import AdapterError, StudentError
from tests.tiny_models import save_tiny_adapter, save_tiny_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


def save_as(folder, copy, dtype):
    """A copy of the model whose config.json names another number format, or none."""
    path = Path(shutil.copytree(folder, copy)) / "config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"dtype": dtype}))
    return copy


def configure(folder, **values):
    return StudentConfig(**({"model": str(folder), "template": "plain", "device": "cpu"} | values))


@pytest.mark.parametrize(
    ("device", "own", "faster", "resolved"),
    [
        ("cpu", "float32", True, "float32"),
        ("cpu", None, True, "float32"),
        ("cpu", "bfloat16", True, "bfloat16"),
        ("cpu", "bfloat16", False, "float32"),
        ("cpu", "float16", True, "float32"),  # bfloat16 has fewer digits than the model's own weights
        ("meta", "float16", False, "float16"),
        ("meta", "bfloat16", False, "bfloat16"),
        ("meta", None, False, "auto"),
    ],
)
def test_dtype_is_the_models_own_and_on_a_cpu_never_below_it(
    folder, tmp_path, monkeypatch, device, own, faster, resolved
):
    monkeypatch.setattr(models, "prefers_bfloat16", lambda: faster)
    config = configure(save_as(folder, tmp_path / "copy", own), threads=1, device=device)
    assert models.resolve_student(config).dtype == resolved
    if device == "cpu":
        assert models.open_model(config).dtype == getattr(torch, resolved)


def test_resolve_student_measures_what_is_left_open_and_nothing_else(folder, monkeypatch):
    monkeypatch.setattr(models, "measure_threads", lambda: 3)
    assert models.resolve_student(configure(folder)) == configure(folder, threads=3, dtype="float32")
    settled = configure(folder, threads=1, dtype="bfloat16")
    assert models.resolve_student(settled) == settled


def test_resolve_student_names_a_model_it_cannot_read(tmp_path):
    with pytest.raises(StudentError, match=r"nothing .* the model could not be opened"):
        models.resolve_student(configure(tmp_path / "nothing"))


def test_four_bit_weights_need_a_device_that_bitsandbytes_knows(folder, monkeypatch):
    monkeypatch.setattr(models, "_device", lambda name: torch.device("mps"))
    with pytest.raises(StudentError, match=r"load_in_4bit needs a CUDA device or a CPU, .* is on mps$"):
        models.check_four_bit(configure(folder))


def test_four_bit_weights_need_bitsandbytes(folder, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StudentError, match="needs bitsandbytes; `pip install bitsandbytes`"):
        models.check_four_bit(configure(folder))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_adapter_with_one_weight_that_is_not_finite_is_refused(folder, tmp_path, value):
    adapter = save_tiny_adapter(tmp_path / "adapter", models.open_model(configure(folder)))
    models.attach_adapter(models.open_model(configure(folder)), adapter)
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[3]
    tensors[name][0, 0] = value
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(
        AdapterError, match=rf"1 of its {len(tensors)} weights are not finite, such as {name}"
    ):
        models.attach_adapter(models.open_model(configure(folder)), adapter)


def test_pickled_weights_are_never_opened(folder, tmp_path):
    pickled = Path(shutil.copytree(folder, tmp_path / "pickled"))
    weights = load_file(pickled / "model.safetensors")
    (pickled / "model.safetensors").unlink()
    torch.save(weights, pickled / "pytorch_model.bin")
    assert find_fault(str(pickled)) == (
        f"{pickled}: its weights are pickled, which can run code; convert them to safetensors"
    )
    with pytest.raises(StudentError, match="the model could not be opened"):
        models.open_model(configure(pickled))
    save_file(weights, pickled / "model.safetensors", metadata={"format": "pt"})
    assert find_fault(str(pickled)) is None
    (pickled / "pytorch_model.bin").write_bytes(b"nothing that could be opened")
    models.open_model(configure(pickled))


def test_code_beside_a_model_is_never_run(folder, tmp_path):
    strange = Path(shutil.copytree(folder, tmp_path / "strange"))
    marker = tmp_path / "it ran"
    (strange / "theirs.py").write_text(f"open({str(marker)!r}, 'w')\nclass Config: ...\nclass Model: ...\n")
    path = strange / "config.json"
    auto = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
    for changes in ({}, {"model_type": "unheard-of"}):
        settings = json.loads((folder / "config.json").read_text())
        path.write_text(json.dumps(settings | {"auto_map": auto} | changes))
        if changes:
            with pytest.raises(StudentError, match="could not be opened"):
                models.open_model(configure(strange))
        else:
            models.open_model(configure(strange))
    assert not marker.exists()


def test_adapters_of_a_model_that_transformers_opens_as_another_class_are_not_for_vllm(tmp_path):
    folder = save_tiny_llama(tmp_path / "llama")
    models.check_adapters_fit_vllm(StudentConfig(model=str(folder)))
    settings = {"model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"]}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(
        StudentError, match=r"as Qwen3_5ForConditionalGeneration.* trained on Qwen3_5ForCausalLM"
    ):
        models.check_adapters_fit_vllm(StudentConfig(model=str(folder)))
