"""Samples that a search found: what to bear in mind about them, and how they look in a terminal."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment, Segments
from rich.text import Text

from reflectune.loop.show.documents import Found
from reflectune.loop.show.explanations import explain_unknown, name_outcome
from reflectune.loop.show.numbers import format_measure, format_times
from reflectune.loop.show.terminal.layout import BAD, GOOD, tabulate
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.documents import FoundPhase, FoundSample
from reflectune.state.text import inert_document, one_line

if TYPE_CHECKING:
    from reflectune.state.lineage.index import SampleQuery

__all__ = ["note_on", "render_found"]

# An outcome is always said in words as well.
_STYLES = {"accepted": GOOD, "refused": BAD, "failed": BAD}
# From so many columns on, there is room beside the numbers for how an instruction begins.
_BESIDE = 120
_HEADS = (
    "sample", "round", "instruction", "IFD\nchange", "response", "r-IFD\nchange", "length\ngrowth", "trained",
    "instruction begins",
)  # fmt: skip

_TEXTS = ("instruction", "response", "instruction begins")


def note_on(query: "SampleQuery", policy: str, known: Collection[str]) -> list[str]:
    """What to bear in mind about a search: what no row has, and what does not compare.

    `known` are the changes, by their names in the query, that any row of the run has.
    """
    bounds = {"ifd_change": (query.min_ifd_change, query.max_ifd_change)}
    bounds["r_ifd_change"] = (query.min_r_ifd_change, query.max_r_ifd_change)
    notes = [
        note
        for name, note in explain_unknown(policy, known).items()
        if query.sort == name or bounds[name] != (None, None)
    ]
    if query.sort in bounds and query.sort in known and query.round is None:
        notes.append("changes of different rounds are under different students; --round R lists one round")
    return notes


def render_found(found: Found, folder: RunFolder) -> RenderableType:
    """The rows that a search found, how many there are, how to see one sample, and what to bear in mind."""
    found = inert_document(found)
    notes = [Text(f"note: {note}") for note in found["notes"]]
    if not found["samples"]:
        return Group(Text("nothing fits; `reflectune search NAME` without conditions lists all"), *notes)
    shown = "" if found["shown"] == found["found"] else f", {found['shown']} shown"
    see = folder.command("trace", str(found["samples"][0]["position"]))
    return Group(
        _Rows(found["samples"]),
        Text(f"{found['found']} match{shown}; see one with `{see}`"),
        *notes,
    )


class _Rows:
    """A row a sample and round; how its instruction begins stands beside it or, for want of room, below."""

    def __init__(self, rows: Sequence[FoundSample]) -> None:
        self.cells = [_cells(row) for row in rows]
        self.beginnings = [Text(one_line(row["text"]), no_wrap=True, overflow="ellipsis") for row in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not console.is_terminal or options.max_width >= _BESIDE:
            rows = zip(self.cells, self.beginnings, strict=True)
            yield tabulate(_HEADS, [(*cells, beginning) for cells, beginning in rows], texts=_TEXTS)
            return
        lines = console.render_lines(tabulate(_HEADS[:-1], self.cells, texts=_TEXTS), options, pad=False)
        above = len(lines) - len(self.cells) - 1  # one line is below the rows
        for number, line in enumerate(lines):
            yield Segments([*line, Segment.line()])
            if above <= number < len(lines) - 1:
                yield Text("        ", no_wrap=True, overflow="ellipsis").append_text(
                    self.beginnings[number - above]
                )


def _cells(row: FoundSample) -> tuple[object, ...]:
    return (
        row["position"],
        row["round"],
        *_tell_phase(row["instruction"]),
        *_tell_phase(row["response"]),
        format_times(row["length_growth"]),
        {True: "yes", False: "no", None: "-"}[row["trained"]],
    )


def _tell_phase(phase: FoundPhase | None) -> tuple[str | Text, str]:
    if phase is None:
        return "-", "-"
    outcome = Text(name_outcome(phase["outcome"]), style=_STYLES.get(phase["outcome"], ""))
    return outcome, format_measure(phase["change"], "+")
