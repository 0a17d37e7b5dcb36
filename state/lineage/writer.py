"""The lineage database of one run, as the loop writes it and asks it what is still missing.

Every write is one transaction; every question is answered from stored rows, so that an interrupted
loop goes on where it stopped. What a finished run looks like is the reader's business.
"""

import json
import math
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, cast

from sqlite_utils.db import Database

from reflectune.state.errors import StoreError
from reflectune.state.lineage.schema import migrations
from reflectune.state.lineage.seals import seal_row
from reflectune.state.records import (
    FINAL_STATUSES,
    PHASES,
    CallStatus,
    Decision,
    Evaluation,
    Pair,
    Phase,
    Reflection,
    Sample,
    Score,
    Spending,
    StudentRecord,
    TeacherCall,
    Term,
    Version,
    content_hash,
)

__all__ = [
    "Contest",
    "LineageWriter",
    "PoolPair",
    "Scores",
    "connect_read_only",
    "marks",
    "open_database",
]

Scores = Mapping[str, Mapping[Term, Score]]  # version id -> term -> score

# Samples that had proposals decided against in so many rounds, before this one and after the last in which
# one was accepted. A round without any proposal proves nothing about its pair: it does not count.
_FROZEN = """
    SELECT sample_id FROM decisions AS against
    WHERE round < ? AND reason IN ('refused', 'tie', 'unscorable', 'policy') {among}
        AND round > COALESCE((SELECT MAX(round) FROM decisions AS taken WHERE reason = 'accepted'
            AND taken.sample_id = against.sample_id AND taken.round < ?), 0)
    GROUP BY sample_id HAVING COUNT(DISTINCT round) >= ?
"""

# How many samples one question to the database reads at a time.
_PAGE = 500

_LET_IT_END = "another program keeps it for itself, let it end"


@dataclass(frozen=True, slots=True)
class Contest:
    """One sample's incumbent and the proposals that challenge it in a phase."""

    sample_id: str
    incumbent_id: str
    candidate_ids: tuple[str, ...]
    pairs: Mapping[str, Pair]  # of the incumbent and every candidate, by version id
    is_frozen: bool = False  # whether the sample is left alone


@dataclass(frozen=True, slots=True)
class PoolPair:
    """One sample's pair in the pool D[r], with its scores under one student."""

    sample_id: str
    version_id: str
    improved: bool  # whether its response was improved in this round or an earlier one
    scores: Mapping[Term, Score]


