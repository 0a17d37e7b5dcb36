"""Whatever a file holds: it is read, or refused in one line, soon; and what goes in comes out equal."""

import datetime
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import tomli_w
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from reflectune.loop.show.diffs import diff_words
from reflectune.state.config import DataConfig, RunConfig, load_config
from reflectune.state.config.reference import commented_config
from reflectune.state.data.datasets import Record, read_dataset
from reflectune.state.data.exports import Exported, ExportFormat, write_records
from reflectune.state.errors import ConfigError, DatasetError
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import Pair, Sample, StudentRecord, Version
from reflectune.state.text import inert
from tests.lineages import call
from tests.test_journey import shown

pytestmark = pytest.mark.no_cover

FORMATS: list[ExportFormat] = ["alpaca", "messages", "sharegpt", "parquet"]
quick = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Characters that have broken readers, terminals and databases, beside all others.
hard = st.sampled_from(
    list("\0\x1b\x9b\x7f\r\n\t\x85\u2028\u202e\u2066\ufeff\ufffd\"'\\{}[],:;=%\ud800\udfff\U0010ffff")
)
hostile = st.text(st.one_of(hard, st.characters()), max_size=40)
hostile_bytes = hostile.map(lambda text: text.encode("utf-8", "surrogatepass"))
storable = st.text(
    st.one_of(hard, st.characters()).filter(lambda c: c != "\0" and not "\ud800" <= c <= "\udfff"),
    max_size=40,
)


PAIRS = [
    Pair("Name three.", "", "One."),
    Pair("Say é.", "an input", "é\n\U0001f600"),
    Pair("c" * 300, "", "t"),
]


@contextmanager
def soon(seconds: float) -> Iterator[None]:
    """Of this process, whatever else the machine does: what hangs takes far longer."""
    began = time.process_time()
    yield
    assert time.process_time() - began < seconds


def read(file: Path, **options: Any) -> list[Record] | None:
    """The records of a file; None where it is refused, in one line."""
    try:
        return list(read_dataset(DataConfig(path=str(file), **options)))
    except DatasetError as error:
        said = str(error)
    assert said.startswith(str(file))
    assert_is_inert_line(said)
    return None


def assert_is_inert_line(said: str) -> None:
    assert len(said.splitlines()) == 1
    assert inert(said) == said


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "data"


# Datasets


def records(pairs: list[Pair]) -> list[dict[str, Any]]:
    return [{"instruction": p.instruction, "input": p.input, "output": p.response, "id": 1} for p in pairs]


def parquet_bytes(**options: Any) -> bytes:
    nested = [{"k": [1, 2]}, None, {"k": []}]
    others = [{"nested": value, "when": datetime.datetime(2020, 1, 1)} for value in nested]
    rows = [record | more for record, more in zip(records(PAIRS), others, strict=True)]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer, **options)
    return buffer.getvalue()


VALID = {
    "json": json.dumps(records(PAIRS)).encode(),
    "indented json": json.dumps(records(PAIRS), indent=2, ensure_ascii=False).encode(),
    "json lines": "\n".join(map(json.dumps, records(PAIRS))).encode(),
    "messages": json.dumps(
        [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}] * 3
    ).encode(),
    "csv": 'instruction,input,output\r\nName,"a ""b"", c",One\r\n"Two\nlines",,é\r\nx,y,z\r\n'.encode(),
    "parquet": parquet_bytes(compression="none"),
    "compressed parquet": parquet_bytes(compression="zstd", use_dictionary=False),
}

# Where, as a share of the file; how many bytes go; what comes in their place.
edits = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 6), st.one_of(st.binary(max_size=4), hostile_bytes)),
    min_size=1,
    max_size=6,
)


def mutate(content: bytes, edits: list[tuple[float, int, bytes]], cut: float) -> bytes:
    for place, gone, come in edits:
        at = int(place * len(content))
        content = content[:at] + come + content[at + gone :]
    return content[: int(cut * len(content))]


