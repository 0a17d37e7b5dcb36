"""Scoring on a GPU with a random model of the shape of a 7B Llama in bfloat16.

Texts are random token ids with the lengths and the common openings of instruction-tuning prompts, so
nothing but torch, transformers and this repository is needed. Both ways are given the same targets.

    python -m tests.bench.gpu --pairs 512
"""

import random
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from reflectune.agents.student.scoring import choose_packing, score_sequences
from reflectune.agents.student.targets import Encoded
from tests.bench.meter import SPEED_HEADER, Meter, matmul_rate, random_llama
from tests.bench.one_at_a_time import measure_loss
from tests.bench.results import options, publish, table

__all__ = ["make_sequences"]

SHAPE = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}

# Tokens of a prompt's opening and end that all pairs share, of an instruction and of a response: medians
# of Alpaca. Lengths are log-normal.
_OPENING, _END = 40, 8
_INSTRUCTION, _RESPONSE = 16, 56
_SPREAD = 0.8
_BASELINE_TARGETS = 64


def main() -> None:
    parser = options(__doc__, pairs=512)
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[2048, 8192], help="budgets to try")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("tests.bench.gpu: no CUDA device on this machine; nothing was measured", file=sys.stderr)
        sys.exit(1)
    torch.set_num_threads(arguments.threads)
    model = random_llama(SHAPE, torch.bfloat16, "cuda")
    peak = matmul_rate(torch.bfloat16, "cuda")
    sequences = make_sequences(arguments.pairs, SHAPE["vocab_size"])
    few = sequences[:_BASELINE_TARGETS]
    prepare = {"one at a time": partial(_prepare_baseline, model)}
    for budget in arguments.batch_tokens:
        prepare[f"Reflectune, {budget:,} tokens a pass"] = partial(_prepare_ours, model, budget)
    rates, rows = [], []
    for name, way in prepare.items():
        rate, work = _measure(model, way, sequences if rates else few, peak)
        rates.append(rate)
        rows.append(f"{name} | {rate:.1f} | {rate / rates[0]:.1f} | {work}")
    body = [
        f"Random Llama of 7B shape ({sum(p.numel() for p in model.parameters()) / 1e9:.2f} G parameters) in "
        f"bfloat16; {len(sequences):,} targets of {arguments.pairs} pairs, four terms each, random "
        f"tokens; one at a time {len(few)} of them. Tokens are those that "
        "reach the model; what sequences begin with in common may be computed once.",
        "",
        *table(f" | targets/s | speed-up | {SPEED_HEADER} | GiB at most", rows),
        f"Of peak: of the best bfloat16 matmul rate in this run, {peak / 1e12:.0f} TFLOP/s. matmul: 2 x "
        "parameters in matrices x tokens, and 2 x width x vocabulary a row of logits; attention is not "
        "counted.",
    ]
    publish("GPU", body, arguments, "cuda")


def make_sequences(pairs: int, vocabulary: int, seed: int = 0) -> list[Encoded]:
    """All four terms of random pairs: y given x, y alone, x given y, x alone. Token 1 stands in front."""
    source = random.Random(seed)

    def draw(length: int) -> list[int]:
        return [source.randrange(3, vocabulary) for _ in range(length)]

    def draw_length(median: int) -> int:
        return max(1, round(median * source.lognormvariate(0.0, _SPREAD)))

    opening, reverse_opening, end = draw(_OPENING), draw(_OPENING), draw(_END)
    sequences = []
    for _ in range(pairs):
        instruction, response = draw(draw_length(_INSTRUCTION)), draw(draw_length(_RESPONSE))
        for prefix, target in (
            ([*opening, *instruction, *end], response),
            ([], response),
            ([*reverse_opening, *response, *end], instruction),
            ([], instruction),
        ):
            sequences.append(Encoded([1, *prefix, *target], 1 + len(prefix)))
    return sequences


def _prepare_ours(model: Any, budget: int, sequences: Sequence[Encoded]) -> Callable[[], object]:
    """What scores these sequences our way; preparing it tries out how the model is called."""
    packing = choose_packing(model, budget, share_prefixes=True)
    return lambda: score_sequences(model, sequences, packing)


def _prepare_baseline(model: Any, sequences: Sequence[Encoded]) -> Callable[[], object]:
    def run() -> None:
        for sequence in sequences:
            measure_loss(model, torch.tensor([sequence.ids], device=model.device), sequence.first_target)

    return run


def _measure(
    model: Any,
    prepare: Callable[[Sequence[Encoded]], Callable[[], object]],
    sequences: Sequence[Encoded],
    peak: float,
) -> tuple[float, str]:
    """Targets a second, and cells of the table."""
    prepare(sequences[:64])()  # the first passes are slower
    run, meter = prepare(sequences), Meter()
    meter.attach(model)
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    meter.listening = False
    memory = torch.cuda.max_memory_allocated() / 2**30
    return len(sequences) / seconds, f"{meter.speed(seconds, peak, 'TFLOP/s')} | {memory:.1f}"


if __name__ == "__main__":
    main()
