"""A run's rounds on a terminal while they change. Only reads, and takes a tenth of a processor at most."""

import time
from itertools import product

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.text import Text

from reflectune.loop.show.documents import RunDocument, describe_run
from reflectune.loop.show.terminal.runs import render_rounds
from reflectune.loop.signals import exit_on_signals
from reflectune.state.errors import ConfigError
from reflectune.state.folder import RunFolder

__all__ = ["watch_rounds"]

# Seconds between two looks; more where a look takes long.
_EVERY = 2.0
_REST = 9  # times what a look took


def watch_rounds(folder: RunFolder, console: Console, as_json: bool) -> RunDocument:
    """Show a run's rounds on the terminal's other screen while it is running; its last document.

    Raises:
        ConfigError: JSON was asked for, or standard output is no terminal that can be redrawn.
    """
    if as_json:
        raise ConfigError("--watch redraws a terminal and --json prints one document; leave one of them out")
    if not console.is_terminal or console.is_dumb_terminal:
        raise ConfigError("--watch needs a terminal; leave it out, or ask `show --json` now and then")
    run, took = describe_run(folder), 0.0
    with exit_on_signals(), Live(console=console, screen=True, auto_refresh=False) as live:
        while run["status"] == "running":
            live.update(_Page(run, folder), refresh=True)
            time.sleep(max(_EVERY, _REST * took))
            began = time.monotonic()
            run = describe_run(folder, run)
            took = time.monotonic() - began
    return run


class _Page:
    """As much as the screen has room for, the newest rounds rather than all tables, and how to leave."""

    def __init__(self, run: RunDocument, folder: RunFolder) -> None:
        self.run, self.folder = run, folder

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        number = len(self.run["rounds"])
        fewer = range(number, min(number, 2) - 1, -1)
        for tables, newest in product((4, 2, 1), fewer):
            rest = f" · the rest is in `{self.folder.command('show')}`"
            hint = f"Ctrl-C ends watching{'' if (tables, newest) == (4, number) else rest}"
            rounds = render_rounds(self.run, newest=newest, tables=tables)
            page = Group(rounds, Text(hint, style="italic"))
            if len(console.render_lines(page, options.update(height=None))) <= console.height:
                break
        yield page
