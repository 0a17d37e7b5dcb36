"""Trains the demo's two models from scratch: `python -m tests.demo_models.train teacher|student`.

Writes a model folder with its model card into loop/demo/models. Nothing of Reflectune imports this: it is the
one place outside agents/ that uses torch, to make models rather than to use them.
"""

import argparse
import hashlib
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reflectune.agents.student.targets import Encoded
from reflectune.agents.teacher.prompts import open_prompts
from reflectune.loop.demo import POLICY
from reflectune.loop.demo.demo import FOLDER, demo_config
from reflectune.loop.progress import LineDisplay
from reflectune.state.config import RunConfig
from reflectune.state.records import Pair, Phase
from tests.bench.refinetune import pad_batch
from tests.bench.results import table
from tests.demo_models.corpus import MISTAKES, student_texts, teacher_texts, vocabulary_texts
from tests.demo_models.measure import PAIRS, measure_student, measure_teacher

BOS, EOS = "<s>", "</s>"
WEIGHTS = ("model.safetensors", "config.json", "tokenizer.json")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Shape and training of one model."""

    width: int
    layers: int
    heads: int
    inner: int
    steps: int
    batch: int = 64  # texts per step
    lr: float = 0.02  # peak, of the matrices (Muon); the rest take a fifth (AdamW)


RECIPES = {
    "teacher": Recipe(width=160, layers=5, heads=5, inner=448, steps=3000),
    "student": Recipe(width=128, layers=4, heads=4, inner=352, steps=7000),
}

_CARD = """# Reflectune's demo {name}

{what}
A Llama of {parameters:,} parameters ({layers} layers, width {width}), trained for `reflectune demo`. It knows
one small made-up world, `loop/demo/world.py`, and is of no use outside of it.

- Data: {texts:,} texts drawn by `tests/demo_models/corpus.py`. No operand that `is_reserved` sets apart, a
  fifth of all made-up words, was drawn for them. The demo's data has no others, but for the words of the kind
  opposite, of which there are only so many.
- Training: {steps:,} steps of {batch} texts, seed {seed}, Muon on the matrices, AdamW on the rest, float32;
  {minutes:.0f} minutes with {threads} CPU threads; loss at the end {loss:.3f} nats per token.
  Stored as float16.
- Made by `python -m tests.demo_models.train {name}`.

## On reserved operands

{figures}

## SHA-256

{hashes}

Licence: Apache-2.0, as the rest of Reflectune.
"""
_WHAT = {
    "teacher": "Reads a reflection prompt (`loop/demo/prompts.toml`), writes a critique and a better pair.",
    "student": "A base model that has read riddles, facts and mostly evasive answers: it knows its world\n"
    "and follows instructions badly.",
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer in which the world's fixed words are one token and all else is spelled out.

    Operands so consist of single letters, whatever word they are.
    """
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = {piece for text in vocabulary_texts(prompt_text) for piece, _ in splitter.pre_tokenize_str(text)}
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [BOS, EOS, *letters, *sorted(word for word in words if len(word) > 1)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=EOS)


def prompt_text(phase: Phase, pair: Pair) -> str:
    """What the teacher reads about a pair."""
    (message,) = open_prompts(FOLDER / "prompts.toml").messages(phase, pair, structured=True, nonce="")
    return message["content"]


def train(name: str, seed: int, folder: Path) -> None:
    """Train one of the two models and write its folder, model card and all."""
    recipe = RECIPES[name]
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.width,
            intermediate_size=recipe.inner,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    began = time.monotonic()
    losses = _optimise(name, model, _batches(name, tokenizer, recipe, seed), recipe)
    minutes = (time.monotonic() - began) / 60
    model.eval().half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_card(name, folder, seed=seed, minutes=minutes, loss=statistics.fmean(losses[-100:]))


