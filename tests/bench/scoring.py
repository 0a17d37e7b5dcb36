"""One round's selection against the published one-at-a-time way, and where the time goes.

Both phases over real Alpaca pairs with student-6m: the baseline's sixteen passes a sample, then the real
node with a real lineage database in float32 and in bfloat16, all in one process with the same threads.
Then a random model of the shape of a 135M Llama.

    python -m tests.bench.scoring --pairs 300
"""

import math
import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from reflectune.agents import models
from reflectune.agents.student.templates import open_template
from reflectune.state.config import DataConfig, RunConfig
from reflectune.state.data.datasets import read_dataset
from reflectune.state.records import Pair
from tests.bench.large import SHAPE, score_shape
from tests.bench.machine import matmul_rate
from tests.bench.meter import Meter
from tests.bench.one_at_a_time import OneAtATime
from tests.bench.results import SHARED, options, publish, table
from tests.bench.selection_round import Round, choose_one_at_a_time, select_round
from tests.bench.time_shares import measure_operations, measure_parts

__all__ = ["compare_choices", "compare_losses", "read_pairs", "run_config"]

STUDENT = SHARED / "models" / "student-6m"
TEMPLATE = SHARED / "reference" / "template.toml"
DATA = SHARED / "data" / "alpaca-2000.json"
DTYPES = ("float32", "bfloat16")


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
    rounds: dict[str, list[Round]] = {}
    meters: dict[str, Meter] = {}
    for dtype, config in configs.items():
        rounds[dtype] = [_run(config, records) for _ in range(arguments.repeats)]
        meters[dtype] = Meter()
        _run(config, records, meters[dtype])
    body = [
        f"One round's selection, phases instruction and response, of {arguments.pairs} samples with one "
        f"proposal a phase: usable pairs of alpaca-2000.json, none twice. student-6m, {arguments.threads} "
        f"threads, one process. One at a time: {number} of these samples, once, with torch's own products "
        "(in float32 ours are oneDNN's, see agents/linear.py). Ours: the node `select` with "
        f"its database, median of {arguments.repeats} runs; opening and closing the student, twice a "
        f"round, is not counted (ours: {rounds['float32'][0].opening_seconds:.1f} s).",
        "",
        *_speed_table(baseline, number, baseline_meter, rounds, meters, peaks, arguments.pairs),
        *_agreement(baseline, rounds),
        *_shares(configs, records[:600]),
        f"### A random model of the shape of a 135M Llama ({arguments.large_pairs} pairs, four terms each)",
        "",
        *score_shape(SHAPE, configs["float32"].student, records[: arguments.large_pairs], peaks),
    ]
    publish("Scoring", body, arguments)


def read_pairs(number: int) -> list[Pair]:
    """The first usable pairs of the shared Alpaca data."""
    data = DataConfig(path=str(DATA), limit=number, skip_invalid=True)
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
        }
    )


def compare_losses(baseline: Round, ours: Round) -> tuple[int, int, float]:
    """How far two rounds agree on targets that both have scored.

    Returns:
        How many they share, how many of these the baseline took over other tokens (or none), and the
        largest relative difference of the rest.
    """
    shared = baseline.losses.keys() & ours.losses.keys()
    same = [
        key
        for key in shared
        if baseline.num_tokens[key] == ours.num_tokens[key] and not math.isnan(baseline.losses[key])
    ]
    worst = max((abs(baseline.losses[key] / ours.losses[key] - 1) for key in same), default=0.0)
    return len(shared), len(shared) - len(same), worst


def compare_choices(one: Round, other: Round) -> tuple[int, int]:
    """Of the contests between the same two pairs in both rounds: how many, and how many ended otherwise."""
    both = [
        (one.choices[key].winner, other.choices[key].winner)
        for key in one.choices.keys() & other.choices.keys()
        if one.choices[key].incumbent == other.choices[key].incumbent
    ]
    return len(both), sum(a != b for a, b in both)


def _run(config: RunConfig, records: Sequence[Pair], meter: Meter | None = None) -> Round:
    with tempfile.TemporaryDirectory() as folder:
        return select_round(config, records, Path(folder), meter)


