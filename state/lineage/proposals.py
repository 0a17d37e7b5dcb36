"""What a run's teacher proposed and what was decided about it, as pairs of pairs."""

from collections.abc import Iterator

from reflectune.state.data.exports import Preference
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import Pair, Phase, Proposed

__all__ = ["read_preferences", "read_proposals"]


def read_proposals(lineage: LineageReader, round: int, phase: Phase) -> Iterator[Proposed]:
    """The proposals of a phase that have been decided about, by position and candidate."""
    rows = lineage.db.query(
        """
        SELECT samples.position, decisions.winner_id = candidate.id AS accepted,
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
    for row in rows:
        yield Proposed(
            position=row["position"],
            incumbent=Pair(row["instruction"], row["input"], row["response"]),
            candidate=Pair(row["new_instruction"], row["new_input"], row["new_response"]),
            accepted=bool(row["accepted"]),
        )


def read_preferences(lineage: LineageReader, round: int) -> Iterator[Preference]:
    """What the response phases up to a round decided: winner chosen, loser rejected.

    Only decisions that compared two responses to the same prompt count: accepted and refused
    ones, not ties, unscorable pairs or control arms that look at nothing.
    """
    rows = lineage.db.query(
        """
        SELECT winner.instruction, winner.input, winner.response AS chosen, loser.response AS rejected
        FROM decisions
        JOIN samples ON samples.id = decisions.sample_id
        JOIN versions AS winner ON winner.id = decisions.winner_id
        JOIN versions AS loser ON loser.id = CASE decisions.reason
            WHEN 'accepted' THEN decisions.incumbent_id ELSE decisions.challenger_id END
        WHERE decisions.phase = 'response' AND decisions.reason IN ('accepted', 'refused')
            AND decisions.incumbent_value IS NOT NULL AND decisions.round <= ?
        ORDER BY decisions.round, samples.position
        """,
        [round],
    )
    return (Preference(**row) for row in rows)
