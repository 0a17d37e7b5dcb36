import csv
import io
import itertools
import json
import os
import subprocess
import sys
import threading
import tracemalloc
from collections import Counter
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflectune.state.config import DataConfig
from reflectune.state.data.datasets import Record, assign_samples, dataset_hash, read_dataset
from reflectune.state.errors import DatasetError
from reflectune.state.records import Pair, content_hash, content_part

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data"
FRENCH = {"instruction": "Say hello in French.", "input": "", "output": "Bonjour"}
SUM = {"instruction": "Add.", "input": "1 2", "output": "3"}
PAIRS = [Pair("Say hello in French.", "", "Bonjour"), Pair("Add.", "1 2", "3")]

SKIP = {"invalid": "skip"}
Format = Literal["auto", "alpaca", "messages", "sharegpt"]


def given_data(name: str) -> Path:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"needs the shared data file {name}")
    return path


def written(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    return str(path)


def read(path: str | Path, **settings: Any) -> list[Record]:
    return list(read_dataset(DataConfig(path=str(path), **settings)))


def read_rows(tmp_path: Path, *rows: object, allow_empty: bool = False, **settings: Any) -> list[Record]:
    path = written(tmp_path / "rows.json", json.dumps(rows))
    return list(read_dataset(DataConfig(path=path, **settings), allow_empty=allow_empty))


def refusal(tmp_path: Path, *rows: object, **settings: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        read_rows(tmp_path, *rows, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def messages(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def conversation(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"conversations": [{"from": speaker, "value": value} for speaker, value in turns]}


def as_csv(rows: list[dict[str, str]], path: Path) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def as_parquet(**columns: list[Any]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


# The beginning of an array that is longer than what is read at once.
LONG = "[\n" + ",\n".join([json.dumps(SUM | {"n": "z" * 60})] * 2001)

# Files


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize(
    "text",
    [
        json.dumps([FRENCH, SUM]),
        "\n " + json.dumps([FRENCH, SUM], indent=2),
        f"{json.dumps(FRENCH)}\n{json.dumps(SUM)}",
        f"\n{json.dumps(FRENCH)}\r\n\r\n{json.dumps(SUM)}\r\n",
        'instruction,input,output\nSay hello in French.,,Bonjour\nAdd.,"1 2",3\n',
        'output,instruction,input\r\nBonjour,Say hello in French.,\r\n"3","Add.","1 2"\r\n',
    ],
    ids=["array", "indented-array", "lines", "lines-crlf", "csv", "csv-crlf"],
)
def test_read_dataset_tells_text_formats_apart_by_content(tmp_path: Path, text: str, bom: bytes) -> None:
    path = written(tmp_path / "pairs.data", bom + text.encode())
    assert [record.pair for record in read(path)] == PAIRS


def test_read_dataset_tells_parquet_apart_by_content(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([FRENCH, SUM]), tmp_path / "pairs.json")
    assert [record.pair for record in read(tmp_path / "pairs.json")] == PAIRS


def test_read_dataset_keeps_texts_exactly(tmp_path: Path) -> None:
    text = '  a\r\n"b",\tc\u2028d\u0085e \U0001f600 e\u0301\n\n'
    row = {"instruction": text, "input": text, "output": text}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "p")
    paths = [
        written(tmp_path / "a", json.dumps([row], ensure_ascii=False)),
        written(tmp_path / "l", json.dumps(row, ensure_ascii=False) + "\n" + json.dumps(row)),
        as_csv([row], tmp_path / "c"),
        str(tmp_path / "p"),
    ]
    assert [read(path)[-1].pair for path in paths] == [Pair(text, text, text)] * 4


def test_read_dataset_takes_large_csv_fields(tmp_path: Path) -> None:
    long = "word " * 100_000  # the csv module's own limit is 131,072
    path = as_csv([{"instruction": "Repeat.", "output": long}], tmp_path / "large.csv")
    assert read(path)[0].pair == Pair("Repeat.", "", long)


@pytest.mark.parametrize("escape", [r"\ud800", r"\udfff", r"\u0000"])
def test_read_dataset_replaces_what_sqlite_cannot_hold(tmp_path: Path, escape: str) -> None:
    row = f'{{"instruction": "a{escape}b", "output": "c", "k{escape}": ["x{escape}"]}}'
    record = read(written(tmp_path / "odd.jsonl", row))[0]
    assert record == Record(Pair("a\ufffdb", "", "c"), {"k\ufffd": ["x\ufffd"]})


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", ["is empty", "JSON Lines"]),
        (" \n\n", ["is empty"]),
        ("[]", ["no records"]),
        ("instruction,output\n", ["no records"]),
        ('[{"instruction": "a",\n "output": }]', ["line 2", "not valid JSON"]),
        ('[{"instruction": "a", "output": "b"},\n', ["line 2", "not valid JSON"]),
        (f'{json.dumps(SUM)}\n\n{{"instruction": "a"\n{json.dumps(SUM)}', ["line 3", "not valid JSON"]),
        ('{"instruction": "cut', ["line 1", "not valid JSON", "one record a line"]),
        ('{"data": [],\n"version": 1}', ["line 1: its turns: none"]),
        ('{"data": []}', ["line 1: its turns: none"]),
        ("[" * 100_000, ["line 1", "cannot be read"]),
        (
            b'{"instruction": "a",\n"output": "caf\xe9"}',
            ["line 2 (byte 35, 0xe9): not UTF-8", "`iconv -f cp1252 -t utf-8`"],
        ),
        ("title,text\na,b\n", ["1 of 1 records", "no known pair; its fields: title, text", "data.columns"]),
        ("<html>\nno table\n", ["no known pair; its fields: <html>"]),
        ("instruction,output\na,b,c\n", ["line 2", "more fields than the header"]),
        ('instruction,output\na,b\nc,"d\ne,f\n', ["line 3", "not valid CSV"]),
        (b"PAR1 but nothing more", ["not readable as Parquet", "write it anew"]),
        (as_parquet(instruction=["a"], answer=["b"]), ["no output; its fields: instruction, answer"]),
        (as_parquet(instruction=[b"a"], output=[b"b"]), ["instruction is of type bytes, not text"]),
        # All records are looked at before the first is given out.
        (f"{json.dumps(SUM)}\n" * 5000 + "{}\n", ["1 of 5001 records", "(line 5001: no known pair"]),
        (
            f'{json.dumps(SUM)}\n\n{{"instruction": "a"}}\n7\n',
            ["(line 3: no output; its fields: instruction; line 4: int instead of an object)"],
        ),
        (
            'instruction,output\n"two\nlines",b\nshort\n,d\n',
            ["(line 4: no output; its fields: instruction, output; line 5: blank instruction)"],
        ),
        (LONG + ',\n{"instruction": }]', ["line 2003: not valid JSON: Expecting value"]),
        (LONG + ",\n]", ["line 2003: not valid JSON: Expecting value"]),
        (LONG + "\n{}]", ["line 2003: not valid JSON: Expecting ',' delimiter"]),
        (LONG + "\n", ["line 2003: not valid JSON: Expecting ',' delimiter"]),
        (LONG + "]\n[", ["line 2003: not valid JSON: Extra data"]),
        (LONG + ",\n" + "9" * 5000 + "]", ["line 2003: JSON that cannot be read: Exceeds the limit"]),
    ],
    ids=itertools.count(),
)
def test_read_dataset_refuses_files_that_hold_no_pairs(
    tmp_path: Path, content: str | bytes, named: list[str]
) -> None:
    path = written(tmp_path / "broken", content)
    with pytest.raises(DatasetError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(path)
    for part in named:
        assert part in message


@pytest.mark.parametrize(
    ("name", "named"),
    [("missing.json", "No such file"), ("", "it holds: nothing"), ("a/" * 3000, "too long")],
)
def test_read_dataset_says_why_a_path_cannot_be_read(tmp_path: Path, name: str, named: str) -> None:
    with pytest.raises(DatasetError, match=named) as caught:
        read(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))


# Streams


def test_read_dataset_gives_the_records_anew_at_every_pass(tmp_path: Path) -> None:
    path = written(tmp_path / "l", f"{json.dumps(FRENCH)}\n{{}}\n{json.dumps(SUM)}\n")
    dataset = read_dataset(DataConfig(path=path, odd=SKIP))
    first, second = iter(dataset), iter(dataset)
    assert next(first) == next(second)
    assert len(dataset) == 2
    assert [record.pair for record in dataset] == PAIRS


def test_read_dataset_reads_a_pipe(tmp_path: Path) -> None:
    for content in (json.dumps([FRENCH, SUM]), f"{json.dumps(FRENCH)}\n{json.dumps(SUM)}"):
        pipe = tmp_path / f"pipe{content[0]}"
        os.mkfifo(pipe)
        writer = threading.Thread(target=written, args=(pipe, content))
        writer.start()
        assert [record.pair for record in read(pipe)] == PAIRS
        writer.join()


def test_read_dataset_reads_array_elements_wherever_the_file_is_torn_for_reading(tmp_path: Path) -> None:
    row = r'{"instruction":"\ud83d\ude00é","output":"a\"]","n":[-1.5e-3,NaN,{"x":"\ud800"}]}'
    tail = f",\n 12345.5 , {row} ,null]\n "
    expected = Record(Pair("\U0001f600é", "", 'a"]'), {"n": [-0.0015, None, {"x": "\ufffd"}]})
    for padding in range(len(tail) + 2):  # the file is read by 2**16 characters
        opening = '[{"instruction": "'
        long = "x" * (2**16 - len(opening) - len('", "output": "y"}') - padding)
        path = written(tmp_path / "array", f'{opening}{long}", "output": "y"}}{tail}')
        assert read(path, odd=SKIP) == [Record(Pair(long, "", "y"), {}), expected]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["array", "lines", "csv", "parquet"])
def test_read_dataset_holds_few_records_at_a_time(tmp_path: Path, form: str) -> None:
    rows = [{"instruction": f"{n}", "output": f"{n} " * 400} for n in range(4000)]
    path = tmp_path / "rows"
    match form:
        case "csv":
            as_csv(rows, path)
        case "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=1500)
        case "lines":
            written(path, "".join(json.dumps(row) + "\n" for row in rows))
        case "array":
            written(path, json.dumps(rows, indent=1))
    read(path, limit=1)  # loads pyarrow
    tracemalloc.start()
    try:
        dataset = read_dataset(DataConfig(path=str(path)))
        assert [record.pair.instruction for record in dataset] == [row["instruction"] for row in rows]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(dataset) == 4000
    assert peak < 2 * 2**20  # the texts alone are 7 MiB


# Records


@pytest.mark.parametrize(
    ("row", "meta"),
    [
        ({"instruction": "a", "output": "b"}, {}),
        ({"instruction": "a", "input": None, "response": "b"}, {}),
        ({"instruction": "a", "output": "b", "response": "c", "n": 1}, {"response": "c", "n": 1}),
        ({"instruction": "a", "output": "b", "history": [], "system": ""}, {"history": [], "system": ""}),
        (messages(("user", "a"), ("assistant", "b")) | {"id": 7}, {"id": 7}),
        (messages(("system", " "), ("user", "a"), ("assistant", "b")), {}),
        (conversation(("human", "a"), ("gpt", "b")) | {"id": "x"}, {"id": "x"}),
        (conversation(("user", "a"), ("assistant", "b")), {}),
        (messages(("user", "a"), ("assistant", "b")) | {"output": None}, {"output": None}),
    ],
)
def test_read_dataset_reads_each_record_shape(
    tmp_path: Path, row: dict[str, Any], meta: dict[str, Any]
) -> None:
    assert read_rows(tmp_path, row) == [Record(Pair("a", "", "b"), meta)]


def test_read_dataset_reads_conversations_from_parquet_and_their_other_fields_as_json(tmp_path: Path) -> None:
    row = messages(("user", "a"), ("assistant", "b")) | {
        "day": date(2024, 2, 29),
        "weights": [0.5, float("nan"), float("inf")],
        "nested": {"deep": [True, None], "count": 3},
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "p.parquet")
    meta = {
        "day": "2024-02-29",
        "weights": [0.5, None, None],
        "nested": {"deep": [True, None], "count": 3},
    }
    assert read(tmp_path / "p.parquet") == [Record(Pair("a", "", "b"), meta)]


PNG = {"bytes": b"\x89PNG", "path": None}


@pytest.mark.parametrize(
    ("more", "named", "kept"),
    [
        ({"image": PNG}, "image holds bytes", {"image": {"bytes": None, "path": None}}),
        ({"images": [PNG]}, "images holds bytes", {"images": [{"bytes": None, "path": None}]}),
        ({"audio": {"bytes": b"RIFF", "path": "a.wav"}}, "audio holds bytes", None),
        ({"digest": b"ab"}, "digest holds bytes", {"digest": None}),
        ({"messages": [{"role": "user", "content": "a", "images": [PNG]}]}, "messages holds bytes", None),
    ],
)
def test_columns_of_images_and_sound_are_refused_or_skipped_or_ignored(
    tmp_path: Path, more: dict[str, Any], named: str, kept: dict[str, Any] | None
) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.Table.from_pylist([SUM | more, SUM | dict.fromkeys(more)]), path)
    with pytest.raises(DatasetError, match=rf"1 of 2 records with images or sound \(index 0: {named}\)"):
        read(path)
    assert [record.pair for record in read(path, odd={"media": "skip"})] == PAIRS[1:]
    if kept is not None:
        assert [record.meta for record in read(path, ignore=[*more])] == [kept, dict.fromkeys(more)]


