"""How runs, rounds and found samples look in a terminal."""

import io
from typing import Any

import pytest
from rich.console import Console

from reflectune.loop.show.terminal.layout import tabulate
from reflectune.loop.show.terminal.runs import render_rounds, render_runs
from reflectune.loop.show.terminal.search import render_found


def shown(renderable: Any, width: int = 100, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None, **options)
    console.print(renderable, markup=False, highlight=False, crop=False)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_rounds_under_way_have_dashes_for_what_is_not_known() -> None:
    phase = {"reflected": 0, "unchanged": 0, "failed": 0, "accepted": 0}
    row = {
        "round": 0, "student": None, "pool": 5, "training": 0, "frozen": 0,
        "instruction": phase, "response": phase,
        "ifd": {"mean": None, "median": None}, "r_ifd": {"mean": None, "median": None},
        "response_tokens": None, "evaluations": {"nll": 2.5},
        "teacher": {
            "calls": 0, "cached": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost_usd": 0.0,
            "tokens_per_accepted": None, "cost_per_accepted_usd": None,
        },
        "seconds": {"reflect": 1.25},
    }  # fmt: skip
    unknown = {"calls": 9, "prompt_tokens": None, "completion_tokens": None, "cost_usd": None}
    other = row | {"round": 1, "student": "s1", "evaluations": {}, "teacher": row["teacher"] | unknown}
    run = {"name": "r", "status": "running", "stop_reason": None, "rounds": [row, other]}
    lines = shown(render_rounds(run), width=80).splitlines()
    assert lines[:3] == [
        "r: running",
        "accepted 0 of 0 proposals (-) · 9 teacher calls · 2.5 seconds",
        "round 1: student s1 is trained on 0 pairs",
    ]
    assert [line.split() for line in lines if line.startswith(("0 ", "1 "))] == [
        ["1", "instruction", "0", "0", "0", "0", "-"],
        ["1", "response", "0", "0", "0", "0", "-"],
        ["0", "-", "0", "2.500", "1.2"],
        ["1", "s1", "0", "-", "1.2"],
        ["1", "5", "-", "-", "-", "-", "-"],
        ["1", "9", "0", "-", "-", "-", "-", "-"],
    ]


def test_rounds_of_a_large_dataset_fit_80_columns() -> None:
    instruction = {"reflected": 21000, "unchanged": 30000, "failed": 1002, "accepted": 12345}
    response = {"reflected": 38000, "unchanged": 12000, "failed": 2002, "accepted": 33333}
    row = {
        "round": 1, "student": "s1", "pool": 52002, "training": 33000, "frozen": 9001,
        "instruction": instruction, "response": response,
        "ifd": {"mean": 0.5, "median": 0.5}, "r_ifd": {"mean": 0.5, "median": 0.5},
        "response_tokens": 123.4, "evaluations": {"nll": 2.5},
        "teacher": {
            "calls": 104004, "cached": 100002, "prompt_tokens": 70200100, "completion_tokens": 50300200,
            "cost_usd": 1234.5, "tokens_per_accepted": 2638.04, "cost_per_accepted_usd": 0.02703,
        },
        "seconds": {"reflect": 12345.6},
    }  # fmt: skip
    run = {"name": "r", "status": "running", "stop_reason": None, "rounds": [row]}
    for terminal in (True, False):
        lines = shown(render_rounds(run), width=80, force_terminal=terminal).splitlines()
        rows = [line.split() for line in lines]
        assert ["1", "instruction", "21000", "30000", "1002", "12345", "59%", "9001"] in rows
        assert ["1", "response", "38000", "12000", "2002", "33333", "88%", "9001"] in rows
        assert ["1", "52002", "0.5000", "0.5000", "0.5000", "0.5000", "123.4"] in rows
        paid = ["1", "104004", "100002", "70200100", "50300200", "1234.5000", "2638.0", "0.0270"]
        assert paid in rows
        assert any("Left alone after repeated refusals: 9001 in round 1" in line for line in lines)
        assert not terminal or max(map(len, lines)) <= 80


NOTHING = {"reflected": 0, "unchanged": 0, "failed": 0, "accepted": 0}
UNKNOWN = {"mean": None, "median": None}
ROUND = {
    "round": 1, "student": "s1", "pool": 9, "training": 0, "frozen": 0, "instruction": NOTHING,
    "response": NOTHING, "ifd": UNKNOWN, "r_ifd": UNKNOWN, "response_tokens": None, "evaluations": {},
    "teacher": {"calls": 0}, "seconds": {},
}  # fmt: skip


