"""Losses and rounds in files of TensorBoard and MLflow: written by a run, read back by their own readers."""

import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reflectune.agents.tracking import check_trackers, tracking_losses
from reflectune.state.config import TrackConfig
from reflectune.state.errors import ConfigError
from tests.test_cli import as_json
from tests.worlds import ROOT, reflectune, write_world

TRACKERS = ROOT / ".venv/trackers"
needs_trackers = pytest.mark.skipif(
    not TRACKERS.is_dir(),
    reason="no .venv/trackers (make .venv/trackers): TensorBoard and MLflow were not tried",
)


@pytest.mark.slow
@needs_trackers
def test_a_run_tells_tensorboard_and_mlflow_its_losses_and_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(TRACKERS)])
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    write_world(tmp_path, samples=20, track={"to": ["tensorboard", "mlflow"], "project": "tried"})
    assert reflectune("run", "config.toml", cwd=tmp_path).returncode == 0
    shown = as_json(tmp_path, "show", "tiny")
    by_round = {row["round"]: row["evaluations"]["nll"] for row in shown["rounds"]}
    assert by_round.keys() == {0, 1, 2}

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    boards = tmp_path / "runs/tiny/tensorboard"
    rounds = EventAccumulator(str(boards / "rounds")).Reload()
    assert {event.step: pytest.approx(event.value) for event in rounds.Scalars("held_out/nll")} == by_round
    for number, row in enumerate(shown["rounds"][1:], start=1):
        losses = EventAccumulator(str(boards / f"round-{number:02d}")).Reload().Scalars("train/loss")
        assert losses[0].step == 1
        assert all(math.isfinite(event.value) for event in losses)
        assert row["training"] > 0

    from mlflow import MlflowClient

    client = MlflowClient()
    runs = client.search_runs([client.get_experiment_by_name("tried").experiment_id])
    named = {run.info.run_name: run for run in runs}
    assert len(runs) == len(named)
    assert named.keys() == {"tiny", "tiny-round-01", "tiny-round-02"}
    history = client.get_metric_history(named["tiny"].info.run_id, "held_out/nll")
    assert {point.step: pytest.approx(point.value) for point in history} == by_round


def test_a_training_goes_on_without_a_tracker_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(names: list[str]) -> list[Any]:
        raise OSError("no route to the tracker")

    monkeypatch.setattr("reflectune.agents.tracking.get_reporting_integration_callbacks", fail)
    out = tmp_path / "adapters" / "round-01"
    with tracking_losses(TrackConfig(to=["trackio"]), "tiny", out) as told:
        (callback,) = told["callbacks"]
        callback.on_train_begin(None, None, None)
        callback.on_log(None, None, None, logs={"loss": 1.0})
    assert [record.getMessage() for record in caplog.records] == [
        "track: trackio: no route to the tracker; the training goes on"
    ]


def test_a_tracked_run_is_known_by_its_folder_and_the_environment_is_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    monkeypatch.delenv("MLFLOW_TAGS", raising=False)
    ids = []
    for folder in ("a", "a", "b"):
        (tmp_path / folder).mkdir(exist_ok=True)
        with tracking_losses(TrackConfig(to=["mlflow"]), "tiny", tmp_path / folder / "adapters" / "round-01"):
            ids.append(os.environ["MLFLOW_TAGS"])
    assert ids[0] == ids[1] != ids[2]
    assert os.environ["MLFLOW_EXPERIMENT_NAME"] == "mine"
    assert "MLFLOW_TAGS" not in os.environ


@pytest.mark.slow
def test_a_tracker_that_fails_stops_nothing(finished_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reflectune.loop import tracking
    from reflectune.state.lineage.reader import LineageReader

    said: list[str] = []
    told: list[str] = []

    def log(name: str, *arguments: Any) -> None:
        if name == "mlflow":
            raise ConnectionError("no route to the tracker")
        told.append(name)

    monkeypatch.setattr(tracking, "log_round", log)
    with LineageReader.open(finished_world / "runs/tiny/lineage.db") as lineage:
        context: Any = SimpleNamespace(
            config=SimpleNamespace(track=TrackConfig(to=["mlflow", "tensorboard"]), name="tiny"),
            lineage=lineage,
            folder=SimpleNamespace(path=finished_world / "runs/tiny"),
            display=SimpleNamespace(say=said.append),
        )
        tracking.track_round(context, 1)
    assert len(said) == 1
    assert "mlflow: ConnectionError: no route to the tracker" in said[0]
    assert told == ["tensorboard"]


def test_a_tracker_that_is_not_installed_is_told_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"track\.to: trackio is not installed; `pip install trackio`"):
        check_trackers(TrackConfig(to=["trackio"]))
    check_trackers(TrackConfig())
