"""What of a lineage can be told to be wrong by SQL alone: its file, its schema, and rows beside other rows.

What needs a rule of the machine is derived again by `loop.verify`.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, get_args

from sqlite_utils.db import Database

from reflectune.state.lineage.reader import LineageReader
from reflectune.state.lineage.schema import migrations
from reflectune.state.records import FINAL_STATUSES, TERMS, ScoreStatus

__all__ = ["KEYS", "Fault", "damage", "dangling", "misplaced", "row_name", "rows", "schema_faults"]

Fault = tuple[str, str, str]  # table, name of the row, what is wrong

# The key of every table, in the order in which it names a row.
KEYS = {
    "runs": ("name",),
    "rounds": ("round",),
    "samples": ("id",),
    "students": ("id",),
    "teacher_calls": ("id",),
    "versions": ("id",),
    "scores": ("version_id", "student_id", "term"),
    "decisions": ("round", "phase", "sample_id"),
    "training_sets": ("round", "version_id"),
    "evaluations": ("round", "name"),
    "config_changes": ("rowid",),
}
_HELD_OUT = "EXISTS (SELECT 1 FROM samples WHERE samples.id = it.sample_id AND split = 'holdout')"
_SAME_PLACE = "other.round = it.round AND other.phase = it.phase AND other.sample_id = it.sample_id"
# (table, what is wrong, the rows `it` of which that is true).
_RULES = (
    *(
        (table, "is about a held-out sample, which nobody may rewrite", condition)
        for table, condition in (
            ("teacher_calls", _HELD_OUT),
            ("versions", f"phase <> 'original' AND {_HELD_OUT}"),
            ("decisions", _HELD_OUT),
        )
    ),
    *(
        (table, "is of a round that was never begun", "round NOT IN (SELECT round FROM rounds)")
        for table in ("teacher_calls", "versions", "decisions", "training_sets", "evaluations")
    ),
    (
        "samples", "has not one given pair",
        "(SELECT COUNT(*) FROM versions WHERE sample_id = it.id AND phase = 'original') <> 1",
    ),
    (
        "versions", "is the given pair, and has a round, a candidate, a parent or a teacher call",
        "phase = 'original' AND (round <> 0 OR candidate <> 0 OR parent_id IS NOT NULL "
        "OR teacher_call_id IS NOT NULL)",
    ),
    (
        "versions", "is no proposal of its teacher call",
        "phase <> 'original' AND NOT EXISTS (SELECT 1 FROM teacher_calls AS other "
        f"WHERE other.id = it.teacher_call_id AND status = 'ok' AND {_SAME_PLACE} "
        "AND other.candidate = it.candidate)",
    ),
    (
        "versions", "was proposed for another pair than the incumbent",
        f"EXISTS (SELECT 1 FROM decisions AS other WHERE {_SAME_PLACE} AND incumbent_id <> it.parent_id)",
    ),
    (
        "teacher_calls", "has no proposal among the versions",
        "status = 'ok' AND NOT EXISTS (SELECT 1 FROM versions AS other "
        f"WHERE {_SAME_PLACE} AND teacher_call_id = it.id)",
    ),
    (
        "teacher_calls", "asks again after a final answer",
        f"EXISTS (SELECT 1 FROM teacher_calls AS other WHERE {_SAME_PLACE} "
        "AND other.candidate = it.candidate AND other.attempt < it.attempt "
        f"AND other.status IN {FINAL_STATUSES})",
    ),
    (
        "teacher_calls", "follows an attempt that is missing",
        f"attempt <> 1 AND NOT EXISTS (SELECT 1 FROM teacher_calls AS other WHERE {_SAME_PLACE} "
        "AND other.candidate = it.candidate AND other.attempt = it.attempt - 1)",
    ),
    (
        "teacher_calls", "asks about a pair that is left alone",
        f"EXISTS (SELECT 1 FROM decisions AS other WHERE {_SAME_PLACE} AND reason = 'frozen')",
    ),
    (
        "scores", "is no log-probability",
        f"status NOT IN {get_args(ScoreStatus)} OR term NOT IN {TERMS} "
        "OR (status = 'ok') <> (sum_logprob IS NOT NULL) "
        "OR (status = 'ok') <> (num_tokens IS NOT NULL) OR sum_logprob > 1e-3 OR sum_logprob < -1e300 "
        "OR num_tokens < 1",
    ),
    (
        "scores", "no decision asked for it",
        "student_id NOT IN (SELECT student_id FROM rounds WHERE round = 0 AND student_id IS NOT NULL) "
        "AND NOT EXISTS (SELECT 1 FROM versions JOIN decisions ON decisions.sample_id = versions.sample_id "
        "JOIN rounds ON rounds.round = decisions.round - 1 WHERE versions.id = it.version_id "
        "AND rounds.student_id = it.student_id AND (decisions.incumbent_id = versions.id "
        "OR (decisions.round = versions.round AND decisions.phase = versions.phase)))",
    ),
    (
        "rounds", "follows a round that is missing",
        "round <> 0 AND round - 1 NOT IN (SELECT round FROM rounds)",
    ),
    (
        "rounds", "ends with another student than its own, or the one before",
        "student_id IS NOT NULL AND student_id IS NOT COALESCE((SELECT id FROM students "
        "WHERE students.id = 's' || it.round), (SELECT student_id FROM rounds WHERE round = it.round - 1))",
    ),
    (
        "rounds", "has no student, though its own is there",
        "student_id IS NULL AND 's' || round IN (SELECT id FROM students)",
    ),
    (
        "rounds", "is not finished as its other columns say",
        "(status = 'finished') <> (finished_at IS NOT NULL) OR (status = 'finished' AND student_id IS NULL) "
        "OR (status <> 'finished' AND round < (SELECT MAX(round) FROM rounds))",
    ),
    (
        "rounds", "has a reason to stop, though the loop went on",
        "stop_reason IS NOT NULL AND (status <> 'finished' OR round < (SELECT MAX(round) FROM rounds))",
    ),
    (
        "rounds", "its metrics are no seconds by node",
        "CASE WHEN NOT json_valid(metrics) THEN 1 WHEN json_type(metrics) <> 'object' THEN 1 "
        "WHEN COALESCE(json_type(metrics, '$.seconds'), 'object') <> 'object' THEN 1 "
        "ELSE EXISTS (SELECT 1 FROM json_each(metrics, '$.seconds') "
        "WHERE type NOT IN ('integer', 'real') OR value < 0) END",
    ),
    (
        "evaluations", "is not of its round's student",
        "student_id IS NOT (SELECT student_id FROM rounds WHERE rounds.round = it.round)",
    ),
    (
        "evaluations", "its value, bounds and number of pairs do not fit",
        "n NOT BETWEEN 1 AND (SELECT COUNT(*) FROM samples WHERE split = 'holdout') "
        "OR (low IS NULL) <> (n < 2) OR (high IS NULL) <> (n < 2) OR value NOT BETWEEN low AND high",
    ),
    (
        "runs", "does not end as its last round says",
        "status IN ('finished', 'budget') AND (SELECT CASE WHEN stop_reason IS NULL THEN '' "
        "WHEN stop_reason = 'budget' THEN 'budget' ELSE 'finished' END FROM rounds "
        "ORDER BY round DESC LIMIT 1) IS NOT it.status",
    ),
    (
        "runs", "has no such status",
        "status NOT IN ('running', 'interrupted', 'budget', 'failed', 'finished')",
    ),
)  # fmt: skip


def row_name(table: str, row: Mapping[str, Any]) -> str:
    """What a row is called: the values of its key, joined by slashes."""
    return "/".join(str(row[column]) for column in KEYS[table])


def rows(lineage: LineageReader, table: str) -> Iterator[dict[str, Any]]:
    """All rows of a table; none where an older schema lacks it."""
    if lineage.db.table(table).exists():
        also = "rowid, " if KEYS[table] == ("rowid",) else ""
        yield from lineage.db.query(f"SELECT {also}* FROM {table}")


def damage(lineage: LineageReader) -> Iterator[Fault]:
    """What SQLite finds wrong with its file."""
    for row in lineage.db.query("PRAGMA integrity_check"):
        if row["integrity_check"] != "ok":
            yield "lineage.db", "", row["integrity_check"]


def dangling(lineage: LineageReader) -> Iterator[Fault]:
    """Rows that refer to one that is not there."""
    broken = {(row["table"], row["fkid"]) for row in lineage.db.query("PRAGMA foreign_key_check")}
    for table, number in sorted(broken):
        keys = lineage.db.query(f"PRAGMA foreign_key_list({table})")
        (key,) = (key for key in keys if key["id"] == number)
        column, parent = key["from"], key["table"]
        condition = (
            f"{column} IS NOT NULL "
            f"AND NOT EXISTS (SELECT 1 FROM {parent} AS other WHERE other.{key['to']} = it.{column})"
        )
        yield from _faults(lineage, table, f"its {column} is no row of {parent}", condition)


def misplaced(lineage: LineageReader) -> Iterator[Fault]:
    """Rows that cannot stand beside the others."""
    tables = set(lineage.db.table_names())
    for table, fault, condition in _RULES:
        if table in tables:
            yield from _faults(lineage, table, fault, condition)


def _faults(lineage: LineageReader, table: str, fault: str, condition: str) -> Iterator[Fault]:
    names = ", ".join(f"it.{name}" for name in KEYS[table])
    for row in lineage.db.query(f"SELECT {names} FROM {table} AS it WHERE {condition}"):
        yield table, row_name(table, row), fault


def schema_faults(lineage: LineageReader) -> Iterator[Fault]:
    """Tables, indexes and views that are not as the migrations make them, and migrations not noted.

    Which migrations were applied is told from the schema that is there: that of an empty database by the
    first few of them that differs least.
    """
    found = _schema(lineage.db)
    noted = {migration.name for migration in migrations.applied(lineage.db)}
    best: dict[str, str] = {}
    made: list[str] = []
    with closing(sqlite3.connect(":memory:")) as connection:
        empty = Database(connection)
        names: list[str] = []
        for migration in migrations._migrations:
            migration.fn(empty)
            names.append(migration.name)
            schema = _schema(empty)
            if noted <= set(names) and (not made or _differ(schema, found) < _differ(best, found)):
                best, made = schema, list(names)
    for name in made:
        if name not in noted:
            yield "_sqlite_migrations", name, "is missing, though the schema has what it makes"
    for name in sorted(best.keys() | found.keys()):
        if best.get(name) != found.get(name):
            yield "sqlite_master", name, "is not what the migrations make"


def _schema(database: Database) -> dict[str, str]:
    """What a database is made of, but for SQLite's own and the list of migrations: name -> SQL."""
    rows = database.query(
        "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL "
        "AND substr(name, 1, 7) <> 'sqlite_' AND tbl_name <> '_sqlite_migrations'"
    )
    return {row["name"]: " ".join(row["sql"].split()) for row in rows}


def _differ(one: Mapping[str, str], other: Mapping[str, str]) -> int:
    """How many names two schemas have not alike."""
    return sum(one.get(name) != other.get(name) for name in one.keys() | other.keys())