@pytest.mark.parametrize("kind", VALID)
def test_valid_files_are_read(file: Path, kind: str) -> None:
    file.write_bytes(VALID[kind])
    found = read(file)
    assert found is not None
    assert len(found) == 3


@pytest.mark.slow
@settings(quick, max_examples=350)
@given(kind=st.sampled_from(list(VALID)), edits=edits, cut=st.one_of(st.just(1.0), st.floats(0, 1)))
def test_damaged_files_are_read_or_refused(
    file: Path, kind: str, edits: list[tuple[float, int, bytes]], cut: float
) -> None:
    file.write_bytes(mutate(VALID[kind], edits, cut))
    for record in read(file, odd={"invalid": "skip"}) or []:
        assert record.pair.instruction.strip()
        assert record.pair.response.strip()
        json.dumps([record.pair.instruction, record.meta], ensure_ascii=False).encode()  # can be stored


@quick
@given(
    content=st.binary(max_size=300),
    start=st.sampled_from([b"", b"[", b"{", b"PAR1", b"\xef\xbb\xbf", b"a,b\n"]),
)
@example(content=b"", start=b"[")
@example(content=b"PAR1", start=b"PAR1")
def test_any_bytes_are_read_or_refused(file: Path, content: bytes, start: bytes) -> None:
    file.write_bytes(start + content)
    read(file)


json_keys = st.sampled_from(
    ["instruction", "input", "output", "response", "messages", "conversations", "role", "content", "from",
     "value", "system", "history"]
)  # fmt: skip
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), hostile),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(hostile, json_keys), inner, max_size=5)
    ),
    max_leaves=12,
)


@pytest.mark.slow
@settings(quick, max_examples=200)
@given(
    format=st.sampled_from(["auto", "alpaca", "messages", "sharegpt"]),
    rows=st.lists(json_values, max_size=4),
    as_lines=st.booleans(),
)
def test_any_json_is_read_or_refused(file: Path, format: str, rows: list[Any], as_lines: bool) -> None:
    file.write_text("\n".join(map(json.dumps, rows)) if as_lines else json.dumps(rows))
    for record in read(file, format=format, odd={"invalid": "skip"}) or []:
        json.dumps(record.meta, allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"[" + b"9" * 200_000 + b"]",
        b'[{"instruction": "a", "output": ' + b"[" * 200_000,
        b'"' * 200_001,
        b"a,b\n" + b'"' * 200_001,
        b"instruction,output\n" + b"," * 200_000,
        b"\n" * 5_000_000,
        b"{}\n" * 100_000,
        b"[" + b"{}," * 100_000 + b"{}]",
        b'[{"instruction": "' + b"\\" * 2_000_000,
        b"PAR1" + bytes(2_000_000) + b"PAR1",
        b"PAR1" + b"\xff" * 20 + b"PAR1",
    ],
    ids=lambda content: repr(content[:24]),
)
def test_files_made_to_exhaust_a_reader_are_refused_soon(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with soon(20):
        assert read(file) is None


# Config

toml_keys = st.one_of(
    st.sampled_from(
        [
            *RunConfig.model_fields,
            *(key for field in RunConfig.model_fields.values() if hasattr(field.annotation, "model_fields")
              for key in field.annotation.model_fields),
        ]
    ),
    st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True),
)  # fmt: skip
whole = st.integers(-(2**63), 2**63 - 1)
toml_values = st.recursive(
    st.one_of(st.booleans(), whole, st.floats(), storable, st.datetimes(), st.dates(), st.times()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(toml_keys, inner, max_size=3)),
    max_leaves=8,
)


def refuses_in_a_line(path: Path, overrides: list[str] | None = None) -> None:
    try:
        load_config(path, overrides or [])
    except ConfigError as error:
        assert_is_inert_line(str(error))


configs = st.one_of(
    st.dictionaries(toml_keys, toml_values, max_size=6).map(lambda values: tomli_w.dumps(values).encode()),
    st.binary(max_size=200),
    hostile_bytes,
    st.builds(mutate, st.just(commented_config().encode()), edits, st.one_of(st.just(1.0), st.floats(0, 1))),
)


