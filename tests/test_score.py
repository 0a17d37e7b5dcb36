"""Scores of any dataset, and the records that are kept of it."""

import csv
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as pq
import pytest

from reflectune.loop.cli.data import _advising_options
from reflectune.loop.score import Bounds, Measured, check_fields, given_rows, open_data
from reflectune.state.config import DataConfig
from reflectune.state.errors import ConfigError, DatasetError, StudentError
from reflectune.state.text import one_line
from tests.worlds import copy_world, reflectune

PLAIN = ("--student", "student", "--template", "plain")
ROWS: list[dict[str, Any]] = [
    {"id": "a", "instruction": "Name a colour.", "input": "", "output": "Blue is one.", "ifd": 1.5},
    {"id": "b", "instruction": "Name a tree.", "input": "small", "output": "", "ifd": 2.0},
    {"id": "c", "instruction": "Say hello.", "input": "", "output": "Hello hello hello.", "ifd": 2.5},
    {"id": "d", "instruction": "Count to three.", "input": "", "output": "One, two and three.", "ifd": 3.0},
]


@pytest.fixture(scope="module")
def world(finished_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny student."""
    return copy_world(finished_world, tmp_path_factory.mktemp("scored"))


def measured(*records: tuple[float | None, float | None] | None) -> Measured:
    """IFD and r-IFD by record; None for a row that is none."""
    found = Measured()
    for index, values in enumerate(records):
        if values is not None:
            found.add(index, *values)
    return found


TEN = measured(
    (0.9, 0.5), (0.8, 0.5), None, (1.0, 0.5), (None, 0.5), (0.7, 1.0), (0.8, 0.9), (0.2, None), (0.1, 0.1),
    (math.exp(-5), 0.2), (1.4, 0.3),
)  # fmt: skip


@pytest.mark.parametrize(
    ("bounds", "kept"),
    [
        (Bounds(), {0, 1, 3, 5, 6, 8, 9, 10}),
        (Bounds(max_ifd=1), {0, 1, 5, 6, 8, 9}),
        (Bounds(max_ifd=1, max_r_ifd=1), {0, 1, 6, 8, 9}),
        (Bounds(max_ifd=1, top=2), {0, 1}),  # of two with 0.8 the first
        (Bounds(top=0.3), {10, 3, 0}),  # of ten records
        (Bounds(top=0.001), {10}),
        (Bounds(top=100), {0, 1, 3, 5, 6, 8, 9, 10}),
    ],
)
def test_choose_keeps_records_within_bounds_and_never_one_without_scores(
    bounds: Bounds, kept: set[int]
) -> None:
    chosen = TEN.choose(bounds)
    assert {index for index in range(20) if index in chosen} == kept


def test_choose_takes_a_conversation_by_the_means_of_its_exchanges() -> None:
    found = measured((0.8, 0.9), (0.6, 0.6), (0.6, 0.6))
    found.add(1, 1.2, 0.8)  # means 0.9 and 0.7
    found.add(2, 0.9, None)  # cannot be scored
    assert found.choose(Bounds(top=1)) == {1}
    assert found.choose(Bounds(max_r_ifd=0.8)) == {1}
    assert found.choose(Bounds()) == {0, 1}


def dataset(tmp_path: Path, *rows: object, **settings: Any) -> Any:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_data(DataConfig(path=str(path), **settings))


def test_given_rows_are_the_given_ones_of_records(tmp_path: Path) -> None:
    given = dataset(tmp_path, {"a": 1}, *ROWS, odd={"invalid": "skip"})
    assert list(given_rows(given)) == ROWS
    assert list(given_rows(given, {2, 4})) == [ROWS[1], ROWS[3]]


def test_check_fields_refuses_what_no_record_has(tmp_path: Path) -> None:
    given = dataset(tmp_path, *ROWS, ROWS[0] | {"rare": 1})
    check_fields(given, ["id", "rare"])
    with pytest.raises(
        ConfigError, match="--fields: no record has idd; the first has id, instruction, input"
    ):
        check_fields(given, ["id", "idd"])


def test_open_data_advises_options_and_no_config_keys(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        dataset(tmp_path, {"a": 1}, *ROWS)
    assert "or leave them out with --skip invalid" in str(caught.value)
    assert "data." not in str(caught.value).replace(str(tmp_path / "data.jsonl"), "")


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ('m: no chat template; set student.template = "plain"', "m: no chat template; set --template plain"),
        ("student.device = 'tpu' is not there: gone", "--device tpu is not there: gone"),
        ("lower student.max_length", "lower --max-length"),
        ("student.load_in_4bit needs bitsandbytes", "load in 4bit needs bitsandbytes"),
        ("student.separator = '<s>': no such token", "separator <s>: no such token"),
        ("./student.json: not there", "./student.json: not there"),
    ],
)
def test_score_advises_its_options_where_errors_name_keys(message: str, advice: str) -> None:
    options = ("template", "device", "max_length")
    with pytest.raises(StudentError) as caught, _advising_options(options):
        raise StudentError(message)
    assert str(caught.value) == advice


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def scored(world: Path, *arguments: object) -> dict[str, Any]:
    result = reflectune("score", *arguments, *PLAIN, "--json", cwd=world)
    assert result.returncode == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def refused(world: Path, *arguments: object) -> str:
    result = reflectune("score", *arguments, *PLAIN, cwd=world)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.stderr
    return one_line(result.stderr)


@pytest.mark.slow
def test_score_keeps_the_highest_as_they_were_given(world: Path) -> None:
    (world / "rows.json").write_text(json.dumps([*ROWS, {"a": 1}]))
    options = ("--skip", "invalid", "-o", "scores.jsonl", "--fields", "id,ifd", "--keep", "kept.json")
    summary = scored(world, "rows.json", *options, "--top", "50%")
    assert (summary["records"], summary["scored"], summary["kept"]) == (4, 3, 2)
    assert summary["skipped"] == {"invalid": 1}
    assert (summary["out"], summary["keep"]) == ("scores.jsonl", "kept.json")
    lines = lines_of(world / "scores.jsonl")
    assert [(line["index"], line["turn"], line["id"], line["given_ifd"]) for line in lines] == [
        (index, 0, row["id"], row["ifd"]) for index, row in enumerate(ROWS)
    ]
    highest = sorted((line for line in lines if line["ifd"]), key=lambda line: -float(line["ifd"]))[:2]
    wanted = [ROWS[index] for index in sorted(line["index"] for line in highest)]
    assert json.loads((world / "kept.json").read_text()) == wanted
    plain = reflectune("score", "rows.json", "--skip", "invalid", *PLAIN, cwd=world)
    assert len(plain.stdout.splitlines()) == 4
    assert "skipped 1 invalid" in plain.stderr


@pytest.mark.slow
def test_score_keeps_csv_and_parquet_as_they_are(world: Path) -> None:
    with (world / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    scored(world, "rows.csv", "--keep", "kept-rows")
    with (world / "kept-rows").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {key: str(value) for key, value in row.items()} for row in ROWS if row["output"]
        ]
    turns = [{"role": "user", "content": "Hi", "id": 7}, {"role": "assistant", "content": "Hello", "id": 8}]
    role = pyarrow.struct({"role": pyarrow.string(), "content": pyarrow.string(), "id": pyarrow.int16()})
    schema = pyarrow.schema({"messages": pyarrow.list_(role), "n": pyarrow.uint8(), "day": pyarrow.date32()})
    table = pyarrow.Table.from_pylist([{"messages": turns, "n": 200, "day": None}], schema=schema)
    pq.write_table(table, world / "rows.parquet")
    scored(world, "rows.parquet", "--keep", "kept")
    assert pq.read_table(world / "kept").equals(table)
    scored(world, "rows.parquet", "--keep", "kept.jsonl")
    assert lines_of(world / "kept.jsonl") == table.to_pylist()


@pytest.mark.slow
def test_score_takes_every_exchange_of_a_conversation_and_keeps_it_whole(world: Path) -> None:
    def chat(*texts: str) -> dict[str, Any]:
        return {
            "id": texts[0],
            "messages": [{"role": r, "content": t} for r, t in zip(ROLES * 2, texts, strict=False)],
        }

    chats = [chat("Hi", "Hello.", "Name a tree.", "An oak."), chat("Say red.", "Red."), chat("Say.", "")]
    (world / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))
    summary = scored(world, "chats.jsonl", "--turns", "each", "-o", "scores.jsonl", "--keep", "kept.jsonl")
    assert [summary[key] for key in ("records", "pairs", "scored", "kept")] == [3, 4, 3, 2]
    assert [(line["index"], line["turn"]) for line in lines_of(world / "scores.jsonl")] == [
        (0, 0), (0, 2), (1, 0), (2, 0),
    ]  # fmt: skip
    assert lines_of(world / "kept.jsonl") == chats[:2]


ROLES = ("user", "assistant")
STRICT = """{%- for message in messages -%}
{%- if message.role == 'tool' -%}{{ raise_exception('no tools here') }}{%- endif -%}
{{ '<|' + message.role + '|>' + message.content + '\\n' }}
{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"""


@pytest.mark.slow
def test_score_refuses_contexts_that_the_template_does_not_take_before_it_scores(world: Path) -> None:
    shutil.copytree(world / "student", world / "strict")
    (world / "strict" / "chat_template.jinja").write_text(STRICT)
    exchange = [{"role": role, "content": "Hi"} for role in ROLES]
    tool = {"role": "tool", "content": "Found it."}
    rows = [*[{"messages": exchange}] * 70, {"messages": [exchange[0], tool, exchange[1], *exchange]}]
    (world / "chats.json").write_text(json.dumps(rows))
    result = reflectune("score", "chats.json", "--student", "strict", cwd=world)
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    assert re.search(
        "no tools here.*--template plain, or leave these out with --skip earlier_tools", result.stderr
    )
    options = ("--student", "strict", "--skip", "earlier_tools", "--json", "-o", "scores.jsonl")
    result = reflectune("score", "chats.json", *options, cwd=world)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["skipped"] == {"earlier_tools": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--top", "5%"], "say with --keep FILE where these go"),
        (["--max-ifd", "1"], "say with --keep FILE where these go"),
        (["--keep", "kept.jsonl", "--top", "5 %%"], "--top: got 5 %%; want a number of records such as 1000"),
        (["--keep", "kept.jsonl", "--top", "150%"], "or a share such as 5%"),
        (["--keep", "kept.jsonl", "--top", "0"], "or a share such as 5%"),
        (["--keep", "kept.txt"], "ends in .txt; name a file that ends in .json, .jsonl, .csv, .parquet"),
        (["--keep", "none/kept.json"], "there is no folder"),
        (["--out", "./tags.json"], "tags.json: is the file of the given data; name another one to write"),
        (["--out", "x.jsonl", "--keep", "x.jsonl"], "x.jsonl: is the file of the records that pass"),
        (["--keep", "kept.jsonl", "--max-ifd", "nan"], "--max-ifd and --max-r-ifd must be numbers"),
        (["--keep", "runs/tiny/lineage.db"], "is a database"),
        (["--keep", "tags.csv"], "tags.csv: record 1 fits into no table; name a .jsonl file instead"),
        (["--skip", "odd"], "--skip: got odd; want some of invalid"),
        (["--columns", "question"], "--columns: got question=; want NAME=FIELD"),
        (["--columns", "instruction=instruction,answer=output"], "--columns: got answer=output"),
        (["--fields", "ids"], "--fields: no record has ids; the first has tags, instruction, output"),
    ],
)  # fmt: skip
def test_score_refuses_in_one_line_before_it_scores(world: Path, options: list[str], message: str) -> None:
    (world / "tags.json").write_text('[{"tags": ["x"], "instruction": "Hi", "output": "Hello"}]')
    before = sorted(world.rglob("*"))
    assert message in refused(world, "tags.json", *options)
    assert sorted(world.rglob("*")) == before
