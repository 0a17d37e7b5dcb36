"""Tiny random models of many architectures: every score is that of its sequence alone."""

import math
import random
from dataclasses import replace

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from reflectune.agents.architecture import context_length, steady_length
from reflectune.agents.generation import generate_greedy
from reflectune.agents.student.attention import settle_attention
from reflectune.agents.student.first_token import predict_first, score_with_first
from reflectune.agents.student.rows import build_row, pack_padded
from reflectune.agents.student.scoring import Packing, choose_packing, score_sequences, target_logprobs
from reflectune.agents.student.targets import Encoded
from tests.test_scoring import assert_as_alone

BUDGET = 200
ALONE, PLAIN = Packing(1, shares_prefixes=False), Packing(BUDGET, shares_prefixes=False)
TREE, PADDED = Packing(BUDGET, shares_prefixes=True), Packing(BUDGET, shares_prefixes=False, pads=True)

SIZE = {
    "vocab_size": 400,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
DENSE = {**SIZE, "intermediate_size": 64, "num_key_value_heads": 2}
HEADS = {**DENSE, "head_dim": 8}
EXPERTS = {**HEADS, "num_local_experts": 4, "num_experts_per_tok": 2}
WINDOW = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 4,
    "mamba_chunk_size": 8,
    "mamba_n_groups": 1,
}
DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
LATENT = {
    **SIZE,
    "intermediate_size": 64,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 8,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 1e4}
ELASTIC = {"rope_parameters": LONG, "original_max_position_embeddings": 50}

# Architecture -> its settings, and how it may be packed for scoring.
ARCHITECTURES = {
    "LlamaForCausalLM": (DENSE, TREE),
    "Qwen3ForCausalLM": (HEADS, TREE),
    "MixtralForCausalLM": (EXPERTS, TREE),
    "DeepseekV3ForCausalLM": (LATENT, TREE),
    "OPTForCausalLM": (SIZE | {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.2}, TREE),
    "MistralForCausalLM": (DENSE | {"sliding_window": 8}, TREE),
    "Gemma2ForCausalLM": (HEADS | WINDOW | {"attn_logit_softcapping": 1.0}, TREE),
    "Gemma3ForCausalLM": (HEADS | WINDOW, TREE),
    # Its layers do not tell attention of their windows, and hide what lies outside by masks alone.
    "PhimoeForCausalLM": (EXPERTS | {"sliding_window": 8}, PLAIN),
    "Phi3ForCausalLM": (DENSE | ELASTIC, Packing(50, shares_prefixes=True)),
    # What follows is below one another: masks that know nothing of positions, chunks, ALiBi, states.
    "GptOssForCausalLM": (EXPERTS | WINDOW, PADDED),
    "Llama4ForCausalLM": (EXPERTS | {"attention_chunk_size": 16, "intermediate_size_mlp": 64}, PADDED),
    "BloomForCausalLM": ({"vocab_size": 400, "hidden_size": 32, "n_layer": 2, "n_head": 4}, PADDED),
    "FalconForCausalLM": (SIZE | {"alibi": True}, PADDED),
    "MambaForCausalLM": (
        {"vocab_size": 400, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 2},
        PADDED,
    ),
    "BambaForCausalLM": (DENSE | MAMBA | {"attn_layer_indices": [1]}, PADDED),
    "FalconH1ForCausalLM": (HEADS | MAMBA | {"mamba_d_ssm": 64}, PADDED),
    "RecurrentGemmaForCausalLM": (
        {
            "vocab_size": 400,
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "lru_width": 32,
        },
        PADDED,
    ),
    "Qwen3_5ForCausalLM": (DENSE | DELTA | {"head_dim": 16}, PADDED),
    "Lfm2ForCausalLM": (DENSE | {"layer_types": ["conv", "full_attention"]}, PADDED),
    "MiniMaxForCausalLM": (EXPERTS | {"layer_types": DELTA["layer_types"], "block_size": 8}, PADDED),
}


def build(name, settings, dtype=torch.float32):
    torch.manual_seed(0)
    architecture = getattr(transformers, name)
    return architecture(architecture.config_class(**settings)).eval().to(dtype)


