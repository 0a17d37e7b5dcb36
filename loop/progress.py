"""Live progress on stderr: bars on a terminal, plain lines elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from reflectune.state.text import one_line

__all__ = ["BarDisplay", "Display", "LineDisplay", "Stage", "open_display"]

# Seconds between two plain lines of one stage.
_LINE_EVERY = 10.0
_LINE_AT_LEAST_EVERY = 600.0


class BarDisplay:
    """Bars that are redrawn in place; stages that run at once are below one another."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None  # of the stages that run now

    @contextmanager
    def stage(self, title: str, *, total: int, done: int = 0) -> "Iterator[Stage]":
        """Show one stage of a round while the block runs; `done` of `total` were done before."""
        with self._open_progress() as progress:
            task = progress.add_task(title, total=total, completed=done, facts="", hold_up=str)
            yield _Bar(progress, task)

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
    def stage(self, title: str, *, total: int, done: int = 0) -> "Iterator[Stage]":
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
        if hold_up := task.fields["hold_up"]():
            return Text(one_line(hold_up), style="yellow")
        return Text(task.fields["facts"], style="cyan")


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress, self.task = progress, task

    def update(self, done: int, total: int, **facts: str) -> None:
        """Say how much is done; facts, such as acceptance so far, are shown beside the count."""
        self.progress.update(self.task, completed=done, total=total, facts=_list(facts))

    def watch(self, hold_up: Callable[[], str]) -> None:
        """Show what holds up the work, in place of the facts, for as long as this tells something."""
        self.progress.update(self.task, hold_up=hold_up)


class _Line:
    def __init__(self, title: str, total: int, done: int) -> None:
        self.title, self.total, self.done = title, total, done
        self.facts: dict[str, str] = {}
        self.unwritten = False
        self.began = self.written = time.monotonic()
        self.before = done
        self.hold_up: Callable[[], str] = str
        self.ended = threading.Event()

    def update(self, done: int, total: int, **facts: str) -> None:
        self.done, self.total, self.facts, self.unwritten = done, total, facts, True
        if time.monotonic() - self.written >= _LINE_EVERY:
            self.write()

    def watch(self, hold_up: Callable[[], str]) -> None:
        self.hold_up = hold_up
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
        parts = [f"{self.title}: {self.done}/{self.total}"]
        if self.done > self.before and (seconds := self.written - self.began) > 0:
            rate = (self.done - self.before) / seconds
            parts.append(f"{rate:.1f}/s")
            if self.done < self.total:
                parts.append(f"{(self.total - self.done) / rate:.0f} s left")
        if self.facts:
            parts.append(_list(self.facts))
        if hold_up := self.hold_up():
            parts.append(one_line(hold_up))
        print(", ".join(parts), file=sys.stderr, flush=True)  # noqa: T201


Display = BarDisplay | LineDisplay
Stage = _Bar | _Line


def open_display() -> Display:
    """Bars where stderr is a terminal, else plain lines."""
    console = Console(stderr=True)
    return BarDisplay(console) if console.is_terminal else LineDisplay()


def _list(facts: dict[str, str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
