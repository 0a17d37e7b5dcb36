"""Connections to a lineage database: to write, or only to read."""

import math
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from sqlite_utils.db import Database

from reflectune.state.errors import StoreError
from reflectune.state.lineage.schema import complete_views, migrations

__all__ = ["connect", "marks", "open_database"]

_LET_IT_END = "another program keeps it for itself, let it end"


def open_database(path: Path, *, read_only: bool = False) -> Database:
    """Connect to an existing lineage database without changing it.

    Raises:
        StoreError: no file, no lineage database, or a schema from a newer version.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no lineage database there")
    database = None
    try:
        database = _connect_read_only(path) if read_only else connect(path)
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
    if read_only:
        complete_views(database)
    return database


def connect(path: Path) -> Database:
    """A connection that writes; a file that is not there is made."""
    database = Database(path)
    database.execute("PRAGMA foreign_keys = ON")
    # What is committed has been paid for: it must outlast a machine that loses its power too.
    database.execute("PRAGMA synchronous = FULL")
    return _with_mathematics(database)


def _connect_read_only(path: Path) -> Database:
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


def marks(values: Sequence[object]) -> str:
    """As many parameters of a query."""
    return ", ".join("?" * len(values))
