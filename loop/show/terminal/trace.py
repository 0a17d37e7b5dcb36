"""How one sample's journey looks in a terminal."""

from collections.abc import Sequence
from itertools import chain

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from reflectune.loop.show.explanations import count_things, explain_score, name_outcome
from reflectune.loop.show.journey import TEXTS, Journey, Proposal, Step, build_journey
from reflectune.loop.show.numbers import name_version
from reflectune.loop.show.terminal.layout import BAD_FRAME, BLANK, GOOD_FRAME, Difference, Field, Framed
from reflectune.loop.show.turns import ShownTurn, fold_turns
from reflectune.state.lineage.documents import Trace, VersionDocument
from reflectune.state.text import inert_document, to_json

__all__ = ["render_trace"]

# Turns of a context, and characters of each, that a terminal gets unless all are asked for.
_TURNS, _OF_TURN = 8, 400
# From so many columns on, what was thought of a proposal stands beside it.
_WIDE = 150
# What became of a proposal; its frame's colour says nothing that its title does not.
_STYLES = {"accepted": GOOD_FRAME, "refused": BAD_FRAME}


def render_trace(trace: Trace, *, whole_context: bool = False) -> RenderableType:
    """One sample's journey, from what `trace --json` prints: context, versions, criticism, scores, decisions.

    A terminal gets the beginnings of a context's turns, unless the whole context is asked for.
    """
    journey = build_journey(inert_document(trace))
    trained = ", ".join(map(str, journey.trained_in)) or "none"
    name = f"sample {journey.sample} at position {journey.position} ({journey.split})"
    return Group(
        Framed(None, Text(name, style="bold"), *map(Text, filter(None, (journey.place, _sum_up(journey))))),
        BLANK,
        *_render_context(journey.context, whole_context),
        Framed("round 0 · original", _render_given(journey)),
        *chain.from_iterable((BLANK, _render_step(step)) for step in journey.steps),
        BLANK,
        Text(f"trained on in rounds: {trained}"),
    )


def _sum_up(journey: Journey) -> str:
    proposed = sum(len(step.proposals) for step in journey.steps)
    accepted = sum(step.outcome == "accepted" for step in journey.steps)
    calls = sum(len(step.failures) for step in journey.steps)
    without = f", {calls} teacher call{'' if calls == 1 else 's'} without a proposal" if calls else ""
    return f"{proposed} proposal{'' if proposed == 1 else 's'}, {accepted} accepted{without}"


def _render_context(turns: Sequence[ShownTurn], is_whole: bool) -> Sequence[RenderableType]:
    return [Framed("context", _Context(turns, is_whole)), BLANK] if turns else []


class _Context:
    """The turns before an exchange; a terminal gets the beginnings of long ones, and not all of many."""

    def __init__(self, turns: Sequence[ShownTurn], is_whole: bool) -> None:
        self.turns, self.is_whole = turns, is_whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        is_short = console.is_terminal and not self.is_whole
        for turn in fold_turns(self.turns, _TURNS) if is_short else self.turns:
            if turn.left_out:
                yield Field("", f"... {count_things(turn.left_out, 'turn')} more, which --context has")
            said = (
                [f"{turn.name}: {turn.text}" if turn.name else turn.text]
                if turn.text or not turn.calls
                else []
            )
            for name, text in ((turn.role, said), ("calls", turn.calls)):
                for part in text:
                    yield Field(name, part, _OF_TURN, "--context") if is_short else Field(name, part)


def _render_given(journey: Journey) -> RenderableType:
    given = journey.given
    texts = [Field(text, given[text]) for text in TEXTS if given[text]]
    record = [Field("record", to_json(journey.meta), _OF_TURN)] if journey.meta else []
    return _Version([_render_name(given), *texts, *record], _render_scores(given, None))


def _render_step(step: Step) -> RenderableType:
    """A phase: proposals, failures, and what was decided about them."""
    parts: list[RenderableType] = [_render_proposal(proposal, step) for proposal in step.proposals]
    parts += [Field("teacher", failure) for failure in step.failures]
    parts += [Field("server", server) for server in step.servers]
    if step.decision:
        parts.append(Field("decision", Text(step.explanation, style="bold")))
    if step.is_trained:
        parts.append(Field("trained on", f"in round {step.round}, for student s{step.round}"))
    title = f"round {step.round} · {step.phase} · {name_outcome(step.outcome)}"
    return Framed(title, *parts, style=_STYLES.get(step.outcome, ""))


def _render_proposal(proposal: Proposal, step: Step) -> RenderableType:
    """A proposal as it differs from its parent, the criticism that led to it, and its scores."""
    old, new = proposal.parent, proposal.version
    marks = ["accepted" if proposal.is_accepted else "refused"] if step.decision else []
    number = "" if proposal.name == "proposal" else f" {proposal.name}"
    texts = (Field(text, Difference(old[text], new[text])) for text in proposal.changed)
    thoughts = [Field("criticism", Text(new["critique"], style="italic"))] if new["critique"] else []
    thoughts += _render_scores(new, step.decision and step.decision["student"])
    thoughts += [Field("not chosen", proposal.not_compared)] if proposal.not_compared else []
    return _Version([_render_name(new, number, marks, f" from {name_version(old['id'])}"), *texts], thoughts)


def _render_name(
    version: VersionDocument, number: str = "", marks: Sequence[str] = (), after: str = ""
) -> Field:
    marks = [*marks, "current"] if version["current"] else marks
    mark = f" ({', '.join(marks)})" if marks else ""
    name = f"{name_version(version['id'])}{number}{mark}"
    return Field("version", Text.assemble((name, "bold reverse" if version["current"] else "bold"), after))


def _render_scores(version: VersionDocument, student: str | None) -> list[Field]:
    """Scores under each student; `student` is the one that decided."""
    deciding = {student: " (the student that decided)"}
    return [
        Field(f"under {score['student']}", explain_score(score) + deciding.get(score["student"], ""))
        for score in version["scores"]
    ]


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
