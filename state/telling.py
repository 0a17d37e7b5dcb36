"""Which samples tell most about a run: its largest gains, narrow refusals, failures and longest journeys."""

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from state.history import History
from state.records import PHASES, Phase

__all__ = ["MOST_TOLD", "Failure", "choose_telling"]

Telling = Literal["gain", "narrow", "failure", "journey"]
_KINDS: tuple[Telling, ...] = get_args(Telling)
Failure = tuple[str, int, Phase]  # sample, round and phase of a reflection without a proposal

# How many there are in all, and how many of each kind where there are enough.
MOST_TOLD = 20
_SHARES: Mapping[Telling, int] = {"gain": 6, "narrow": 5, "failure": 4, "journey": 5}


def choose_telling(
    history: History, accepted: Mapping[str, int], failures: Mapping[str, Sequence[Failure]]
) -> list[dict[str, Any]]:
    """Up to 20 samples, none twice: each kind's share, then what is left of the kinds in their order.

    Args:
        history: the run.
        accepted: how many proposals of each sample were accepted.
        failures: some reflections without a proposal, by the status of their last call.

    Returns:
        {kind, sample, position, round, phase, reason, before, after, status, accepted} each, None where a key
        does not apply. "gain": largest change of the value that the policy compares, by phase in turn;
        "narrow": refused by the smallest relative difference, by phase in turn; "failure": by `status` in
        turn; "journey": most `accepted` proposals.
    """
    found: dict[Telling, list[dict[str, Any]]] = {
        "gain": _alternate([_gains(history, phase) for phase in PHASES]),
        "narrow": _alternate([_narrow(history, phase) for phase in PHASES]),
        "failure": _alternate(
            [
                [
                    _told(history, sample, round=round, phase=phase, status=status)
                    for sample, round, phase in places
                ]
                for status, places in sorted(failures.items())
            ]
        ),
        "journey": _journeys(history, accepted),
    }
    chosen: dict[str, dict[str, Any]] = {}
    taken: Counter[Telling] = Counter()
    for share in (_SHARES, dict.fromkeys(_KINDS, MOST_TOLD)):
        for kind in _KINDS:
            for item in found[kind]:
                if taken[kind] == share[kind] or len(chosen) == MOST_TOLD:
                    break
                if item["sample"] not in chosen:
                    chosen[item["sample"]] = {"kind": kind} | item
                    taken[kind] += 1
    return sorted(chosen.values(), key=lambda item: _KINDS.index(item["kind"]))


def _gains(history: History, phase: Phase) -> list[dict[str, Any]]:
    rows = history.db.query(
        """
        SELECT sample_id, round, phase, reason, incumbent_value AS before, winner_value AS after
        FROM decisions
        WHERE phase = ? AND reason = 'accepted' AND incumbent_value IS NOT NULL AND winner_value IS NOT NULL
        ORDER BY ABS(winner_value - incumbent_value) DESC, sample_id LIMIT ?
        """,
        [phase, 2 * MOST_TOLD],
    )
    return [_told(history, row.pop("sample_id"), **row) for row in list(rows)]


def _narrow(history: History, phase: Phase) -> list[dict[str, Any]]:
    """Refusals by the smallest difference, relative to the incumbent; equal values come last."""
    rows = history.db.query(
        """
        SELECT sample_id, round, phase, reason, incumbent_value AS before, challenger_value AS after
        FROM decisions
        WHERE phase = ? AND reason IN ('refused', 'tie') AND incumbent_value > 0
            AND challenger_value IS NOT NULL
        ORDER BY challenger_value = incumbent_value, ABS(challenger_value / incumbent_value - 1), sample_id
        LIMIT ?
        """,
        [phase, 2 * MOST_TOLD],
    )
    return [_told(history, row.pop("sample_id"), **row) for row in list(rows)]


def _journeys(history: History, accepted: Mapping[str, int]) -> list[dict[str, Any]]:
    most = heapq.nsmallest(2 * MOST_TOLD, accepted.items(), key=lambda item: (-item[1], item[0]))
    return [_told(history, sample, accepted=n) for sample, n in most if n]


def _told(history: History, sample: str, **facts: Any) -> dict[str, Any]:
    position = history.db.execute("SELECT position FROM samples WHERE id = ?", [sample]).fetchone()[0]
    unknown = dict.fromkeys(("round", "phase", "reason", "before", "after", "status", "accepted"))
    return {"sample": sample, "position": position} | unknown | facts


def _alternate(lists: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The first of each list, then the second of each."""
    longest = max(map(len, lists), default=0)
    return [items[place] for place in range(longest) for items in lists if place < len(items)]
