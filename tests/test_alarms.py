"""Alarms: collapses that a teacher brings about, worked out by hand, and a run that sees one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reflectune.loop.alarms import derive_figures, fall_behind, has_lost_entities
from reflectune.loop.progress import LineDisplay
from reflectune.loop.run import create_run, run_loop
from reflectune.loop.show.alarms import explain_alarm
from reflectune.loop.verify import verify_run
from reflectune.state.alarms import ALARMS
from reflectune.state.config import AlarmsConfig, RunConfig, load_config, parse_model
from reflectune.state.errors import ConfigError
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import Evaluation, Pair, Sample, StudentRecord, Version
from tests.lineages import decided, propose, scores_of
from tests.worlds import reflectune, write_world

SAMPLES = 20
Change = Callable[[int, Pair], Pair]


def given(index: int) -> Pair:
    """A pair of four words that no other has: two trigrams."""
    words = " ".join(f"{word}{index}" for word in ("town", "river", "hill", "road"))
    return Pair(f'What did "Anna {index}" see near Konstanz?', "", words)


def make_config(**sections: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "run", "data": {"path": "d"}, "teacher": {"engine": "recorded", "path": "t"},
            "student": {"model": "m"}, "selection": {"policy": "accept-all"},
        } | sections
    )  # fmt: skip


def watch_round(
    path: Path,
    change: Change,
    *,
    accepted: int = SAMPLES,
    tokens: tuple[int, int] = (4, 4),
    ifds: tuple[float, float] = (0.5, 0.5),
    **sections: Any,
) -> tuple[dict[str, float], set[str]]:
    """The figures of a round that changes pairs, the first so many, and the names of the alarms that fire."""
    config = make_config(**sections)
    with LineageWriter.create(path / "lineage.db") as store:
        store.add_run(config.model_dump(mode="json"), data_hash="d", versions={})
        store.add_samples(Sample(f"{index:02}", index, "train", given(index)) for index in range(SAMPLES))
        store.start_round(0)
        store.add_student(StudentRecord("s0", 0, "m", None, None, None, None))
        store.start_round(1)
        for index in range(SAMPLES):
            first = Version(f"{index:02}", None, 0, "original", 0, given(index))
            new = change(index, first.pair)
            made = propose(store, first, new.response, round=1, phase="response", instruction=new.instruction)
            scores = {
                first.id: scores_of(ifds[0], tokens=tokens[0]),
                made.id: scores_of(ifds[1], tokens=tokens[1]),
            }
            reason = "accepted" if index < accepted else "refused"
            store.add_decisions(scores, "s0", [decided(first, made, reason=reason)])
        figures = derive_figures(store, config, 1)
        store.add_alarms(1, figures)
        return figures, {alarm["name"] for alarm in store.alarms(1) if alarm["fires"]}


def say(response: str) -> Change:
    return lambda index, pair: Pair(pair.instruction, "", response.format(i=index))


HEALTHY = say("a{i} b{i} c{i} d{i} e{i}")


def test_a_round_that_rewrites_everything_raises_no_alarm(tmp_path: Path) -> None:
    figures, firing = watch_round(tmp_path, HEALTHY)
    assert figures == {
        "length": 1.0, "diversity": 1.0, "openings": 0.0, "duplicates": 0.0, "ifd_drift": 1.0,
        "entities": 0.0,
    }  # fmt: skip
    assert firing == set()


def test_teacher_that_lengthens(tmp_path: Path) -> None:
    figures, firing = watch_round(tmp_path, HEALTHY, tokens=(4, 24))
    assert (figures["length"], firing) == (6.0, {"length"})  # 24 / 4


def test_teacher_that_loops(tmp_path: Path) -> None:
    figures, firing = watch_round(tmp_path, say("x{i} y{i} z{i} x{i} y{i} z{i} x{i} y{i} z{i}"))
    # Nine words have seven trigrams, and only xyz, yzx and zxy differ; before, both of two did.
    assert figures["diversity"] == pytest.approx(3 / 7)
    assert firing == {"diversity"}


def test_teacher_that_copies(tmp_path: Path) -> None:
    figures, firing = watch_round(tmp_path, say("the same old story"), accepted=15)
    assert figures["openings"] == pytest.approx(15 / 20 - 1 / 20)
    assert figures["duplicates"] == pytest.approx(15 / 20)
    # Two trigrams of the copy and ten of the five others, among forty.
    assert figures["diversity"] == pytest.approx(12 / 40)
    assert firing == {"openings", "duplicates", "diversity"}


def test_teacher_that_forgets_what_was_asked(tmp_path: Path) -> None:
    def forget(index: int, pair: Pair) -> Pair:
        return Pair("What is to be seen?", "", pair.response)

    figures, firing = watch_round(tmp_path, forget, accepted=12)
    assert (figures["entities"], firing) == (12 / 20, {"entities"})


@pytest.mark.parametrize(("accepted", "fires"), [(0, True), (1, False), (10, False), (19, False), (20, True)])
def test_acceptance_near_an_end(tmp_path: Path, accepted: int, fires: bool) -> None:
    figures, firing = watch_round(tmp_path, HEALTHY, accepted=accepted, selection={"policy": "r-ifd"})
    assert figures["acceptance"] == accepted / 20
    assert firing == ({"acceptance"} if fires else set())


@pytest.mark.parametrize(("ifds", "times"), [((0.2, 0.8), 4.0), ((0.8, 0.2), 0.25), ((0.2, 0.5), 2.5)])
def test_ifd_that_drifts_either_way(tmp_path: Path, ifds: tuple[float, float], times: float) -> None:
    figures, firing = watch_round(tmp_path, HEALTHY, ifds=ifds)
    assert figures["ifd_drift"] == pytest.approx(times)
    assert firing == ({"ifd_drift"} if times != 2.5 else set())


@pytest.mark.parametrize(
    ("name", "values", "low", "high", "behind"),
    [
        ("nll", (2.0, 2.5), 2.1, 2.9, 1.25),  # 0.5 behind, half an interval is 0.4
        ("nll", (2.0, 1.5), 1.1, 1.9, 0.0),
        ("accuracy", (0.5, 0.3), 0.2, 0.42, 0.2 / 0.12),
        ("nll", (2.0, 2.5), None, None, None),
        ("accuracy", (0.5, 1.0), 0.7, 1.0 - 2e-16, 0.0),  # rounding
    ],
)
def test_held_out_measure_that_falls_behind(
    name: str, values: tuple[float, float], low: float | None, high: float | None, behind: float | None
) -> None:
    measures = {0: {name: Evaluation(name, values[0], 9, None, None)}}
    measures[2] = {name: Evaluation(name, values[1], 9, low, high)}
    assert fall_behind(measures, 0) is None
    found = fall_behind(measures, 2)
    assert found == (None if behind is None else pytest.approx(behind))
    measures[0][name] = Evaluation(name, values[0], 10, None, None)
    assert fall_behind(measures, 2) is None  # over fewer samples


@pytest.mark.parametrize(
    ("first", "now", "lost"),
    [
        ('Say "no" to 17 people in Paris.', 'He said "No" to 17 of them.', False),  # two of three
        ('Say "no" to 17 people in Paris.', "He said it to 117 of them in Paris.", True),  # one of three
        ("Greet Anna in the city of Kyoto.", "anna was greeted", False),  # one of two
        ("Write something. Make it short.", "It", None),  # words that begin sentences are no names
        ("Add 1,000 and 2.5.", "1000 and 2", True),
    ],
)
def test_entities_are_numbers_quotations_and_names(first: str, now: str, lost: bool | None) -> None:
    assert has_lost_entities(Pair(first, "", ""), Pair("Do it.", "", now)) is lost


def test_fewer_than_twenty_samples_say_nothing(tmp_path: Path) -> None:
    copies = say("the same old story")
    assert watch_round(tmp_path, copies, evaluate={"base_samples": 19}) == ({}, set())


def test_thresholds_are_what_the_config_says_now(tmp_path: Path) -> None:
    watch_round(tmp_path, HEALTHY, tokens=(4, 24))
    for threshold, expected in (
        (6.0, (6.0, False, "median response tokens ×6.00 (above ×6.00)")),
        (5.9, (5.9, True, "median response tokens ×6.00 (above ×5.90)")),
        ("off", (None, False, "median response tokens ×6.00 (off)")),
        (0.5, (0.5, True, "median response tokens ×6.00 (above ×0.50)")),  # an earlier version took it
    ):
        with LineageWriter.open(tmp_path / "lineage.db") as store:
            store.change_config({"alarms.length": (5.0, threshold)})
        with LineageReader.open(tmp_path / "lineage.db") as lineage:
            alarm = lineage.alarms(1)[0]
        assert (alarm["threshold"], alarm["fires"], explain_alarm(alarm)) == expected


@pytest.mark.parametrize(
    ("key", "wrong", "right"),
    [
        ("length", 0.9, 1.0), ("diversity", 1.1, 1.0), ("openings", 1.0, 0.9), ("duplicates", 0.0, 0.1),
        ("acceptance", 0.5, 0.4), ("ifd_drift", 1.0, 1.1), ("held_out", 0.0, 0.1), ("entities", 1.0, "off"),
    ],
)  # fmt: skip
def test_thresholds_that_fire_always_or_never_are_refused(key: str, wrong: float, right: float | str) -> None:
    assert getattr(parse_model(AlarmsConfig, {key: right}, "c"), key) == right
    with pytest.raises(
        ConfigError, match=f"{key}: got {wrong}, which would fire always or never; want a num"
    ):
        parse_model(AlarmsConfig, {key: wrong}, "c")


def test_every_alarm_has_a_threshold() -> None:
    assert list(ALARMS) == list(AlarmsConfig.model_fields)


@pytest.mark.slow
def test_run_says_live_and_afterwards_that_its_teacher_says_one_long_thing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = write_world(
        tmp_path, samples=26, data={"holdout": 2}, selection={"policy": "longest"}, refinetune={"epochs": 1}
    )
    story = " ".join(f"thing{number} is here," for number in range(20))
    entries = [
        {key: record[key] for key in ("instruction", "input")} | {"phase": "response", "new_response": story}
        for record in json.loads((tmp_path / "data.json").read_text())
    ]
    (tmp_path / "teacher.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    run = create_run(load_config(world, ["rounds=1"]), tmp_path / "runs")
    run_loop(run, LineDisplay())
    expected = {"length", "diversity", "openings", "duplicates", "acceptance"}
    line = "accepted proposals 100.0% (below 2% or above 98%)"
    assert line in capsys.readouterr().err
    shown = json.loads(reflectune("show", "tiny", "--json", cwd=tmp_path).stdout)["rounds"][1]["alarms"]
    assert {alarm["name"] for alarm in shown if alarm["fires"]} >= expected
    told = reflectune("show", "tiny", cwd=tmp_path, COLUMNS="300").stdout
    assert f"; {line}" in told
    assert "100.0%!" in told
    reflectune("report", "tiny", cwd=tmp_path)
    assert line in (run.path / "report.html").read_text()
    assert verify_run(run)["faults"] == []
    with LineageWriter.open(run.lineage) as store:
        store.db.execute("UPDATE alarms SET value = 0.5 WHERE name = 'acceptance'")
        store.db.execute("DELETE FROM alarms WHERE name = 'length'")
    faults = {(fault["table"], fault["row"]) for fault in verify_run(run)["faults"]}
    assert faults == {("alarms", "1/acceptance"), ("alarms", "1/length")}
