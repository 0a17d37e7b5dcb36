"""Rows into files: JSON, JSON Lines, CSV and Parquet, each put in its place once it is whole.

A file is written beside its target and renamed into place, row by row, so that a target is never half made
and a dataset never in memory as a whole. What the rows mean is for others to say.
"""

import csv
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reflectune.state.errors import ConfigError, DatasetError
from reflectune.state.groups import in_groups

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "Container", "check_table", "find_container", "put_into_place", "read_schema", "refuse_taken",
    "write_rows",
]  # fmt: skip

Container = Literal["json", "jsonl", "csv", "parquet"]
Row = Mapping[str, Any]

# How the names of a run's own files begin: databases have further files beside them.
_OWN = ("lineage.db", "checkpoints.db", "index.db", "config.toml", ".lock", "adapters")
_DATABASE = b"SQLite format 3\0"
# Lists and objects in one another that Parquet has columns for: turns, a turn, calls, a call, its function.
_DEEPEST = 5
_OF_TOOLS = ("arguments", "parameters", "properties")  # objects with other names for each tool
_ROW_GROUP = 10_000  # rows of a Parquet row group: what is in memory at once


def find_container(path: Path, default: Container, kinds: Sequence[Container]) -> Container:
    """The one of some kinds of file that a path's suffix says; without a suffix the default."""
    suffix = path.suffix.lower()
    for kind in kinds:
        if suffix == f".{kind}":
            return kind
    if suffix:
        wanted = ", ".join(f".{kind}" for kind in kinds)
        raise DatasetError(f"{path}: ends in {suffix}; name a file that ends in {wanted}")
    return default


def check_table(rows: Iterable[Row], path: Path) -> None:
    """Refuse rows that CSV cannot hold: they have other fields than the first, or lists and objects."""
    columns: list[str] | None = None
    for number, row in enumerate(rows, start=1):
        columns = list(row) if columns is None else columns
        if list(row) != columns or any(isinstance(value, dict | list) for value in row.values()):
            raise DatasetError(f"{path}: record {number} fits into no table; name a .jsonl file instead")


def read_schema(path: Path) -> "pyarrow.Schema | None":
    """The columns of a file if it is Parquet."""
    import pyarrow.parquet

    if not path.is_file():
        return None
    with path.open("rb") as file:
        return pyarrow.parquet.read_schema(path) if file.read(4) == b"PAR1" else None


def refuse_taken(folder: Path) -> None:
    """Raise a ConfigError for a folder to be made where there is something already."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"{folder}: there is something already; name a folder that is new or empty")


@contextmanager
def put_into_place(path: Path) -> Iterator[Path]:
    """A file beside the target that becomes the target when the block ends well, and goes otherwise."""
    target = path.resolve()  # behind a link: the link stays
    part = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        if not target.parent.is_dir():
            raise DatasetError(f"{path}: there is no folder {target.parent}; make it first")
        if target.exists() and not target.is_file():  # renaming would replace a device such as /dev/stdout
            raise DatasetError(f"{path}: is not a regular file; name a file to write")
        if _is_own(target):
            raise DatasetError(f"{path}: is a database, or a run's own file; name another file")
        yield part
        os.replace(part, target)
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be written: {error.strerror or error}; name another file"
        ) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _is_own(target: Path) -> bool:
    """Whether a file is what runs are kept in: a database, or something of a run's own in its folder."""
    if target.is_file():
        with target.open("rb") as file:
            if file.read(len(_DATABASE)) == _DATABASE:
                return True
    for parent in target.parents:
        if (parent / "lineage.db").exists():
            return target.relative_to(parent).parts[0].startswith(_OWN)
    return False


def write_rows(
    path: Path,
    container: Container,
    rows: Callable[[], Iterable[Row]],
    example: Row | None = None,
    schema: "pyarrow.Schema | None" = None,
) -> int:
    """Write what `rows` gives at every call, and count it.

    Args:
        path: what is there is replaced.
        container: json is one array; columns of csv are the first row's fields, which each row must have.
        rows: all of them, from the first, the same at every call; Parquet asks twice.
        example: a row whose columns Parquet has at least.
        schema: of Parquet, where it is known; found in the rows if left out: texts, numbers and truth values,
            lists and objects of these, five deep at most. What has no such type is JSON text, and so are the
            arguments of calls and parameters of tools, which have other names in each.
    """
    match container:
        case "json":
            return _write_array(path, rows())
        case "jsonl":
            return _write_lines(path, rows())
        case "csv":
            return _write_csv(path, rows())
        case "parquet":
            return _write_parquet(path, rows, example or {}, schema)


def _dumps(row: object, indent: int | None = None) -> str:
    return json.dumps(row, ensure_ascii=False, indent=indent, default=str)


