"""Which samples tell most about a run: its largest gains, narrow refusals, failures and longest journeys."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, cast

from reflectune.state.lineage.documents import Highlight, Kind
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.policies import POLICIES
from reflectune.state.records import PHASES, Phase

__all__ = ["choose_highlights"]


# How many there are in all, and how many of each kind where there are enough.
_MOST = 20
_SHARES: Mapping[Kind, int] = {"gain": 6, "narrow": 5, "failure": 4, "journey": 5}

# Reflections without a proposal, by the status of the last call in turn.
_FAILURES = f"""
    SELECT sample_id AS sample, round, phase, last_status AS status
    FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY last_status ORDER BY round, sample_id, phase) AS turn
        FROM outcomes WHERE outcome = 'failed')
    WHERE turn <= {_MOST} ORDER BY turn, last_status
"""
_JOURNEYS = f"""
    SELECT sample_id AS sample, COUNT(*) AS accepted FROM decisions WHERE reason = 'accepted'
    GROUP BY sample_id ORDER BY accepted DESC, sample_id LIMIT {2 * _MOST}
"""


def choose_highlights(lineage: LineageReader) -> list[Highlight]:
    """Up to 20 samples, none twice: each kind's share, then what is left of the kinds in their order.

    Returns:
        "gain": accepted with the largest gain in what the policy compares; "narrow": refused with the largest
        gain, which is below 0 or within the margin, so that no refusal by a cap is among them; both by phase
        and by round in turn, for each round has a student of its own. "failure": by `status` in turn;
        "journey": most `accepted` proposals.
    """
    found: dict[Kind, list[dict[str, Any]]] = {
        "gain": _by_gain(lineage, "reason = 'accepted'"),
        "narrow": _by_gain(lineage, "(reason = 'tie' OR reason = 'refused' AND gain < 0)"),
        "failure": list(lineage.db.query(_FAILURES)),
        "journey": list(lineage.db.query(_JOURNEYS)),
    }
    chosen: dict[str, dict[str, Any]] = {}
    taken: Counter[Kind] = Counter()
    for share in (_SHARES, dict.fromkeys(_SHARES, _MOST)):
        for kind in _SHARES:
            for item in found[kind]:
                if taken[kind] == share[kind] or len(chosen) == _MOST:
                    break
                if item["sample"] not in chosen:
                    chosen[item["sample"]] = _tell(lineage, kind, item)
                    taken[kind] += 1
    kinds = [*_SHARES]
    return cast(list[Highlight], sorted(chosen.values(), key=lambda item: kinds.index(item["kind"])))


def _tell(lineage: LineageReader, kind: Kind, item: Mapping[str, Any]) -> dict[str, Any]:
    query = "SELECT position FROM samples WHERE id = ?"
    (position,) = lineage.db.execute(query, [item["sample"]]).fetchone()
    unknown = dict.fromkeys(("round", "phase", "reason", "before", "after", "status", "accepted"))
    return {"kind": kind, "position": position} | unknown | dict(item)


def _by_gain(lineage: LineageReader, condition: str) -> list[dict[str, Any]]:
    """Decisions with the largest gains of each phase and round, by phase and then by round in turn."""
    rounds = [row[0] for row in lineage.db.execute("SELECT round FROM rounds ORDER BY round").fetchall()]
    found = []
    for phase in PHASES:
        query = f"""
            SELECT sample_id AS sample, round, phase, reason, incumbent_value AS before,
                challenger_value AS after
            FROM (SELECT *, {_gain(phase)} AS gain FROM decisions WHERE round = ? AND phase = ?)
            WHERE {condition} AND gain IS NOT NULL ORDER BY gain DESC, sample_id LIMIT {_MOST}
        """
        found.append(_alternate([list(lineage.db.query(query, [round, phase])) for round in rounds]))
    return _alternate(found)[: 4 * _MOST]


def _gain(phase: Phase) -> str:
    """By how much the proposal's value is better than the incumbent's, in the policy's unit; else NULL."""
    measures = ((name, policy.measure(phase)) for name, policy in POLICIES.items())
    lowest = ", ".join(f"'{name}'" for name, measure in measures if measure is not None and measure.sign < 0)
    return f"CASE WHEN policy IN ({lowest}) THEN -1 ELSE 1 END * (challenger_value - incumbent_value)"


def _alternate(lists: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The first of each list, then the second of each."""
    turns = zip_longest(*lists)
    return [item for turn in turns for item in turn if item is not None]