def test_rounds_stand_side_by_side_where_there_is_room() -> None:
    run = {"name": "r", "status": "running", "stop_reason": None, "rounds": [ROUND]}
    wide = shown(render_rounds(run), width=200, force_terminal=True).splitlines()
    assert any("Proposals of the teacher" in line and "Each round's student" in line for line in wide)
    narrow = shown(render_rounds(run), width=80, force_terminal=True).splitlines()
    assert not any("Proposals of the teacher" in line and "Each round's student" in line for line in narrow)


def test_rounds_on_a_terminal_narrower_than_the_table_lose_no_digit() -> None:
    heads = ("round", "first number", "second number", "third number")
    row = ("1", "1234567890123456", "2345678901234567", "3456789012345678")
    table = tabulate(heads, [row])
    console = Console(file=io.StringIO(), width=40, force_terminal=True)
    console.print(table, crop=False)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(number in text for number in ("1234567890123456", "2345678901234567", "3456789012345678"))


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ({"training": 7}, "round 2: refinetuning on 7 pairs"),
        ({"student": "s2", "training": 7}, "round 2: student s2 is trained on 7 pairs"),
        (
            {"instruction": {"reflected": 3, "unchanged": 1, "failed": 0, "accepted": 2}},
            "round 2, phase instruction: 4 of 9 pairs reflected on, 2 accepted",
        ),
        (
            {"response": {"reflected": 1, "unchanged": 0, "failed": 1, "accepted": 0}},
            "round 2, phase response: 2 of 9 pairs reflected on, 0 accepted",
        ),
    ],
)
def test_rounds_say_where_a_running_round_stands(run: dict[str, Any], said: str) -> None:
    newest = ROUND | {"round": 2, "student": None, "pool": 0} | run
    document = {"name": "r", "status": "running", "stop_reason": None, "rounds": [ROUND, newest]}
    assert said in shown(render_rounds(document)).splitlines()


def test_runs_without_any_say_how_to_begin() -> None:
    assert "reflectune init" in shown(render_runs([]))


def test_runs_with_long_names_keep_their_numbers_in_80_columns() -> None:
    run = {
        "name": "n" * 64, "status": "interrupted", "round": 12, "rounds": 100, "samples": 1_000_000,
        "acceptance": 0.5, "cost_usd": 12345.6789,
    }  # fmt: skip
    for terminal in (True, False):
        text = shown(render_runs([run]), width=80, force_terminal=terminal)
        assert not terminal or max(map(len, text.splitlines())) <= 80
        assert text.count("n") - len("run") >= 64 - len("run")
        for number in ("interrupted", "12 of 100", "1000000", "50%", "12345.6789"):
            assert number in text


def found(**changes: Any) -> dict[str, Any]:
    row = {
        "sample": "abc", "position": 123456, "split": "train", "round": 3,
        "instruction": {"outcome": "unchanged", "reason": "no-candidate", "before": None, "after": None,
                        "change": None},
        "response": {"outcome": "accepted", "reason": "accepted", "before": 0.9, "after": 0.7,
                     "change": -0.00002},
        "length_growth": 12.5, "trained": True,
        "text": "[bold]Name\nthree \x1b[2Jcolours[/bold] " + "x" * 200,
    }  # fmt: skip
    return {"name": "run", "found": 7, "shown": 1, "notes": [], "samples": [row | changes]}


def test_samples_have_a_row_each_and_what_to_do_next() -> None:
    lines = shown(render_found(found()), width=1_000_000).splitlines()
    head = "sample  round  instruction  IFD change  response  r-IFD change  length growth  trained"
    assert lines[0].startswith(head)
    assert lines[1].split()[:8] == ["123456", "3", "unchanged", "-", "accepted", "-2.00e-05", "×12.50", "yes"]
    assert "[bold]Name three \ufffd[2Jcolours[/bold]" in lines[1]
    assert lines[2:] == ["7 match, 1 shown; see one with `reflectune trace run 123456`"]


@pytest.mark.parametrize("width", [80, 200])
def test_samples_fit_the_terminal(width: int) -> None:
    text = shown(render_found(found(trained=None, instruction=None)), width=width, force_terminal=True)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    (row,) = [line for line in lines if "123456 " in line and "×12.50" in line]
    assert ("Name three" in row) == (width == 200)
    assert "Name three" in text


def test_samples_that_none_fits_say_so() -> None:
    none = {"name": "run", "found": 0, "shown": 0, "notes": ["policy random compares no IFD"], "samples": []}
    text = shown(render_found(none))
    assert "nothing fits" in text
    assert "note: policy random compares no IFD" in text


def test_samples_say_outcomes_in_words() -> None:
    unasked = {"outcome": "unasked", "reason": "no-candidate"}
    text = shown(render_found(found(instruction=unasked, response={"outcome": "frozen"})), width=1_000_000)
    assert "not asked" in text
    assert "left alone" in text
