import io
import itertools
import time

import pytest
from rich.console import Console

from reflectune.loop import progress
from reflectune.loop.progress import BarDisplay, LineDisplay, open_display


def test_line_display_writes_begin_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    with LineDisplay().stage("round 1 · select", total=4, done=1) as stage:
        stage.update(4, 4, accepted="2 of 3")
    out, err = capsys.readouterr()
    first, last = err.splitlines()
    assert out == ""
    assert first == "round 1 · select: 1/4"
    assert last.startswith("round 1 · select: 4/4, ")
    assert last.endswith("/s, accepted 2 of 3")


def test_displays_show_no_total_until_it_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    with LineDisplay().stage("refinetune · 76 pairs", total=0) as stage:
        stage.update(2, 2)
    first, last = capsys.readouterr().err.splitlines()
    assert first == "refinetune · 76 pairs"
    assert last.startswith("refinetune · 76 pairs: 2/2")
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    with BarDisplay(console).stage("refinetune", total=0) as stage:
        stage.update(2, 2)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "0/0" not in text
    assert "2/2" in text


def test_line_display_tells_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 100.0, 110.0, 110.0, 110.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with LineDisplay().stage("score", total=100) as stage:
        stage.update(20, 100)  # 20 in 10 s: 2/s, 80 left
    assert capsys.readouterr().err.splitlines()[1] == "score: 20/100, 2.0/s, 40 s left"


def test_bar_display_shows_count_rate_and_facts() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    shown = BarDisplay(console)
    with shown.stage("round 1 · [reflect]", total=10, done=5) as stage:
        stage.update(10, 10, failed="3")
    shown.say("round 1: [no] pair")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "round 1 · [reflect]" in text
    assert "10/10" in text
    assert "failed 3" in text
    assert "round 1: [no] pair" in text


def test_bar_display_shows_stages_that_run_at_once_below_one_another() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    shown = BarDisplay(console)
    with shown.stage("reflect", total=10) as reflect:
        with shown.stage("select", total=10) as select:
            reflect.update(7, 10)
            select.update(3, 10)
        reflect.update(8, 10)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert any("reflect" in one and "select" in other for one, other in itertools.pairwise(lines))
    assert "8/10" in lines[-2] + lines[-1] + lines[-3]
    with shown.stage("evaluate", total=2):
        pass
    assert "select" not in console.file.getvalue().splitlines()[-1]  # type: ignore[attr-defined]


HOLD_UP = "waiting for the server: 12 s (\x1b[1mHTTP 503)"
SHOWN = "waiting for the server: 12 s (\ufffd[1mHTTP 503)"


def test_line_display_tells_what_holds_up_the_work_while_it_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY", 0.01)
    told, text = HOLD_UP, ""
    with LineDisplay().stage("reflect", total=4) as stage:
        stage.watch(tuple, lambda: told)
        until = time.monotonic() + 10
        while f"reflect: 0/4, {SHOWN}\n" not in text and time.monotonic() < until:
            text += capsys.readouterr().err
        told = ""
        stage.update(4, 4)
    assert SHOWN in text
    assert "waiting" not in capsys.readouterr().err.splitlines()[-1]


def test_bar_display_tells_what_holds_up_the_work_in_place_of_the_facts() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    told = HOLD_UP
    with BarDisplay(console).stage("reflect", total=4) as stage:
        stage.watch(tuple, lambda: told)
        stage.update(1, 4, failed="3")
        stage.progress.refresh()
        held_up = console.file.getvalue()  # type: ignore[attr-defined]
        told = ""
    assert SHOWN in held_up
    assert "failed 3" not in held_up
    assert "failed 3" in console.file.getvalue()  # type: ignore[attr-defined]


def test_display_is_plain_where_stderr_is_no_terminal() -> None:
    assert isinstance(open_display(), LineDisplay)
