"""The views that migrations make, and those that an older file lacks for a connection that only reads it.

What a migration has made of them stays: another form needs another migration.
"""

from sqlite_utils.db import Database

__all__ = ["DECIDING_ROUND", "OUTCOME_OF_PHASE", "VIEWS", "complete_views", "evolution"]

OUTCOME_OF_PHASE = """
        LEFT JOIN outcomes ON outcomes.round = versions.round
            AND outcomes.phase = versions.phase AND outcomes.sample_id = versions.sample_id
"""

# SelectionConfig.deciding in SQL: the round whose student decided about a version.
DECIDING_ROUND = """
        CASE WHEN (SELECT json_extract(config, '$.selection.scorer') FROM runs) = 'base' THEN 0
            ELSE MAX(versions.round - 1, 0) END
"""

VIEWS = {
    # The pair of each training sample after each round; round 0 is the given data.
    "pool": """
        SELECT 0 AS round, samples.id AS sample_id, versions.id AS version_id
        FROM samples CROSS JOIN versions ON versions.sample_id = samples.id AND versions.round = 0
            AND versions.phase = 'original'
        WHERE samples.split = 'train'
        UNION ALL
        SELECT round, sample_id, winner_id FROM decisions WHERE phase = 'response'
    """,
    # What each phase came to for each sample. last_status is that of the last call of the last candidate, and
    # NULL where there was none.
    "outcomes": """
        SELECT round, phase, sample_id, reason, last_status,
            CASE WHEN reason IN ('accepted', 'frozen') THEN reason
                WHEN reason <> 'no-candidate' THEN 'refused'
                WHEN last_status IS NULL THEN 'unasked'
                WHEN last_status = 'unchanged' THEN 'unchanged'
                ELSE 'failed' END AS outcome
        FROM (
            SELECT round, phase, sample_id, reason, (
                SELECT status FROM teacher_calls
                WHERE teacher_calls.round = decisions.round AND teacher_calls.phase = decisions.phase
                    AND teacher_calls.sample_id = decisions.sample_id
                ORDER BY candidate DESC, attempt DESC LIMIT 1) AS last_status
            FROM decisions)
    """,
}


def evolution(outcome: str, join: str = "", deciding: str = "MAX(versions.round - 1, 0)") -> str:
    """Every version of every sample in the order it came, with its scores under the student that decided.

    Args:
        outcome: of a proposal where none was taken.
        join: what that is read from, besides the tables that are joined anyway.
        deciding: the round whose student decided.
    """
    terms = {
        "given": "response_given_instruction",
        "alone": "response_alone",
        "reverse": "instruction_given_response",
        "asked": "instruction_alone",
    }
    joins = "\n".join(
        f"LEFT JOIN scores AS {name} ON {name}.version_id = versions.id "
        f"AND {name}.student_id = rounds.student_id AND {name}.term = '{term}'"
        for name, term in terms.items()
    )

    def ratio(over: str, under: str) -> str:
        """Of two perplexities, by the means of their terms; between these exp() is neither infinite nor 0."""
        difference = f"({under}.sum_logprob / {under}.num_tokens - {over}.sum_logprob / {over}.num_tokens)"
        return f"CASE WHEN {difference} BETWEEN -744 AND 709 THEN exp({difference}) END"

    return f"""CREATE VIEW evolution AS
        SELECT samples.position, samples.id AS sample_id, versions.round, versions.phase,
            versions.candidate, versions.id AS version_id, versions.parent_id,
            versions.instruction, versions.input, versions.response, teacher_calls.critique,
            COALESCE(given.student_id, alone.student_id, reverse.student_id, asked.student_id) AS student_id,
            {ratio("given", "alone")} AS ifd, {ratio("reverse", "asked")} AS r_ifd,
            given.num_tokens AS response_tokens,
            CASE WHEN decisions.winner_id = versions.id THEN 'accepted'
                 WHEN decisions.reason = 'accepted' THEN 'refused' ELSE {outcome} END AS outcome
        FROM samples
        -- In this order, which is that of the rows, so that a page of them needs no sorting.
        CROSS JOIN versions ON versions.sample_id = samples.id
        LEFT JOIN teacher_calls ON teacher_calls.id = versions.teacher_call_id
        LEFT JOIN decisions ON decisions.round = versions.round AND decisions.phase = versions.phase
            AND decisions.sample_id = versions.sample_id
        LEFT JOIN rounds ON rounds.round = {deciding}
        {join}
        {joins}
        ORDER BY samples.position, versions.round, versions.phase, versions.candidate"""


def complete_views(db: Database) -> None:
    """Give a connection that only reads an older file what newer files have, for as long as it lives."""
    present = set(db.view_names())
    for name, select in VIEWS.items():
        if name not in present:
            db.execute(f"CREATE TEMP VIEW {name} AS {select}")
    if not db.table("servers").exists():
        has_cached = "cached" in db.table("teacher_calls").columns_dict
        columns = "NULL AS server_id" if has_cached else "0 AS cached, NULL AS server_id"
        db.execute(f"CREATE TEMP VIEW teacher_calls AS SELECT *, {columns} FROM main.teacher_calls")
        db.execute("CREATE TEMP TABLE servers (id INTEGER PRIMARY KEY, address TEXT)")
    if not db.table("held_out_answers").exists():
        columns = "student_id, sample_id, text, num_tokens, verdict"
        db.execute(f"CREATE TEMP TABLE held_out_answers ({columns})")
    if not db.table("conversations").exists():
        db.execute("CREATE TEMP TABLE conversations (id INTEGER PRIMARY KEY, turns TEXT)")
        db.execute("CREATE TEMP TABLE skipped_rows (kind, number, examples)")
        columns = "NULL AS conversation_id, 0 AS turn, 0 AS followed"
        db.execute(f"CREATE TEMP VIEW samples AS SELECT *, {columns} FROM main.samples")