class LineageWriter:
    """Reads and writes one lineage.db over one connection; use it in one thread.

    Raises:
        StoreError: the database is missing, no lineage, or made by a newer version.
    """

    def __init__(self, database: Database) -> None:
        self.db = database

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make a new, empty lineage database."""
        database = _connect(path)
        database.enable_wal()
        migrations.apply(database)
        return cls(database)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open an existing lineage database and bring its schema up to date."""
        database = open_database(path)
        migrations.apply(database)
        return cls(database)

    def close(self) -> None:
        """Close the connection."""
        self.db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

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

    def config(self) -> dict[str, Any]:
        """The configuration that the run began with, and with what was changed in it since."""
        return dict(json.loads(self.db.execute("SELECT config FROM runs").fetchone()[0]))

    def change_config(
        self, config: Mapping[str, Any], config_hash: str, changes: Mapping[str, tuple[Any, Any]]
    ) -> None:
        """Replace the configuration, and keep what each changed key was before and is after."""
        with self.transaction():
            now = _now()
            self._insert(
                "config_changes",
                (
                    {"changed_at": now, "key": key, "before": json.dumps(before), "after": json.dumps(after)}
                    for key, (before, after) in changes.items()
                ),
            )
            self.db.execute("UPDATE runs SET config = ?, config_hash = ?", [json.dumps(config), config_hash])

    def versions(self) -> dict[str, str]:
        """Versions of the libraries, and the hash of the machine, that began the run."""
        row = self.db.execute("SELECT versions FROM runs").fetchone()
        return dict(json.loads(row[0]))

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

    def stop_reason(self, round: int) -> str | None:
        """Why the loop stops after a round; None where it goes on, or nothing is known of the round."""
        row = self.db.execute("SELECT stop_reason FROM rounds WHERE round = ?", [round]).fetchone()
        return None if row is None else cast("str | None", row[0])

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

    def round_student(self, round: int) -> StudentRecord | None:
        """The student a round ended with; None while it has none."""
        query = "SELECT students.* FROM students JOIN rounds ON student_id = id WHERE rounds.round = ?"
        for row in self.db.query(query, [round]):
            row.pop("seal")
            return StudentRecord(**row | {"metrics": json.loads(row["metrics"])})
        return None

    def newest_round(self) -> int:
        """The newest round that has begun."""
        return int(self.db.execute("SELECT MAX(round) FROM rounds").fetchone()[0])

    def is_round_finished(self, round: int) -> bool:
        """Whether a round has gone through its evaluation."""
        return self._count("rounds WHERE round = ? AND status = 'finished'", round) > 0

    # Samples and versions

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

    def count_samples(self, split: str) -> int:
        """How many samples a split has."""
        return self._count("samples WHERE split = ?", split)

    def holdout_pairs(self) -> list[Pair]:
        """The held-out pairs, by position."""
        rows = self.db.query(
            "SELECT instruction, input, response FROM versions JOIN samples ON samples.id = sample_id "
            "WHERE split = 'holdout' AND phase = 'original' ORDER BY position"
        )
        return [Pair(**row) for row in rows]

    # Reflection

    def pending_reflections(
        self, round: int, phase: Phase, *, candidates: int, attempts: int, patience: int | None = None
    ) -> Iterator[Reflection]:
        """Proposals still to be asked for in a phase, in the order of the samples; none of frozen ones.

        A proposal is settled once a call for it is answered, once its failure is final, or after
        `attempts` calls. Samples are read page by page, so rows may be written meanwhile.
        """
        for page in self._pool_pages(_before(round, phase), _PAGE):
            frozen = self._frozen(round, patience, [row["sample_id"] for row in page])
            calls = {
                (row["sample_id"], row["candidate"]): row
                for row in self.db.query(
                    "SELECT sample_id, candidate, COUNT(*) AS attempts, "
                    f"MAX(status IN ({marks(FINAL_STATUSES)})) AS settled FROM teacher_calls "
                    f"WHERE round = ? AND phase = ? AND sample_id IN ({marks(page)}) GROUP BY 1, 2",
                    [*FINAL_STATUSES, round, phase, *(row["sample_id"] for row in page)],
                )
            }
            for row in page:
                if row["sample_id"] in frozen:
                    continue
                for candidate in range(candidates):
                    call = calls.get((row["sample_id"], candidate))
                    made = call["attempts"] if call else 0
                    if made < attempts and not (call and call["settled"]):
                        sample_id, incumbent_id = row["sample_id"], row["version_id"]
                        yield Reflection(sample_id, incumbent_id, _pair(row), round, phase, candidate, made)

    def add_reflections(self, calls: Iterable[TeacherCall], proposals: Iterable[Version]) -> None:
        """Commit teacher calls with the versions they proposed."""
        with self.transaction():
            self._insert("teacher_calls", ({"id": call.id} | asdict(call) for call in calls))
            self._insert("versions", map(_version_row, proposals))

    def count_settled(self, round: int, phase: Phase, *, attempts: int) -> Counter[CallStatus]:
        """How many of a phase's proposals need no further call, by the status of their last one."""
        rows = self.db.query(
            "SELECT status, COUNT(*) AS n FROM teacher_calls WHERE round = ? AND phase = ? "
            f"AND (attempt >= ? OR status IN ({marks(FINAL_STATUSES)})) GROUP BY status",
            [round, phase, attempts, *FINAL_STATUSES],
        )
        return Counter({row["status"]: row["n"] for row in rows})

    def spending(self) -> Spending:
        """What all calls of the run took; answers from the cache took nothing."""
        row = self.db.execute(
            "SELECT COALESCE(SUM(COALESCE(prompt_tokens, 0) + COALESCE(completion_tokens, 0)), 0), "
            "COALESCE(SUM(cost_usd), 0.0) FROM teacher_calls WHERE NOT cached"
        ).fetchone()
        return Spending(*row)

    def count_cached(self, round: int, phase: Phase) -> int:
        """How many of a phase's calls were answered from the cache."""
        return self._count("teacher_calls WHERE round = ? AND phase = ? AND cached", round, phase)

    def count_frozen(self, round: int, patience: int | None) -> int:
        """How many samples are left alone in a round."""
        if patience is None:
            return 0
        return self._count(f"({_FROZEN.format(among='')})", round, round, patience)

    # Selection

    def contests(
        self, round: int, phase: Phase, size: int, *, patience: int | None = None
    ) -> Iterator[list[Contest]]:
        """The samples a phase has not decided yet, in fixed groups of at most `size`.

        A group is the same samples whether or not a run was interrupted, so whatever is computed
        for a group at once comes out the same.
        """
        for page in self._pool_pages(_before(round, phase), size):
            sample_ids = [row["sample_id"] for row in page]
            decided = self._count(
                f"decisions WHERE round = ? AND phase = ? AND sample_id IN ({marks(page)})",
                round,
                phase,
                *sample_ids,
            )
            if decided:
                continue
            frozen = self._frozen(round, patience, sample_ids)
            candidates: dict[str, dict[str, Pair]] = {sample_id: {} for sample_id in sample_ids}
            for row in self.db.query(
                "SELECT id, sample_id, instruction, input, response FROM versions "
                f"WHERE round = ? AND phase = ? AND sample_id IN ({marks(page)}) ORDER BY candidate",
                [round, phase, *sample_ids],
            ):
                candidates[row["sample_id"]][row["id"]] = _pair(row)
            yield [
                Contest(
                    sample_id=row["sample_id"],
                    incumbent_id=row["version_id"],
                    candidate_ids=tuple(candidates[row["sample_id"]]),
                    pairs={row["version_id"]: _pair(row)} | candidates[row["sample_id"]],
                    is_frozen=row["sample_id"] in frozen,
                )
                for row in page
            ]

    def scores(self, version_ids: Sequence[str], student_id: str) -> Scores:
        """The scores some versions already have under one student."""
        found: dict[str, dict[Term, Score]] = {version_id: {} for version_id in version_ids}
        for row in self.db.query(
            "SELECT version_id, term, sum_logprob, num_tokens, status, truncated FROM scores "
            f"WHERE student_id = ? AND version_id IN ({marks(version_ids)})",
            [student_id, *version_ids],
        ):
            found[row["version_id"]][row["term"]] = _score(row)
        return found

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

    def count_decisions(self, round: int, phase: Phase | None = None, reason: str | None = None) -> int:
        """How many decisions a round has taken, of one phase and with one reason if given."""
        return self._count(
            "decisions WHERE round = ? AND phase = COALESCE(?, phase) AND reason = COALESCE(?, reason)",
            round,
            phase,
            reason,
        )

    def count_proposals(self, round: int) -> int:
        """How many samples of a round got at least one proposal, summed over both phases."""
        return self._count("(SELECT DISTINCT phase, sample_id FROM versions WHERE round = ?)", round)

    # Training and evaluation

    def pool(self, round: int, student_id: str) -> Iterator[PoolPair]:
        """The pool D[r] in the order of the samples, with scores under one student."""
        for page in self._pool_pages((round, PHASES[-1]) if round else None, _PAGE):
            scores = self.scores([row["version_id"] for row in page], student_id)
            improved = {
                row["sample_id"]
                for row in self.db.query(
                    "SELECT DISTINCT sample_id FROM decisions WHERE phase = 'response' "
                    f"AND reason = 'accepted' AND round <= ? AND sample_id IN ({marks(page)})",
                    [round, *(row["sample_id"] for row in page)],
                )
            }
            for row in page:
                yield PoolPair(
                    sample_id=row["sample_id"],
                    version_id=row["version_id"],
                    improved=row["sample_id"] in improved,
                    scores=scores[row["version_id"]],
                )

    def choose_samples(self, count: int, seed: int) -> list[str]:
        """Up to `count` training samples, at random by the seed: the same ones in every round."""
        rows = self.db.query("SELECT id FROM samples WHERE split = 'train'")
        return sorted((row["id"] for row in rows), key=lambda id: content_hash("frozen", seed, id))[:count]

    def pool_pairs(self, round: int, sample_ids: Sequence[str]) -> dict[str, Pair]:
        """Some samples' pairs in the pool D[r], by version id, in the order of the samples given."""
        joined = (
            "decisions ON decisions.winner_id = versions.id AND decisions.phase = 'response' "
            "AND decisions.round = ? WHERE decisions.sample_id"
            if round
            else "samples ON samples.id = versions.sample_id WHERE phase = 'original' AND round = ? "
            "AND versions.sample_id"
        )
        rows = self.db.query(
            "SELECT versions.sample_id, versions.id, instruction, input, response FROM versions "
            f"JOIN {joined} IN ({marks(sample_ids)})",
            [round, *sample_ids],
        )
        found = {row["sample_id"]: row for row in rows}
        return {found[sample]["id"]: _pair(found[sample]) for sample in sample_ids}

    def original_ids(self) -> list[str]:
        """Version ids of the given training pairs, by position."""
        return [row["version_id"] for page in self._pool_pages(None, _PAGE) for row in page]

    def training_pairs(self, round: int) -> list[Pair]:
        """The pairs of T[r] by rank."""
        rows = self.db.query(
            "SELECT instruction, input, response FROM training_sets "
            "JOIN versions ON versions.id = version_id WHERE training_sets.round = ? ORDER BY rank",
            [round],
        )
        return [Pair(**row) for row in rows]

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

    def evaluations(self) -> dict[int, dict[str, Evaluation]]:
        """All held-out measures: round -> name -> measure, rounds ascending."""
        measures: dict[int, dict[str, Evaluation]] = {}
        for row in self.db.query(
            "SELECT round, name, value, n, low, high FROM evaluations ORDER BY round, name"
        ):
            round = row.pop("round")
            measures.setdefault(round, {})[row["name"]] = Evaluation(**row)
        return measures

    # How rows are found

    def _pool_pages(self, decided_in: tuple[int, Phase] | None, size: int) -> Iterator[list[dict[str, Any]]]:
        """Training samples with the version that won a phase (None: the given one), page by page."""
        if decided_in is None:
            winner = "versions.sample_id = samples.id AND versions.phase = 'original'"
            place: tuple[int, Phase] | tuple[()] = ()
            join = f"JOIN versions ON {winner}"
        else:
            place = decided_in
            join = (
                "JOIN decisions ON decisions.round = ? AND decisions.phase = ? "
                "AND decisions.sample_id = samples.id JOIN versions ON versions.id = decisions.winner_id"
            )
        query = (
            "SELECT samples.position, samples.id AS sample_id, versions.id AS version_id, "
            f"versions.instruction, versions.input, versions.response FROM samples {join} "
            "WHERE samples.split = 'train' AND samples.position > ? ORDER BY samples.position LIMIT ?"
        )
        position = -1
        while page := list(self.db.query(query, [*place, position, size])):
            yield page
            position = page[-1]["position"]

    def _frozen(self, round: int, patience: int | None, sample_ids: Sequence[str]) -> set[str]:
        """Those of some samples that are left alone in a round."""
        if patience is None:
            return set()
        query = _FROZEN.format(among=f"AND sample_id IN ({marks(sample_ids)})")
        return {row["sample_id"] for row in self.db.query(query, [round, *sample_ids, round, patience])}

    def _insert(self, table: str, rows: Iterable[Mapping[str, Any]], *, ignore: bool = False) -> None:
        with self.transaction():
            self.db.table(table).insert_all((seal_row(table, row) for row in rows), ignore=ignore)

    def _count(self, source: str, *params: object) -> int:
        return int(self.db.execute(f"SELECT COUNT(*) FROM {source}", params).fetchone()[0])


