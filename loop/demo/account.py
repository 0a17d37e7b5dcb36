"""What the exact checker says about a demo run: how much of its pool is true, and how well was selected.

A real run has no such checker; this is what its decisions cannot see. Reads a finished or unfinished
lineage, decides and stores nothing.
"""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import astuple
from typing import Any, cast

from rich.console import Group, RenderableType
from rich.text import Text

from reflectune.loop.demo.closing import tabulate_students
from reflectune.loop.demo.world import check, is_right
from reflectune.loop.show.numbers import format_share
from reflectune.loop.show.terminal.layout import tabulate
from reflectune.state.lineage.documents import Trace
from reflectune.state.lineage.proposals import read_proposals
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import PHASES, Proposed

__all__ = ["account_for", "judge_phase", "mended_sample", "render_account", "share"]

Document = Mapping[str, Any]


def account_for(lineage: LineageReader) -> list[dict[str, Any]]:
    """One document a round: what `show --json` has, and what the checker says.

    Added keys: "exact_match" {value, low, high, n}, held-out, with its 95 % interval; "pool_right", the
    share of the pool D[r] that is right, where an unclear instruction has no right response; and for each
    phase "accepted_right", the share of accepted proposals that are right, "refused_rightly", the share of
    refused ones that were wrong or stood against a right incumbent, and the counts "mended" (wrong to right)
    and "damaged" (right to wrong). None where there was nothing to judge.
    """
    measures = {item["round"]: item for item in lineage.evaluations() if item["name"] == "accuracy"}
    documents = []
    for row in lineage.rounds():
        round, document = row["round"], cast(dict[str, Any], row)
        measure = measures.get(round)
        document["exact_match"] = measure and {key: measure[key] for key in ("value", "low", "high", "n")}
        document["pool_right"] = share(is_right(pair) for pair in lineage.pool(round))
        for phase in PHASES:
            document[phase] |= judge_phase(read_proposals(lineage, round, phase))
        documents.append(document)
    return documents


def judge_phase(proposals: Iterable[Proposed]) -> dict[str, Any]:
    """How well the proposals of one phase were accepted and refused.

    A proposal whose instruction is unclear, where the checker cannot say, is left out.
    """
    verdicts = [
        (item.accepted, is_right(item.incumbent), is_right(item.candidate))
        for item in proposals
        if check(*astuple(item.candidate)) is not None
    ]
    accepted = [(before, after) for taken, before, after in verdicts if taken]
    refused = [(before, after) for taken, before, after in verdicts if not taken]
    return {
        "accepted_right": share(after for _, after in accepted),
        "refused_rightly": share(before or not after for before, after in refused),
        "mended": sum(after and not before for before, after in accepted),
        "damaged": sum(before and not after for before, after in accepted),
    }


def share(verdicts: Iterable[bool]) -> float | None:
    """Share of true verdicts; None where there are none."""
    values = list(verdicts)
    return statistics.fmean(values) if values else None


def mended_sample(lineage: LineageReader) -> Trace | None:
    """The trace of a sample whose wrong answer was mended and then trained on; None where there is none.

    Of several, the one with the most accepted proposals, and of those the one with the fewest refused.
    """
    journeys: dict[int, list[Proposed]] = {}
    for document in lineage.rounds():
        for phase in PHASES:
            for item in read_proposals(lineage, document["round"], phase):
                journeys.setdefault(item.position, []).append(item)
    mended = []
    for position, journey in journeys.items():
        given, taken = journey[0].incumbent, [item.candidate for item in journey if item.accepted]
        if taken and check(*astuple(given)) is False and is_right(taken[-1]):
            mended.append((-len(taken), len(journey), position))
    traces = (lineage.trace(str(position)) for _, _, position in sorted(mended))
    return next((trace for trace in traces if trace["trained_in"]), None)


_DECIDED = (
    "round", "instruction\naccepted", "of them\nright", "refused\nrightly",
    "response\naccepted", "of them\nright", "refused\nrightly", "pool\nright",
)  # fmt: skip


def render_account(documents: list[dict[str, Any]]) -> RenderableType:
    """The account of a demo run as two tables."""
    return Group(
        Text("Accepted of proposed, and how rightly; share of the pool that is right"),
        tabulate(_DECIDED, map(_decided_cells, documents)),
        tabulate_students(
            documents, "held-out\nexact match (95 %)", lambda row: _interval(row["exact_match"])
        ),
    )


def _decided_cells(row: Document) -> list[str]:
    cells = [str(row["round"])]
    for phase in (row[name] for name in PHASES):
        cells.append(f"{phase['accepted']}/{phase['reflected']}")
        cells += [format_share(phase[key]) for key in ("accepted_right", "refused_rightly")]
    return [*cells, format_share(row["pool_right"])]


def _interval(measure: Document | None) -> str:
    if measure is None or measure["low"] is None:
        return format_share(None if measure is None else measure["value"])
    return f"{measure['value']:.0%} ({measure['low']:.0%} to {measure['high']:.0%})"
