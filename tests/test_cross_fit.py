"""Students by halves: none decides about a pair that it was trained on."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reflectune.agents.pool import LocalPool
from reflectune.loop.nodes.refinetune import refinetune
from reflectune.loop.progress import LineDisplay
from reflectune.loop.run import create_run, run_loop
from reflectune.loop.signals import Interrupted
from reflectune.loop.verify import verify_run
from reflectune.state.config import load_config
from reflectune.state.errors import ConfigError
from reflectune.state.records import HALVES, half_of
from tests.test_nodes import FakeStudent, World, make_world, state
from tests.torture import read_tables
from tests.worlds import reflectune, write_world

CROSS_FIT = {"cross_fit": True, "train_max_ifd": 1e6, "train_max_r_ifd": 1e6}


def halves_asked(world: World, sample_of: dict[str, str]) -> dict[str, set[int]]:
    """By the name of the adapter that was asked: the halves of the samples whose given pairs it was shown."""
    asked: dict[str, set[int]] = {}

    def open_student(adapter: Path | None) -> Any:
        assert adapter is not None
        student = FakeStudent()
        shown = asked.setdefault(adapter.name, set())

        def note(pair: Any, term: Any) -> Any:
            if pair.instruction in sample_of:
                shown.add(half_of(sample_of[pair.instruction]))
            return FakeStudent.scorer(pair, term)

        student.scorer = note
        return student

    world.context = replace(
        world.context, open_students=lambda adapter: LocalPool(lambda: open_student(adapter))
    )
    return asked


def test_each_half_is_decided_by_who_was_trained_on_the_other(tmp_path: Path) -> None:
    world = make_world(tmp_path, selection=CROSS_FIT)
    world.through(1)
    refinetune(state(1), world.runtime())
    whole, *parts = (training["pairs"] for training in world.trained)
    assert len(whole) == 30
    assert {*whole} == {*parts[0], *parts[1]}
    trained = dict(
        world.store.db.execute(
            "SELECT instruction, sample_id FROM training_sets JOIN versions ON versions.id = version_id"
        ).fetchall()
    )
    for half, part in zip(HALVES, parts, strict=True):
        assert {half_of(trained[pair.instruction]) for pair in part} == {half}
    asked = halves_asked(world, trained)
    world.through(2)
    assert world.store.count_decisions(2, "instruction") == world.store.count_decisions(2, "response") == 34
    assert asked == {"round-01-half-1": {0}, "round-01-half-0": {1}}
    world.store.db.close()


def test_a_student_by_halves_is_refused_where_it_cannot_be(tmp_path: Path) -> None:
    for sections, why in (
        ({"refinetune": {"start_from": "previous"}}, "has seen both halves"),
        ({"selection": CROSS_FIT | {"scorer": "base"}}, "trained on no pair"),
        ({"scale": {"overlap": True}}, "one after the other"),
        ({"scale": {"engine": "ray"}}, "trained on this machine"),
    ):
        with pytest.raises(ConfigError, match=why):
            make_world(tmp_path / why.replace(" ", ""), **{"selection": CROSS_FIT, **sections})


@pytest.mark.slow
def test_a_run_by_halves_is_the_same_however_often_it_is_stopped(tmp_path: Path) -> None:
    path = write_world(tmp_path, selection=CROSS_FIT)
    calm, cut = (
        create_run(load_config(path, [f"name={name}"]), tmp_path / "runs") for name in ("calm", "cut")
    )
    run_loop(calm, LineDisplay())
    for life in itertools.count():
        asked = iter(range(5 * (life + 1)))  # so often it may ask whether to stop
        try:
            run_loop(cut, LineDisplay(), lambda asked=asked: next(asked, None) is None)
        except Interrupted:
            assert verify_run(cut)["faults"] == []
            assert life < 50
        else:
            break
    assert life > 3
    expected, found = read_tables(calm.path), read_tables(cut.path)
    for table in expected.keys() - {"runs"}:
        assert found[table] == expected[table], table

    names = [f"round-0{round}{half}" for round in (1, 2) for half in ("", "-half-0", "-half-1")]
    assert sorted(path.name for path in (cut.path / "adapters").iterdir()) == names
    assert verify_run(cut)["checked"]["adapters"] == 6
    again = json.loads(reflectune("replay", "cut", "--json", cwd=tmp_path).stdout)
    assert (again["changes"], again["forks_after"]) == ([], None)
    refused = reflectune("replay", "cut", "--score", "--as", "other", cwd=tmp_path)
    assert "decide by halves" in refused.stderr
    refused = reflectune("replay", "cut", "--set", "selection.cross_fit=false", cwd=tmp_path)
    assert "scores are of the students it had" in refused.stderr
    told = json.loads(reflectune("signal", "cut", "--json", cwd=tmp_path).stdout)
    assert told["bias"]["student"] == "s1"
    (cut.adapter(1, 0) / "adapter_config.json").write_text("{}")
    assert [fault["row"] for fault in verify_run(cut)["faults"]] == ["round-01-half-0"]