def open_database(path: Path, *, read_only: bool = False) -> Database:
    """Connect to an existing lineage database without changing it.

    Raises:
        StoreError: no file, no lineage database, or a schema from a newer version.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no lineage database there")
    database = None
    try:
        database = connect_read_only(path) if read_only else _connect(path)
        applied = {migration.name for migration in migrations.applied(database)}
        pending = {migration.name for migration in migrations.pending(database)}
    except sqlite3.OperationalError as error:
        advice = f"; {_LET_IT_END}" if _is_lock(error) else ""
        raise StoreError(f"{path}: cannot be opened: {error}{advice}") from error
    except sqlite3.DatabaseError as error:
        raise StoreError(
            f"{path}: not a lineage database: {error}; put it back from a copy and delete "
            f"{path.name}-wal and {path.name}-shm"
        ) from error
    known = pending | {migration.name for migration in migrations._migrations}
    if newer := sorted(applied - known):
        database.close()
        raise StoreError(
            f"{path}: made by a newer version of Reflectune (schema {newer[-1]}); upgrade to open it"
        )
    if not applied:
        database.close()
        raise StoreError(f"{path}: not a lineage database")
    return database


def _connect(path: Path) -> Database:
    database = Database(path)
    database.execute("PRAGMA foreign_keys = ON")
    # What is committed has been paid for: it must outlast a machine that loses its power too.
    database.execute("PRAGMA synchronous = FULL")
    return _with_mathematics(database)


def connect_read_only(path: Path) -> Database:
    """A connection that cannot write, also where the folder cannot be written and nobody else writes.

    Raises:
        sqlite3.OperationalError: another program keeps the database for itself, or its newest rows are in a
            write-ahead log that cannot be read.
    """
    try:
        return _connect_by(path, "mode=ro")
    except sqlite3.OperationalError as error:
        if _is_lock(error):
            raise sqlite3.OperationalError(f"{error}; {_LET_IT_END}") from error
        if not error.sqlite_errorname.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
            raise
        # There is no place for the index of the write-ahead log, which an immutable database does without.
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            raise sqlite3.OperationalError(
                f"{error}; its newest rows are in {log.name}: make the folder writable, or copy both files "
                "to where it is"
            ) from error
    return _connect_by(path, "immutable=1")


def _is_lock(error: sqlite3.OperationalError) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def _connect_by(path: Path, option: str) -> Database:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{option}", uri=True)
    try:
        connection.execute("SELECT 1 FROM sqlite_master")
    except sqlite3.Error:
        connection.close()
        raise
    return _with_mathematics(Database(connection))


def _with_mathematics(database: Database) -> Database:
    try:
        database.execute("SELECT exp(1)")
    except sqlite3.OperationalError:  # SQLite built without its mathematical functions
        database.register_function(_exp, name="exp", deterministic=True)
    return database


def _exp(value: float | None) -> float | None:
    return None if value is None else math.exp(value)


def _before(round: int, phase: Phase) -> tuple[int, Phase] | None:
    """The (round, phase) whose winners are the incumbents of this one; None for the given pairs."""
    if phase == PHASES[0]:
        return (round - 1, PHASES[-1]) if round > 1 else None
    return (round, PHASES[0])


def _pair(row: Mapping[str, Any]) -> Pair:
    return Pair(row["instruction"], row["input"], row["response"])


def _score(row: Mapping[str, Any]) -> Score:
    return Score(row["sum_logprob"], row["num_tokens"], row["status"], bool(row["truncated"]))


def _version_row(version: Version) -> dict[str, Any]:
    row = {"id": version.id} | asdict(version)
    row |= row.pop("pair")
    return row


def marks(values: Sequence[object]) -> str:
    """As many parameters of a query."""
    return ", ".join("?" * len(values))


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
