"""What the verdicts say about a run of the demo in English. Decides and stores nothing."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

from rich.console import Group, RenderableType
from rich.text import Text

from reflectune.loop.demo.closing import tabulate_students
from reflectune.loop.demo.english.verdicts import Answer, Verdicts, account_for
from reflectune.loop.show.numbers import format_held_out, format_number, format_share
from reflectune.loop.show.terminal.layout import tabulate
from reflectune.state.lineage.documents import Trace
from reflectune.state.lineage.proposals import read_proposals
from reflectune.state.lineage.reader import LineageReader

__all__ = ["describe_rounds", "raised_sample", "render_account", "render_rise"]

Document = Mapping[str, Any]

_VERDICT = (
    "A verdict: a judge's (GPT-4 Turbo's) log-odds for an answer over a strong model's, -14 at the lowest"
)
_HEADS = (
    "round", "accepted", "raised\nit", "spared\nit", "raised,\nlike length", "spared,\nlike length",
    "pool\nbefore", "pool\nafter", "all\ntaken",
)  # fmt: skip


def describe_rounds(lineage: LineageReader, verdicts: Verdicts) -> list[dict[str, Any]]:
    """One document a complete round: what `show --json` has, and under "verdicts" what these say of it."""
    accounts = account_for(lineage, verdicts)
    return [
        cast(dict[str, Any], row) | {"verdicts": account}
        for row, account in zip(lineage.rounds(), accounts, strict=False)
    ]


def raised_sample(lineage: LineageReader, verdicts: Verdicts) -> tuple[dict[str, Any], Trace] | None:
    """The largest rise of a verdict by an accepted proposal, with its sample's trace.

    The sample was trained on with it, and nothing better was ever proposed. The rise has its "round", and
    "before" and "after" each a "model" and its "verdict". None where there is no such proposal.
    """
    rises, best = [], defaultdict[int, float](lambda: -math.inf)
    for round in range(1, lineage.last_round() + 1):
        for item in read_proposals(lineage, round, "response"):
            before, after = verdicts.answer_of(item.incumbent), verdicts.answer_of(item.candidate)
            if before and after:
                best[item.position] = max(best[item.position], after.verdict)
                if item.accepted and after.verdict > before.verdict:
                    rises.append((after.verdict - before.verdict, item.position, round, before, after))
    for _, position, round, before, after in sorted(rises, key=lambda found: (-found[0], found[1])):
        trace = lineage.trace(str(position))
        if after.verdict == best[position] and round in trace["trained_in"]:
            return {"round": round, "before": _tell(before), "after": _tell(after)}, trace
    return None


def _tell(answer: Answer) -> dict[str, Any]:
    return {"model": answer.model, "verdict": answer.verdict}


def render_account(rounds: Sequence[Document]) -> RenderableType:
    """The account as two tables."""
    return Group(
        Text(_VERDICT),
        Text(
            "Where two differ clearly, by more than 1: share of acceptances that raised it, of refusals that "
            "spared the pool a worse one. The pool's mean before and after, and had all been taken"
        ),
        tabulate(_HEADS, [_cells(*two) for two in pairwise(rounds)]),
        tabulate_students(
            rounds, "held-out\nnll", lambda row: format_held_out("nll", row["evaluations"].get("nll"))
        ),
    )


def _cells(before: Document, row: Document) -> list[str]:
    """A round's row; the pool's verdict before it is that of the round before."""
    account, phase = row["verdicts"], row["response"]
    alike = account["at_like_length"]
    return [
        str(row["round"]),
        f"{phase['accepted']}/{phase['reflected']}",
        format_share(account["raised"]),
        format_share(account["spared"]),
        _share_of(alike["raised"], alike["accepted"]),
        _share_of(alike["spared"], alike["refused"]),
        *(
            format_number(verdict, ".2f")
            for verdict in (before["verdicts"]["verdict"], account["verdict"], account["proposed"])
        ),
    ]


def _share_of(share: float | None, number: int) -> str:
    return "-" if share is None else f"{format_share(share)} of {number}"


def render_rise(rise: Document) -> RenderableType:
    """What raised a sample's verdict, in a sentence."""
    before, after = (f"{side['verdict']:.1f} ({side['model']})" for side in (rise["before"], rise["after"]))
    return Text(f"\nThe largest rise to a best answer, in round {rise['round']}: from {before} to {after}")
