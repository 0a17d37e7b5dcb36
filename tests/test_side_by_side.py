import threading

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers.models.llama.modeling_llama import LlamaModel

from reflectune.agents.hardware import torch_threads
from reflectune.agents.student.passes import Passes
from reflectune.agents.student.targets import Encoded
from tests.test_memory import adapted_model, gradients
from tests.tiny_models import build_model

# Rows of at most 60 tokens: five.
TEXTS = [Encoded([0, *range(3, 3 + length)], 1) for length in (40, 45, 9, 30, 12, 50, 44)]


@pytest.fixture
def passing(monkeypatch):
    """The names of the threads that passes run on."""
    whole, names = LlamaModel.forward, []

    def forward(model, *inputs, **settings):
        names.append(threading.current_thread().name)
        return whole(model, *inputs, **settings)

    monkeypatch.setattr(LlamaModel, "forward", forward)
    return names


def add_gradients(model, threads):
    passes = Passes(model, 60)
    torch.manual_seed(3)
    with torch_threads(threads):
        loss = passes.add_gradients(TEXTS)
        assert torch.get_num_threads() == threads
    return loss, gradients(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_to_the_bit_the_same_with_any_number_of_threads(passing, dtype):
    found = []
    for threads in (1, 2, 6):
        passing.clear()
        found.append(add_gradients(adapted_model(dtype), threads))
        on_workers = [name for name in passing if name != "MainThread"]
        assert len(on_workers) == (0 if threads == 1 else 5)
    for loss, other in found[1:]:
        assert torch.equal(loss, found[0][0])
        assert all(torch.equal(values, found[0][1][name]) for name, values in other.items())


def test_rows_that_draw_random_numbers_take_turns(passing):
    found = []
    for threads in (1, 4):
        torch.manual_seed(0)
        settings = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5, init_lora_weights=False)
        found.append(add_gradients(get_peft_model(build_model(), settings), threads))
    assert set(passing) == {"MainThread"}
    (loss, one), (loss_on_four, four) = found
    assert float(loss) == pytest.approx(float(loss_on_four), rel=1e-6)
    assert all(torch.allclose(values, four[name], atol=1e-6) for name, values in one.items())


def test_rows_take_turns_where_memory_for_two_at_once_runs_out(monkeypatch):
    plain, model = adapted_model(), adapted_model()
    loss, wanted = add_gradients(plain, 1)
    whole = LlamaModel.forward

    def forward(model, *inputs, **settings):
        if threading.current_thread() is not threading.main_thread():
            raise torch.OutOfMemoryError
        return whole(model, *inputs, **settings)

    monkeypatch.setattr(LlamaModel, "forward", forward)
    found, own = add_gradients(model, 2)
    assert float(found) == pytest.approx(float(loss), rel=1e-6)
    assert all(torch.allclose(values, wanted[name], atol=1e-6) for name, values in own.items())
    assert not model.is_gradient_checkpointing
