"""How one sample's journey looks in a terminal."""

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from reflectune.loop.show.explanations import explain_score, name_outcome
from reflectune.loop.show.journey import TEXTS, Document, Journey, Proposal, Step, build_journey
from reflectune.loop.show.terminal.layout import (
    BAD_FRAME,
    GOOD_FRAME,
    Framed,
    has_colour,
    render_diff,
    render_field,
)
from reflectune.state.text import inert_document

__all__ = ["render_trace"]

# From so many columns on, what was thought of a proposal stands beside it.
_WIDE = 150
# What became of a proposal; its frame's colour says nothing that its title does not.
_STYLES = {"accepted": GOOD_FRAME, "refused": BAD_FRAME}


def render_trace(trace: Document, console: Console) -> RenderableType:
    """One sample's journey, from what `trace --json` prints: versions, criticism, scores, decisions."""
    journey = build_journey(inert_document(trace))
    trained = ", ".join(map(str, journey.trained_in)) or "none"
    name = f"sample {journey.sample} at position {journey.position} ({journey.split})"
    given = _Version(_render_given(journey), _render_scores(journey.given, None))
    return Group(
        Framed(None, Text(name, style="bold"), Text(_sum_up(journey)), fit=True),
        _Chapter(Framed("round 0 · original", given)),
        *(_Chapter(_render_step(step, journey, colour=has_colour(console))) for step in journey.steps),
        _Chapter(Text(f"trained on in rounds: {trained}")),
    )


def _sum_up(journey: Journey) -> str:
    proposed = len(journey.proposals)
    accepted = sum(step.outcome == "accepted" for step in journey.steps)
    calls = sum(len(step.failures) for step in journey.steps)
    without = f", {calls} teacher call{'' if calls == 1 else 's'} without a proposal" if calls else ""
    return f"{proposed} proposal{'' if proposed == 1 else 's'}, {accepted} accepted{without}"


def _render_given(journey: Journey) -> Sequence[RenderableType]:
    given = journey.given
    texts = [render_field(name, Text(given[name])) for name in TEXTS if given[name]]
    return [_render_name(given, ["current"] if given is journey.current else []), *texts]


def _render_step(step: Step, journey: Journey, *, colour: bool) -> RenderableType:
    """A phase: proposals, failures, and what was decided about them."""
    parts: list[RenderableType] = [
        _Version(
            _render_proposal(proposal, is_current=proposal.version is journey.current, colour=colour),
            _render_thoughts(proposal, step.student),
        )
        for proposal in step.proposals
    ]
    parts += [render_field("teacher", Text(failure)) for failure in step.failures]
    if step.decision:
        parts.append(render_field("decision", Text(step.explanation, style="bold")))
    if step.is_trained:
        parts.append(render_field("trained on", Text(f"in round {step.round}, for student s{step.round}")))
    title = f"round {step.round} · {step.phase} · {name_outcome(step.outcome)}"
    return Framed(title, *parts, style=_STYLES.get(step.outcome, ""))


def _render_proposal(proposal: Proposal, *, is_current: bool, colour: bool) -> Sequence[RenderableType]:
    """A proposal's name, and its texts as they differ from its parent's."""
    old, new = proposal.parent, proposal.version
    marks = [proposal.fate] if proposal.fate != "undecided" else []
    parts = [_render_name(new, [*marks, *(["current"] if is_current else [])], proposal)]
    parts += [
        render_field(name, render_diff(old[name], new[name], colour=colour)) for name in proposal.changed
    ]
    return parts


def _render_name(version: Document, marks: Sequence[str], proposal: Proposal | None = None) -> RenderableType:
    number = f" {proposal.name}" if proposal and proposal.number else ""
    mark = f" ({', '.join(marks)})" if marks else ""
    after = f" from {proposal.parent['id'][:12]}" if proposal else ""
    style = "bold reverse" if "current" in marks else "bold"
    return render_field("version", Text.assemble((version["id"][:12] + number + mark, style), after))


def _render_thoughts(proposal: Proposal, student: str | None) -> Sequence[RenderableType]:
    """The criticism that led to a proposal, its scores, and why it was not compared."""
    critique, beside = proposal.version["critique"], proposal.not_compared
    return [
        *([render_field("criticism", Text(critique, style="italic"))] if critique else []),
        *_render_scores(proposal.version, student),
        *([render_field("not chosen", Text(beside))] if beside else []),
    ]


def _render_scores(version: Document, student: str | None) -> Sequence[RenderableType]:
    """Scores under each student; `student` is the one that decided."""
    return [
        render_field(
            f"under {score['student']}",
            Text(
                explain_score(score) + (" (the student that decided)" if score["student"] == student else "")
            ),
        )
        for score in version["scores"]
    ]


class _Chapter:
    """One phase, apart from what stands before it."""

    def __init__(self, body: RenderableType) -> None:
        self.body = body

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not console.is_terminal:
            yield Text("")
        yield self.body


class _Version:
    """A version's texts, and what was thought of it: beside them where there is room, or below."""

    def __init__(self, texts: Sequence[RenderableType], thoughts: Sequence[RenderableType]) -> None:
        self.texts, self.thoughts = texts, thoughts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not (console.is_terminal and options.max_width >= _WIDE - 4 and self.thoughts):
            yield from (*self.texts, *self.thoughts)
            return
        beside = Table.grid(padding=(0, 3, 0, 0), expand=True)
        beside.add_column(ratio=3, overflow="fold")
        beside.add_column(ratio=2, overflow="fold")
        beside.add_row(Group(*self.texts), Group(*self.thoughts))
        yield beside
