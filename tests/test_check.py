"""`reflectune check`: what data holds, where its fields go, and the faults that are known."""

import json
import re
import sqlite3
import tomllib
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from typer.testing import CliRunner

from reflectune.agents.teacher import prompts
from reflectune.loop.check import check_data
from reflectune.loop.cli import app
from reflectune.loop.run import create_run
from reflectune.state.config import DataConfig, load_config
from reflectune.state.data.lint import RULES
from reflectune.state.errors import ConfigError, DatasetError
from reflectune.state.records import Pair
from tests.worlds import make_records, write_world

SHIPPED = Path(prompts.__file__).parent


def written(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pair(instruction: str, response: str, input: str = "") -> dict[str, str]:
    return {"instruction": instruction, "input": input, "output": response}


FAULTY: list[tuple[str, Pair, str | None]] = [
    ("placeholder-input", Pair("a", "<noinput>", "b"), "<noinput>"),
    ("placeholder-input", Pair("a", " N/A ", "b"), "N/A"),
    ("placeholder-input", Pair("a", "nan", "b"), "nan"),
    ("placeholder-input", Pair("a", "None", "b"), "None"),
    ("placeholder-input", Pair("a", "None of these", "b"), None),
    ("placeholder-input", Pair("a", "", "b"), None),
    ("placeholder-response", Pair("a", "", "n/a"), "n/a"),
    ("placeholder-response", Pair("a", "", "No"), None),
    ("placeholder-instruction", Pair("nan", "", "b"), "nan"),
    ("merged", Pair("a", "", "b\n\n### Instruction:\nc"), "### Instruction"),
    ("merged", Pair("a", "", "b\nHuman: c"), "Human:"),
    ("merged", Pair("a", "", "The question: why? Human nature."), None),
    ("merged", Pair("a", "", "# Input the thing\nb"), None),
    ("merged", Pair("a", "", "### Response\nb"), "### Response"),
    ("merged", Pair("a", "", "Question: b\nQuestion 2: c"), None),
    ("merged", Pair("a", "", "b\nQuestion 2: c"), "Question 2:"),
    ("marks", Pair("a", "", "b<|im_end|>"), "<|im_end|>"),
    ("marks", Pair("[INST] a", "", "b"), "[INST]"),
    ("marks", Pair("a", "", "b < c | d > e"), None),
]


@pytest.mark.parametrize(("name", "given", "found"), FAULTY, ids=range(len(FAULTY)))
def test_rule_finds_its_fault_and_leaves_others_alone(name: str, given: Pair, found: str | None) -> None:
    (rule,) = (rule for rule in RULES if rule.name == name)
    assert rule.find(given) == found
    assert found is None or not [other.name for other in RULES if other != rule and other.find(given)]


def check(tmp_path: Path, *rows: object, **settings: Any) -> dict[str, Any]:
    return check_data(DataConfig(path=str(written(tmp_path, *rows)), **settings))


def test_check_counts_rows_fields_and_faults_with_examples(tmp_path: Path) -> None:
    rows = [
        pair("a", "b"), pair("c", "d", "N/A") | {"context": "e"}, pair("a", "b"), pair("a", " "),
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "other"}]}, 7,
    ]  # fmt: skip
    document = check(tmp_path, *rows)
    assert (document["rows"], document["rows_kept"], document["pairs"]) == (6, 4, 4)
    assert document["shapes"] == {"alpaca": 3, "messages": 1}
    fields = {(each["field"], each["place"]): each["rows"] for each in document["fields"]}
    assert fields == {
        **{(name, "pair"): 3 for name in ("instruction", "input", "output")},
        **{(name, "refused"): 1 for name in ("instruction", "input", "output")},
        ("context", "unused"): 1,
        ("messages", "pair"): 1,
    }
    (skipped,) = document["skipped"]
    examples = ("line 4: blank response", "line 6: int instead of an object")
    assert skipped == {"kind": "invalid", "number": 2, "examples": examples}
    faults = {fault["name"]: (fault["number"], fault["examples"]) for fault in document["faults"]}
    assert {name: found for name, found in faults.items() if found[0]} == {
        "blank": (1, ["line 4: blank response"]),
        "placeholder-input": (1, ["line 2: N/A"]),
        "duplicate": (1, ["line 1 and line 3"]),
        "other-response": (1, ["line 1 and line 3 and line 5"]),
    }


