"""One round's selection against the published one-at-a-time way, and where the time goes.

Both phases over real Alpaca pairs with student-6m: the baseline's sixteen passes a sample, then the real
node with a real lineage database in float32 and in bfloat16, all in one process with the same threads.
Then a random model of the shape of a 135M Llama.

    python -m tests.bench.scoring --pairs 300
"""

import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from reflectune.agents.student.attention import settle_attention
from reflectune.agents.student.linear import multiply_by_onednn
from reflectune.agents.student.student import Student, StudentBase
from reflectune.agents.student.templates import open_template
from reflectune.agents.tokenizers import open_tokenizer
from reflectune.state.config import DataConfig, RunConfig
from reflectune.state.data.datasets import read_dataset
from reflectune.state.records import TERMS, Pair
from tests.bench.meter import SPEED_HEADER, Meter, matmul_rate, random_llama
from tests.bench.one_at_a_time import OneAtATime
from tests.bench.results import SHARED, options, publish, table
from tests.bench.selection_round import Round, choose_one_at_a_time, select_round
from tests.bench.time_shares import measure_operations, measure_parts

__all__ = ["compare_choices", "compare_losses", "read_pairs", "run_config"]

STUDENT = SHARED / "models" / "student-6m"
TEMPLATE = SHARED / "reference" / "template.toml"
DATA = SHARED / "data" / "alpaca-2000.json"
DTYPES = ("float32", "bfloat16")
LARGE = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