def _write_array(path: Path, rows: Iterable[Row]) -> int:
    written = 0
    # Half of a surrogate pair has no bytes in UTF-8; escaped it is JSON.
    with path.open("w", encoding="utf-8", newline="\n", errors="backslashreplace") as file:
        file.write("[")
        for written, row in enumerate(rows, start=1):
            # Line breaks inside texts are escaped: each here is JSON's own and takes the indent.
            file.write("," * (written > 1) + ("\n" + _dumps(row, indent=1)).replace("\n", "\n "))
        file.write("\n]\n" if written else "]\n")
    return written


def _write_lines(path: Path, rows: Iterable[Row]) -> int:
    with path.open("w", encoding="utf-8", newline="\n", errors="backslashreplace") as file:
        return sum(file.write(_dumps(row) + "\n") > 0 for row in rows)


def _write_csv(path: Path, rows: Iterable[Row]) -> int:
    written = 0
    with path.open("w", encoding="utf-8", newline="", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        for written, row in enumerate(rows, start=1):
            if written == 1:
                writer.writerow(row)
            writer.writerow(row.values())
    return written


# Parquet


def _write_parquet(
    path: Path, rows: Callable[[], Iterable[Row]], example: Row, schema: "pyarrow.Schema | None"
) -> int:
    import pyarrow
    import pyarrow.parquet

    known = schema or pyarrow.schema(_find_types(map(_encodable, chain([example], rows()))))
    written = 0
    rest = rows() if schema else map(_encodable, rows())
    with pyarrow.parquet.ParquetWriter(path, known) as writer:
        for page in in_groups(rest, _ROW_GROUP):
            fitted = (
                page
                if schema
                else [{each.name: _fit(row.get(each.name), each.type) for each in known} for row in page]
            )
            writer.write_table(pyarrow.Table.from_pylist(fitted, schema=known))
            written += len(page)
    return written


def _encodable(value: Any) -> Any:
    """The value with ? for halves of surrogate pairs in its texts and names, which have no bytes in UTF-8.

    Objects called arguments, as OpenAI has those of calls, parameters or properties become JSON text.
    """
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case list():
            return [_encodable(item) for item in value]
        case dict():
            return {
                _encodable(name): _encodable(
                    _dumps(item) if name in _OF_TOOLS and isinstance(item, dict) else item
                )
                for name, item in value.items()
            }
    return value


def _find_types(rows: Iterable[Row]) -> "dict[str, pyarrow.DataType]":
    """The type of each column that some row has."""
    import pyarrow

    types: dict[str, pyarrow.DataType] = {}
    for row in rows:
        for name, value in row.items():
            types[name] = _common(types.get(name, pyarrow.null()), _type_of(value))
    return {name: _without_null(type) for name, type in types.items()}


def _type_of(value: object, depth: int = 0) -> "pyarrow.DataType":
    """The type of one value; large_string stands for JSON text."""
    import pyarrow

    match value:
        case None:
            return pyarrow.null()
        case bool():
            return pyarrow.bool_()
        case int() if -(2**63) <= value < 2**63:
            return pyarrow.int64()
        case float():
            return pyarrow.float64()
        case str():
            return pyarrow.string()
        case list() if depth < _DEEPEST:
            items = (_type_of(item, depth + 1) for item in value)
            return pyarrow.list_(reduce(_common, items, pyarrow.null()))
        case dict() if value and depth < _DEEPEST:
            return pyarrow.struct({name: _type_of(item, depth + 1) for name, item in value.items()})
    return pyarrow.large_string()


def _common(one: "pyarrow.DataType", other: "pyarrow.DataType") -> "pyarrow.DataType":
    """The type that values of both can have."""
    import pyarrow
    from pyarrow.types import is_list, is_null, is_struct

    if one == other or is_null(other):
        return one
    if is_null(one):
        return other
    if is_list(one) and is_list(other):
        return pyarrow.list_(_common(one.value_type, other.value_type))
    if is_struct(one) and is_struct(other):
        fields = {each.name: each.type for each in one}
        for each in other:
            fields[each.name] = _common(fields.get(each.name, pyarrow.null()), each.type)
        return pyarrow.struct(fields)
    numbers = (pyarrow.int64(), pyarrow.float64())
    return numbers[1] if one in numbers and other in numbers else pyarrow.large_string()


def _without_null(type: "pyarrow.DataType") -> "pyarrow.DataType":
    """The type, with texts where nothing but null was seen."""
    import pyarrow
    from pyarrow.types import is_list, is_null, is_struct

    if is_list(type):
        return pyarrow.list_(_without_null(type.value_type))
    if is_struct(type):
        return pyarrow.struct({each.name: _without_null(each.type) for each in type})
    return pyarrow.string() if is_null(type) else type


def _fit(value: Any, type: "pyarrow.DataType") -> Any:
    """The value as a column of the type holds it."""
    from pyarrow.types import is_float64, is_large_string, is_list, is_struct

    if value is None:
        return None
    if is_large_string(type):
        return _dumps(value)
    if is_list(type):
        return [_fit(item, type.value_type) for item in value]
    if is_struct(type):
        return {each.name: _fit(value.get(each.name), each.type) for each in type}
    return float(value) if is_float64(type) else value
