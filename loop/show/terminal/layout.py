"""How whatever is shown is laid out: framed and coloured on a terminal, plain where it is piped.

Off a terminal a row is one line of any length, without rules or padding, so that nothing is cut and `grep`
finds what it looks for; where COLUMNS is set, texts are folded at that width, rows never.

Colours are of the sixteen that every terminal has, and only those that can be read on black and on white.
None says what words or signs do not say as well.
"""

import os
from collections.abc import Iterable, Sequence

from rich import box
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from reflectune.loop.show.comparison import Section
from reflectune.loop.show.diffs import Run, diff_words, fold_changes
from reflectune.state.text import inert

__all__ = [
    "BAD", "BAD_FRAME", "BLANK", "GOOD", "GOOD_FRAME", "NEUTRAL", "Difference", "Field", "Framed",
    "Sections", "open_console", "tabulate",
]  # fmt: skip

# Green is for frames and diffs: in words it would be hard to read on white.
GOOD, BAD, NEUTRAL = "bold", "red", "magenta"
GOOD_FRAME, BAD_FRAME = "green", "red"
_DIFF = {"same": "", "removed": "red strike", "added": "green underline", "left out": "italic"}

# Tables are made for so many columns at least: on a narrower terminal their lines wrap, and no number is cut.
_NARROWEST = 80
# From so many columns on, sections stand side by side.
_WIDE = 150
# Characters of one text that a terminal gets: wrapping takes long, and reading longer.
_MAX_SHOWN = 20_000
# Off a terminal a line is as long as it must be.
_ENDLESS = 1_000_000


def open_console() -> Console:
    """The console of standard output."""
    console = Console(markup=False, highlight=False)
    if console.is_terminal or os.environ.get("COLUMNS", "").isdecimal():
        return console
    return Console(markup=False, highlight=False, width=_ENDLESS)


def tabulate(heads: Sequence[str], rows: Iterable[Sequence[object]], *, texts: Sequence[str] = ()) -> Table:
    """A table of rows under heads.

    The first column and those named in `texts` are set to the left, and folded where there is no room; the
    others hold numbers, are set to the right, and stay whole.
    """
    table = _Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for index, head in enumerate(heads):
        if index == 0 or head in texts:
            table.add_column(head, overflow="fold")
        else:
            table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return table


class _Table(Table):
    """A table that is plain off a terminal, and cuts nothing on a narrow one."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if console.is_terminal:
            options = options.update(max_width=max(options.max_width, _NARROWEST))
        else:
            self.box, self.padding = None, (0, 2, 0, 0)
            if options.max_width == _ENDLESS:  # then there is room for heads of one line
                for column in self.columns:
                    column.header = str(column.header).replace("\n", " ")
            options = options.update(max_width=_ENDLESS)
        yield from super().__rich_console__(console, options)


class Field:
    """A text beside its name; of a longer one than `limit` characters the beginning.

    `whole` is the option that has all of it.
    """

    def __init__(
        self, name: str, text: "Text | str | Difference", limit: int = _MAX_SHOWN, whole: str = "--json"
    ) -> None:
        self.name, self.text, self.limit, self.whole = name, text, limit, whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = self.text
        if isinstance(text, Difference):
            text = text.render(colour=console.color_system is not None and not console.no_color)
        elif isinstance(text, str):
            text = Text(text)
        if (left := len(text) - self.limit) > 0:
            more = Text(f" ... {left} more characters, which {self.whole} has", style="italic")
            text = text[: self.limit] + more
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=13)
        grid.add_column(overflow="fold")
        grid.add_row(f"  {self.name}", text)
        yield grid


class Difference:
    """What changed between two texts: coloured, or marked [-gone-] and {+come+} where there is no colour."""

    def __init__(self, old: str, new: str, *, is_folded: bool = False) -> None:
        self.old, self.new, self.is_folded = old, new, is_folded

    def render(self, *, colour: bool) -> Text:
        """The difference as a text of a terminal, or its changes with the ends of what stays between them."""
        runs: Sequence[Run] = diff_words(self.old, self.new)
        marks = {"same": "{}", "removed": "[-{}-]", "added": "{{+{}+}}", "left out": " … {} … "}
        text = Text()
        for change, words in fold_changes(runs) if self.is_folded else runs:
            words = inert(words)
            is_marked = not colour or change == "left out"
            text.append(marks[change].format(words) if is_marked else words, style=_DIFF[change])
        return text


class Framed:
    """What stands in a frame on a terminal, under its title elsewhere; a frame without one is narrow."""

    def __init__(self, title: str | None, *parts: RenderableType, style: str = "") -> None:
        self.title, self.parts, self.style = title, parts, style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # In the usual colour: green is hard to read on white, and says what the title says.
        title = None if self.title is None else Text(self.title, style="bold default")
        if console.is_terminal:
            body = Group(*self.parts)
            yield Panel(body, title=title, title_align="left", border_style=self.style, expand=bool(title))
        else:
            yield from self.parts if title is None else (title, *self.parts)


class Sections:
    """Titled tables: one below the other, or side by side where there is room; an empty one is left out."""

    def __init__(self, sections: Iterable[Section]) -> None:
        self.parts = [
            Group(Text(one.title, style="bold"), tabulate(one.heads, one.rows, texts=one.texts))
            for one in sections
            if one.rows
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if console.is_terminal and options.max_width >= _WIDE:
            yield Columns([Padding(part, (0, 4, 0, 0)) for part in self.parts])
            return
        for part in self.parts:
            yield BLANK
            yield part


class _Blank:
    """A blank line off a terminal, where no frame or rule tells parts apart."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not console.is_terminal:
            yield Text("")


BLANK = _Blank()