def test_check_refuses_no_odd_row_and_takes_a_config_or_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, {"title": "x"}, pair("a", "b") | {"tools": [1]})
    config = tmp_path / "run.toml"
    config.write_text(
        'name = "r"\n[data]\npath = "rows.jsonl"\nignore = ["tools"]\n[teacher]\nengine = "recorded"\n'
        'path = "t.jsonl"\n[student]\nmodel = "m"\n'
    )
    found = {}
    for given in (path, config):
        result = CliRunner().invoke(
            app, ["check", str(given), "--json", *(["--ask", "0"] if given == config else [])]
        )
        assert result.exit_code == 0
        document = json.loads(result.stdout)
        found[given] = {rows["kind"]: rows["number"] for rows in document["skipped"]}
    assert found == {path: {"invalid": 1, "tools": 1}, config: {"invalid": 1}}
    shown = " ".join(CliRunner().invoke(app, ["check", str(path)]).stdout.split())  # however wrapped
    for part in ("2 rows, 0 pairs", "shapes: none", "declares tools", "known faults: none", "rows left out"):
        assert part in shown


def test_check_takes_columns(tmp_path: Path) -> None:
    path = written(tmp_path, {"ask": "a", "reply": "b"})
    options = ["--columns", "instruction=ask,response=reply", "--json"]
    assert json.loads(CliRunner().invoke(app, ["check", str(path), *options]).stdout)["pairs"] == 1


def test_check_of_no_rows_says_so(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("[]")
    assert check_data(DataConfig(path=str(path)))["rows"] == 0


@pytest.mark.slow
@pytest.mark.no_cover
def test_check_holds_16_bytes_a_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    peaks = []
    for number in (2000, 22_000):
        with path.open("w") as file:
            file.writelines(json.dumps(pair(f"{n}", "y " * 50)) + "\n" for n in range(number))
        check_data(DataConfig(path=str(path), limit=10))  # loads numpy
        tracemalloc.start()
        try:
            document = check_data(DataConfig(path=str(path)))
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert document["pairs"] == number
    assert peaks[1] - peaks[0] < 20_000 * 20  # the array grows by an eighth


@pytest.mark.slow
def test_run_asks_before_it_leaves_most_rows_out_and_names_fields_it_does_not_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_world(tmp_path, samples=8, data={"holdout": 2, "odd": {"tools": "skip"}})
    rows: list[dict[str, Any]] = [row | {"context": "a\nlight"} for row in make_records(8)]
    rows += [row | {"tools": "[{}]"} for row in make_records(9)]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    with pytest.raises(DatasetError, match=r"only 8 of 17 rows give a pair.*\(9 tools\).*run --yes"):
        create_run(load_config(config), tmp_path / "runs")
    run = create_run(load_config(config), tmp_path / "runs", accept_few=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert "context (8 rows)" in line
    with closing(sqlite3.connect(run.lineage)) as database:
        assert database.execute("SELECT kind, number FROM skipped_rows").fetchall() == [("tools", 9)]
    quiet = load_config(config, ["name=quiet", 'data.ignore=["context", "tools"]'])
    create_run(quiet, tmp_path / "runs")
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_odd_rows_of_a_file_are_told_by_run_show_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_world(tmp_path, samples=8, data={"holdout": 2, "odd": {"tools": "skip"}})
    rows = [*make_records(8), *[row | {"tools": "[{}]"} for row in make_records(3)]]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    for command in (
        ["run", str(config), "--set", "rounds=1"],
        ["show", "tiny"],
        ["report", "tiny", "-o", "report.html"],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        told = (tmp_path / "report.html").read_text() if command[0] == "report" else result.output
        what = "left out of the data: 3 rows (tools: 3)" if command[0] == "run" else "index 8: declares tools"
        assert what in " ".join(told.split()), command


def test_run_of_conversations_refuses_prompts_without_words_for_a_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_world(tmp_path, samples=8, data={"holdout": 2}, teacher={"prompts": "own.toml"})
    rows = [row | {"system": "Be brief."} for row in make_records(8)]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    shipped = tomllib.loads((SHIPPED / "prompts.toml").read_text())
    del shipped["context"]
    (tmp_path / "own.toml").write_text(tomli_w.dumps(shipped))
    result = CliRunner().invoke(app, ["run", str(config)])
    assert isinstance(result.exception, ConfigError)
    assert re.match(r"teacher.prompts: the file has no section \[context\], .+$", str(result.exception))
    assert not (tmp_path / "runs" / "tiny").exists()
