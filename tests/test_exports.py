import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import jinja2
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflectune.state.config import DataConfig
from reflectune.state.data.conversations import user_turn
from reflectune.state.data.datasets import read_dataset
from reflectune.state.data.exports import Exported, ExportFormat, retell, write_records
from reflectune.state.errors import DatasetError
from reflectune.state.records import Pair, Turn
from tests.lineages import make_store
from tests.worlds import invoke

FORMATS: list[ExportFormat] = ["alpaca", "messages", "sharegpt", "parquet"]
PAIRS = [Pair("Say hello.", "", "Bonjour, ça va?"), Pair("Add.", "1 2", "3")]
PREFERENCES = [
    Exported.of_pair(Pair("Add.", "1 2", "3"), rejected="4"),
    Exported.of_pair(Pair("Say hello.", "", "Hello"), rejected="Bye"),
]


def write_pairs(path: Path, format: ExportFormat | None, pairs: Iterable[Pair]) -> int:
    return write_records(path, format, lambda: map(Exported.of_pair, pairs))


def write_preferences(path: Path, format: ExportFormat | None, preferences: list[Exported]) -> int:
    return write_records(path, format, lambda: preferences, is_preferences=True)


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
    assert write_preferences(tmp_path / "preferences", format, PREFERENCES) == 2
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
        (None, "out.jsonl", False),
        (None, "out", True),
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
    ("format", "name", "message"),
    [
        ("alpaca", "x.csv", "x.csv: ends in .csv; name a file that ends in .json, .jsonl, .parquet"),
        (None, "x.txt", "x.txt: ends in .txt; name a file"),
        (
            "parquet",
            "x.json",
            "x.json: format parquet goes into .parquet; end the name so, or leave the format",
        ),
    ],
)
def test_write_records_refuses_a_name_that_ends_as_no_file_of_its_format(
    tmp_path: Path, format: ExportFormat, name: str, message: str
) -> None:
    with pytest.raises(DatasetError) as caught:
        write_pairs(tmp_path / name, format, PAIRS)
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


CONVERSATION = (
    Turn("system", "Be brief."),
    Turn("user", "Hi"),
    Turn("assistant", "Hello"),
    Turn("user", "Add.\n\n1 2"),
    Turn("assistant", "3"),
)
EXCHANGE = CONVERSATION[3:]
ADD = {"instruction": "Add.", "input": "1 2", "output": "3"}


@pytest.mark.parametrize(
    ("turns", "asked", "expected"),
    [
        (CONVERSATION, ("Add.", "1 2"), ADD | {"system": "Be brief.", "history": [["Hi", "Hello"]]}),
        (CONVERSATION[:1] + EXCHANGE, ("Add.", "1 2"), ADD | {"system": "Be brief."}),
        (CONVERSATION[1:], ("Add.", "1 2"), ADD | {"history": [["Hi", "Hello"]]}),
        (EXCHANGE, None, {"instruction": "Add.\n\n1 2", "input": "", "output": "3"}),
    ],
)
@pytest.mark.parametrize("format", ["alpaca", "parquet"])
def test_alpaca_has_the_context_in_system_and_history(
    tmp_path: Path,
    format: ExportFormat,
    turns: tuple[Turn, ...],
    asked: tuple[str, str] | None,
    expected: Any,
) -> None:
    write_records(tmp_path / "out", format, lambda: [Exported(turns, asked)])
    assert rows_of(tmp_path / "out") == [expected]


@pytest.mark.slow
def test_alpaca_has_the_fields_of_a_context_in_every_record_or_in_none(tmp_path: Path) -> None:
    """`datasets` takes the columns of JSON Lines from its first 10 MB, here 1000 bytes."""
    records = [Exported(CONVERSATION[1:]), *[Exported(EXCHANGE)] * 50, Exported(CONVERSATION)]
    path = tmp_path / "out.jsonl"
    write_records(path, "alpaca", lambda: records)
    data = datasets.Dataset.from_json(str(path), chunksize=1000, cache_dir=str(tmp_path / "cache"))
    contexts = [(row["system"], row["history"]) for row in (data[0], data[1], data[51])]
    assert contexts == [("", [["Hi", "Hello"]]), ("", []), ("Be brief.", [["Hi", "Hello"]])]
    write_records(path, "alpaca", lambda: records[1:51])
    assert {*rows_of(path)[0]} == {"instruction", "input", "output"}


SCORED = Exported(CONVERSATION, rejected=Turn("assistant", "4"), sample_ids=("5ab3",), scores=(-0.25, -0.75))


