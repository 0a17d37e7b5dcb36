"""Both phases of a round at once: the same rows as one after the other, whatever happens meanwhile."""

import itertools
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reflectune.agents.teacher.engines import Request
from reflectune.agents.teacher.prompts import open_prompts
from reflectune.agents.teacher.teacher import Teacher
from reflectune.loop.progress import LineDisplay
from reflectune.loop.run import create_run, run_loop
from reflectune.loop.signals import Interrupted
from reflectune.loop.verify import verify_run
from reflectune.state.config import load_config
from reflectune.state.errors import ConfigError, TeacherError
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import PHASES, Answer, Pair, Score, Term
from tests.teachers import ScriptedEngine, fail, well
from tests.test_nodes import FakeStudent, World, make_world
from tests.torture import read_tables
from tests.worlds import write_world

SAMPLES = 76  # 70 of which are not held out: two groups, and a short one
SECONDS = 10.0  # to wait at most for another thread

Rows = dict[str, list[tuple[object, ...]]]


def scorer(pair: Pair, term: Term) -> Score:
    """Numbers that depend on nothing but what is scored, and take some proposals and refuse others."""
    total = sum(map(ord, pair.instruction + pair.response + term)) % 97
    return Score(-10.0 - total, 10, "ok")


def open_world(folder: Path, *, overlap: bool = True, **sections: Any) -> World:
    sections = {"samples": SAMPLES, "scale": {"overlap": overlap}} | sections
    return make_world(folder, FakeStudent(scorer), **sections)


def set_overlap(world: World, overlap: bool) -> None:
    config = world.context.config
    scale = config.scale.model_copy(update={"overlap": overlap})
    world.context = replace(world.context, config=config.model_copy(update={"scale": scale}))


def ask_with(world: World, engine: Any) -> None:
    """Let an engine be the teacher's."""
    config = world.context.config
    world.context = replace(
        world.context,
        open_teacher=lambda student: Teacher(engine, open_prompts(None), config.teacher, config.seed),
    )


def through(world: World, rounds: int = 1) -> Rows:
    """Go through both phases of some rounds, and tell all rows but their times."""
    for round in range(1, rounds + 1):
        world.through(round)
        world.store.set_round_student(round, "s0")
    return read_tables(world.context.folder.path)


WORLDS: dict[str, dict[str, Any]] = {
    "candidates": {"teacher": {"candidates": 2}},
    "frozen": {"teacher": {"freeze_after": 1}, "selection": {"policy": "r-ifd"}},
    "followed": {"exchanges": 2, "data": {"turns": "each", "holdout": 6}},
    "nothing is compared": {"selection": {"policy": "random"}},
    "one phase": {"phases": ("response",)},
}


@pytest.mark.parametrize("kind", WORLDS)
@pytest.mark.slow
def test_rows_are_those_of_one_phase_after_the_other(tmp_path: Path, kind: str) -> None:
    apart, at_once = (
        open_world(tmp_path / name, overlap=overlap, **WORLDS[kind])
        for name, overlap in (("apart", False), ("at-once", True))
    )
    rounds = 2 if kind == "frozen" else 1
    expected = through(apart, rounds)
    assert len(expected["decisions"]) == rounds * 2 * 70
    assert {dict(row)["reason"] for row in expected["decisions"]} > {"no-candidate", "accepted"}
    assert_same(through(at_once, rounds), expected)
    assert at_once.student.closed <= len(at_once.student.opened) == rounds  # no node had anything left


@pytest.mark.slow
def test_rows_are_the_same_where_some_is_asked_again(tmp_path: Path) -> None:
    def answer(request: Request) -> Answer:
        return well(request, text="") if request.seed % 3 == 0 else well(request)

    teacher = {"engine": "openai", "model": "m", "path": None, "retries": 1}
    found = []
    for overlap in (True, False):
        world = open_world(tmp_path / str(overlap), overlap=overlap, teacher=teacher)
        ask_with(world, ScriptedEngine(answer))
        found.append(through(world))
    attempts = [dict(call)["attempt"] for call in found[0]["teacher_calls"]]
    assert attempts.count(2) > 10
    assert_same(*found)


