"""What one round of the loop costs a sample, and the memory it takes, in runs of more and more samples.

It is the machine itself: a dataset that is read from its file, a run folder with its lineage, the graph with
its nodes. Only the models are made up: a teacher that answers 64 questions at a time, a student and a trainer
that compute nothing. So what is left is what Reflectune itself takes for a sample, and shows whether that
grows with their number. Every size has a process of its own.

    python -m tests.bench.loop
"""

import json
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self
from zlib import crc32

from reflectune.agents.pool import LocalPool, StudentPool
from reflectune.agents.student.student import Response
from reflectune.agents.teacher.teacher import Reflected
from reflectune.loop.context import LoopContext, LoopState
from reflectune.loop.graph import build_graph, hash_graph
from reflectune.loop.nodes.evaluate import evaluate_round
from reflectune.loop.progress import LineDisplay
from reflectune.loop.run import begin_lineage
from reflectune.state.config import RunConfig, parse_config
from reflectune.state.data.datasets import assign_samples, read_dataset
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import Pair, Pairs, Phase, Reflection, Score, TeacherCall, Term, Version
from tests.bench.memory import MIB, watch_memory
from tests.bench.results import options, publish, table

__all__ = ["MAX_GROWTH", "MAX_MIB", "ask_made_up", "measure_loop"]

_PHASES = ("create", "reflect", "select", "choose", "read", "evaluate")
MAX_GROWTH = 0.1  # of the cost of a sample
MAX_MIB = 1024


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("samples", type=int, nargs="*", default=[10_000, 100_000], help="sizes of the runs")
    parser.add_argument("--folder", type=Path, help="where the runs are made, and removed again")
    arguments = parser.parse_args()
    found = [_measure_apart(number, arguments) for number in arguments.samples]
    costs, first = [], found[0]["phases"]
    for number, one in zip(arguments.samples, found, strict=True):
        for at, unit in enumerate(("elapsed", "of a CPU")):
            times = [one["phases"][phase][at] for phase in (*_PHASES, "all")]
            cells = [f"{1e6 * seconds / number:,.0f}" for seconds in times]
            costs.append(f"{number:,} | {unit} | {' | '.join(cells)}")
    growth = [
        one["phases"]["all"][1] / number / (first["all"][1] / arguments.samples[0]) - 1
        for number, one in zip(arguments.samples, found, strict=True)
    ]
    peak = max(one["peak"] for one in found) / MIB
    memory = (
        f"{number:,} | {one['before'] / MIB:,.0f} | {one['peak'] / MIB:,.0f} | {one['file'] / MIB:,.0f}"
        for number, one in zip(arguments.samples, found, strict=True)
    )
    body = [
        "One round: two proposals a sample are asked for; nine tenths of them come, and are scored. "
        "Microseconds a sample of creating the run, of each node (reflect and select: both phases), of "
        "choosing the training set and of reading it twice, page by page.",
        "",
        *table(f"samples | microseconds | {' | '.join(_PHASES)} | all", costs),
        f"A sample's CPU time beside that of the smallest run: {', '.join(f'{g:+.0%}' for g in growth)} "
        f"(bar: {MAX_GROWTH:+.0%}).",
        "",
        *table("samples | MiB before | most resident MiB | MiB of lineage.db", memory),
        f"Most resident memory of any: {peak:,.0f} MiB (bar: {MAX_MIB:,} MiB).",
    ]
    publish("The loop", body, arguments)


def _measure_apart(samples: int, arguments: Namespace) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory(dir=arguments.folder) as folder,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        return pool.submit(measure_loop, Path(folder), samples).result()


class _Opened:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


class _Student(_Opened):
    """Scores drawn by the texts, at once."""

    at_once = 64

    def score(self, questions: Sequence[tuple[Pair, Term]]) -> list[Score]:
        """What each text draws."""
        return [Score(-10 - 20 * _draw(pair.response, term), 12, "ok") for pair, term in questions]

    def respond(self, pairs: Sequence[Pair], max_tokens: int) -> list[Response | None]:
        """What is there already."""
        return [Response(pair.response, 6) for pair in pairs]


def ask_made_up(job: Callable[[Any], Any], student: object) -> Any:
    """What a job comes to with a made-up student in the place of another, wherever that is."""
    return job(_Student())


def _number(number: int) -> Mapping[str, str]:
    return {"instruction": f"Say what {number} is.", "output": f"It is the number {number}."}


