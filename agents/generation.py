"""Lets a causal language model write: many prompts at once, greedily or by sampling.

What prompts begin with in common is computed once, and so are prompts that occur more than once. The
model's own generation settings count for the ids that end an answer and for nothing else. Nothing here
knows texts, pairs or teachers.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer

from reflectune.agents.architecture import cache_layers, context_length, steady_length, text_config
from reflectune.agents.memory import alike_when_exhausted, free_memory

__all__ = [
    "Opening", "Sampling", "cache_bytes", "continue_prompts", "find_room", "generate_greedy",
    "shares_openings", "stop_ids",
]  # fmt: skip

# A key-value cache takes about an eighth of what a training pass keeps per token, or less.
_CACHE_FACTOR = 8
# Share of a GPU's free memory for the key-value cache. The rest is for reading the prompts, for logits, and
# for the copy that is made of a layer's cache whenever it grows.
_CACHE_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. A prompt's draws follow from its own seed, whatever else is in the batch."""

    temperature: float
    top_p: float
    seeds: Sequence[int]  # one a prompt


class Opening:
    """The tokens that the prompts of one batch after the other begin with, and what one model made of them.

    Takes the memory of one prompt in the model's key-value cache.
    """

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._states: list[tuple[torch.Tensor, torch.Tensor]] = []  # a layer's keys, values: (1, G, T, D)

    def compute(self, model: Any, ids: list[int], rows: int) -> DynamicCache:
        """A cache of `rows` times `ids`; what they begin with as the last ones did is not computed again."""
        kept = _count_common(self._ids, ids)
        states = self._states if kept else []  # states of no token would still have a number of rows
        cache = DynamicCache([(keys[:, :, :kept], values[:, :, :kept]) for keys, values in states])
        if kept < len(ids):
            _prefill(model, *_pad([ids], 0), cache)
        self._ids, self._states = ids, [(keys, values) for keys, values, _ in cache]
        return DynamicCache(
            [tuple(part.expand(rows, -1, -1, -1) for part in state) for state in self._states]
        )


def stop_ids(model: Any, tokenizer: Any, *more: int | None) -> list[int]:
    """Token ids that end an answer: the tokenizer's EOS, those of the generation config, and more."""
    given = getattr(model.generation_config, "eos_token_id", None)
    ids = {tokenizer.eos_token_id, *(given if isinstance(given, list) else [given]), *more}
    return sorted(token for token in ids if token is not None)


def generate_greedy(
    model: Any, prompts: Sequence[list[int]], stops: list[int], max_tokens: int, budget: int
) -> list[list[int]]:
    """Continue prompts of any number with the likeliest tokens, without the stop ids that end them.

    Each prompt leaves room for a token at least; fewer than `max_tokens` are written where the context ends.
    On CUDA as many prompts go at once as free memory holds. Elsewhere `budget` is the most prompt tokens in
    one forward pass, padding included. What is written may differ in its rounding with the batch.

    Raises:
        torch.OutOfMemoryError: one prompt by itself takes too much.
    """
    written: dict[int, list[int]] = {}
    context, opening = context_length(model), Opening()
    for batch in _batches(prompts, context, max_tokens, _find_limit(model, max_tokens, budget)):
        room = find_room(prompts[batch[0]], context, max_tokens)
        answers = continue_prompts(model, [prompts[index] for index in batch], stops, room, opening=opening)
        for index, ids in zip(batch, answers, strict=True):
            written[index] = [token for token in ids if token not in stops]
    return [written[index] for index in range(len(prompts))]