def test_columns_of_days_numbers_and_ids_are_no_media(tmp_path: Path) -> None:
    day = datetime(2024, 2, 29, 12, 30)
    others = {"day": day, "time": day.time(), "took": timedelta(1), "price": Decimal("1.50")}
    pq.write_table(pa.Table.from_pylist([SUM | others]), tmp_path / "p.parquet")
    assert read(tmp_path / "p.parquet") == [Record(PAIRS[1], {name: str(it) for name, it in others.items()})]


def test_images_that_datasets_opens_are_refused(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: images are not opened")
    image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    features = datasets.Features(
        {name: datasets.Value("string") for name in SUM} | {"scan": datasets.Image()}
    )
    rows = datasets.Dataset.from_list([SUM | {"scan": str(tmp_path / "a.png")}], features=features)
    (tmp_path / "hub").mkdir()
    rows.to_parquet(str(tmp_path / "hub/train.parquet"))
    with pytest.raises(DatasetError, match=r"images or sound \(index 0: scan holds PngImageFile\)"):
        read_dataset(DataConfig(hf=str(tmp_path / "hub")))


@pytest.mark.parametrize("depth", [101, 600, 900])
def test_fields_too_deep_to_keep_are_refused(tmp_path: Path, depth: int) -> None:
    def nest(depth: int) -> Any:
        return json.loads("[" * depth + "]" * depth)

    message = refusal(tmp_path, SUM, SUM | {"tree": nest(depth)})
    assert "1 of 2 records without a usable" in message
    assert "index 1: tree has more than 100 lists or objects in one another" in message
    turns = messages(("user", "a"), ("assistant", "b"))
    turns["messages"][0]["tree"] = nest(depth)
    assert "a turn has more than 100 lists or objects in one another" in refusal(tmp_path, turns)
    assert read_rows(tmp_path, SUM | {"tree": nest(100)})[0].meta == {"tree": nest(100)}


NO_FIELD = "no known pair"
INVALID: list[tuple[object, str]] = [
    ({"instruction": "a"}, "no output"),
    ({"instruction": "a", "output": None}, "no output"),
    ({"instruction": "a", "output": " \n"}, "blank response"),
    ({"instruction": "", "output": "b"}, "blank instruction"),
    ({"instruction": "a", "output": 3}, "output is of type int, not text"),
    ({"instruction": ["a"], "output": "b"}, "instruction is of type list, not text"),
    ({"instruction": "a", "input": {}, "output": "b"}, "input is of type dict, not text"),
    ({"instruction": None, "output": "b"}, NO_FIELD),
    ({"q": "a", "line\nbreak": "b"}, f"{NO_FIELD}; its fields: q, line break"),
    ({}, f"{NO_FIELD}; its fields: none"),
    ("text", "str instead of an object"),
    ({"messages": "text"}, "messages is not a list of turns"),
    ({"conversations": ["text"]}, "its turns: user; want user, assistant"),
    ({"conversations": [7]}, "conversations is not a list of turns"),
    ({"messages": []}, "its turns: none; want user, assistant"),
    (messages(("user", "a")), "its turns: user; want user, assistant"),
    (messages(("assistant", "a"), ("user", "b")), "its turns: assistant, user"),
    (messages(("user", None), ("assistant", "b")), "no content"),
    (messages(("user", [{"type": "text"}]), ("assistant", "b")), "content is of type list"),
]


@pytest.mark.parametrize(("row", "named"), INVALID)
def test_read_dataset_refuses_invalid_records_or_leaves_them_out(
    tmp_path: Path, row: object, named: str
) -> None:
    message = refusal(tmp_path, SUM, row)
    assert "rows.json: 1 of 2 records without a usable instruction or response" in message
    assert f"(index 1: {named}" in message
    assert 'data.odd.invalid = "skip"' in message
    assert [record.pair for record in read_rows(tmp_path, row, SUM, odd=SKIP)] == PAIRS[1:]
    assert f"no records that can be used (index 0: {named}" in refusal(tmp_path, row, odd=SKIP)


def test_read_dataset_names_every_kind_of_problem_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, {"instruction": "a"}, FRENCH | {"tools": "[{}]"})
    assert (
        "1 of 2 records whose answers call tools, which no teacher here can (index 1: declares tools)"
        in message
    )
    assert "1 of 2 records without a usable instruction or response (index 0" in message
    assert "Also 1 of 2" in message


