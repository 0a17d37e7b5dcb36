"""The lineage database of one run, as the loop writes it. Every write is one transaction."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from sqlite_utils.db import Database

from reflectune.state.config import set_key
from reflectune.state.lineage.connection import connect, open_database
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.lineage.schema import migrations
from reflectune.state.lineage.seals import seal_row
from reflectune.state.records import (
    Decision,
    Evaluation,
    Sample,
    Scores,
    StudentRecord,
    TeacherCall,
    Version,
    content_hash,
)

__all__ = ["LineageWriter"]

# How many samples are written at a time.
_PAGE = 500


class LineageWriter(LoopReader):
    """Writes one lineage.db, and answers what the loop asks over the same connection; use it in one thread.

    Raises:
        StoreError: the database is missing, no lineage, or made by a newer version.
    """

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make a new, empty lineage database."""
        database = connect(path)
        database.enable_wal()
        migrations.apply(database)
        return cls(database)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open an existing lineage database and bring its schema up to date."""
        database = open_database(path)
        migrations.apply(database)
        return cls(database)

    def transaction(self) -> AbstractContextManager[Database]:
        """All writes inside are committed together, or none of them."""
        return self.db.atomic()

    # The run and its rounds

    def add_run(
        self,
        *,
        name: str,
        config: Mapping[str, Any],
        config_hash: str,
        data_hash: str,
        versions: Mapping[str, str],
        seed: int,
    ) -> None:
        """Write the run's one row."""
        row = {
            "name": name,
            "created_at": _now(),
            "config": json.dumps(config),
            "config_hash": config_hash,
            "data_hash": data_hash,
            "versions": json.dumps(versions),
            "status": "running",
            "seed": seed,
        }
        self._insert("runs", [row])

    def set_run_status(self, status: str) -> None:
        """Change the run's status; a `runs` CHECK lists the possible ones."""
        with self.transaction():
            self.db.execute("UPDATE runs SET status = ?", [status])

    def change_config(self, changes: Mapping[str, tuple[Any, Any]]) -> None:
        """Change dotted keys of the configuration, and keep what each was before and is after.

        The others stay as they were stored, whichever version did so.
        """
        with self.transaction():
            now = _now()
            config = self._stored_config()
            for key, (_, after) in changes.items():
                set_key(config, key, after)
            self._insert(
                "config_changes",
                (
                    {"changed_at": now, "key": key, "before": json.dumps(before), "after": json.dumps(after)}
                    for key, (before, after) in changes.items()
                ),
            )
            self.db.execute(
                "UPDATE runs SET config = ?, config_hash = ?", [json.dumps(config), content_hash(config)]
            )

    def start_round(self, round: int) -> None:
        """Write a round's row where it is missing."""
        row = {"round": round, "started_at": _now(), "status": "running", "metrics": "{}"}
        self._insert("rounds", [row], ignore=True)

    def set_round_student(self, round: int, student_id: str) -> None:
        """Say which student a round ends with."""
        with self.transaction():
            self.db.execute("UPDATE rounds SET student_id = ? WHERE round = ?", [student_id, round])

    def finish_round(self, round: int, stop_reason: str | None) -> None:
        """Mark a round as finished, with why the loop stops after it, where it does."""
        with self.transaction():
            self.db.execute(
                "UPDATE rounds SET status = 'finished', finished_at = ?, stop_reason = ? "
                "WHERE round = ? AND status <> 'finished'",
                [_now(), stop_reason, round],
            )

    def set_stop_reason(self, round: int, stop_reason: str | None) -> None:
        """Say anew why the loop stops after a finished round; None where it goes on after all."""
        with self.transaction():
            self.db.execute("UPDATE rounds SET stop_reason = ? WHERE round = ?", [stop_reason, round])

    def add_seconds(self, round: int, node: str, seconds: float) -> None:
        """Add to the time a node has spent on a round."""
        with self.transaction():
            self.db.execute(
                "UPDATE rounds SET metrics = json_set(metrics, :key, "
                "COALESCE(json_extract(metrics, :key), 0) + :seconds) WHERE round = :round",
                {"key": f"$.seconds.{node}", "seconds": seconds, "round": round},
            )

    def set_frozen(self, round: int, samples: int) -> None:
        """Say of how many samples s[0] has scored the given pair and that of the pool D[r]."""
        with self.transaction():
            self.db.execute(
                "UPDATE rounds SET metrics = json_set(metrics, '$.frozen', ?) WHERE round = ?",
                [samples, round],
            )

    # Samples, proposals and decisions

    def add_samples(self, samples: Iterable[Sample]) -> None:
        """Write samples and their given pairs as version 0."""
        with self.transaction():
            for chunk in _chunks(samples, _PAGE):
                self._insert(
                    "samples",
                    (
                        {
                            "id": sample.id,
                            "position": sample.position,
                            "source_hash": sample.pair.content_hash,
                            "split": sample.split,
                            "meta": json.dumps(sample.meta, ensure_ascii=False),
                        }
                        for sample in chunk
                    ),
                )
                self._insert(
                    "versions",
                    (_version_row(Version(s.id, None, 0, "original", 0, s.pair)) for s in chunk),
                )

    def add_reflections(self, calls: Iterable[TeacherCall], proposals: Iterable[Version]) -> None:
        """Commit teacher calls with the versions they proposed."""
        with self.transaction():
            self._insert("teacher_calls", ({"id": call.id} | asdict(call) for call in calls))
            self._insert("versions", map(_version_row, proposals))

    def add_decisions(self, scores: Scores, student_id: str, decisions: Sequence[Decision]) -> None:
        """Commit new scores under one student with the decisions they led to."""
        with self.transaction():
            self.add_scores(scores, student_id)
            self._insert("decisions", map(asdict, decisions))

    def add_scores(self, scores: Scores, student_id: str) -> None:
        """Commit new scores under one student."""
        self._insert(
            "scores",
            (
                {"version_id": version_id, "student_id": student_id, "term": term}
                | asdict(score)
                | {"truncated": int(score.truncated)}
                for version_id, terms in scores.items()
                for term, score in terms.items()
            ),
        )

    # Training and evaluation

    def set_training_set(self, round: int, version_ids: Sequence[str]) -> None:
        """Commit T[r]."""
        self._insert(
            "training_sets",
            ({"round": round, "version_id": v, "rank": rank} for rank, v in enumerate(version_ids)),
        )

    def add_student(self, student: StudentRecord) -> None:
        """Commit a student as the one its round ends with."""
        with self.transaction():
            self._insert("students", [asdict(student) | {"metrics": json.dumps(student.metrics)}])
            self.set_round_student(student.round, student.id)

    def add_evaluations(self, round: int, student_id: str, evaluations: Iterable[Evaluation]) -> None:
        """Commit the held-out measures of a round's student."""
        self._insert(
            "evaluations",
            ({"round": round, "student_id": student_id} | asdict(item) for item in evaluations),
        )

    def _insert(self, table: str, rows: Iterable[Mapping[str, Any]], *, ignore: bool = False) -> None:
        with self.transaction():
            self.db.table(table).insert_all((seal_row(table, row) for row in rows), ignore=ignore)


def _version_row(version: Version) -> dict[str, Any]:
    row = {"id": version.id} | asdict(version)
    row |= row.pop("pair")
    return row


def _chunks(items: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    chunk: list[Sample] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
