"""How runs and their rounds look in a terminal. Takes the documents that --json prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reflectune.loop.show.numbers import format_held_out, format_measure, format_number, format_share
from reflectune.loop.show.terminal.layout import BAD, GOOD, NEUTRAL, Framed, Sections, tabulate
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
    return tabulate(
        ("run", "status", "round", "samples", "acceptance", "cost USD"),
        (
            (
                Text(one_line(run["name"])),
                Text(run["status"], style=_STYLES.get(run["status"], "")),
                "-" if run["round"] is None else f"{run['round']} of {run['rounds']}",
                format_number(run["samples"], "d"),
                format_share(run["acceptance"]),
                format_number(run["cost_usd"], ".4f"),
            )
            for run in runs
        ),
        texts=("status",),
    )


def render_rounds(run: Document, *, newest: int | None = None, tables: int | None = None) -> RenderableType:
    """The rounds of one run: what was decided, and what came of it.

    Args:
        run: what `show --json` prints.
        newest: show no more than the newest so many rounds.
        tables: show no more than the first so many tables.
    """
    run = inert_document(run)
    rounds = run["rounds"] if newest is None else run["rounds"][-newest:]
    reflected = [row for row in rounds if row["round"]]
    sections = (
        ("Proposals of the teacher, and those the student accepted", _decisions(reflected)),
        ("Each round's student, and its held-out measures", _students(rounds)),
        ("The round's pool under the student that decided", _pools(reflected)),
        (
            "The teacher's calls, and what those took that the cache did not answer",
            _calls([row for row in rounds if row["teacher"]["calls"]]),
        ),
    )
    filled = [section for section in sections if section[1].row_count]
    return Group(_head(run), Sections(filled[:tables]))


def _head(run: Document) -> RenderableType:
    """Status, where a running round stands, and what the run has come to."""
    rounds = run["rounds"]
    stop = f", stopped: {run['stop_reason']}" if run["stop_reason"] else ""
    status = Text(f"{run['name']}: {run['status']}{stop}", style=f"bold {_STYLES.get(run['status'], '')}")
    frozen = ", ".join(f"{row['frozen']} in round {row['round']}" for row in rounds if row["frozen"])
    lines = (
        _sum_up(rounds) if rounds else "",
        _describe_progress(rounds) if run["status"] != "finished" else "",
        f"Left alone after repeated refusals: {frozen}" if frozen else "",
    )
    return Framed(None, status, *(Text(line) for line in lines if line), fit=True)


def _sum_up(rounds: Sequence[Document]) -> str:
    phases = [row[phase] for row in rounds for phase in PHASES]
    proposed, accepted = (sum(phase[key] for phase in phases) for key in ("reflected", "accepted"))
    calls = sum(row["teacher"]["calls"] for row in rounds)
    share = format_share(accepted / proposed if proposed else None)
    done = f"accepted {accepted} of {proposed} proposals ({share})"
    return f"{done} · {calls} teacher calls · {sum(map(_seconds, rounds)):.1f} seconds"


def _seconds(row: Document) -> float:
    return float(sum(row["seconds"].values()))


def _describe_progress(rounds: Sequence[Document]) -> str:
    """How far the newest round has come, as far as its document tells."""
    if not rounds or not (row := rounds[-1])["round"]:
        return ""
    if row["student"]:
        return f"round {row['round']}: student {row['student']} is trained on {row['training']} pairs"
    if row["training"]:
        return f"round {row['round']}: refinetuning on {row['training']} pairs"
    counts = {phase: sum(row[phase][key] for key in ("reflected", "unchanged", "failed")) for phase in PHASES}
    phase = PHASES[-1] if counts[PHASES[-1]] else PHASES[0]
    whole = rounds[-2]["pool"] if len(rounds) > 1 else 0
    reflected = f"{counts[phase]} of {whole} pairs reflected on"
    return f"round {row['round']}, phase {phase}: {reflected}, {row[phase]['accepted']} accepted"


def _decisions(rounds: Sequence[Document]) -> Table:
    has_frozen = any(row["frozen"] for row in rounds)
    heads = ("round", "phase", "proposed", "unchanged", "failed", "accepted", "acceptance", "left\nalone")
    rows = (
        (
            str(row["round"]),
            phase,
            *(str(done[key]) for key in ("reflected", "unchanged", "failed", "accepted")),
            format_share(done["accepted"] / done["reflected"] if done["reflected"] else None),
            str(row["frozen"]),
        )
        for row in rounds
        for phase in PHASES
        for done in [row[phase]]
    )
    columns = len(heads) if has_frozen else -1
    return tabulate(heads[:columns], (row[:columns] for row in rows), texts=("phase",))


def _students(rounds: Sequence[Document]) -> Table:
    measures = sorted({name for row in rounds for name in row["evaluations"]})
    heads = [name.replace("_", " ").replace(" ", "\n", 1) for name in measures]
    return tabulate(
        ("round", "student", "trained\non", *heads, "seconds"),
        (
            (
                str(row["round"]),
                row["student"] or "-",
                str(row["training"]),
                *(format_held_out(name, row["evaluations"].get(name)) for name in measures),
                f"{_seconds(row):.1f}",
            )
            for row in rounds
        ),
    )


def _pools(rounds: Sequence[Document]) -> Table:
    return tabulate(
        ("round", "pairs", "mean\nIFD", "median\nIFD", "mean\nr-IFD", "median\nr-IFD", "response\ntokens"),
        (
            (
                str(row["round"]),
                str(row["pool"]),
                *(
                    format_measure(row[name][part])
                    for name in ("ifd", "r_ifd")
                    for part in ("mean", "median")
                ),
                format_number(row["response_tokens"], ".1f"),
            )
            for row in rounds
        ),
    )


def _calls(rounds: Sequence[Document]) -> Table:
    forms = {
        "calls": "d", "cached": "d", "prompt_tokens": "d", "completion_tokens": "d", "cost_usd": ".4f",
        "tokens_per_accepted": ".1f", "cost_per_accepted_usd": ".4f",
    }  # fmt: skip
    return tabulate(
        (
            "round", "calls", "from\ncache", "prompt\ntokens", "answer\ntokens", "USD",
            "tokens per\naccepted", "USD per\naccepted",
        ),
        (
            (str(row["round"]), *(format_number(row["teacher"][key], form) for key, form in forms.items()))
            for row in rounds
        ),
    )  # fmt: skip
