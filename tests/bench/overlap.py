"""What a round's two phases take with and without overlap, where teacher and student each need their time.

The nodes, the store and the HTTP teacher are real. Its server answers at a fixed rate, however many questions
are under way; the student takes a fixed time for a group of samples, and its scores are made up. So the time
that a perfect overlap takes is known: that of the slower of the two.

    python -m tests.bench.overlap
"""

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from langgraph.runtime import Runtime

from reflectune.agents.pool import LocalPool
from reflectune.agents.teacher.teacher import open_teacher
from reflectune.loop.context import SAMPLES_AT_ONCE, LoopContext
from reflectune.loop.nodes.reflect import reflect
from reflectune.loop.nodes.select import select
from reflectune.loop.progress import LineDisplay
from reflectune.state.config import parse_config
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import PHASES, Pair, Sample, Score, StudentRecord, Term
from tests.bench.results import options, publish, table
from tests.teacher_server import Reply, improve, serve_teacher

_SAMPLES = 320
_RATE = 64.0  # answers a second
_STUDENTS = (0.5, 1.0, 2.0)  # the student's time, as a part of the teacher's
_MOST = 1.1  # times the slower of the two


def main() -> None:
    arguments = options(__doc__).parse_args()
    teacher = len(PHASES) * _SAMPLES / _RATE
    rows, worst = [], 0.0
    for part in _STUDENTS:
        apart, at_once = (_measure(part * teacher, overlap=overlap) for overlap in (False, True))
        slower = max(1.0, part) * teacher
        worst = max(worst, at_once / slower)
        cells = (teacher, part * teacher, apart, at_once)
        rows.append(f"{' | '.join(f'{seconds:.1f}' for seconds in cells)} | {at_once / slower:.2f}")
    body = [
        f"Both phases of a round of {_SAMPLES} samples, {_RATE:.0f} answers a second, seconds.",
        "",
        *table("teacher alone | student alone | without overlap | with overlap | times the slower", rows),
        f"Most times the slower of the two: {worst:.2f} (bar: {_MOST}).",
    ]
    publish("Overlap", body, arguments)


class _Student(AbstractContextManager["_Student"]):
    """Scores that are made up."""

    def __exit__(self, *error: object) -> None: ...

    def score(self, targets: Sequence[tuple[Pair, Term]]) -> list[Score]:
        """A number for each target, at once."""
        return [Score(-10.0 - len(pair.response), 10, "ok") for pair, _ in targets]


class _Pool(LocalPool):
    """One student that takes so many seconds for each group."""

    def __init__(self, seconds: float) -> None:
        super().__init__(_Student)
        self._seconds, self._computing = seconds, threading.Lock()

    def submit(self, job: Callable[[Any], Any], about: str = "", size: int = 1) -> Any:
        """Have a group decided as soon as the one before is."""

        def compute(student: Any) -> Any:
            with self._computing:
                time.sleep(self._seconds)
                return job(student)

        return super().submit(compute, about, size)


def _measure(student: float, *, overlap: bool) -> float:
    """Seconds that both phases take where the student needs so many for all its groups."""
    groups = len(PHASES) * _SAMPLES // SAMPLES_AT_ONCE
    due, lock = time.monotonic(), threading.Lock()

    def answer(request: dict[str, Any], number: int) -> Reply:
        nonlocal due
        with lock:
            now = time.monotonic()
            due = max(now, due) + 1 / _RATE
            return Reply(improve(request, number).text, delay=due - now)

    with tempfile.TemporaryDirectory() as folder, serve_teacher(answer) as server:
        run = RunFolder(Path(folder))
        teacher = {
            "engine": "openai",
            "base_url": server.url,
            "model": "m",
            "concurrency": 32,
            "cache": "off",
        }
        config = parse_config(
            {
                "name": "overlap",
                "data": {"path": "/data/made-up"},
                "teacher": teacher,
                "student": {"model": "/models/made-up", "template": "plain"},
                "scale": {"overlap": overlap},
            },
            source="the benchmark",
        )
        with LineageWriter.create(run.lineage) as lineage:
            _begin(lineage)
            context = LoopContext(
                config=config,
                folder=run,
                lineage=lineage,
                display=LineDisplay(),
                checker=None,
                open_teacher=lambda student: open_teacher(config.teacher, config.seed),
                open_students=lambda adapter: _Pool(student / groups),
            )
            began = time.monotonic()
            for phase in PHASES:
                for node in (reflect, select):
                    node(
                        {"run": "overlap", "round": 1, "phase": phase, "student": "s0", "stop_reason": None},
                        Runtime(context=context),
                    )
            seconds = time.monotonic() - began
            assert lineage.count_decisions(1) == len(PHASES) * _SAMPLES
    return seconds


def _begin(lineage: LineageWriter) -> None:
    lineage.add_run({"name": "overlap", "seed": 0}, data_hash="", versions={})
    lineage.add_samples(
        Sample(f"{number:016x}", number, "train", Pair(f"Say {number}.", "", f"It is {number}."))
        for number in range(_SAMPLES)
    )
    lineage.start_round(0)
    lineage.add_student(StudentRecord("s0", 0, "base", None, None, None, None))


if __name__ == "__main__":
    main()
