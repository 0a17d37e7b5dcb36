"""Experiments: their figures by hand, and whole ones of tiny runs that fail, stop and go on."""

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reflectune.loop.experiments.figures import describe_experiment, estimate
from reflectune.loop.experiments.plan import Experiment, load_experiment
from reflectune.loop.experiments.running import _Job, _next, open_experiment
from reflectune.loop.show.experiment import explain_experiment, tabulate_experiment, tell_estimate, write_page
from reflectune.loop.show.terminal.experiment import render_experiment
from reflectune.state.cache import AnswerCache
from reflectune.state.errors import ConfigError
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import PHASES, Evaluation
from tests.lineages import decided, make_store, original
from tests.worlds import reflectune, write_world

PLAN = """
base = "config.toml"
seeds = [0, 1]
tokens = 300
figures = "own:figures"
[all]
rounds = 1
evaluate.answers = 0
[arms.method]
[arms.lots]
equal_acceptance_to = "method"
[arms.raw]
raw = true
"""
# It answers nothing about this world, so that most proposals fail.
BROKEN = '[arms.broken]\nteacher.path = "nothing.jsonl"\n'
NOTHING = '{"phase": "response", "instruction": "-", "input": "", "new_response": "-"}\n'
OWN = """
def figures(lineage, config):
    pool = list(lineage.pool(lineage.last_round()))
    return {"pairs": len(pool), "with the seed": len(pool) + config.seed, "unknown": None}
"""


def test_estimate_is_students_t_over_the_seeds() -> None:
    # Mean 60, standard deviation 10, t = 4.303 with 2 degrees of freedom: 4.303 * 10 / sqrt(3) = 24.84.
    found = estimate([50.0, 60.0, 70.0])
    assert found["mean"] == 60
    assert found["high"] == pytest.approx(60 + 24.84, abs=0.01)
    assert found["low"] == pytest.approx(60 - 24.84, abs=0.01)
    assert estimate([0.5, None]) == {"mean": 0.5, "low": None, "high": None, "n": 1}
    assert estimate([None]) == {"mean": None, "low": None, "high": None, "n": 0}
    # Two seeds: s = sqrt(2), t = 12.706; 100 seeds of 0 and 2: at least as wide as t = 1.984 makes it.
    assert estimate([0.0, 2.0])["high"] == pytest.approx(1 + 12.706, abs=0.001)
    assert 1 + 1.984 * 1.005 / 10 < (estimate([0.0, 2.0] * 50)["high"] or 0) < 1.22


def made(folder: Path, accuracies: dict[str, tuple[float, ...]], seeds: int = 3) -> Experiment:
    """An experiment whose finished runs have these accuracies, after 0.25 before any training."""
    (folder / "base.toml").write_text(
        '[data]\npath = "d"\n[teacher]\nengine = "recorded"\npath = "t"\n[student]\nmodel = "m"\n'
    )
    arms = "\n".join(f"[arms.{arm}]" for arm in accuracies)
    (folder / "abl.toml").write_text(f'base = "base.toml"\nseeds = {[*range(seeds)]}\n{arms}\n')
    experiment = load_experiment(folder / "abl.toml")
    for arm, values in accuracies.items():
        for seed, value in enumerate(values):
            (folder / f"{arm}-{seed}").mkdir()
            held_out = 2 if arm == "other" else 1
            with make_store(folder / f"{arm}-{seed}" / "lineage.db", 3, held_out) as store:
                store.add_evaluations(0, "s0", [Evaluation("accuracy", 0.25, 4, 0.1, 0.5)])
                store.start_round(1)
                for phase in PHASES:
                    given = (decided(original(sample), phase=phase) for sample in "abc")
                    store.add_decisions({}, "s0", [*given])
                store.add_evaluations(1, "s0", [Evaluation("accuracy", value, 4, 0.1, 0.9)])
                store.set_run_status("finished")
    return experiment


def test_shares_are_written_as_percentages() -> None:
    known = estimate([0.5, 0.52, 0.54])
    for name in ("accuracy", "acceptance", "win_rate_s0", "lc_win_rate_references"):
        assert tell_estimate(name, known) == "52.0% ± 5.0%", name
    assert tell_estimate("nll", known) == "0.520 ± 0.050"


