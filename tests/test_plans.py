"""What the loop asks its lineage is looked up, or read in one pass: its cost a sample does not grow."""

import re
from collections import Counter
from pathlib import Path

import pytest

from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import PHASES
from tests.bench.loop import measure_loop

pytestmark = [pytest.mark.slow, pytest.mark.no_cover]

ROUNDS = 3
# Tables that are as long as the data; the others have a row or a few a round.
LONG = ("samples", "versions", "teacher_calls", "scores", "decisions", "training_sets")
# Passes through a whole table that are meant, each once or a few times a phase.
PASSES = (
    "SELECT id FROM samples ORDER BY position",
    "SELECT id FROM samples WHERE split = ?",
    "SELECT COUNT(*) FILTER (WHERE split = ?) AS train",
    "SELECT COUNT(*) FROM samples WHERE split = ? AND ( (? = ? AND followed) OR",
    "SELECT COALESCE(SUM(COALESCE(prompt_tokens",
    "SELECT sum_logprob, num_tokens, status, truncated FROM samples CROSS JOIN versions",
    "SELECT COUNT(*) FROM (SELECT ? FROM teacher_calls WHERE status NOT IN",  # up to the first answer
)


class Watcher:
    """The statements that a lineage is asked, as often as they come, and the steps that SQLite takes."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.plans: dict[str, list[str]] = {}
        self.steps = 0

    def __call__(self, lineage: LineageWriter) -> None:
        connection = lineage.db.conn
        if not self.asked:
            connection.set_trace_callback(self._note)
            connection.set_progress_handler(self._count, 100)
            return
        self._ask_as_a_resumed_run(lineage)
        connection.set_trace_callback(None)
        connection.set_progress_handler(None, 0)
        for shape, statement in self.examples.items():
            plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            self.plans[shape] = [detail for *_, detail in plan]

    def _ask_as_a_resumed_run(self, lineage: LineageWriter) -> None:
        for phase in PHASES:
            place = {"candidates": 1, "attempts": 3, "freeze_after": 2}
            assert [*lineage.pending_reflections(ROUNDS, phase, **place)] == []
            assert [*lineage.contests(ROUNDS, phase, 32, freeze_after=2)] == []

    def _note(self, statement: str) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            shape = shape_of(statement)
            self.asked[shape] += 1
            self.examples[shape] = statement

    def _count(self) -> int:
        self.steps += 1
        return 0


def shape_of(statement: str) -> str:
    """A statement with marks for its values, and one mark for a list of them."""
    shape = re.sub(r"'[^']*'|\b\d+(\.\d+)?\b", "?", " ".join(statement.split()))
    return re.sub(r"\(\?(, \?)+\)", "(?, ...)", shape)


def watch(folder: Path, samples: int) -> Watcher:
    watcher = Watcher()
    folder.mkdir()
    measure_loop(folder, samples, ROUNDS, watch=watcher)
    return watcher


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Watcher, Watcher]:
    """Three rounds over some samples, and over twice as many."""
    folder = tmp_path_factory.mktemp("watched")
    both = watch(folder / "some", 640), watch(folder / "twice", 1280)
    assert min(len(watcher.plans) for watcher in both) > 20
    return both


def test_no_question_of_the_loop_sorts_more_than_a_page(watched: tuple[Watcher, Watcher]) -> None:
    for shape, plan in watched[0].plans.items():
        is_page = "IN (?, ...)" in shape
        sorts = [step for step in plan if "TEMP B-TREE" in step and "count(DISTINCT)" not in step]
        assert is_page or not sorts, f"{shape}: {plan}"
        assert not any("AUTOMATIC" in step for step in plan), f"{shape}: {plan}"


def test_the_loop_walks_through_whole_tables_where_that_is_meant_alone(
    watched: tuple[Watcher, Watcher],
) -> None:
    plans = watched[0].plans
    for shape, plan in plans.items():
        if any(step.startswith(f"SCAN {table}") for step in plan for table in LONG):
            assert shape.startswith(PASSES), f"{shape}: {plan}"
    assert not [known for known in PASSES if not any(shape.startswith(known) for shape in plans)]


def test_what_the_loop_asks_for_every_group_is_a_page(watched: tuple[Watcher, Watcher]) -> None:
    some, twice = watched
    for shape, times in twice.asked.items():
        if times > some.asked[shape]:
            assert "LIMIT ?" in shape or "IN (?, ...)" in shape or "json_each" in shape, shape


def test_twice_the_samples_take_twice_the_steps(watched: tuple[Watcher, Watcher]) -> None:
    some, twice = watched
    assert 1.9 * some.steps < twice.steps < 2.05 * some.steps
