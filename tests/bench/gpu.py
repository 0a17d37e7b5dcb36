"""Scoring on a GPU with a random model of the shape of a 7B Llama in bfloat16.

Texts are random token ids with the lengths and the common openings of instruction-tuning prompts, so
nothing but torch, transformers and this repository is needed. Both ways are given the same targets.

    python -m tests.bench.gpu --pairs 512
"""

import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from reflectune.agents.student.scoring import choose_packing, score_sequences
from reflectune.agents.student.targets import Encoded
from tests.bench.machine import matmul_rate
from tests.bench.meter import Meter
from tests.bench.one_at_a_time import measure_loss
from tests.bench.results import options, publish, table

__all__ = ["make_sequences", "score_all"]

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
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    torch.set_default_dtype(torch.float32)
    peak = matmul_rate(torch.bfloat16, "cuda")
    sequences = make_sequences(arguments.pairs, SHAPE["vocab_size"])
    rows = [_measure_baseline(model, sequences, peak)]
    for budget in arguments.batch_tokens:
        rows.append(_measure_ours(model, sequences, peak, budget))
    first = float(rows[0][1])
    for row in rows:
        row.insert(2, f"{float(row[1]) / first:.1f}")
    header = ["", "targets/s", "speed-up", "tokens/s", "matmul", "of peak", "GiB at most"]
    body = [
        f"Random Llama of 7B shape ({sum(p.numel() for p in model.parameters()) / 1e9:.2f} G parameters) in "
        f"bfloat16; {len(sequences):,} targets of {arguments.pairs} pairs, four terms each, random "
        f"tokens; one at a time {min(len(sequences), _BASELINE_TARGETS)} of them. Tokens are those that "
        "reach the model; what sequences begin with in common may be computed once.",
        "",
        *table(header, rows),
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


def score_all(model: Any, sequences: Sequence[Encoded], batch_tokens: int) -> Callable[[], object]:
    """What scores these sequences our way; preparing it tries out how the model is called."""
    packing = choose_packing(model, batch_tokens, share_prefixes=True)
    return lambda: score_sequences(model, sequences, packing)


def _measure_ours(model: Any, sequences: Sequence[Encoded], peak: float, budget: int) -> list[str]:
    score_all(model, sequences[:64], budget)()
    return _measure(
        f"Reflectune, {budget:,} tokens a pass",
        model,
        score_all(model, sequences, budget),
        len(sequences),
        peak,
    )


def _measure_baseline(model: Any, sequences: Sequence[Encoded], peak: float) -> list[str]:
    few = sequences[:_BASELINE_TARGETS]

    def run() -> None:
        for sequence in few:
            ids = torch.tensor([sequence.ids], device=model.device)
            measure_loss(model, ids, sequence.first_target)

    measure_loss(model, torch.tensor([few[0].ids], device=model.device), few[0].first_target)
    return _measure("one at a time", model, run, len(few), peak)


def _measure(name: str, model: Any, run: Callable[[], object], targets: int, peak: float) -> list[str]:
    meter = Meter()
    meter.attach(model)
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    meter.listening = False
    rate = meter.matmul_flop / seconds
    return [
        name,
        f"{targets / seconds:.1f}",
        f"{meter.tokens / seconds:,.0f}",
        f"{rate / 1e12:.0f} TFLOP/s",
        f"{rate / peak:.0%}",
        f"{torch.cuda.max_memory_allocated() / 2**30:.1f}",
    ]


if __name__ == "__main__":
    main()
