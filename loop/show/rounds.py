"""What rounds took, what failed and what a judge said as tables, for a terminal and pages alike."""

from collections.abc import Iterable

from reflectune.loop.show.comparison import Section
from reflectune.loop.show.numbers import format_number, format_seconds
from reflectune.state.lineage.documents import RoundDocument
from reflectune.state.records import PHASES
from reflectune.state.text import one_line

__all__ = ["tabulate_calls", "tabulate_failures", "tabulate_judging", "tabulate_servers", "tabulate_steps"]

_STEPS = ("reflect", "select", "refinetune", "evaluate")
_COUNTS = ("wins", "ties", "losses", "disagreed", "undecided")


def tabulate_calls(rounds: Iterable[RoundDocument]) -> Section:
    """A row for each round; what is not known is a dash."""
    rows = [
        (
            row["round"],
            calls["calls"],
            calls["cached"],
            *("-" if n is None else n for n in (calls["prompt_tokens"], calls["completion_tokens"])),
            format_number(calls["cost_usd"], ".4f"),
            format_number(calls["tokens_per_accepted"], ".1f"),
            format_number(calls["cost_per_accepted_usd"], ".4f"),
        )
        for row in rounds
        for calls in [row["teacher"]]
    ]
    heads = (
        "round", "calls", "from\ncache", "prompt\ntokens", "answer\ntokens", "USD", "tokens per\naccepted",
        "USD per\naccepted",
    )  # fmt: skip
    return Section("The teacher's calls, and what those took that the cache did not answer", heads, rows)


def tabulate_steps(rounds: Iterable[RoundDocument]) -> Section:
    """A row for each round."""
    rows = [(row["round"], *(format_seconds(row["seconds"][step]) for step in _STEPS)) for row in rounds]
    return Section("The time of each step", ("round", *_STEPS), rows)


def tabulate_failures(rounds: Iterable[RoundDocument]) -> Section:
    """A row for each of the reasons that most calls of a phase failed for."""
    rows = [
        (row["round"], phase, reason["number"], reason["status"], one_line(reason["message"] or "-"))
        for row in rounds
        for phase in PHASES
        for reason in row[phase]["reasons"]
    ]
    heads = ("round", "phase", "calls", "status", "message")
    title = "What most calls failed for, with the message of one"
    return Section(title, heads, rows, texts=("phase", "status", "message"))


def tabulate_judging(rounds: Iterable[RoundDocument]) -> Section:
    """A row for each opponent of each student; the calls of a student are told in its first one."""
    rows: list[tuple[object, ...]] = []
    for row in rounds:
        if judge := row["judge"]:
            calls = judge["calls"]
            took: tuple[object, ...] = (
                calls["calls"],
                calls["cached"],
                format_number(calls["cost_usd"], ".4f"),
            )
            for contest in judge["contests"]:
                counts = (contest[name] for name in _COUNTS)  # type: ignore[literal-required]
                rows.append((row["round"], row["student"], contest["opponent"], *counts, *took))
                took = ("", "", "")
    heads = ("round", "student", "against", *_COUNTS, "calls", "from\ncache", "USD")
    title = "The judge on held-out answers; where its two orders disagree, that is a tie"
    return Section(title, heads, rows, texts=("student", "against"))


def tabulate_servers(rounds: Iterable[RoundDocument]) -> Section:
    """A row for each server that was asked in a round; nothing where all were the same."""
    rows = [(row["round"], one_line(name), n) for row in rounds for name, n in row["servers"].items()]
    shown = rows if len({server for _, server, _ in rows}) > 1 else []
    return Section("Servers that were asked", ("round", "server", "calls"), shown, texts=("server",))