def continue_prompts(
    model: Any,
    prompts: Sequence[list[int]],
    stops: list[int],
    max_tokens: int,
    sampling: Sampling | None = None,
    opening: Opening | None = None,
) -> list[list[int]]:
    """Continue prompts in one batch, each up to its first stop id, which is the last of its new token ids.

    A batch for which memory runs out is halved, down to one prompt. What is written may differ in its
    rounding with the batch.

    Args:
        model: a causal language model in eval mode.
        prompts: token ids, each with room for `max_tokens` more in the model's context.
        stops: ids that end an answer.
        max_tokens: most tokens to write per prompt.
        sampling: how to draw tokens; None takes the likeliest.
        opening: the one of the batch before; keeps this batch's.

    Raises:
        torch.OutOfMemoryError: one prompt by itself takes too much.
    """
    try:
        return _continue(model, prompts, stops, max_tokens, sampling, opening)
    except torch.OutOfMemoryError:
        if len(prompts) == 1:
            raise
    free_memory()  # here, where no error holds on to what was under way
    middle = len(prompts) // 2
    written = []
    for part in (slice(middle), slice(middle, None)):
        drawn = sampling and replace(sampling, seeds=sampling.seeds[part])
        written += continue_prompts(model, prompts[part], stops, max_tokens, drawn, opening)
    return written


@alike_when_exhausted()
def _continue(
    model: Any,
    prompts: Sequence[list[int]],
    stops: list[int],
    max_tokens: int,
    sampling: Sampling | None,
    opening: Opening | None,
) -> list[list[int]]:
    settings = GenerationConfig(
        max_new_tokens=max_tokens, eos_token_id=stops or None, pad_token_id=(stops or [0])[0], do_sample=False
    )
    own, model.generation_config = model.generation_config, GenerationConfig()  # it may ask for penalties
    how: dict[str, Any] = {} if sampling is None else {"logits_processor": [_Draw(sampling)]}
    try:
        with torch.inference_mode():
            shared = 0
            if shares_openings(model):
                shared, how["past_key_values"] = _share(model, prompts, opening or Opening())
            ids, mask = _pad(prompts, shared)
            full = model.generate(
                ids.to(model.device), attention_mask=mask.to(model.device), generation_config=settings, **how
            )
    finally:
        model.generation_config = own  # the next student reads its stop ids there
    written: list[list[int]] = full[:, ids.shape[1] :].tolist()  # (B, <= max_tokens)
    ends = [next((n for n, id in enumerate(row, 1) if id in stops), len(row)) for row in written]
    return [row[:end] for row, end in zip(written, ends, strict=True)]


def find_room(prompt: list[int], context: int | None, max_tokens: int) -> int:
    """Most tokens that can be written after a prompt, in a context of so many tokens or without an end."""
    return max_tokens if context is None else min(max_tokens, context - len(prompt))


def cache_bytes(config: Any, itemsize: int) -> int:
    """Bytes that a token takes in the key-value cache, by a text decoder's config; windows count in full.

    Formula: layers * 2 * key-value heads * width of a head * bytes of a number.
    """
    heads = getattr(config, "num_attention_heads", None) or 1  # recurrent models have none
    kept = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(config.num_hidden_layers * 2 * kept * width * itemsize)


