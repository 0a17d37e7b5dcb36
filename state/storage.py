"""What ails a disk or a database, said in one line with what to do about it."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reflectune.state.errors import StoreError

__all__ = ["explain_storage_errors"]

# A log that another process left would be written over the copy.
_PUT_BACK = "put lineage.db back from a copy and delete lineage.db-wal and lineage.db-shm"
# What to do about a database that cannot be used, by the beginning of SQLite's name for why.
_SQLITE_ADVICE = {
    "SQLITE_FULL": "make room on the disk",
    "SQLITE_IOERR": "make sure that there is room on the disk",
    "SQLITE_BUSY": "another program writes in it, let it end",
    "SQLITE_LOCKED": "another program writes in it, let it end",
    "SQLITE_READONLY": "make the folder writable",
    "SQLITE_CANTOPEN": "make the folder writable",
    "SQLITE_CORRUPT": _PUT_BACK,
    "SQLITE_NOTADB": _PUT_BACK,
}
_SYSTEM_ADVICE = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room on the disk",
    errno.EIO: "mend the disk",
    errno.EROFS: "make the folder writable",
    errno.EACCES: "make the folder writable",
    errno.EPERM: "make the folder writable",
}


@contextmanager
def explain_storage_errors(path: Path, then: str) -> Iterator[None]:
    """Say in one line what ails the disk or a database. What is committed stays, whatever happens here.

    Args:
        path: the folder that is worked in.
        then: what to do once that is mended.

    Raises:
        StoreError: the disk is full, the folder cannot be written, or a database is locked or damaged.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", "")
        advice = next((advice for kind, advice in _SQLITE_ADVICE.items() if name.startswith(kind)), None)
        if advice is None:
            raise
        raise StoreError(f"{path}: {error}; {advice}, then {then}") from error
    except OSError as error:
        advice = _SYSTEM_ADVICE.get(error.errno or 0)
        if advice is None:
            raise
        raise StoreError(f"{path}: {error}; {advice}, then {then}") from error
