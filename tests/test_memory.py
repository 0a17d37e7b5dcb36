import gc
import weakref
from contextlib import nullcontext

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers.models.llama.modeling_llama import LlamaModel

from reflectune.agents.memory import alike_when_exhausted
from reflectune.agents.student.passes import Passes, checkpoint_layers
from reflectune.agents.student.refinetune import check_refinetune, refinetune_student
from reflectune.agents.student.student import Student, StudentBase
from reflectune.agents.student.targets import Encoded
from reflectune.state.errors import AdapterError, StudentError
from reflectune.state.records import TERMS
from tests.test_refinetune import PAIRS, configure, folder, train, weights  # noqa: F401 - a fixture
from tests.tiny_models import build_model

TEXTS = [Encoded([0, *range(start, start + 20)], 4) for start in (5, 30, 60, 90)]  # 21 tokens each


def limit_memory(monkeypatch, limit, checkpointed=0):
    """Make Llamas run out of memory, as a CPU says it; the tokens of the passes that went through.

    In a pass over more than `limit` tokens, or `checkpointed` ones where layers are computed again.
    """
    whole, passed = LlamaModel.forward, []

    def forward(model, input_ids=None, **settings):
        tokens = input_ids.shape[1]
        if tokens > max(
            limit, checkpointed if model.layers[0].gradient_checkpointing and model.training else 0
        ):
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to")
        passed.append(tokens)
        return whole(model, input_ids=input_ids, **settings)

    monkeypatch.setattr(LlamaModel, "forward", forward)
    return passed


def adapted_model(dtype=torch.float32, **shape):
    torch.manual_seed(0)
    model = get_peft_model(build_model(**shape).to(dtype), LoraConfig(r=4, target_modules="all-linear"))
    for name, values in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(values, std=0.1)
    return model


def gradients(model):
    return {name: values.grad for name, values in model.named_parameters() if values.requires_grad}