def _find_limit(model: Any, max_tokens: int, budget: int) -> Callable[[int], int]:
    """How many prompts may go at once, by the length of the longest."""
    device = model.device
    if device.type != "cuda":
        return lambda length: min(budget // length, _CACHE_FACTOR * budget // (length + max_tokens))
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, unused
    free = torch.cuda.mem_get_info(device)[0] + held
    per_token = cache_bytes(text_config(model), model.dtype.itemsize)
    return lambda length: int(_CACHE_SHARE * free) // (per_token * (length + max_tokens))


def shares_openings(model: Any) -> bool:
    """Whether the states of a text's first tokens can serve any text that begins with them.

    Not those of a recurrent layer, which has one state for all tokens; of a sliding window, which forgets
    the first; of rotary embeddings that depend on how long the text becomes; nor those of a model that
    takes a token's place in a batch for its position.
    """
    if not {"past_key_values", "position_ids"} <= inspect.signature(model.forward).parameters.keys():
        return False
    return steady_length(model) is None and cache_layers(model) == {DynamicLayer}


class _Draw(LogitsProcessor):  # type: ignore[misc]
    """Adds noise to log-probabilities so that the largest sum is a draw: the Gumbel-max trick.

    argmax_i (log p_i - log(-log(1 - u_i))) is distributed as p, for u_i uniform in (0, 1).
    """

    def __init__(self, sampling: Sampling) -> None:
        self._warpers: list[Any] = [TemperatureLogitsWarper(sampling.temperature)]
        if sampling.top_p < 1:
            self._warpers.append(TopPLogitsWarper(sampling.top_p))
        # On the CPU, so that every device draws the same.
        self._generators = [torch.Generator().manual_seed(seed) for seed in sampling.seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for warp in self._warpers:
            scores = warp(input_ids, scores)  # (B, V)
        size = scores.shape[1]
        # Drawn in float64: multiples of 2^-24 would be too coarse for tokens that are hardly ever drawn.
        drawn = torch.stack([torch.rand(size, generator=g, dtype=torch.float64) for g in self._generators])
        uniform = drawn.to(torch.float32).to(scores.device).clamp(torch.finfo(torch.float32).tiny, 1 - 2**-24)
        return scores - (-torch.log1p(-uniform)).log()


def _share(model: Any, prompts: Sequence[list[int]], opening: Opening) -> tuple[int, DynamicCache]:
    """Compute once what prompts have in common, but for the last token of each.

    Gives how many tokens all begin with; and a cache with a row a prompt that holds these and, where prompts
    occur more than once, all of every prompt but its last token, as `_pad` lays them out.
    """
    distinct = [list(prompt) for prompt in dict.fromkeys(map(tuple, prompts))]
    # All begin with what the first and the last in lexicographic order both begin with.
    shared = min(_count_common(min(distinct), max(distinct)), min(map(len, distinct)) - 1)
    cache = opening.compute(model, distinct[0][:shared], len(distinct))
    if len(distinct) < len(prompts):
        ids, mask = _pad(distinct, shared)
        if ids.shape[1] - 1 > shared:
            _prefill(model, ids[:, :-1], mask[:, :-1], cache)
        row = {tuple(prompt): index for index, prompt in enumerate(distinct)}
        rows = torch.tensor([row[tuple(prompt)] for prompt in prompts], device=model.device)
        cache.batch_select_indices(rows)
    return shared, cache


def _prefill(model: Any, ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> None:
    """Extend a cache to all of `ids`, of which it holds the first columns."""
    model.generate(
        ids.to(model.device),
        attention_mask=mask.to(model.device),
        past_key_values=cache,
        generation_config=GenerationConfig(max_new_tokens=1, do_sample=False, pad_token_id=0),
    )


def _pad(prompts: Sequence[list[int]], shared: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (B, T), padded behind what they share so that all end where writing begins; 0 masks padding."""
    longest = max(map(len, prompts))
    ids, mask = [], []
    for prompt in prompts:
        padding = [0] * (longest - len(prompt))
        ids.append(prompt[:shared] + padding + prompt[shared:])
        mask.append([1] * shared + padding + [1] * (len(prompt) - shared))
    return torch.tensor(ids), torch.tensor(mask)


def _count_common(first: list[int], second: list[int]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(first), len(second)))


def _batches(
    prompts: Sequence[list[int]], context: int | None, max_tokens: int, limit: Callable[[int], int]
) -> list[list[int]]:
    """Indexes of the prompts, longest first, in batches as large as `limit` says for their longest.

    Prompts of a batch have equal room to write in, so that no answer is cut for another's prompt.
    """
    batches: list[list[int]] = []
    places = 0
    for index in sorted(range(len(prompts)), key=lambda index: -len(prompts[index])):
        length, room = len(prompts[index]), find_room(prompts[index], context, max_tokens)
        if places == 0 or room != find_room(prompts[batches[-1][0]], context, max_tokens):
            batches.append([])
            places = max(1, limit(length))
        batches[-1].append(index)
        places -= 1
    return batches
