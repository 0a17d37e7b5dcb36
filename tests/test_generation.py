import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
)

from reflectune.agents.generation import (
    Opening,
    Sampling,
    _batches,
    _Draw,
    _find_limit,
    cache_bytes,
    continue_prompts,
    shares_openings,
)
from tests.tiny_models import build_model, save_bigram_llama

VOCABULARY = 400
MODELS = {name: build_model(name, vocabulary=VOCABULARY, scale=0.3) for name in ("llama", "qwen2", "gpt2")}
LETTERS = {"a": 1 / 2, "b": 1 / 4, "c": 1 / 8, "d": 1 / 8}
A = 2  # id of the letter a; b, c and d follow


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model that writes letters by one and the same distribution, whatever stands before."""
    table = dict.fromkeys(("<s>", "</s>", *LETTERS), LETTERS)
    folder = save_bigram_llama(tmp_path_factory.mktemp("models") / "letters", "abcd", table)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def tokens(number: int, seed: int = 0) -> list[int]:
    """Random ids, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (number,), generator=generator).tolist()


@contextmanager
def watch(module: Any) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """What a module is given and gives back, call by call."""
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = module.register_forward_hook(
        lambda module, given, output: calls.append((given[0].clone(), output.clone()))
    )
    try:
        yield calls
    finally:
        hook.remove()


# Drawing


def draw(model: Any, seeds: Sequence[int], max_tokens: int = 1, **how: float) -> list[list[int]]:
    sampling = Sampling(**{"temperature": 1.0, "top_p": 1.0} | how, seeds=seeds)
    return continue_prompts(model, [[A]] * len(seeds), [], max_tokens, sampling)


def chi_square(drawn: list[int], expected: dict[str, float]) -> float:
    """Sum over letters of (seen - expected)^2 / expected; nothing else may be drawn."""
    seen = Counter("abcd"[token - A] for token in drawn)
    assert seen.keys() <= expected.keys()
    return sum((seen[x] - p * len(drawn)) ** 2 / (p * len(drawn)) for x, p in expected.items())


# In the next two, a right sampler exceeds the bound with a probability of 0.001.


@pytest.mark.parametrize(
    ("how", "expected", "bound"),
    [
        ({}, LETTERS, 16.27),  # 3 degrees of freedom
        # p^(1/0.5): 1/4, 1/16, 1/64 and 1/64, that is 16 : 4 : 1 : 1.
        ({"temperature": 0.5}, {"a": 16 / 22, "b": 4 / 22, "c": 1 / 22, "d": 1 / 22}, 16.27),
        # a and b are the fewest letters that hold 0.7.
        ({"top_p": 0.7}, {"a": 2 / 3, "b": 1 / 3}, 10.83),  # 1 degree of freedom
    ],
)
def test_draws_of_many_seeds_follow_the_distribution(
    letters: Any, how: dict[str, float], expected: dict[str, float], bound: float
) -> None:
    drawn = [ids[0] for ids in draw(letters, range(4000), **how)]
    assert chi_square(drawn, expected) < bound


@pytest.mark.slow
def test_draws_of_one_seed_follow_the_distribution(letters: Any) -> None:
    drawn = [token for ids in draw(letters, range(8), max_tokens=500) for token in ids]
    assert len(drawn) == 4000
    assert chi_square(drawn, LETTERS) < 16.27
    # Each step draws anew: a pair of letters is as likely as its letters say.
    alike = sum(one == other for one, other in zip(drawn[::2], drawn[1::2], strict=True))
    # 1/4 + 1/16 + 1/64 + 1/64 = 11/32 of 2000 pairs: 687.5, with a standard deviation of 21.2.
    assert abs(alike - 687.5) < 3.3 * 21.2


def test_temperature_comes_before_top_p(letters: Any) -> None:
    drawn = [ids[0] for ids in draw(letters, range(200), temperature=0.5, top_p=0.7)]
    assert set(drawn) == {A}  # 16/22 of all by itself


