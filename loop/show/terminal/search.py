"""Samples that a search found: what to bear in mind about them, and how they look in a terminal."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from reflectune.loop.show.explanations import name_outcome, unit_of
from reflectune.loop.show.numbers import format_measure, format_times
from reflectune.loop.show.terminal.layout import BAD, GOOD, tabulate
from reflectune.state.records import PHASES
from reflectune.state.text import inert_document, one_line

if TYPE_CHECKING:
    from reflectune.state.lineage.index import SampleQuery

__all__ = ["note_on", "render_found"]

Document = Mapping[str, Any]

# An outcome is always said in words as well.
_STYLES = {"accepted": GOOD, "refused": BAD, "failed": BAD}
# From so many columns on, there is room beside the numbers for how an instruction begins.
_BESIDE = 120


def note_on(query: "SampleQuery", policy: str, unknown: Collection[str]) -> list[str]:
    """What to bear in mind about a search: what no row has, and what does not compare.

    Args:
        query: the search.
        policy: of the run.
        unknown: the changes, by their names in the query, that no row of the run has.
    """
    notes = []
    for name, phase, measure in (("ifd_change", "instruction", "IFD"), ("r_ifd_change", "response", "r-IFD")):
        wanted = [getattr(query, f"{side}_{name}") is not None for side in ("min", "max")]
        if name in unknown and (any(wanted) or query.sort == name):
            compares = unit_of(policy, phase) == measure
            notes.append(
                f"no {measure} has been compared yet"
                if compares
                else f"policy {policy} compares no {measure}"
            )
        elif query.sort == name and query.round is None:
            notes.append(
                "changes of different rounds are under different students; --round R lists one round"
            )
    return notes


def render_found(found: Document) -> RenderableType:
    """The rows that a search found, how many there are, how to see one sample, and what to bear in mind."""
    found = inert_document(found)
    notes = [Text(f"note: {note}") for note in found["notes"]]
    if not found["samples"]:
        return Group(Text("nothing fits; `reflectune search NAME` without conditions lists all"), *notes)
    shown = "" if found["shown"] == found["found"] else f", {found['shown']} shown"
    position = found["samples"][0]["position"]
    return Group(
        _Found(found["samples"]),
        Text(f"{found['found']} match{shown}; see one with `reflectune trace {found['name']} {position}`"),
        *notes,
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
        heads = [
            "sample", "round", "instruction", "IFD\nchange", "response", "r-IFD\nchange", "length\ngrowth",
            "trained", *(texts[2:] if beginnings else []),
        ]  # fmt: skip
        rows = ((*_cells(row), *beginnings[index : index + 1]) for index, row in enumerate(self.rows))
        return tabulate(heads, rows, texts=texts)


def _cells(row: Document) -> tuple[str | Text, ...]:
    instruction, response = (row[phase] or {} for phase in PHASES)
    return (
        str(row["position"]),
        str(row["round"]),
        _outcome(instruction),
        format_measure(instruction.get("change"), "+"),
        _outcome(response),
        format_measure(response.get("change"), "+"),
        format_times(row["length_growth"]),
        {True: "yes", False: "no", None: "-"}[row["trained"]],
    )


def _outcome(phase: Document) -> Text:
    outcome = phase.get("outcome", "-")
    return Text(name_outcome(outcome), style=_STYLES.get(outcome, ""))
