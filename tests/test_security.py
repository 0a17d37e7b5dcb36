"""What strangers may have written stays text; names stay in their folder; nobody is called."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from unittest import mock

import pytest

from reflectune.state.config import (
    DataConfig,
    RunConfig,
    TeacherConfig,
    change_config,
    load_config,
    parse_model,
)
from reflectune.state.data.datasets import read_dataset
from reflectune.state.errors import ConfigError, DatasetError, ReflectuneError, StoreError
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import Conversation, SkippedRows, Turn
from reflectune.state.text import inert, one_line, to_json
from tests.lineages import exchange, make_store
from tests.tiny_models import save_tiny_llama
from tests.worlds import ROOT, child_environment, command, invoke, make_recording, write_world

pytestmark = pytest.mark.no_cover

# Sets the window's title, clears the screen, switches colours, writes from right to left.
STEERING = "\x1b]0;owned\x07 \x1b[2J\x1b[31mred \x9b1mbold \u202erab\u2066 \r over \x08\x7f"
MARKUP = "[red]not red[/red] [link=file:///etc/passwd]here[/link] [/] <script>alert(1)</script>"
SQL = "'); DROP TABLE samples; --"
FORMULA = '=HYPERLINK("http://evil.example","here")'
HOSTILE = f"{STEERING} {MARKUP} {SQL} {FORMULA}"
# What a terminal could take for an order; colours are rich's own and only where they are wanted.
ORDERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")

BAD_NAMES = [
    "..", ".", "", "/", "/etc", "../tiny", "tiny/", "tiny/../tiny", "./tiny", "tiny/adapters", "a\\b",
    ".hidden", "-x", " x", "x ", "x\n", "x\x00", "x\x1b[31m", "\u202ex", "x" * 101, "~", "*", "t*",
]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, "tiny", over data that is hostile in every field, with a teacher that is too."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, samples=12, data={"holdout": 2}, student={"max_length": 4096})
    save_tiny_llama(folder / "student", context=4096)
    records = [
        {"instruction": f"Name {index}. {HOSTILE}", "input": HOSTILE if index % 3 == 0 else "",
         "output": f"Thing {index}. {HOSTILE}", HOSTILE: HOSTILE}
        for index in range(12)
    ]  # fmt: skip
    (folder / "data.json").write_text(json.dumps(records))
    entries = make_recording([{**record} for record in records], ("instruction", "response"))
    for entry in entries:
        entry["new_response"] = f"{entry['new_response']} {HOSTILE}"
    (folder / "teacher.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert invoke("run", "config.toml", "--set", "rounds=1") == 0
    return folder


@pytest.fixture
def inside(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(world)
    return world


def printed(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    """What a command prints, and what it complains of."""
    capsys.readouterr()
    assert invoke(*arguments) == code, arguments
    return capsys.readouterr()


def assert_is_inert_line(said: str) -> None:
    assert len(said.splitlines()) == 1
    assert not ORDERS.search(said)


# Text


@pytest.mark.slow
@pytest.mark.parametrize("colours", [False, True])
@pytest.mark.parametrize(
    "arguments", [["show", "tiny"], ["runs"], ["trace", "tiny", "0"], ["trace", "tiny", "1"]]
)
def test_nothing_in_the_data_can_steer_a_terminal(
    inside: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    colours: bool,
) -> None:
    if colours:
        monkeypatch.setenv("FORCE_COLOR", "1")
    out, err = printed(capsys, *arguments)
    assert not ORDERS.search(COLOURS.sub("", out) if colours else out)
    assert err == ""
    if arguments[0] == "trace":
        shown = " ".join(re.sub(r"[\[{][-+]|[-+][\]}]", "", COLOURS.sub("", out)).split())
        assert "[red]not red[/red]" in shown, "markup is shown, not obeyed"
        assert "DROP TABLE samples" in shown


@pytest.mark.parametrize("arguments", [["show", "tiny"], ["runs"], ["trace", "tiny", "0"]])
def test_json_cannot_steer_a_terminal_and_reads_back_equal(
    inside: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    out, _ = printed(capsys, *arguments, "--json")
    assert not ORDERS.search(out)
    document = json.loads(out)
    if arguments[0] == "trace":
        assert document["versions"][0]["instruction"] == f"Name 0. {HOSTILE}"
        assert document["versions"][0]["input"] == HOSTILE


@pytest.mark.parametrize("arguments", [["show", "talk"], ["trace", "talk", "0"]])
@pytest.mark.parametrize("option", [None, "--json", "--context"])
def test_no_context_and_no_left_out_row_can_steer_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], option: str | None
) -> None:
    (tmp_path / "talk").mkdir()
    more = json.dumps({"name": HOSTILE, "tool_calls": [{"name": HOSTILE, "arguments": {HOSTILE: 1}}]})
    turns = [Turn("system", HOSTILE, more), Turn(HOSTILE, HOSTILE), Turn("user", "a"), Turn("assistant", "b")]
    with make_store(tmp_path / "talk" / "lineage.db", train=0, holdout=0) as store:
        store.add_samples([exchange("s", 0, Conversation(tuple(turns)), 2, **{HOSTILE: HOSTILE})])
        store.add_skipped([SkippedRows(HOSTILE, 3, (HOSTILE,))])
    options = [option] if option and (option == "--json" or arguments[0] == "trace") else []
    out, _ = printed(capsys, *arguments, *options, "--runs", tmp_path)
    assert not ORDERS.search(out)
    assert "[red]not red[/red]" in out
    if option == "--json":
        told = json.loads(out)
        assert HOSTILE in (told["skipped"][0] if "skipped" in told else told["context"][1]).values()


def test_sql_in_the_data_is_text(inside: Path) -> None:
    with sqlite3.connect(inside / "runs/tiny/lineage.db") as connection:
        assert connection.execute("SELECT COUNT(*) FROM samples").fetchone() == (12,)
        held = connection.execute("SELECT COUNT(*) FROM versions WHERE instr(response, ?)", [SQL]).fetchone()
        assert held[0] >= 12
    history = LineageReader.open(inside / "runs/tiny/lineage.db")
    with history, pytest.raises(StoreError, match="no sample"):
        history.trace("' OR 1=1; --")


@pytest.mark.parametrize(
    ("format", "what", "texts"),
    [("alpaca", "pool", 1), ("messages", "training", 1), ("sharegpt", "preferences", 2)],
)
def test_exports_give_every_text_back_as_it_is(
    inside: Path, tmp_path: Path, format: str, what: str, texts: int
) -> None:
    out = tmp_path / "out.jsonl"
    assert invoke("export", "tiny", "--what", what, "--format", format, "-o", out) == 0
    content = out.read_text(encoding="utf-8")
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", content)  # one record a line, all else escaped
    lines = content.split("\n")[:-1]
    assert lines
    for line in lines:  # a rewritten instruction is harmless, no response is
        assert to_json(json.loads(line)).count(to_json(HOSTILE)[1:-1]) >= texts


@pytest.mark.parametrize(
    "content",
    [
        json.dumps([{HOSTILE + "\nsecond line": 1}]),
        json.dumps({HOSTILE: 1}),
        json.dumps([{"messages": [{"role": HOSTILE, "content": "x"}]}]),
        f"{HOSTILE},b\n1,2\n".replace("\r", ""),
        json.dumps([{"instruction": "a", HOSTILE: "b"}]),
    ],
)
def test_errors_that_quote_data_are_one_line_that_steers_nothing(tmp_path: Path, content: str) -> None:
    file = tmp_path / "data"
    file.write_text(content)
    with pytest.raises(DatasetError) as caught:
        read_dataset(DataConfig(path=str(file)))
    assert_is_inert_line(str(caught.value))


def test_errors_are_one_line_whatever_they_quote(
    inside: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFLECTUNE_DEBUG", "")  # which --debug sets for good
    two = f"{HOSTILE}\nsecond\u2028third"
    overview = mock.Mock(side_effect=ReflectuneError(two))
    monkeypatch.setattr("reflectune.loop.show.documents.overview", overview)
    out, _ = printed(capsys, "runs", "--json")  # it has a line in the table
    (listed,) = json.loads(out)
    assert listed["status"] == "unreadable"
    assert_is_inert_line(listed["error"])
    overview.side_effect = ValueError(two)
    for arguments, code in ((["runs"], 1), (["show", two], 2)):
        assert_is_inert_line(printed(capsys, *arguments, code=code)[1])
    assert not ORDERS.search(printed(capsys, "--debug", "runs", code=1)[1])


def test_text_that_is_shown_is_inert_and_json_keeps_it() -> None:
    assert inert("red \x1b[31m\rover\u202e\x9b2J\ud800") == "red \ufffd[31m\ufffdover\ufffd\ufffd2J\ufffd"
    assert inert("tab\tand\nline") == "tab\tand\nline"
    assert one_line("a\n\n b\r\nc\u2028d\x85e\x0bf  g") == "a b c d e f  g"
    assert to_json({"a\x9b": ["\x1b\x7f\u202e\ud800 \n é"]}) == (
        '{"a\\u009b": ["\\u001b\\u007f\\u202e\\ud800 \\n é"]}'
    )


# Names


@pytest.mark.parametrize("name", BAD_NAMES)
def test_no_run_can_be_named_out_of_its_folder(
    inside: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    before = sorted(Path().rglob("*"))
    for arguments in (
        ["run", "config.toml", "--name", name],
        ["resume", "--", name],
        ["show", "--", name],
        ["trace", "--", name, "0"],
        ["export", "-o", "out.json", "--", name],
    ):
        out, err = printed(capsys, *arguments, code=2)
        assert out == ""
        assert_is_inert_line(err)
    assert sorted(Path().rglob("*")) == before


def test_a_config_file_cannot_name_a_run_out_of_its_folder() -> None:
    teacher = {"engine": "recorded", "path": "x"}
    config = {"name": "fine", "data": {"path": "x"}, "teacher": teacher, "student": {"model": "x"}}
    assert RunConfig.model_validate(config).name == "fine"
    for name in BAD_NAMES:
        with pytest.raises(ValueError, match="name"):
            RunConfig.model_validate(config | {"name": name})


def test_a_link_in_the_runs_folder_is_no_run(inside: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "linked").symlink_to(inside / "runs/tiny")
    assert RunFolder.all(runs) == []
    for arguments in (["show", "linked"], ["resume", "linked"], ["export", "linked", "-o", tmp_path / "x"]):
        assert invoke(*arguments, "--runs", runs) == 2
    with pytest.raises(StoreError, match=r"no run called linked in .*; that is a link to elsewhere; move"):
        RunFolder.find(runs, "linked")
    assert not (tmp_path / "x").exists()
    with pytest.raises(ConfigError, match="a run called linked exists"), RunFolder.create(runs, "linked"):
        pass


def test_a_folder_with_a_hostile_name_is_listed_inertly(
    inside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "\x1b[31m[bold]\u202ex"
    folder.mkdir(parents=True)
    (folder / "lineage.db").write_text("no database")
    out, _ = printed(capsys, "runs", "--runs", tmp_path / "runs")
    assert "\ufffd[31m[bold]\ufffdx" in out
    assert not ORDERS.search(out)
    _, err = printed(capsys, "show", "nothing", "--runs", tmp_path / "runs", code=2)
    assert not ORDERS.search(err)


# Secrets


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("http://127.0.0.1:9?api_key=s3cret", "it holds a query"),
        ("http://127.0.0.1:9/v1?s3cret", "it holds a query"),
        ("http://127.0.0.1:9/v1?api-version=1&sig=s3cret", "it holds a query"),
        ("http://127.0.0.1:9/v1#s3cret", "it holds a fragment"),
        ("http://bob:s3cret@127.0.0.1:9", "it holds a user name"),
    ],
)
def test_an_address_with_a_key_in_it_is_not_even_stored(
    inside: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, address: str, fault: str
) -> None:
    settings = {"engine": "openai", "model": "m", "path": None, "base_url": address}
    write_world(tmp_path, samples=12, teacher=settings)
    path = tmp_path / "config.toml"
    _, err = printed(capsys, "run", path, "--runs", tmp_path / "runs", code=2)
    why = f"teacher.base_url: {fault}; name a key's variable in api_key_env"
    assert err == f"reflectune: {path}: {why}\n"
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ConfigError, match=fault):
        change_config(load_config(path, ["teacher.base_url=http://a"]), [f"teacher.base_url={address}"])


def test_a_key_in_the_place_of_its_variable_is_neither_stored_nor_said() -> None:
    values = {"engine": "openai", "model": "m", "api_key_env": "sk-s3cret"}
    with pytest.raises(ConfigError, match="api_key_env: want the name of an environment variable") as caught:
        parse_model(TeacherConfig, values, "config.toml")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("urls", ["localhost:8000", ["http://a.b/v1", "localhost:8000"]])
def test_an_address_is_one_of_the_web(urls: str | list[str]) -> None:
    values = {"engine": "openai", "model": "m", "base_url": urls}
    with pytest.raises(ConfigError, match=r"base_url: want http://\.\.\. or https://\.\.\.$"):
        parse_model(TeacherConfig, values, "config.toml")


# The network

_WATCH = """
    import os, sys

    def watch(event, arguments):
        # Whatever leaves the machine begins with one of these, in Python at least.
        if event in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind"):
            place = repr(arguments[1])
        elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
            place = repr(arguments[0])
        else:
            return
        with open(os.environ["WATCHED"], "a") as file:
            file.write(f"{event} {place}\\n")

    sys.addaudithook(watch)
