"""What experiment trackers are told: a training's losses by transformers' callbacks, a round's figures here.

A training is a run of its own in the project `track.project`. So are the rounds of a loop. Both go on as the
same run after an interruption, by an id in the folder of the loop's run. Keys and addresses are the trackers'
own settings; none is kept. A tracker that fails is said, and stops nothing.
"""

import importlib.util
import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.tracking import (
    GeneralTracker,
    MLflowTracker,
    TensorBoardTracker,
    TrackioTracker,
    WandBTracker,
)
from transformers import TrainerCallback
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from reflectune.state.config import TrackConfig
from reflectune.state.errors import ConfigError

__all__ = ["check_trackers", "log_round", "tracking_losses"]

_BOARDS = "tensorboard"  # in the folder of a run
_ID = ".tracked"  # the file in it that has the id
_TAG = "reflectune.id"  # of MLflow's runs


def check_trackers(track: TrackConfig) -> None:
    """Raise a ConfigError for a tracker that is not installed."""
    for name in track.to:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"track.to: {name} is not installed; `pip install {name}`, or leave it out")


@contextmanager
def tracking_losses(track: TrackConfig, run: str, out: Path) -> Iterator[dict[str, Any]]:
    """Arguments of the Trainer, and callbacks, that track the losses of one training while the block runs.

    Args:
        track: where to.
        run: name of the loop's run.
        out: folder of the adapter that is trained, in that of the run's adapters.
    """
    if not track.to:
        yield {}
        return
    folder, name = out.parents[1], f"{run}-{out.name}"
    id = f"{_id_of(folder)}-{out.name}"
    settings = {
        "MLFLOW_EXPERIMENT_NAME": track.project,
        "MLFLOW_TAGS": json.dumps({_TAG: id}),
        "TENSORBOARD_LOGGING_DIR": str(folder / _BOARDS / out.name),
    }
    before = {key: os.environ.get(key) for key in (*settings, "MLFLOW_RUN_ID")}
    callbacks = [_Guard(tracker, track.project, run, name, id) for tracker in track.to]
    os.environ.update(settings)
    try:
        yield {"run_name": name, "project": track.project, "callbacks": callbacks}
    finally:
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})
        for callback in callbacks:
            callback.close()


class _Guard(TrainerCallback):  # type: ignore[misc]
    """One tracker's callback, made when a training begins; once it has failed it is left alone."""

    def __init__(self, tracker: str, project: str, group: str, name: str, id: str) -> None:
        self._tracker, self._project = tracker, project
        self._group, self._name, self._id = group, name, id
        self._callback: Any = None
        self._has_failed = False

    def _tell(self, event: str, *arguments: Any, **more: Any) -> None:
        if self._has_failed:
            return
        try:
            if self._callback is None:
                self._begin()
                self._callback = get_reporting_integration_callbacks([self._tracker])[0]()
            getattr(self._callback, event)(*arguments, **more)
        except Exception as error:  # noqa: BLE001 (whatever a tracker's library or server does)
            self._has_failed = True
            text = " ".join(str(error).split()) or type(error).__name__
            logging.getLogger(__name__).warning("track: %s: %s; the training goes on", self._tracker, text)

    def _begin(self) -> None:
        """Have the callback find the run that it shall tell of."""
        if self._tracker == "wandb":
            import wandb

            wandb.init(project=self._project, group=self._group, name=self._name, id=self._id, resume="allow")
        elif self._tracker == "mlflow" and (known := _find_mlflow_run(self._project, self._id)):
            os.environ["MLFLOW_RUN_ID"] = known

    def on_train_begin(self, *arguments: Any, **more: Any) -> None:
        """Begin the tracker's run."""
        self._tell("on_train_begin", *arguments, **more)

    def on_log(self, *arguments: Any, **more: Any) -> None:
        """Tell a loss."""
        self._tell("on_log", *arguments, **more)

    def on_train_end(self, *arguments: Any, **more: Any) -> None:
        """End it."""
        self._tell("on_train_end", *arguments, **more)

    def close(self) -> None:
        """End what the callback leaves open."""
        if self._tracker == "wandb" and self._callback is not None and not self._has_failed:
            import wandb

            wandb.finish()


def log_round(
    name: str, project: str, run: str, folder: Path, round: int, figures: Mapping[str, float]
) -> None:
    """Tell a tracker the figures of a round, as step `round` of the loop's run; twice is as once."""
    PartialState()  # accelerate's trackers ask it whether this is the main process
    tracker = _open(name, project, run, folder)
    tracker.start()
    try:
        tracker.log(dict(figures), step=round)
    finally:
        tracker.finish()


def _open(name: str, project: str, run: str, folder: Path) -> GeneralTracker:
    id = _id_of(folder)
    match name:
        case "tensorboard":
            return TensorBoardTracker("rounds", logging_dir=folder / _BOARDS)
        case "mlflow":
            return MLflowTracker(project, run_id=_find_mlflow_run(project, id), run_name=run, tags={_TAG: id})
        case "wandb":
            return WandBTracker(project, name=run, group=run, id=id, resume="allow")
        case _:
            return TrackioTracker(project, name=f"{run}-{id}", resume="allow")


def _id_of(folder: Path) -> str:
    """What tells a run from others of its name, wherever they are; made when it is first asked for."""
    path = folder / _ID
    if not path.exists():
        path.write_text(secrets.token_hex(6), encoding="ascii")
    return path.read_text(encoding="ascii")


def _find_mlflow_run(project: str, id: str) -> str | None:
    """MLflow's own id of a run that has begun."""
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name(project)
    if experiment is None:
        return None
    found = client.search_runs([experiment.experiment_id], f"tags.`{_TAG}` = '{id}'")
    return found[0].info.run_id if found else None
