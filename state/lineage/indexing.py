"""How the index of a run's samples is derived from the lineage, and kept up to date with it.

The lineage is the main database of a connection and only read; the index is attached to it as `found`.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from sqlite_utils.db import Database

from reflectune.state.lineage.reader import LineageReader
from reflectune.state.lineage.sample_reader import read_ids
from reflectune.state.policies import POLICIES
from reflectune.state.records import PHASES, Phase

__all__ = ["SHIFT", "prepare_index", "update_index"]

# Changes with what is derived: an index of another number is made anew.
_SCHEMA = 7
# Versions whose texts are indexed in one transaction.
_AT_ONCE = 50_000
# A text's row in the full-text index is its sample's position and its version's own row.
SHIFT = 32

_ASKED = (
    "position", "round", "instruction_outcome", "response_outcome", "ifd_change", "r_ifd_change",
    "length_growth", "trained",
)  # fmt: skip
_TABLES = (
    # One row: the lineage that it is of, and the last version whose text is in.
    "CREATE TABLE found.facts (run TEXT, last_row INTEGER, last_id TEXT) STRICT",
    # What it holds is in the lineage: here are only the words.
    "CREATE VIRTUAL TABLE found.texts "
    "USING fts5 (text, content = '', tokenize = 'unicode61 remove_diacritics 2', detail = none, prefix = 3)",
    # One sample in one round; `version` is the row of the pair in the pool after it.
    """
    CREATE TABLE found.steps (
        position INTEGER NOT NULL, round INTEGER NOT NULL, split TEXT NOT NULL, version INTEGER NOT NULL,
        instruction_outcome TEXT, instruction_reason TEXT, ifd_before REAL, ifd_after REAL, ifd_change REAL,
        response_outcome TEXT, response_reason TEXT, r_ifd_before REAL, r_ifd_after REAL, r_ifd_change REAL,
        length_growth REAL, trained INTEGER, PRIMARY KEY (position, round)
    ) STRICT, WITHOUT ROWID
    """,
    # Each holds all that is asked of a row, so that rows are read only once they are found.
    *(
        f"CREATE INDEX found.steps_{name} ON steps ({', '.join(dict.fromkeys((name, *_ASKED)))})"
        for name in ("position", "round", "ifd_change", "r_ifd_change", "length_growth")
    ),
    "CREATE TABLE found.rounds (round INTEGER PRIMARY KEY, fingerprint TEXT, document TEXT, outcomes TEXT)",
)


def prepare_index(db: Database) -> None:
    """Make the index's tables, where there are none or ones of another schema."""
    db.register_function(_words_around, name="words_around", deterministic=True)
    if db.execute("PRAGMA found.user_version").fetchone()[0] != _SCHEMA:
        with _writing(db):
            _clear(db)


def update_index(db: Database) -> None:
    """Take in what the lineage has gained, in a transaction a step."""
    with _writing(db):
        if not _fits(db):
            _clear(db)
    while _add_texts(db):
        pass
    _add_given(db)
    pool = db.execute("SELECT COUNT(*) FROM samples WHERE split = 'train'").fetchone()[0]
    for row in list(db.query("SELECT round FROM rounds WHERE round > 0 ORDER BY round")):
        for phase in PHASES:
            _add_decisions(db, row["round"], phase, pool)
        _mark_trained(db, row["round"])
    _add_rounds(db)


def _fits(db: Database) -> bool:
    """Whether the index was made from this lineage, and not from one that has gone on differently."""
    run, last_row, last_id = db.execute("SELECT * FROM found.facts").fetchone()
    row = db.execute("SELECT id FROM versions WHERE rowid = ?", [last_row]).fetchone()
    if run != _run_id(db) or last_id != (row[0] if row else ""):
        return False
    (newest,) = db.execute("SELECT MAX(round) FROM found.steps").fetchone()
    return all(_known(db, newest, phase) <= _decided(db, newest, phase) for phase in PHASES)


