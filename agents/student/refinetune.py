"""The LoRA refinetune that ends a round: pairs in, a PEFT adapter folder out.

Until the adapter is whole everything lives in a hidden folder beside it. Where it is trained is one thing,
how it gets into its place another. Nothing here chooses the pairs.
"""

import functools
import shutil
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from transformers import set_seed

from reflectune.agents import models
from reflectune.agents.listener import StoppedError
from reflectune.agents.memory import free_memory
from reflectune.agents.student.adapters import claim, finished_metrics, hash_adapter, publish
from reflectune.agents.student.passes import Passes
from reflectune.agents.student.ranks import first_says
from reflectune.agents.student.scoring import choose_packing
from reflectune.agents.student.steps import NO_END, TrainingSteps, encode_pairs, with_earlier_turns
from reflectune.agents.student.student import StudentBase, open_encoder
from reflectune.agents.student.targets import Encoded
from reflectune.agents.student.trainer import (
    NotFiniteError,
    OnCheckpoint,
    OnStep,
    save_adapter,
    train_steps,
)
from reflectune.agents.tracking import tracking_losses
from reflectune.state.config import CHANGEABLE, RefinetuneConfig, RunConfig, StudentConfig, flatten
from reflectune.state.errors import AdapterError, StudentError
from reflectune.state.records import Pair, Pairs, content_hash, hash_stream

__all__ = ["adapt", "check_refinetune", "make_adapter", "refinetune_student", "train_adapter"]

# What torch.save says where a file cannot be written to its end, as on a full disk.
_UNWRITTEN = ("inline_container", "iostream error")


