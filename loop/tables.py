"""How runs and rounds look in a terminal. Takes the documents that --json prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from state.text import inert_document

__all__ = ["format_number", "format_share", "new_table", "render_rounds", "render_runs"]

Document = Mapping[str, Any]


def render_runs(runs: Sequence[Document]) -> RenderableType:
    """All runs, one row each."""
    runs = inert_document(runs)
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
    run = inert_document(run)
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