def test_read_dataset_takes_blank_but_not_missing_texts_when_empty_is_allowed(tmp_path: Path) -> None:
    rows = [{"instruction": "", "output": "b"}, messages(("user", "a"), ("assistant", " "))]
    records = read_rows(tmp_path, *rows, allow_empty=True)
    assert [record.pair for record in records] == [Pair("", "", "b"), Pair("a", "", " ")]
    assert "index 2: no output" in refusal(tmp_path, *rows, {"instruction": "a"}, allow_empty=True)


@pytest.mark.parametrize(
    ("format", "row", "shape"),
    [
        ("messages", FRENCH, "alpaca"),
        ("alpaca", conversation(("human", "a"), ("gpt", "b")), "sharegpt"),
        ("sharegpt", messages(("user", "a"), ("assistant", "b")), "messages"),
    ],
)
def test_read_dataset_refuses_records_of_another_format(
    tmp_path: Path, format: Format, row: dict[str, Any], shape: str
) -> None:
    assert len(read_rows(tmp_path, row, format=shape)) == 1
    message = refusal(tmp_path, row, format=format, odd=SKIP)
    assert f"1 of 1 records of another format than asked for (index 0: looks like {shape})" in message
    assert 'data.format to "auto"' in message


def test_read_dataset_of_a_set_format_looks_at_its_own_field(tmp_path: Path) -> None:
    both = FRENCH | messages(("user", "a"), ("assistant", "b"))
    assert read_rows(tmp_path, both)[0].pair == Pair("a", "", "b")
    assert read_rows(tmp_path, both, format="alpaca")[0].pair == PAIRS[0]
    assert "index 0: no messages; its fields: q" in refusal(tmp_path, {"q": "a"}, format="messages")


