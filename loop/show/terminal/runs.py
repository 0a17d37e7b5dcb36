"""How runs and rounds look in a terminal. Takes the documents that --json prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from reflectune.loop.show.numbers import format_held_out, format_measure, format_number, format_share
from reflectune.loop.show.terminal.layout import BAD, GOOD, NEUTRAL, Framed, Sections, new_table
from reflectune.state.records import PHASES
from reflectune.state.text import inert_document, one_line

__all__ = ["render_rounds", "render_runs"]

Document = Mapping[str, Any]

# What a run's status looks like; it is always said in words as well.
_STYLES = {"finished": GOOD, "running": NEUTRAL, "failed": BAD, "unreadable": BAD}


def render_runs(runs: Sequence[Document]) -> RenderableType:
    """All runs, one row each."""
    runs = inert_document(runs)
    if not runs:
        return Text("no runs yet; `reflectune init` writes a config to start from")
    table = new_table("run", "status", "round", "samples", "acceptance", "cost USD", texts=("status",))
    for run in runs:
        table.add_row(
            Text(one_line(run["name"])),
            Text(run["status"], style=_STYLES.get(run["status"], "")),
            "-" if run["round"] is None else f"{run['round']} of {run['rounds']}",
            format_number(run["samples"], "d"),
            format_share(run["acceptance"]),
            format_number(run["cost_usd"], ".4f"),
        )
    return table


def render_rounds(run: Document, *, most: int | None = None, parts: int | None = None) -> RenderableType:
    """The rounds of one run: what was decided, and what came of it.

    Args:
        run: what `show --json` prints.
        most: show no more than the newest so many rounds.
        parts: show no more than the first so many tables.
    """
    run = inert_document(run)
    rounds = run["rounds"] if most is None else run["rounds"][-most:]
    sections: list[tuple[str, RenderableType]] = []
    if reflected := [row for row in rounds if row["round"]]:
        sections.append(("Proposals of the teacher, and those the student accepted", _decisions(reflected)))
    sections.append(("Each round's student, and its held-out measures", _students(rounds)))
    if reflected:
        sections.append(("The round's pool under the student that decided", _pools(reflected)))
    if asked := [row for row in rounds if row["teacher"]["calls"]]:
        sections.append(
            ("The teacher's calls, and what those took that the cache did not answer", _calls(asked))
        )
    return Group(_head(run), Sections(sections[:parts]))


def _head(run: Document) -> RenderableType:
    """Status, where a running round stands, and what the run has come to."""
    stop = f", stopped: {run['stop_reason']}" if run["stop_reason"] else ""
    status = Text(f"{run['name']}: {run['status']}{stop}", style=f"bold {_STYLES.get(run['status'], '')}")
    lines = [status]
    rounds = run["rounds"]
    if rounds:
        lines.append(Text(_sum_up(rounds)))
    if run["status"] != "finished" and (now := _progress(rounds)):
        lines.append(Text(now))
    if frozen := ", ".join(f"{row['frozen']} in round {row['round']}" for row in rounds if row["frozen"]):
        lines.append(Text(f"Left alone after repeated refusals: {frozen}"))
    return Framed(None, *lines, fit=True)


def _sum_up(rounds: Sequence[Document]) -> str:
    phases = [row[phase] for row in rounds for phase in PHASES]
    proposed, accepted = (sum(phase[key] for phase in phases) for key in ("reflected", "accepted"))
    calls = sum(row["teacher"]["calls"] for row in rounds)
    seconds = sum(sum(row["seconds"].values()) for row in rounds)
    share = format_share(accepted / proposed if proposed else None)
    done = f"accepted {accepted} of {proposed} proposals ({share})"
    return f"{done} · {calls} teacher calls · {seconds:.1f} seconds"


def _progress(rounds: Sequence[Document]) -> str:
    """How far the newest round has come, as far as its document tells."""
    if not rounds or not (row := rounds[-1])["round"]:
        return ""
    counts = {phase: sum(row[phase][key] for key in ("reflected", "unchanged", "failed")) for phase in PHASES}
    phase = PHASES[-1] if counts[PHASES[-1]] else PHASES[0]
    whole = rounds[-2]["pool"] if len(rounds) > 1 else 0
    if row["student"]:
        return f"round {row['round']}: student {row['student']} is trained on {row['training']} pairs"
    if row["training"]:
        return f"round {row['round']}: refinetuning on {row['training']} pairs"
    reflected = f"{counts[phase]} of {whole} pairs reflected on"
    return f"round {row['round']}, phase {phase}: {reflected}, {row[phase]['accepted']} accepted"


def _decisions(rounds: Sequence[Document]) -> RenderableType:
    has_frozen = any(row["frozen"] for row in rounds)
    table = new_table(
        "round", "phase", "proposed", "unchanged", "failed", "accepted", "acceptance",
        *(["left\nalone"] if has_frozen else []), texts=("phase",),
    )  # fmt: skip
    for row in rounds:
        for phase in PHASES:
            done = row[phase]
            table.add_row(
                str(row["round"]),
                phase,
                *(str(done[key]) for key in ("reflected", "unchanged", "failed", "accepted")),
                format_share(done["accepted"] / done["reflected"] if done["reflected"] else None),
                *([str(row["frozen"])] if has_frozen else []),
            )
    return table


def _students(rounds: Sequence[Document]) -> RenderableType:
    measures = sorted({name for row in rounds for name in row["evaluations"]})
    heads = [name.replace("_", " ").replace(" ", "\n", 1) for name in measures]
    table = new_table("round", "student", "trained\non", *heads, "seconds")
    for row in rounds:
        table.add_row(
            str(row["round"]),
            row["student"] or "-",
            str(row["training"]),
            *(format_held_out(name, row["evaluations"].get(name)) for name in measures),
            f"{sum(row['seconds'].values()):.1f}",
        )
    return table


def _pools(rounds: Sequence[Document]) -> RenderableType:
    table = new_table(
        "round", "pairs", "mean\nIFD", "median\nIFD", "mean\nr-IFD", "median\nr-IFD", "response\ntokens"
    )
    for row in rounds:
        table.add_row(
            str(row["round"]),
            str(row["pool"]),
            *(format_measure(row[name][part]) for name in ("ifd", "r_ifd") for part in ("mean", "median")),
            format_number(row["response_tokens"], ".1f"),
        )
    return table


def _calls(rounds: Sequence[Document]) -> RenderableType:
    table = new_table(
        "round", "calls", "from\ncache", "prompt\ntokens", "answer\ntokens", "USD",
        "tokens per\naccepted", "USD per\naccepted",
    )  # fmt: skip
    for row in rounds:
        teacher = row["teacher"]
        table.add_row(
            str(row["round"]),
            str(teacher["calls"]),
            str(teacher["cached"]),
            format_number(teacher["prompt_tokens"], "d"),
            format_number(teacher["completion_tokens"], "d"),
            format_number(teacher["cost_usd"], ".4f"),
            format_number(teacher["tokens_per_accepted"], ".1f"),
            format_number(teacher["cost_per_accepted_usd"], ".4f"),
        )
    return table
