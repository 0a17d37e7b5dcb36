"""A run's decisions anew: by its own policy and others, with scores that lack, and with those computed."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.worlds import copy_world, reflectune

pytestmark = pytest.mark.slow

DERIVED = (
    "decisions",
    "training_sets",
    "versions",
    "scores",
    "teacher_calls",
    "students",
    "evaluations",
    "rounds",
)


@pytest.fixture
def world(finished_world: Path, tmp_path: Path) -> Path:
    """A folder with a finished run of two rounds."""
    return copy_world(finished_world, tmp_path)


def replay(world: Path, *options: str, code: int = 0) -> dict[str, Any]:
    done = reflectune("replay", "tiny", *options, "--json", cwd=world)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def rows(world: Path, run: str, table: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(world / "runs" / run / "lineage.db") as db:
        return sorted(db.execute(f"SELECT * FROM {table}").fetchall(), key=repr)


def counts(document: dict[str, Any], name: str) -> list[int]:
    return [phase[name] for round in document["rounds"] for phase in round["phases"]]


def test_a_replay_of_the_runs_own_policy_changes_nothing(world: Path) -> None:
    before = {path.name: path.read_bytes() for path in (world / "runs/tiny").glob("*.toml")}
    found = replay(world)
    assert found["replay"] == "tiny.ifd-r-ifd"
    assert (found["changes"], found["forks_after"], found["scored"]) == ([], None, 0)
    assert [round["round"] for round in found["rounds"]] == [1, 2]
    assert counts(found, "decisions") == [34] * 4
    assert counts(found, "lacking") == [0] * 4
    for table in DERIVED:
        assert rows(world, found["replay"], table) == rows(world, "tiny", table), table
    assert before == {path.name: path.read_bytes() for path in (world / "runs/tiny").glob("*.toml")}
    assert "is a replay of tiny" in reflectune("verify", found["replay"], cwd=world).stderr


def test_a_margin_that_nothing_passes_refuses_all_and_the_road_forks(world: Path) -> None:
    found = replay(world, "--margin", "1e9", "--score", "--as", "strict")
    assert found["forks_after"] == 1
    assert len(found["rounds"]) == 1
    accepted = [row for row in rows(world, "tiny", "decisions") if row[0] == 1 and "accepted" in row]
    instruction, response = found["rounds"][0]["phases"]
    assert instruction["changed"] == sum("instruction" in row for row in accepted) > 0
    assert response["changed"] + response["forked"] >= sum("response" in row for row in accepted) > 0
    assert {change["after"] for change in found["changes"]} <= {"tie", "refused", "no-candidate"}
    decided = rows(world, "strict", "decisions")
    assert {row[0] for row in decided} == {1}
    assert not any("accepted" in row for row in decided)
    assert rows(world, "strict", "training_sets") == []  # no response was improved
    assert rows(world, "strict", "alarms") == []  # they are of the pools that the run has
    # Other tools read it like any run.
    for command in ("show", "report"):
        told = reflectune(command, "strict", cwd=world)
        assert told.returncode == 0, told.stdout
    compared = json.loads(reflectune("compare", "tiny", "strict", "--json", cwd=world).stdout)
    assert compared
    refused = reflectune("resume", "strict", cwd=world)
    assert refused.returncode == 2
    assert "strict is a replay of tiny: nothing goes on in it" in refused.stderr


def test_nothing_of_a_replay_refers_to_what_was_removed(world: Path) -> None:
    found = replay(world, "--set", "selection.margin=1e9")
    with sqlite3.connect(world / "runs" / found["replay"] / "lineage.db") as db:
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        assert {round for (round,) in db.execute("SELECT round FROM versions")} == {0, 1}


def test_scores_that_lack_are_counted_and_computed_by_the_rounds_student_if_asked(world: Path) -> None:
    before = rows(world, "tiny", "scores")
    with sqlite3.connect(world / "runs/tiny/lineage.db") as connection:
        connection.execute(
            "DELETE FROM scores WHERE term LIKE 'instruction%' AND version_id IN "
            "(SELECT winner_id FROM decisions WHERE phase = 'response' AND reason != 'no-candidate')"
        )
    found = replay(world, "--policy", "r-ifd")
    assert found["replay"] is None
    assert counts(found, "lacking")[0] > 0  # phase instruction has no r-IFD
    assert not (world / "runs/tiny.r-ifd").exists()
    told = reflectune("replay", "tiny", "--policy", "r-ifd", cwd=world).stdout
    assert "nothing is kept. --score lets" in " ".join(told.split())
    found = replay(world, "--policy", "r-ifd", "--score")
    assert found["scored"] > 0
    assert counts(found, "lacking") == [0] * len(counts(found, "lacking"))
    policies = {row[4] for row in rows(world, found["replay"], "decisions")}
    assert policies == {"r-ifd"}
    # What the student computes is what the run had: the scores that were deleted come out again.
    had, left, computed = (
        {row[:3]: row[3:7] for row in table}
        for table in (before, rows(world, "tiny", "scores"), rows(world, found["replay"], "scores"))
    )
    again = (had.keys() - left.keys()) & computed.keys()
    assert again
    for key in again:
        assert computed[key][0] == pytest.approx(had[key][0], rel=1e-5)
        assert computed[key][1:] == had[key][1:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "rounds=3"), "a replay changes keys of the section selection alone"),
        (("--policy", "best"), "'best' is no policy"),
        (("--set", "selection.policy=r-ifd"), "give it as --policy"),
        (("--as", "tiny"), "a run called tiny exists"),
    ],
)
def test_what_cannot_be_replayed_is_told_in_a_line(
    world: Path, options: tuple[str, ...], message: str
) -> None:
    done = reflectune("replay", "tiny", *options, cwd=world)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") <= 1
    assert [path.name for path in (world / "runs").iterdir() if "." in path.name] == ["cache.db"] * (
        world / "runs/cache.db"
    ).exists()
