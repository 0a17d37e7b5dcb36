import bz2
import codecs
import gzip
import io
import itertools
import json
import lzma
import os
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflectune.state.config import DataConfig
from reflectune.state.data.json_rows import read_array, read_objects
from reflectune.state.data.sources import Row, open_source
from reflectune.state.errors import DatasetError
from tests.hub_server import serve_dataset
from tests.worlds import child_environment

ROWS = [{"instruction": "Say ü.", "output": "ü 😀"}, {"instruction": "Add.", "output": "3"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = "instruction,output\nSay ü.,ü 😀\nAdd.,3\n"


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstd,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


def given_file(tmp_path: Path, content: str | bytes, name: str = "rows.json") -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path | str) -> list[Row]:
    return list(open_source(DataConfig(path=str(path)))())


def rows_of(path: Path | str) -> list[object]:
    return [row for _, row in read(path)]


def refusal(path: Path | str) -> str:
    with pytest.raises(DatasetError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


# Compression


@pytest.mark.parametrize("compress", COMPRESS.values(), ids=COMPRESS)
@pytest.mark.parametrize("content", [LINES, json.dumps(ROWS), CSV], ids=["lines", "array", "csv"])
def test_compressed_files_are_told_by_content(
    tmp_path: Path, compress: Callable[[bytes], bytes], content: str
) -> None:
    assert rows_of(given_file(tmp_path, compress(content.encode()), "rows.txt")) == ROWS


@pytest.mark.parametrize("compress", COMPRESS.values(), ids=COMPRESS)
def test_files_compressed_part_by_part_are_read_whole(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    path = given_file(tmp_path, b"".join(compress(line.encode()) for line in LINES.splitlines(keepends=True)))
    assert rows_of(path) == ROWS


@pytest.mark.parametrize("compression", COMPRESS)
def test_archives_that_break_off_or_are_damaged_are_refused(tmp_path: Path, compression: str) -> None:
    whole = COMPRESS[compression](json.dumps([ROWS, list(range(3000))]).encode())
    damaged = whole[:200] + bytes(byte ^ 0x5A for byte in whole[200:240]) + whole[240:]
    # Arrow writes zstd without checksums, so that other bytes may be taken for another text.
    for content in (whole[: len(whole) // 2], whole[:-3], *([damaged] if compression != "zstd" else [])):
        message = refusal(given_file(tmp_path, content))
        assert f"its {compression} archive breaks off or is damaged" in message


@pytest.mark.parametrize("mark", [0x50, 0x5F])
def test_zstd_archives_may_begin_with_a_frame_to_skip(tmp_path: Path, mark: int) -> None:
    frame = bytes([mark]) + b"\x2a\x4d\x18" + (4).to_bytes(4, "little") + bytes(4)  # as pzstd writes them
    lines = [zstd(line.encode()) for line in LINES.splitlines(keepends=True)]
    assert rows_of(given_file(tmp_path, frame + lines[0] + frame + lines[1])) == ROWS


def test_zstd_archives_with_a_window_of_gigabytes_are_named(tmp_path: Path) -> None:
    block = FILLING.encode()
    window = (31 - 10) << 3  # 2 GiB
    head = b"\x28\xb5\x2f\xfd\x00" + bytes([window]) + (len(block) << 3 | 1).to_bytes(3, "little")
    assert "unpack it with `zstd -d --long=31`" in refusal(given_file(tmp_path, head + block))


def test_broken_archives_say_how_far_they_went(tmp_path: Path) -> None:
    content = "".join(f"{json.dumps({'n': n})}\n" for n in range(100))
    message = refusal(given_file(tmp_path, gzip.compress(content.encode())[:-8]))
    assert "in or after line 101 of what it holds" in message


@pytest.mark.parametrize("compress", COMPRESS.values(), ids=COMPRESS)
def test_compressed_pipes_are_read_at_every_call(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(compress(LINES.encode()),))
    writer.start()
    source = open_source(DataConfig(path=str(pipe)))
    writer.join()
    assert [row for _, row in source()] == [row for _, row in source()] == ROWS


def test_parquet_is_read_from_a_pipe_but_not_from_an_archive(tmp_path: Path) -> None:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), file)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(file.getvalue(),))
    writer.start()
    assert rows_of(pipe) == ROWS
    writer.join()
    message = refusal(given_file(tmp_path, gzip.compress(file.getvalue())))
    assert "is Parquet or Arrow inside gzip; decompress it first" in message


@pytest.mark.slow
@pytest.mark.parametrize("compression", COMPRESS)
def test_compressed_files_are_read_in_little_memory(tmp_path: Path, compression: str) -> None:
    text = "word " * 2000  # 10 kB a row, 10 MB in all
    content = b"".join(
        json.dumps({"instruction": f"{n} {text}", "output": "x"}).encode() + b"\n" for n in range(1000)
    )
    path = given_file(tmp_path, COMPRESS[compression](content))
    del content
    source = open_source(DataConfig(path=str(path)))
    next(source())  # loads pyarrow
    arrow = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        assert sum(1 for _ in source()) == 1000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    dictionary = 2**23 if compression == "xz" else 0  # how far back xz may refer
    assert peak < 2**20 + dictionary
    assert pa.total_allocated_bytes() - arrow < 2**20


# Encodings


@pytest.mark.parametrize("content", [LINES, json.dumps(ROWS, ensure_ascii=False), CSV])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_files_with_a_byte_order_mark_are_read(
    tmp_path: Path, content: str, mark: bytes, encoding: str
) -> None:
    assert rows_of(given_file(tmp_path, mark + content.encode(encoding))) == ROWS
    assert rows_of(given_file(tmp_path, gzip.compress(mark + content.encode(encoding)))) == ROWS


FILLING = '{"instruction": "a", "output": "b"}\n'  # 36 bytes


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        ("Où est la bibliothèque ? C'est l'été, garçon.", "latin-1", "cp1252"),
        ("“It’s fine” – he said", "cp1252", "cp1252"),
        ("Переведи предложение на английский.", "cp1251", "cp1251"),
        ("Переведи предложение на английский.", "koi8-r", "koi8-r"),
        ("请把下面的句子翻译成英文，谢谢你的帮助。", "gb18030", "gb18030"),
        ("次の文を英語に翻訳してください。", "shift-jis", "cp932"),
    ],
    ids=itertools.count(),
)
@pytest.mark.parametrize("before", [0, 3000])
def test_other_encodings_are_named_with_the_place_and_the_way_out(
    tmp_path: Path, text: str, encoding: str, named: str, before: int
) -> None:
    row = json.dumps({"instruction": text, "output": "c"}, ensure_ascii=False) + "\n"
    message = refusal(given_file(tmp_path, (FILLING * before + row + FILLING * 300).encode(encoding)))
    plain = next(place for place, character in enumerate(row) if not character.isascii())
    byte = row.encode(encoding)[plain]
    assert f"line {before + 1} (byte {36 * before + plain}, 0x{byte:02x}): not UTF-8" in message
    assert f"likely {named}, which reads" in message
    assert text[:10] in message
    assert f"`iconv -f {named} -t utf-8`" in message


