"""The LoRA refinetune that ends a round: pairs in, a PEFT adapter folder out.

Until the adapter is whole everything lives in a hidden folder beside it. Nothing here chooses the pairs.
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
from reflectune.agents.student.adapters import claim, finished_metrics, hash_adapter, publish
from reflectune.agents.student.rows import pack
from reflectune.agents.student.scoring import choose_packing
from reflectune.agents.student.student import open_encoder, open_parts
from reflectune.agents.student.targets import Encoded, TargetEncoder
from reflectune.agents.student.templates import Template
from reflectune.agents.student.trainer import NotFiniteError, OnStep, StoppedError, save_adapter, train_rows
from reflectune.state.config import RefinetuneConfig, RunConfig
from reflectune.state.errors import AdapterError, StudentError
from reflectune.state.records import Pair, content_hash

__all__ = ["adapt", "check_refinetune", "encode_pairs", "refinetune_student"]

_NO_END = "the student's tokenizer has no EOS token to end a response with"
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
    Targets are the response and the token that ends it; a response cut by max_length has no end, and a pair
    with nothing left of it is left out. Sequences are packed as in scoring, in an order drawn anew for
    every epoch from (seed, round). The base computes in `student.dtype`, the adapter and the optimizer in
    float32. On a CPU a killed and resumed training gives the same bits.

    Args:
        out: folder that appears when the adapter is whole. What is there already stays if it is, byte for
            byte, what this training ended with; else it is replaced.
        previous: adapter to go on with; None starts fresh from the base model.
        on_step: told (steps done, all steps, loss of the step) after every optimizer step.
        is_stopping: asked before the first step and after each one; yes ends the training with a checkpoint
            and a StoppedError.

    Returns:
        train_loss (mean over steps, nats per token), steps, tokens (all epochs, prompts included),
        target_tokens (the same, targets only), pairs, left_out, seconds (of this call). Where this training
        has ended before, what it returned then.

    Raises:
        AdapterError: nothing to train on, a loss that is not finite, out of memory, a full disk, or whatever
            `check_refinetune` finds.
        StudentError: the base model cannot be opened.
    """
    partial = out.with_name(f".{out.name}.partial")
    fingerprint = _fingerprint(config, pairs, previous, round)
    metrics = finished_metrics(out, fingerprint)
    if metrics is None:
        if config.refinetune.load_in_4bit:
            models.check_four_bit(config.student)
        try:
            claim(out, partial, fingerprint)
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
            advice = "make room for it on a disk that can be written"
            raise AdapterError(f"{out}: cannot be written: {error}; {advice}") from error
        finally:
            models.free_memory()
    shutil.rmtree(partial, ignore_errors=True)
    return metrics


def check_refinetune(config: RunConfig) -> None:
    """Open the student as a round will, adapter and all: what cannot work shows before anything is paid."""
    if config.refinetune.load_in_4bit:
        models.check_four_bit(config.student)
    base, tokenizer, template = open_parts(config.student)
    open_encoder(base, tokenizer, template, config.student)
    if template.end_id(tokenizer) is None:
        raise StudentError(_NO_END)
    adapt(base, config.refinetune)
    models.free_memory()


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
    student, refinetune = config.student, config.refinetune
    base, tokenizer, template = open_parts(student, load_in_4bit=refinetune.load_in_4bit)
    encoder = open_encoder(base, tokenizer, template, student)
    sequences = encode_pairs(encoder, template, template.end_id(tokenizer), pairs)
    seed = int(content_hash("refinetune", config.seed, round)[:7], 16)
    row_tokens = min(student.batch_tokens, refinetune.batch_tokens)
    budget = choose_packing(base, row_tokens, share_prefixes=False).row_tokens
    rows = _pack_epochs(sequences, budget, seed, refinetune)
    set_seed(seed)
    model = adapt(base, refinetune, previous)
    if is_stopping():
        raise StoppedError("stopped before its first step")
    losses = train_rows(
        model, rows, partial, config=refinetune, seed=seed, on_step=on_step, is_stopping=is_stopping
    )
    save_adapter(model, partial / "adapter")
    return {
        "train_loss": statistics.fmean(losses),
        "steps": len(losses),
        "tokens": sum(len(sequence.ids) for row in rows for sequence in row),
        "target_tokens": sum(sequence.num_targets for row in rows for sequence in row),
        "pairs": len(sequences),
        "left_out": len(pairs) - len(sequences),
        "seconds": time.monotonic() - started,
    }


def encode_pairs(
    encoder: TargetEncoder, template: Template, end: int | None, pairs: Sequence[Pair]
) -> list[Encoded]:
    """Prompt, response and end of every pair of which max_length leaves some response; it must of one."""
    if end is None:
        raise StudentError(_NO_END)
    hidden = map(encoder.hide, pairs)
    encoded = encoder.encode([(template.prompt(pair), pair.response) for pair in hidden])
    sequences = [
        replace(item, ids=[*item.ids, end][: encoder.max_length])
        for item in encoded
        if isinstance(item, Encoded)
    ]
    if not sequences:
        raise AdapterError(
            f"none of {len(pairs)} pairs can be trained on: no response fits behind its prompt "
            f"into {encoder.max_length} tokens; raise student.max_length"
        )
    return sequences


def _pack_epochs(
    sequences: Sequence[Encoded], budget: int, seed: int, config: RefinetuneConfig
) -> list[list[Encoded]]:
    """All rows in the order of training: of so many epochs, or to the one that reaches so many tokens."""
    epochs = itertools.count() if config.epochs is None else range(config.epochs)
    left = math.inf if config.tokens is None else config.tokens
    rows: list[list[Encoded]] = []
    for epoch in epochs:
        shuffled = random.Random(f"{seed}-{epoch}").sample(sequences, len(sequences))
        for row in pack(shuffled, budget):
            rows.append([shuffled[index] for index in row])
            left -= sum(len(sequence.ids) for sequence in rows[-1])
            if left <= 0:
                return rows
    return rows


def adapt(base: Any, config: RefinetuneConfig, previous: Path | None = None) -> Any:
    """The base model with a trainable LoRA adapter: the previous one or a fresh one, if it fits the model."""
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
