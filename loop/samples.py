"""How samples that were searched for look in a terminal. Takes the document that `samples --json` prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from loop.layout import BAD, GOOD, new_table
from loop.tables import format_measure, format_number
from state.records import PHASES
from state.text import inert_document, one_line

__all__ = ["render_samples"]

Document = Mapping[str, Any]

# An outcome is always said in words as well.
_STYLES = {"accepted": GOOD, "refused": BAD, "failed": BAD}
# From so many columns on, there is room beside the numbers for how an instruction begins.
_BESIDE = 120


def render_samples(found: Document) -> RenderableType:
    """The rows that a search found, how many there are, and how to see one sample."""
    found = inert_document(found)
    if not found["samples"]:
        return Text("nothing fits; `reflectune samples NAME` without conditions lists all")
    shown = "" if found["shown"] == found["found"] else f", {found['shown']} shown"
    position = found["samples"][0]["position"]
    return Group(
        _Found(found["samples"]),
        Text(f"{found['found']} match{shown}; see one with `reflectune trace {found['name']} {position}`"),
    )


class _Found:
    """A row a sample and round; how its instruction begins stands beside it or, for want of room, below."""

    def __init__(self, rows: Sequence[Document]) -> None:
        self.rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        beginnings = [Text(one_line(row["text"]), no_wrap=True, overflow="ellipsis") for row in self.rows]
        if not console.is_terminal or options.max_width >= _BESIDE:
            yield self._tabulate(beginnings)
            return
        lines = console.render_lines(self._tabulate(), options, pad=False)
        heads = len(lines) - len(beginnings) - 1  # above the rows; one line is below them
        for number, line in enumerate(lines):
            yield Segments([*line, Segment.line()])
            if heads <= number < len(lines) - 1:
                yield Text("        ", no_wrap=True, overflow="ellipsis").append_text(
                    beginnings[number - heads]
                )

    def _tabulate(self, beginnings: Sequence[Text] = ()) -> Table:
        texts = ["instruction", "response", "instruction begins"]
        table = new_table(
            "sample", "round", "instruction", "IFD\nchange", "response", "r-IFD\nchange", "length\ngrowth",
            "trained", *texts[2:] if beginnings else [], texts=texts,
        )  # fmt: skip
        for index, row in enumerate(self.rows):
            instruction, response = (row[phase] or {} for phase in PHASES)
            table.add_row(
                str(row["position"]),
                str(row["round"]),
                _outcome(instruction),
                format_measure(instruction.get("change"), "+"),
                _outcome(response),
                format_measure(response.get("change"), "+"),
                "-" if row["length_growth"] is None else f"×{format_number(row['length_growth'], '.2f')}",
                {True: "yes", False: "no", None: "-"}[row["trained"]],
                *beginnings[index : index + 1],
            )
        return table


def _outcome(phase: Document) -> Text:
    outcome = phase.get("outcome", "-")
    return Text(outcome, style=_STYLES.get(outcome, ""))
