import threading
import time
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers.models.llama.modeling_llama import LlamaModel

from reflectune.agents.hardware import torch_threads
from reflectune.agents.student.passes import Passes, checkpoint_layers
from reflectune.agents.student.scoring import Packing, score_sequences
from reflectune.agents.student.side_by_side import pass_rows
from reflectune.agents.student.targets import Encoded
from tests.test_architectures import ARCHITECTURES, build
from tests.test_memory import adapted_model, gradients
from tests.tiny_models import build_model

# Rows of at most 60 tokens: five.
TEXTS = [Encoded([0, *range(3, 3 + length)], 1) for length in (40, 45, 9, 30, 12, 50, 44)]

# Where peft takes not all linear layers.
REFUSED = {"PhimoeForCausalLM", "Llama4ForCausalLM", "MambaForCausalLM", "FalconH1ForCausalLM"}


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
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_do_not_depend_on_what_passes_beside_a_row(passing, dtype, checkpointing):
    found = []
    for threads in (1, 2, 6):  # each row has one of them
        model = adapted_model(dtype)
        if checkpointing:
            checkpoint_layers(model)
        passing.clear()
        found.append(add_gradients(model, threads))
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


def adapt(name):
    settings = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft finds experts by names of its own and says so
        return get_peft_model(build(name, ARCHITECTURES[name][0]), settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - REFUSED))
def test_gradients_of_an_architecture_do_not_depend_on_what_passes_beside_a_row(name):
    (loss, one), (other_loss, other) = (add_gradients(adapt(name), threads) for threads in (1, 4))
    assert float(loss) == pytest.approx(float(other_loss), rel=1e-5)
    assert one.keys() == other.keys()
    assert all(torch.allclose(values, other[name], atol=1e-4) for name, values in one.items())


@pytest.mark.parametrize("name", ["RecurrentGemmaForCausalLM", "MixtralForCausalLM"])
def test_models_that_keep_something_between_rows_take_turns(name):
    model, names = adapt(name), set()
    model.get_input_embeddings().register_forward_pre_hook(
        lambda *_: names.add(threading.current_thread().name)
    )
    sequences = [Encoded([0, *range(3, 3 + length)], 1) for length in (40, 45, 30)]
    with torch_threads(2):
        Passes(model, 60).add_gradients(sequences)
        score_sequences(model, sequences, Packing(60, shares_prefixes=False))
    assert names == {"MainThread"}


@pytest.mark.parametrize("step", [0, 2])
def test_what_goes_wrong_in_a_row_is_raised(step):
    def work(row):
        if row == step:
            raise ArithmeticError(row)
        return row

    for at_once in (1, 3):
        with torch_threads(3), pytest.raises(ArithmeticError, match=str(step)):
            list(pass_rows(work, range(3), at_once))


def test_few_rows_are_passed_ahead_of_one_that_takes_long():
    others_passed, ahead = threading.Event(), []

    def work(row):
        if row == 0:
            assert others_passed.wait(60)
            time.sleep(0.1)  # for what should not be passed yet
        else:
            ahead.append(row)
        if row == 3:
            others_passed.set()
        return row

    with torch_threads(2):
        done = pass_rows(work, range(20), 2)
        assert next(done) == 0
        assert ahead == [1, 2, 3]
        assert list(done) == list(range(1, 20))


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