def test_differences_are_taken_seed_by_seed_and_a_failed_run_is_no_figure(tmp_path: Path) -> None:
    experiment = made(tmp_path, {"base": (0.5, 0.6, 0.7), "more": (0.6, 0.7, 0.8), "other": (0.5, 0.6)})
    document = describe_experiment(experiment, tmp_path, {"more-2": "it was too hot"})
    base, more, other = document["arms"]
    assert base["figures"]["held_out"]["accuracy"]["mean"] == pytest.approx(0.6)
    assert base["differences"] == {}
    # The third seed failed: 0.6 and 0.7 against 0.5 and 0.6 of the same seeds.
    assert more["figures"]["held_out"]["accuracy"]["n"] == 2
    assert more["figures"]["held_out"]["accuracy"]["mean"] == pytest.approx(0.65)
    assert more["differences"]["held_out"]["accuracy"]["mean"] == pytest.approx(0.1)
    assert more["differences"]["held_out"]["accuracy"]["high"] == pytest.approx(0.1)
    assert [run["figures"] is None for run in more["runs"]] == [False, False, True]
    assert [run["status"] for run in other["runs"]] == ["finished", "finished", "none"]
    assert [arm["same_held_out"] for arm in document["arms"]] == [True, True, False]
    assert document["before"]["accuracy"]["mean"] == 0.25
    held_out, less, *_ = tabulate_experiment(document)
    assert [tuple(row) for row in held_out.rows] == [
        ("base", "3 of 3", "60.0% ± 24.8%"),
        ("more", "2 of 3", "65.0% ± 63.5%"),
        ("other", "2 of 3", "55.0% ± 63.5%"),
    ]
    assert tuple(less.rows[0]) == ("more", "2 of 3", "+10.0% ± 0.0%")
    told = " ".join(explain_experiment(document))
    assert "more-2 failed: it was too hot" in told
    assert "other has other held-out pairs than base" in told
    assert "Before any training: accuracy 25.0% ± 0.0%." in told


def test_measures_over_other_numbers_of_answers_have_no_difference(tmp_path: Path) -> None:
    experiment = made(tmp_path, {"a": (0.5, 0.5), "b": (0.75, 0.75)}, seeds=2)
    with LineageWriter.open(tmp_path / "b-1" / "lineage.db") as store:
        store.db.execute("UPDATE evaluations SET n = 3 WHERE round = 1")
    document = describe_experiment(experiment, tmp_path, {})
    _, arm = document["arms"]
    assert arm["other_answers"] == ["accuracy"]
    assert arm["differences"]["held_out"]["accuracy"]["n"] == 1  # of the other seed
    assert any(
        "b: accuracy over another number of held-out pairs" in it for it in explain_experiment(document)
    )


def test_a_figure_that_fewer_seeds_have_says_how_many(tmp_path: Path) -> None:
    experiment = made(tmp_path, {"a": (0.5, 0.75), "b": (0.5, 0.5)}, seeds=2)
    for run, values in {"a-0": (7.0,), "a-1": (), "b-0": (7.0,), "b-1": (9.0,)}.items():
        with LineageWriter.open(tmp_path / run / "lineage.db") as store:
            store.add_evaluations(1, "s0", [Evaluation("nll", value, 4, 0.1, 0.9) for value in values])
    held_out, *_ = tabulate_experiment(describe_experiment(experiment, tmp_path, {}))
    assert [tuple(row)[1:] for row in held_out.rows] == [
        ("2 of 2", "62.5% ± 158.8%", "7.000 (1)"),
        ("2 of 2", "50.0% ± 0.0%", "8.0 ± 12.7"),
    ]


def test_one_seed_has_no_interval_and_says_so(tmp_path: Path) -> None:
    document = describe_experiment(made(tmp_path, {"a": (0.5,), "b": (0.75,)}, seeds=1), tmp_path, {})
    held_out, less, *_ = tabulate_experiment(document)
    assert (held_out.rows[1][-1], less.rows[0][-1]) == ("75.0%", "+25.0%")
    assert any("no interval" in note for note in explain_experiment(document))


