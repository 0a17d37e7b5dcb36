"""How one sample's story looks in a terminal. Takes the document that `trace --json` prints."""

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from reflectune.loop.show.diffs import render_diff
from reflectune.loop.show.sentences import say_decision, say_failure, say_outcome, say_score
from reflectune.loop.show.terminal.layout import BAD_FRAME, GOOD_FRAME, Framed, has_colour, render_field
from reflectune.state.lineage.outcomes import tell_outcome
from reflectune.state.text import inert_document

__all__ = ["render_trace"]

Document = Mapping[str, Any]

# From so many columns on, what was thought of a proposal stands beside it.
_WIDE = 150
# What became of a proposal; its frame's colour says nothing that its title does not.
_STYLES = {"accepted": GOOD_FRAME, "refused": BAD_FRAME}


def render_trace(trace: Document, console: Console) -> RenderableType:
    """One sample's story: versions with word diffs, criticism, scores, decisions in a sentence."""
    trace = inert_document(trace)
    trained = ", ".join(map(str, trace["trained_in"])) or "none"
    return Group(
        Framed(
            None,
            Text(
                f"sample {trace['sample']} at position {trace['position']} ({trace['split']})", style="bold"
            ),
            Text(_sum_up(trace)),
            fit=True,
        ),
        *_tell(trace, colour=has_colour(console)),
        _Chapter(Text(f"trained on in rounds: {trained}")),
    )


def _sum_up(trace: Document) -> str:
    proposals = [version for version in trace["versions"] if version["parent"]]
    accepted = sum(decision["reason"] == "accepted" for decision in trace["decisions"])
    calls = len(trace["failures"])
    return ", ".join(
        (
            f"{len(proposals)} proposal{'' if len(proposals) == 1 else 's'}",
            f"{accepted} accepted",
            *([f"{calls} teacher call{'' if calls == 1 else 's'} without a proposal"] if calls else []),
        )
    )


def _tell(trace: Document, *, colour: bool) -> Iterator[RenderableType]:
    """Round by round and phase by phase: proposals, failures, and what was decided about them."""
    versions = {version["id"]: version for version in trace["versions"]}
    kinds = ("versions", "failures", "decisions")
    places = sorted({(item["round"], item["phase"]) for kind in kinds for item in trace[kind]})
    for round, phase in places:
        proposals, failures, decisions = (
            [item for item in trace[kind] if (item["round"], item["phase"]) == (round, phase)]
            for kind in kinds
        )
        outcome = _outcome(proposals, decisions, failures)
        parts: list[RenderableType] = []
        for version in proposals:
            parent = versions.get(version["parent"])
            several = len(proposals) > 1
            parts.append(_Version(version, parent, decisions, several=several, colour=colour))
        for failure in failures:
            parts.append(render_field("teacher", Text(say_failure(failure))))
        for decision in decisions:
            parts.append(render_field("decision", Text(say_decision(decision), style="bold")))
        if phase == "response" and round in trace["trained_in"]:
            parts.append(render_field("trained on", Text(f"in round {round}, for student s{round}")))
        title = f"round {round} · {phase}" + (f" · {say_outcome(outcome)}" if outcome else "")
        yield _Chapter(Framed(title, *parts, style=_STYLES.get(outcome, "")))


def _outcome(
    proposals: Sequence[Document], decisions: Sequence[Document], failures: Sequence[Document]
) -> str:
    """What a phase came to; "undecided" before it is decided, and empty for the given pair."""
    if decisions:
        return tell_outcome(decisions[0]["reason"], failures[-1]["status"] if failures else None)
    return "undecided" if failures or any(version["parent"] for version in proposals) else ""


class _Chapter:
    """One phase, apart from what stands before it."""

    def __init__(self, body: RenderableType) -> None:
        self.body = body

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not console.is_terminal:
            yield Text("")
        yield self.body


class _Version:
    """One version: what it changed in its parent, what the teacher thought, and how it scored."""

    def __init__(
        self,
        version: Document,
        parent: Document | None,
        decisions: Sequence[Document],
        *,
        several: bool,
        colour: bool,
    ) -> None:
        number = f" candidate {version['candidate'] + 1}" if several or version["candidate"] else ""
        self.texts = _tell_texts(version, parent, number + _mark(version, decisions), colour=colour)
        self.thoughts = _tell_thoughts(version, {decision["student"] for decision in decisions})

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not (console.is_terminal and options.max_width >= _WIDE - 4 and self.thoughts):
            yield from (*self.texts, *self.thoughts)
            return
        beside = Table.grid(padding=(0, 3, 0, 0), expand=True)
        beside.add_column(ratio=3, overflow="fold")
        beside.add_column(ratio=2, overflow="fold")
        beside.add_row(Group(*self.texts), Group(*self.thoughts))
        yield beside


def _mark(version: Document, decisions: Sequence[Document]) -> str:
    """What became of a version, and whether it is the sample's pair now."""
    marks = []
    if version["parent"] and decisions:
        decision = decisions[0]
        if decision.get("winner") == version["id"]:
            marks.append("accepted")
        elif decision["reason"] == "accepted":
            marks.append("refused: another proposal was taken")
        else:
            marks.append("refused")
    if version["current"]:
        marks.append("current")
    return f" ({', '.join(marks)})" if marks else ""


def _tell_texts(
    version: Document, parent: Document | None, mark: str, *, colour: bool
) -> Sequence[RenderableType]:
    """The version's name, and its texts as they differ from its parent's."""
    after = f" from {parent['id'][:12]}" if parent else ""
    style = "bold reverse" if version["current"] else "bold"
    parts = [render_field("version", Text.assemble((version["id"][:12] + mark, style), after))]
    for name in ("instruction", "input", "response"):
        if parent is None and version[name]:
            parts.append(render_field(name, Text(version[name])))
        elif parent is not None and parent[name] != version[name]:
            parts.append(render_field(name, render_diff(parent[name], version[name], colour=colour)))
    return parts


def _tell_thoughts(version: Document, deciders: Set[str | None]) -> Sequence[RenderableType]:
    """The teacher's criticism that led to the version, and its scores."""
    parts = []
    if version.get("critique"):
        parts.append(render_field("criticism", Text(version["critique"], style="italic")))
    for score in version["scores"]:
        who = " (the student that decided)" if score["student"] in deciders else ""
        parts.append(render_field(f"under {score['student']}", Text(say_score(score) + who)))
    return parts