@pytest.mark.slow
@pytest.mark.parametrize(("halvings", "fewest", "most"), [(20, 30, 70), (40, 100, 100)])
def test_rare_tokens_are_drawn_as_rarely_as_they_should(halvings: int, fewest: int, most: int) -> None:
    # One token, and 2^20 others of which each is 2^halvings times less likely. They take half of all draws
    # (50, with a standard deviation of 5), or one in a million.
    scores = torch.zeros(1, 2**20 + 1)
    scores[0, 0] = halvings * math.log(2)
    drawn = [
        int(_Draw(Sampling(1.0, 1.0, [seed]))(torch.zeros(1, 1), scores).argmax()) for seed in range(100)
    ]
    assert fewest <= drawn.count(0) <= most


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_draws_depend_on_prompt_and_seed_alone(model: Any) -> None:
    prompts = [tokens(20, 1), tokens(3, 2), tokens(20, 1), tokens(20, 1) + tokens(4, 3)]
    seeds = [5, 5, 6, 7]

    def write(rows: list[int]) -> list[list[int]]:
        sampling = Sampling(1.0, 0.9, [seeds[row] for row in rows])
        return continue_prompts(model, [prompts[row] for row in rows], [], 24, sampling)

    together = write([0, 1, 2, 3])
    assert [write([row])[0] for row in range(4)] == together
    assert write([3, 2, 0]) == [together[3], together[2], together[0]]
    assert together[0] != together[2]  # another seed
    assert write([0, 0])[0] == write([0, 0])[1] == together[0]


def test_greedy_takes_the_likeliest_and_leaves_the_global_random_state_alone(letters: Any) -> None:
    state = torch.random.get_rng_state()
    draw(letters, [1, 2], max_tokens=4)
    assert continue_prompts(letters, [[A + 1], [A + 3, A + 2]], [], 3) == [[A] * 3] * 2
    assert torch.equal(state, torch.random.get_rng_state())


# Openings

START = tokens(30, 1)
small_prompts = st.lists(st.integers(3, 5), min_size=1, max_size=7)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(sorted(MODELS)),
    batches=st.lists(st.lists(small_prompts, min_size=1, max_size=5), min_size=1, max_size=4),
)
def test_shared_openings_change_no_logit(name: str, batches: list[list[list[int]]]) -> None:
    model, opening = MODELS[name], Opening()
    assert shares_openings(model)
    for prompts in batches:
        with watch(model.get_output_embeddings()) as calls:
            written = continue_prompts(model, prompts, [], 3, opening=opening)
        steps = torch.stack([output[:, -1] for _, output in calls[-3:]], dim=1)  # (B, 3, V)
        for prompt, ids, logits in zip(prompts, written, steps, strict=True):
            with torch.inference_mode():
                whole = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]  # (3, V)
            torch.testing.assert_close(logits, whole, atol=1e-4, rtol=1e-4)
            assert ids == logits.argmax(-1).tolist()


def test_what_prompts_share_is_computed_once() -> None:
    model, opening = MODELS["llama"], Opening()
    tails = [[10, 11, 12], [20, 21, 22, 23, 24]]
    batches = [
        [START + tail for tail in tails for _ in range(2)],
        [[*START, 30, 31], [*START, 40, 41, 42]],
        [[*START, 50], [*START, 50, 51]],
        [[*START[:10], 60]],
    ]
    computed = []
    for prompts in batches:
        with watch(model.get_input_embeddings()) as calls:
            continue_prompts(model, prompts, [], 1, opening=opening)
        computed.append([tuple(ids.shape) for ids, _ in calls])
    assert computed == [
        [(1, 30), (2, 4), (4, 1)],  # the opening; both prompts but for their last tokens; the last tokens
        [(2, 3)],  # the opening is kept
        [(2, 2)],  # 50 cannot be part of it: a last token must remain
        [(1, 1)],  # a part of the opening is kept just as well
    ]


def test_stop_ids_end_a_row_in_a_shared_batch(letters: Any) -> None:
    sampling = Sampling(1.0, 1.0, [0, 1, 2, 3])
    free = continue_prompts(letters, [[A, A]] * 4, [], 20, sampling)
    held = continue_prompts(letters, [[A, A]] * 4, [A + 3], 20, sampling)
    for one, other in zip(free, held, strict=True):
        assert other == one[: one.index(A + 3) + 1 if A + 3 in one else 20]
    assert any(A + 3 in ids for ids in held)


SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": VOCABULARY, "initializer_range": 0.3}
HEADS = {"intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
ROTARY = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
ELASTIC = {"max_position_embeddings": 16, "rope_parameters": ROTARY}
UNSHAREABLE: dict[str, Callable[[], Any]] = {
    "sliding window": lambda: MistralForCausalLM(MistralConfig(**SHAPE, **HEADS, sliding_window=4)),
    "recurrent": lambda: MambaForCausalLM(MambaConfig(**SHAPE, state_size=4)),
    "elastic positions": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, **HEADS, **ELASTIC)),
    "places for positions": lambda: MptForCausalLM(
        MptConfig(d_model=32, n_heads=4, n_layers=2, vocab_size=VOCABULARY)
    ),
}


def unshareable(kind: str) -> Any:
    torch.manual_seed(0)
    return UNSHAREABLE[kind]().eval()