def test_formats_of_preferences_hold_whole_conversations_and_scores(tmp_path: Path) -> None:
    chosen = [turn.as_message() for turn in CONVERSATION]
    rejected = [*chosen[:-1], {"role": "assistant", "content": "4"}]
    scores = {"score_chosen": -0.25, "score_rejected": -0.75, "margin": 0.5}
    write_records(tmp_path / "i", "implicit", lambda: [SCORED], is_preferences=True)
    assert rows_of(tmp_path / "i") == [{"chosen": chosen, "rejected": rejected}]
    write_records(tmp_path / "u", "ultrafeedback", lambda: [SCORED], is_preferences=True)
    asked = {"prompt": "Add.\n\n1 2", "prompt_id": "5ab3", "messages": chosen}
    assert rows_of(tmp_path / "u") == [{**asked, "chosen": chosen, "rejected": rejected, **scores}]
    write_records(tmp_path / "m", "messages", lambda: [SCORED], is_preferences=True, also=["scores"])
    assert rows_of(tmp_path / "m")[0].items() >= scores.items()


def test_alpaca_leaves_out_what_no_text_depends_on(tmp_path: Path) -> None:
    turns = (EXCHANGE[0], Turn("assistant", "3", '{"weight": 0, "id": 7, "tool_calls": []}'))
    write_records(tmp_path / "out", "alpaca", lambda: [Exported(turns, ("Add.", "1 2"))])
    assert rows_of(tmp_path / "out") == [ADD]


def test_alpaca_preferences_have_the_context_too(tmp_path: Path) -> None:
    preference = Exported(CONVERSATION, ("Add.", "1 2"), Turn("assistant", "4"))
    write_records(tmp_path / "out", "alpaca", lambda: [preference], is_preferences=True)
    context = {"system": "Be brief.", "history": [["Hi", "Hello"]]}
    assert rows_of(tmp_path / "out") == [{"prompt": "Add.\n\n1 2", "chosen": "3", "rejected": "4"} | context]


@pytest.mark.parametrize(
    "turns",
    [
        (*EXCHANGE, Turn("user", "And then?")),
        (Turn("tool", "{}"), *EXCHANGE),
        (*EXCHANGE, Turn("system", "Be long."), *EXCHANGE),
        (Turn("user", "Add.\n\n1 2", '{"name": "Ann"}'), EXCHANGE[1]),
        (Turn("user", "Hi"), *EXCHANGE),
        (),
    ],
)
def test_alpaca_refuses_what_it_cannot_hold_and_messages_hold_it(
    tmp_path: Path, turns: tuple[Turn, ...]
) -> None:
    record = Exported(turns, sample_ids=("5ab3",))
    with pytest.raises(DatasetError, match=r"sample 5ab3: .*; take --format messages or sharegpt"):
        write_records(tmp_path / "out", "alpaca", lambda: [record])
    assert not list(tmp_path.iterdir())
    write_records(tmp_path / "out", "messages", lambda: [record])
    assert rows_of(tmp_path / "out") == [{"messages": [turn.as_message() for turn in turns]}]


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("old", '{"name": "Bob", "reasoning_content": "hm", "weight": 0}'),
        ("new", '{"name": "Bob", "weight": 0}'),
    ],
)
def test_retell_keeps_what_is_said_of_the_old_text_only_with_it(text: str, more: str) -> None:
    turn = Turn("assistant", "old", '{"name": "Bob", "reasoning_content": "hm", "weight": 0}')
    assert retell(turn, text) == Turn("assistant", text, more)
    assert retell(Turn("user", "old"), text) == Turn("user", text)


CALL = '{"name": "Ann", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}'
TOOLS = (Turn("user", "Add."), Turn("assistant", "", CALL), Turn("tool", "3"), Turn("assistant", "3"))


def test_turns_keep_their_fields_in_messages_and_sharegpt(tmp_path: Path) -> None:
    more = json.loads(CALL)
    write_records(tmp_path / "m", "messages", lambda: [Exported(TOOLS)])
    assert rows_of(tmp_path / "m")[0]["messages"][1] == {"role": "assistant", "content": ""} | more
    write_records(tmp_path / "s", "sharegpt", lambda: [Exported(TOOLS)])
    assert rows_of(tmp_path / "s")[0]["conversations"] == [
        {"from": "human", "value": "Add."},
        {"from": "gpt", "value": ""} | more,
        {"from": "tool", "value": "3"},
        {"from": "gpt", "value": "3"},
    ]