def test_read_dataset_limit_counts_valid_pairs_and_stops(tmp_path: Path) -> None:
    bad = {"instruction": "a"}
    rows = [bad, FRENCH, bad, SUM, bad]
    assert [r.pair for r in read_rows(tmp_path, *rows, limit=2, odd=SKIP)] == PAIRS
    assert [r.pair for r in read_rows(tmp_path, FRENCH, SUM, bad, limit=2)] == PAIRS
    assert "1 of 3 records" in refusal(tmp_path, FRENCH, bad, SUM, bad, limit=2)


def test_real_pairs_are_read_and_split_by_instruction() -> None:
    records = read(given_data("recycle-800.json"))
    assert Counter(len(record.meta) for record in records) == {1: 797}
    assert records[0].meta == {"source": "text_davinci_001"}
    assert all(record.pair.input == "" for record in records)
    samples = list(assign_samples(records, 60, seed=0))
    sides = {side: {s.pair.instruction for s in samples if s.split == side} for side in ("train", "holdout")}
    assert not sides["train"] & sides["holdout"]
    assert 60 <= sum(sample.split == "holdout" for sample in samples) < 64
    assert len({sample.id for sample in samples}) == 797


def test_read_dataset_finds_the_blank_response_in_real_pairs() -> None:
    path = given_data("alpaca-2000.json")
    with pytest.raises(DatasetError, match=r"1 of 2000 records without .*: blank response\)"):
        read(path)
    assert len(read(path, odd=SKIP)) == 1999
    assert len(read_dataset(DataConfig(path=str(path)), allow_empty=True)) == 2000


