"""How runs, rounds and samples look in a terminal. Takes the documents that --json prints."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from loop.words import render_diff
from state.text import inert

__all__ = ["format_number", "format_share", "new_table", "render_rounds", "render_runs", "render_trace"]

Document = Mapping[str, Any]

# Characters of one text that a terminal gets: wrapping takes long, and reading longer.
_MOST_SHOWN = 20_000
_UNITS = {
    "ifd+r-ifd": {"instruction": "IFD", "response": "r-IFD"},
    "ifd": {"instruction": "IFD", "response": "IFD"},
    "r-ifd": {"instruction": "r-IFD", "response": "r-IFD"},
    "perplexity": {"instruction": "perplexity", "response": "perplexity"},
    "longest": {"instruction": "response tokens", "response": "response tokens"},
}


def render_runs(runs: Sequence[Document]) -> RenderableType:
    """All runs, one row each."""
    runs = _inert(runs)
    if not runs:
        return Text("no runs yet; `reflectune init` writes a config to start from")
    table = new_table("run", "status", "round", "samples", "acceptance", "cost USD")
    for run in runs:
        table.add_row(
            run["name"],
            run["status"],
            "-" if run["round"] is None else f"{run['round']} of {run['rounds']}",
            format_number(run["samples"], "d"),
            format_share(run["acceptance"]),
            format_number(run["cost_usd"], ".4f"),
        )
    return table


def render_rounds(run: Document) -> RenderableType:
    """The rounds of one run: what was decided, and what came of it."""
    run = _inert(run)
    rounds = run["rounds"]
    stop = f", stopped: {run['stop_reason']}" if run["stop_reason"] else ""
    measures = sorted({name for row in rounds for name in row["evaluations"]})
    fruitless = "unchanged\n+ failed"
    decided = new_table("round", "student", "pool", "instruction", fruitless, "response", fruitless, "train")
    frozen = ", ".join(f"{row['frozen']} in round {row['round']}" for row in rounds if row["frozen"])
    paid = new_table(
        "round", "calls", "from\ncache", "prompt\ntokens", "answer\ntokens", "USD",
        "tokens per\naccepted", "USD per\naccepted",
    )  # fmt: skip
    measured = new_table(
        "round",
        "IFD",
        "r-IFD",
        "tokens",
        *(f"held-out\n{name.replace('_', ' ')}" for name in measures),
        "seconds",
    )
    for row in rounds:
        decided.add_row(
            str(row["round"]),
            row["student"] or "-",
            str(row["pool"]),
            _accepted(row["instruction"]),
            _fruitless(row["instruction"]),
            _accepted(row["response"]),
            _fruitless(row["response"]),
            str(row["training"]),
        )
        measured.add_row(
            str(row["round"]),
            format_number(row["ifd"]["mean"], ".3f"),
            format_number(row["r_ifd"]["mean"], ".3f"),
            format_number(row["response_tokens"], ".1f"),
            *(format_number(row["evaluations"].get(name), ".3f") for name in measures),
            f"{sum(row['seconds'].values()):.1f}",
        )
        if (teacher := row["teacher"])["calls"]:
            paid.add_row(
                str(row["round"]),
                str(teacher["calls"]),
                str(teacher["cached"]),
                format_number(teacher["prompt_tokens"], "d"),
                format_number(teacher["completion_tokens"], "d"),
                format_number(teacher["cost_usd"], ".4f"),
                format_number(teacher["tokens_per_accepted"], ".1f"),
                format_number(teacher["cost_per_accepted_usd"], ".4f"),
            )
    shown: list[RenderableType] = [
        Text(f"{run['name']}: {run['status']}{stop}", style="bold"),
        Text("\nAccepted of proposed, unchanged + failed reflections, by phase; pairs trained on"),
        decided,
    ]
    if frozen:
        shown.append(Text(f"Left alone after repeated refusals: {frozen}\n"))
    shown += [Text("Means over the pool under the student that decided; held-out measures"), measured]
    if paid.rows:
        shown += [Text("The teacher's calls, and what those took that the cache did not answer"), paid]
    return Group(*shown)


def render_trace(trace: Document, console: Console) -> RenderableType:
    """One sample's story: versions with word diffs, criticism, scores, decisions in a sentence."""
    trace = _inert(trace)
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
            yield _field("teacher", _failure(failure))
        for decision in here("decisions"):
            yield _field("decision", Text(_sentence(decision), style="bold"))


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


