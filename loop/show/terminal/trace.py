"""How one sample's journey looks in a terminal."""

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from reflectune.loop.show.explanations import explain_score, name_outcome
from reflectune.loop.show.journey import TEXTS, Document, Journey, Proposal, Step, build_journey
from reflectune.loop.show.terminal.layout import BAD_FRAME, GOOD_FRAME, Difference, Field, Framed
from reflectune.state.text import inert_document

__all__ = ["render_trace"]

# From so many columns on, what was thought of a proposal stands beside it.
_WIDE = 150
# What became of a proposal; its frame's colour says nothing that its title does not.
_STYLES = {"accepted": GOOD_FRAME, "refused": BAD_FRAME}


def render_trace(trace: Document) -> RenderableType:
    """One sample's journey, from what `trace --json` prints: versions, criticism, scores, decisions."""
    journey = build_journey(inert_document(trace))
    trained = ", ".join(map(str, journey.trained_in)) or "none"
    name = f"sample {journey.sample} at position {journey.position} ({journey.split})"
    return Group(
        Framed(None, Text(name, style="bold"), Text(_sum_up(journey)), fit=True),
        _Chapter(Framed("round 0 · original", _render_given(journey))),
        *(_Chapter(_render_step(step, journey.current)) for step in journey.steps),
        _Chapter(Text(f"trained on in rounds: {trained}")),
    )


def _sum_up(journey: Journey) -> str:
    proposed = len(journey.proposals)
    accepted = sum(step.outcome == "accepted" for step in journey.steps)
    calls = sum(len(step.failures) for step in journey.steps)
    without = f", {calls} teacher call{'' if calls == 1 else 's'} without a proposal" if calls else ""
    return f"{proposed} proposal{'' if proposed == 1 else 's'}, {accepted} accepted{without}"


def _render_given(journey: Journey) -> RenderableType:
    given = journey.given
    name = _render_name(given, ["current"] if given is journey.current else [])
    texts = (Field(text, given[text]) for text in TEXTS if given[text])
    return _Version([name, *texts], _render_scores(given, None))


def _render_step(step: Step, current: Document) -> RenderableType:
    """A phase: proposals, failures, and what was decided about them."""
    parts: list[RenderableType] = [_render_proposal(proposal, step, current) for proposal in step.proposals]
    parts += [Field("teacher", failure) for failure in step.failures]
    if step.decision:
        parts.append(Field("decision", Text(step.explanation, style="bold")))
    if step.is_trained:
        parts.append(Field("trained on", f"in round {step.round}, for student s{step.round}"))
    title = f"round {step.round} · {step.phase} · {name_outcome(step.outcome)}"
    return Framed(title, *parts, style=_STYLES.get(step.outcome, ""))


def _render_proposal(proposal: Proposal, step: Step, current: Document) -> RenderableType:
    """A proposal as it differs from its parent, the criticism that led to it, and its scores."""
    old, new = proposal.parent, proposal.version
    marks = [proposal.fate] if proposal.fate != "undecided" else []
    name = _render_name(new, [*marks, *(["current"] if new is current else [])], proposal)
    thoughts = [Field("criticism", Text(new["critique"], style="italic"))] if new["critique"] else []
    thoughts += _render_scores(new, step.student)
    thoughts += [Field("not chosen", proposal.not_compared)] if proposal.not_compared else []
    return _Version(
        [name, *(Field(text, Difference(old[text], new[text])) for text in proposal.changed)], thoughts
    )


def _render_name(version: Document, marks: Sequence[str], proposal: Proposal | None = None) -> Field:
    number = f" {proposal.name}" if proposal and proposal.number else ""
    mark = f" ({', '.join(marks)})" if marks else ""
    after = f" from {proposal.parent['id'][:12]}" if proposal else ""
    style = "bold reverse" if "current" in marks else "bold"
    return Field("version", Text.assemble((version["id"][:12] + number + mark, style), after))


def _render_scores(version: Document, student: str | None) -> list[Field]:
    """Scores under each student; `student` is the one that decided."""
    deciding = " (the student that decided)"
    return [
        Field(f"under {who}", explain_score(score) + (deciding if who == student else ""))
        for score in version["scores"]
        for who in [score["student"]]
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
