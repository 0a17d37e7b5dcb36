"""Linear layers multiplied by oneDNN give what torch's own give, forwards and backwards."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reflectune.agents.student.linear import multiply_by_onednn
from reflectune.agents.student.rows import build_row
from reflectune.agents.student.scoring import Packing, score_sequences, target_logprobs
from reflectune.agents.student.targets import Encoded
from tests.tiny_models import build_model


def twins(*, bias: bool, inner: int = 24, outer: int = 40) -> tuple[torch.nn.Linear, torch.nn.Linear]:
    """A frozen layer as torch has it, and the same multiplied by oneDNN."""
    torch.manual_seed(0)
    plain = torch.nn.Linear(inner, outer, bias=bias).requires_grad_(False)
    ours = copy.deepcopy(plain)
    multiply_by_onednn(ours)
    return plain, ours


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each product by oneDNN has had."""
    seen: list[int] = []
    original = torch.ops.mkldnn._linear_pointwise

    def multiply(inputs: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(inputs.numel() // inputs.shape[-1])
        return original(inputs, *rest)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", multiply)
    return seen


@pytest.mark.slow
@given(st.lists(st.integers(0, 12), min_size=1, max_size=3), st.booleans())
def test_products_equal_torchs_for_any_shape(shape: list[int], bias: bool) -> None:
    plain, ours = twins(bias=bias)
    inputs = torch.randn(*shape, 24)
    torch.testing.assert_close(ours(inputs), plain(inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_the_inputs_equal_torchs(bias: bool, products: list[int]) -> None:
    gradients = []
    for layer in twins(bias=bias):
        torch.manual_seed(1)
        inputs = torch.randn(2, 30, 24, requires_grad=True)
        layer(inputs).square().sum().backward()
        gradients.append(inputs.grad)
    assert products == [60, 60]  # one forwards, one backwards, both of our layer's
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)


def test_a_layer_that_is_trained_keeps_its_gradients(products: list[int]) -> None:
    _, ours = twins(bias=True)
    ours.requires_grad_(True)
    ours(torch.randn(30, 24)).sum().backward()
    assert ours.weight.grad is not None
    assert ours.weight.grad.abs().sum() > 0
    with torch.no_grad():
        ours(torch.randn(30, 24))
    assert products == [30]  # without gradients it is a product like any other


def test_few_rows_and_other_numbers_stay_with_torch(products: list[int]) -> None:
    _, ours = twins(bias=True)
    ours(torch.randn(7, 24))
    coarse = copy.deepcopy(ours).to(torch.bfloat16)
    multiply_by_onednn(coarse)
    coarse(torch.randn(30, 24).to(torch.bfloat16))
    assert products == []
    ours(torch.randn(8, 24))
    assert products == [8]


def test_a_models_scores_stay_the_same(products: list[int]) -> None:
    model, packing = build_model(vocabulary=50), Packing(512, shares_prefixes=False)
    sequences = [Encoded([0, *range(1, 40)], 5), Encoded([0, 1, 2, 9, 8, 7], 3)]
    before = [score.sum_logprob for score in score_sequences(model, sequences, packing)]
    assert products == []
    multiply_by_onednn(model)
    after = [score.sum_logprob for score in score_sequences(model, sequences, packing)]
    assert products
    assert after == pytest.approx(before, rel=1e-5)


def test_long_rows_are_filled_up_with_what_predicts_nothing() -> None:
    items = [Encoded([0, *[number % 48 + 1 for number in range(length)]], 2) for length in (200, 150, 120)]
    model = build_model(vocabulary=50)
    alone = torch.cat([target_logprobs(model, build_row([item])) for item in items])
    assert len(build_row([Encoded([0] * 300, 1)]).ids) == 300  # alone a sequence stays as it is
    plain = build_row(items)
    assert len(plain.ids) == 512  # 201 + 151 + 121 = 473
    assert plain.positions[473:].tolist() == list(range(39))
    assert plain.predicting.max() < 473
    torch.testing.assert_close(target_logprobs(model, plain), alone, rtol=1e-5, atol=1e-5)
    ordered = sorted(items, key=lambda item: item.ids)
    tree = build_row([*ordered, Encoded([3, *range(1, 49), *range(1, 49)], 1)], share_prefixes=True)
    # 201 of the longest (120 and 150 begin it, but for the last token each), 97 of the other: 300.
    assert len(tree.ids) == 320
    assert not tree.mask[:300, 300:].any()  # nobody sees the filler
    again = torch.cat([target_logprobs(model, build_row([item])) for item in ordered])
    torch.testing.assert_close(target_logprobs(model, tree)[: len(again)], again, rtol=1e-5, atol=1e-5)
