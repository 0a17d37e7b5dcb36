"""What experiment trackers are told: a training's losses by the Trainer itself, a round's figures here.

A training is a run of its own in the project `track.project`. So are the rounds of a loop, which go on under
the same name after an interruption. Keys and addresses are the trackers' own settings; none is kept.
"""

import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.tracking import (
    GeneralTracker,
    MLflowTracker,
    TensorBoardTracker,
    TrackioTracker,
    WandBTracker,
)

from reflectune.state.config import TrackConfig
from reflectune.state.errors import ConfigError

__all__ = ["check_trackers", "log_round", "tracking_losses"]

_BOARDS = "tensorboard"  # in the folder of a run


def check_trackers(track: TrackConfig) -> None:
    """Raise a ConfigError for a tracker that is not installed."""
    for name in track.to:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"track.to: {name} is not installed; `pip install {name}`, or leave it out")


@contextmanager
def tracking_losses(track: TrackConfig, run: str, out: Path) -> Iterator[dict[str, Any]]:
    """Arguments of the Trainer that track the losses of one training, while the block runs.

    Args:
        track: where to.
        run: name of the loop's run.
        out: folder of the adapter that is trained, in that of the run's adapters.
    """
    name = f"{run}-{out.name}"
    settings = {
        "WANDB_PROJECT": track.project,
        "WANDB_RUN_GROUP": run,
        "WANDB_RUN_ID": name,
        "WANDB_RESUME": "allow",
        "MLFLOW_EXPERIMENT_NAME": track.project,
        "TENSORBOARD_LOGGING_DIR": str(out.parents[1] / _BOARDS / out.name),
    }
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    try:
        yield {"report_to": list(track.to), "run_name": name, "project": track.project}
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
        if "wandb" in track.to:  # which the Trainer leaves open
            import wandb

            wandb.finish()


def log_round(track: TrackConfig, run: str, folder: Path, round: int, figures: Mapping[str, float]) -> None:
    """Tell every tracker the figures of a round, as step `round` of the loop's run."""
    for name in track.to:
        tracker = _open(name, track.project, run, folder)
        tracker.start()
        try:
            tracker.log(dict(figures), step=round)
        finally:
            tracker.finish()


def _open(name: str, project: str, run: str, folder: Path) -> GeneralTracker:
    match name:
        case "tensorboard":
            return TensorBoardTracker("rounds", logging_dir=folder / _BOARDS)
        case "mlflow":
            return MLflowTracker(project, run_id=_find_mlflow_run(project, run), run_name=run)
        case "wandb":
            return WandBTracker(project, name=run, group=run, id=run, resume="allow")
        case _:
            return TrackioTracker(project, name=run, resume="allow")


def _find_mlflow_run(project: str, run: str) -> str | None:
    """The id of the loop's run, where it has begun."""
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name(project)
    if experiment is None:
        return None
    found = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{run}'")
    return found[0].info.run_id if found else None
