"""Which samples tell most about a run: its largest gains, narrow refusals, failures and longest journeys."""

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast, get_args

from reflectune.state.lineage.documents import Highlight
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.policies import COMPARED
from reflectune.state.records import PHASES, Phase

__all__ = ["MAX_HIGHLIGHTS", "Failure", "choose_highlights"]

Kind = Literal["gain", "narrow", "failure", "journey"]
_KINDS: tuple[Kind, ...] = get_args(Kind)
Failure = tuple[str, int, Phase]  # sample, round and phase of a reflection without a proposal

# How many there are in all, and how many of each kind where there are enough.
MAX_HIGHLIGHTS = 20
_SHARES: Mapping[Kind, int] = {"gain": 6, "narrow": 5, "failure": 4, "journey": 5}


def choose_highlights(
    lineage: LineageReader, accepted: Mapping[str, int], failures: Mapping[str, Sequence[Failure]]
) -> list[Highlight]:
    """Up to 20 samples, none twice: each kind's share, then what is left of the kinds in their order.

    Args:
        lineage: the run.
        accepted: how many proposals of each sample were accepted.
        failures: some reflections without a proposal, by the status of their last call.

    Returns:
        {kind, sample, position, round, phase, reason, before, after, status, accepted} each, None where a key
        does not apply. "gain": accepted with the largest gain in what the policy compares; "narrow": refused
        with the largest gain, which is below 0 or within the margin, so that no refusal by a cap is among
        them; both by phase and by round in turn, for each round has a student of its own. "failure": by
        `status` in turn; "journey": most `accepted` proposals.
    """
    found: dict[Kind, list[dict[str, Any]]] = {
        "gain": _by_gain(lineage, "reason = 'accepted'"),
        "narrow": _by_gain(lineage, "reason IN ('refused', 'tie') AND gain <= margin"),
        "failure": _alternate(
            [
                [
                    _highlight(lineage, sample, round=round, phase=phase, status=status)
                    for sample, round, phase in places
                ]
                for status, places in sorted(failures.items())
            ]
        ),
        "journey": _journeys(lineage, accepted),
    }
    chosen: dict[str, dict[str, Any]] = {}
    taken: Counter[Kind] = Counter()
    for share in (_SHARES, dict.fromkeys(_KINDS, MAX_HIGHLIGHTS)):
        for kind in _KINDS:
            for item in found[kind]:
                if taken[kind] == share[kind] or len(chosen) == MAX_HIGHLIGHTS:
                    break
                if item["sample"] not in chosen:
                    chosen[item["sample"]] = {"kind": kind} | item
                    taken[kind] += 1
    by_kind = sorted(chosen.values(), key=lambda item: _KINDS.index(item["kind"]))
    return cast(list[Highlight], by_kind)


def _by_gain(lineage: LineageReader, condition: str) -> list[dict[str, Any]]:
    """Decisions with the largest gains of each phase and round, by phase and then by round in turn."""
    rounds = [row[0] for row in lineage.db.execute("SELECT round FROM rounds ORDER BY round").fetchall()]
    found = []
    for phase in PHASES:
        query = f"""
            SELECT sample_id, round, phase, reason, incumbent_value AS before, challenger_value AS after
            FROM (SELECT *, {_gain(phase)} AS gain FROM decisions WHERE round = ? AND phase = ?)
            WHERE {condition} AND gain IS NOT NULL
            ORDER BY gain DESC, sample_id LIMIT {MAX_HIGHLIGHTS}
        """
        found.append(_alternate([list(lineage.db.query(query, [round, phase])) for round in rounds]))
    return [
        _highlight(lineage, row.pop("sample_id"), **row) for row in _alternate(found)[: 4 * MAX_HIGHLIGHTS]
    ]


def _gain(phase: Phase) -> str:
    """By how much the proposal's value is better than the incumbent's, in the policy's unit; else NULL."""
    cases = (
        f"WHEN '{policy}' THEN {measure.sign} * (challenger_value - incumbent_value)"
        for policy, of in COMPARED.items()
        if (measure := of[phase]) is not None
    )
    return f"CASE policy {' '.join(cases)} END"


def _journeys(lineage: LineageReader, accepted: Mapping[str, int]) -> list[dict[str, Any]]:
    most = heapq.nsmallest(2 * MAX_HIGHLIGHTS, accepted.items(), key=lambda item: (-item[1], item[0]))
    return [_highlight(lineage, sample, accepted=n) for sample, n in most if n]


def _highlight(lineage: LineageReader, sample: str, **facts: Any) -> dict[str, Any]:
    position = lineage.db.execute("SELECT position FROM samples WHERE id = ?", [sample]).fetchone()[0]
    unknown = dict.fromkeys(("round", "phase", "reason", "before", "after", "status", "accepted"))
    return {"sample": sample, "position": position} | unknown | facts


def _alternate(lists: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The first of each list, then the second of each."""
    longest = max(map(len, lists), default=0)
    return [items[place] for place in range(longest) for items in lists if place < len(items)]
