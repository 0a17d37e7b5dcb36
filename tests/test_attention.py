"""Our attention in transformers' models: no mask is needed, and nothing that a layer asks for is lost."""

import inspect
from itertools import pairwise

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.attention.varlen import varlen_attn
from transformers import AutoModelForCausalLM

from reflectune.agents import models
from reflectune.agents.generation import generate_greedy
from reflectune.agents.student import attention
from reflectune.agents.student.attention import attends_by_branches, attention_inputs, settle_attention
from reflectune.agents.student.rows import build_row
from reflectune.agents.student.scoring import Packing, choose_packing, score_sequences, target_logprobs
from reflectune.agents.student.targets import Encoded
from reflectune.state.config import StudentConfig
from tests.test_architectures import DENSE, HEADS, WINDOW, build, draw_sequences
from tests.test_scoring import assert_as_alone

CAPPED = HEADS | WINDOW | {"attn_logit_softcapping": 1.0}
KINDS = {
    "LlamaForCausalLM": DENSE,
    "Qwen3ForCausalLM": HEADS,
    "MistralForCausalLM": DENSE | {"sliding_window": 8},
    "Gemma2ForCausalLM": CAPPED,
}


class Kernel:
    """What `varlen_attn` computes, sequence by sequence, and what it was asked."""

    def __init__(self):
        self.calls = []

    def __call__(self, *given, **named):
        asked = inspect.signature(varlen_attn).bind(*given, **named).arguments
        query, key, value = asked["query"], asked["key"], asked["value"]  # (T, H, D), (S, G, D)
        left, right = asked["window_size"]
        assert right == 0
        assert asked["cu_seq_q"].dtype == asked["cu_seq_k"].dtype == torch.int32
        assert asked["enable_gqa"]
        self.calls.append(asked)
        spans = zip(pairwise(asked["cu_seq_q"].tolist()), pairwise(asked["cu_seq_k"].tolist()), strict=True)
        outputs, longest = [], [0, 0]
        for (start, end), (first, last) in spans:
            own, among = end - start, last - first
            longest = [max(longest[0], own), max(longest[1], among)]
            seen = torch.ones(own, among, dtype=torch.bool).tril(among - own)
            if left >= 0:
                seen &= torch.ones(own, among, dtype=torch.bool).triu(among - own - left)
            states = (query[start:end], key[first:last], value[first:last])
            output = torch.nn.functional.scaled_dot_product_attention(
                *(each.transpose(0, 1)[None] for each in states),
                attn_mask=seen,
                scale=asked["scale"],
                enable_gqa=True,
            )
            outputs.append(output[0].transpose(0, 1))
        assert longest == [asked["max_q"], asked["max_k"]]
        return torch.cat(outputs)


@pytest.fixture
def kernel(monkeypatch):
    """A kernel for sequences of many lengths, here where there is none."""
    kernel = Kernel()
    monkeypatch.setattr(attention, "varlen_attn", kernel)
    monkeypatch.setattr(attention, "_has_kernel", lambda device, dtype: True)
    return kernel


def settled(name, settings):
    model = build(name, settings)
    settle_attention(model)
    assert attends_by_branches(model)
    return model


@pytest.mark.parametrize("name", KINDS)
def test_kernel_gets_every_row_of_a_model_that_caps_no_logits(name, kernel):
    model, items = settled(name, KINDS[name]), draw_sequences()
    for packing in (Packing(200, shares_prefixes=False), Packing(200, shares_prefixes=True)):
        scores = score_sequences(model, items, packing)
        calls, kernel.calls = kernel.calls, []
        assert_as_alone(model, items, scores)
        assert bool(calls) == (name != "Gemma2ForCausalLM")
        assert {call["window_size"] for call in calls} <= {(7 if name == "MistralForCausalLM" else -1, 0)}


def test_kernel_is_told_where_sequences_begin_and_what_they_share(kernel):
    model = settled("LlamaForCausalLM", DENSE)
    items = [Encoded([5, 6, 7, 8], 1), Encoded([5, 6, 9], 1), Encoded([10, 11], 1)]
    for shares, queries, keys in ((False, [0, 4, 7, 9], [0, 4, 7, 9]), (True, [0, 4, 5, 7], [0, 4, 7, 9])):
        row = build_row(items, share_prefixes=shares)
        target_logprobs(model, row)
        call = kernel.calls[-1]
        assert call["cu_seq_q"].tolist() == queries
        assert call["cu_seq_k"].tolist() == keys
        assert (call["max_q"], call["max_k"]) == (4, 4)
        assert len(call["key"]) == 9
        spans = attention_inputs(model, row)["spans"]
        assert shares == (spans.seen is not None)
        assert not shares or spans.seen.tolist() == [0, 1, 2, 3, 0, 1, 4, 5, 6]


