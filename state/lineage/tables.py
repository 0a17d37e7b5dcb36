"""What a run keeps as Arrow tables, for pandas, datasets and others."""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Literal

from reflectune.state.lineage.reader import LineageReader

if TYPE_CHECKING:
    import pyarrow

__all__ = ["TableName", "read_batches", "read_table"]

TableName = Literal["pool", "evolution", "decisions", "training_sets", "teacher_calls", "evaluations"]

_AT_ONCE = 10_000  # rows


def read_batches(
    lineage: LineageReader, name: TableName, round: int | None = None
) -> Iterator["pyarrow.Table"]:
    """A table or view of the lineage in parts, of one round or of all; state/README.md tells its columns.

    A column that a part has nothing in is of type null there.
    """
    import pyarrow

    where = "" if round is None else " WHERE round = :round"
    rows = lineage.db.query(f"SELECT * FROM {name}{where}", {"round": round})
    while part := list(islice(rows, _AT_ONCE)):
        yield pyarrow.Table.from_pylist(part)


def read_table(lineage: LineageReader, name: TableName, round: int | None = None) -> "pyarrow.Table":
    """The same as one table; without rows it has no columns."""
    import pyarrow

    parts = list(read_batches(lineage, name, round))
    return pyarrow.concat_tables(parts, promote_options="permissive") if parts else pyarrow.table({})