def test_damaged_utf8_is_not_taken_for_another_encoding(tmp_path: Path) -> None:
    content = (FILLING + LINES * 3).encode() + b'{"instruction": "a\xff"}\n'
    assert "line 8 (byte" in (message := refusal(given_file(tmp_path, content)))
    assert "0xff): UTF-8 but for what stands here; repair it, or" in message


def test_wide_encodings_without_a_mark_or_torn_are_refused(tmp_path: Path) -> None:
    for encoding in ("utf-16le", "utf-16be"):
        message = refusal(given_file(tmp_path, LINES.encode(encoding)))
        assert (
            f"likely {encoding} without a byte order mark; convert it with `iconv -f {encoding} -t" in message
        )
    assert "not utf-16-le, as which it begins" in refusal(given_file(tmp_path, LINES.encode("utf-16")[:-1]))


def test_files_of_other_kinds_are_named(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("rows.json", LINES)
    tar = b"rows.json".ljust(257, b"\0") + b"ustar\x0000" + bytes(248)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 7\n"
    for content, named in [
        (archive.getvalue(), "is a zip archive or an Excel workbook; unpack it"),
        (gzip.compress(tar), "is a tar archive; unpack it, and give the folder"),
        (b"SQLite format 3\0", "is an SQLite database"),
        (pointer.encode(), "is a pointer of Git LFS, not the data; get that with `git lfs pull`"),
    ]:
        assert named in refusal(given_file(tmp_path, content))


# JSON


@pytest.mark.parametrize(
    "text",
    [
        '{"n": 1}{"n": 2}{"n": 3}',
        '{"n": 1} {"n":\n2}\n\n{\n"n": 3\n}\n',
        "".join(json.dumps({"n": n}, indent=2) for n in (1, 2, 3)),
        "\n".join(json.dumps({"n": n}, indent=2) for n in (1, 2, 3)),
    ],
    ids=itertools.count(),
)
def test_objects_are_read_in_any_layout(tmp_path: Path, text: str) -> None:
    assert rows_of(given_file(tmp_path, text)) == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_nan_is_nothing(tmp_path: Path) -> None:
    row = {"instruction": "Add.", "input": float("nan"), "n": [float("nan"), float("inf"), -float("inf")]}
    expected = {"instruction": "Add.", "input": None, "n": [None, float("inf"), -float("inf")]}
    for text in (json.dumps(row), json.dumps([row]), json.dumps({"rows": [row]})):
        assert rows_of(given_file(tmp_path, text)) == [expected]


def test_rows_are_placed_by_the_line_they_begin_in(tmp_path: Path) -> None:
    path = given_file(tmp_path, '{"n":\n1}\n\n{"n": 2} {"n": "é\\n"}\n[4,\n5]\n6')
    expected = [
        ("line 1", {"n": 1}),
        ("line 4", {"n": 2}),
        ("line 4", {"n": "é\n"}),
        ("line 5", [4, 5]),
        ("line 7", 6),
    ]
    assert read(path) == expected


def test_an_error_in_an_object_says_where_that_began(tmp_path: Path) -> None:
    message = refusal(given_file(tmp_path, '{"n": 1}\n{"n": 2,\n"m": [\n3 4]}\n'))
    assert "line 4: not valid JSON: Expecting ',' delimiter (the record begins in line 2); want" in message


def test_an_error_is_found_without_reading_on(tmp_path: Path) -> None:
    class Counted(io.StringIO):
        taken = 0

        def read(self, size: int | None = -1) -> str:
            text = super().read(size)
            self.taken += len(text)
            return text

    for reader, text in ((read_array, "[1, 2, x"), (read_objects, '{"n": 1}\n{"n": x')):
        files: list[Counted] = []

        def opened(text: str = text, files: list[Counted] = files) -> Counted:
            files.append(Counted(text + " " * 10**6))
            return files[-1]

        with pytest.raises(DatasetError, match="Expecting value"):
            list(reader(opened, "rows"))
        assert files[-1].taken < 2**17


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


class Torn(io.StringIO):
    """A text that gives a character at a time, whatever is asked for."""

    def read(self, size: int | None = -1) -> str:
        return super().read(1)


@pytest.mark.slow
@given(rows=st.lists(JSON, max_size=5), indent=st.sampled_from([None, 1]), ascii=st.booleans())
def test_values_are_read_wherever_the_text_is_torn(rows: list[Any], indent: int | None, ascii: bool) -> None:
    array = json.dumps(rows, indent=indent, ensure_ascii=ascii)
    assert [row for _, row in read_array(lambda: Torn(array), "")] == rows
    rows = [{"first": 1}, *rows, 2]
    objects = " ".join(json.dumps(row, indent=indent, ensure_ascii=ascii) for row in rows)
    assert [row for _, row in read_objects(lambda: Torn(objects), "")] == rows


@pytest.mark.parametrize("layout", [{}, {"indent": 2}])
def test_an_object_with_one_list_of_records_gives_these(tmp_path: Path, layout: dict[str, Any]) -> None:
    held = {"version": "1", "tags": ["a"], "none": [], "data": ROWS, "info": {"n": [{}]}}
    expected = [(f"data, index {index}", row) for index, row in enumerate(ROWS)]
    assert read(given_file(tmp_path, json.dumps(held, **layout))) == expected


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"conversations": [{"from": "human", "value": "a"}], "tools": [{"type": "function", "function": {}}]},
        {"prompt": "a", "completion": "b", "tools": [{"name": "f", "parameters": {}}]},
        {"instruction": "a", "output": "b", "history": [["c", "d"]], "tags": []},
        {"segments": [{"label": False, "text": "a"}, {"label": True, "text": "b"}]},
        {"conversations": [{"speaker": "human", "text": "a"}, {"speaker": "bot", "text": "b"}]},
        {"question": "a", "answer": "b", "sources": [{"title": "c"}], "passages": [{"title": "d"}]},
    ],
)
def test_a_single_record_is_one(tmp_path: Path, row: dict[str, Any]) -> None:
    assert read(given_file(tmp_path, json.dumps(row))) == [("line 1", row)]


