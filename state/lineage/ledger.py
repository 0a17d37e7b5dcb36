"""The lineage database row by row, as whoever verifies it reads it: one state of it, page by page.

Only reads, over its own connection and in one transaction, so that a run may go on meanwhile. What a row
should hold is not known here.
"""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from sqlite_utils.db import Database

from reflectune.state.lineage.connection import open_database
from reflectune.state.lineage.schema import migrations
from reflectune.state.lineage.writer import LineageWriter

__all__ = ["Ledger", "Row", "SampleRows", "row_name"]

Row = dict[str, Any]

# How many samples one question to the database reads at a time.
_PAGE = 200

# The key of every table, in the order in which it names a row.
_KEYS = {
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


def row_name(table: str, row: Row) -> str:
    """What a row is called: the values of its key, joined by slashes."""
    return "/".join(str(row[column]) for column in _KEYS[table])


@dataclass(slots=True)
class SampleRows:
    """All that a lineage has about one sample. Calls are in the order in which they were made."""

    sample: Row
    occurrence: int  # how many samples before it were given with the same texts
    versions: list[Row] = field(default_factory=list)
    calls: list[Row] = field(default_factory=list)
    decisions: list[Row] = field(default_factory=list)
    scores: list[Row] = field(default_factory=list)


class Ledger:
    """Reads one lineage.db as it was when this was opened.

    Attributes:
        store: answers the loop's own questions about the same state.
    """

    def __init__(self, database: Database) -> None:
        self.db = database
        self.db.execute("BEGIN")
        self._tables = {
            row["name"] for row in self.db.query("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        self.store = LineageWriter(database)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a lineage database for reading.

        Raises:
            StoreError: no lineage database, or one made by a newer version.
        """
        return cls(open_database(path, read_only=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.db.close()

    # The file

    def damage(self) -> list[str]:
        """What SQLite finds wrong with its file."""
        found = (row["integrity_check"] for row in self.db.query("PRAGMA integrity_check"))
        return [text for text in found if text != "ok"]

    def dangling(self) -> Iterator[tuple[str, str, str]]:
        """Rows that refer to one that is not there: table, row, and what is missing."""
        broken = {(row["table"], row["fkid"]) for row in self.db.query("PRAGMA foreign_key_check")}
        for table, number in sorted(broken):
            keys = self.db.query(f"PRAGMA foreign_key_list({table})")
            (key,) = (key for key in keys if key["id"] == number)
            column, parent = key["from"], key["table"]
            names = ", ".join(f"child.{name}" for name in _KEYS[table])
            rows = self.db.query(
                f"SELECT {names}, child.{column} AS missing FROM {table} AS child "
                f"WHERE child.{column} IS NOT NULL "
                f"AND NOT EXISTS (SELECT 1 FROM {parent} AS other WHERE other.{key['to']} = child.{column})"
            )
            for row in rows:
                yield table, row_name(table, row), f"its {column} {row['missing']} is no row of {parent}"

    def schema_faults(self) -> Iterator[tuple[str, str, str]]:
        """Tables, indexes and views that are not as the migrations make them, and migrations not noted.

        Which migrations were applied is told from the schema that is there: that of an empty database by the
        first few of them that differs least.
        """
        found = _schema(self.db)
        noted = {migration.name for migration in migrations.applied(self.db)}
        best: dict[str, str] = {}
        made: list[str] = []
        with closing(sqlite3.connect(":memory:")) as connection:
            empty = Database(connection)
            names: list[str] = []
            for migration in migrations._migrations:
                migration.fn(empty)
                names.append(migration.name)
                schema = _schema(empty)
                is_possible = noted <= set(names)
                if is_possible and (not made or _differ(schema, found) < _differ(best, found)):
                    best, made = schema, list(names)
        for name in made:
            if name not in noted:
                yield "_sqlite_migrations", name, "is missing, though the schema has what it makes"
        for name in sorted(best.keys() | found.keys()):
            if name not in found:
                yield "sqlite_master", name, "is missing"
            elif name not in best:
                yield "sqlite_master", name, "is not part of a lineage's schema"
            elif best[name] != found[name]:
                yield "sqlite_master", name, "is not what the migrations make"

    # Its tables

    def count(self, table: str) -> int:
        """How many rows a table has; 0 where an older schema lacks it."""
        if table not in self._tables:
            return 0
        return int(self.db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])

    def rows(self, table: str) -> Iterator[Row]:
        """All rows of a small table in the order of their keys."""
        if table not in self._tables:
            return iter(())
        keys = ", ".join(_KEYS[table])
        also = "rowid, " if keys == "rowid" else ""
        return iter(self.db.query(f"SELECT {also}* FROM {table} ORDER BY {keys}"))

    def sample_ids(self) -> Iterator[tuple[str, int]]:
        """Ids and positions of all samples."""
        for row in self.db.query("SELECT id, position FROM samples ORDER BY position"):
            yield row["id"], row["position"]

    def phases_begun(self) -> set[tuple[int, str]]:
        """(round, phase) of every teacher call and decision."""
        rows = self.db.query(
            "SELECT DISTINCT round, phase FROM decisions "
            "UNION SELECT DISTINCT round, phase FROM teacher_calls"
        )
        return {(row["round"], row["phase"]) for row in rows}

    def training_sets(self) -> dict[int, dict[str, int]]:
        """Every training set: round -> version id -> rank."""
        sets: dict[int, dict[str, int]] = {}
        for row in self.db.query("SELECT round, version_id, rank FROM training_sets ORDER BY round, rank"):
            sets.setdefault(row["round"], {})[row["version_id"]] = row["rank"]
        return sets

    def samples(self) -> Iterator[SampleRows]:
        """All samples by position, each with what the lineage has about it."""
        rounds = sorted({round for round, _ in self.phases_begun()})
        twice = self.db.query("SELECT source_hash FROM samples GROUP BY source_hash HAVING COUNT(*) > 1")
        twins = {row["source_hash"] for row in twice}
        seen: Counter[str] = Counter()
        position = -1
        query = "SELECT * FROM samples WHERE position > ? ORDER BY position LIMIT ?"
        while page := list(self.db.query(query, [position, _PAGE])):
            position = page[-1]["position"]
            bundles = {}
            for row in page:
                bundles[row["id"]] = SampleRows(row, seen[row["source_hash"]])
                if row["source_hash"] in twins:
                    seen[row["source_hash"]] += 1
            self._fill(bundles, rounds)
            yield from bundles.values()

    def _fill(self, bundles: dict[str, SampleRows], rounds: Sequence[int]) -> None:
        ids = list(bundles)
        among = f"sample_id IN ({_marks(ids)})"
        for row in self.db.query(f"SELECT * FROM versions WHERE {among} ORDER BY candidate", ids):
            bundles[row["sample_id"]].versions.append(row)
        for row in self.db.query(f"SELECT * FROM decisions WHERE {among}", ids):
            bundles[row["sample_id"]].decisions.append(row)
        calls = self.db.query(
            f"SELECT * FROM teacher_calls WHERE round IN ({_marks(rounds)}) "
            f"AND phase IN ('instruction', 'response') AND {among} ORDER BY attempt",
            [*rounds, *ids],
        )
        for row in calls:
            bundles[row["sample_id"]].calls.append(row)
        owners = {row["id"]: bundle for bundle in bundles.values() for row in bundle.versions}
        scores: defaultdict[str, list[Row]] = defaultdict(list)
        versions = list(owners)
        for start in range(0, len(versions), _PAGE):
            some = versions[start : start + _PAGE]
            for row in self.db.query(f"SELECT * FROM scores WHERE version_id IN ({_marks(some)})", some):
                scores[row["version_id"]].append(row)
        for version, rows in scores.items():
            owners[version].scores += rows


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


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
