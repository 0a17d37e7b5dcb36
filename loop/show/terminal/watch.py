"""A run's rounds on a terminal while they change. Only reads, and takes a tenth of a processor at most."""

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.text import Text

from reflectune.loop.show.documents import describe_run
from reflectune.loop.show.terminal.runs import render_rounds
from reflectune.state.errors import ConfigError
from reflectune.state.folder import RunFolder

__all__ = ["refuse_to_watch", "watch_rounds"]

# Seconds between two looks; more where a look takes long.
_EVERY = 2.0
_REST = 9  # times what a look took


def refuse_to_watch(console: Console, as_json: bool) -> None:
    """Say where there is nothing to redraw.

    Raises:
        ConfigError: JSON was asked for, or standard output is no terminal that can be redrawn.
    """
    if as_json:
        raise ConfigError("--watch redraws a terminal and --json prints one document; leave one of them out")
    if not console.is_terminal or console.is_dumb_terminal:
        raise ConfigError("--watch needs a terminal; leave it out, or ask `show --json` now and then")


def watch_rounds(folder: RunFolder, console: Console, every: float = _EVERY) -> dict[str, Any]:
    """Show a run's rounds on the terminal's other screen until the run is not running any more.

    Args:
        folder: of the run.
        console: a terminal.
        every: seconds between two looks.

    Returns:
        The run as it was last seen.
    """
    run, took = describe_run(folder), 0.0
    with _leave_on_sigterm(), Live(console=console, screen=True, auto_refresh=False) as live:
        while run["status"] == "running":
            live.update(_Page(run), refresh=True)
            time.sleep(max(every, _REST * took))
            began = time.monotonic()
            run = describe_run(folder, run["rounds"])
            took = time.monotonic() - began
    return run


class _Page:
    """As much as the screen has room for, the newest rounds rather than all tables, and how to leave."""

    def __init__(self, run: Mapping[str, Any]) -> None:
        self.run = run

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        options = options.update(height=None)
        number = len(self.run["rounds"])
        for tables in (4, 2, 1):
            for newest in range(number, min(number, 2) - 1, -1):
                is_whole = (tables, newest) == (4, number)
                what = "" if is_whole else f" · the rest is in `reflectune show {self.run['name']}`"
                page = Group(
                    render_rounds(self.run, newest=newest, tables=tables),
                    Text(f"Ctrl-C ends watching{what}", style="italic"),
                )
                if len(console.render_lines(page, options)) <= console.height:
                    yield page
                    return
        yield page


@contextmanager
def _leave_on_sigterm() -> Iterator[None]:
    """Give the terminal back its screen before SIGTERM ends the process."""

    def leave(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