"""


def watched(folder: Path, *arguments: object) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run Python in a process that notes every connection that is tried, as of a user who set nothing."""
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site/sitecustomize.py").write_text(textwrap.dedent(_WATCH))
    log = folder / "watched"
    log.write_text("")
    environment = child_environment(PYTHONPATH=f"{folder / 'site'}{os.pathsep}{ROOT}", WATCHED=str(log))
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "LANGSMITH_TRACING"):
        environment.pop(name, None)
    done = subprocess.run(
        list(map(str, arguments)), cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    return done, log.read_text().splitlines()


def test_the_watch_sees_who_calls_out(tmp_path: Path) -> None:
    code = (
        "import socket, urllib.request\n"
        "for call in (lambda: urllib.request.urlopen('http://192.0.2.1/', timeout=0.01),\n"
        "             lambda: socket.getaddrinfo('example.invalid', 80)):\n"
        "    try: call()\n"
        "    except OSError: pass"
    )
    done, calls = watched(tmp_path, sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert "socket.connect ('192.0.2.1', 80)" in calls
    assert "socket.getaddrinfo 'example.invalid'" in calls


@pytest.mark.slow
def test_a_run_with_local_models_calls_nobody(tmp_path: Path) -> None:
    local = {"engine": "transformers", "model": "teacher", "path": None, "max_tokens": 8}
    sections = {"selection": {"keep": "all"}, "stop": {"max_failures": 1}}  # the teacher has nothing to say
    write_world(tmp_path, samples=6, data={"holdout": 2}, teacher=local, **sections)
    save_tiny_llama(tmp_path / "teacher", context=4096)
    done, calls = watched(tmp_path, *command("run", "config.toml", "--set", "rounds=1"))
    assert done.returncode == 0, done.stderr
    assert "round 1 · refinetune · 4 pairs" in done.stderr
    loopback = re.compile(r"'(127\.\d+\.\d+\.\d+|::1|localhost)'")
    assert [call for call in calls if not loopback.search(call)] == []
