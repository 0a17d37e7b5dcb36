"""transformers' Trainer over the sequences of each step, for work that may be killed at any instant.

It saves LoRA weights only, and stops where a number is no longer finite. Nothing here knows pairs or rounds.
"""

import hashlib
import json
import math
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import get_peft_model_state_dict
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from reflectune.agents.listener import StoppedError
from reflectune.agents.models import not_finite
from reflectune.agents.student.passes import Passes, checkpoint_layers
from reflectune.agents.student.ranks import first_says, is_first, own_rank
from reflectune.agents.student.targets import Encoded
from reflectune.state.config import RefinetuneConfig

__all__ = [
    "NotFiniteError",
    "OnCheckpoint",
    "OnStep",
    "Steps",
    "keep_newest",
    "last_whole_checkpoint",
    "save_adapter",
    "train_steps",
]

OnStep = Callable[[int, int, float | None], None]
OnCheckpoint = Callable[[Path], None]

_MANIFEST = "manifest.json"
_KEPT = 2  # newest checkpoints
_SAVES = 5  # checkpoints in a training, at least
_SAVE_SECONDS = 300.0  # and one whenever so much time has passed


class NotFiniteError(ArithmeticError):
    """A loss, a gradient or a trained weight is no longer a finite number."""


class Steps(Protocol):
    """The sequences of every optimizer step, in order."""

    def __len__(self) -> int: ...

    def __getitem__(self, step: int) -> Sequence[Encoded]: ...


def train_steps(
    model: Any,
    steps: Steps,
    row_tokens: int,
    folder: Path,
    *,
    config: RefinetuneConfig,
    seed: int,
    on_step: OnStep,
    is_stopping: Callable[[], bool],
    on_checkpoint: OnCheckpoint,
    tracking: Mapping[str, Any],
) -> list[float]:
    """Train a PEFT model in place, once over the steps, in order; go on from a checkpoint in `folder`.

    On several ranks all call this alike, each with a folder of its own: the first writes checkpoints.
    AdamW, linear warm-up, cosine decay, gradients clipped at norm 1. Rows have `row_tokens` tokens at most.
    The trained adapter is the one called "default"; the seed is of dropout. `on_step` and `is_stopping` are
    those of `refinetune_student`, after every step; `on_checkpoint` is told of each checkpoint that is whole.
    `tracking` is what `tracking_losses` gives.
    Returns the loss of every step: mean over its target tokens, nats per token.
    """
    told = dict(tracking)
    trackers: list[TrainerCallback] = told.pop("callbacks", [])
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        learning_rate=config.lr,
        lr_scheduler_type="cosine",
        # The first step of a warm-up trains nothing.
        warmup_steps=min(math.ceil(config.warmup * len(steps)), len(steps) - 1),
        optim="adamw_torch",
        seed=seed,
        use_cpu=model.device.type == "cpu",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",  # the callback says when
        label_names=[],
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to="none",  # trackers are among the callbacks
        **told,
    )
    _keep_device(arguments, model.device)
    if config.gradient_checkpointing:
        checkpoint_layers(model)
    trainer = _LoraTrainer(
        Passes(model, row_tokens),
        model=model,
        args=arguments,
        train_dataset=steps,
        data_collator=lambda batch: {"sequences": batch[0]},
        callbacks=[_Watch(on_step, is_stopping, on_checkpoint, folder), *trackers],
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint = last_whole_checkpoint(folder)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.state.global_step < trainer.state.max_steps:
        first_says(True)  # by then it has handed its checkpoint over: no other rank may end the group before
        raise StoppedError(f"stopped after step {trainer.state.global_step} of {trainer.state.max_steps}")
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter called "default"; nothing but a NotFiniteError where it holds NaN or infinity."""
    if broken := not_finite(get_peft_model_state_dict(model, save_embedding_layers=False)):
        raise NotFiniteError(f"{len(broken)} weights of the adapter are not finite, such as {broken[0]}")
    model.create_or_update_model_card = lambda folder: None  # rendering it takes longer than all the rest
    model.save_pretrained(folder, save_embedding_layers=False)


class _LoraTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """Gradients come from our own passes, checkpoints hold the adapter alone."""

    def __init__(self, passes: Passes, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._passes = passes

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: None = None) -> Any:
        """Compute a step's gradients; its loss.

        Dropout is drawn anew for every step and rank: a checkpoint keeps the state of the first rank alone.
        """
        drawn = f"{self.args.seed}/{self.state.global_step}/{own_rank()}"
        torch.manual_seed(random.Random(drawn).getrandbits(63))
        return self._passes.add_gradients(inputs["sequences"])

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the adapter of a checkpoint."""
        save_adapter(self.model, Path(output_dir or self.args.output_dir))


class _Watch(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Reports steps, asks for checkpoints, and stops training that was asked to or has broken down."""

    def __init__(
        self, on_step: OnStep, is_stopping: Callable[[], bool], on_checkpoint: OnCheckpoint, folder: Path
    ) -> None:
        self._on_step, self._is_stopping, self._on_checkpoint = on_step, is_stopping, on_checkpoint
        self._folder = folder
        self._saved_at = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a checkpoint every fifth of the steps, after five minutes, and before stopping.

        One rank writes it: it is the same for all.
        """
        if state.global_step >= state.max_steps:
            return
        now = time.monotonic()
        due = state.global_step % math.ceil(state.max_steps / _SAVES) == 0
        control.should_training_stop = first_says(self._is_stopping())
        if due or now - self._saved_at > _SAVE_SECONDS or control.should_training_stop:
            control.should_save = is_first()
            self._saved_at = now

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Call the checkpoint whole, and let the oldest go."""
        checkpoint = self._folder / f"checkpoint-{state.global_step}"
        (checkpoint / _MANIFEST).write_bytes(_manifest(checkpoint))
        self._on_checkpoint(checkpoint)
        keep_newest(self._folder)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Report a step, before a checkpoint of it is written."""
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]) or not math.isfinite(logs["grad_norm"]):
            raise NotFiniteError(f"loss or gradient is not finite at step {state.global_step}")
        self._on_step(state.global_step, state.max_steps, logs["loss"])


def _keep_device(arguments: Any, device: torch.device) -> None:
    """Train where the student is: left alone, Trainer spreads over all GPUs."""
    if device.type == "cuda":
        arguments.device  # noqa: B018 - makes Trainer choose, so that the choice can be replaced
        torch.cuda.set_device(device)
        arguments._n_gpu = 1
        arguments.__dict__["_setup_devices"] = device


def keep_newest(folder: Path) -> None:
    """Remove all checkpoints but the newest by step: the clock may jump back."""
    for path in _checkpoints(folder)[_KEPT:]:
        shutil.rmtree(path)


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint with every byte that was written; those cut short or damaged are removed."""
    for path in _checkpoints(folder):
        with suppress(OSError):  # something is missing, or cannot be read
            if (path / _MANIFEST).read_bytes() == _manifest(path):
                return path
        shutil.rmtree(path)
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first."""
    return sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))


def _manifest(checkpoint: Path) -> bytes:
    """SHA-256 of every other file of a checkpoint, as JSON."""
    files = sorted(path for path in checkpoint.iterdir() if path.name != _MANIFEST)
    hashes = {}
    for path in files:
        with path.open("rb") as file:  # an optimizer's state may be large
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return (json.dumps(hashes, indent=1) + "\n").encode()
