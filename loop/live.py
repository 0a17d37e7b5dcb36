"""Tells others what a run does at this moment: into a file in its folder, every two seconds."""

import threading
import time
from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from typing import cast

from reflectune.loop.progress import Display, Stage
from reflectune.state.folder import RunFolder
from reflectune.state.live import StageDocument, WorkerDocument, write_live
from reflectune.state.text import one_line

__all__ = ["LiveDisplay"]

_EVERY = 2.0  # seconds
_LOOKS = 15  # that a rate is measured over


class LiveDisplay(AbstractContextManager["LiveDisplay"]):
    """A display that, while the block runs, also tells the stages and their workers in a run's folder."""

    def __init__(self, display: Display, folder: RunFolder) -> None:
        self._display, self._folder = display, folder
        self._stages: list[Stage] = []
        self._seen: dict[Hashable, deque[tuple[float, int]]] = {}  # times, and how much was done
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write, name="live", daemon=True)

    def __enter__(self) -> "LiveDisplay":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self._folder.live.unlink(missing_ok=True)

    @contextmanager
    def stage(self, title: str, *, total: int, done: int = 0) -> Iterator[Stage]:
        """Show one stage of a round while the block runs; `done` of `total` were done before."""
        with self._display.stage(title, total=total, done=done) as stage:
            self._stages.append(stage)
            try:
                yield stage
            finally:
                self._stages.remove(stage)

    def say(self, text: str) -> None:
        """Show one line that stays."""
        self._display.say(text)

    def _write(self) -> None:
        while not self._ended.wait(_EVERY):
            stages, workers = self.look()
            write_live(self._folder, {"stages": stages, "workers": workers})

    def look(self) -> tuple[list[StageDocument], list[WorkerDocument]]:
        """The stages and their workers now; rates are since an earlier look, half a minute ago at most."""
        stages: list[StageDocument] = []
        workers: dict[Hashable, WorkerDocument] = {}
        seen, self._seen = self._seen, {}
        for stage in [*self._stages]:
            stages.append(
                {
                    "title": stage.title,
                    "done": stage.done,
                    "total": stage.total,
                    "per_second": self._measure(seen, stage.title, stage.done),
                    "hold_up": one_line(stage.hold_up()),
                    "groups_under_way": len(stage.groups),
                    "groups_computed": stage.groups.computed,
                }
            )
            for worker in stage.workers():
                if (place := (worker.kind, worker.name)) not in workers:  # two stages may share it
                    rate = self._measure(seen, place, worker.done)
                    is_idle = not (worker.under_way or worker.queued)
                    waits_for = worker.waits_for or ("work" if is_idle else "")
                    found = asdict(worker) | {"waits_for": waits_for, "per_second": rate}
                    workers[place] = cast(WorkerDocument, found)
        return stages, [*workers.values()]

    def _measure(
        self, seen: dict[Hashable, deque[tuple[float, int]]], what: Hashable, done: int
    ) -> float | None:
        looks = self._seen[what] = seen.get(what) or deque(maxlen=_LOOKS)
        looks.append((time.monotonic(), done))
        (began, before), (now, _) = looks[0], looks[-1]
        # Fewer than before: another pool has begun to count anew.
        return (done - before) / (now - began) if now > began and done >= before else None