def test_an_object_with_several_lists_of_records_is_refused(tmp_path: Path) -> None:
    message = refusal(given_file(tmp_path, json.dumps({"train": ROWS, "test": ROWS})))
    assert "several lists of records (train, test); keep one of them, as `jq .train` does" in message
    rows = [{"train": ROWS, "test": ROWS}, {}]
    assert rows_of(given_file(tmp_path, "\n".join(map(json.dumps, rows)))) == rows


# Folders and patterns


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    given_file(tmp_path, CSV, "data/part-2.csv")
    given_file(tmp_path, gzip.compress(LINES.encode()), "data/part-1.jsonl.gz")
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "data/part-0")
    for name in (
        ".hidden",
        "_SUCCESS",
        "README.md",
        "LICENSE",
        "dataset_infos.json",
        "load.py",
        "sub/rows.json",
    ):
        given_file(tmp_path, "no rows", f"data/{name}")
    return tmp_path / "data"


def test_a_folder_gives_its_shards_by_name(folder: Path) -> None:
    places = ["index 0", "index 1", "line 1", "line 2", "line 2", "line 3"]
    names = ["part-0", "part-0", "part-1.jsonl.gz", "part-1.jsonl.gz", "part-2.csv", "part-2.csv"]
    expected = [f"{name}, {place}" for name, place in zip(names, places, strict=True)]
    assert read(folder) == list(zip(expected, ROWS * 3, strict=True))


