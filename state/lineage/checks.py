"""What of a lineage can be told to be wrong without a rule of the machine: its file, its schema, its rows.

What follows from a rule is derived again by `loop.verify`.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, fields
from math import isclose
from typing import Any

from sqlite_utils.db import Database

from reflectune.state.data.datasets import sample_id
from reflectune.state.groups import in_groups
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.lineage.schema import migrations
from reflectune.state.lineage.seals import SEALED, find_seal
from reflectune.state.records import (
    FINAL_STATUSES,
    Pair,
    TeacherCall,
    Version,
    content_part,
    position_part,
)

__all__ = [
    "Fault", "answers", "differences", "file_faults", "name_row", "row_faults", "rows", "training_sets",
]  # fmt: skip

Fault = tuple[str, str, str]  # table, name of the row, what is wrong
Row = dict[str, Any]

_AT_ONCE = 500  # samples whose pairs are read together

# The key of every table, in the order in which it names a row.
KEYS = {
    "runs": ("name",),
    "rounds": ("round",),
    "conversations": ("id",),
    "samples": ("id",),
    "skipped_rows": ("kind",),
    "students": ("id",),
    "servers": ("id",),
    "teacher_calls": ("id",),
    "versions": ("id",),
    "scores": ("version_id", "student_id", "term"),
    "decisions": ("round", "phase", "sample_id"),
    "training_sets": ("round", "version_id"),
    "evaluations": ("round", "name"),
    "held_out_answers": ("student_id", "sample_id"),
    "alarms": ("round", "name"),
    "judge_calls": ("student_id", "opponent", "sample_id", "swapped", "attempt"),
    "config_changes": ("rowid",),
}
_CALL = "SELECT 1 FROM teacher_calls AS other WHERE other.candidate = it.candidate"
# Earlier versions asked again after `unchanged`.
_ASKED_NO_MORE = tuple(status for status in FINAL_STATUSES if status != "unchanged")
_SAME_PLACE = "other.round = it.round AND other.phase = it.phase AND other.sample_id = it.sample_id"
_HELD_OUT = "sample_id IN (SELECT id FROM samples WHERE split = 'holdout')"
_TOO_EARLY = (
    "it.phase = 'response' AND NOT EXISTS (SELECT 1 FROM decisions AS other WHERE other.round = it.round "
    "AND other.phase = 'instruction' AND other.sample_id = it.sample_id)"
)
_LATER = "EXISTS (SELECT 1 FROM rounds AS other WHERE other.round > it.round)"
# (table, what is wrong, the rows `it` of which that is true).
_RULES = (
    (
        "samples", "has no given pair",
        "NOT EXISTS (SELECT 1 FROM versions WHERE sample_id = it.id AND phase = 'original' AND round = 0 "
        "AND candidate = 0 AND parent_id IS NULL AND teacher_call_id IS NULL)",
    ),
    (
        "samples", "is no exchange of its conversation",
        "CASE WHEN conversation_id IS NULL THEN turn <> 0 OR followed <> 0 "
        "ELSE NOT EXISTS (SELECT 1 FROM conversations AS given "
        "WHERE given.id = it.conversation_id AND json_array_length(turns) > turn + 1 "
        "AND json_extract(turns, '$[' || turn || '].role') = 'user' "
        "AND (json_array_length(turns) > turn + 2) = followed) END",
    ),
    (
        "versions", "is no proposal of its teacher call",
        f"phase <> 'original' AND NOT EXISTS ({_CALL} AND {_SAME_PLACE} AND status = 'ok' "
        "AND other.id = it.teacher_call_id)",
    ),
    (
        "teacher_calls", "has no proposal among the versions",
        "status = 'ok' AND NOT EXISTS (SELECT 1 FROM versions AS other "
        f"WHERE {_SAME_PLACE} AND teacher_call_id = it.id)",
    ),
    (
        "teacher_calls", "follows no attempt that may be made again",
        f"attempt <> 1 AND NOT EXISTS ({_CALL} AND {_SAME_PLACE} AND other.attempt = it.attempt - 1 "
        f"AND status NOT IN {_ASKED_NO_MORE}) AND it.attempt - 1 NOT IN (SELECT value "
        "FROM rounds AS other, json_each(iif(json_valid(metrics), metrics, '{}'), '$.spared.' || it.phase) "
        "WHERE other.round = it.round)",
    ),
    (
        "teacher_calls", "asks about a pair that is left alone",
        f"{_HELD_OUT} OR EXISTS (SELECT 1 FROM decisions AS other WHERE {_SAME_PLACE} AND reason = 'frozen')",
    ),
    ("teacher_calls", "asks for a response before its instruction was decided", _TOO_EARLY),
    ("decisions", "is about a held-out sample", _HELD_OUT),
    ("decisions", "is about a response whose instruction was not decided", _TOO_EARLY),
    (
        "rounds", "follows a round that is missing",
        "round <> 0 AND round - 1 NOT IN (SELECT round FROM rounds)",
    ),
    (
        "rounds", "does not end with its newest student",
        "(student_id IS NOT NULL OR round IN (SELECT round FROM students)) AND student_id IS NOT "
        "(SELECT id FROM students WHERE students.round <= it.round ORDER BY students.round DESC LIMIT 1)",
    ),
    (
        "rounds", "is not finished as its other columns say",
        "(status = 'finished') <> (finished_at IS NOT NULL) OR (status = 'finished' AND student_id IS NULL) "
        f"OR (status <> 'finished' AND (stop_reason IS NOT NULL OR {_LATER}))",
    ),
    ("rounds", "has a reason to stop, though the loop went on", f"stop_reason IS NOT NULL AND {_LATER}"),
    (
        "runs", "does not end as its last round says",
        "status NOT IN ('running', 'interrupted', 'failed', (SELECT CASE WHEN stop_reason = 'budget' "
        "THEN 'budget' WHEN stop_reason <> '' THEN 'finished' ELSE 'running' END FROM rounds "
        "ORDER BY round DESC LIMIT 1))",
    ),
)  # fmt: skip


def differences(stored: Any, expected: Any) -> dict[str, str]:
    """Columns of a record that are not as they are derived again, and what they are and should be.

    Numbers may differ by rounding: another machine's exp() may end in another bit.
    """
    found = {name: (getattr(stored, name), want) for name, want in asdict(expected).items()}
    return {
        name: f"{name} is {value}, want {want}"
        for name, (value, want) in found.items()
        if value != want
        and not (isinstance(value, float) and isinstance(want, float) and isclose(value, want, rel_tol=1e-12))
    }


def rows(lineage: LineageReader, table: str) -> Iterator[Row]:
    """All rows of a table; none where an older schema lacks it."""
    if lineage.db.table(table).exists():
        also = "rowid, " if KEYS[table] == ("rowid",) else ""
        yield from lineage.db.query(f"SELECT {also}* FROM {table}")


def training_sets(lineage: LineageReader) -> dict[int, dict[str, int]]:
    """Every training set: round -> version id -> rank."""
    sets: dict[int, dict[str, int]] = {}
    for row in rows(lineage, "training_sets"):
        sets.setdefault(row["round"], {})[row["version_id"]] = row["rank"]
    return sets


def answers(lineage: LineageReader) -> Iterator[tuple[Row, Pair, Pair | None]]:
    """Every teacher call of a decided phase, the pair it was asked about, and the one it proposed."""
    texts = ", ".join(
        f"{side}.{name} AS {side}_{name}"
        for side in ("incumbent", "proposed")
        for name in ("instruction", "input", "response")
    )
    found = lineage.db.query(
        f"""
        SELECT calls.*, {texts}
        FROM teacher_calls AS calls
        JOIN decisions ON decisions.round = calls.round AND decisions.phase = calls.phase
            AND decisions.sample_id = calls.sample_id
        JOIN versions AS incumbent ON incumbent.id = decisions.incumbent_id
        LEFT JOIN versions AS proposed ON proposed.sample_id = calls.sample_id
            AND proposed.round = calls.round AND proposed.phase = calls.phase
            AND proposed.teacher_call_id = calls.id
        """
    )
    for page in in_groups(found, _AT_ONCE):
        sides = zip(
            page, lineage.read_pairs(page, "incumbent_"), lineage.read_pairs(page, "proposed_"), strict=True
        )
        for row, incumbent, proposed in sides:
            yield row, incumbent, None if row["proposed_response"] is None else proposed


def file_faults(lineage: LineageReader) -> Iterator[Fault]:
    """What SQLite finds wrong with the file, and what of its schema is not as the migrations make it."""
    for row in lineage.db.query("PRAGMA integrity_check"):
        if row["integrity_check"] != "ok":
            yield "lineage.db", "", row["integrity_check"]
    yield from _dangling(lineage)
    yield from _schema_faults(lineage)


def _dangling(lineage: LineageReader) -> Iterator[Fault]:
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
        yield from _find(lineage, table, f"its {column} is no row of {parent}", condition)


def _schema_faults(lineage: LineageReader) -> Iterator[Fault]:
    """Tables, indexes and views that are not as the migrations make them, and migrations not noted."""
    noted = [migration.name for migration in migrations.applied(lineage.db)]
    with closing(sqlite3.connect(":memory:")) as connection:
        empty = Database(connection)
        for migration in migrations._migrations:
            if migration.name > max(noted, default=""):
                break
            migration.fn(empty)
            if migration.name not in noted:
                yield "_sqlite_migrations", migration.name, "is missing, though a later one was applied"
        made, found = _schema(empty), _schema(lineage.db)
    for name in sorted(made.keys() | found.keys()):
        if made.get(name) != found.get(name):
            yield "sqlite_master", name, "is not what the migrations make"


def _schema(database: Database) -> dict[str, str]:
    """What a database is made of, but for SQLite's own and the list of migrations: name -> SQL."""
    rows = database.query(
        "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL "
        "AND substr(name, 1, 7) <> 'sqlite_' AND tbl_name <> '_sqlite_migrations'"
    )
    return {row["name"]: " ".join(row["sql"].split()) for row in rows}