# Hub datasets, as local folders


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name, rows in {
        "hub/train": [FRENCH | {"n": 1}, SUM | {"n": 2}],
        "hub/test": [SUM | {"n": 3}],
        "odd/train": [{"title": "a", "text": "b"}],
    }.items():
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        written(path, "".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "torn").mkdir()
    written(tmp_path / "torn/train.jsonl", '{"instruction": "a", "output": "b"}\n{"instr')
    return tmp_path / "hub"


def test_read_dataset_reads_a_hub_dataset(hub_folder: Path) -> None:
    expected = [Record(pair, {"n": n}) for n, pair in enumerate(PAIRS, start=1)]
    assert list(read_dataset(DataConfig(hf=str(hub_folder)))) == expected
    assert list(read_dataset(DataConfig(hf=str(hub_folder), limit=1))) == expected[:1]
    (third,) = read_dataset(DataConfig(hf=str(hub_folder), split="test"))
    assert third.meta == {"n": 3}


@pytest.mark.parametrize(
    ("name", "split", "named"),
    [
        ("hub", "dev", "cannot be loaded: .*dev"),
        ("nowhere", "train", "cannot be loaded: .*data file"),
        ("torn", "train", "cannot be loaded: JSON parse error"),
        ("odd", "train", "no known pair; its fields: title, text"),
    ],
)
def test_read_dataset_names_the_hub_dataset_it_cannot_use(
    hub_folder: Path, name: str, split: str, named: str
) -> None:
    source = hub_folder.with_name(name)
    with pytest.raises(DatasetError, match=named) as caught:
        read_dataset(DataConfig(hf=str(source), split=split))
    assert str(caught.value).startswith(f"data.hf = {source}, split {split}: ")
    assert "\n" not in str(caught.value)


