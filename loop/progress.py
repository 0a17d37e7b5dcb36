"""Live progress on stderr: bars on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
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

__all__ = ["BarDisplay", "Display", "LineDisplay", "Stage", "open_display"]

# Seconds between two plain lines of one stage.
_LINE_EVERY = 10.0


class BarDisplay:
    """Bars that are redrawn in place."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def stage(self, title: str, *, total: int, done: int = 0) -> "Iterator[Stage]":
        """Show one stage of a round while the block runs; `done` of `total` were done before."""
        progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}", markup=False, style="cyan"),
            console=self.console,
        )
        with progress:
            task = progress.add_task(title, total=total, completed=done, facts="")
            yield _Bar(progress, task)

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
        yield line
        if line.unwritten:
            line.write()

    def say(self, text: str) -> None:
        """Show one line that stays."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress, self.task = progress, task

    def update(self, done: int, total: int, **facts: str) -> None:
        """Say how much is done; facts, such as acceptance so far, are shown beside the count."""
        self.progress.update(self.task, completed=done, total=total, facts=_list(facts))


class _Line:
    def __init__(self, title: str, total: int, done: int) -> None:
        self.title, self.total, self.done = title, total, done
        self.facts: dict[str, str] = {}
        self.unwritten = False
        self.began = self.written = time.monotonic()
        self.before = done

    def update(self, done: int, total: int, **facts: str) -> None:
        self.done, self.total, self.facts, self.unwritten = done, total, facts, True
        if time.monotonic() - self.written >= _LINE_EVERY:
            self.write()

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
        print(", ".join(parts), file=sys.stderr, flush=True)  # noqa: T201


Display = BarDisplay | LineDisplay
Stage = _Bar | _Line


def open_display() -> Display:
    """Bars where stderr is a terminal, else plain lines."""
    console = Console(stderr=True)
    return BarDisplay(console) if console.is_terminal else LineDisplay()


def _list(facts: dict[str, str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
