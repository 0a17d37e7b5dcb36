"""Live progress on stderr: bars on a terminal, plain lines elsewhere."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from reflectune.loop.pipeline import Pipeline
from reflectune.state.live import Worker
from reflectune.state.text import one_line

__all__ = ["BarDisplay", "Display", "LineDisplay", "Stage", "open_display"]

# Seconds between two plain lines of one stage.
_LINE_EVERY = 10.0
_LINE_AT_LEAST_EVERY = 600.0


class Stage:
    """One stage of a round: how much is done, who does it, and what holds it up. Displays show it."""

    def __init__(self, title: str, total: int, done: int) -> None:
        self.title, self.total, self.done = title, total, done
        self.facts: dict[str, str] = {}
        self.workers: Callable[[], Sequence[Worker]] = tuple
        self.hold_up: Callable[[], str] = str
        self.groups = Pipeline(0)

    def update(self, done: int, total: int, **facts: str) -> None:
        """Say how much is done; facts, such as acceptance so far, are shown beside the count."""
        self.done, self.total, self.facts = done, total, facts

    def advance(self, number: int) -> None:
        """Say that so many more are done."""
        self.update(self.done + number, self.total)

    def watch(self, workers: Callable[[], Sequence[Worker]], hold_up: Callable[[], str] = str) -> None:
        """Show who works on it; and what holds it up, in place of the facts, while that tells something."""
        self.workers, self.hold_up = workers, hold_up

    def show_groups(self, groups: Pipeline) -> None:
        """Show how many groups are under way, and how many of them are computed."""
        self.groups = groups

    def tell(self) -> str:
        """Facts and workers in a line; and groups where several wait for being committed."""
        facts = [f"{name.replace('_', ' ')} {value}" for name, value in self.facts.items()]
        groups = [f"{computed} groups to commit"] if (computed := self.groups.computed) > 1 else []
        return ", ".join([*facts, *_describe(self.workers()), *groups])


class BarDisplay:
    """Bars that are redrawn in place; stages that run at once are below one another."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None  # of the stages that run now

    @contextmanager
    def stage(self, title: str, *, total: int, done: int = 0) -> Iterator[Stage]:
        """Show one stage of a round while the block runs; `done` of `total` were done before."""
        with self._open_progress() as progress:
            yield _Bar(title, total, done, progress)

    @contextmanager
    def _open_progress(self) -> Iterator[Progress]:
        """The bars of the stages that run now; the first of them ends last."""
        if self._progress is not None:
            yield self._progress
            return
        progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            _FactsColumn(),
            console=self.console,
        )
        with progress:
            self._progress = progress
            try:
                yield progress
            finally:
                self._progress = None

    def say(self, text: str) -> None:
        """Show one line that stays."""
        self.console.print(text, markup=False, highlight=False)


class LineDisplay:
    """One line when a stage begins, one every few seconds, one when it ends."""

    @contextmanager
    def stage(self, title: str, *, total: int, done: int = 0) -> Iterator[Stage]:
        """Show one stage of a round while the block runs; `done` of `total` were done before."""
        line = _Line(title, total, done)
        line.write()
        try:
            yield line
        finally:
            line.ended.set()
        if line.unwritten:
            line.write()

    def say(self, text: str) -> None:
        """Show one line that stays."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")


class _FactsColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        stage: Stage = task.fields["stage"]
        if hold_up := stage.hold_up():
            return Text(one_line(hold_up), style="yellow")
        return Text(stage.tell(), style="cyan")


class _Bar(Stage):
    def __init__(self, title: str, total: int, done: int, progress: Progress) -> None:
        super().__init__(title, total, done)
        self.progress = progress
        self.task = progress.add_task(title, total=total or None, completed=done, stage=self)

    def update(self, done: int, total: int, **facts: str) -> None:
        super().update(done, total, **facts)
        self.progress.update(self.task, completed=done, total=total)


class _Line(Stage):
    def __init__(self, title: str, total: int, done: int) -> None:
        super().__init__(title, total, done)
        self.unwritten = False
        self.began = self.written = time.monotonic()
        self.before = done
        self.ended = threading.Event()

    def update(self, done: int, total: int, **facts: str) -> None:
        super().update(done, total, **facts)
        self.unwritten = True
        if time.monotonic() - self.written >= _LINE_EVERY:
            self.write()

    def watch(self, workers: Callable[[], Sequence[Worker]], hold_up: Callable[[], str] = str) -> None:
        super().watch(workers, hold_up)
        threading.Thread(target=self._write_while_held_up, name="progress", daemon=True).start()

    def _write_while_held_up(self) -> None:
        pause = _LINE_EVERY
        while not self.ended.wait(pause):
            if self.hold_up():
                self.write()
                pause = min(2 * pause, _LINE_AT_LEAST_EVERY)  # it may last a day
            else:
                pause = _LINE_EVERY

    def write(self) -> None:
        self.written, self.unwritten = time.monotonic(), False
        # A total of 0 is not known yet.
        parts = [f"{self.title}: {self.done}/{self.total}" if self.total else self.title]
        if self.done > self.before and (seconds := self.written - self.began) > 0:
            rate = (self.done - self.before) / seconds
            parts.append(f"{rate:.1f}/s")
            if self.done < self.total:
                parts.append(f"{(self.total - self.done) / rate:.0f} s left")
        if told := self.tell():
            parts.append(told)
        if hold_up := self.hold_up():
            parts.append(one_line(hold_up))
        print(", ".join(parts), file=sys.stderr, flush=True)  # noqa: T201


Display = BarDisplay | LineDisplay


def open_display() -> Display:
    """Bars where stderr is a terminal, else plain lines."""
    console = Console(stderr=True)
    return BarDisplay(console) if console.is_terminal else LineDisplay()


def _describe(workers: Sequence[Worker]) -> list[str]:
    """So many workers of a kind, and what they have to do; one that never died goes without saying."""
    told = []
    for kind, number in Counter(worker.kind for worker in workers).items():
        its = [worker for worker in workers if worker.kind == kind]
        if number > 1:
            told.append(f"{number} {kind}s, {sum(w.under_way + w.queued for w in its)} under way")
        if replaced := sum(worker.replaced for worker in its):
            told.append(f"{replaced} {kind}{'s' if replaced > 1 else ''} replaced")
    return told