def _run_id(db: Database) -> str:
    return "|".join(db.execute("SELECT name, created_at, data_hash FROM runs").fetchone())


def _clear(db: Database) -> None:
    for table in ("facts", "texts", "steps", "rounds"):
        db.execute(f"DROP TABLE IF EXISTS found.{table}")
    for statement in _TABLES:
        db.execute(statement)
    db.execute(f"PRAGMA found.user_version = {_SCHEMA}")
    db.execute("INSERT INTO found.facts VALUES (?, 0, '')", [_run_id(db)])


def _add_texts(db: Database) -> bool:
    """Index the next texts."""
    with _writing(db):
        (last,) = db.execute("SELECT last_row FROM found.facts").fetchone()
        # Ascending rows, or the full-text index writes a piece of its own for each.
        db.execute(
            f"""
            INSERT INTO found.texts (rowid, text)
            SELECT (samples.position << {SHIFT}) + version.rowid,
                version.instruction || ' ' || version.input || ' ' || version.response || CASE phase
                    WHEN 'original' THEN words_around(
                        samples.meta, turns, COALESCE(before.turn + 2, 0), samples.turn)
                    ELSE '' END
            FROM versions AS version JOIN samples ON samples.id = version.sample_id
            LEFT JOIN conversations
                ON conversations.id = samples.conversation_id AND version.phase = 'original'
            -- A conversation's exchanges are neighbours: each turn is indexed once.
            LEFT JOIN samples AS before ON before.position = samples.position - 1
                AND before.conversation_id = samples.conversation_id AND version.phase = 'original'
            WHERE version.rowid > :last AND version.rowid <= :last + {_AT_ONCE}
            ORDER BY samples.position, version.rowid
            """,
            {"last": last},
        )
        newest = db.execute(
            f"SELECT rowid, id FROM versions WHERE rowid > :last AND rowid <= :last + {_AT_ONCE} "
            "ORDER BY rowid DESC LIMIT 1",
            {"last": last},
        ).fetchone()
        if newest is None:
            return False
        db.execute("UPDATE found.facts SET last_row = ?, last_id = ?", newest)
    return True


def _words_around(meta: str, turns: str | None, start: int, end: int) -> str:
    """What else a given pair is found by: ids of its record, and the turns from `start` to before its own."""
    said = _contents(turns)[start:end] if turns else ()
    return " ".join(("", *read_ids(json.loads(meta)), *said))


@lru_cache(maxsize=1)
def _contents(turns: str) -> list[str]:
    return [turn["content"] for turn in json.loads(turns)]


def _add_given(db: Database) -> None:
    known = db.execute("SELECT COUNT(*) FROM found.steps WHERE round = 0").fetchone()[0]
    if known == db.table("samples").count:
        return
    with _writing(db):
        db.execute(
            """
            INSERT OR IGNORE INTO found.steps (position, round, split, version)
            SELECT position, 0, split, versions.rowid FROM samples
            JOIN versions ON versions.sample_id = samples.id AND versions.phase = 'original'
            """
        )


