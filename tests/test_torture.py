"""The kills that `make torture` deals out, one in each place, and what they could break is noticed."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from reflectune.state.config import load_config
from tests.lineages import make_store
from tests.teacher_server import TeacherServer, serve_teacher
from tests.torture import NAME, PLACES, WORLDS, Torture, TortureError, answer

pytestmark = pytest.mark.no_cover


@pytest.mark.slow
def test_a_run_killed_once_in_every_kind_of_place_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    plan = [number for number, place in enumerate(PLACES) if "round 2" not in place.name]
    second = next(number for number, place in enumerate(PLACES) if "round 2 · select" in place.name)
    with serve_teacher(answer) as teacher:
        torture = Torture(tmp_path, teacher)
        torture.torture(seed=0, plan=[*plan, second])
    assert (torture.runs, torture.kills.total()) == (1, len(plan) + 1)


def test_every_world_has_a_config_that_runs(tmp_path: Path) -> None:
    with serve_teacher(answer) as teacher:
        torture = Torture(tmp_path, teacher)
        for world in range(len(WORLDS)):
            load_config(torture.config(world))


def sql(statement: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        with closing(sqlite3.connect(run / "lineage.db", isolation_level=None)) as connection:
            connection.execute(statement)

    return change


def change_weights(run: Path) -> None:
    (run / "adapters/round-01/adapter_model.safetensors").write_bytes(b"other")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "lost row": (sql("DELETE FROM samples WHERE id = 'c'"), "samples differs: 1 rows only undisturbed"),
    "other value": (sql("UPDATE versions SET response = 'x' WHERE sample_id = 'a'"), "versions"),
    "status": (sql("UPDATE runs SET status = 'failed'"), "runs"),
    "metrics": (sql("""UPDATE rounds SET metrics = '{"x": 1}'"""), "rounds"),
    "orphan": (lambda run: (run / "adapters/.round-01.partial").mkdir(), r"\.round-01\.partial"),
    "weights": (change_weights, "adapter_model.safetensors differs"),
}


def make_run(folder: Path) -> Path:
    """A run with a lineage and an adapter."""
    run = folder / "runs" / NAME
    (run / "adapters/round-01").mkdir(parents=True)
    (run / "adapters/round-01/adapter_model.safetensors").write_bytes(b"weights")
    with make_store(run / "lineage.db"):
        pass
    return run


@pytest.mark.parametrize("fault", FAULTS)
def test_a_difference_from_the_undisturbed_run_is_named(tmp_path: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    harness = Torture(tmp_path, TeacherServer(""))
    calm, tortured = tmp_path / "calm", tmp_path / "tortured"
    make_run(calm)
    run = make_run(tortured)
    sql("UPDATE runs SET created_at = '1999-01-01'")(run)
    sql("""UPDATE rounds SET started_at = 'x', metrics = '{"seconds": {"select": 7}}'""")(run)
    harness.compare(calm, tortured)
    change(run)
    with pytest.raises(TortureError, match=message):
        harness.compare(calm, tortured)


def test_calls_that_are_paid_twice_are_named(tmp_path: Path) -> None:
    harness = Torture(tmp_path, TeacherServer("", keys=["Bearer life"] * 10))
    harness.count_lost("life", stored=10, most=0)
    harness.count_lost("life", stored=6, most=4)
    assert harness.uncommitted == 4
    for stored, most in ((9, 0), (5, 4), (11, 4)):
        with pytest.raises(TortureError, match=rf"{10 - stored} calls were asked and not committed"):
            harness.count_lost("life", stored, most)
