"""The teacher's answers of all runs of a folder, in one file, so that none is paid for twice.

It holds copies only: the lineage of a run has every answer that the run used, so the file may be deleted
while no run is going on; what a server has in a batch then is asked, and paid for, once more. Any number of
processes of one machine use it at once. Machines that share a network folder need a runs folder each, or
`teacher.cache = "off"`: write-ahead logging needs memory that all share.
"""

import fcntl
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from sqlite_utils import Migrations
from sqlite_utils.db import Database

from reflectune.state.errors import StoreError
from reflectune.state.folder import PLAN
from reflectune.state.records import Answer
from reflectune.state.storage import OpenDatabase, explain_storage_errors, read_schema

__all__ = ["AnswerCache", "cache_path"]

_LOCKED_SECONDS = 60.0
# For so long a refusal is believed: servers learn.
_REFUSED_FOR = timedelta(days=1)

_migrations = Migrations("reflectune-cache")


@_migrations(name="0001_tables")
def _create_tables(db: Database) -> None:
    db.executescript("""
        -- key is a hash of everything the answer depends on: prompt, schema, model and sampling.
        CREATE TABLE answers (
            key TEXT PRIMARY KEY,
            model TEXT NOT NULL,
            text TEXT NOT NULL,
            finish_reason TEXT,
            prompt_tokens INTEGER,
            completion_tokens INTEGER,
            created_at TEXT NOT NULL
        ) STRICT;

        -- What was last found in the folder of a local model.
        CREATE TABLE models (
            folder TEXT PRIMARY KEY,
            fingerprint TEXT NOT NULL,
            seen_at TEXT NOT NULL
        ) STRICT;

        -- Whether a server has answered requests with a schema (1), or refuses them and answers without (0).
        CREATE TABLE servers (
            address TEXT NOT NULL,
            model TEXT NOT NULL,
            grants_schemas INTEGER NOT NULL,
            seen_at TEXT NOT NULL,
            PRIMARY KEY (address, model)
        ) STRICT, WITHOUT ROWID;
    """)


@_migrations(name="0002_refused_parameters")
def _create_refused_parameters(db: Database) -> None:
    db.executescript("""
        -- What a server refused by name; key is a hash of its address, its model and all that was sent.
        CREATE TABLE refused_parameters (
            key TEXT NOT NULL,
            name TEXT NOT NULL,
            seen_at TEXT NOT NULL,
            PRIMARY KEY (key, name)
        ) STRICT, WITHOUT ROWID;
    """)


@_migrations(name="0003_batches")
def _add_batches(db: Database) -> None:
    db.executescript("""
        -- Batches at servers. The tag is in a batch's metadata there; its id is NULL until it is known.
        CREATE TABLE batches (
            tag TEXT PRIMARY KEY,
            id TEXT,
            begun_at TEXT NOT NULL
        ) STRICT, WITHOUT ROWID;

        -- The last batch that a request went into, by a hash of its address, body and seed.
        CREATE TABLE batch_requests (
            request TEXT PRIMARY KEY,
            tag TEXT NOT NULL
        ) STRICT, WITHOUT ROWID;
    """)


def cache_path(runs: Path) -> Path:
    """Where the runs of a folder keep their answers; those of an experiment do so beside its folder."""
    return (runs.parent if (runs / PLAN).exists() else runs) / "cache.db"


