"""Connections to a lineage database: to write, or only to read."""

import math
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from sqlite_utils.db import Database

from reflectune.state.errors import StoreError
from reflectune.state.lineage.schema import migrations
from reflectune.state.lineage.views import complete_views
from reflectune.state.storage import PUT_BACK, explain_storage_errors, read_schema

__all__ = ["connect", "marks", "open_database"]


def open_database(path: Path, *, read_only: bool = False) -> Database:
    """Connect to an existing lineage database without changing it."""
    if not path.is_file():
        raise StoreError(f"{path}: no lineage database there")
    with explain_storage_errors(path, "try again", PUT_BACK):
        database = _connect_read_only(path) if read_only else connect(path)
        try:
            if not read_schema(path, database, migrations):
                raise StoreError(f"{path}: not a lineage database")
        except BaseException:
            database.close()
            raise
        if read_only:
            complete_views(database)
        return database


def connect(path: Path) -> Database:
    """A connection that writes; a file that is not there is made."""
    database = Database(path)
    database.execute("PRAGMA foreign_keys = ON")
    # What is committed has been paid for: it must outlast a machine that loses its power too.
    database.execute("PRAGMA synchronous = FULL")
    # At most, in KiB. Enough for the pages that a group of samples changes, also where ids are of earlier
    # versions and random. The loop walks through the samples in order: more is slower (bench/loop.py).
    database.execute("PRAGMA cache_size = -16384")
    return _with_mathematics(database)


def _connect_read_only(path: Path) -> Database:
    """A connection that cannot write, also where the folder cannot be written and nobody else writes."""
    try:
        return _connect_by(path, "mode=ro")
    except sqlite3.OperationalError as error:
        if not error.sqlite_errorname.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
            raise
        # There is no place for the index of the write-ahead log, which an immutable database does without.
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            raise StoreError(
                f"{path}: {error}; its newest rows are in {log.name}: make the folder writable, or copy both "
                "files to where it is"
            ) from error
    return _connect_by(path, "immutable=1")


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
        database.register_function(math.exp, name="exp", deterministic=True)
    return database


def marks(values: Sequence[object]) -> str:
    """As many parameters of a query."""
    return ", ".join("?" * len(values))
