"""How one sample's story looks in a terminal. Takes the document that `trace --json` prints."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from loop.sentences import say_decision, say_failure
from loop.words import render_diff
from state.text import inert_document

__all__ = ["render_trace"]

Document = Mapping[str, Any]

# Characters of one text that a terminal gets: wrapping takes long, and reading longer.
_MOST_SHOWN = 20_000


def render_trace(trace: Document, console: Console) -> RenderableType:
    """One sample's story: versions with word diffs, criticism, scores, decisions in a sentence."""
    trace = inert_document(trace)
    head = f"sample {trace['sample']} at position {trace['position']} ({trace['split']})"
    trained = ", ".join(map(str, trace["trained_in"])) or "none"
    return Group(
        Text(head, style="bold"),
        *_story(trace, colour=console.color_system is not None),
        Text(f"\ntrained on in rounds: {trained}"),
    )


def _story(trace: Document, *, colour: bool) -> Iterator[RenderableType]:
    """Round by round and phase by phase: proposals, failures, and what was decided about them."""
    versions = {version["id"]: version for version in trace["versions"]}
    places = {
        (item["round"], item["phase"])
        for kind in ("versions", "failures", "decisions")
        for item in trace[kind]
    }
    for round, phase in sorted(places):

        def here(kind: str, place: tuple[int, str] = (round, phase)) -> list[Document]:
            return [item for item in trace[kind] if (item["round"], item["phase"]) == place]

        yield Text(f"\nround {round} · {phase}", style="bold cyan")
        for version in here("versions"):
            yield _version(version, versions.get(version["parent"]), colour=colour)
        for failure in here("failures"):
            yield _field(
                "teacher",
                Text(say_failure(failure), style="" if failure["status"] == "unchanged" else "yellow"),
            )
        for decision in here("decisions"):
            yield _field("decision", Text(say_decision(decision), style="bold"))


def _version(version: Document, parent: Document | None, *, colour: bool) -> RenderableType:
    mark = " (current)" if version["current"] else ""
    parts: list[RenderableType] = [_field("version", Text(version["id"][:12] + mark, style="cyan"))]
    if version.get("critique"):
        parts.append(_field("criticism", Text(version["critique"], style="italic")))
    for name in ("instruction", "input", "response"):
        if parent is not None and parent[name] == version[name]:
            continue
        if parent is None and not version[name]:
            continue
        text = (
            Text(version[name]) if parent is None else render_diff(parent[name], version[name], colour=colour)
        )
        parts.append(_field(name, text))
    for score in version["scores"]:
        known = {"IFD": score["ifd"], "r-IFD": score["r_ifd"]}
        values = [f"{name} {value:.4f}" for name, value in known.items() if value is not None]
        status = [] if score["status"] == "ok" else [f"cannot be scored: {score['status']}"]
        parts.append(_field(f"under {score['student']}", Text(", ".join(values + status))))
    return Group(*parts)


def _field(name: str, text: Text) -> RenderableType:
    if len(text) > _MOST_SHOWN:
        left = len(text) - _MOST_SHOWN
        text = text[:_MOST_SHOWN] + Text(f" ... {left} more characters, which --json has", style="dim")
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=13, style="dim")
    grid.add_column(overflow="fold")
    grid.add_row(f"  {name}", text)
    return grid
