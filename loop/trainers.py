"""What a run made, for other trainers: data in their format, and a config that trains on it as it is.

Texts are rendered by the run's template, so that a trainer needs to know none.
A new trainer is an entry in `TRAINERS`.
"""

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from reflectune.agents.student.pairs import cut_context
from reflectune.agents.student.rendering import Rendered, Renderer
from reflectune.agents.student.steps import with_earlier_turns
from reflectune.state.config import RunConfig
from reflectune.state.data.exports import Also, Exported, TrainerName, with_labels
from reflectune.state.data.writing import Container, put_into_place, write_rows
from reflectune.state.errors import ConfigError, DatasetError
from reflectune.state.records import Pair
from reflectune.state.storage import explain_storage_errors

__all__ = ["TRAINERS", "write_for_trainer"]


Row = dict[str, Any]

_DATA, _CONFIG = "train", "train.yaml"
_SAMPLE = 500  # rows whose length says how many make a step
_AT_ONCE = 4  # rows on a device at a time


@dataclass(frozen=True, slots=True)
class Training:
    """What is to be trained and how, in no trainer's words."""

    config: RunConfig
    full: bool  # full fine-tuning, or LoRA
    is_preferences: bool
    batch: int  # rows of an optimizer step
    lr: float
    epochs: float
    warmup: int  # steps
    end: str  # the token that ends a response

    @property
    def at_once(self) -> int:
        """Rows on a device at a time."""
        return min(_AT_ONCE, self.batch)

    @property
    def accumulation(self) -> int:
        """Passes of an optimizer step on one device."""
        return self.batch // self.at_once

    @property
    def dtype(self) -> str:
        """The number format; what a run settled."""
        return "bfloat16" if self.config.student.dtype == "auto" else self.config.student.dtype


@dataclass(frozen=True, slots=True)
class Trainer:
    """How one trainer takes data and a config."""

    row: Callable[[Rendered, Rendered | None], Row]  # with what was rejected, of preferences
    config: Callable[[Training], Row]
    command: str  # that trains, called in the folder; {kind} is sft or dpo
    container: Container = "jsonl"
    adds_tokens: bool = False  # whether it lets the tokenizer put tokens in front of a text
    takes_preferences: bool = True
    more: Mapping[str, Callable[[Training], Row]] | None = None  # JSON files beside the config


def write_for_trainer(
    folder: Path,
    name: TrainerName,
    config: RunConfig,
    records: Callable[[], Iterable[Exported]],
    *,
    is_preferences: bool,
    full: bool = False,
    also: Collection[Also] = (),
) -> tuple[int, str]:
    """Write data and config into a folder, which is made; count the rows, and say what command trains.

    LoRA goes by the run's refinetune; a step has as many rows as have `refinetune.batch_tokens` on average.
    Full fine-tuning goes by the papers: 3 epochs, lr 2e-5, batch 128 (arXiv 2402.10110, section 4.2).

    Args:
        folder: files of the same names in it are replaced.
        name: of the trainer.
        config: of the run.
        records: pairs or preferences after their contexts, the same at every call.
        is_preferences: which of the two; they are trained on by DPO.
        full: whether all weights are trained.
        also: further fields, as for `write_records`.
    """
    trainer = TRAINERS[name]
    if is_preferences and not trainer.takes_preferences:
        raise ConfigError(f"--for {name}: its SFT trainer takes no preferences; leave out --what preferences")
    renderer = Renderer(config.student)
    hidden = renderer.added if trainer.adds_tokens else ""

    def render(pair: Pair) -> Rendered:
        text = renderer.render(pair)
        return text._replace(prompt=text.prompt.removeprefix(hidden))

    def trained_on(record: Exported) -> Iterator[Pair]:
        """What a refinetune would train on, after the newest turns that fit before either answer."""
        lost = [] if record.rejected is None else [record.rejected.content]

        def fits(pair: Pair) -> bool:
            texts = (str(renderer.render(replace(pair, response=it))) for it in (pair.response, *lost))
            return max(map(renderer.count, texts)) <= config.student.max_length

        instruction, input = record.asked or (record.turns[-2].content, "")
        pair = Pair(instruction, input, record.turns[-1].content, record.turns[:-2])
        is_whole = config.refinetune.turns == "all" and not is_preferences
        for each in with_earlier_turns([pair]) if is_whole else [pair]:
            yield cut_context(each, fits) if each.context and not fits(each) else each

    def rows() -> Iterator[Row]:
        for record in records():
            for pair in trained_on(record):
                worse = None if record.rejected is None else replace(pair, response=record.rejected.content)
                row = trainer.row(render(pair), None if worse is None else render(worse))
                yield with_labels(row, record, list(row), also)

    sample = islice((pair for record in records() for pair in trained_on(record)), _SAMPLE)
    lengths = [renderer.count(str(render(pair))) for pair in sample]
    if not lengths:
        raise DatasetError("there is nothing to train on: the round has no such records")
    with explain_storage_errors(folder, "export again"):
        folder.mkdir(parents=True, exist_ok=True)
    with put_into_place(folder / f"{_DATA}.{trainer.container}") as part:
        written = write_rows(part, trainer.container, rows)
    training = _plan(config, full, is_preferences, written, fmean(lengths), renderer.end)
    files = {_CONFIG: trainer.config} | dict(trainer.more or {})
    for file, settings in files.items():
        write = partial(yaml.safe_dump, sort_keys=False) if file == _CONFIG else partial(json.dumps, indent=1)
        (folder / file).write_text(write(settings(training)), encoding="utf-8")
    return written, trainer.command.format(kind="dpo" if is_preferences else "sft")


