"""What a run's teacher proposed and what was decided about it, as pairs of pairs."""

from collections.abc import Iterator

from reflectune.state.groups import in_groups
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import Phase, Proposed

__all__ = ["read_proposals"]

_AT_ONCE = 500  # proposals whose contexts are read together


def read_proposals(lineage: LineageReader, round: int, phase: Phase) -> Iterator[Proposed]:
    """The proposals of a phase that have been decided about, in their contexts, by position and candidate."""
    rows = lineage.db.query(
        """
        SELECT samples.position, candidate.sample_id, decisions.winner_id = candidate.id AS accepted,
            incumbent.instruction, incumbent.input, incumbent.response,
            candidate.instruction AS new_instruction, candidate.input AS new_input,
            candidate.response AS new_response
        FROM versions AS candidate
        JOIN versions AS incumbent ON incumbent.id = candidate.parent_id
        JOIN samples ON samples.id = candidate.sample_id
        JOIN decisions ON decisions.sample_id = candidate.sample_id
            AND decisions.round = candidate.round AND decisions.phase = candidate.phase
        WHERE candidate.round = ? AND candidate.phase = ?
        ORDER BY samples.position, candidate.candidate
        """,
        [round, phase],
    )
    for page in in_groups(rows, _AT_ONCE):
        pairs = zip(page, lineage.read_pairs(page), lineage.read_pairs(page, "new_"), strict=True)
        for row, incumbent, candidate in pairs:
            yield Proposed(row["position"], incumbent, candidate, accepted=bool(row["accepted"]))