def main() -> None:
    parser = options(__doc__, pairs=300)
    parser.add_argument("--baseline-pairs", type=int, help="only the first so many one at a time")
    parser.add_argument("--large-pairs", type=int, default=24, help="pairs for the 135M shape (default 24)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of ours, the median counts (default 3)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    records = read_pairs(3 * arguments.pairs)
    peaks = {dtype: matmul_rate(getattr(torch, dtype)) for dtype in DTYPES}
    configs = {dtype: run_config(STUDENT, TEMPLATE, dtype, arguments.threads) for dtype in DTYPES}
    number = min(arguments.baseline_pairs or arguments.pairs, arguments.pairs)
    baseline, baseline_meter = _run_baseline(configs["float32"], records, number)
    rounds = {
        dtype: [_run(config, records) for _ in range(arguments.repeats)] for dtype, config in configs.items()
    }
    ways = {"one at a time, float32": ([baseline], baseline_meter, peaks["float32"])}
    for dtype, config in configs.items():
        _run(config, records, meter := Meter())
        ways[f"Reflectune, {dtype}"] = rounds[dtype], meter, peaks[dtype]
    body = [
        f"One round's selection, phases instruction and response, of {arguments.pairs} samples with one "
        f"proposal a phase: usable pairs of alpaca-2000.json, none twice. student-6m, {arguments.threads} "
        f"threads, one process. One at a time: {number} of these samples, once, with torch's own products "
        "(in float32 ours are oneDNN's, see agents/linear.py). Ours: the node `select` with "
        f"its database, median of {arguments.repeats} runs; opening and closing the student, twice a "
        f"round, is not counted (ours: {rounds['float32'][0].opening_seconds:.1f} s).",
        "",
        *_speed_table(ways),
        *_agreement(baseline, rounds),
        *_shares(configs, records[:600]),
        f"### A random model of the shape of a 135M Llama ({arguments.large_pairs} pairs, four terms each)",
        "",
        *_score_large(configs, records[: arguments.large_pairs], peaks),
    ]
    publish("Scoring", body, arguments)


def read_pairs(number: int) -> list[Pair]:
    """The first usable pairs of the shared Alpaca data."""
    data = DataConfig(path=str(DATA), limit=number, odd={"invalid": "skip"})
    return [record.pair for record in read_dataset(data)]


def run_config(model: Path, template: Path | str, dtype: str, threads: int) -> RunConfig:
    """A run's configuration, of which only the student counts."""
    return RunConfig.model_validate(
        {
            "name": "bench",
            "data": {"path": "none.json", "holdout": 0},
            "teacher": {"engine": "recorded", "path": "none.jsonl"},
            "student": {
                "model": str(model),
                "template": str(template),
                "max_length": 1024,
                "dtype": dtype,
                "device": "cpu",
                "threads": threads,
            },
            "evaluate": {"base_samples": 0},  # no first look at the student either
        }
    )


def compare_losses(baseline: Round, ours: Round) -> tuple[int, int, float]:
    """How far two rounds agree on targets that both have scored.

    Returns:
        How many they share, how many of these the baseline took over other tokens (or none), and the
        largest relative difference of the rest.
    """
    shared = [(baseline.scores[key], ours.scores[key]) for key in baseline.scores.keys() & ours.scores.keys()]
    differences = [
        abs(one.loss / other.loss - 1)
        for one, other in shared
        if one.num_tokens == other.num_tokens and not math.isnan(one.loss)
    ]
    return len(shared), len(shared) - len(differences), max(differences, default=0.0)


def compare_choices(one: Round, other: Round) -> tuple[int, int]:
    """Of the contests between the same two pairs in both rounds: how many, and how many ended otherwise."""
    both = [(one.choices[key], other.choices[key]) for key in one.choices.keys() & other.choices.keys()]
    same = [(a.winner, b.winner) for a, b in both if a.incumbent == b.incumbent]
    return len(same), sum(a != b for a, b in same)


def _run(config: RunConfig, records: Sequence[Pair], meter: Meter | None = None) -> Round:
    with tempfile.TemporaryDirectory() as folder:
        return select_round(config, records, Path(folder), meter)


def _run_baseline(config: RunConfig, records: Sequence[Pair], number: int) -> tuple[Round, Meter]:
    student = config.student
    tokenizer = open_tokenizer(student)
    model = AutoModelForCausalLM.from_pretrained(student.model, dtype=torch.float32).eval()
    scorer = OneAtATime(model, tokenizer, open_template(student, tokenizer), student.max_length)
    scorer.score(records[0])  # the first pass is slower
    meter = Meter()
    meter.attach(model)
    return choose_one_at_a_time(scorer, records, number), meter


def _speed_table(ways: dict[str, tuple[list[Round], Meter, float]]) -> list[str]:
    """The runs of each way, what the meter counted in one more, and the best matmul rate (FLOP/s)."""
    ([baseline], singly, high), (_, ours, _), (_, _, low) = ways.values()
    single = baseline.samples / baseline.seconds
    rows = []
    for name, (runs, meter, peak) in ways.items():
        rate = runs[0].samples / statistics.median(run.seconds for run in runs)
        speed = meter.speed(runs[0].samples / rate, peak)
        counts = f"{runs[0].texts / runs[0].samples:.1f} | {meter.tokens / runs[0].samples:.0f}"
        rows.append(f"{name} | {rate:.2f} | {rate / single:.1f} | {counts} | {speed}")
    seconds_of_runs = "; ".join(
        f"{name} {', '.join(f'{run.seconds:.1f}' for run in runs)} s" for name, (runs, _, _) in ways.items()
    )
    return [
        *table(f" | samples/s | speed-up | targets a sample | tokens a sample | {SPEED_HEADER}", rows),
        f"The runs: {seconds_of_runs}. Tokens are those that reach the model. matmul: 2 x parameters in "
        "matrices x tokens, and 2 x width x vocabulary a row of logits; of peak: its share of the best rate "
        f"in this run, float32 {high / 1e9:.0f} GFLOP/s and bfloat16 {low / 1e9:.0f} GFLOP/s. Attention "
        f"comes on top, at most {ours.attention_flop / ours.matmul_flop:.0%} of that work in ours (were what "
        f"masks hide computed too) and {singly.attention_flop / singly.matmul_flop:.0%} one at a time.",
        "",
    ]


def _agreement(baseline: Round, rounds: dict[str, list[Round]]) -> list[str]:
    ours, low = rounds["float32"][0], rounds["bfloat16"][0]
    shared, other, worst = compare_losses(baseline, ours)
    contests, changed = compare_choices(ours, low)
    theirs, disputed = compare_choices(baseline, ours)
    return [
        "### Agreement",
        "",
        f"- Of {shared:,} losses that both took in float32, the baseline took {other} over other tokens, "
        "where tokenising the prefix alone finds another boundary or nothing is left; the rest agree "
        f"within {worst:.1e} (relative).",
        f"- Decisions in float32: {disputed} of {theirs:,} contests between the same pairs ended otherwise "
        "one at a time.",
        f"- Decisions in bfloat16: {changed} of {contests:,} contests between the same pairs ended otherwise "
        f"than in float32 ({changed / contests:.2%}).",
        "",
    ]


def _shares(configs: dict[str, RunConfig], records: Sequence[Pair]) -> list[str]:
    """Where the time goes, on one thread, where row passes after row and times add up."""
    few = records[:192]
    alone = [run_config(STUDENT, TEMPLATE, dtype, threads=1) for dtype in configs]
    parts = [measure_parts(partial(_run, config, records)) for config in alone]
    operations = [measure_operations(partial(_run, config, few)) for config in alone]
    return [
        f"### Where the time goes ({len(records) // 3} samples, one thread)",
        "",
        *table(f"part | {' | '.join(configs)}", _share_rows(parts)),
        f"Of the time inside torch's operations ({len(few) // 3} samples, under its profiler, which adds "
        "to small ones):",
        "",
        *table(f"operation | {' | '.join(configs)}", _share_rows(operations)),
    ]


def _share_rows(columns: Sequence[dict[str, float]]) -> list[str]:
    names = sorted(columns[0], key=columns[0].__getitem__, reverse=True)
    shares = [{name: value / sum(column.values()) for name, value in column.items()} for column in columns]
    return [" | ".join([name, *(f"{share.get(name, 0.0):.1%}" for share in shares)]) for name in names]


def _score_large(configs: dict[str, RunConfig], pairs: Sequence[Pair], peaks: dict[str, float]) -> list[str]:
    """Score all four terms of pairs with random weights in every number format; the student's tokenizer."""
    rows = []
    for dtype, config in configs.items():
        model = random_llama(LARGE, getattr(torch, dtype))
        multiply_by_onednn(model)  # as models.open_model has them
        settle_attention(model)
        tokenizer = open_tokenizer(config.student)
        template = open_template(config.student, tokenizer)
        student = Student(StudentBase(config.student, (model, tokenizer, template)))
        questions = [(pair, term) for pair in pairs for term in TERMS]
        student.score(questions[: 2 * len(TERMS)])  # the first passes are slower
        meter = Meter()
        meter.attach(model)
        began = time.perf_counter()
        student.score(questions)
        speed = meter.speed(time.perf_counter() - began, peaks[dtype])
        rows.append(f"{dtype} | {meter.tokens / len(pairs):.0f} | {speed}")
    return table(f"dtype | tokens a pair | {SPEED_HEADER}", rows)


if __name__ == "__main__":
    main()