def test_datasets_module_loads_neither_datasets_nor_pyarrow() -> None:
    loaded = (
        "import sys, reflectune.state.data.datasets, reflectune.state.data.exports; "
        "print({'datasets', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "set()"


# Samples


def records_of(*pairs: tuple[str, str, str]) -> list[Record]:
    return [Record(Pair(*pair), {"n": n}) for n, pair in enumerate(pairs)]


FOUR_EACH = records_of(*((f"question {n // 4}", "", f"answer {n}") for n in range(40)))


def test_assign_samples_gives_ids_by_position_content_and_occurrence() -> None:
    samples = list(assign_samples(records_of(("a", "", "b"), ("c", "", "d"), ("a", "", "b")), 0, seed=0))
    first, again = (content_hash(Pair("a", "", "b").content_hash, n)[:16] for n in (0, 1))
    assert [sample.id for sample in samples][::2] == [f"00000000-{first}", f"00000002-{again}"]
    assert [sample.position for sample in samples] == [0, 1, 2]
    assert [sample.meta for sample in samples] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert {sample.split for sample in samples} == {"train"}


@pytest.mark.slow
@given(st.permutations(FOUR_EACH + FOUR_EACH[:3]), st.sampled_from([0, 5, 0.2]))
def test_assign_samples_ignores_the_order_of_the_data(shuffled: list[Record], holdout: int | float) -> None:
    in_order = assign_samples(FOUR_EACH + FOUR_EACH[:3], holdout, seed=3)
    samples = list(assign_samples(shuffled, holdout, seed=3))
    assert {(content_part(s.id), s.split) for s in samples} == {
        (content_part(s.id), s.split) for s in in_order
    }
    assert sorted(samples, key=lambda sample: sample.id) == samples
    assert len({sample.id for sample in samples}) == 43


@pytest.mark.parametrize(
    ("holdout", "held"),
    [(0, 0), (0.0, 0), (1, 4), (4, 4), (5, 4), (0.001, 4), (0.1, 4), (0.25, 8), (36, 36), (0.9, 36)],
)
def test_assign_samples_holds_out_whole_instructions(holdout: int | float, held: int) -> None:
    samples = assign_samples(FOUR_EACH, holdout, seed=1)
    kept_apart = [sample for sample in samples if sample.split == "holdout"]
    assert len(kept_apart) == held
    assert set(Counter(sample.pair.instruction for sample in kept_apart).values()) <= {4}


def test_assign_samples_keeps_instructions_alike_on_one_side() -> None:
    alike = records_of(
        ("Name a  FRUIT", "red", "x"), ("name\na fruit ", "Red", "y"), ("Other", "", "z"), ("Third", "", "w")
    )
    for seed in range(20):
        first, second, *_ = assign_samples(alike, 1, seed)
        assert first.split == second.split


def test_assign_samples_draws_by_seed() -> None:
    drawn = [[sample.split for sample in assign_samples(FOUR_EACH, 4, seed)] for seed in range(10)]
    assert any(splits != drawn[0] for splits in drawn)
    assert [*assign_samples(FOUR_EACH, 4, 7)] == [*assign_samples(FOUR_EACH, 4, 7)]


@pytest.mark.parametrize("seed", range(6))
def test_assign_samples_holds_out_no_more_than_asked_for(seed: int) -> None:
    common = [Record(Pair("asked by many", "", f"answer {n}"), {}) for n in range(90)]
    rare = [Record(Pair(f"question {n}", "", "answer"), {}) for n in range(10)]
    samples = assign_samples([*common, *rare], 5, seed)
    held = [sample.pair.instruction for sample in samples if sample.split == "holdout"]
    assert len(held) == 5
    assert "asked by many" not in held


@pytest.mark.parametrize("holdout", [40, 1000, 0.99])
def test_assign_samples_refuses_to_hold_out_everything(holdout: int | float) -> None:
    with pytest.raises(DatasetError, match=rf"data.holdout = {holdout} .* all 40 pairs .* set it to 0"):
        assign_samples(FOUR_EACH, holdout, seed=0)


def test_dataset_hash_changes_with_pairs_and_order_only() -> None:
    def ids(records: list[Record], holdout: int = 0) -> list[str]:
        return [sample.id for sample in assign_samples(records, holdout, seed=0)]

    given = dataset_hash(iter(ids(FOUR_EACH)))
    assert given == content_hash(
        *map(content_part, ids(FOUR_EACH))
    )  # as runs have it that were begun by earlier versions
    assert given == dataset_hash(ids([Record(record.pair, {}) for record in FOUR_EACH], holdout=8))
    assert given != dataset_hash(ids(FOUR_EACH[::-1]))
    assert given != dataset_hash(ids(FOUR_EACH[1:]))
    assert dataset_hash([]) == content_hash()
