"""The demo as a user starts it: the command, its run, and what must come out of it."""

import json
import shlex
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reflectune.loop.demo import demo
from reflectune.loop.demo.demo import demo_config, open_demo
from reflectune.state.config import RunConfig, load_config
from reflectune.state.records import PHASES
from tests.worlds import child_environment, reflectune, run_process

SMALL = ("demo", "--rounds", "2", "--samples", "160", "--json")


@pytest.mark.slow
def test_open_demo_names_runs_by_what_is_changed_and_finds_them_again(tmp_path: Path) -> None:
    folder = open_demo(tmp_path, samples=30)
    assert folder.path.name == "demo-30-samples"
    before = folder.config.read_text()
    assert open_demo(tmp_path, samples=30).config.read_text() == before
    other = open_demo(tmp_path, rounds=5, policy="r-ifd", seed=2, samples=30)
    assert other.path.name == "demo-5-rounds-r-ifd-seed-2-30-samples"
    config = load_config(other.config)
    assert (config.rounds, config.selection.policy, config.seed) == (5, "r-ifd", 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--runs", "afile"), "reflectune: afile: cannot make a run there"),
        (("--runs", "afile/below"), "reflectune: afile/below: cannot make a run there"),
        (("--runs", "others"), "is no run; move it"),
        (("--policy", "best"), "policy"),
    ],
)
def test_demo_refuses_in_one_line_and_leaves_alone_what_is_there(
    tmp_path: Path, options: tuple[str, str], message: str
) -> None:
    (tmp_path / "afile").write_text("mine")
    (tmp_path / "others/demo").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    result = reflectune("demo", *options, cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def config_with_less_training(*place: Any, **settings: Any) -> RunConfig:
    """The demo's, with a third of the training: enough to see what must come out of it."""
    config = demo_config(*place, **settings)
    return config.model_copy(update={"refinetune": config.refinetune.model_copy(update={"tokens": 25_000})})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a small demo, and what it said."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "demo_config", config_with_less_training)
        open_demo(folder / "runs", rounds=2, samples=160)
    result = run_process(*SMALL, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, json.loads(result.stdout)


@pytest.mark.slow
def test_demo_ends_with_a_student_better_than_the_first_by_more_than_noise(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    _, document = finished
    rounds = document["rounds"]
    assert [row["round"] for row in rounds] == [0, 1, 2]
    assert rounds[0]["exact_match"]["high"] < rounds[-1]["exact_match"]["low"]
    assert rounds[0]["exact_match"]["value"] <= 0.35
    assert rounds[-1]["pool_right"] > rounds[0]["pool_right"] + 0.2
    for row in rounds[1:]:
        assert row["alarms"]
        assert not [alarm for alarm in row["alarms"] if alarm["fires"]]
        assert row["training"] > 0
        for phase in PHASES:
            assert row[phase]["reflected"] > 0


@pytest.mark.slow
def test_demo_leaves_a_complete_lineage(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, document = finished
    with sqlite3.connect(folder / "runs" / document["name"] / "lineage.db") as connection:

        def count(query: str) -> int:
            return int(connection.execute(f"SELECT COUNT(*) FROM {query}").fetchone()[0])

        assert count("samples WHERE split = 'train'") == 160
        assert count("decisions") == 160 * 2 * 2
        assert count("(SELECT DISTINCT round, phase, sample_id FROM teacher_calls)") == 160 * 2 * 2
        assert count("evaluations WHERE name = 'accuracy'") == 3
        assert connection.execute("SELECT status FROM runs").fetchone() == ("finished",)
    verified = reflectune("verify", document["name"], cwd=folder)
    assert verified.returncode == 0, verified.stdout


@pytest.mark.slow
def test_demo_closes_with_tables_a_story_and_what_to_type_next(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    folder, document = finished
    result = reflectune(*(word for word in SMALL if word != "--json"), cwd=folder, COLUMNS="100")
    assert result.returncode == 0, result.stderr
    story = document["trace"]["position"]
    for text in ("exact match (95 %)", "pool", f"at position {story} (train)", "criticism", "decision"):
        assert text in result.stdout
    assert "has run before" in result.stderr
    first = shlex.split(result.stdout.partition("\nNext\n")[2].splitlines()[0])
    assert first[1:] == ["trace", document["name"], str(story)]
    traced = subprocess.run(first, cwd=folder, env=child_environment(), capture_output=True, check=True)
    assert traced.stdout
