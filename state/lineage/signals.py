"""What a run's student told of a few given pairs before its first decision, and what became of these."""

import json
from collections.abc import Sequence
from typing import cast

from reflectune.state.lineage.documents import Matching
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import Phase

__all__ = ["Signal", "find_trained", "has_compared", "read_lengths", "read_signal"]


class Signal(Matching):
    """The figures as they are stored, and where the samples stand in the given data."""

    positions: list[int]


def read_signal(lineage: LineageReader) -> Signal | None:
    """What s[0] told before its first decision; None before that, and in runs of earlier versions."""
    query = "SELECT json_extract(metrics, '$.signal') FROM rounds WHERE round = 1 AND json_valid(metrics)"
    row = lineage.db.execute(query).fetchone()
    return cast(Signal, json.loads(row[0])) if row and row[0] else None


def has_compared(lineage: LineageReader) -> bool:
    """Whether a student has decided about any proposal of round 1 yet."""
    query = "SELECT EXISTS (SELECT 1 FROM decisions WHERE round = 1 AND student_id IS NOT NULL)"
    return bool(lineage.db.execute(query).fetchone()[0])


def read_lengths(lineage: LineageReader, phase: Phase, positions: Sequence[int]) -> list[tuple[bool, int]]:
    """Of some samples' proposals in round 1: whether it was accepted, and by how many characters its response
    is longer than the incumbent's.
    """
    rows = lineage.db.execute(
        """
        SELECT reason = 'accepted', length(challenger.response) - length(incumbent.response)
        FROM json_each(:positions)
        CROSS JOIN samples ON samples.position = value
        CROSS JOIN decisions ON decisions.round = 1 AND decisions.phase = :phase
            AND decisions.sample_id = samples.id
        JOIN versions AS challenger ON challenger.id = challenger_id
        JOIN versions AS incumbent ON incumbent.id = incumbent_id
        """,
        {"positions": json.dumps(positions), "phase": phase},
    )
    return [(bool(accepted), difference) for accepted, difference in rows]


def find_trained(lineage: LineageReader, version_ids: Sequence[str], first: int, last: int) -> set[str]:
    """Those of some versions that are in a training set of some rounds."""
    query = (
        "SELECT version_id FROM training_sets WHERE version_id IN (SELECT value FROM json_each(?)) "
        "AND round BETWEEN ? AND ?"
    )
    return {id for (id,) in lineage.db.execute(query, [json.dumps(version_ids), first, last])}