def _plan(
    config: RunConfig, full: bool, is_preferences: bool, rows: int, mean_tokens: float, end: str
) -> Training:
    lora = config.refinetune
    if full:
        batch, lr, epochs, share = 128, 2e-5, 3.0, 0.03
    else:
        batch, lr, share = max(1, round(lora.batch_tokens / mean_tokens)), lora.lr, lora.warmup
        batch -= batch % min(_AT_ONCE, batch)  # whole passes
        epochs = lora.epochs or round((lora.tokens or 0) / (rows * mean_tokens), 2) or 1
    warmup = math.ceil(share * epochs * rows / batch)
    return Training(config, full, is_preferences, batch, lr, epochs, warmup, end)


def _prompt_completion(text: Rendered, lost: Rendered | None) -> Row:
    if lost is None:
        return {"prompt": text.prompt, "completion": text.completion}
    return {"prompt": text.prompt, "chosen": text.completion, "rejected": lost.completion}


def _alpaca(text: Rendered, lost: Rendered | None) -> Row:
    if lost is None:
        return {"instruction": text.prompt, "output": text.completion}
    return {"instruction": text.prompt, "chosen": text.completion, "rejected": lost.completion}


def _segments(text: Rendered, lost: Rendered | None) -> Row:
    if lost is not None:
        return _prompt_completion(text, lost)
    parts = (False, text.prompt), (True, text.completion)
    return {"segments": [{"label": label, "text": part} for label, part in parts]}


def _messages(text: Rendered, lost: Rendered | None) -> Row:
    said = ("user", text.prompt), ("assistant", text.completion)
    return {"messages": [{"role": role, "content": content} for role, content in said]}


def _arguments(training: Training) -> Row:
    """What trainers built on transformers' TrainingArguments have in common."""
    return {
        "output_dir": "trained",
        "per_device_train_batch_size": training.at_once,
        "gradient_accumulation_steps": training.accumulation,
        "learning_rate": training.lr,
        "num_train_epochs": training.epochs,
        "lr_scheduler_type": "cosine",
        "warmup_steps": training.warmup,
        "bf16": training.dtype == "bfloat16",
        "seed": training.config.seed,
    }


def _trl(training: Training) -> Row:
    student, lora = training.config.student, training.config.refinetune
    settings: Row = {
        "model_name_or_path": student.model,
        "dtype": training.dtype,
        "datasets": [{"path": "json", "data_files": f"{_DATA}.jsonl"}],
        "eos_token": training.end,
        "max_length": student.max_length,
    }
    if training.is_preferences:  # DPO takes the tokenizer's own
        del settings["eos_token"]
    if student.revision is not None:
        settings["model_revision"] = student.revision
    if not training.full:
        settings |= {
            "use_peft": True,
            "lora_r": lora.r,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "lora_target_modules": lora.target_modules,
            "load_in_4bit": student.load_in_4bit,
        }
    return settings | _arguments(training)


