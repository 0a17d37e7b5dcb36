"""Scoring with a random model of the shape of a 135M Llama: how near it comes to the matmul rate."""

import time
from collections.abc import Mapping, Sequence

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from reflectune.agents import models
from reflectune.agents.student.linear import multiply_by_onednn
from reflectune.agents.student.student import Student
from reflectune.agents.student.templates import open_template
from reflectune.state.config import StudentConfig
from reflectune.state.records import TERMS, Pair
from tests.bench.meter import Meter
from tests.bench.results import table

__all__ = ["SHAPE", "score_shape"]

SHAPE = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


def score_shape(
    shape: Mapping[str, int], student: StudentConfig, pairs: Sequence[Pair], peaks: Mapping[str, float]
) -> list[str]:
    """Score all four terms of pairs with random weights in every dtype of `peaks` (FLOP/s).

    Tokenizer, template and threads are the student's. Returns the lines of a table.
    """
    rows = []
    for dtype, peak in peaks.items():
        config = student.model_copy(update={"dtype": dtype})
        meter, seconds = _score(shape, config, pairs)
        rate = meter.matmul_flop / seconds
        rows.append(
            [
                dtype,
                f"{meter.tokens / len(pairs):.0f}",
                f"{meter.tokens / seconds:,.0f}",
                f"{rate / 1e9:.0f} GFLOP/s",
                f"{rate / peak:.0%}",
            ]
        )
    header = ["dtype", "tokens a pair", "tokens/s", "matmul", "of peak"]
    return table(header, rows)


def _score(shape: Mapping[str, int], config: StudentConfig, pairs: Sequence[Pair]) -> tuple[Meter, float]:
    torch.manual_seed(0)
    models.set_threads(config.threads)
    model = LlamaForCausalLM(LlamaConfig(**shape)).to(getattr(torch, config.dtype)).eval()
    multiply_by_onednn(model)  # as models.open_model has it
    tokenizer = models.open_tokenizer(config)
    meter = Meter()
    student = Student(model, tokenizer, open_template(config.template, tokenizer), config)
    questions = [(pair, term) for pair in pairs for term in TERMS]
    student.score(questions[: 2 * len(TERMS)])  # the first passes are slower
    meter.attach(model)
    began = time.perf_counter()
    student.score(questions)
    return meter, time.perf_counter() - began