def measure_loop(
    folder: Path,
    samples: int,
    rounds: int = 1,
    *,
    watch: Callable[[LineageWriter], None] = lambda lineage: None,
    make_record: Callable[[int], Mapping[str, str]] = _number,
    open_students: Callable[[Path | None], StudentPool] = lambda adapter: LocalPool(_Student),
) -> dict[str, Any]:
    """Run rounds over so many samples, in a folder.

    Args:
        folder: that gets the data and the run.
        samples: of which one in a hundred is held out.
        rounds: of the run.
        watch: gets the lineage before anything is written, and again at the end.
        make_record: the record of a sample, by its number.
        open_students: as the context has it.

    Returns:
        phases: phase -> (elapsed, CPU) seconds; before, peak: bytes of resident memory; file: of lineage.db.
    """
    with (folder / "data.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(make_record(number)) + "\n" for number in range(samples))
    clock = _Clock()
    with watch_memory() as memory, RunFolder.create(folder / "runs", "made-up") as run:
        before = memory[0]
        with LineageWriter.create(run.lineage) as lineage:
            config = _config(folder / "data.jsonl", samples, rounds)
            watch(lineage)
            with clock.times("create"):
                given = assign_samples(read_dataset(config.data), config.data.holdout, config.seed)
                begin_lineage(lineage, config, given, {"graph": hash_graph()})
            _run_loop(config, run, lineage, clock, open_students)
            watch(lineage)
    file = (folder / "runs" / "made-up" / "lineage.db").stat().st_size
    phases = clock.seconds | {"all": tuple(map(sum, zip(*clock.seconds.values(), strict=True)))}
    return {"phases": phases, "before": before, "peak": max(memory), "file": file}


def _run_loop(
    config: RunConfig,
    run: RunFolder,
    lineage: LineageWriter,
    clock: "_Clock",
    open_students: Callable[[Path | None], StudentPool],
) -> None:
    def train(config: RunConfig, pairs: Pairs, out: Path, **options: Any) -> dict[str, float]:
        with clock.times("read"):
            read = [sum(1 for _ in pairs) for _ in range(2)]
        assert read == [len(pairs)] * 2, f"{len(pairs)} pairs, and read were {read}"
        out.mkdir(parents=True)
        (out / "adapter_model.safetensors").write_text(out.name)
        (out / "adapter_config.json").write_text("{}")
        return {"pairs": len(pairs)}

    context = LoopContext(
        config=config,
        folder=run,
        lineage=lineage,
        display=LineDisplay(),
        checker=None,
        open_teacher=lambda student: _Teacher(),  # type: ignore[arg-type, return-value]
        open_students=open_students,
        refinetune_student=train,
    )
    with clock.times("evaluate"):
        evaluate_round(context, 0)
        lineage.finish_round(0, None)
    state = LoopState(run=config.name, round=1, phase="instruction", student="s0", stop_reason=None)
    steps = build_graph().stream(
        state, {"recursion_limit": 10 * config.rounds}, context=context, stream_mode="updates"
    )
    while True:
        with clock.times("choose") as booked:  # unless it was something else
            step = next(steps, None)
            if step is None:
                break
            (node,) = step
            booked.append("choose" if node == "refinetune" else node)


class _Clock:
    """Elapsed and CPU seconds by phase; what is timed within another phase is the inner one's alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}

    @contextmanager
    def times(self, phase: str) -> Iterator[list[str]]:
        """Book the block on a phase, or on the last one that is put into the list."""
        booked, before = [phase], self._booked()
        began = time.perf_counter(), time.process_time()
        yield booked
        ended, inner = (time.perf_counter(), time.process_time()), self._booked()
        known = self.seconds.get(booked[-1], (0.0, 0.0))
        self.seconds[booked[-1]] = tuple(  # type: ignore[assignment]
            known[at] + ended[at] - began[at] - (inner[at] - before[at]) for at in range(2)
        )

    def _booked(self) -> list[float]:
        return [sum(times[at] for times in self.seconds.values()) for at in range(2)]


def _config(data: Path, samples: int, rounds: int) -> RunConfig:
    return parse_config(
        {
            "name": "made-up",
            "rounds": rounds,
            "data": {"path": str(data), "holdout": 0.01},
            "teacher": {"engine": "openai", "base_url": "http://localhost", "model": "m", "freeze_after": 2},
            "student": {"model": "/models/made-up", "template": "plain"},
            # All of the pool: the largest training set there can be.
            "selection": {"keep": "all", "train_max_ifd": 1e6, "train_max_r_ifd": 1e6},
            "evaluate": {"base_samples": samples // 100, "max_tokens": 8},
        },
        source="the benchmark",
    )


class _Teacher(_Opened):
    waiting, workers = "", tuple

    def reflect(
        self, reflections: Iterable[Reflection], may_ask: Callable[[], bool]
    ) -> Iterator[list[Reflected]]:
        while group := [self._answer(asked) for asked in islice(reflections, 64) if may_ask()]:
            yield group

    def _answer(self, asked: Reflection) -> Reflected:
        """A longer response, and in its phase a longer instruction; one in ten gets none."""
        is_answered = _draw(asked.sample_id, asked.phase) < 0.9
        pair = Pair(
            asked.pair.instruction + (" Say why." if asked.phase == "instruction" else ""),
            asked.pair.input,
            f"{asked.pair.response} So it is.",
        )
        answer = {"critique": "Too short.", "instruction": pair.instruction, "response": pair.response}
        call = TeacherCall(
            round=asked.round, phase=asked.phase, sample_id=asked.sample_id, candidate=asked.candidate,
            attempt=asked.attempts + 1, engine="openai", model="m", prompt_hash=asked.incumbent_id,
            text=json.dumps(answer), finish_reason="stop", status="ok" if is_answered else "refused",
            error=None, critique="Too short." if is_answered else None, prompt_tokens=300,
            completion_tokens=60, cost_usd=None, seconds=1.0,
        )  # fmt: skip
        place = asked.sample_id, asked.incumbent_id, asked.round, asked.phase, asked.candidate
        return call, Version(*place, pair, call.id) if is_answered else None


def _draw(text: str, what: Phase | Term) -> float:
    return crc32(f"{text}/{what}".encode()) / 2**32


if __name__ == "__main__":
    main()