def test_sharegpt_marks_fields_of_turns_that_are_called_as_its_own(tmp_path: Path) -> None:
    turn = Turn("user", "Add.", '{"value": 0.5, "from": "web", "given_from": 1}')
    write_records(tmp_path / "s", "sharegpt", lambda: [Exported((turn, EXCHANGE[1]))])
    told = {"given_value": 0.5, "given_from": "web", "given_given_from": 1}
    assert rows_of(tmp_path / "s")[0]["conversations"][0] == {"from": "human", "value": "Add."} | told


def test_parquet_holds_messages_as_structs(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    write_records(path, "messages", lambda: [Exported(EXCHANGE), Exported(TOOLS)])
    plain, tools = (row["messages"] for row in rows_of(path))
    assert plain[0] == {"role": "user", "content": "Add.\n\n1 2", "name": None, "tool_calls": None}
    call = {"function": {"name": "add", "arguments": '{"a": 1}'}}
    assert (tools[1]["name"], tools[1]["tool_calls"]) == ("Ann", [call])
    write_records(path, "messages", lambda: [Exported(CONVERSATION)])
    kind = pq.read_schema(path).field("messages").type
    assert [field.name for field in kind.value_type] == ["role", "content"]
    read = next(iter(read_dataset(DataConfig(path=str(written(tmp_path, "messages"))))))
    assert read.pair == Pair("Add.\n\n1 2", "", "3")


# As Qwen3's chat template tells calls.
QWEN = """{% for call in message.tool_calls %}{% if call.function %}{% set call = call.function %}{% endif %}
<tool_call>
{"name": "{{ call.name }}", "arguments": \
{% if call.arguments is string %}{{ call.arguments }}{% else %}{{ call.arguments | tojson }}{% endif %}}
</tool_call>{% endfor %}"""


@pytest.mark.parametrize("arguments", [{"a": 1, "b": [2]}, '{"a": 1, "b": [2]}', {}])
def test_calls_in_parquet_are_read_back_as_calls(tmp_path: Path, arguments: object) -> None:
    """Their arguments become JSON text, so that calls of other tools do not add theirs as nulls."""
    others = {"x": {"deep": [{}]}}
    calls = [{"id": "1", "type": "function", "function": {"name": "add", "arguments": arguments}}]
    told = ({"tool_calls": calls}, {"tool_calls": [{"function": {"name": "sub", "arguments": others}}]})
    old = {"function_call": {"name": "add", "arguments": arguments}}
    records = [
        Exported((TOOLS[0], Turn("assistant", "", json.dumps(more)), TOOLS[2], TOOLS[3], *EXCHANGE))
        for more in (*told, old)
    ]
    path = tmp_path / "out.parquet"
    write_records(path, "messages", lambda: records)
    first, _, third = (record.pair.context[1].told for record in read_dataset(DataConfig(path=str(path))))
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    rendered = jinja2.Template(QWEN).render(message=first)
    assert rendered == f'\n<tool_call>\n{{"name": "add", "arguments": {text}}}\n</tool_call>'
    assert third == {"function_call": {"name": "add", "arguments": text}}


def written(folder: Path, format: ExportFormat) -> Path:
    """An exchange in Parquet."""
    write_records(folder / "pair.parquet", format, lambda: [Exported(EXCHANGE)])
    return folder / "pair.parquet"


@pytest.mark.parametrize("format", ["alpaca", "messages", "sharegpt", None])
def test_suffix_parquet_makes_parquet_of_every_format(tmp_path: Path, format: ExportFormat | None) -> None:
    path = tmp_path / "out.parquet"
    write_pairs(path, format, PAIRS)
    as_lines = tmp_path / "out.jsonl"
    write_pairs(as_lines, format, PAIRS)
    assert path.read_bytes().startswith(b"PAR1")
    assert rows_of(path) == rows_of(as_lines)


LABELLED = Exported.of_pair(
    Pair("Add.", "1 2", "3"),
    meta={"id": 7, "output": "three", "given_output": None, "tags": ["a"], "source": {"page": 1}},
    sample_ids=("s",),
    version_ids=("v",),
    round=2,
    split="holdout",
)


def test_write_records_adds_given_fields_ids_and_split_on_request(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write_records(path, "alpaca", lambda: [LABELLED], also=["meta", "ids", "split"])
    ids = {"sample_ids": ["s"], "version_ids": ["v"], "round": 2}
    # "output" is the format's, and "given_output" is given too.
    given = {
        "id": 7,
        "given_output": "three",
        "given_given_output": None,
        "tags": ["a"],
        "source": {"page": 1},
    }
    assert rows_of(path) == [ADD | given | ids | {"split": "holdout"}]
    write_records(path, "alpaca", lambda: [LABELLED], also=["ids"])
    assert rows_of(path) == [ADD | ids]
    write_records(path, "messages", lambda: [LABELLED], also=["meta"])
    given_names = {"id", "given_output", "given_given_output", "tags", "source"}
    assert rows_of(path)[0].keys() == {"messages"} | given_names


OLD = {  # what other readers find first
    "text": "Old.",
    "messages": [{"role": "user", "content": "Old?"}, {"role": "assistant", "content": "Old."}],
    "prompt": "Old?",
    "completion": " Old.",
    "conversations": [{"from": "human", "value": "Old?"}, {"from": "gpt", "value": "Old."}],
    "chosen": "Old.",
    "rejected": "Old.",
    "input_ids": [3, 4],
}


@pytest.mark.parametrize("format", ["alpaca", "messages", "sharegpt"])
def test_given_fields_are_never_taken_for_the_pair(tmp_path: Path, format: ExportFormat) -> None:
    record = Exported.of_pair(PAIRS[0], meta=OLD)
    path = tmp_path / "out.parquet"
    write_records(path, format, lambda: [record], also=["meta"])
    (row,) = rows_of(path)
    given = {name: value for name, value in row.items() if name.startswith("given_")}
    assert given == {f"given_{name}": value for name, value in record.meta.items()}
    read = next(iter(read_dataset(DataConfig(path=str(path)))))
    assert (read.pair, read.meta) == (PAIRS[0], given)


def test_parquet_has_plain_types_for_given_fields_and_json_for_mixed_ones(tmp_path: Path) -> None:
    given: list[dict[str, Any]] = [
        {
            "id": 1,
            "mixed": 1,
            "score": 1,
            "tags": ["a"],
            "deep": {"a": {"b": [1]}},
            "none": None,
            "ok": True,
            "deeper": [[[[[[{"d": 1}], "e"]]]]],
        },
        {"id": 2**62, "mixed": "x", "score": 0.5, "tags": [], "deep": {"c": 2}, "none": None, "big": 2**70},
    ]
    path = tmp_path / "out.parquet"
    records = [Exported.of_pair(PAIRS[0], meta=meta) for meta in given]
    assert write_records(path, None, lambda: records, also=["meta"]) == 2
    first, second = rows_of(path)
    assert (first["id"], second["id"], first["score"], second["score"]) == (1, 2**62, 1.0, 0.5)
    assert (first["tags"], second["tags"], first["ok"], second["ok"]) == (["a"], [], True, None)
    assert (first["mixed"], second["mixed"], second["big"]) == ("1", '"x"', str(2**70))
    assert (first["deep"], second["deep"]) == ({"a": {"b": [1]}, "c": None}, {"a": None, "c": 2})
    assert first["deeper"] == [[[[['[{"d": 1}]', '"e"']]]]]
    assert first["none"] is None


def test_parquet_holds_names_with_half_a_surrogate_pair(tmp_path: Path) -> None:
    record = Exported.of_pair(PAIRS[0], meta={"a\ud800": {"b\ud800": "c\ud800"}})
    write_records(tmp_path / "out.parquet", None, lambda: [record], also=["meta"])
    assert rows_of(tmp_path / "out.parquet")[0]["a?"] == {"b?": "c?"}


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


@pytest.mark.no_cover
def test_write_parquet_writes_row_groups(tmp_path: Path) -> None:
    pairs = [Pair(f"i{n}", "", f"r{n}") for n in range(25_000)]
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
        write_pairs(tmp_path / f"pairs-{name}", format, PAIRS * 100)
        write_preferences(tmp_path / f"preferences-{name}", format, PREFERENCES * 100)
    for kind in ("pairs", "preferences"):
        assert (tmp_path / f"{kind}-a").read_bytes() == (tmp_path / f"{kind}-b").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.no_cover
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
        write_records(target, format, lambda: map(Exported.of_pair, watched(True)))
    assert target.read_text() == "before"
    write_records(target, format, lambda: map(Exported.of_pair, watched(False)))
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


def test_export_of_a_run_without_a_complete_round_says_that_it_is_the_given_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one").mkdir()
    with make_store(tmp_path / "one/lineage.db"):
        pass
    out = tmp_path / "pool.json"
    assert invoke("export", "one", "-o", out, "--runs", tmp_path) == 0
    assert capsys.readouterr().err == "one: round 1 is not complete: this is the data as given\n"
    assert invoke("export", "one", "--round", "0", "-o", out, "--runs", tmp_path) == 0
    assert capsys.readouterr().err == ""  # who asks for it knows
