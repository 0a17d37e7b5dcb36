"""Runs as documents: what commands print with --json, and what every view of a run begins with."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NotRequired, TypedDict

from reflectune.loop.matching import share_of, warn_of
from reflectune.loop.stopping import best_round, is_rolled_back, stopping_measure
from reflectune.state.errors import ReflectuneError
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.documents import (
    BestDocument,
    CallSums,
    EvaluationDocument,
    Evolution,
    FoundSample,
    GivenDocument,
    RoundDocument,
    RunHead,
    RunsCompared,
    Settings,
    SignalDocument,
)
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.lineage.run_comparison import compare_runs
from reflectune.state.lineage.signals import read_lengths, read_signal
from reflectune.state.live import StageDocument, WorkerDocument, read_live
from reflectune.state.records import PHASES
from reflectune.state.storage import explain_storage_errors

__all__ = [
    "Found", "Overview", "RunDocument", "RunEvolution", "WholeRun", "describe_comparison", "describe_run",
    "describe_signal", "describe_whole", "open_lineage", "open_run", "overview", "readable_overview",
]  # fmt: skip


class Overview(TypedDict):
    """One line of `runs`; a folder that cannot be read has an error, and None elsewhere."""

    name: str
    status: str
    round: int | None
    rounds: int | None
    samples: int | None
    acceptance: float | None
    cost_usd: float | None
    created_at: str | None
    error: NotRequired[str]


class RunHistory(GivenDocument):
    """One run with its rounds."""

    name: str
    status: str
    stop_reason: str | None
    best: BestDocument | None  # None before anything is measured
    signal: SignalDocument | None  # None before the first decision, and in runs of earlier versions
    rounds: list[RoundDocument]


class RunDocument(RunHistory):
    """One run with its rounds, as `show` has it, and what it does now."""

    stages: Sequence[StageDocument] | None  # under way now; None where nothing is
    workers: Sequence[WorkerDocument] | None  # of these stages


class WholeRun(RunHistory):
    """A run with what it is made of, as pages begin with it."""

    created_at: str
    settings: Settings
    samples: dict[str, int]
    evaluations: list[EvaluationDocument]
    teacher: CallSums  # of all rounds


class RunEvolution(WholeRun, Evolution):
    """A run with what its samples went through, as `report` has it."""


class Found(TypedDict):
    """What `search` found, and what to bear in mind about it."""

    name: str
    found: int
    shown: int
    notes: list[str]
    samples: list[FoundSample]


@contextmanager
def open_lineage(folder: RunFolder) -> Iterator[LineageReader]:
    """Read a run's lineage; one that is damaged or locked is said in one line, with what to do."""
    with explain_storage_errors(folder.path, "try again"), LineageReader.open(folder.lineage) as lineage:
        yield lineage


@contextmanager
def open_run(folder: RunFolder) -> Iterator[tuple[LineageReader, RunHead]]:
    """Read a run's lineage, and its head: one that says it is running without a live process was interrupted.

    The process may have ended, or begun, since the status was written: a lock before or after counts.
    """
    was_locked = folder.is_locked()
    with open_lineage(folder) as lineage:
        run = lineage.run() | {"name": folder.path.name}
        if run["status"] == "running" and not was_locked and not folder.is_locked():
            run["status"] = "interrupted"
        yield lineage, run


def readable_overview(folder: RunFolder) -> Overview:
    """One line of `runs`; a folder that cannot be read has a line too, and keeps no other from its own."""
    try:
        return overview(folder)
    except (ReflectuneError, sqlite3.DatabaseError) as error:
        return {
            "name": folder.path.name, "status": "unreadable", "round": None, "rounds": None, "samples": None,
            "acceptance": None, "cost_usd": None, "created_at": None, "error": str(error),
        }  # fmt: skip


def overview(folder: RunFolder) -> Overview:
    """One line of `runs`."""
    with open_run(folder) as (lineage, run):
        return {
            "name": run["name"],
            "status": run["status"],
            "round": lineage.last_round(),
            "rounds": run["rounds"],
            "samples": sum(lineage.samples().values()),
            "acceptance": lineage.acceptance(),
            "cost_usd": lineage.teacher()["cost_usd"],
            "created_at": run["created_at"],
        }


def describe_run(folder: RunFolder, known: RunDocument | None = None) -> RunDocument:
    """One run with its rounds, as `show --json` prints it; what is `known` and cannot change is kept."""
    over = known["rounds"] if known else []
    with open_run(folder) as (lineage, run):
        rounds = [*over[:-1], *lineage.rounds(since=over[-1]["round"] if over else 0)]
        live = read_live(folder) if run["status"] == "running" else None
        return {
            **_describe_history(lineage, run, rounds, known),
            "stages": live and live["stages"],
            "workers": live and live["workers"],
        }


def describe_whole(
    lineage: LineageReader, run: RunHead, rounds: list[RoundDocument], given: GivenDocument | None = None
) -> WholeRun:
    """A run with what it is made of; what of the data was `given` may be known already."""
    return {
        **_describe_history(lineage, run, rounds, given),
        "created_at": run["created_at"],
        "settings": lineage.settings(),
        "samples": lineage.samples(),
        "evaluations": lineage.evaluations(),
        "teacher": lineage.teacher(),
    }


def _describe_history(
    lineage: LineageReader, run: RunHead, rounds: list[RoundDocument], given: GivenDocument | None
) -> RunHistory:
    given = given or lineage.given()
    return {
        "name": run["name"],
        "status": run["status"],
        "stop_reason": run["stop_reason"],
        "best": _find_best(lineage),
        "signal": describe_signal(lineage),
        "rounds": rounds,
        "conversations": given["conversations"],
        "exchanges": given["exchanges"],
        "followed": given["followed"],
        "skipped": given["skipped"],
    }


def _find_best(lineage: LineageReader) -> BestDocument | None:
    """The best round of a run by its measure; None before anything is measured."""
    measures = lineage.held_out_measures()
    best, name = best_round(measures), stopping_measure(measures)
    for row in lineage.evaluations():
        if (row["round"], row["name"]) == (best, name):
            return {**row, "is_end": is_rolled_back(lineage)}
    return None


def describe_signal(lineage: LineageReader) -> SignalDocument | None:
    """What s[0] told before its first decision, and what became of the pairs it told it of."""
    found = read_signal(lineage)
    if found is None:
        return None
    lengths = {phase: read_lengths(lineage, phase, found["positions"]) for phase in PHASES}
    return {
        "pairs": found["pairs"],
        "matched": found["matched"],
        "below_one": found["below_one"],
        "below_one_shuffled": found["below_one_shuffled"],
        "follows_length": found["follows_length"],
        "longer": {
            phase: share_of([accepted == (more > 0) for accepted, more in proposals if more])
            for phase, proposals in lengths.items()
        },
        "warnings": warn_of(found),
    }


def describe_comparison(one: RunFolder, other: RunFolder) -> RunsCompared:
    """Two runs against each other, as `compare --json` prints it."""
    with open_run(one) as (first, run), open_run(other) as (second, other_run):
        runs = (run, other_run)
        return {
            "names": [run["name"] for run in runs],
            "status": [run["status"] for run in runs],
            **compare_runs(first, second),
        }