class AnswerCache(OpenDatabase):
    """Reads and writes one cache.db over one connection; use it in one thread."""

    def __init__(self, path: Path, database: Database) -> None:
        super().__init__(database)
        self.path = path

    @classmethod
    def open(cls, runs: Path) -> Self:
        """Open the cache of a folder of runs; makes both where there are none."""
        path = cache_path(runs)
        if path.is_dir():
            raise StoreError(f"{path}: a folder, where the cache of answers belongs; move it away")
        with _explained(path):
            runs.mkdir(parents=True, exist_ok=True)
        with _explained(path), _alone(path.parent):
            database = Database(sqlite3.connect(path, timeout=_LOCKED_SECONDS))
            try:
                _prepare(path, database)
            except BaseException:
                database.close()
                raise
        return cls(path, database)

    def get(self, key: str, request_id: str) -> Answer | None:
        """The answer kept under a key, as one to this request."""
        names = ("text", "finish_reason", "prompt_tokens", "completion_tokens")
        row = self._read(f"SELECT {', '.join(names)} FROM answers WHERE key = ?", key)
        return row and Answer(request_id, **dict(zip(names, row, strict=True)), cached=True)

    def put(self, key: str, model: str, answer: Answer) -> None:
        """Keep what a model answered; the first answer under a key stays."""
        values = (answer.text, answer.finish_reason, answer.prompt_tokens, answer.completion_tokens)
        self._write("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)", key, model, *values)

    def fingerprint(self, folder: str) -> str | None:
        """What a model folder was last found to hold."""
        row = self._read("SELECT fingerprint FROM models WHERE folder = ?", folder)
        return row and str(row[0])

    def set_fingerprint(self, folder: str, fingerprint: str) -> None:
        """Note what a model folder holds now."""
        self._write("INSERT OR REPLACE INTO models VALUES (?, ?, ?)", folder, fingerprint)

    def grants_schemas(self, address: str, model: str) -> bool | None:
        """Whether a server takes schemas for a model; None where it has not shown it."""
        query = "SELECT grants_schemas FROM servers WHERE address = ? AND model = ?"
        row = self._read(query, address, model)
        return row and bool(row[0])

    def set_grants_schemas(self, address: str, model: str, granted: bool) -> None:
        """Note whether a server takes schemas for a model."""
        self._write("INSERT OR REPLACE INTO servers VALUES (?, ?, ?, ?)", address, model, granted)

    def refused_parameters(self, key: str) -> frozenset[str]:
        """What a server refused by name within a day, by the hash of all that it was asked."""
        query = "SELECT name FROM refused_parameters WHERE key = ? AND seen_at > ?"
        since = (datetime.now(UTC) - _REFUSED_FOR).isoformat(timespec="seconds")
        with _explained(self.path):
            return frozenset(name for (name,) in self.db.execute(query, [key, since]))

    def add_refused_parameter(self, key: str, name: str) -> None:
        """Note that a server refused a parameter."""
        self._write("INSERT OR REPLACE INTO refused_parameters VALUES (?, ?, ?)", key, name)

    def begin_batch(self, tag: str, requests: Iterable[str]) -> None:
        """Note that these requests are about to be sent as a batch that carries a tag."""
        with _explained(self.path), self.db.atomic():
            self._write("INSERT INTO batches VALUES (?, ?, ?)", tag, None)
            insert = "INSERT OR REPLACE INTO batch_requests VALUES (?, ?)"
            self.db.conn.executemany(insert, ((request, tag) for request in requests))

    def set_batch(self, tag: str, id: str) -> None:
        """Note the id that the server gave the batch with a tag."""
        self._write("INSERT OR REPLACE INTO batches VALUES (?, ?, ?)", tag, id)

    def find_batch(self, request: str) -> tuple[str, str | None] | None:
        """Tag and id of the last batch that a request went into; no id where it was not noted."""
        query = "SELECT tag, id FROM batch_requests JOIN batches USING (tag) WHERE request = ?"
        row = self._read(query, request)
        return row and (str(row[0]), row[1])

    def _read(self, query: str, *key: str) -> Any:
        with _explained(self.path):
            return self.db.execute(query, key).fetchone()

    def _write(self, statement: str, *values: object) -> None:
        """Write a row, whose last column is the time.

        One statement, which waits for other writers; a transaction that has read before would not.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with _explained(self.path), self.db.atomic():
            self.db.execute(statement, [*values, now])


def _prepare(path: Path, database: Database) -> None:
    """Check that the file is a cache, or make one of an empty file."""
    applied = read_schema(path, database, _migrations)
    # A process killed while it made the cache may have left this one table, and nothing in it.
    if not applied and set(database.table_names()) - {"_sqlite_migrations"}:
        raise StoreError(f"{path}: no cache of answers, but some other database; move it or delete it")
    if _migrations.pending(database):
        database.enable_wal()
        _migrations.apply(database)
    database.execute("PRAGMA synchronous = NORMAL")


@contextmanager
def _alone(runs: Path) -> Iterator[None]:
    """Let no other process make the cache at the same time."""
    with (runs / ".cache.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _explained(path: Path) -> AbstractContextManager[None]:
    return explain_storage_errors(path, "try again", damaged="delete it: it holds copies only")