def draw_sequences():
    """Longer than windows and chunks; every other one begins as the others do."""
    draw = random.Random(0)
    opening = draw.choices(range(400), k=12)
    return [
        Encoded((opening if index % 2 else [0]) + draw.choices(range(400), k=length), 1 + index % 3)
        for index, length in enumerate([3, 30, 12, 25, 7, 60, 18, 40, 5, 33])
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_packed_scores_of_an_architecture_equal_one_by_one(name, dtype):
    settings, expected = ARCHITECTURES[name]
    model, items = build(name, settings, dtype), draw_sequences()
    near = 1e-5 if dtype == torch.float32 else 1e-2  # what Llama's bfloat16 differs by is 3e-3
    if name == "PhimoeForCausalLM":
        near *= 10  # rounded otherwise, a token goes to other experts
    for settles in (False, True):
        if settles:
            settle_attention(model)
        training = choose_packing(model, BUDGET, share_prefixes=False)
        scoring = choose_packing(model, BUDGET, share_prefixes=True)
        for packing in (training, scoring):
            assert_as_alone(model, items, score_sequences(model, items, packing), abs=near)
    assert scoring == expected
    alone = expected.pads or name == "OPTForCausalLM"
    assert training == (ALONE if alone else replace(expected, shares_prefixes=False))
    assert len(pack_padded(items, BUDGET)) < len(items)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_first_token_of_a_text_alone_is_predicted_in_float32(name):
    model = build(name, ARCHITECTURES[name][0], torch.bfloat16)
    before = {key: value.clone() for key, value in model.named_parameters()}
    first = torch.tensor(predict_first(model, 0))
    assert {key for key, value in model.named_parameters() if not torch.equal(value, before[key])} == set()
    assert {value.dtype for value in model.parameters()} == {value.dtype for value in before.values()}
    with torch.no_grad():
        exact = model.float()(torch.tensor([[0]])).logits[0, -1].double().log_softmax(-1)
    assert torch.allclose(first.double(), exact, atol=1e-3)


def test_scores_of_texts_alone_have_their_first_token_from_elsewhere():
    model = build("LlamaForCausalLM", ARCHITECTURES["LlamaForCausalLM"][0])
    first = [-float(token) for token in range(400)]
    packing = choose_packing(model, BUDGET, share_prefixes=True)
    items = [Encoded([0, 7], 1), Encoded([0, 8, 9], 1, truncated=True), Encoded([0, 8, 9], 2)]
    one, two, behind = score_with_first(model, items, packing, first)
    assert (one.sum_logprob, one.num_tokens, one.status) == (-7.0, 1, "ok")
    assert two.sum_logprob == pytest.approx(-8.0 + behind.sum_logprob)
    assert (two.num_tokens, behind.num_tokens, two.truncated) == (2, 1, True)
    (broken,) = score_with_first(model, items[:1], packing, [math.nan] * 400)
    assert broken.status == "non-finite"
    assert predict_first(model, 0) is None


@pytest.fixture(scope="module")
def multimodal(tmp_path_factory):
    """Gemma 3 with a vision tower, opened from its folder as a student is."""
    torch.manual_seed(0)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    config = transformers.Gemma3Config(
        text_config=HEADS | WINDOW,
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=399,
        boi_token_index=397,
        eoi_token_index=398,
    )
    folder = tmp_path_factory.mktemp("gemma3")
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def test_settings_of_a_multimodal_model_are_those_of_its_text_decoder(multimodal):
    assert context_length(multimodal) == 512
    items = draw_sequences()
    for expected in (PLAIN, TREE):  # a mask of ours would lift the window; branch by branch it stays
        packing = choose_packing(multimodal, BUDGET, share_prefixes=True)
        assert packing == expected
        assert_as_alone(multimodal, items, score_sequences(multimodal, items, packing))
        settle_attention(multimodal)


def test_multimodal_model_writes_what_it_finds_likeliest(multimodal):
    prompts = [sequence.ids for sequence in draw_sequences()[:4]]
    for prompt, written in zip(prompts, generate_greedy(multimodal, prompts, [], 6, 100), strict=True):
        whole = torch.tensor([[*prompt, *written]])
        with torch.no_grad():
            likeliest = multimodal(whole).logits[0].argmax(-1).tolist()
        assert written == likeliest[len(prompt) - 1 : -1]


def test_multimodal_model_trains_on_a_row_as_on_its_sequences(multimodal):
    items = draw_sequences()[:3]
    torch.manual_seed(0)
    model = get_peft_model(multimodal, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"))
    try:
        model.train()
        trained = {name: weight for name, weight in model.named_parameters() if "lora_B" in name}
        target_logprobs(model, build_row(items)).sum().backward()
        packed = {name: weight.grad for name, weight in trained.items()}
        model.zero_grad()
        for item in items:
            logits = model(torch.tensor([item.ids])).logits[0, item.first_target - 1 : -1]
            (-cross_entropy(logits, torch.tensor(item.ids[item.first_target :]), reduction="sum")).backward()
        for name, weight in trained.items():
            if "vision" in name:
                assert packed[name] is None
            else:
                torch.testing.assert_close(packed[name], weight.grad, rtol=1e-3, atol=1e-3)
    finally:
        model.unload()


def test_steady_length_is_that_of_elastic_rotary_embeddings():
    assert steady_length(build("LlamaForCausalLM", DENSE)) is None
    assert steady_length(build("Phi3ForCausalLM", DENSE | ELASTIC)) == 50
    dynamic = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}
    assert steady_length(build("LlamaForCausalLM", DENSE | dynamic)) == 512
