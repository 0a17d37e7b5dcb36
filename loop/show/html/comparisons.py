"""This run against others of its folder, worked out beside the pages that show it."""

import sqlite3
import threading
from dataclasses import dataclass
from datetime import datetime

from reflectune.loop.show.documents import NamedRunsCompared, describe_comparison
from reflectune.loop.show.html.watcher import Mark, mark_folder
from reflectune.state.errors import ReflectuneError
from reflectune.state.folder import RunFolder
from reflectune.state.text import one_line

__all__ = ["Comparisons"]


@dataclass(slots=True)
class _Compared:
    """Two runs as of one moment."""

    mark: Mark
    as_of: datetime
    document: NamedRunsCompared | None = None
    refusal: str = ""  # why there is none


class Comparisons:
    """Compares one run with others: one comparison at a time, in a thread that lives as long as it takes."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._found: dict[str, _Compared] = {}
        self._busy = threading.Lock()

    def ask(self, other: RunFolder, patience: float = 0.1) -> _Compared | None:
        """The newest comparison with another run; None while the first one is being worked out.

        Where either run has gone on since, a newer one is begun, and the old one told meanwhile. One that
        takes no longer than `patience` seconds is waited for.
        """
        name = other.path.name
        mark = (*mark_folder(self._folder), *mark_folder(other))
        known = self._found.get(name)
        if (known is None or known.mark != mark) and self._busy.acquire(blocking=False):
            thread = threading.Thread(target=self._work, args=(other, mark), name="comparison", daemon=True)
            thread.start()
            thread.join(patience)
        return self._found.get(name)

    def _work(self, other: RunFolder, mark: Mark) -> None:
        compared = _Compared(mark, datetime.now().astimezone())
        try:
            compared.document = describe_comparison(self._folder, other)
        except (ReflectuneError, sqlite3.Error, OSError) as error:
            compared.refusal = one_line(str(error))
        except Exception as error:  # noqa: BLE001 (its page says so, and the thread ends)
            compared.refusal = one_line(f"unexpected {type(error).__name__}: {error}")
        self._found[other.path.name] = compared
        self._busy.release()