def test_a_run_that_rolls_back_counts_with_its_best_round(tmp_path: Path) -> None:
    experiment = made(tmp_path, {"a": (0.125,)}, seeds=1)  # after 0.25
    with LineageWriter.open(tmp_path / "a-0" / "lineage.db") as store:
        store.change_config({"stop.rollback": (False, True)})
    (arm,) = describe_experiment(experiment, tmp_path, {})["arms"]
    assert arm["figures"]["held_out"]["accuracy"]["mean"] == 0.25
    assert arm["rolls_back"]
    assert arm["figures"]["data"]["response_tokens"]["n"] == 0  # of the pool of round 0, which has no scores


def test_an_arm_that_shares_no_seed_with_the_baseline_has_no_say_about_held_out_pairs(tmp_path: Path) -> None:
    document = describe_experiment(made(tmp_path, {"a": (0.5,), "b": ()}, seeds=1), tmp_path, {})
    assert [arm["same_held_out"] for arm in document["arms"]] == [True, None]
    assert not any("held-out pairs" in note for note in explain_experiment(document))


def test_what_a_name_or_message_holds_is_text_on_the_page_and_inert_on_a_terminal(tmp_path: Path) -> None:
    experiment = made(tmp_path, {"a": (0.5,)}, seeds=1)
    document = describe_experiment(experiment, tmp_path, {"a-0": "<script>alert(1)</script>\x1b[31m"})
    write_page(document, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "http:" not in page.replace("http-equiv", "")
    assert "\x1b" not in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert "\x1b" not in str(render_experiment(document).renderables)  # type: ignore[attr-defined]


def test_runs_of_one_seed_are_side_by_side_only_where_no_others_are_left(tmp_path: Path) -> None:
    experiment = made(tmp_path, {"a": (), "b": ()}, seeds=2)
    a0, b0, a1, b1 = experiment.runs
    job_of_a0, job_of_a1 = (_Job(run, None, None) for run in (a0, a1))  # type: ignore[arg-type]
    assert _next([a0, b0, a1, b1], []) == a0
    assert _next([b0, a1, b1], [job_of_a0]) == a1
    assert _next([b0, b1], [job_of_a0]) == b1
    assert _next([b0], [job_of_a0]) == b0
    assert _next([], []) is None
    lots = replace(b0, acceptance_of="a-0")
    assert _next([lots], [job_of_a0]) is None
    assert _next([a0, lots], []) == a0
    assert _next([lots], [job_of_a1]) == lots


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of 12 samples with a plan of three arms and two seeds."""
    folder = tmp_path_factory.mktemp("experiment")
    write_world(folder, samples=12, data={"holdout": 3})
    (folder / "abl.toml").write_text(PLAN)
    (folder / "own.py").write_text(OWN)
    (folder / "nothing.jsonl").write_text(NOTHING)
    return folder


def run(world: Path, *options: str, code: int = 0) -> dict[str, Any]:
    done = reflectune("experiment", "abl.toml", "--json", *options, cwd=world)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def written(world: Path) -> dict[str, int]:
    """When each lineage was last written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in world.glob("runs/abl/*/lineage.db")}


@pytest.mark.slow
def test_an_experiment_stops_when_asked_and_goes_on_by_the_same_command(world: Path) -> None:
    def interrupt() -> None:
        while not written(world):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    stopped = reflectune("experiment", "abl.toml", "--json", cwd=world)
    assert stopped.returncode == 130, stopped.stderr
    assert stopped.stdout == ""
    assert "go on with `reflectune experiment abl.toml`" in stopped.stderr
    assert [*written(world)] == ["method-0"]

    document = run(world, "--jobs", "2")
    assert [arm["arm"] for arm in document["arms"]] == ["method", "lots", "raw"]
    for arm in document["arms"]:
        assert [made["status"] for made in arm["runs"]] == ["finished", "finished"]
        assert arm["figures"]["held_out"]["nll"]["n"] == 2
        assert arm["figures"]["own"]["pairs"]["mean"] == 9
        assert arm["figures"]["own"]["with the seed"]["mean"] == 9.5
        assert arm["figures"]["own"]["unknown"] == {"mean": None, "low": None, "high": None, "n": 0}
        assert 250 < arm["figures"]["data"]["training_tokens"]["mean"] < 1000
    _, lots, raw = document["arms"]
    assert raw["figures"]["data"]["acceptance"]["mean"] is None
    assert raw["figures"]["data"]["training_pairs"]["mean"] == 9
    assert raw["differences"]["held_out"]["nll"]["n"] == 2
    with LineageReader.open(world / "runs/abl/lots-0/lineage.db") as lineage:
        rates = lineage.settings()["config"]["selection"]["random_rate"]
    with LineageReader.open(world / "runs/abl/method-0/lineage.db") as lineage:
        taken = [(count["accepted"], count["decided"]) for count in lineage.count_by_phase()]
    assert rates == [accepted / decided for accepted, decided in taken]
    assert len(set(rates)) > 1
    assert lots["policy"] == "random"
    assert reflectune("show", "lots-1", "--runs", "runs/abl", cwd=world).returncode == 0
    assert reflectune("verify", "raw-1", "--runs", "runs/abl", cwd=world).returncode == 0


