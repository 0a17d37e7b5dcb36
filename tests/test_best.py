"""The best round: what the commands call `best`, and what a run ends with that rolls back."""

import json
from pathlib import Path
from typing import Any

import pytest

from reflectune.loop.library import open_run
from reflectune.loop.stopping import final_round
from reflectune.state.config import parse_config
from reflectune.state.errors import ConfigError
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import Evaluation
from tests.test_comparison import write_run
from tests.worlds import reflectune

NLL = {0: 1.0, 1: 2.0}  # round 0 is the better one


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A finished run "one" of a round that took a proposal and made the student worse."""
    lineage = tmp_path / "runs/one/lineage.db"
    lineage.parent.mkdir(parents=True)
    write_run(lineage, accepts="a", nll=NLL[1])
    with LineageWriter.open(lineage) as store:
        store.add_evaluations(0, "s0", [Evaluation("nll", NLL[0], 10, 0.5, 1.5)])
        store.set_run_status("finished")
    return tmp_path


def roll_back(world: Path) -> None:
    with LineageWriter.open(world / "runs/one/lineage.db") as store:
        store.change_config({"stop.rollback": (False, True)})


def told(world: Path, *arguments: object) -> Any:
    done = reflectune(*arguments, "--json", cwd=world)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.slow
def test_round_best_is_taken_by_what_takes_a_round(world: Path) -> None:
    assert [row["round"] for row in told(world, "show", "one", "--round", "best")["rounds"]] == [0]
    assert told(world, "export", "one", "--round", "best", "-o", world / "best.json")["round"] == 0
    assert told(world, "search", "one", "--round", "best")["found"] == 4
    compared = told(world, "compare", "one@1", "one@best")
    assert (compared["before"], compared["after"]) == (1, 0)
    assert compared == told(world, "diff", "one", 1, "best")
    refused = reflectune("signal", "one", "--round", "best", cwd=world)
    assert (refused.returncode, "has no proposals" in refused.stderr) == (2, True)


@pytest.mark.slow
def test_run_that_rolls_back_ends_with_its_best_round(world: Path) -> None:
    out = world / "out.json"
    assert told(world, "export", "one", "-o", out)["round"] == 1
    assert told(world, "show", "one")["best"] == {
        "round": 0, "student": "s0", "name": "nll", "value": 1.0, "n": 10, "low": 0.5, "high": 1.5,
        "is_end": False,
    }  # fmt: skip
    roll_back(world)
    assert told(world, "export", "one", "-o", out)["round"] == 0
    assert [record["output"] for record in json.loads(out.read_text())] == [
        "answer a",
        "answer b",
        "answer c",
    ]
    shown, said = told(world, "show", "one"), reflectune("show", "one", cwd=world, COLUMNS="150").stdout
    assert (shown["best"]["is_end"], len(shown["rounds"])) == (True, 2)  # every round stays
    line = "best: round 0, student s0, held-out nll 1.000 (0.500 to 1.500); the run ends with its best round"
    assert line in said
    assert told(world, "report", "one")["best"] == shown["best"]
    reflectune("report", "one", cwd=world)
    assert f"{line.capitalize()}." in (world / "runs/one/report.html").read_text()


def test_library_gives_the_pool_that_a_run_ends_with(world: Path) -> None:
    def rounds() -> set[int]:
        with open_run("one", world / "runs") as run:
            assert run.rounds == 1
            return {*run.pool().column("round").to_pylist()}

    with LineageWriter.open(world / "runs/one/lineage.db") as store:
        needed = {"data.path": "d", "student.model": "m", "teacher.engine": "recorded", "teacher.path": "t"}
        store.change_config({key: (None, value) for key, value in needed.items()})
    assert rounds() == {1}
    roll_back(world)
    assert rounds() == {0}


def test_run_without_a_measure_ends_with_its_last_round(world: Path) -> None:
    roll_back(world)
    with LineageWriter.open(world / "runs/one/lineage.db") as store:
        store.db.execute("DELETE FROM evaluations")
    with LineageReader.open(world / "runs/one/lineage.db") as lineage:
        assert final_round(lineage) == 1
    assert told(world, "show", "one")["best"] is None
    refused = reflectune("show", "one", "--round", "best", cwd=world)
    assert (refused.returncode, "no round is the best" in refused.stderr) == (2, True)


def test_rollback_needs_held_out_pairs() -> None:
    values: dict[str, Any] = {
        "name": "r", "data": {"path": "d", "holdout": 0}, "teacher": {"engine": "recorded", "path": "t"},
        "student": {"model": "m"}, "stop": {"rollback": True},
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"stop\.rollback need held-out pairs"):
        parse_config(values, source="c")