@pytest.mark.parametrize(
    "what",
    [
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you",
        "MPS backend out of memory (MPS allocated: 9.0 GB, other allocations: 1 GB, max allowed: 9.07 GB)",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_exhausted_memory_is_one_error_whatever_the_device_says(what):
    with pytest.raises(torch.OutOfMemoryError, match=r"ALLOC|memory"), alike_when_exhausted():
        raise RuntimeError(what)


def test_exhausted_memory_of_this_cpu_is_known():
    with pytest.raises(torch.OutOfMemoryError), alike_when_exhausted():
        torch.empty(10**15)
    with pytest.raises(RuntimeError, match="shape") as other, alike_when_exhausted():
        torch.ones(2) @ torch.ones(3, 3)
    assert type(other.value) is RuntimeError


def test_passes_halve_rows_then_compute_layers_again(monkeypatch):
    plain, model = adapted_model(), adapted_model()
    loss = Passes(plain, 100).add_gradients(TEXTS)
    passes = Passes(model, 100)
    passed = limit_memory(monkeypatch, 15, checkpointed=21)
    assert float(passes.add_gradients(TEXTS)) == pytest.approx(float(loss), rel=1e-6)
    assert passed[:4] == [21] * 4
    assert set(passed) == {21}
    for name, values in gradients(model).items():
        assert torch.allclose(values, gradients(plain)[name], atol=1e-6), name
    passed.clear()
    model.zero_grad()
    passes.add_gradients(TEXTS)  # it has learned
    assert passed == [21] * 4


def test_passes_out_of_memory_in_a_later_row_begin_the_step_again(monkeypatch):
    plain, model = adapted_model(), adapted_model()
    texts = [Encoded([0, 3, 4], 1), *TEXTS]  # rows of 3 + 21 and 42 tokens; the second one is too long
    Passes(plain, 44).add_gradients(texts)
    passes = Passes(model, 44)
    passed = limit_memory(monkeypatch, 24)
    passes.add_gradients(texts)
    assert passed == [24, 3, 21, 21, 21, 21]
    for name, values in gradients(model).items():
        assert torch.allclose(values, gradients(plain)[name], atol=1e-6), name


def test_passes_give_up_on_a_text_that_never_fits(monkeypatch):
    limit_memory(monkeypatch, 20)
    with pytest.raises(torch.OutOfMemoryError, match="no memory to train on one text of 21 tokens"):
        Passes(adapted_model(), 100).add_gradients(TEXTS)


def test_refinetune_survives_little_memory(folder, tmp_path, monkeypatch):  # noqa: F811
    config = configure(folder, epochs=1)
    train(config, tmp_path / "plain")
    passed = limit_memory(monkeypatch, 60)
    train(config, tmp_path / "little")
    assert max(passed) <= 60
    plain = weights(tmp_path / "plain")
    for name, values in weights(tmp_path / "little").items():
        assert torch.allclose(values, plain[name], atol=1e-4), name


def test_refinetune_without_memory_for_a_text_says_so(folder, tmp_path, monkeypatch):  # noqa: F811
    limit_memory(monkeypatch, 15)
    with pytest.raises(AdapterError, match=r"memory to train on one text of \d+ tokens; end what else"):
        train(configure(folder, epochs=1), tmp_path / "adapter")


def test_a_text_of_full_length_is_tried_before_anything_is_paid(folder, monkeypatch):  # noqa: F811
    config = configure(folder, student={"max_length": 100})
    passed = limit_memory(monkeypatch, 90, checkpointed=100)
    check_refinetune(config)
    assert 100 in passed
    limit_memory(monkeypatch, 90)
    with pytest.raises(StudentError, match=r"text of 100 tokens; lower student\.max_length or"):
        check_refinetune(config)


# What is kept for the backward pass


def saved_bytes(model, texts):
    """Bytes of distinct tensors that a forward pass keeps, parameters left out, for one row of the texts."""
    own = {values.untyped_storage().data_ptr() for values in model.parameters()}
    kept = {}

    def keep(values):
        storage = values.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return values

    class Kept(Passes):
        def _try_rows(self, *part):
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda values: values):
                return super()._try_rows(*part)

    Kept(model, 10_000).add_gradients(texts)
    return sum(storage.nbytes() for storage in kept.values())


def test_logits_are_not_kept():
    texts = [Encoded([0, *range(1, 200)], 1)]
    small, large = (saved_bytes(adapted_model(vocabulary=size), texts) for size in (500, 5000))
    assert large - small < 199 * 4500  # less than a byte a logit, where float32 alone has four


def test_adapter_of_a_bfloat16_base_computes_in_bfloat16(monkeypatch):
    texts = [Encoded([0, *range(1, 200)], 1)]
    model = adapted_model(torch.bfloat16)
    half = saved_bytes(model, texts)
    assert {values.dtype for values in gradients(model).values()} == {torch.float32}
    monkeypatch.setattr(torch, "autocast", lambda *settings, **more: nullcontext())
    assert half < 0.8 * saved_bytes(adapted_model(torch.bfloat16), texts)


def test_layers_computed_again_are_not_kept():
    texts = [Encoded([0, *range(1, 200)], 1)]
    plain, again = adapted_model(), adapted_model()
    checkpoint_layers(again)
    assert saved_bytes(again, texts) < 0.5 * saved_bytes(plain, texts)


# One base for all students


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_base_is_as_it_was_after_adapters_and_training(folder, tmp_path, dtype):  # noqa: F811
    config = configure(folder, student={"dtype": dtype}, epochs=1, gradient_checkpointing=True)
    targets = [(pair, term) for pair in PAIRS[:4] for term in TERMS]
    train(config, tmp_path / "apart")
    with Student.open(config.student) as student:
        plain = student.score(targets)
    with Student.open(config.student, tmp_path / "apart") as student:
        adapted = student.score(targets)
    assert plain != adapted
    with StudentBase(config.student) as base:
        model, *_ = base.open()
        for _ in range(2):
            with Student(base) as student:
                assert student.score(targets) == plain
            with Student(base, tmp_path / "apart") as student:
                assert student.score(targets) == adapted
            out = tmp_path / "again"
            refinetune_student(
                config, PAIRS, out, base=base, previous=None, round=1, on_step=lambda *step: None
            )
            assert all(torch.equal(a, weights(out)[name]) for name, a in weights(tmp_path / "apart").items())
            assert base.open()[0] is model
            assert not model.training


def test_nothing_of_a_closed_student_stays(folder, tmp_path):  # noqa: F811
    config = configure(folder, epochs=1)
    train(config, tmp_path / "adapter")
    check_refinetune(config)
    student = Student.open(config.student, tmp_path / "adapter")
    student.score([(PAIRS[0], "response_alone")])
    held = weakref.ref(student._model)
    student.close()
    assert held() is None
    assert not [each for each in gc.get_objects() if isinstance(each, LlamaModel)]
