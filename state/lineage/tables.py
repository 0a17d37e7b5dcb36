"""What a run keeps as rows and as Arrow tables, for pandas, datasets and others."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from reflectune.state.groups import in_groups
from reflectune.state.lineage.reader import LineageReader

if TYPE_CHECKING:
    import pyarrow

__all__ = ["TableName", "read_rows", "read_table"]

TableName = Literal["pool", "evolution", "decisions", "training_sets", "teacher_calls", "evaluations"]

_AT_ONCE = 10_000  # rows


def read_rows(
    lineage: LineageReader, name: TableName, round: int | None = None, *, held_out: bool = True
) -> Iterator[dict[str, Any]]:
    """A table or view of the lineage, of one round or of all, with the columns of schema.py and views.py.

    Without `held_out` there are no rows of held-out samples; that is for tables which name samples.
    """
    conditions = [] if round is None else ["round = :round"]
    if not held_out:
        conditions.append("sample_id IN (SELECT id FROM samples WHERE split = 'train')")
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return lineage.db.query(f"SELECT * FROM {name}{where}", {"round": round})


def read_table(lineage: LineageReader, name: TableName, round: int | None = None) -> "pyarrow.Table":
    """The same as an Arrow table; without rows it has no columns."""
    import pyarrow

    rows = read_rows(lineage, name, round)
    # A column with nothing in it is of type null.
    parts = [pyarrow.Table.from_pylist(part) for part in in_groups(rows, _AT_ONCE)]
    return pyarrow.concat_tables(parts, promote_options="permissive") if parts else pyarrow.table({})