def _failure(failure: Document) -> Text:
    """What came of a call without a proposal."""
    which = f"candidate {failure['candidate']}, " if failure["candidate"] else ""
    which += f"attempt {failure['attempt']}"
    if failure["status"] == "unchanged":
        return Text(f"{which}: the teacher found nothing to improve")
    error = f": {failure['error']}" if failure["error"] else ""
    return Text(f"{which} failed, {failure['status']}{error}", style="yellow")


def _field(name: str, text: Text) -> RenderableType:
    if len(text) > _MOST_SHOWN:
        left = len(text) - _MOST_SHOWN
        text = text[:_MOST_SHOWN] + Text(f" ... {left} more characters, which --json has", style="dim")
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=13, style="dim")
    grid.add_column(overflow="fold")
    grid.add_row(f"  {name}", text)
    return grid


def _sentence(decision: Document) -> str:
    """Why a decision fell as it did."""
    policy, phase = decision["policy"], decision["phase"]
    unit = _UNITS.get(policy, {}).get(phase, "value")
    incumbent, challenger = decision["incumbent_value"], decision["challenger_value"]
    numbers = (
        f"{unit} {format_number(challenger, '.4f')} "
        f"against the incumbent's {format_number(incumbent, '.4f')} under {decision['student']}"
    )
    match decision["reason"]:
        case "accepted" if challenger is None:
            return f"accepted: policy {policy} takes it"
        case "accepted" if incumbent is None:
            return f"accepted: the incumbent cannot be scored under {decision['student']}"
        case "accepted" if unit == "IFD" and challenger < incumbent:
            return (
                f"accepted: the incumbent's IFD {incumbent:.4f} is not below the cap, "
                f"the proposal's {challenger:.4f} is, under {decision['student']}"
            )
        case "refused" if unit == "IFD" and challenger > incumbent:
            return (
                f"refused: the proposal's IFD {challenger:.4f} is not below the cap, "
                f"the incumbent's {incumbent:.4f} is, under {decision['student']}"
            )
        case "accepted":
            return f"accepted: {numbers}"
        case "refused":
            return f"refused: {numbers}"
        case "tie":
            return f"refused, not better by more than the margin {decision['margin']:g}: {numbers}"
        case "unscorable":
            return "refused: no proposal can be scored"
        case "no-candidate":
            return "no proposal to decide about; the incumbent stays"
        case "frozen":
            return "left alone after repeated refusals"
        case _:
            return f"refused: policy {policy} keeps the incumbent"


def _inert(document: Any) -> Any:
    """The document with all its texts made inert, whoever wrote them."""
    match document:
        case str():
            return inert(document)
        case Mapping():
            return {_inert(key): _inert(value) for key, value in document.items()}
        case list() | tuple():
            return [_inert(item) for item in document]
    return document


def new_table(*columns: str) -> Table:
    """A table with these column heads; all but the first are set to the right."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    return table


def _accepted(phase: Document) -> str:
    return f"{phase['accepted']}/{phase['reflected']}"


def _fruitless(phase: Document) -> str:
    return f"{phase['unchanged']}+{phase['failed']}"


def format_share(value: float | None) -> str:
    """A share in percent; a dash for None."""
    return "-" if value is None else f"{value:.0%}"


def format_number(value: float | None, form: str) -> str:
    """A number by a format specification; a dash for None."""
    return "-" if value is None else format(value, form)