def _run_baseline(config: RunConfig, records: Sequence[Pair], number: int) -> tuple[Round, Meter]:
    student = config.student
    tokenizer = models.open_tokenizer(student)
    meter = Meter()
    plain = AutoModelForCausalLM.from_pretrained(student.model, dtype=torch.float32).eval()
    model = meter.attach(plain)
    scorer = OneAtATime(model, tokenizer, open_template(student.template, tokenizer), student.max_length)
    meter.listening = False
    scorer.score(records[0])  # the first pass is slower
    meter.listening = True
    return choose_one_at_a_time(scorer, records, number), meter


def _speed_table(
    baseline: Round,
    number: int,
    baseline_meter: Meter,
    rounds: dict[str, list[Round]],
    meters: dict[str, Meter],
    peaks: dict[str, float],
    pairs: int,
) -> list[str]:
    speed = number / baseline.seconds
    rows = [
        [
            "one at a time, float32",
            f"{speed:.2f}",
            "1.0",
            "16.0",
            *_work(baseline_meter, number, baseline.seconds, peaks["float32"]),
        ]
    ]
    for dtype, runs in rounds.items():
        seconds = statistics.median(run.seconds for run in runs)
        texts = runs[0].texts / pairs
        rows.append(
            [
                f"Reflectune, {dtype}",
                f"{pairs / seconds:.2f}",
                f"{pairs / seconds / speed:.1f}",
                f"{texts:.1f}",
                *_work(meters[dtype], pairs, seconds, peaks[dtype]),
            ]
        )
    header = [
        "",
        "samples/s",
        "speed-up",
        "targets a sample",
        "tokens a sample",
        "tokens/s",
        "matmul",
        "of peak",
    ]
    seconds_of_runs = "; ".join(
        f"{dtype} {', '.join(f'{run.seconds:.1f}' for run in runs)} s" for dtype, runs in rounds.items()
    )
    return [
        *table(header, rows),
        f"The runs: one at a time {baseline.seconds:.1f} s; {seconds_of_runs}. Tokens are those that "
        "reach the model. matmul: 2 x parameters in matrices x tokens, and 2 x width x vocabulary a row of "
        "logits; of peak: its share of the best matmul rate in this run, "
        + " and ".join(f"{dtype} {peak / 1e9:.0f} GFLOP/s" for dtype, peak in peaks.items())
        + ". Attention comes on top, at most "
        f"{meters['float32'].attention_flop / meters['float32'].matmul_flop:.0%} of that work in ours (were "
        "what masks hide computed too) and "
        f"{baseline_meter.attention_flop / baseline_meter.matmul_flop:.0%} one at a time.",
        "",
    ]


def _work(meter: Meter, pairs: int, seconds: float, peak: float) -> list[str]:
    rate = meter.matmul_flop / seconds
    return [
        f"{meter.tokens / pairs:.0f}",
        f"{meter.tokens / seconds:,.0f}",
        f"{rate / 1e9:.0f} GFLOP/s",
        f"{rate / peak:.0%}",
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
    """Where the time goes: by part of the program, and by torch's operation.

    On one thread, where row passes after row and times add up.
    """
    few = records[:192]
    alone = [
        config.model_copy(update={"student": config.student.model_copy(update={"threads": 1})})
        for config in configs.values()
    ]
    parts = [measure_parts(partial(_run, config, records)) for config in alone]
    operations = [measure_operations(partial(_run, config, few)) for config in alone]
    return [
        f"### Where the time goes ({len(records) // 3} samples, one thread)",
        "",
        *table(["part", *configs], _share_rows(parts)),
        f"Of the time inside torch's operations ({len(few) // 3} samples, under its profiler, which adds "
        "to small ones):",
        "",
        *table(["operation", *configs], _share_rows(operations)),
    ]


def _share_rows(columns: Sequence[dict[str, float]]) -> list[list[str]]:
    names = sorted(columns[0], key=columns[0].__getitem__, reverse=True)
    return [
        [name, *(f"{column.get(name, 0.0) / sum(column.values()):.1%}" for column in columns)]
        for name in names
    ]


if __name__ == "__main__":
    main()