def test_data_that_is_called_like_notes_is_data(folder: Path) -> None:
    notes = ("LICENSE-MIT", "license-2.0.txt", "NOTICE", "readme_zh.md", "CONTRIBUTING.rst", "Citation.cff")
    for name in notes:
        given_file(folder, "no rows", name)
    names = ("contributing-x.jsonl", "license-qa.jsonl.gz", "notice-board.csv", "readme.json")
    for name in names:
        given_file(folder, LINES, name)
    assert {where.partition(",")[0] for where, _ in read(folder)} == {
        "part-0", "part-1.jsonl.gz", "part-2.csv", *names,
    }  # fmt: skip
    given_file(folder, LINES, "LICENSE")
    assert rows_of(folder / "LIC*") == ROWS, "a pattern says what is wanted"


def test_a_pattern_gives_what_matches(folder: Path) -> None:
    assert rows_of(folder / "part-[12]*") == ROWS * 2
    given_file(folder, LINES, "sub/deep/rows.json")
    (folder / "sub/rows.json").unlink()
    found = read(f"{folder}/**/*.[jc]s*")
    assert [where for where, _ in found][::2] == [
        "part-1.jsonl.gz, line 1",
        "part-2.csv, line 2",
        "sub/deep/rows.json, line 1",
    ]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    given_file(tmp_path, CSV, "rows1.json")
    assert read(given_file(tmp_path, LINES, "rows[1].json"))[0] == ("line 1", ROWS[0])


def test_an_error_in_a_shard_names_it(folder: Path) -> None:
    (folder / "part-1.jsonl.gz").write_text('{"n": 1}\n{"n": ')
    with pytest.raises(DatasetError) as caught:
        read(folder)
    assert str(caught.value).startswith(f"{folder}/part-1.jsonl.gz: line 2: not valid JSON")


