"""What a judge was asked in a run and what it said, and what is still to be asked."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

from reflectune.state.groups import in_groups
from reflectune.state.judgements import REFERENCES, Comparison, Judged
from reflectune.state.lineage.calls import sum_calls
from reflectune.state.lineage.connection import marks
from reflectune.state.lineage.documents import ContestDocument, JudgeDocument
from reflectune.state.records import CallStatus, is_final
from reflectune.state.storage import OpenDatabase

if TYPE_CHECKING:
    from reflectune.state.lineage.loop_reader import LoopReader

__all__ = [
    "describe_judging",
    "find_comparisons",
    "find_previous",
    "read_answers",
    "read_judged",
]

_PAGE = 500  # samples whose answers are read together

# The verdicts of one student's samples: on its own answer shown first, and on the other order.
_VERDICTS = """
    SELECT opponent, sample_id, MAX(CASE WHEN NOT swapped THEN verdict END) AS one,
        MAX(CASE WHEN swapped THEN verdict END) AS other
    FROM judge_calls WHERE student_id = :student GROUP BY opponent, sample_id
"""


def find_previous(lineage: OpenDatabase, student_id: str) -> str | None:
    """The newest student before one that has answered held-out instructions."""
    query = (
        "SELECT id FROM students WHERE round < (SELECT round FROM students WHERE id = ?) AND EXISTS "
        "(SELECT 1 FROM held_out_answers WHERE student_id = students.id) ORDER BY round DESC LIMIT 1"
    )
    found = lineage.db.execute(query, [student_id]).fetchone()
    return None if found is None else str(found[0])


def read_answers(lineage: "LoopReader", whose: str, sample_ids: Sequence[str]) -> dict[str, str]:
    """What a student answered to some held-out samples, or their own responses, by sample."""
    if whose == REFERENCES:
        return {sample: pair.response for sample, pair in lineage.given_pairs(sample_ids).items()}
    query = (
        "SELECT sample_id, text FROM held_out_answers "
        f"WHERE student_id = ? AND text IS NOT NULL AND sample_id IN ({marks(sample_ids)})"
    )
    return dict(lineage.db.execute(query, [whose, *sample_ids]))


def find_comparisons(
    lineage: "LoopReader",
    student_id: str,
    opponents: Sequence[str],
    sample_ids: Sequence[str],
    attempts: int,
) -> Iterator[tuple[Comparison, bool]]:
    """All comparisons of a student's answers with others that are there, and whether each is settled.

    In the order of the samples: both orders against all opponents come together, so that a budget that ends
    cuts whole samples. Rows may be written meanwhile. A comparison is settled by a verdict, a final failure,
    or so many attempts.
    """
    for page in in_groups(sample_ids, _PAGE):
        pairs, own = lineage.given_pairs(page), read_answers(lineage, student_id, page)
        others = {opponent: read_answers(lineage, opponent, page) for opponent in opponents}
        made = _attempts(lineage, student_id, page)
        for sample in page:
            for opponent in opponents:
                if sample not in own or sample not in others[opponent]:
                    continue
                texts = own[sample], others[opponent][sample]
                for swapped in (False, True):
                    shown = texts[::-1] if swapped else texts
                    status, count = made.get((opponent, sample, swapped), (None, 0))
                    asked = Comparison(student_id, opponent, sample, pairs[sample], shown, swapped, count)
                    yield asked, status is not None and is_final(status, count, attempts)


def _attempts(
    lineage: OpenDatabase, student_id: str, sample_ids: Sequence[str]
) -> dict[tuple[str, str, bool], tuple[CallStatus, int]]:
    """Status of the last call, and calls that were made, by opponent, sample and order."""
    # A column beside a single MAX() is of the row that has it.
    rows = lineage.db.execute(
        "SELECT opponent, sample_id, swapped, status, MAX(attempt) FROM judge_calls WHERE student_id = ? "
        f"AND sample_id IN ({marks(sample_ids)}) GROUP BY 1, 2, 3",
        [student_id, *sample_ids],
    )
    return {
        (opponent, sample, bool(swapped)): (status, made) for opponent, sample, swapped, status, made in rows
    }


def read_judged(lineage: "LoopReader", student_id: str, opponent: str) -> Iterator[Judged]:
    """The samples of a student that were compared with an opponent's in both orders."""
    rows = lineage.db.execute(
        f"SELECT sample_id, one, other FROM ({_VERDICTS}) WHERE opponent = :opponent "
        "AND one IS NOT NULL AND other IS NOT NULL ORDER BY sample_id",
        {"student": student_id, "opponent": opponent},
    ).fetchall()
    for page in in_groups(rows, _PAGE):
        ids = [sample for sample, *_ in page]
        own, others = (read_answers(lineage, whose, ids) for whose in (student_id, opponent))
        for sample, one, other in page:
            yield Judged((one, other), (len(own[sample]), len(others[sample])))


def describe_judging(lineage: OpenDatabase, student_id: str) -> JudgeDocument | None:
    """What the judge was asked about a student's answers, and what it said; None where it was not asked."""
    if not lineage.db.table("judge_calls").exists():
        return None
    rows = lineage.db.query(
        f"""
        SELECT opponent, COUNT(*) FILTER (WHERE one = 'first' AND other = 'second') AS wins,
            COUNT(*) FILTER (WHERE one = 'tie' AND other = 'tie') AS ties,
            COUNT(*) FILTER (WHERE one = 'second' AND other = 'first') AS losses,
            COUNT(*) FILTER (WHERE one = other AND one <> 'tie' OR (one = 'tie') <> (other = 'tie'))
                AS disagreed,
            COUNT(*) FILTER (WHERE one IS NULL OR other IS NULL) AS undecided
        FROM ({_VERDICTS}) GROUP BY opponent ORDER BY opponent
        """,
        {"student": student_id},
    )
    contests = cast(list[ContestDocument], list(rows))
    if not contests:
        return None
    return {"calls": sum_calls(lineage, "judge_calls", student_id=student_id), "contests": contests}
