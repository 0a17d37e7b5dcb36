"""What pages show of a whole run, brought up to date beside them: no request waits for it."""

import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reflectune.loop.show.documents import open_lineage, overview, readable_overview
from reflectune.state.errors import ReflectuneError
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.index import SampleIndex
from reflectune.state.text import one_line

if TYPE_CHECKING:
    from reflectune.loop.show.charts import Chart

__all__ = ["Mark", "Snapshot", "Watcher", "mark_folder"]

Document = Mapping[str, Any]
Mark = tuple[object, ...]
_CHANGES: tuple[Literal["ifd_change", "r_ifd_change", "length_growth"], ...] = (
    "ifd_change", "r_ifd_change", "length_growth",
)  # fmt: skip

# Seconds between two looks; a look that takes long is followed by a pause of three times as long, at most.
_PAUSE, _LONGEST_PAUSE = 2.0, 30.0
# Seconds between two drawings of the charts while a run goes on.
_CHARTS_PAUSE = 60.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run as of one moment."""

    as_of: datetime
    run: Document  # of `documents.overview`, with stop_reason
    split: Mapping[str, int]  # samples
    settings: Document
    teacher: Document  # calls and cost of all rounds
    rounds: Sequence[Document]
    evaluations: Sequence[Document]
    outcomes: Mapping[tuple[int, str], Mapping[str, int]]  # samples by outcome, by round and phase
    known: frozenset[str]  # changes that any row of the list of samples has
    charts: Sequence["Chart"] = ()
    has_charts: bool = False  # whether they have been drawn at all

    @property
    def seconds(self) -> float:
        """What all steps took."""
        return sum(sum(row["seconds"].values()) for row in self.rounds)


class Watcher:
    """Looks at a run again and again, in one thread of its own.

    `snapshot` is None until the first look is done, `problem` a sentence where the last one failed.
    """

    def __init__(self, runs: Path, folder: RunFolder) -> None:
        self.snapshot: Snapshot | None = None
        self.problem: str | None = None
        self.runs: Sequence[Document] | None = None  # one line each
        self._runs_folder = runs
        self._folder = folder
        self._mark: Mark | None = None
        self._charted: object = None  # what the charts were last drawn of
        self._charted_at = 0.0
        self._known_runs: dict[str, tuple[Mark, Document]] = {}
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
            self.snapshot = replace(self.snapshot, as_of=now)
        else:
            self._read(now)
            self._mark = mark
        self.problem = None
        self._draw()

    def _read(self, now: datetime) -> None:
        last = self.snapshot
        with SampleIndex.open(self._folder) as index:
            index.update()
            rounds = index.rounds()
            known = frozenset(name for name in _CHANGES if index.knows(name))
        run = overview(self._folder)
        with open_lineage(self._folder) as lineage:
            self.snapshot = Snapshot(
                as_of=now,
                run=run | {"stop_reason": lineage.run()["stop_reason"]},
                split=lineage.samples(),
                settings=lineage.settings(),
                teacher=lineage.teacher(),
                rounds=rounds,
                evaluations=lineage.evaluations(),
                outcomes=lineage.count_outcomes(),
                known=known,
                charts=last.charts if last else (),
                has_charts=last is not None and last.has_charts,
            )

    def _draw(self) -> None:
        """Draw the charts where a round is done that they lack, or a while has passed."""
        if (snapshot := self.snapshot) is None:
            return
        done = [(row["round"], row["student"], len(row["evaluations"])) for row in snapshot.rounds]
        now = time.monotonic()
        is_late = now - self._charted_at > _CHARTS_PAUSE and self._charted != (done, self._mark)
        if not is_late and self._charted is not None and self._charted[0] == done:  # type: ignore[index]
            return
        with self._drawing:
            from reflectune.loop.show.charts import draw_charts
            from reflectune.loop.show.report import describe_evolution
        document = describe_evolution(self._folder)
        with self._drawing:
            if self._stop.is_set():
                return
            charts = draw_charts(document)
        self._charted, self._charted_at = (done, self._mark), now
        self.snapshot = replace(snapshot, charts=charts, has_charts=True)

    def _look_at_others(self) -> None:
        known: dict[str, tuple[Mark, Document]] = {}
        for folder in RunFolder.all(self._runs_folder):
            name, mark = folder.path.name, mark_folder(folder)
            if name not in self._known_runs or self._known_runs[name][0] != mark:
                known[name] = mark, readable_overview(folder)
            else:
                known[name] = self._known_runs[name]
        self._known_runs = known
        self.runs = [document for _, document in known.values()]


def mark_folder(folder: RunFolder) -> Mark:
    """What differs whenever a run has been written to, or its process came or went."""
    stats: list[object] = []
    for path in (folder.lineage, folder.lineage.with_name(f"{folder.lineage.name}-wal")):
        try:
            stat = path.stat()
        except FileNotFoundError:
            stats.append(None)
        else:
            stats.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return (*stats, folder.is_locked())