@pytest.mark.slow
@settings(quick, max_examples=300)
@given(content=configs)
def test_any_content_is_a_config_or_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    refuses_in_a_line(file)


@pytest.mark.slow
@quick
@given(overrides=st.lists(st.one_of(hostile, st.builds("{}={}".format, toml_keys, hostile)), max_size=3))
def test_any_override_is_taken_or_refused(file: Path, overrides: list[str]) -> None:
    file.write_text(commented_config(), encoding="utf-8")
    refuses_in_a_line(file, overrides)


# Lineage, trace and export


def tell(path: Path, given: Pair, proposed: Pair, critique: str, error: str) -> None:
    """A lineage of one sample with a failed call and a proposal."""
    said = {"model": error, "text": critique, "critique": critique}
    first = replace(call("a", attempt=1, status="error"), error=error, **said)
    second = replace(call("a", attempt=2), **said)
    original = Version("a", None, 0, "original", 0, given)
    with LineageWriter.create(path) as store:
        store.add_run({"name": "x", "rounds": 1, "seed": 0}, data_hash="", versions={})
        store.add_samples([Sample("a", 0, "train", given, {critique: error})])
        store.start_round(0)
        store.add_student(StudentRecord("s0", 0, "base", None, None, None, None))
        version = Version("a", original.id, 1, "response", 0, proposed, second.id)
        store.add_reflections([first, second], [version])


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(
    given=st.builds(Pair, storable, storable, storable),
    proposed=st.builds(Pair, storable, storable, storable),
    other=storable,
)
def test_trace_gives_any_text_back_and_shows_it_inertly(
    tmp_path_factory: pytest.TempPathFactory, given: Pair, proposed: Pair, other: str
) -> None:
    path = tmp_path_factory.mktemp("lineage") / "lineage.db"
    tell(path, given, proposed, other, other)
    with LineageReader.open(path) as history:
        trace = history.trace("0")
    told = [Pair(v["instruction"], v["input"], v["response"]) for v in trace["versions"]]
    assert told == [given, proposed]
    assert (trace["versions"][1]["critique"], trace["failures"][0]["error"]) == (other, other)
    text = shown(trace)
    assert inert(text) == text


LONG: dict[str, Callable[[int], str]] = {
    "one word": lambda size: "x" * size,
    "many words": lambda size: "word " * (size // 5),
    "many sentences": lambda size: "A b. " * (size // 5),
    "escapes": lambda size: "\x1b[31m" * (size // 5),
    "directions": lambda size: "\u202e" * size,
    "line feeds": lambda size: "\n" * size,
    "brackets": lambda size: "[" * size,
    "no two alike": lambda size: " ".join(map(str, range(size // 7))),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one word", "escapes", "no two alike"])
def test_texts_of_two_megabytes_are_stored_traced_and_exported_soon(tmp_path: Path, kind: str) -> None:
    long = LONG[kind](2 * 2**20)
    given, proposed = Pair("Ask.", "", "a " + long), Pair("Ask.", "", long + " b")
    with soon(18):
        tell(tmp_path / "lineage.db", given, proposed, long[: 2**20], long[: 2**20])
        with LineageReader.open(tmp_path / "lineage.db") as history:
            trace = history.trace("0")
        assert [version["response"] for version in trace["versions"]] == [given.response, proposed.response]
        shown(trace)
    for number, format in enumerate(FORMATS):
        out = tmp_path / ("out.jsonl" if number == 0 else "out")
        with soon(4):
            assert write_records(out, format, lambda: [Exported.of_pair(proposed)]) == 1
        found = read(out)
        assert found is not None
        assert [record.pair for record in found] == [proposed]


@pytest.mark.slow
@pytest.mark.parametrize("kind", LONG)
def test_word_diffs_of_a_megabyte_are_quick_and_lose_nothing(kind: str) -> None:
    old, new = "a " + LONG[kind](2**20), LONG[kind](2**20) + " b"
    with soon(20):
        changes = diff_words(old, new)
    assert "".join(text for change, text in changes if change != "added") == old
    assert "".join(text for change, text in changes if change != "removed") == new
