"""The commands that look at runs: what they print piped and on a terminal, as JSON, and when they end."""

import fcntl
import json
import os
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reflectune.loop.cli.running import say_what_is_left_out
from reflectune.loop.show.terminal.search import note_on
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.index import SampleQuery
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import SkippedRows
from tests.lineages import make_store
from tests.test_comparison import write_run
from tests.worlds import child_environment, command, reflectune, run_process

pytestmark = pytest.mark.slow

SETTINGS = {"TERM": "xterm-256color", "COLUMNS": "", "NO_COLOR": "", "REFLECTUNE_RUNS": "runs"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs over the same data that took different proposals: "one" and "two"."""
    folder = tmp_path_factory.mktemp("world")
    for name, accepts in (("one", "a"), ("two", "ab")):
        (folder / "runs" / name).mkdir(parents=True)
        write_run(folder / "runs" / name / "lineage.db", accepts=accepts)
        with LineageWriter.open(folder / "runs" / name / "lineage.db") as store:
            store.set_run_status("finished")
    return folder


def run_here(world: Path, *arguments: object, **environment: str) -> tuple[int, str, str]:
    """A command, piped: its exit code, what it printed, and what it complained of."""
    done = reflectune(*arguments, cwd=world, **SETTINGS | environment)
    return done.returncode, done.stdout, done.stderr


def piped(world: Path, *arguments: object, **environment: str) -> str:
    code, out, err = run_here(world, *arguments, **environment)
    assert (code, err) == (0, "")
    return out


def document(world: Path, *arguments: object) -> Any:
    return json.loads(piped(world, *arguments, "--json"))


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, world: Path, *arguments: object) -> None:
        self.here, there = os.openpty()
        fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # rows and columns
        variables = child_environment(**SETTINGS)
        self.process = subprocess.Popen(
            command(*arguments),
            cwd=world,
            stdin=there,
            stdout=there,
            stderr=there,
            env={key: value for key, value in variables.items() if value},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(there)
        self.written = b""

    def read_until(self, is_time: Callable[[str], bool]) -> str:
        """What it has written by some moment, or until it closed the other end."""
        while not is_time(self.written.decode(errors="replace")):
            assert select.select([self.here], [], [], 60)[0], self.written[-2000:]
            try:
                self.written += os.read(self.here, 65536)
            except OSError:  # how Linux says that nobody is there any more
                break
        return self.written.decode(errors="replace")

    def read_to_end(self) -> str:
        text = self.read_until(lambda written: False)
        self.process.wait(60)
        os.close(self.here)
        return text.replace("\r\n", "\n")


def on_a_terminal(world: Path, *arguments: object, columns: int = 80, **environment: str) -> str:
    """What a command prints where rich takes standard output for a terminal of so many columns."""
    return piped(world, *arguments, FORCE_COLOR="1", COLUMNS=str(columns), **environment)


def without_style(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


COMMANDS = (
    ("runs",),
    ("show", "one"),
    ("trace", "one", "0"),
    ("search", "one"),
    ("diff", "one", "0", "1"),
    ("compare", "one", "two"),
)


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
def test_inspecting_fits_a_terminal_and_is_plain_in_a_pipe(world: Path, arguments: tuple[str, ...]) -> None:
    for columns in (80, 200):
        lines = without_style(on_a_terminal(world, *arguments, columns=columns)).splitlines()
        assert max(map(len, lines)) <= columns
        assert not [line for line in lines if "…" in line]
    text = piped(world, *arguments)
    assert not re.search("[─-╿\x1b]", text)
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_inspecting_says_the_same_with_and_without_colour(world: Path) -> None:
    for arguments in COMMANDS[1:2] + COMMANDS[-1:]:
        coloured = on_a_terminal(world, *arguments)
        plain = on_a_terminal(world, *arguments, NO_COLOR="1")
        assert without_style(coloured) == without_style(plain)
        assert not re.search(r"\x1b\[(\d+;)*3\d", plain)
    assert "{+better+}" in without_style(on_a_terminal(world, "trace", "one", "0", NO_COLOR="1"))


def test_inspecting_piped_keeps_a_long_line_whole_unless_columns_are_set(tmp_path: Path, world: Path) -> None:
    shutil.copytree(world / "runs", tmp_path / "runs")
    long = "word " * 60
    with LineageWriter.open(tmp_path / "runs/one/lineage.db") as store, store.transaction() as database:
        database.execute("UPDATE versions SET instruction = ? WHERE sample_id = 'a'", [long])
    assert long.strip() in piped(tmp_path, "trace", "one", 0)
    folded = piped(tmp_path, "trace", "one", 0, COLUMNS="60")
    assert max(map(len, folded.splitlines())) <= 60
    assert folded.count("word") == 60


def test_inspecting_in_a_process_of_its_own_writes_the_same(world: Path) -> None:
    done = run_process("trace", "one", 0, cwd=world, **SETTINGS)
    assert (done.returncode, done.stdout, done.stderr) == (0, piped(world, "trace", "one", 0), "")


def test_search_finds_samples_by_words_outcome_and_training(world: Path) -> None:
    few = ("search", "one", "--round", 1, "--limit", 1)
    found = document(world, *few)
    assert list(found) == ["name", "found", "shown", "notes", "samples"]
    assert (found["name"], found["found"], found["shown"]) == ("one", 3, 1)
    assert list(found["samples"][0]) == [
        "sample", "position", "split", "round", "instruction", "response", "length_growth", "trained", "text",
    ]  # fmt: skip
    for conditions, positions in (
        (("--outcome", "accepted"), [0]),
        (("--outcome", "refused", "--phase", "response"), [1]),
        (("--outcome", "refused", "--phase", "instruction"), []),
        (("--trained",), [0]),
        (("--not-trained", "--descending"), [2, 1]),
        (("answer", "b"), [1]),
        (("--min-length-growth", "1"), [0, 1, 2]),
        (("--max-length-growth", "0.5"), []),
    ):
        told = document(world, "search", "one", "--round", 1, *conditions)
        assert [row["position"] for row in told["samples"]] == positions, conditions
    assert "3 match, 1 shown; see one with `reflectune trace one 0`" in piped(world, *few)
    told = document(world, "search", "one", "--min-ifd-change", 0)
    assert (told["samples"], told["notes"]) == ([], ["no IFD has been compared yet"])


def test_run_says_at_its_start_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path / "one")
    folder.path.mkdir()
    with make_store(folder.lineage) as store:
        say_what_is_left_out(folder)
        store.add_skipped([SkippedRows("tools", 1200, ("row 3: calls f",)), SkippedRows("media", 1, ())])
    say_what_is_left_out(folder)
    assert capsys.readouterr().err == (
        "left out of the data: 1,201 rows (tools: 1,200, media: 1); "
        f"`reflectune show one --runs {tmp_path}` has examples\n"
    )


def test_search_says_that_changes_of_rounds_do_not_compare() -> None:
    both = ("ifd_change", "r_ifd_change")
    (note,) = note_on(SampleQuery(sort="r_ifd_change"), "ifd+r-ifd", both)
    assert note.startswith("changes of different rounds are under different students")
    for query in (SampleQuery(sort="r_ifd_change", round=1), SampleQuery(), SampleQuery(min_ifd_change=0.5)):
        assert note_on(query, "ifd+r-ifd", both) == []


@pytest.mark.parametrize(
    ("policy", "compared"),
    [
        ("ifd+r-ifd", ("IFD", "r-IFD")),
        ("ifd", ("IFD",)),
        ("r-ifd", ("r-IFD",)),
        ("perplexity", ()),
        ("random", ()),
    ],
)
def test_search_says_which_changes_a_policy_leaves_unknown(policy: str, compared: tuple[str, ...]) -> None:
    for name, sorts, bounds in (
        ("IFD", SampleQuery(sort="ifd_change"), SampleQuery(min_ifd_change=0.0)),
        ("r-IFD", SampleQuery(sort="r_ifd_change"), SampleQuery(max_r_ifd_change=0.0)),
    ):
        never, yet = f"policy {policy} compares no {name}", f"no {name} has been compared yet"
        note = yet if name in compared else never
        assert note_on(sorts, policy, ()) == note_on(bounds, policy, ()) == [note]
    assert note_on(SampleQuery(), policy, ()) == []


def test_diff_has_the_documented_keys(world: Path) -> None:
    told = document(world, "diff", "one", 0, 1)
    assert list(told) == [
        "name", "before", "after", "pairs", "decisions", "acceptance", "response_characters", "scores",
        "held_out", "training", "samples",
    ]  # fmt: skip
    assert told["pairs"]["response"] == 1
    assert list(told["samples"][0]) == [
        "sample", "position", "accepted", "r_ifd", "characters", "before", "after",
    ]  # fmt: skip
    assert "[-answer-]{+better+} a" in piped(world, "diff", "one", 0, 1)
    assert document(world, "diff", "one", 0, 1, "--limit", 0)["samples"] == []


def test_compare_of_two_runs_has_the_documented_keys(world: Path) -> None:
    told = document(world, "compare", "one", "two")
    assert list(told) == [
        "names", "status", "same", "base_models", "config", "rounds", "samples", "decisions",
    ]  # fmt: skip
    assert told["names"] == ["one", "two"]
    assert re.search(r"a new pair in two only +1 +33%", piped(world, "compare", "one", "two"))


def test_compare_of_two_rounds_is_diff(world: Path) -> None:
    for options in ((), ("--limit", 0), ("--sort", "position")):
        told = document(world, "compare", "one@0", "one@1", *options)
        assert told == document(world, "diff", "one", 0, 1, *options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("search one --sort cost", "'r-ifd-change'"),
        ("search one --min-ifd-change nan", "--min-ifd-change is nan; give a finite number"),
        ("search one --max-length-growth inf", "--max-length-growth is inf; give a finite number"),
        ("search one --round 9", "one: there is no round 9; the last one is 1"),
        (
            "search one --min-r-ifd-change 0.5 --max-r-ifd-change -0.5",
            "--min-r-ifd-change 0.5 is above --max-r-ifd-change -0.5; nothing lies between",
        ),
        ("diff one 0 2", "round 2 is not complete"),
        ("diff one 1 1", "are the same"),
        ("diff one 0 last", "last is no round"),
        ("show one --round 2", "one: there is no round 2; the last one is 1"),
        ("show one --round 1 --watch", "leave it or --round out"),
        ("compare one one", "give the names of two runs, or two rounds of one run, as one@0 one@1"),
        ("compare one@0 two@1", "give the names of two runs"),
        ("compare one one@1", "give the names of two runs"),
        ("compare one@0 one@last", "last is no round; want a number such as 2, or best"),
        ("compare one@0 one@", "nothing is no round"),
        ("show one --watch", "needs a terminal"),
        ("show one --watch --json", "leave one of them out"),
    ],
)
def test_inspecting_refuses_what_makes_no_sense(world: Path, arguments: str, message: str) -> None:
    code, out, err = run_here(world, *arguments.split())
    assert (code, out) == (2, "")
    assert err.count("\n") == 1, err
    assert message in err


def test_samples_is_another_word_for_search(world: Path) -> None:
    assert document(world, "samples", "one") == document(world, "search", "one")
    listed = piped(world, "--help")
    assert "│ search " in listed
    assert "│ samples " not in listed


@pytest.mark.parametrize(("how", "code"), [("end", 0), ("ctrl-c", 130), ("sigterm", 143)])
def test_watch_ends_with_the_run_or_when_it_is_told_to(
    tmp_path: Path, world: Path, how: str, code: int
) -> None:
    shutil.copytree(world / "runs", tmp_path / "runs")
    folder = RunFolder(tmp_path / "runs/one")
    with folder.lock(), LineageWriter.open(folder.lineage) as store:
        store.set_run_status("running")
        terminal = Terminal(tmp_path, "show", "one", "--watch")
        watching = "Ctrl-C ends watching"
        assert watching in terminal.read_until(lambda text: watching in text)
        match how:
            case "end":
                store.db.execute("PRAGMA busy_timeout = 0")  # the writer waits for nobody
                for number in range(200):
                    store.add_seconds(1, "select", 0.01 * number)
                store.set_run_status("finished")
            case "ctrl-c":
                os.write(terminal.here, b"\x03")
            case "sigterm":
                terminal.process.send_signal(signal.SIGTERM)
        text = terminal.read_to_end()
    assert terminal.process.returncode == code
    # The terminal has its screen and its cursor back.
    assert text.count("\x1b[?1049h") == text.count("\x1b[?1049l") == 1
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    after = text[text.rindex("\x1b[?1049l") :]
    assert ("one: finished" in after) == (how == "end")
    assert "Traceback" not in text


def test_watch_of_a_run_that_does_not_go_on_shows_it_once(world: Path) -> None:
    terminal = Terminal(world, "show", "one", "--watch")
    assert "one: finished" in terminal.read_to_end()
    assert terminal.process.returncode == 0
