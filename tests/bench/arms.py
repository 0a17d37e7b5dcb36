"""What selection is worth: students trained on what each policy keeps, at equal training tokens.

Every arm is a run of the demo's world by its own configuration. A seed settles data, split, first proposals
and training for all arms alike, so that arms compare pair by pair. World, arms, seeds and tokens were fixed
before the first run of this comparison; what was thought of afterwards is in `EXPLORED`, and runs with other
seeds.

    python -m tests.bench.arms
    python -m tests.bench.arms --explored --first-seed 5
"""

import math
import statistics
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console

from reflectune.loop.demo.account import account_for
from reflectune.loop.demo.demo import demo_config
from reflectune.loop.demo.noise import FAULTS, INPUT_RATE, VAGUE_RATE, write_dataset
from reflectune.loop.progress import BarDisplay
from reflectune.loop.run import create_run, run_loop
from reflectune.state.config import RunConfig, parse_config
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import PHASES, PolicyName
from tests.bench.results import options, publish, table

# Two-sided 95 % quantiles of Student's t by degrees of freedom: for up to ten seeds.
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
HOLDOUT = 500
OUTCOMES = (
    "arm | rounds | held-out exact match | minus V1, one round | pool right | pairs trained on"
    " | response tokens"
)
JUDGED = ("accepted", "rightly", "refused rightly", "mended", "damaged")
DECISIONS = " | ".join(["arm", "rounds", *(f"{phase}: {it}" for phase in PHASES for it in JUDGED)])


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to get a training set."""

    name: str  # as the table says it
    policy: PolicyName
    rounds: int = 1
    filtered: bool = False  # by the published filter (improved, IFD < 1, r-IFD < 1), or the whole pool
    selection: Mapping[str, Any] = field(default_factory=dict, hash=False)  # other keys of the section
    clean: bool = False  # the data without any faults, for a ceiling
    teacher: bool = True  # whether the teacher is asked at all


DEFAULT = Arm("IFD then r-IFD (default policy)", "ifd+r-ifd")
RANDOM = Arm("random, at the default's acceptance over both phases", "random")
V1 = Arm("accept all (V1)", "accept-all")
ARMS = (
    Arm("raw data", "reject-all", teacher=False),
    Arm("data without faults", "reject-all", teacher=False, clean=True),
    V1,
    DEFAULT,
    Arm("IFD", "ifd"),
    Arm("r-IFD", "r-ifd"),
    Arm("perplexity", "perplexity"),
    Arm("longest", "longest"),
    RANDOM,
    Arm("IFD then r-IFD, filtered (default config)", "ifd+r-ifd", filtered=True),
    replace(V1, rounds=3),
    replace(DEFAULT, rounds=3),
    Arm("r-IFD", "r-ifd", rounds=3),
    Arm("IFD then r-IFD, filtered (default config)", "ifd+r-ifd", rounds=3, filtered=True),
)
# Thought of when the results of the arms above and of `tests.bench.rules` were known.
CAPPED = Arm("IFD below 1 then r-IFD (ifd_cap)", "ifd+r-ifd", selection={"ifd_cap": 1.0})
EXPLORED = (
    V1,
    DEFAULT,
    Arm("r-IFD", "r-ifd"),
    CAPPED,
    Arm("IFD then r-IFD, by a margin of 0.1", "ifd+r-ifd", selection={"margin": 0.1}),
    replace(V1, rounds=3),
    replace(DEFAULT, rounds=3),
    replace(CAPPED, rounds=3),
)


@dataclass(frozen=True, slots=True)
class Job:
    """One arm with one seed."""

    arm: Arm
    seed: int
    pairs: int
    tokens: int
    random_rate: float | None = None


@contextmanager
def run_job(job: Job) -> Iterator[LineageReader]:
    """The lineage of an arm that has been run to its end."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = create_run(configure(job, Path(scratch)), Path(scratch))
        run_loop(folder, BarDisplay(Console(quiet=True)))
        with LineageReader.open(folder.lineage) as history:
            yield history


