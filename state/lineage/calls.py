"""What calls of a model took: of the teacher, or of the judge."""

from typing import Any, Literal, cast

from reflectune.state.lineage.documents import CallSums
from reflectune.state.records import ANSWERLESS
from reflectune.state.storage import OpenDatabase

__all__ = ["CallTable", "describe_place", "sum_calls"]

CallTable = Literal["teacher_calls", "judge_calls"]


def sum_calls(lineage: OpenDatabase, table: CallTable, **place: object) -> CallSums:
    """Calls of a place, and what those that were paid for took."""
    paid = f"NOT cached AND status NOT IN {ANSWERLESS}"
    sums = ", ".join(
        f"CASE WHEN COUNT(*) FILTER (WHERE {paid} AND {name} IS NULL) = 0 "
        f"THEN COALESCE(SUM({name}) FILTER (WHERE NOT cached), {nothing}) END AS {name}"
        for name, nothing in {"prompt_tokens": 0, "completion_tokens": 0, "cost_usd": 0.0}.items()
    )
    where, params = describe_place(**place)
    (row,) = lineage.db.query(
        f"SELECT COUNT(*) AS calls, COUNT(*) FILTER (WHERE cached) AS cached, {sums} FROM {table} "
        f"WHERE {where}",
        params,
    )
    return cast(CallSums, row)


def describe_place(**known: Any) -> tuple[str, dict[str, Any]]:
    """The condition that rows are of a place, with its parameters: plain equalities, found by an index."""
    place = {name: value for name, value in known.items() if value is not None}
    return " AND ".join(f"{name} = :{name}" for name in place) or "1", place