def test_folders_and_patterns_without_data_say_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "without files of data (it holds: nothing)" in refusal(tmp_path / "empty")
    given_file(tmp_path, "", "noted/README.md")
    assert "without files of data (it holds: README.md)" in refusal(tmp_path / "noted")
    given_file(tmp_path, LINES, "deep/data/rows.json")
    assert "but with folders (data); give one of them, or a pattern" in refusal(tmp_path / "deep")
    assert "no file of data matches this pattern" in refusal(tmp_path / "*.csv")


def test_a_folder_of_several_splits_is_refused(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002.json", "train-00001-of-00002.json", "test-00000-of-00001.json"):
        given_file(tmp_path, LINES, name)
    message = refusal(tmp_path)
    assert f'several splits (test, train); give the files of one, as "{tmp_path}/*train*"' in message
    assert rows_of(f"{tmp_path}/*train*") == ROWS * 2
    (tmp_path / "train-00001-of-00002.json").rename(tmp_path / "valid.json")
    assert f'(test, train, valid); give the files of one, as "{tmp_path}/*train*"' in refusal(tmp_path)
    (tmp_path / "valid.json").rename(tmp_path / "train-00001-of-00002.json")
    (tmp_path / "test-00000-of-00001.json").rename(tmp_path / "attested.json")
    assert len(read(tmp_path)) == 6


# Tables


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_delimiters_are_told_by_the_header(tmp_path: Path, delimiter: str, mark: str, line_end: str) -> None:
    lines = ['instruction|"the; other, field"|output', '"a, b; c|""d"""|1;2,3|e', "f|g|h", ""]
    text = line_end.join(lines).replace("|", delimiter)
    if delimiter != "\t":
        text = text.replace("1;2,3", '"1;2,3"')
    rows = [
        {"instruction": f'a, b; c{delimiter}"d"', "the; other, field": "1;2,3", "output": "e"},
        {"instruction": "f", "the; other, field": "g", "output": "h"},
    ]
    assert read(given_file(tmp_path, mark + text)) == [("line 2", rows[0]), ("line 3", rows[1])]


def test_rows_of_tables_are_placed_by_the_line_they_begin_in(tmp_path: Path) -> None:
    path = given_file(tmp_path, 'instruction,output\n"a\nb","c\\n\n\r\nd"\n\n"e\r","f"\n')
    assert read(path) == [
        ("line 2", {"instruction": "a\nb", "output": "c\\n\n\r\nd"}),
        ("line 7", {"instruction": "e\r", "output": "f"}),
    ]
    path = given_file(tmp_path, 'instruction,output\na,b,"c\nd"\n')
    assert "line 2: more fields than the header" in refusal(path)


def test_tables_that_would_lose_a_field_are_refused(tmp_path: Path) -> None:
    path = given_file(tmp_path, "instruction;output;note;note\n")
    assert "several columns are called note; rename them" in refusal(path)
    path = given_file(tmp_path, "instruction\toutput\na\tb\tc\n")
    assert "line 2: more fields than the header; quote texts that hold '\\t'" in refusal(path)


def test_parquet_gives_lists_of_structs_maps_large_types_and_nulls(tmp_path: Path) -> None:
    turn = pa.struct(
        {"role": pa.large_string(), "content": pa.large_string(), "calls": pa.list_(pa.string())}
    )
    schema = pa.schema(
        {
            "messages": pa.large_list(turn),
            "source": pa.dictionary(pa.int8(), pa.string()),
            "scores": pa.map_(pa.string(), pa.float64()),
            "extra": pa.struct({"deep": pa.list_(pa.struct({"n": pa.int64()}))}),
        }
    )
    rows: list[dict[str, Any]] = [
        {
            "messages": [
                {"role": "user", "content": "a", "calls": None},
                {"role": "assistant", "content": None, "calls": ["f", None]},
            ],
            "source": "x",
            "scores": {"good": 0.5, "bad": None},
            "extra": {"deep": [{"n": 1}, None, {"n": None}]},
        },
        {"messages": None, "source": None, "scores": None, "extra": {"deep": None}},
        {"messages": [None], "source": "x", "scores": {}, "extra": None},
    ]
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, tmp_path / "rows", row_group_size=2)
    assert rows_of(tmp_path / "rows") == rows
    with pa.OSFile(str(tmp_path / "arrow"), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        writer.write_table(table)
    assert rows_of(tmp_path / "arrow") == rows
    os.truncate(tmp_path / "arrow", 400)
    assert "not readable as Arrow" in refusal(tmp_path / "arrow")


# The hub, as folders


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def hub(path: Path, **settings: Any) -> list[Row]:
    return list(open_source(DataConfig(hf=str(path), **settings))())


@pytest.mark.slow
def test_subsets_of_a_hub_dataset_are_read_without_a_copy(tmp_path: Path, cache: Path) -> None:
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("small", "large"))
    given_file(tmp_path, f"---\nconfigs:\n{configs}---\n", "hub/README.md")
    given_file(tmp_path, LINES, "hub/small.jsonl")
    given_file(tmp_path, LINES * 2, "hub/large.jsonl")
    assert hub(tmp_path / "hub", subset="small") == [("index 0", ROWS[0]), ("index 1", ROWS[1])]
    assert [row for _, row in hub(tmp_path / "hub", subset="large")] == ROWS * 2
    assert not list(cache.rglob("*.arrow"))
    with pytest.raises(DatasetError, match=r"'small', 'large'.*; set data.subset to one of these"):
        hub(tmp_path / "hub")
    with pytest.raises(DatasetError, match=r"subset huge, split train: cannot be loaded: .*'small', 'large'"):
        hub(tmp_path / "hub", subset="huge")


