"""Our LoRA refinetune (packed, head on targets only) against transformers' Trainer with padded batches.

Both train the same adapter on the same pairs with the same labels (prompts masked), learning rate, schedule
and number of steps. Samples a second are counted from the first step's end to the last's. What they learn
is compared on held-out pairs, for several seeds of the order.

    python -m tests.bench.refinetune --pairs 256
"""

import math
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCausalLM,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from reflectune.agents.student.refinetune import adapt, refinetune_student
from reflectune.agents.student.steps import encode_pairs
from reflectune.agents.student.student import Student, open_encoder
from reflectune.agents.student.targets import Encoded
from reflectune.agents.student.templates import open_template
from reflectune.agents.tokenizers import open_tokenizer
from reflectune.state.config import RunConfig
from reflectune.state.records import Pair
from tests.bench.results import options, publish, table
from tests.bench.scoring import STUDENT, TEMPLATE, read_pairs, run_config

__all__ = ["Training", "pad_batch", "train_padded"]

_HELD_OUT = 100


@dataclass
class Training:
    """One training, as its steps came."""

    samples: int
    ends: list[float] = field(default_factory=list)  # of steps, in seconds
    losses: list[float] = field(default_factory=list)  # of steps, nats per target token
    held_out: float = math.nan  # nll(y|x) of held-out pairs afterwards, nats per token

    @property
    def samples_per_second(self) -> float:
        """Between the first step's end and the last's, at the mean number of samples a step."""
        steps = len(self.ends)
        return self.samples * (steps - 1) / steps / (self.ends[-1] - self.ends[0])

    def end_step(self, step: int, steps: int, loss: float | None) -> None:
        """Note the end of a step."""
        self.ends.append(time.perf_counter())
        self.losses.append(math.nan if loss is None else loss)


def main() -> None:
    parser = options(__doc__, pairs=256)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each (default 3)")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="our tokens a step (default 2048)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    everything = read_pairs(arguments.pairs + _HELD_OUT)
    pairs, held_out = everything[: arguments.pairs], everything[arguments.pairs :]
    config = run_config(STUDENT, TEMPLATE, "float32", arguments.threads)
    settings = config.refinetune.model_copy(update={"epochs": 1, "batch_tokens": arguments.batch_tokens})
    ours, padded = [], []
    for seed in range(arguments.seeds):
        seeded = config.model_copy(update={"seed": seed, "refinetune": settings})
        with tempfile.TemporaryDirectory() as folder:
            outs = Path(folder) / "ours", Path(folder) / "padded"
            ours.append(_train_packed(seeded, pairs, outs[0]))
            padded.append(train_padded(seeded, pairs, outs[1], steps=len(ours[-1].ends)))
            for run, out in zip((ours[-1], padded[-1]), outs, strict=True):
                run.held_out = _held_out_loss(config, out, held_out)
    before = _held_out_loss(config, None, held_out)
    rates = [statistics.median(run.samples_per_second for run in runs) for runs in (ours, padded)]
    rows = []
    for name, rate, runs in zip(("Reflectune", "padded Trainer"), rates, (ours, padded), strict=True):
        last = ", ".join(f"{statistics.fmean(run.losses[-len(run.losses) // 4 :]):.3f}" for run in runs)
        held = ", ".join(f"{run.held_out:.4f}" for run in runs)
        rows.append(f"{name} | {rate:.1f} | {rate / rates[1]:.2f} | {last} | {held}")
    differences = [a.held_out - b.held_out for a, b in zip(ours, padded, strict=True)]
    spread = max(run.held_out for run in padded) - min(run.held_out for run in padded)
    body = [
        f"student-6m in float32, LoRA r {settings.r} on {settings.target_modules}, lr {settings.lr}, one "
        f"epoch of {len(pairs)} pairs of alpaca-2000.json, {arguments.threads} threads; packed "
        f"{settings.batch_tokens} tokens a step, padded {math.ceil(len(pairs) / len(ours[0].ends))} samples "
        f"a step. Median of {arguments.seeds} seeds.",
        "",
        *table(" | samples/s | ratio | training loss, last quarter of the steps | held-out nll", rows),
        f"Held-out nll(y|x) of {len(held_out)} pairs, nats per token, was {before:.4f} before. Ours less "
        f"padded after the same samples: {', '.join(f'{value:+.4f}' for value in differences)}; the padded "
        f"runs differ among each other by up to {spread:.4f}.",
    ]
    publish("Refinetune", body, arguments)


def _train_packed(config: RunConfig, pairs: Sequence[Pair], out: Path) -> Training:
    training = Training(len(pairs))
    metrics = refinetune_student(config, pairs, out, previous=None, round=1, on_step=training.end_step)
    training.samples = round(metrics["pairs"])
    return training


def train_padded(config: RunConfig, pairs: Sequence[Pair], out: Path, *, steps: int) -> Training:
    """Train a LoRA adapter as one does with Trainer alone: batches padded to their longest, full logits."""
    student, refinetune = config.student, config.refinetune
    tokenizer = open_tokenizer(student)
    base = AutoModelForCausalLM.from_pretrained(student.model, dtype=getattr(torch, student.dtype))
    template = open_template(student, tokenizer)
    encoder = open_encoder(base, tokenizer, template, student)
    sequences = list(encode_pairs(encoder, template, template.end_id(tokenizer), pairs)[0])
    random.Random(config.seed).shuffle(sequences)
    set_seed(config.seed)
    model = adapt(base, refinetune)
    training = Training(len(sequences))
    arguments = TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=math.ceil(len(sequences) / steps),
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        learning_rate=refinetune.lr,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(refinetune.warmup * steps),
        optim="adamw_torch",
        seed=config.seed,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to="none",
    )
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=sequences,
        data_collator=lambda batch: pad_batch(batch, pad),
        callbacks=[_Watch(training)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.save_pretrained(out)
    return training


def pad_batch(sequences: Sequence[Encoded], pad: int) -> dict[str, torch.Tensor]:
    """Sequences padded on the right to the longest; labels are -100 on prompts and padding."""
    ids = [torch.tensor(sequence.ids) for sequence in sequences]
    labels = [row.clone() for row in ids]
    for row, sequence in zip(labels, sequences, strict=True):
        row[: sequence.first_target] = -100
    pad_rows = partial(pad_sequence, batch_first=True)  # (B, T)
    return {
        "input_ids": pad_rows(ids, padding_value=pad),
        "attention_mask": pad_rows([torch.ones_like(row) for row in ids]),
        "labels": pad_rows(labels, padding_value=-100),
    }


class _Watch(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    def __init__(self, training: Training) -> None:
        self._training = training

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" in logs:
            self._training.end_step(state.global_step, state.max_steps, logs["loss"])


def _held_out_loss(config: RunConfig, adapter: Path | None, pairs: Sequence[Pair]) -> float:
    """nll(y|x) over all response tokens of all pairs, nats per token."""
    with Student.open(config.student, adapter) as student:
        scores = student.score([(pair, "response_given_instruction") for pair in pairs])
    return -sum(score.sum_logprob or 0.0 for score in scores) / sum(score.num_tokens or 0 for score in scores)


if __name__ == "__main__":
    main()