def _add_decisions(db: Database, round: int, phase: Phase, pool: int) -> None:
    """Add what a phase has decided since the last update; it is done with as many as the pool has."""
    known = _known(db, round, phase)
    if known == pool or known == _decided(db, round, phase):
        return
    measure = "ifd" if phase == "instruction" else "r_ifd"
    before, after = (_measured(phase, measure, value) for value in ("incumbent_value", "challenger_value"))
    with _writing(db):
        db.execute(
            f"""
            INSERT INTO found.steps (position, round, split, version, {phase}_outcome, {phase}_reason,
                {measure}_before, {measure}_after, {measure}_change, length_growth)
            SELECT samples.position, decisions.round, samples.split, winner.rowid,
                outcome, decisions.reason, {before}, {after}, {after} - {before},
                CAST(length(winner.response) AS REAL) / NULLIF(length(given.response), 0)
            FROM decisions JOIN outcomes USING (round, phase, sample_id)
            JOIN samples ON samples.id = decisions.sample_id
            JOIN versions AS winner ON winner.id = decisions.winner_id
            JOIN versions AS given ON given.sample_id = samples.id AND given.phase = 'original'
                AND given.round = 0
            LEFT JOIN found.steps AS known
                ON known.position = samples.position AND known.round = decisions.round
            WHERE decisions.round = :round AND decisions.phase = :phase AND known.{phase}_outcome IS NULL
            ORDER BY samples.position
            ON CONFLICT (position, round) DO UPDATE SET
                version = excluded.version, length_growth = excluded.length_growth,
                {phase}_outcome = excluded.{phase}_outcome, {phase}_reason = excluded.{phase}_reason,
                {measure}_before = excluded.{measure}_before,
                {measure}_after = excluded.{measure}_after,
                {measure}_change = excluded.{measure}_change
            """,
            {"round": round, "phase": phase},
        )


def _mark_trained(db: Database, round: int) -> None:
    """Say which samples a round trained on, once its training set is chosen."""
    with _writing(db):
        db.execute(
            """
            UPDATE found.steps SET trained = position IN (
                SELECT samples.position FROM training_sets
                JOIN versions ON versions.id = training_sets.version_id
                JOIN samples ON samples.id = versions.sample_id WHERE training_sets.round = :round)
            WHERE round = :round
                AND (EXISTS (SELECT 1 FROM rounds WHERE round = :round AND student_id IS NOT NULL)
                    OR EXISTS (SELECT 1 FROM training_sets WHERE round = :round))
                AND NOT EXISTS (SELECT 1 FROM found.steps WHERE round = :round AND trained IS NOT NULL)
            """,
            {"round": round},
        )


def _add_rounds(db: Database) -> None:
    """Keep what there is to say of rounds; one that is finished is derived once."""
    kept = dict(db.execute("SELECT round, fingerprint FROM found.rounds").fetchall())
    evaluated = dict(db.execute("SELECT round, COUNT(*) FROM evaluations GROUP BY round").fetchall())
    thresholds = db.execute("SELECT json_extract(config, '$.alarms') FROM runs").fetchone()
    for row in list(db.query("SELECT * FROM rounds ORDER BY round")):
        fingerprint = json.dumps([row, evaluated.get(row["round"], 0), thresholds])
        if row["status"] == "finished" and kept.get(row["round"]) == fingerprint:
            continue
        reader, round = LineageReader(db), row["round"]
        told = [json.dumps(reader.round(round)), json.dumps(reader.count_outcomes(round))]
        with _writing(db):
            db.execute("INSERT OR REPLACE INTO found.rounds VALUES (?, ?, ?, ?)", [round, fingerprint, *told])


def _decided(db: Database, round: int, phase: Phase) -> int:
    query = "SELECT COUNT(*) FROM decisions WHERE round = ? AND phase = ?"
    return int(db.execute(query, [round, phase]).fetchone()[0])


def _known(db: Database, round: int, phase: Phase) -> int:
    """How many decisions of a phase are in the index."""
    query = f"SELECT COUNT({phase}_outcome) FROM found.steps WHERE round = ?"
    return int(db.execute(query, [round]).fetchone()[0])


def _measured(phase: Phase, measure: str, value: str) -> str:
    """A decision's value where its policy compares this measure in the phase; else NULL."""
    by = ((name, policy.measure(phase)) for name, policy in POLICIES.items())
    policies = [f"'{name}'" for name, compared in by if compared is not None and compared.key == measure]
    return f"CASE WHEN decisions.policy IN ({', '.join(policies)}) THEN decisions.{value} END"


@contextmanager
def _writing(db: Database) -> Iterator[None]:
    """One transaction on the index; everything in it is committed together, or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