def row_faults(lineage: LineageReader, checked: Counter[str], unsealed: Counter[str]) -> Iterator[Fault]:
    """Rows whose seal or id is not the hash of what they hold, or that cannot stand beside the others.

    `checked` gets the number of rows by table, `unsealed` that of rows written before there were seals.
    """
    first = (row for table in ("runs", "samples") for row in rows(lineage, table))
    has_seals = any(row.get("seal") is not None for row in first)
    seen: Counter[str] = Counter()  # samples by source_hash, for their ids
    for table in KEYS:
        for row in rows(lineage, table):
            checked[table] += 1
            if table in SEALED and row.get("seal") is None:
                unsealed[table] += 1
                if has_seals:
                    yield table, name_row(table, row), "has no seal, and its run began with them"
            elif table in SEALED and row["seal"] != find_seal(table, row):
                yield table, name_row(table, row), "its content is not what its seal was made of"
            if table in _IDS and row["id"] != _IDS[table](row, seen):
                yield table, name_row(table, row), "its id is not the hash of what it holds"
            if table == "samples":
                seen[row["source_hash"]] += 1
    for table, fault, condition in _RULES:
        yield from _find(lineage, table, fault, condition)
    yield from _given_faults(lineage)


def _given_faults(lineage: LineageReader) -> Iterator[Fault]:
    """Samples whose given pair, with its context, is not the one whose hash they have."""
    given = lineage.db.query(
        "SELECT sample_id, source_hash, instruction, input, response FROM samples CROSS JOIN versions "
        "ON versions.sample_id = samples.id AND versions.round = 0 AND versions.phase = 'original'"
    )
    for page in in_groups(given, _AT_ONCE):
        for row, pair in zip(page, lineage.read_pairs(page), strict=True):
            if pair.content_hash != row["source_hash"]:
                yield "samples", row["sample_id"], "its given pair is not what its source_hash is of"