@pytest.mark.parametrize("kind", UNSHAREABLE)
def test_other_models_compute_every_prompt_whole(kind: str) -> None:
    model = unshareable(kind)
    assert not shares_openings(model)
    prompts = [START + tokens(2, 2), START + tokens(2, 3), START + tokens(2, 2)]
    with watch(model.get_input_embeddings()) as calls:
        written = continue_prompts(model, prompts, [], 6, opening=Opening())
    assert tuple(calls[0][0].shape) == (3, 32)
    # A model of its own for the comparison: elastic positions depend on what was read before, too.
    how = GenerationConfig(max_new_tokens=6, do_sample=False, pad_token_id=0)
    alone = unshareable(kind).generate(torch.tensor(prompts), generation_config=how)
    assert written == alone[:, 32:].tolist()


# Memory


@contextmanager
def holds(model: Any, limit: int) -> Iterator[list[int]]:
    """Let a model run out of memory in a pass over more prompts than `limit`; how many each pass had."""
    passes: list[int] = []

    def count(module: Any, given: tuple[torch.Tensor]) -> None:
        passes.append(len(given[0]))
        if len(given[0]) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = model.get_input_embeddings().register_forward_pre_hook(count)
    try:
        yield passes
    finally:
        hook.remove()


@pytest.mark.parametrize("sampling", [None, Sampling(1.0, 0.9, range(7))], ids=["greedy", "drawn"])
def test_a_batch_that_takes_too_much_memory_is_halved_until_it_fits(sampling: Sampling | None) -> None:
    model = MODELS["llama"]
    prompts = [START + tokens(number + 1, number) for number in range(7)]
    whole = continue_prompts(model, prompts, [], 4, sampling, Opening())
    with holds(model, 2) as passes:
        assert continue_prompts(model, prompts, [], 4, sampling, Opening()) == whole
    # 7, 3 and 4 fail in reading what stands behind the opening; 4 passes for 1, 2, 2 and 2 prompts each.
    assert [number for number in passes if number > 2] == [7, 3, 4]
    assert Counter(passes) == {7: 1, 3: 1, 4: 1, 1: 1 + 4, 2: 3 * 4}


def test_a_prompt_that_takes_too_much_memory_by_itself_is_an_error() -> None:
    model = MODELS["llama"]
    with holds(model, 0) as passes, pytest.raises(torch.OutOfMemoryError):
        continue_prompts(model, [tokens(3, 1), tokens(3, 2)], [], 4)
    assert passes[-1] == 1


def test_cache_bytes_follow_from_layers_heads_and_width() -> None:
    # 2 layers, keys and values, 2 of 4 heads, 32 / 4 wide, 2 bytes
    assert cache_bytes(LlamaConfig(**SHAPE, **HEADS), 2) == 2 * 2 * 2 * 8 * 2
    assert cache_bytes(LlamaConfig(**SHAPE, **HEADS, head_dim=16), 4) == 2 * 2 * 2 * 16 * 4
    assert cache_bytes(GPT2Config(n_layer=3, n_head=4, n_embd=32), 2) == 3 * 2 * 4 * 8 * 2
    assert cache_bytes(MambaConfig(**SHAPE), 2) == 2 * 2 * 32 * 2  # at most


def test_prompts_at_once_follow_from_free_memory_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # A token takes 2 * 2 * 2 * 8 * 4 = 256 bytes; half of 600 kB free and 400 kB held but unused has room for
    # 500,000 / 256 = 1953 tokens: 19 prompts of 60 and answers of 40, 1 of 900 and 100, none of 2000.
    model = MODELS["llama"]
    device = torch.device("cuda")
    gpu = SimpleNamespace(device=device, dtype=torch.float32, config=LlamaConfig(**SHAPE, **HEADS))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda of: (600_000, 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda of: 500_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda of: 100_000)
    assert [_find_limit(gpu, 40, 8)(length) for length in (60, 1913, 1914)] == [19, 1, 0]
    # Elsewhere 8 * 100 tokens with the answers, and 100 of prompts.
    assert [_find_limit(model, 40, 100)(length) for length in (5, 60, 101)] == [17, 1, 0]


def test_batches_take_the_longest_first_and_one_prompt_at_least() -> None:
    prompts = [tokens(length) for length in (3, 9, 5, 1, 4)]
    assert _batches(prompts, None, 2, lambda length: 10 // length) == [[1], [2, 4], [0, 3]]
    assert _batches(prompts, None, 2, lambda length: 0) == [[1], [2], [4], [0], [3]]
    # A context of 10 leaves 1 token behind the longest, and 2 behind the others.
    assert _batches(prompts, 10, 2, lambda length: 9) == [[1], [2, 4, 0, 3]]
