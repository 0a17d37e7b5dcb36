"""What ails a disk or a database, said in one line with what to do about it."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from sqlite_utils import Migrations
from sqlite_utils.db import Database

from reflectune.state.errors import StoreError

__all__ = ["PUT_BACK", "OpenDatabase", "explain_storage_errors", "read_schema"]

# A log that another process left would be written over the copy.
PUT_BACK = "put lineage.db back from a copy and delete lineage.db-wal and lineage.db-shm"
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SQLITE_ADVICE = {
    sqlite3.SQLITE_FULL: "make room on the disk",
    sqlite3.SQLITE_IOERR: "make sure that there is room on the disk",
    sqlite3.SQLITE_BUSY: "another program writes in it, let it end",
    sqlite3.SQLITE_LOCKED: "another program writes in it, let it end",
    sqlite3.SQLITE_READONLY: "make the folder writable",
    sqlite3.SQLITE_CANTOPEN: "make the folder writable",
}
_SYSTEM_ADVICE = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room on the disk",
    errno.EIO: "mend the disk",
    errno.EROFS: "make the folder writable",
    errno.EACCES: "make the folder writable",
    errno.EPERM: "make the folder writable",
    errno.EEXIST: "name another folder",
    errno.ENOTDIR: "name another folder",
}


@contextmanager
def explain_storage_errors(path: Path, then: str, damaged: str | None = None) -> Iterator[None]:
    """Say in one line what ails the disk or a database, as a StoreError. What is committed stays.

    `then` is what to do once that is mended, `damaged` what to do about a file that is no database any more:
    where it is given, whatever else SQLite says of the file means that.
    """
    try:
        yield
    except (sqlite3.DatabaseError, OSError) as error:
        if isinstance(error, OSError):
            advice = _SYSTEM_ADVICE.get(error.errno or 0)
        else:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # of its kind, whatever the cause
            advice = damaged or PUT_BACK if code in _DAMAGED else _SQLITE_ADVICE.get(code, damaged)
        if advice is None:
            raise
        raise StoreError(f"{path}: {error}; {advice}, then {then}") from error


class OpenDatabase:
    """Something that works with a database, and closes it at the end of its `with` block."""

    def __init__(self, database: Database) -> None:
        self.db = database

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.db.close()


def read_schema(path: Path, database: Database, migrations: Migrations) -> set[str]:
    """The names of the migrations that a database has seen; StoreError if one is of a newer version."""
    applied = {migration.name for migration in migrations.applied(database)}
    if newer := sorted(applied - {migration.name for migration in migrations._migrations}):
        raise StoreError(
            f"{path}: made by a newer version of Reflectune (schema {newer[-1]}); upgrade to open it"
        )
    return applied