@pytest.mark.slow
def test_an_arm_that_fails_keeps_no_other_from_going_on_and_is_no_figure(world: Path) -> None:
    if not (world / "runs/abl/raw-1").exists():
        run(world)
    before = written(world)
    more = '[arms.after]\nselection.policy = "accept-all"\n[arms.alike]\nequal_acceptance_to = "broken"\n'
    (world / "abl.toml").write_text(PLAN + BROKEN + more)
    document = run(world, code=1)
    broken, after, alike = document["arms"][-3:]
    assert [made["status"] for made in broken["runs"]] == ["failed", "failed"]
    assert all("no-entry" in made["error"] for made in broken["runs"])
    assert (broken["figures"], broken["differences"]) == ({}, {})
    assert [made["status"] for made in after["runs"]] == ["finished", "finished"]
    assert after["figures"]["data"]["acceptance"]["mean"] == 1
    assert [made["status"] for made in alike["runs"]] == ["none", "none"]
    assert "broken-0, whose acceptance it takes" in alike["runs"][0]["error"]
    assert "broken-1 failed" in (world / "runs/abl/report.html").read_text()
    assert {name: written(world)[name] for name in before} == before  # what was finished is left alone


@pytest.mark.slow
def test_what_cannot_run_is_said_before_anything_runs(world: Path) -> None:
    for plan, message in {
        PLAN.replace("own:figures", "own:gone"): "module own has no gone",
        PLAN + '[arms.x]\ndata.path = "gone.json"\n': "gone.json",
        PLAN + '[arms.x]\nteacher.path = "gone.jsonl"\n': "gone.jsonl",
        PLAN + '[arms.x]\nstudent.model = "./gone"\n': "gone",
    }.items():
        (world / "odd.toml").write_text(plan)
        refused = reflectune("experiment", "odd.toml", cwd=world)
        assert refused.returncode == 2
        assert message in refused.stderr
        assert not (world / "runs/odd").exists()
    (world / "runs" / "odd").mkdir(parents=True)
    (world / "odd.toml").write_text(PLAN)
    assert "is no experiment's folder" in reflectune("experiment", "odd.toml", cwd=world).stderr


@pytest.mark.slow
def test_an_experiment_takes_answers_of_the_cache_that_its_folder_stands_in(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    plan = world / "cached.toml"
    plan.write_text(PLAN + '[all.teacher]\nengine = "openai"\nmodel = "m"\npath = "unset"\ncache = "only"\n')
    with (
        pytest.raises(ConfigError, match=r"there is no .*/runs/cache\.db"),
        open_experiment(load_experiment(plan), tmp_path / "runs"),
    ):
        pass
    with AnswerCache.open(tmp_path / "runs"):
        pass
    with open_experiment(load_experiment(plan), tmp_path / "runs") as folder:
        assert folder == tmp_path / "runs/cached"


def test_figures_of_ones_own_are_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reflectune.loop.experiments import figures

    def say_nan(lineage: object, config: object) -> dict[str, float]:
        return {"share": float("nan")}

    monkeypatch.setattr(figures, "load_function", lambda key, name: say_nan)
    monkeypatch.setattr(figures, "parse_config", lambda values, source: None)
    experiment = made(tmp_path, {"a": (0.5,)}, seeds=1)
    object.__setattr__(experiment, "figures", "own:say_nan")
    with pytest.raises(ConfigError, match=r"of a-0: share is nan; want a number or None"):
        describe_experiment(experiment, tmp_path, {})
