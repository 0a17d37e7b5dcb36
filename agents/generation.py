"""Lets a causal language model write: many prompts at once, greedily or by sampling.

The model's own generation settings count for the ids that end an answer and for nothing else. Nothing
here knows texts, pairs or teachers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from agents.models import context_length

__all__ = ["Sampling", "continue_prompts", "generate_greedy", "stop_ids"]

# A key-value cache takes about an eighth of what a training pass keeps per token, or less.
_CACHE_FACTOR = 8


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn; the same seed and batch draw the same."""

    temperature: float
    top_p: float
    seed: int


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """Token ids that end an answer: the tokenizer's EOS and those of the generation config."""
    given = getattr(model.generation_config, "eos_token_id", None)
    ids = {tokenizer.eos_token_id, *(given if isinstance(given, list) else [given])}
    return sorted(token for token in ids if token is not None)


def generate_greedy(
    model: Any, prompts: Sequence[list[int]], stops: list[int], max_tokens: int, budget: int
) -> list[list[int]]:
    """Continue each prompt with the likeliest token until a stop id, which is left out, or the limit.

    Args:
        model: a causal language model in eval mode.
        prompts: token ids, each with room for at least one more token in the model's context.
        stops: ids that end an answer.
        max_tokens: most tokens to write per prompt; fewer where the context ends.
        budget: most prompt tokens in one forward pass, padding included.

    Returns:
        New token ids, aligned with `prompts`.
    """
    written: dict[int, list[int]] = {}
    context = context_length(model)
    for batch in _batches(prompts, context, max_tokens, budget):
        room = _room(prompts[batch[0]], context, max_tokens)
        answers = continue_prompts(model, [prompts[index] for index in batch], stops, room)
        for index, ids in zip(batch, answers, strict=True):
            end = next((i for i, token in enumerate(ids) if token in stops), len(ids))
            written[index] = ids[:end]
    return [written[index] for index in range(len(prompts))]


def continue_prompts(
    model: Any,
    prompts: Sequence[list[int]],
    stops: list[int],
    max_tokens: int,
    sampling: Sampling | None = None,
) -> list[list[int]]:
    """Continue prompts in one batch, by at most `max_tokens` tokens; None samples nothing.

    Returns:
        New token ids, aligned with `prompts`; what follows a stop id is padding.

    Raises:
        torch.OutOfMemoryError: the batch is too large.
    """
    longest = max(map(len, prompts))
    # Padding stands on the left and is masked away, so that every prompt ends where writing begins.
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])  # (B, T)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])  # (B, T)
    how: dict[str, Any] = {"do_sample": False}
    if sampling is not None:
        how = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    settings = GenerationConfig(
        max_new_tokens=max_tokens, eos_token_id=stops or None, pad_token_id=(stops or [0])[0], **how
    )
    model.generation_config = GenerationConfig()  # the model's own may ask for sampling or penalties
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.inference_mode(), torch.random.fork_rng(devices=devices):
        if sampling is not None:
            torch.manual_seed(sampling.seed)  # generate() takes no generator of its own
        full = model.generate(
            ids.to(model.device), attention_mask=mask.to(model.device), generation_config=settings
        )
    written: list[list[int]] = full[:, longest:].tolist()  # (B, <= max_tokens)
    return written


def _room(prompt: list[int], context: int | None, max_tokens: int) -> int:
    """Most tokens that can be written after a prompt."""
    return max_tokens if context is None else min(max_tokens, context - len(prompt))


def _batches(
    prompts: Sequence[list[int]], context: int | None, max_tokens: int, budget: int
) -> list[list[int]]:
    """Indexes of the prompts, longest first, in batches that fit the pass and the cache.

    Prompts of a batch have equal room to write in, so that no answer is cut for another's prompt.
    """
    batches: list[list[int]] = []
    places = 0
    for index in sorted(range(len(prompts)), key=lambda index: -len(prompts[index])):
        length, room = len(prompts[index]), _room(prompts[index], context, max_tokens)
        if places == 0 or room != _room(prompts[batches[-1][0]], context, max_tokens):
            batches.append([])
            places = max(1, min(budget // length, _CACHE_FACTOR * budget // (length + max_tokens)))
        batches[-1].append(index)
        places -= 1
    return batches
