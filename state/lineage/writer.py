"""The lineage database of one run, as the loop writes it. Every write is one transaction."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Self

from sqlite_utils.db import Database

from reflectune.state.config import set_key
from reflectune.state.groups import in_groups
from reflectune.state.judgements import JudgeCall
from reflectune.state.lineage.connection import connect, marks, open_database
from reflectune.state.lineage.documents import Matching
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.lineage.schema import migrations
from reflectune.state.lineage.seals import seal_row
from reflectune.state.records import (
    Conversation,
    Decision,
    Evaluation,
    HeldOutAnswer,
    Phase,
    Sample,
    Scores,
    SkippedRows,
    StudentRecord,
    TeacherCall,
    Turn,
    Version,
    content_hash,
)

__all__ = ["LineageWriter"]

# How many samples are written at a time.
_PAGE = 500


class LineageWriter(LoopReader):
    """Writes one lineage.db, and answers what the loop asks over one connection; use it in one thread."""

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

    def add_run(self, config: Mapping[str, Any], *, data_hash: str, versions: Mapping[str, str]) -> None:
        """Write the run's one row, with the name and the seed of its config."""
        row = {
            "name": config["name"],
            "created_at": _now(),
            "config": json.dumps(config),
            "config_hash": content_hash(config),
            "data_hash": data_hash,
            "versions": json.dumps(versions),
            "status": "running",
            "seed": config["seed"],
        }
        self._insert("runs", [row])

    def set_run_status(self, status: str) -> None:
        """Change the run's status; a `runs` CHECK lists the possible ones."""
        self._update("runs SET status = ?", [status])

    def change_config(self, changes: Mapping[str, tuple[Any, Any]]) -> None:
        """Change dotted keys of the configuration, and keep what each was before and is after.

        The others stay as they were stored, whichever version did so.
        """
        now = _now()
        config = json.loads(self._one("SELECT config FROM runs")["config"])
        rows = []
        for key, (before, after) in changes.items():
            set_key(config, key, after)
            sides = {"before": json.dumps(before), "after": json.dumps(after)}
            rows.append({"changed_at": now, "key": key} | sides)
        with self.transaction():
            self._insert("config_changes", rows)
            self._update("runs SET config = ?, config_hash = ?", [json.dumps(config), content_hash(config)])

    def start_round(self, round: int) -> None:
        """Write a round's row where it is missing."""
        query = "INSERT OR IGNORE INTO rounds (round, started_at, status, metrics) VALUES (?, ?, ?, ?)"
        with self.transaction():
            self.db.execute(query, [round, _now(), "running", "{}"])

    def set_round_student(self, round: int, student_id: str) -> None:
        """Say which student a round ends with."""
        self._update("rounds SET student_id = ? WHERE round = ?", [student_id, round])

    def finish_round(self, round: int, stop_reason: str | None) -> None:
        """Mark a round as finished, with why the loop stops after it; None: it goes on, or does after all."""
        self._update(
            "rounds SET status = 'finished', finished_at = COALESCE(finished_at, ?), stop_reason = ? "
            "WHERE round = ?",
            [_now(), stop_reason, round],
        )

    def add_seconds(self, round: int, node: str, seconds: float) -> None:
        """Add to the time a node has spent on a round."""
        self._update(
            "rounds SET metrics = json_set(metrics, ?1, COALESCE(json_extract(metrics, ?1), 0) + ?2) "
            "WHERE round = ?3",
            [f"$.seconds.{node}", seconds, round],
        )

    def spare_failures(self, round: int, phase: Phase) -> None:
        """Say that a phase failed as a whole: what it has not got an answer for is asked for again."""
        self._update(
            "rounds SET metrics = json_set(metrics, ?1, json_insert("
            "COALESCE(json_extract(metrics, ?1), '[]'), '$[#]', "
            "(SELECT MAX(attempt) FROM teacher_calls WHERE round = ?2 AND phase = ?3))) WHERE round = ?2",
            [f"$.spared.{phase}", round, phase],
        )

    def set_base_samples(self, round: int, samples: int) -> None:
        """Say of how many samples s[0] has scored the given pair and that of the pool D[r]."""
        query = "rounds SET metrics = json_set(metrics, '$.frozen', ?) WHERE round = ?"
        self._update(query, [samples, round])

    def set_signal(self, round: int, sample_ids: Sequence[str], matching: Matching) -> None:
        """Say what the student that decides in a round tells of the given pairs of some samples."""
        where = f"id IN ({marks(sample_ids)})"
        positions = self.db.execute(f"SELECT position FROM samples WHERE {where}", list(sample_ids))
        found = json.dumps({"positions": [position for (position,) in positions], **matching})
        query = "rounds SET metrics = json_set(metrics, '$.signal', json(?)) WHERE round = ?"
        self._update(query, [found, round])

    # Samples, proposals and decisions

    def add_samples(self, samples: Iterable[Sample]) -> None:
        """Write samples and their given pairs as version 0."""
        last: Conversation | None = None
        last_id: int | None = None
        with self.transaction():
            for page in in_groups(samples, _PAGE):
                conversations, rows = {}, []
                for sample in page:
                    if sample.conversation is not last:  # samples of one conversation are neighbours
                        last, last_id = (
                            sample.conversation,
                            None if sample.conversation is None else sample.position,
                        )
                        if last is not None:
                            conversations[last_id] = _turns_json(last.turns)
                    rows.append(_sample_row(sample, last_id))
                self._insert("conversations", ({"id": id, "turns": t} for id, t in conversations.items()))
                self._insert("samples", rows)
                originals = (Version(s.id, None, 0, "original", 0, s.pair) for s in page)
                self._insert("versions", map(_version_row, originals))

    def add_skipped(self, skipped: Iterable[SkippedRows]) -> None:
        """Say which rows of the given data were left out."""
        self._insert(
            "skipped_rows", (_columns(rows) | {"examples": json.dumps(rows.examples)} for rows in skipped)
        )

    def add_reflections(self, calls: Iterable[TeacherCall], proposals: Iterable[Version]) -> None:
        """Commit teacher calls with the versions they proposed."""
        with self.transaction():
            self._insert("teacher_calls", [{"id": call.id} | self._call_row(call) for call in calls])
            self._insert("versions", map(_version_row, proposals))

    def _call_row(self, call: TeacherCall | JudgeCall) -> dict[str, Any]:
        row = _columns(call)
        address = row.pop("server")
        return row | {"server_id": None if address is None else self._server_id(address)}

    def _server_id(self, address: str) -> int:
        """The number of a server; a new one gets the next."""
        for (id,) in self.db.execute("SELECT id FROM servers WHERE address = ?", [address]):
            return int(id)
        id = self._count("servers", []) + 1
        self._insert("servers", [{"id": id, "address": address}])
        return id

    def add_decisions(self, scores: Scores, student_id: str, decisions: Sequence[Decision]) -> None:
        """Commit new scores under one student with the decisions they led to."""
        with self.transaction():
            self.add_scores(scores, student_id)
            self._insert("decisions", map(_columns, decisions))

    def add_scores(self, scores: Scores, student_id: str) -> None:
        """Commit new scores under one student."""
        rows = (
            {"version_id": version, "student_id": student_id, "term": term} | _columns(score)
            for version, terms in scores.items()
            for term, score in terms.items()
        )
        self._insert("scores", rows)

    # Training and evaluation

    def set_training_set(self, round: int, version_ids: Sequence[str]) -> None:
        """Commit T[r]."""
        # By version, so that indexes grow at their end: ranks stand in a random order to the samples.
        ranked = sorted((version, rank) for rank, version in enumerate(version_ids))
        self._insert("training_sets", ({"round": round, "version_id": v, "rank": r} for v, r in ranked))

    def add_student(self, student: StudentRecord) -> None:
        """Commit a student as the one its round ends with."""
        with self.transaction():
            self._insert("students", [_columns(student) | {"metrics": json.dumps(student.metrics)}])
            self.set_round_student(student.round, student.id)

    def add_answers(self, student_id: str, answers: Iterable[HeldOutAnswer]) -> None:
        """Commit what a student wrote for held-out pairs."""
        self._insert("held_out_answers", ({"student_id": student_id} | _columns(item) for item in answers))

    def add_judge_calls(self, calls: Iterable[JudgeCall]) -> None:
        """Commit what a judge said of held-out answers."""
        with self.transaction():
            self._insert("judge_calls", [self._call_row(call) for call in calls])

    def add_evaluations(self, round: int, student_id: str, evaluations: Iterable[Evaluation]) -> None:
        """Commit the held-out measures of a round's student."""
        place = {"round": round, "student_id": student_id}
        self._insert("evaluations", (place | _columns(item) for item in evaluations))

    def add_alarms(self, round: int, figures: Mapping[str, float]) -> None:
        """Commit what tells a collapse after a round, by the names of the alarms."""
        self._insert("alarms", ({"round": round, "name": name, "value": figures[name]} for name in figures))

    def _insert(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        sealed = (seal_row(table, row) for row in rows)
        if (first := next(sealed, None)) is not None:
            columns, values = ", ".join(first), ", ".join(f":{column}" for column in first)
            statement = f"INSERT INTO {table} ({columns}) VALUES ({values})"
            with self.transaction():
                self.db.conn.executemany(statement, chain([first], sealed))

    def _update(self, what: str, params: Sequence[object]) -> None:
        with self.transaction():
            self.db.execute(f"UPDATE {what}", params)


def _sample_row(sample: Sample, conversation_id: int | None) -> dict[str, Any]:
    return {
        "id": sample.id,
        "position": sample.position,
        "source_hash": sample.pair.content_hash,
        "split": sample.split,
        "meta": json.dumps(sample.meta, ensure_ascii=False),
        "conversation_id": conversation_id,
        "turn": sample.turn,
        "followed": int(sample.is_followed),
    }


def _turns_json(turns: Iterable[Turn]) -> str:
    return json.dumps([turn.as_message() for turn in turns], ensure_ascii=False)


def _version_row(version: Version) -> dict[str, Any]:
    row = {"id": version.id} | _columns(version)
    pair = row.pop("pair")
    return row | {name: getattr(pair, name) for name in ("instruction", "input", "response")}


def _columns(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
