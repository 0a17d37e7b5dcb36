"""This run against others of its folder, worked out beside the pages that show it."""

import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reflectune.loop.show.documents import describe_comparison
from reflectune.loop.show.html.watcher import Mark, mark_folder
from reflectune.state.errors import ReflectuneError
from reflectune.state.folder import RunFolder
from reflectune.state.text import one_line

__all__ = ["Compared", "Comparisons"]


@dataclass(frozen=True, slots=True)
class Compared:
    """Two runs as of one moment."""

    as_of: datetime
    document: Mapping[str, Any] | None  # as `compare --json` prints it
    refusal: str | None  # why there is none
    mark: Mark


class Comparisons:
    """Compares one run with others: one comparison at a time, in a thread that lives as long as it takes."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._found: dict[str, Compared] = {}
        self._busy = threading.Lock()

    def ask(self, other: RunFolder, patience: float = 0.1) -> Compared | None:
        """The newest comparison with another run; None while the first one is being worked out.

        Where either run has gone on since, a newer one is begun, and the old one told meanwhile.

        Args:
            other: the other run.
            patience: seconds to wait for one that takes no longer.
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
        document, refusal = None, None
        try:
            document = describe_comparison(self._folder, other)
        except (ReflectuneError, sqlite3.Error, OSError) as error:
            refusal = one_line(str(error))
        except Exception as error:  # noqa: BLE001 (its page says so, and the thread ends)
            refusal = one_line(f"unexpected {type(error).__name__}: {error}")
        finally:
            now = datetime.now().astimezone()
            self._found[other.path.name] = Compared(now, document, refusal, mark)
            self._busy.release()