def test_a_slice_of_a_split_is_read(tmp_path: Path, cache: Path) -> None:
    given_file(tmp_path, LINES * 5, "hub/train.jsonl")
    assert [row for _, row in hub(tmp_path / "hub", split="train[:20%]")] == ROWS


def test_folders_of_save_to_disk_are_read_by_path(tmp_path: Path, cache: Path) -> None:
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    assert rows_of(tmp_path / "saved") == ROWS
    with pytest.raises(DatasetError, match=r"set data.path to the folder with its .arrow files"):
        hub(tmp_path / "saved")


@pytest.mark.slow
def test_subsets_are_downloaded_once_from_the_hub_or_streamed_from_their_beginning(tmp_path: Path) -> None:
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/*.jsonl\n" for name in ("small", "large"))
    one = LINES.encode()
    shards = {f"{name}/{n}.jsonl": one * n for name in ("small", "large") for n in (1, 2)}
    settings = [{"subset": "large", "limit": 1}, {"subset": "small"}, {}, {"hf": "user/none"}]
    code = (
        "import json, sys; from reflectune.state.config import DataConfig\n"
        "from reflectune.state.data.datasets import read_dataset\n"
        "from reflectune.state.errors import DatasetError\n"
        "for settings in json.loads(sys.argv[1]):\n"
        "    try: found = [record.pair.response for record in read_dataset(DataConfig(**settings))]\n"
        "    except DatasetError as error: found = str(error)\n"
        "    print(json.dumps(found))\n"
    )
    readme = f"---\nconfigs:\n{configs}---\n".encode()
    with serve_dataset("user/pairs", {"README.md": readme, **shards}) as (url, sent):
        environment = child_environment(HF_ENDPOINT=url, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="0")
        given = json.dumps([{"hf": "user/pairs"} | each for each in settings])
        command = [sys.executable, "-c", code, given]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    streamed, downloaded, unnamed, unknown = map(json.loads, done.stdout.splitlines())
    answers = [row["output"] for row in ROWS]
    assert (streamed, downloaded) == (answers[:1], answers * 3)
    assert unnamed.endswith("set data.subset to one of these")
    assert "doesn't exist on the Hub" in unknown
    assert sent["large/1.jsonl"] > sent["large/2.jsonl"] == 0
    assert (sent["small/1.jsonl"], sent["small/2.jsonl"]) == (len(one), 2 * len(one))


@pytest.mark.slow
def test_reading_text_loads_no_pyarrow(tmp_path: Path) -> None:
    path = given_file(tmp_path, gzip.compress(LINES.encode()))
    code = (
        "import sys; from reflectune.state.config import DataConfig; "
        "from reflectune.state.data.sources import open_source; "
        f"rows = list(open_source(DataConfig(path={str(path)!r}))()); "
        "print(len(rows), {'pyarrow', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 set()"