def gradients(model, items):
    """Gradients of an adapter from one row of training."""
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    adapted.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    adapted.train()
    logprobs = target_logprobs(adapted, build_row(items))
    logprobs.sum().backward()
    found = {name: weight.grad for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert len(found) == 2 * 2 * 7
    return found | {"logprobs": logprobs.detach()}


@pytest.mark.parametrize("name", KINDS)
def test_training_goes_the_same_way_by_the_kernel_by_branches_and_under_masks(name, kernel, monkeypatch):
    items = draw_sequences()
    masked = build(name, KINDS[name])
    if name == "Gemma2ForCausalLM":
        masked.set_attn_implementation("eager")  # torch's attention would forget its caps
    wanted = gradients(masked, items)
    by_kernel = gradients(settled(name, KINDS[name]), items)
    assert bool(kernel.calls) == (name != "Gemma2ForCausalLM")
    monkeypatch.setattr(attention, "_has_kernel", lambda device, dtype: False)
    kernel.calls.clear()
    by_branches = gradients(settled(name, KINDS[name]), items)
    assert not kernel.calls
    for key, value in wanted.items():
        torch.testing.assert_close(by_kernel[key], value, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(by_branches[key], value, rtol=1e-4, atol=1e-4)


def test_heads_that_the_kernel_cannot_take_go_branch_by_branch(kernel):
    model = settled("LlamaForCausalLM", DENSE | {"head_dim": 4})
    assert_as_alone(model, items := draw_sequences(), score_sequences(model, items, Packing(200, True)))
    assert not kernel.calls


def test_kernel_is_no_part_of_a_cpu():
    assert not attention._has_kernel(torch.device("cpu"), torch.bfloat16)
    assert not attention._has_kernel(torch.device("cuda"), torch.float32)


def test_caps_on_logits_count_in_scoring_and_in_writing(tmp_path):
    settings = CAPPED | {"attn_logit_softcapping": 0.05, "query_pre_attn_scalar": 1}
    build("Gemma2ForCausalLM", settings).save_pretrained(tmp_path)
    model = models.open_model(StudentConfig(model=str(tmp_path), dtype="float32", device="cpu"))
    eager, forgetful = (
        AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=each).eval()
        for each in ("eager", "sdpa")
    )
    items = draw_sequences()
    packings = [choose_packing(model, 200, share_prefixes=shares) for shares in (False, True)]
    assert [packing.shares_prefixes for packing in packings] == [False, True]
    for packing in packings:
        assert_as_alone(eager, items, score_sequences(model, items, packing))
    with pytest.raises(AssertionError):
        assert_as_alone(eager, items, score_sequences(forgetful, items, packings[0]))
    prompts = [item.ids for item in items]
    written = [generate_greedy(each, prompts, [], 12, 200) for each in (eager, model, forgetful)]
    assert written[0] == written[1]
    assert written[0] != written[2]
    ids = torch.tensor([prompts[1]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, eager(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Qwen3ForCausalLM", "MistralForCausalLM"])
def test_written_tokens_attend_as_by_torch_and_no_key_is_copied(name, tmp_path, monkeypatch):
    build(name, KINDS[name]).save_pretrained(tmp_path)
    model = models.open_model(StudentConfig(model=str(tmp_path), dtype="float32", device="cpu"))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="sdpa").eval()
    seen = []
    product = torch.nn.functional.scaled_dot_product_attention

    def watch(query, key, *others, **named):
        seen.append((query.shape[1:3], key.shape[1]))
        return product(query, key, *others, **named)

    ids = torch.randint(5, 60, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 12, dtype=torch.long)
    mask[0, :5] = mask[2, :9] = 0
    logits = []
    for each in (model, plain):
        with torch.no_grad(), monkeypatch.context() as patch:
            begun = each(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], use_cache=True)
            patch.setattr(torch.nn.functional, "scaled_dot_product_attention", watch)
            ended = each(
                input_ids=ids[:, -1:], attention_mask=mask, past_key_values=begun.past_key_values,
                position_ids=mask.sum(1, keepdim=True) - 1,
            )  # fmt: skip
        logits.append(ended.logits)
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-5)
    config = model.config
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    assert heads > shared
    assert seen[0] == ((shared, heads // shared), shared)
    assert seen[-1] == ((heads, 1), heads)


@pytest.mark.parametrize(
    "changes",
    [
        lambda mask, asked: (mask, asked | {"s_aux": torch.zeros(4)}),
        lambda mask, asked: (mask, asked | {"is_causal": False}),
        lambda mask, asked: (mask.float(), asked),
        lambda mask, asked: (mask, {}),
    ],
    ids=["sinks", "both ways", "more than a mask", "branches lost"],
)
def test_layer_that_asks_for_something_else_keeps_torchs_attention(changes):
    model = build("LlamaForCausalLM", DENSE)
    layer = model.model.layers[1].self_attn
    plain = layer.forward

    def forward(states, position_embeddings, attention_mask, **asked):
        mask, asked = changes(attention_mask, asked)
        return plain(states, position_embeddings, mask, **asked)

    layer.forward = forward
    settle_attention(model)
    assert model.config._attn_implementation == "sdpa"


def test_model_whose_layers_hide_by_masks_what_their_windows_would_keeps_torchs_attention():
    model = build("PhimoeForCausalLM", HEADS | {"num_local_experts": 2, "sliding_window": 8})
    settle_attention(model)
    assert model.config._attn_implementation == "sdpa"
    model = build("PhimoeForCausalLM", HEADS | {"num_local_experts": 2})
    settle_attention(model)
    assert attends_by_branches(model)