def _llama_factory(training: Training) -> Row:
    student, lora = training.config.student, training.config.refinetune
    modules = [lora.target_modules] if isinstance(lora.target_modules, str) else lora.target_modules
    settings: Row = {
        "model_name_or_path": student.model,
        "stage": "dpo" if training.is_preferences else "sft",
        "do_train": True,
        "finetuning_type": "full" if training.full else "lora",
        "dataset_dir": ".",
        "dataset": _DATA,
        "template": "empty",  # the texts are whole
        "cutoff_len": student.max_length,
    }
    if student.revision is not None:
        settings["model_revision"] = student.revision
    if not training.full:
        settings |= {
            "lora_rank": lora.r,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "lora_target": "all" if modules == ["all-linear"] else ",".join(modules),
        }
        if student.load_in_4bit:
            settings |= {"quantization_bit": 4, "quantization_method": "bnb"}
    return settings | _arguments(training)


def _dataset_info(training: Training) -> Row:
    columns = {"prompt": "instruction", "response": "output"}
    if training.is_preferences:
        columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    entry = {"file_name": f"{_DATA}.jsonl", "ranking": training.is_preferences, "columns": columns}
    return {_DATA: entry}


def _axolotl(training: Training) -> Row:
    student, lora = training.config.student, training.config.refinetune
    kind = "passthrough" if training.is_preferences else "input_output"
    settings: Row = {
        "base_model": student.model,
        "datasets": [{"path": f"{_DATA}.jsonl", "ds_type": "json", "type": kind}],
        "sequence_len": student.max_length,
        "excess_length_strategy": "truncate",
        "micro_batch_size": training.at_once,
        "gradient_accumulation_steps": training.accumulation,
        "num_epochs": training.epochs,
        "learning_rate": training.lr,
        "lr_scheduler": "cosine",
        "optimizer": "adamw_torch",
        "warmup_steps": training.warmup,
        "bf16": training.dtype == "bfloat16",
        "seed": training.config.seed,
        "output_dir": "trained",
    }
    if training.is_preferences:
        settings["rl"] = "dpo"
    if student.revision is not None:
        settings["revision_of_model"] = student.revision
    if not training.full:
        settings |= {
            "adapter": "qlora" if student.load_in_4bit else "lora",
            "load_in_4bit": student.load_in_4bit,
            "lora_r": lora.r,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
        }
        if lora.target_modules == "all-linear":
            settings["lora_target_linear"] = True
        else:
            settings["lora_target_modules"] = lora.target_modules
    return settings


def _verl(training: Training) -> Row:
    student, lora = training.config.student, training.config.refinetune
    model: Row = {"path": student.model, "custom_chat_template": _PLAIN}
    if not training.full:
        model |= {"lora_rank": lora.r, "lora_alpha": lora.alpha, "target_modules": lora.target_modules}
    return {
        "hydra": {"searchpath": ["pkg://verl.trainer.config"]},
        "defaults": ["sft_trainer_engine", "_self_"],
        "data": {
            "train_files": f"{_DATA}.parquet",
            "train_batch_size": training.batch,
            "max_length": student.max_length,
            "truncation": "right",
        },
        "model": model,
        "optim": {
            "lr": training.lr,
            "lr_warmup_steps": training.warmup,
            "lr_scheduler_type": "cosine",
        },
        "trainer": {
            "default_local_dir": "trained",
            "total_epochs": math.ceil(training.epochs),
            "seed": training.config.seed,
            "logger": ["console"],
        },
    }


# verl goes through a chat template in any case: this one adds nothing to whole texts.
_PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"

# Each as its own documentation says: trl 1.16, LLaMA-Factory 0.9.5, axolotl 0.19, verl 0.9.1.
TRAINERS: Mapping[TrainerName, Trainer] = {
    "trl": Trainer(_prompt_completion, _trl, "trl {kind} --config train.yaml", adds_tokens=True),
    "llama-factory": Trainer(
        _alpaca,
        _llama_factory,
        "llamafactory-cli train train.yaml",
        more={"dataset_info.json": _dataset_info},
    ),
    "axolotl": Trainer(_segments, _axolotl, "axolotl train train.yaml"),
    "verl": Trainer(
        _messages,
        _verl,
        'torchrun --nproc-per-node 1 -m verl.trainer.sft_trainer --config-path "$PWD" --config-name train',
        container="parquet",
        takes_preferences=False,
    ),
}
