"""The LoRA refinetune that ends a round: pairs in, a PEFT adapter folder out.

It encodes and packs the pairs, has them trained, and puts the finished adapter into its place. Until
then everything lives in a hidden folder beside it. Nothing here chooses the pairs.
"""

import itertools
import math
import random
import shutil
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from transformers import set_seed

from reflectune.agents import models
from reflectune.agents.student.adapters import claim, finished_metrics, hash_adapter, publish, set_aside
from reflectune.agents.student.rows import pack
from reflectune.agents.student.scoring import choose_packing
from reflectune.agents.student.targets import Encoded, TargetEncoder
from reflectune.agents.student.templates import open_template
from reflectune.agents.student.trainer import NotFiniteError, OnStep, StoppedError, save_adapter, train_rows
from reflectune.state.config import RefinetuneConfig, RunConfig
from reflectune.state.errors import AdapterError, StudentError
from reflectune.state.records import Pair, content_hash

__all__ = ["check_refinetune", "refinetune_student"]

# What torch.save says where a file cannot be written to its end, as on a full disk.
_UNWRITTEN = ("inline_container", "iostream error")


def refinetune_student(
    config: RunConfig,
    pairs: Sequence[Pair],
    out: Path,
    *,
    previous: Path | None,
    round: int,
    on_step: OnStep,
    is_stopping: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Train the LoRA adapter of one round; called again after a kill, it goes on where it was.

    Loss: mean negative log-likelihood over the target tokens of a whole optimizer step, nats per token.
    Targets are the response and the EOS after it; a response cut by max_length has no EOS, and a pair
    with nothing left of it is left out. Sequences are packed as in scoring, in an order drawn anew for
    every epoch from (seed, round). With `refinetune.tokens` the last row is the one that reaches them, in
    whichever epoch that is. The base computes in `student.dtype`, the adapter and the optimizer in float32.
    On a CPU a killed and resumed training gives the same bits.

    Args:
        config: its student, refinetune and seed.
        pairs: the round's training set.
        out: folder that appears when the adapter is whole. Checkpoints live beside it until then. What is
            there already stays if it is, byte for byte, what this training ended with; else it is replaced.
        previous: adapter to go on with; None starts fresh from the base model.
        round: number of the round, part of the seed.
        on_step: told (steps done, all steps, loss of the step) after every optimizer step.
        is_stopping: asked before the first step and after each one; yes ends the training with a checkpoint.

    Returns:
        train_loss (mean over steps, nats per token), steps, tokens (all epochs, prompts included),
        target_tokens (the same, targets only), pairs, left_out, seconds (of this call). Where this training
        has ended before, what it returned then.

    Raises:
        AdapterError: nothing to train on, a loss that is not finite, target_modules the model does not
            have, out of memory, 4-bit weights where there is no CUDA or bitsandbytes, or a full disk.
        StudentError: the base model cannot be opened.
        StoppedError: `is_stopping` said yes.
    """
    partial = out.with_name(f".{out.name}.partial")
    fingerprint = _fingerprint(config, pairs, previous, round)
    metrics = finished_metrics(out, fingerprint)
    if metrics is None:
        _check_four_bit(config)
        try:
            claim(partial, fingerprint)
            set_aside(out, partial)
            metrics = _train(config, pairs, partial, previous, round, on_step, is_stopping)
            publish(partial / "adapter", metrics, fingerprint, out)
        except NotFiniteError as error:
            shutil.rmtree(partial)
            raise AdapterError(f"{out}: {error}; try a lower refinetune.lr") from error
        except torch.OutOfMemoryError as error:
            raise AdapterError(
                f"{out}: out of memory; set refinetune.gradient_checkpointing or lower student.batch_tokens"
            ) from error
        except (OSError, SafetensorError, RuntimeError) as error:
            if type(error) is RuntimeError and not any(words in str(error) for words in _UNWRITTEN):
                raise
            raise AdapterError(
                f"{out}: cannot be written: {error}; make room for it on a disk that can be written"
            ) from error
        finally:
            models.free_memory()
    shutil.rmtree(partial, ignore_errors=True)
    return metrics


def check_refinetune(config: RunConfig) -> None:
    """Open the student as a round will, adapter and all: what cannot work shows before anything is paid.

    Raises:
        AdapterError: target_modules the model does not have, or 4-bit weights without CUDA or bitsandbytes.
        StudentError: model, tokenizer, template or device cannot be used.
    """
    _check_four_bit(config)
    tokenizer = models.open_tokenizer(config.student)
    open_template(config.student.template, tokenizer)
    base = models.open_model(config.student)
    models.check_match(base, tokenizer)
    _adapt(base, config.refinetune, None)
    models.free_memory()


def _check_four_bit(config: RunConfig) -> None:
    if config.refinetune.load_in_4bit:
        models.check_four_bit(config.student)


def _train(
    config: RunConfig,
    pairs: Sequence[Pair],
    partial: Path,
    previous: Path | None,
    round: int,
    on_step: OnStep,
    is_stopping: Callable[[], bool],
) -> dict[str, float]:
    started = time.monotonic()
    student, refinetune = models.resolve_student(config.student), config.refinetune
    models.set_threads(student.threads)
    tokenizer = models.open_tokenizer(student)
    base = models.open_model(student, load_in_4bit=refinetune.load_in_4bit)
    models.check_match(base, tokenizer)
    sequences = _encode(config, tokenizer, base, pairs)
    seed = int(content_hash("refinetune", config.seed, round)[:7], 16)
    row_tokens = min(student.batch_tokens, refinetune.batch_tokens)
    budget = choose_packing(base, row_tokens, share_prefixes=False).row_tokens
    rows = _pack_epochs(sequences, budget, seed, refinetune)
    tokens = sum(map(_count_tokens, rows))
    set_seed(seed)
    model = _adapt(base, refinetune, previous)
    if is_stopping():
        raise StoppedError("stopped before its first step")
    losses = train_rows(
        model,
        rows,
        partial,
        rows_per_step=_rows_per_step(refinetune.batch_tokens, tokens, len(rows)),
        lr=refinetune.lr,
        warmup=refinetune.warmup,
        seed=seed,
        gradient_checkpointing=refinetune.gradient_checkpointing,
        on_step=on_step,
        is_stopping=is_stopping,
    )
    save_adapter(model, partial / "adapter")
    return {
        "train_loss": statistics.fmean(losses),
        "steps": len(losses),
        "tokens": tokens,
        "target_tokens": sum(len(sequence.ids) - sequence.first_target for row in rows for sequence in row),
        "pairs": len(sequences),
        "left_out": len(pairs) - len(sequences),
        "seconds": time.monotonic() - started,
    }


def _encode(config: RunConfig, tokenizer: Any, model: Any, pairs: Sequence[Pair]) -> list[Encoded]:
    """Prompt, response and EOS of every pair of which max_length leaves some response."""
    student = config.student
    template = open_template(student.template, tokenizer)
    max_length = min(student.max_length, models.context_length(model) or student.max_length)
    encoder = TargetEncoder(tokenizer, max_length)
    eos = tokenizer.eos_token_id
    if eos is None:
        raise StudentError(f"{student.model}: its tokenizer has no EOS token to end a response with")
    encodings = encoder.encode([(template.prompt(pair), pair.response) for pair in pairs])
    sequences = [
        replace(encoded, ids=[*encoded.ids, eos]) if len(encoded.ids) < max_length else encoded
        for encoded in encodings
        if isinstance(encoded, Encoded)
    ]
    if not sequences:
        raise AdapterError(
            f"none of {len(pairs)} pairs can be trained on: no response fits behind its prompt "
            f"into {max_length} tokens; raise student.max_length"
        )
    return sequences


def _pack_epochs(
    sequences: Sequence[Encoded], budget: int, seed: int, config: RefinetuneConfig
) -> list[list[Encoded]]:
    """All rows in the order of training: of so many epochs, or until so many tokens are reached."""
    epochs = itertools.count() if config.epochs is None else range(config.epochs)
    left = math.inf if config.tokens is None else config.tokens
    rows: list[list[Encoded]] = []
    for epoch in epochs:
        for row in _pack_epoch(sequences, budget, f"{seed}-{epoch}"):
            rows.append(row)
            left -= _count_tokens(row)
            if left <= 0:
                return rows
    return rows


def _count_tokens(row: Sequence[Encoded]) -> int:
    return sum(len(sequence.ids) for sequence in row)


def _pack_epoch(sequences: Sequence[Encoded], budget: int, seed: str) -> list[list[Encoded]]:
    shuffled = random.Random(seed).sample(sequences, len(sequences))
    rows = pack([len(sequence.ids) for sequence in shuffled], budget)
    return [[shuffled[index] for index in row] for row in rows]


def _rows_per_step(batch_tokens: int, tokens: int, rows: int) -> int:
    return max(1, round(batch_tokens * rows / tokens))


def _adapt(base: Any, config: RefinetuneConfig, previous: Path | None) -> Any:
    """The base model with a trainable LoRA adapter: the previous one, or a fresh one."""
    if previous is not None:
        model = models.attach_adapter(base, previous, trainable=True)
    else:
        fresh = LoraConfig(
            task_type="CAUSAL_LM",
            r=config.r,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=config.target_modules,
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # peft adjusts itself to GPT-2's layers and says so
                model = get_peft_model(base, fresh)
        except ValueError as error:
            raise AdapterError(f"refinetune.target_modules = {config.target_modules!r}: {error}") from error
    settings = model.peft_config["default"]
    if not isinstance(settings.target_modules, str):
        # A set: its order, and so the bytes of the configuration, would differ between processes.
        settings.target_modules = sorted(settings.target_modules)
    return model


def _fingerprint(config: RunConfig, pairs: Sequence[Pair], previous: Path | None, round: int) -> str:
    """What a training depends on: checkpoints of another one are of no use."""
    return content_hash(
        config.student.model_dump(mode="json"),
        config.refinetune.model_dump(mode="json"),
        config.seed,
        round,
        [pair.content_hash for pair in pairs],
        None if previous is None else hash_adapter(previous),
    )
