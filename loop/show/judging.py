"""What a judge said of each round's student as a table, for a terminal and pages alike."""

from collections.abc import Iterable

from reflectune.loop.show.comparison import Section
from reflectune.loop.show.numbers import format_number
from reflectune.state.lineage.documents import RoundDocument

__all__ = ["tabulate_judging"]

_COUNTS = ("wins", "ties", "losses", "disagreed", "undecided")


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