def write_card(name: str, folder: Path, *, seed: int, minutes: float, loss: float) -> None:
    """Measure a model on reserved operands and write its card."""
    recipe = RECIPES[name]
    config = _config_of(name, folder)
    describe = {"teacher": _describe_teacher, "student": _describe_student}
    model = LlamaForCausalLM.from_pretrained(folder)
    card = _CARD.format(
        name=name,
        what=_WHAT[name],
        parameters=model.num_parameters(),
        layers=recipe.layers,
        width=recipe.width,
        texts=recipe.steps * recipe.batch,
        steps=recipe.steps,
        batch=recipe.batch,
        seed=seed,
        minutes=minutes,
        threads=torch.get_num_threads(),
        loss=loss,
        figures="\n".join(describe[name](config)).rstrip(),
        hashes="\n".join(
            f"- `{file}` {hashlib.sha256((folder / file).read_bytes()).hexdigest()}" for file in WEIGHTS
        ),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _describe_teacher(config: RunConfig) -> list[str]:
    shares = measure_teacher(config)
    rows = [
        f"{group} | {share['repaired']:.1%} | {share['damaged']:.1%} | {share['unusable']:.1%}"
        for group, share in shares.items()
    ]
    return [
        f"{PAIRS:,} noisy pairs with a clear instruction, at temperature {config.teacher.temperature}, "
        "through the parser of every run;\nby phase, and by kind of task over both phases. "
        f"{MISTAKES:.0%} of what it learned from was wrong.",
        "",
        *table(" | bad pairs repaired | good pairs damaged | unusable answers", rows),
    ]


def _describe_student(config: RunConfig) -> list[str]:
    measures = measure_student(config)
    rows = [f"{kind} | {it.value:.1%} ({it.low:.1%} to {it.high:.1%})" for kind, it in measures.items()]
    return [
        f"Exact match on {measures['all'].n:,} clear tasks, answered greedily with the prompts of "
        "`loop/demo/template.toml`,\nwith 95 % intervals.",
        "",
        *table("kind of task | exact match", rows),
    ]


def _config_of(name: str, folder: Path) -> RunConfig:
    """The demo's configuration, with the model that is being made in its place."""
    with tempfile.TemporaryDirectory() as scratch:
        config = demo_config("card", Path(scratch) / "data.json", rounds=1, policy=POLICY, seed=0)
    section: Any = config.teacher if name == "teacher" else config.student
    return config.model_copy(update={name: section.model_copy(update={"model": str(folder)})})


def _optimise(
    name: str, model: Any, batches: Iterator[tuple[torch.Tensor, torch.Tensor]], recipe: Recipe
) -> list[float]:
    """Muon on the matrices, AdamW on embeddings and norms; the rate falls to nothing in the last half."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(matrices, lr=recipe.lr, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=recipe.lr / 5, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / 100, 2 * (1 - step / recipe.steps))
        )
        for optimizer in optimizers
    ]
    losses: list[float] = []
    with LineDisplay().stage(name, total=recipe.steps) as stage:
        for step in range(recipe.steps):
            ids, labels = next(batches)
            loss = model(input_ids=ids, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            losses.append(loss.item())
            stage.update(step + 1, recipe.steps, loss=f"{statistics.fmean(losses[-100:]):.4f}")
    return losses


def _batches(
    name: str, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids and labels (B, T) of texts of like length; no padding and no teacher's prompt is learned."""
    rng = random.Random(f"{name}/{seed}")
    texts: Iterator[tuple[str, str]] = (
        teacher_texts(rng, prompt_text) if name == "teacher" else (("", text) for text in student_texts(rng))
    )
    while True:
        group = [next(texts) for _ in range(16 * recipe.batch)]
        prompts = tokenizer([prompt for prompt, _ in group]).input_ids
        answers = tokenizer([answer for _, answer in group], add_special_tokens=False).input_ids
        rows = [
            Encoded([*prompt, *answer, tokenizer.eos_token_id], first_target=len(prompt))
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        rows.sort(key=lambda row: len(row.ids))
        starts = list(range(0, len(rows), recipe.batch))
        rng.shuffle(starts)
        for start in starts:
            batch = pad_batch(rows[start : start + recipe.batch], tokenizer.eos_token_id)
            yield batch["input_ids"], batch["labels"]


def main() -> None:
    """Train the model that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="model folder to write (default: the demo's own)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    out = arguments.out or FOLDER / "models" / arguments.name
    train(arguments.name, arguments.seed, out)


if __name__ == "__main__":
    main()
