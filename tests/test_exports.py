import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflectune.state.config import DataConfig
from reflectune.state.data.datasets import read_dataset
from reflectune.state.data.exports import ExportFormat, Preference, user_turn, write_pairs, write_preferences
from reflectune.state.errors import DatasetError
from reflectune.state.records import Pair

FORMATS: list[ExportFormat] = ["alpaca", "messages", "sharegpt", "parquet"]
PAIRS = [Pair("Say hello.", "", "Bonjour, ça va?"), Pair("Add.", "1 2", "3")]
PREFERENCES = [Preference("Add.", "1 2", "3", "4"), Preference("Say hello.", "", "Hello", "Bye")]


def rows_of(path: Path) -> list[Any]:
    """The records of a written file, as they are in it."""
    if path.read_bytes().startswith(b"PAR1"):
        rows: list[Any] = pq.read_table(path).to_pylist()
        return rows
    text = path.read_text(encoding="utf-8")
    if text.startswith("["):
        return list(json.loads(text))
    return [json.loads(line) for line in text.split("\n")[:-1]]


@pytest.mark.parametrize(
    ("instruction", "input", "expected"),
    [
        ("Add.", "1 2", "Add.\n\n1 2"),
        ("Add.", "", "Add."),
        ("Add.", " \n", "Add."),
        (" a\n", " b", " a\n\n\n b"),
    ],
)
def test_user_turn_puts_a_blank_line_before_the_input(instruction: str, input: str, expected: str) -> None:
    assert user_turn(instruction, input) == expected


FIELDS = (
    {"instruction": "Add.", "input": "1 2", "output": "3"},
    {"prompt": "Add.\n\n1 2", "chosen": "3", "rejected": "4"},
)
USER = {"role": "user", "content": "Add.\n\n1 2"}
THREE, FOUR = ({"role": "assistant", "content": text} for text in "34")
TURN = {"from": "human", "value": "Add.\n\n1 2"}
THIRD, FOURTH = ({"from": "gpt", "value": text} for text in "34")


@pytest.mark.parametrize(
    ("format", "pair", "preference"),
    [
        ("alpaca", *FIELDS),
        ("parquet", *FIELDS),
        ("messages", {"messages": [USER, THREE]}, {"prompt": [USER], "chosen": [THREE], "rejected": [FOUR]}),
        (
            "sharegpt",
            {"conversations": [TURN, THIRD]},
            {"conversations": [TURN], "chosen": THIRD, "rejected": FOURTH},
        ),
    ],
)
def test_records_have_the_keys_of_each_format(
    tmp_path: Path, format: ExportFormat, pair: dict[str, Any], preference: dict[str, Any]
) -> None:
    assert write_pairs(tmp_path / "pairs", format, PAIRS) == 2
    assert write_preferences(tmp_path / "preferences", format, iter(PREFERENCES)) == 2
    assert rows_of(tmp_path / "pairs")[1] == pair
    assert rows_of(tmp_path / "preferences")[0] == preference


@pytest.mark.parametrize(
    ("format", "name", "as_array"),
    [
        ("alpaca", "out.json", True),
        ("alpaca", "out", True),
        ("alpaca", "out.jsonl", False),
        ("messages", "out.jsonl", False),
        ("messages", "out", False),
        ("messages", "out.json", True),
        ("sharegpt", "out.jsonl", False),
        ("sharegpt", "OUT.JSON", True),
    ],
)
def test_write_pairs_suffix_says_array_or_lines(
    tmp_path: Path, format: ExportFormat, name: str, as_array: bool
) -> None:
    write_pairs(tmp_path / name, format, PAIRS)
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert text.startswith("[" if as_array else "{")
    assert text.endswith("\n]\n" if as_array else "}\n")
    assert "ça" in text


@pytest.mark.parametrize(
    ("format", "name"), [("alpaca", "x.csv"), ("sharegpt", "x.parquet"), ("parquet", "x.json")]
)
def test_write_pairs_refuses_a_name_that_ends_as_no_file_of_its_format(
    tmp_path: Path, format: ExportFormat, name: str
) -> None:
    with pytest.raises(DatasetError) as caught:
        write_pairs(tmp_path / name, format, PAIRS)
    assert f"{name}: format {format} goes into .{'parquet' if format == 'parquet' else 'json or'}" in str(
        caught.value
    )
    assert not list(tmp_path.iterdir())


def test_write_pairs_array_is_what_json_writes_with_an_indent_of_one(tmp_path: Path) -> None:
    pairs = [*PAIRS, Pair("two\nlines\u2028and\u0085more", "{\n}", "\n ")]
    write_pairs(tmp_path / "out.json", "alpaca", pairs)
    rows = [{"instruction": p.instruction, "input": p.input, "output": p.response} for p in pairs]
    expected = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    assert (tmp_path / "out.json").read_bytes() == expected.encode()