@pytest.mark.slow
def test_rows_are_the_same_however_often_it_is_stopped_and_whichever_way_it_goes_on(tmp_path: Path) -> None:
    expected = through(open_world(tmp_path / "calm", overlap=False))
    world = open_world(tmp_path / "stopped")
    for life in itertools.count():
        set_overlap(world, life % 3 != 2)
        asked = iter(range(3 + life % 5))  # so often it may ask whether to stop
        world.context = replace(world.context, stopping=lambda asked=asked: next(asked, None) is None)
        try:
            found = through(world)
        except Interrupted:
            assert life < 100
        else:
            break
    assert life > 5
    assert_same(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("scored", range(0, 6, 2))
@pytest.mark.parametrize("goes_on", [True, False])
def test_rows_are_the_same_after_a_kill(tmp_path: Path, scored: int, goes_on: bool) -> None:
    expected = through(open_world(tmp_path / "calm", overlap=False))
    world = open_world(tmp_path / "killed")
    world.student.fails_after = scored
    with pytest.raises(KeyboardInterrupt):
        through(world)
    world.student.fails_after = None
    set_overlap(world, goes_on)
    assert_same(through(world), expected)


def test_groups_are_decided_and_asked_about_further_while_others_are_under_way(tmp_path: Path) -> None:
    asked_further = threading.Event()

    class Student(FakeStudent):
        def score(self, questions: Sequence[tuple[Pair, Term]]) -> list[Score]:
            if self.asked:
                assert asked_further.wait(SECONDS), "no response was asked for while a group was decided"
            return super().score(questions)

    class Engine(ScriptedEngine):
        """Keeps its last answer about an instruction to itself until a group is decided."""

        def submit(self, request: Request) -> None:
            super().submit(request)
            if request.reflection.phase == "response":
                asked_further.set()

        def has_answer(self) -> bool:
            is_last = [request.reflection.phase for request in self.under_way][:2].count("instruction") == 1
            return bool(self.under_way) and not (is_last and not world.store.count_decisions())

        def next_answer(self) -> Answer:
            assert self.has_answer(), "it was waited for, though nothing was decided"
            return super().next_answer()

    sections = {"scale": {"overlap": True}, "evaluate": {"base_samples": 0}}
    world = make_world(tmp_path, Student(scorer), samples=SAMPLES, **sections)
    ask_with(world, Engine(well, capacity=200))
    through(world)
    assert world.store.count_decisions() == 2 * 70


def test_the_time_of_both_is_told_of_one_node_and_every_stage_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = open_world(tmp_path)
    through(world)
    (row,) = world.rows("SELECT metrics FROM rounds WHERE round = 1")
    assert [*json.loads(row["metrics"])["seconds"]] == ["reflect"]
    begun = [line for line in capsys.readouterr().err.splitlines() if line.endswith(": 0/70")]
    stages = [f"{node} · {phase}" for phase in PHASES for node in ("reflect", "select")]
    assert begun == [f"round 1 · {stage}: 0/70" for stage in stages]


@pytest.mark.slow
def test_verify_finds_a_run_whole_wherever_it_stops(tmp_path: Path) -> None:
    config = write_world(
        tmp_path / "world", samples=46, refinetune={"epochs": 1}, scale={"overlap": True}, data={"holdout": 2}
    )
    run = create_run(load_config(config, ["rounds=1"]), tmp_path / "runs")
    responses: set[str] = set()
    for life in itertools.count(1):
        asked = iter(range(6))  # so often the run may ask whether to stop
        with pytest.raises(Interrupted):
            run_loop(run, LineDisplay(), lambda asked=asked: next(asked, None) is None)
        assert verify_run(run)["faults"] == []
        with LineageWriter.open(run.lineage) as lineage:
            rows = lineage.db.query("SELECT id FROM teacher_calls WHERE phase = 'response'")
            if responses := {row["id"] for row in rows}:
                lineage.db.execute("DELETE FROM decisions WHERE phase = 'instruction'")
                break
        assert life < 20
    assert {fault["row"] for fault in verify_run(run)["faults"]} >= responses


def refuse_some(refused: Callable[[int], bool]) -> Callable[[Request], Answer]:
    """Refuse requests by their number."""

    def answer(request: Request) -> Answer:
        return fail(request, "refused-request") if refused(int(request.id)) else well(request)

    return answer


def test_nothing_is_decided_while_a_phase_has_failed_and_all_that_failed_is_asked_again(
    tmp_path: Path,
) -> None:
    world = open_world(tmp_path, selection={"policy": "accept-all"})
    ask_with(world, ScriptedEngine(refuse_some(lambda number: number % 10 > 0), structured=False))
    with pytest.raises(TeacherError, match="63 of 70 proposals failed in round 1, phase instruction"):
        through(world)
    assert world.store.count_decisions() == 0
    engine = ScriptedEngine(well)
    ask_with(world, engine)
    through(world)
    assert len(engine.requests) == 63 + 70
    assert world.store.count_decisions(1, reason="accepted") == 2 * 70


@pytest.mark.slow
@pytest.mark.parametrize("goes_on", [True, False])
def test_what_was_decided_before_a_phase_failed_stays_and_the_rest_is_asked_again(
    tmp_path: Path, goes_on: bool
) -> None:
    world = open_world(tmp_path, selection={"policy": "accept-all"})
    late = refuse_some(lambda number: number >= 32 or number % 4 == 0)  # 8 of the first 32, and all behind
    ask_with(world, ScriptedEngine(late, structured=False, capacity=1))
    with pytest.raises(TeacherError, match="46 of 70 proposals failed in round 1, phase instruction"):
        through(world)
    assert world.store.count_decisions(1, "instruction", "accepted") == 24
    assert world.store.count_decisions(1, "instruction", "no-candidate") == 8
    decided = world.rows("SELECT * FROM decisions")
    engine = ScriptedEngine(well)
    ask_with(world, engine)
    set_overlap(world, goes_on)
    through(world)
    again = [request.reflection.phase for request in engine.requests]
    assert sorted(again) == ["instruction"] * 38 + ["response"] * 70  # of which 32 had failed too
    assert world.rows("SELECT * FROM decisions WHERE phase = 'instruction'")[:32] == decided
    settled = world.store.count_settled(1, "instruction", attempts=1)
    assert settled == {"ok": 62, "refused": 8}


def test_a_share_of_failures_that_gets_smaller_only_delays(tmp_path: Path) -> None:
    decided = []

    def answer(request: Request) -> Answer:
        decided.append(world.store.count_decisions())
        is_refused = int(request.id) < 28 and int(request.id) % 4
        return fail(request, "refused-request") if is_refused else well(request)

    world = open_world(tmp_path)
    ask_with(world, ScriptedEngine(answer, structured=False, capacity=1))
    through(world)
    assert decided[41] == 0  # 21 of 41 have failed
    assert decided[60] == 32
    assert world.store.count_decisions() == 2 * 70


@pytest.mark.slow
@pytest.mark.parametrize("cap", [600, 1000])
def test_a_budget_is_spent_on_the_same_proposals(tmp_path: Path, cap: int) -> None:
    teacher = {"engine": "openai", "model": "m", "path": None, "budget_tokens": cap}
    found = []
    for overlap in (True, False):
        world = open_world(tmp_path / str(overlap), overlap=overlap, teacher=teacher)
        counted = lambda request: well(request, prompt_tokens=6, completion_tokens=4)  # noqa: E731
        ask_with(world, ScriptedEngine(counted, capacity=1))
        found.append(through(world))
        assert len(found[-1]["teacher_calls"]) == cap // 10
    assert_same(*found)


def test_a_student_that_fails_ends_it_with_the_answers_kept(tmp_path: Path) -> None:
    class Student(FakeStudent):
        def score(self, questions: Sequence[tuple[Pair, Term]]) -> list[Score]:
            raise ConfigError("no memory")

    world = make_world(tmp_path, Student(), samples=SAMPLES, scale={"overlap": True})
    engine = ScriptedEngine(well)
    ask_with(world, engine)
    with pytest.raises(ConfigError, match="no memory"):
        through(world)
    assert world.student.closed == 1
    assert engine.closed
    stored = len(world.rows("SELECT * FROM teacher_calls"))
    assert 32 <= stored <= len(engine.requests) <= stored + engine.capacity


def assert_same(found: Rows, expected: Rows) -> None:
    for table in expected.keys() - {"runs"}:
        assert found[table] == expected[table], table


@pytest.mark.parametrize(
    ("teacher", "scale", "message"),
    [
        ({"engine": "vllm", "model": "self"}, {}, 'engine "vllm" takes the device of the student'),
        ({"engine": "transformers", "model": "m"}, {}, 'engine "transformers" takes the device'),
        ({"engine": "batch", "model": "m"}, {"engine": "ray"}, 'engine "batch" answers whole phases only'),
        ({"engine": "vllm", "model": "self"}, {"engine": "ray"}, None),
        ({"engine": "openai", "model": "m"}, {}, None),
    ],
)
def test_who_shares_a_device_cannot_work_at_once(
    tmp_path: Path, teacher: dict[str, str], scale: dict[str, str], message: str | None
) -> None:
    path = write_world(tmp_path, samples=8, teacher=teacher | {"path": None}, scale=scale | {"overlap": True})
    if message is None:
        assert load_config(path).scale.overlap
        return
    with pytest.raises(ConfigError, match=f"scale.overlap: {message}"):
        load_config(path)