def map_jobs(function: Callable[[Job], Any], jobs: Sequence[Job], processes: int) -> list[Any]:
    """What a function gives for each job, in processes of one torch thread."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return list(pool.map(function, jobs))


def configure(job: Job, scratch: Path) -> RunConfig:
    """The run's configuration: the demo's but for what the arm changes."""
    data = scratch / "data.json"
    write_dataset(data, job.pairs + HOLDOUT, job.seed, clean=job.arm.clean)
    config = demo_config("arm", data, rounds=job.arm.rounds, policy=job.arm.policy, seed=job.seed)
    values = config.model_dump(mode="json")
    values["data"]["holdout"] = HOLDOUT
    values["refinetune"]["tokens"] = job.tokens
    values["student"]["threads"] = 1
    if not job.arm.filtered:
        values["selection"] |= {"keep": "all", "train_max_ifd": 1e9, "train_max_r_ifd": 1e9}
    values["selection"] |= job.arm.selection
    if job.random_rate is not None:
        values["selection"]["random_rate"] = job.random_rate
    if not job.arm.teacher:
        recording = scratch / "nothing.jsonl"
        recording.write_text('{"phase": "response", "instruction": "-", "input": "", "new_response": "-"}\n')
        values["teacher"] = {"engine": "recorded", "path": str(recording)}
    return parse_config(values, "arm")


def summarise(job: Job) -> dict[str, Any]:
    """The figures of a run that the tables need, of its last round or over its rounds."""
    with run_job(job) as history:
        rounds = account_for(history)
    last = rounds[-1]
    proposals = sum(row[phase]["reflected"] for row in rounds for phase in PHASES)
    accepted = sum(row[phase]["accepted"] for row in rounds for phase in PHASES)
    return {
        "exact_match": last["exact_match"]["value"],
        "base": rounds[0]["exact_match"]["value"],
        "raw_right": rounds[0]["pool_right"],
        "acceptance": accepted / proposals if proposals else None,
        **{name: last[name] for name in ("pool_right", "training", "response_tokens", *PHASES)},
    }


def measure(arms: Sequence[Arm], arguments: Namespace) -> dict[Arm, list[dict[str, Any]]]:
    """The figures of all arms, one a seed."""
    jobs = [
        Job(arm, seed, arguments.pairs, arguments.tokens)
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        for arm in arms
        if arm is not RANDOM
    ]
    figures = dict(zip(jobs, map_jobs(summarise, jobs, arguments.threads), strict=True))
    lots = [
        replace(job, arm=RANDOM, random_rate=figures[job]["acceptance"])
        for job in jobs
        if job.arm is DEFAULT and RANDOM in arms
    ]
    figures |= zip(lots, map_jobs(summarise, lots, arguments.threads), strict=True)
    return {arm: [row for job, row in figures.items() if job.arm is arm] for arm in arms}


def interval(values: Sequence[float | None]) -> str:
    """Mean of what could be measured and half its 95 % interval, in percent; seeds are the sample."""
    known = [100 * value for value in values if value is not None]
    if len(known) < 2:
        return f"{known[0]:.1f}" if known else "-"
    half = T95[len(known) - 1] * statistics.stdev(known) / math.sqrt(len(known))
    return f"{statistics.fmean(known):.1f} ± {half:.1f}"


def outcome_rows(results: Mapping[Arm, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """What each arm's last student can do, and what it was trained on."""
    for arm, rows in results.items():
        pairs = zip(rows, results[V1], strict=True)
        against = [row["exact_match"] - other["exact_match"] for row, other in pairs]
        shares = ([row["exact_match"] for row in rows], against, [row["pool_right"] for row in rows])
        trained, length = (
            statistics.fmean(row[name] for row in rows) for name in ("training", "response_tokens")
        )
        cells = [arm.name, str(arm.rounds) if arm.teacher else "-", *map(interval, shares)]
        yield " | ".join([*cells, f"{trained:.0f}", f"{length:.2f}"])


def decision_rows(results: Mapping[Arm, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """How well each arm decided in its last round."""
    for arm, rows in results.items():
        if not arm.teacher:
            continue
        cells = [arm.name, str(arm.rounds)]
        for phase in PHASES:
            decided = [row[phase] for row in rows]
            cells += [
                interval([row["accepted"] / row["reflected"] for row in decided if row["reflected"]]),
                interval([row["accepted_right"] for row in decided]),
                interval([row["refused_rightly"] for row in decided]),
                f"{statistics.fmean(row['mended'] for row in decided):.0f}",
                f"{statistics.fmean(row['damaged'] for row in decided):.0f}",
            ]
        yield " | ".join(cells)


def world_options(description: str | None) -> ArgumentParser:
    """The options of whoever runs arms."""
    parser = options(description, pairs=400)
    parser.add_argument("--seeds", type=int, default=5, choices=range(1, 11), help="how many (default 5)")
    parser.add_argument("--tokens", type=int, default=75_000, help="training tokens of every student")
    return parser


def main() -> None:
    parser = world_options(__doc__)
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them (default 0)")
    parser.add_argument("--explored", action="store_true", help="the arms that were thought of afterwards")
    arguments = parser.parse_args()
    results = measure(EXPLORED if arguments.explored else ARMS, arguments)
    raw = next(iter(results.values()))
    faults = ", ".join(f"{name} {share:.0%}" for name, share in FAULTS.items())
    publish(
        "Arms thought of afterwards" if arguments.explored else "Arms",
        [
            f"The demo's world, {arguments.pairs} pairs and {HOLDOUT} held out, seeds "
            f"{arguments.first_seed} to {arguments.first_seed + arguments.seeds - 1}. Responses: {faults}; "
            f"{VAGUE_RATE:.0%} of the instructions do not say what to do, {INPUT_RATE:.0%} of the others "
            "have an input; the teacher's faults are on its card. Every student is LoRA on the same base, "
            f"trained on {arguments.tokens:,} tokens, prompts included, of whatever its arm keeps. Before: "
            f"exact match {interval([row['base'] for row in raw])} %, pool right "
            f"{interval([row['raw_right'] for row in raw])} %. Means over the seeds ± half the 95 % interval "
            "(Student's t), in percent; the difference is taken seed by seed. Arms train on the whole pool "
            "D[r], but for the filtered ones: those by the published filter. Runs in "
            f"{arguments.threads} processes of one torch thread.",
            "",
            "World and arms were fixed before this was run. An earlier world was compared first and given "
            "up: its teacher was at fault in one kind of task only, and words that were held out could come "
            "into the pool. There the default policy came to -2.1 ± 1.9 against V1, r-IFD to 0.3 ± 2.7, "
            "random to -3.8 ± 1.9, raw data to -13.3 ± 4.0; `ifd_cap` was thought of then.",
            "",
            *table(OUTCOMES, outcome_rows(results)),
            "The decisions of the last round, by the exact checker: accepted of all proposals, accepted "
            "proposals that are right, refused ones that were wrong or stood against a right pair; pairs "
            "mended (wrong to right) and damaged (right to wrong).",
            "",
            *table(DECISIONS, decision_rows(results)),
        ],
        arguments,
    )


if __name__ == "__main__":
    main()