def test_exports_of_nothing_are_an_empty_list_or_have_their_columns(tmp_path: Path) -> None:
    for name, content in (("out.json", b"[]\n"), ("out.jsonl", b"")):
        assert write_pairs(tmp_path / name, "alpaca", []) == 0
        assert (tmp_path / name).read_bytes() == content
    assert write_preferences(tmp_path / "out.parquet", "parquet", []) == 0
    assert pq.read_table(tmp_path / "out.parquet").column_names == ["prompt", "chosen", "rejected"]


def test_write_parquet_writes_row_groups(tmp_path: Path) -> None:
    pairs = (Pair(f"i{n}", "", f"r{n}") for n in range(25_000))
    assert write_pairs(tmp_path / "out.parquet", "parquet", pairs) == 25_000
    file = pq.ParquetFile(tmp_path / "out.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(3)] == [10_000, 10_000, 5_000]
    assert file.read().column("output")[24_999].as_py() == "r24999"


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
full_texts = texts.filter(str.strip)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "name"),
    [("alpaca", "a.json"), ("messages", "m.jsonl"), ("sharegpt", "s.json"), ("parquet", "p.parquet")],
)
@given(pairs=st.lists(st.builds(Pair, full_texts, texts, full_texts), min_size=1, max_size=4))
def test_write_pairs_round_trips_any_text(
    tmp_path_factory: pytest.TempPathFactory, format: ExportFormat, name: str, pairs: list[Pair]
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    assert write_pairs(path, format, pairs) == len(pairs)
    read = [record.pair for record in read_dataset(DataConfig(path=str(path)))]
    if format in ("messages", "sharegpt"):
        assert read == [Pair(user_turn(pair.instruction, pair.input), "", pair.response) for pair in pairs]
    else:
        assert read == pairs


@pytest.mark.parametrize("format", FORMATS)
def test_exports_of_equal_records_are_equal_bytes(tmp_path: Path, format: ExportFormat) -> None:
    for name in ("a", "b"):
        write_pairs(tmp_path / f"pairs-{name}", format, iter(PAIRS * 100))
        write_preferences(tmp_path / f"preferences-{name}", format, iter(PREFERENCES * 100))
    for kind in ("pairs", "preferences"):
        assert (tmp_path / f"{kind}-a").read_bytes() == (tmp_path / f"{kind}-b").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_write_pairs_replaces_the_target_only_where_it_comes_to_its_end(
    tmp_path: Path, format: ExportFormat
) -> None:
    target = tmp_path / "out"
    target.write_text("before")

    def watched(breaks_off: bool) -> Iterator[Pair]:
        yield from PAIRS * 10_000
        assert target.read_text() == "before"
        if breaks_off:
            raise RuntimeError("the source broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        write_pairs(target, format, watched(True))
    assert target.read_text() == "before"
    write_pairs(target, format, watched(False))
    assert len(rows_of(target)) == 20_000
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_write_pairs_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("before")
    (tmp_path / "link").symlink_to("real")
    write_pairs(tmp_path / "link", "alpaca", PAIRS)
    assert (tmp_path / "link").is_symlink()
    assert len(rows_of(tmp_path / "real")) == 2


def test_write_pairs_gives_the_file_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_pairs(tmp_path / "out", "alpaca", PAIRS)
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("missing/out", "there is no folder .*missing; make it first"),
        ("file/out", "there is no folder .*file; make it first"),
        ("folder", "folder: is not a regular file"),
        ("pipe", "pipe: is not a regular file"),
        ("x" * 300, "cannot be written: File name too long"),
    ],
)
def test_write_pairs_says_why_the_target_cannot_be_written(tmp_path: Path, name: str, named: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DatasetError, match=named) as caught:
        write_pairs(tmp_path / name, "alpaca", PAIRS)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "pipe"]


OWN = (
    "lineage.db", "lineage.db-wal", "lineage.db-shm", "checkpoints.db", "index.db", "config.toml", ".lock",
    "adapters/round-01/adapter_model.safetensors",
)  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_write_pairs_never_replaces_what_is_a_runs_own(tmp_path: Path, name: str) -> None:
    (tmp_path / "lineage.db").write_text("rows")
    target = tmp_path / name
    target.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "link.json").symlink_to(target)
    for held in (
        target.read_bytes() if target.exists() else None,
        b"as it was",
    ):  # a journal may not be there
        if held is not None:
            target.write_bytes(held)
        for path in (target, tmp_path / "link.json"):
            with pytest.raises(DatasetError, match="is a database, or a run's own file; name another file"):
                write_pairs(path, "alpaca", PAIRS)
        assert (target.read_bytes() if target.exists() else None) == held
    write_pairs(tmp_path / "pairs.json", "alpaca", PAIRS)
    assert (tmp_path / "pairs.json").stat().st_size > 0


def test_write_pairs_never_replaces_a_database(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE answers (text)")
    with pytest.raises(DatasetError, match="is a database"):
        write_pairs(path, "alpaca", PAIRS)
    assert path.read_bytes().startswith(b"SQLite format 3")


def test_write_pairs_never_replaces_a_device() -> None:
    with pytest.raises(DatasetError, match="is not a regular file"):
        write_pairs(Path("/dev/null"), "alpaca", PAIRS)
    assert Path("/dev/null").is_char_device()
