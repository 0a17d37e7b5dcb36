"""How runs and their rounds look in a terminal. Takes the documents that --json prints."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from reflectune.loop.show.alarms import list_alarms, tabulate_alarms
from reflectune.loop.show.comparison import Section
from reflectune.loop.show.documents import Overview, RunDocument
from reflectune.loop.show.explanations import (
    count_things,
    explain_best,
    explain_given,
    explain_signal,
    explain_skipped,
    explain_untrained,
    sum_seconds,
)
from reflectune.loop.show.numbers import (
    as_sentence,
    format_held_out,
    format_measure,
    format_number,
    format_share,
    format_share_of,
    name_held_out,
)
from reflectune.loop.show.rounds import tabulate_calls, tabulate_failures, tabulate_judging, tabulate_servers
from reflectune.loop.show.terminal.layout import BAD, GOOD, NEUTRAL, Framed, Sections, tabulate
from reflectune.loop.show.workers import tabulate_stages, tabulate_workers
from reflectune.state.lineage.documents import RoundDocument, SkippedDocument
from reflectune.state.records import PHASES
from reflectune.state.text import inert_document, one_line

__all__ = ["render_rounds", "render_runs"]

# What a run's status looks like; it is always said in words as well.
_HEAD_WIDTH = 12  # characters of a measure's name in a line
_STYLES = {"finished": GOOD, "running": NEUTRAL, "failed": BAD, "unreadable": BAD}


def render_runs(runs: Sequence[Overview]) -> RenderableType:
    """All runs, one row each."""
    runs = inert_document(runs)
    if not runs:
        return Text("no runs yet; `reflectune init` writes a config to start from")
    rows = (
        (
            Text(one_line(run["name"])),
            Text(run["status"], style=_STYLES.get(run["status"], "")),
            "-" if run["round"] is None else f"{run['round']} of {run['rounds']}",
            format_number(run["samples"], "d"),
            format_share(run["acceptance"]),
            format_number(run["cost_usd"], ".4f"),
        )
        for run in runs
    )
    return tabulate(("run", "status", "round", "samples", "acceptance", "cost USD"), rows, texts=("status",))


def render_rounds(
    run: RunDocument, *, only: int | None = None, newest: int | None = None, tables: int | None = None
) -> RenderableType:
    """One round of a run or its newest ones in the first tables: what was decided, and what came of it."""
    run = inert_document(run)
    rounds = run["rounds"] if newest is None else run["rounds"][-newest:]
    rounds = [row for row in rounds if only in (None, row["round"])]
    reflected = [row for row in rounds if row["round"]]
    called = [row for row in rounds if row["teacher"]["calls"]]
    sections = (
        _decisions(reflected), _students(rounds), _pools(reflected),
        tabulate_alarms(rounds), tabulate_calls(called), tabulate_failures(reflected),
        tabulate_judging(rounds), tabulate_servers(rounds), _skipped(run["skipped"]),
    )  # fmt: skip
    filled = [section for section in sections if section.rows]
    live = Sections([tabulate_stages(run["stages"]), tabulate_workers(run["workers"])])
    return Group(_head(run), live, Sections(filled[:tables]))


def _head(run: RunDocument) -> RenderableType:
    """Status, where a running round stands, and what the run has come to."""
    rounds = run["rounds"]
    stop = f", stopped: {run['stop_reason']}" if run["stop_reason"] else ""
    told = "; ".join(filter(None, (f"{run['status']}{stop}", explain_untrained(run["stop_reason"], rounds))))
    status = Text(f"{run['name']}: {told}", style=f"bold {_STYLES.get(run['status'], '')}")
    frozen = ", ".join(f"{row['frozen']} in round {row['round']}" for row in rounds if row["frozen"])
    cut = ", ".join(f"{n} in round {row['round']}" for row in rounds if (n := row["training_truncated"]))
    skipped = explain_skipped(run["skipped"])
    lines = (
        explain_given(run),
        f"{skipped[:1].upper()}{skipped[1:]}",
        _sum_up(rounds) if rounds else "",
        explain_best(run["best"]),
        *list_alarms(rounds),
        _describe_progress(rounds) if run["status"] != "finished" else "",
        *map(as_sentence, explain_signal(run["signal"])),
        f"Left alone after repeated refusals: {frozen}" if frozen else "",
        f"Training pairs whose response or context student.max_length cut: {cut}" if cut else "",
    )
    return Framed(None, status, *(Text(line) for line in lines if line))


def _sum_up(rounds: Sequence[RoundDocument]) -> str:
    phases = [row[phase] for row in rounds for phase in PHASES]
    proposed, decided, accepted = (
        sum(phase[key] for phase in phases) for key in ("reflected", "decided", "accepted")
    )
    calls = sum(row["teacher"]["calls"] for row in rounds)
    if proposed and not decided:
        done = f"{count_things(proposed, 'proposal')}, none decided yet"
    else:
        share = format_share_of(accepted, decided)
        done = f"accepted {accepted} of {count_things(decided, 'proposal')} ({share})"
        done += f", {proposed - decided:,} not decided yet" if proposed > decided else ""
    return f"{done} · {calls} teacher calls · {sum(map(sum_seconds, rounds)):.1f} seconds"


def _describe_progress(rounds: Sequence[RoundDocument]) -> str:
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


def _decisions(rounds: Sequence[Mapping[str, Any]]) -> Section:
    keys = ("reflected", "unchanged", "failed", "accepted")
    heads = ("round", "phase", "proposed", *keys[1:], "acceptance", "left\nalone")
    columns = len(heads) if any(row[phase]["frozen"] for row in rounds for phase in PHASES) else -1
    rows = [
        (
            row["round"],
            phase,
            *(row[phase][key] for key in keys),
            format_share_of(row[phase]["accepted"], row[phase]["decided"]),
            row[phase]["frozen"],
        )[:columns]
        for row in rounds
        for phase in PHASES
    ]
    return Section("Proposals of the teacher, and those the student accepted", heads[:columns], rows)


def _students(rounds: Sequence[RoundDocument]) -> Section:
    measures = sorted({name for row in rounds for name in row["evaluations"]})
    heads = [fill(name_held_out(name), _HEAD_WIDTH) for name in measures]
    rows = [
        (
            row["round"],
            row["student"] or "-",
            row["training"],
            *(format_held_out(name, row["evaluations"].get(name)) for name in measures),
            f"{sum_seconds(row):.1f}",
        )
        for row in rounds
    ]
    heads = ["round", "student", "trained\non", *heads, "seconds"]
    return Section("Each round's student, and its held-out measures", heads, rows)


def _pools(rounds: Sequence[RoundDocument]) -> Section:
    names = [f"{part}\n{name}" for name in ("IFD", "r-IFD") for part in ("mean", "median")]
    rows = [
        (
            row["round"],
            row["pool"],
            *(format_measure(row[name][part]) for name in ("ifd", "r_ifd") for part in ("mean", "median")),
            format_number(row["response_tokens"], ".1f"),
        )
        for row in rounds
    ]
    heads = ("round", "pairs", *names, "response\ntokens")
    return Section("The round's pool under the student that decided", heads, rows)


def _skipped(skipped: Sequence[SkippedDocument]) -> Section:
    rows = [(one_line(row["kind"]), row["number"], one_line("; ".join(row["examples"]))) for row in skipped]
    heads = ("kind", "rows", "examples")
    return Section("Rows of the data that were left out", heads, rows, texts=("kind", "examples"))