def refinetune_student(
    config: RunConfig,
    pairs: Pairs,
    out: Path,
    *,
    base: StudentBase | None = None,
    previous: Path | None,
    round: int,
    on_step: OnStep,
    is_stopping: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Train the LoRA adapter of one round; called again after a kill, it goes on where it was.

    Loss: mean negative log-likelihood over the target tokens of a whole optimizer step, nats per token.
    Targets are the response and the token that ends it; a response cut by max_length has no end, and a pair
    with nothing left of it is left out. A step's sequences are packed as in scoring, in an order drawn anew
    for every epoch from (seed, round). The base computes in `student.dtype`, but in bfloat16 for float16;
    adapter and optimizer are in float32. On a CPU a killed and resumed training gives the same bits.

    Args:
        out: folder that appears when the adapter is whole. What is there already stays if it is, byte for
            byte, what this training ended with; else it is replaced.
        base: the student's base model, which is then as it was; None opens one of its own.
        previous: adapter to go on with; None starts fresh from the base model.
        on_step: told (steps done, all steps, loss of the step) after every optimizer step.
        is_stopping: asked before the first step and after each one; yes ends the training with a checkpoint
            and a StoppedError.

    Returns:
        train_loss (mean over steps, nats per token), steps, tokens (all epochs, prompts included),
        target_tokens (the same, targets only), pairs, truncated (those of them whose response or context
        max_length cut), left_out, seconds (of this call). Where this training
        has ended before, what it returned then.

    Raises:
        AdapterError: nothing to train on, a loss that is not finite, out of memory, a full disk, or whatever
            `check_refinetune` finds.
        StudentError: the base model cannot be opened.
    """

    with tracking_losses(config.track, config.name, out) as tracking:
        train = functools.partial(
            train_adapter,
            config,
            pairs,
            base=base,
            previous=previous,
            round=round,
            on_step=on_step,
            is_stopping=is_stopping,
            tracking=tracking,
        )
        return make_adapter(config, pairs, out, previous=previous, round=round, train=train)


def make_adapter(
    config: RunConfig,
    pairs: Pairs,
    out: Path,
    *,
    previous: Path | None,
    round: int,
    train: Callable[[Path], dict[str, float]],
) -> dict[str, float]:
    """Have an adapter trained in the hidden folder, and put it into its place when it is whole.

    `train` is `train_adapter`, wherever it runs; the hidden folder keeps its checkpoints until it is done.
    Arguments, metrics and errors are those of `refinetune_student`.
    """
    started = time.monotonic()
    partial = out.with_name(f".{out.name}.partial")
    fingerprint = _fingerprint(config, pairs, previous, round)
    metrics = finished_metrics(out, fingerprint)
    if metrics is None:
        try:
            claim(out, partial, fingerprint)
            metrics = train(partial) | {"seconds": time.monotonic() - started}
            publish(partial / "adapter", metrics, fingerprint, out)
        except NotFiniteError as error:
            shutil.rmtree(partial)
            raise AdapterError(f"{out}: {error}; try a lower refinetune.lr") from error
        except torch.OutOfMemoryError as error:
            advice = "end what else uses the student's device"
            raise AdapterError(f"{out}: {error}; {advice}") from error
        except (OSError, SafetensorError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not any(words in str(error) for words in _UNWRITTEN):
                raise
            advice = "make room for it on a disk that can be written"
            raise AdapterError(f"{out}: cannot be written: {error}; {advice}") from error
        finally:
            free_memory()
    shutil.rmtree(partial, ignore_errors=True)
    return metrics


def check_refinetune(config: RunConfig) -> None:
    """Open the student as a round will, and train on texts of full length: faults show before any cost."""
    with _open_base(config.student) as opened:
        base, tokenizer, template = opened.open()
        encoder = open_encoder(base, tokenizer, template, config.student)
        if template.end_id(tokenizer) is None:
            raise StudentError(NO_END)
        longest = Encoded([encoder.separator] * encoder.max_length, 1)
        with _adapted(base, config.refinetune) as model:
            try:
                row_tokens = _row_tokens(base, config.student)
                passes = Passes(model, row_tokens)
                texts_a_row = max(1, row_tokens // len(longest.ids))
                passes.add_gradients([longest] * texts_a_row * passes.rows_at_once)
                trained = [each for each in model.parameters() if each.requires_grad]
                torch.optim.AdamW(trained, lr=0.0).step()
            except torch.OutOfMemoryError as error:
                advice = "lower student.max_length or refinetune.r, or set student.load_in_4bit"
                raise StudentError(f"{config.student.model}: {error}; {advice}") from error


@contextmanager
def _open_base(config: StudentConfig, base: StudentBase | None = None) -> Iterator[StudentBase]:
    """A base to train on: the given one, or one of its own. Gradients of float16 would vanish: bfloat16.

    At 4,096 targets a step they are 8.7 % off in float16, at 32,768 40 %; in bfloat16 about 1 %.
    """
    if config.dtype != "float16":
        with StudentBase(config) if base is None else nullcontext(base) as opened:
            if opened.open()[0].dtype != torch.float16:  # as may be where its config.json names none
                yield opened
                return
    if base is not None:
        base.close()  # there may not be memory for both
    with StudentBase(config.model_copy(update={"dtype": "bfloat16"})) as other:
        yield other


def _row_tokens(base: Any, config: StudentConfig) -> int:
    return choose_packing(base, config.batch_tokens, share_prefixes=False).row_tokens


def train_adapter(
    config: RunConfig,
    pairs: Iterable[Pair],
    folder: Path,
    *,
    base: StudentBase | None = None,
    previous: Path | None,
    round: int,
    on_step: OnStep,
    is_stopping: Callable[[], bool],
    on_checkpoint: OnCheckpoint = lambda checkpoint: None,
    tracking: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, float]:
    """Train in a folder, going on from its newest whole checkpoint, and leave the folder `adapter` there.

    On several ranks all call this alike, each with a folder of its own; the first one's is of use.

    Raises:
        StoppedError, NotFiniteError, torch.OutOfMemoryError, OSError: as they come up.
    """
    with _open_base(config.student, base) as opened:
        model, tokenizer, template = opened.open()
        encoder = open_encoder(model, tokenizer, template, config.student)
        every = with_earlier_turns(pairs) if config.refinetune.turns == "all" else pairs
        texts, truncated, left_out = encode_pairs(encoder, template, template.end_id(tokenizer), every)
        seed = int(content_hash("refinetune", config.seed, round)[:7], 16)
        steps = TrainingSteps(texts, seed, config.refinetune)
        row_tokens = _row_tokens(model, config.student)
        set_seed(seed)
        with _adapted(model, config.refinetune, previous) as adapted:
            if first_says(is_stopping()):
                raise StoppedError("stopped before its first step")
            losses = train_steps(
                adapted,
                steps,
                row_tokens,
                folder,
                config=config.refinetune,
                seed=seed,
                on_step=on_step,
                is_stopping=is_stopping,
                on_checkpoint=on_checkpoint,
                tracking=tracking,
            )
            save_adapter(adapted, folder / "adapter")
    return {
        "train_loss": statistics.fmean(losses),
        "steps": len(losses),
        "tokens": steps.tokens,
        "target_tokens": steps.target_tokens,
        "pairs": len(texts),
        "truncated": truncated,
        "left_out": left_out,
    }


@contextmanager
def _adapted(base: Any, config: RefinetuneConfig, previous: Path | None = None) -> Iterator[Any]:
    """The base with an adapter to train; afterwards it is as it was."""
    model = adapt(base, config, previous)
    try:
        yield model
    finally:
        model.gradient_checkpointing_disable()
        model.unload().eval()


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


def _fingerprint(config: RunConfig, pairs: Pairs, previous: Path | None, round: int) -> str:
    """What a training depends on: checkpoints of another one are of no use."""
    settings = flatten(config.model_dump(mode="json", include={"student", "refinetune"}))
    return content_hash(
        {key: value for key, value in settings.items() if key not in CHANGEABLE},
        config.seed,
        round,
        hash_stream(pair.content_hash for pair in pairs),
        None if previous is None else hash_adapter(previous),
    )
