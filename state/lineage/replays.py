"""A copy of a lineage in which decisions are taken anew: what other decisions leave nothing of is removed.

Only ever used on a copy: a run's own rows are never changed.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from reflectune.state.lineage.connection import marks
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import content_hash

__all__ = [
    "begin_replay",
    "copy_lineage",
    "find_positions",
    "forget_after",
    "forget_proposals",
    "training_ids",
]


def copy_lineage(source: Path, to: Path) -> None:
    """Copy a lineage database as of one moment; a run may go on meanwhile."""
    address = f"{source.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True)) as given, closing(sqlite3.connect(to)) as copy:
        given.backup(copy)


def begin_replay(
    lineage: LineageWriter, config: Mapping[str, Any], replay_of: str, files: Mapping[str, str]
) -> None:
    """Make a copy the lineage of a replay: another config, hashes of its files, and nothing decided."""
    settings = lineage.settings()
    # Few of the columns that refer to others have an index: each row removed would be looked for everywhere.
    lineage.db.execute("PRAGMA foreign_keys = OFF")
    with lineage.transaction() as db:
        for table in ("runs", "config_changes", "training_sets", "decisions", "alarms"):
            db.execute(f"DELETE FROM {table}")
        versions = settings["versions"] | {**files, "replay_of": replay_of, "config": content_hash(config)}
        lineage.add_run(config, data_hash=settings["data_hash"], versions=versions)
        lineage.set_run_status("finished")


def forget_proposals(lineage: LineageWriter, round: int, sample_ids: Sequence[str]) -> None:
    """Remove the proposals of phase response that were made for pairs which are no incumbents any more."""
    place = [round, *sample_ids]
    which = f"round = ? AND phase = 'response' AND sample_id IN ({marks(sample_ids)})"
    with lineage.transaction() as db:
        db.execute(f"DELETE FROM scores WHERE version_id IN (SELECT id FROM versions WHERE {which})", place)
        db.execute(f"DELETE FROM versions WHERE {which}", place)
        db.execute(f"DELETE FROM teacher_calls WHERE {which}", place)


def forget_after(lineage: LineageWriter, round: int, *, student: bool = True) -> None:
    """Remove what comes after a round, and with `student` the student that was trained in it too."""
    last = round - 1 if student else round
    with lineage.transaction() as db:
        trained = "(SELECT id FROM students WHERE round > ?)"
        for table in ("scores", "held_out_answers", "judge_calls", "evaluations"):
            db.execute(f"DELETE FROM {table} WHERE student_id IN {trained}", [last])
        db.execute(
            "DELETE FROM scores WHERE version_id IN (SELECT id FROM versions WHERE round > ?)", [round]
        )
        for table in ("versions", "teacher_calls", "decisions", "training_sets", "evaluations"):
            db.execute(f"DELETE FROM {table} WHERE round > ?", [round])
        db.execute("DELETE FROM rounds WHERE round > ?", [round])
        db.execute("UPDATE rounds SET student_id = NULL WHERE round > ?", [last])
        db.execute("DELETE FROM students WHERE round > ?", [last])


def find_positions(lineage: LoopReader, sample_ids: Sequence[str]) -> dict[str, int]:
    """Where samples stand in the given data."""
    query = f"SELECT id, position FROM samples WHERE id IN ({marks(sample_ids)})"
    return dict(lineage.db.execute(query, list(sample_ids)))


def training_ids(lineage: LoopReader, round: int) -> list[str]:
    """The version ids of a training set T[r], by rank."""
    query = "SELECT version_id FROM training_sets WHERE round = ? ORDER BY rank"
    return [id for (id,) in lineage.db.execute(query, [round])]
