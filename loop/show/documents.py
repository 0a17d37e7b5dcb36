"""Runs as documents: what `runs` and `show` print, and what every view of a run begins with."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from reflectune.state.errors import ReflectuneError
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.lineage.run_comparison import compare_runs
from reflectune.state.storage import explain_storage_errors

__all__ = [
    "describe_comparison",
    "describe_run",
    "open_lineage",
    "overview",
    "read_status",
    "readable_overview",
]


@contextmanager
def open_lineage(folder: RunFolder) -> Iterator[LineageReader]:
    """Read a run's lineage; one that is damaged or locked is said in one line, with what to do."""
    with explain_storage_errors(folder.path, "try again"), LineageReader.open(folder.lineage) as lineage:
        yield lineage


def readable_overview(folder: RunFolder) -> dict[str, Any]:
    """One line of `runs`; a folder that cannot be read has a line too, and keeps no other from its own."""
    try:
        return overview(folder)
    except (ReflectuneError, sqlite3.DatabaseError) as error:
        unknown = dict.fromkeys(("round", "rounds", "samples", "acceptance", "cost_usd", "created_at"))
        return {"name": folder.path.name, "status": "unreadable", **unknown, "error": str(error)}


def overview(folder: RunFolder) -> dict[str, Any]:
    """One line of `runs`."""
    was_locked = folder.is_locked()
    with open_lineage(folder) as lineage:
        run = lineage.run()
        samples = lineage.samples()
        return {
            "name": folder.path.name,
            "status": _status(folder, run["status"], was_locked),
            "round": lineage.last_round(),
            "rounds": run["rounds"],
            "samples": samples["train"] + samples["holdout"],
            "acceptance": lineage.acceptance(),
            "cost_usd": lineage.teacher()["cost_usd"],
            "created_at": run["created_at"],
        }


def describe_run(folder: RunFolder, known: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """One run with its rounds, as `show --json` prints it; those `known` that were over are kept."""
    was_locked = folder.is_locked()
    with open_lineage(folder) as lineage:
        run = lineage.run()
        return {
            "name": folder.path.name,
            "status": _status(folder, run["status"], was_locked),
            "stop_reason": run["stop_reason"],
            "rounds": [*known[:-1], *lineage.rounds(since=known[-1]["round"] if known else 0)],
        }


def describe_comparison(one: RunFolder, other: RunFolder) -> dict[str, Any]:
    """Two runs against each other, as `compare --json` prints it."""
    with open_lineage(one) as first, open_lineage(other) as second:
        compared = compare_runs(first, second)
    folders = (one, other)
    return {
        "names": [folder.path.name for folder in folders],
        "status": [read_status(folder) for folder in folders],
        **compared,
    }


def read_status(folder: RunFolder) -> str:
    """A run's status by itself."""
    was_locked = folder.is_locked()
    with open_lineage(folder) as lineage:
        return _status(folder, lineage.run()["status"], was_locked)


def _status(folder: RunFolder, written: str, was_locked: bool) -> str:
    """The run's status: one that says it is running without a live process was interrupted.

    The process may have ended, or begun, since the status was read: `was_locked` before that counts too.
    """
    is_dead = written == "running" and not was_locked and not folder.is_locked()
    return "interrupted" if is_dead else written
