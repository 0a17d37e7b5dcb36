"""A GPU's figures, on random models of 1B and 7B shapes in bfloat16 and on a real small one.

Scoring is given random token ids with the lengths and the common openings of instruction-tuning prompts; both
ways get the same targets. What else is measured is in `gpu_parts`. What a library is missing for is left out,
and said: torch, transformers and this repository are enough for scoring.

    python -m tests.bench.gpu --pairs 512
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from reflectune.agents.memory import free_memory
from reflectune.agents.student.attention import settle_attention
from reflectune.agents.student.scoring import choose_packing, score_sequences
from reflectune.agents.student.targets import Encoded
from reflectune.state.errors import ReflectuneError
from tests.bench.meter import SPEED_HEADER, Meter, matmul_rate, random_llama
from tests.bench.one_at_a_time import measure_loss
from tests.bench.results import options, publish, table

__all__ = ["make_sequences"]

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "1B (Llama 3.2)": {
        "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "intermediate_size": 8192, "vocab_size": 128256, "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    },
    "7B (Qwen 2.5)": {
        "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "intermediate_size": 18944, "vocab_size": 152064, "max_position_embeddings": 4096,
    },
}  # fmt: skip
_TINY = {
    "tiny": {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "intermediate_size": 128, "vocab_size": 400, "max_position_embeddings": 4096,
        "initializer_range": 0.1,
    }
}  # fmt: skip

# Tokens of a prompt's opening and end that all pairs share, of an instruction and of a response: medians
# of Alpaca. Lengths are log-normal.
_OPENING, _END = 40, 8
_INSTRUCTION, _RESPONSE = 16, 56
_SPREAD = 0.8
_BASELINE_TARGETS = 64


def main() -> None:
    parser = options(__doc__, pairs=512)
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[2048, 8192], help="budgets to try")
    parser.add_argument("--tiny", action="store_true", help="try the benchmark itself, on a CPU")
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        print("tests.bench.gpu: no CUDA device on this machine; nothing was measured", file=sys.stderr)
        sys.exit(1)
    torch.set_num_threads(arguments.threads)
    device, dtype = ("cpu", torch.float32) if arguments.tiny else ("cuda", torch.bfloat16)
    peak = matmul_rate(dtype, device)
    scored: list[str] = []
    parts: dict[str, list[str]] = {"training": [], "writing": [], "vLLM": []}
    left_out: list[str] = []
    for name, shape in (_TINY if arguments.tiny else SHAPES).items():
        with tempfile.TemporaryDirectory() as folder:
            with _leaving_out(f"{name}: scoring", left_out):
                model = random_llama(shape, dtype, device)
                scored += _score(name, model, arguments, peak)
                with _leaving_out(f"{name}: all but scoring", left_out):
                    from tests.bench import gpu_parts

                    gpu_parts.save(model, Path(folder))
            model = None  # what follows opens it from the folder
            if not any(Path(folder).iterdir()):
                continue
            for part, rows in parts.items():
                free_memory()
                with _leaving_out(f"{name}: {part}", left_out):
                    rows.append(gpu_parts.PARTS[part](gpu_parts.Trial(name, folder, device)))
    loop: list[str] = []
    free_memory()
    with _leaving_out("a round of the loop", left_out):
        from tests.bench import gpu_parts

        loop = gpu_parts.turn_loop(device)
    body = [
        f"Random models in {str(dtype).partition('.')[2]}. {arguments.pairs} pairs, four targets each; one "
        f"at a time {_BASELINE_TARGETS} of them. Tokens are those that reach the model; what sequences begin "
        "with in common may be computed once.",
        "",
        *table(f" | targets/s | speed-up | {SPEED_HEADER} | GiB at most", scored),
        f"Of peak: of the best matmul rate in this run, {peak / 1e12:.1f} TFLOP/s. matmul: 2 x parameters in "
        "matrices x tokens, and 2 x width x vocabulary a row of logits; attention is not counted.",
        "",
    ]
    headers = {
        "training": "training | tokens/s | GiB at most | MiB a token of a row",
        "writing": "writing by transformers | tokens/s | GiB at most",
        "vLLM": "vLLM | seconds to start | tokens/s",
    }
    for part, rows in parts.items():
        body += table(headers[part], rows) if rows else []
    publish("GPU", [*body, *loop, *left_out], arguments, device)


@contextmanager
def _leaving_out(what: str, left_out: list[str]) -> Iterator[None]:
    """Note what cannot be measured here: for want of a library or of memory."""
    try:
        yield
    except ModuleNotFoundError as error:
        left_out.append(f"Left out: {what}; there is no {error.name} here.")
    except (torch.OutOfMemoryError, ReflectuneError) as error:
        left_out.append(f"Left out: {what}; {str(error).partition(chr(10))[0]}")


def _score(name: str, model: Any, arguments: Any, peak: float) -> list[str]:
    """Rows of the table: one at a time, then our way by budget."""
    size = sum(parameter.numel() for parameter in model.parameters())
    sequences = make_sequences(arguments.pairs, model.config.vocab_size)
    prepare = {"one at a time": partial(_prepare_baseline, model)}
    for budget in arguments.batch_tokens:
        prepare[f"Reflectune, {budget:,} tokens a pass"] = partial(_prepare_ours, model, budget)
    rates: list[float] = []
    rows = []
    for way, prepared in prepare.items():
        rate, work = _measure(model, prepared, sequences if rates else sequences[:_BASELINE_TARGETS], peak)
        rates.append(rate)
        rows.append(f"{name}, {size / 1e9:.2f} G: {way} | {rate:.1f} | {rate / rates[0]:.1f} | {work}")
    return rows


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
    settle_attention(model)
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
    is_cuda = model.device.type == "cuda"
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    run()
    if is_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    meter.listening = False
    memory = torch.cuda.max_memory_allocated() / 2**30 if is_cuda else 0.0
    return len(sequences) / seconds, f"{meter.speed(seconds, peak, 'TFLOP/s')} | {memory:.1f}"


if __name__ == "__main__":
    main()
