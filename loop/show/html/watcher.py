"""What pages show of a whole run, brought up to date beside them: no request waits for it."""

import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from reflectune.loop.show.documents import Overview, WholeRun, describe_whole, open_run, readable_overview
from reflectune.state.errors import ReflectuneError
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.index import SampleIndex
from reflectune.state.live import Live, read_live
from reflectune.state.text import one_line

if TYPE_CHECKING:
    from reflectune.loop.show.charts import Chart

__all__ = ["Mark", "Snapshot", "Watcher", "mark_folder"]

Mark = tuple[object, ...]
# Seconds between two looks; a look that takes long is followed by a pause of three times as long, at most.
_PAUSE, _LONGEST_PAUSE = 2.0, 30.0
# Seconds between two drawings of the charts while a run goes on.
_CHARTS_PAUSE = 60.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run as of one moment."""

    as_of: datetime
    run: WholeRun
    round: int  # the last one whose pool is complete
    acceptance: float | None
    outcomes: Mapping[tuple[int, str], Mapping[str, int]]  # samples by outcome, by round and phase
    known: frozenset[str]  # changes that any row of the list of samples has
    live: Live | None  # while the run goes on
    charts: Sequence["Chart"] | None  # None until they have been drawn


class Watcher:
    """Looks at a run again and again, in one thread of its own.

    `snapshot` is None until the first look is done, `problem` a sentence where the last one failed.
    """

    def __init__(self, runs: Path, folder: RunFolder) -> None:
        self.snapshot: Snapshot | None = None
        self.problem: str | None = None
        self.runs: Sequence[Overview] | None = None  # one line each
        self._runs_folder = runs
        self._folder = folder
        self._mark: Mark | None = None
        self._charted: tuple[object, Mark | None] | None = None  # what the charts were last drawn of
        self._charted_at = 0.0
        self._known_runs: dict[str, tuple[Mark, Overview]] = {}
        self._stop = threading.Event()
        self._drawing = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End; waits a moment for what is under way, and for a drawing, as C++ cut off aborts the process."""
        self._stop.set()
        self._thread.join(timeout=1.0)
        with self._drawing:
            pass

    def _watch(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self.look()
            self._stop.wait(min(max(_PAUSE, 3 * (time.monotonic() - began)), _LONGEST_PAUSE))

    def look(self) -> None:
        """Look once; what goes wrong becomes the `problem`."""
        try:
            self._look_at_run()
            self._look_at_others()
        except (ReflectuneError, sqlite3.Error, OSError) as error:
            self.problem = one_line(str(error))
        except Exception as error:  # noqa: BLE001 (pages go on with what is known, and say so)
            self.problem = one_line(f"unexpected {type(error).__name__}: {error}")

    def _look_at_run(self) -> None:
        mark, now = mark_folder(self._folder), datetime.now().astimezone()
        if self.snapshot is not None and mark == self._mark:
            self.snapshot = replace(self.snapshot, as_of=now, live=self._find_live(self.snapshot.run))
        else:
            self.snapshot = self._read(now)
            self._mark = mark
        self.problem = None
        self._draw(self.snapshot)

    def _read(self, now: datetime) -> Snapshot:
        with SampleIndex.open(self._folder) as index:
            index.update()
            rounds, known, outcomes = index.rounds(), index.known(), index.outcomes()
        last = self.snapshot
        with open_run(self._folder) as (lineage, head):
            run = describe_whole(lineage, head, rounds, last.run if last else None)
            return Snapshot(
                as_of=now,
                run=run,
                round=lineage.last_round(),
                acceptance=lineage.acceptance(),
                outcomes=outcomes,
                known=known,
                live=self._find_live(run),
                charts=last.charts if last else None,
            )

    def _find_live(self, run: WholeRun) -> Live | None:
        return read_live(self._folder) if run["status"] == "running" else None

    def _draw(self, snapshot: Snapshot) -> None:
        """Draw the charts where a round is done that they lack, or a while has passed."""
        done = [(row["round"], row["student"], len(row["evaluations"])) for row in snapshot.run["rounds"]]
        drawn, now = (done, self._mark), time.monotonic()
        is_late = now - self._charted_at > _CHARTS_PAUSE
        if self._charted and (self._charted == drawn or (self._charted[0] == done and not is_late)):
            return
        with self._drawing:
            from reflectune.loop.show.charts import draw_charts
            from reflectune.loop.show.report import describe_evolution
        document = describe_evolution(self._folder)
        with self._drawing:
            if self._stop.is_set():
                return
            charts = draw_charts(document)
        self._charted, self._charted_at = drawn, now
        self.snapshot = replace(snapshot, charts=charts)

    def _look_at_others(self) -> None:
        known: dict[str, tuple[Mark, Overview]] = {}
        for folder in RunFolder.all(self._runs_folder):
            name, mark = folder.path.name, mark_folder(folder)
            before = self._known_runs.get(name)
            known[name] = before if before and before[0] == mark else (mark, readable_overview(folder))
        self._known_runs = known
        self.runs = [document for _, document in known.values()]


def mark_folder(folder: RunFolder) -> Mark:
    """What differs whenever a run has been written to, or its process came or went."""
    stats: list[object] = []
    for path in (folder.lineage, folder.lineage.with_name(f"{folder.lineage.name}-wal")):
        with suppress(FileNotFoundError):
            stat = path.stat()
            stats.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return (*stats, folder.is_locked())