def _sample_id(row: Row, seen: Mapping[str, int]) -> str:
    id = sample_id(row["position"], row["source_hash"], seen[row["source_hash"]])
    return (
        id if position_part(row["id"]) else content_part(id)
    )  # earlier versions made ids without a position


def _call_id(row: Row, seen: Mapping[str, int]) -> str:
    return TeacherCall(**{f.name: row[f.name] for f in fields(TeacherCall) if f.name in row}).id


def _version_id(row: Row, seen: Mapping[str, int]) -> str:
    pair = Pair(row["instruction"], row["input"], row["response"])
    place = row["sample_id"], row["parent_id"], row["round"], row["phase"], row["candidate"]
    return Version(*place, pair).id


# What a row's id must be, by the row and how often its source_hash came before it.
_IDS: dict[str, Callable[[Row, Mapping[str, int]], str]] = {
    "samples": _sample_id,
    "students": lambda row, seen: f"s{row['round']}",
    "teacher_calls": _call_id,
    "versions": _version_id,
}


def _find(lineage: LineageReader, table: str, fault: str, condition: str) -> Iterator[Fault]:
    names = ", ".join(f"it.{name}" for name in KEYS[table])
    for row in lineage.db.query(f"SELECT {names} FROM {table} AS it WHERE {condition}"):
        yield table, name_row(table, row), fault


def name_row(table: str, row: Mapping[str, Any]) -> str:
    """What a row is called: the values of its key, joined by slashes."""
    return "/".join(str(row[column]) for column in KEYS[table])
