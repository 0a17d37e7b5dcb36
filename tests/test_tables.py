import io
from typing import Any

import pytest
from rich.console import Console

from loop.story import render_trace
from loop.tables import render_rounds, render_runs


def shown(renderable: Any, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable, markup=False, highlight=False)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def decision(**changes: Any) -> dict[str, Any]:
    return {
        "round": 1,
        "phase": "response",
        "policy": "ifd+r-ifd",
        "reason": "accepted",
        "student": "s0",
        "challenger": "v1",
        "incumbent_value": 0.9,
        "challenger_value": 0.75,
        "margin": 0.1,
    } | changes


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "accepted: r-IFD 0.7500 against the incumbent's 0.9000 under s0"),
        ({"reason": "refused"}, "refused: r-IFD 0.7500 against the incumbent's 0.9000 under s0"),
        (
            {"phase": "instruction", "incumbent_value": 0.7},
            "accepted: IFD 0.7500 against the incumbent's 0.7000 under s0",
        ),
        (
            {"phase": "instruction", "incumbent_value": 1.3},
            "accepted: the incumbent's IFD 1.3000 is not below the cap, the proposal's 0.7500 is, under s0",
        ),
        (
            {"phase": "instruction", "reason": "refused", "challenger_value": 1.2},
            "refused: the proposal's IFD 1.2000 is not below the cap, the incumbent's 0.9000 is, under s0",
        ),
        ({"policy": "perplexity"}, "accepted: perplexity 0.7500 against"),
        ({"reason": "tie"}, "refused, not better by more than the margin 0.1: r-IFD 0.7500"),
        ({"incumbent_value": None}, "accepted: the incumbent cannot be scored under s0"),
        ({"reason": "unscorable"}, "refused: no proposal can be scored"),
        ({"reason": "no-candidate"}, "no proposal to decide about; the incumbent stays"),
        ({"reason": "frozen"}, "left alone after repeated refusals"),
        (
            {"policy": "accept-all", "incumbent_value": None, "challenger_value": None},
            "accepted: policy accept-all takes it",
        ),
        ({"policy": "random", "reason": "policy"}, "refused: policy random keeps the incumbent"),
    ],
)
def test_trace_says_why_in_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    trace = {
        "sample": "abc",
        "position": 3,
        "split": "train",
        "versions": [],
        "failures": [],
        "decisions": [decision(**changes)],
        "trained_in": [],
    }
    console = Console(file=io.StringIO())
    assert sentence in shown(render_trace(trace, console), width=140)


def test_trace_of_hostile_text_only_shows_it() -> None:
    version = {
        "id": "v0", "parent": None, "round": 0, "phase": "original", "instruction": "[bold]ask[/bold]",
        "input": "", "response": "\x1b[2Jgone", "critique": None, "current": True,
        "scores": [{"student": "s0", "ifd": None, "r_ifd": None, "status": "empty"}],
    }  # fmt: skip
    failure = {
        "round": 1, "phase": "response", "candidate": 1, "attempt": 2, "status": "error",
        "error": "\x1b]0;x\x07 [red]",
    }  # fmt: skip
    trace = {
        "sample": "abc", "position": 0, "split": "train", "versions": [version], "failures": [failure],
        "decisions": [], "trained_in": [1, 2],
    }  # fmt: skip
    text = shown(render_trace(trace, Console(file=io.StringIO(), width=100)))
    assert "[bold]ask[/bold]" in text
    assert "\ufffd[2Jgone" in text
    assert "\x1b" not in text
    assert "under s0    cannot be scored: empty" in text
    assert "candidate 1, attempt 2 failed, error: \ufffd]0;x\ufffd [red]" in text
    assert "trained on in rounds: 1, 2" in text


def test_trace_says_where_the_teacher_found_nothing_to_improve() -> None:
    failure = {"round": 1, "phase": "response", "candidate": 0, "status": "unchanged", "error": None}
    trace = {
        "sample": "abc", "position": 0, "split": "train", "versions": [], "decisions": [], "trained_in": [],
        "failures": [failure | {"attempt": 1, "status": "cut"}, failure | {"attempt": 2}],
    }  # fmt: skip
    lines = shown(render_trace(trace, Console(file=io.StringIO()))).splitlines()
    assert [line.split("teacher", 1)[1].strip() for line in lines if "attempt" in line] == [
        "attempt 1 failed, cut",
        "attempt 2: the teacher found nothing to improve",
    ]


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
    assert lines[0] == "r: running"
    assert [line.split() for line in lines if line.startswith((" 0 ", " 1 "))] == [
        ["0", "-", "5", "0/0", "0+0", "0/0", "0+0", "0"],
        ["1", "s1", "5", "0/0", "0+0", "0/0", "0+0", "0"],
        ["0", "-", "-", "-", "2.500", "1.2"],
        ["1", "-", "-", "-", "-", "1.2"],
        ["1", "9", "0", "-", "-", "-", "-", "-"],
    ]
    assert max(map(len, lines)) <= 80


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
    lines = shown(render_rounds(run), width=200).splitlines()
    assert ["1", "s1", "52002", "12345/21000", "30000+1002", "33333/38000", "12000+2002", "33000"] in [
        line.split() for line in lines
    ]
    assert "Left alone after repeated refusals: 9001 in round 1" in lines
    paid = ["1", "104004", "100002", "70200100", "50300200", "1234.5000", "2638.0", "0.0270"]
    assert lines[-2].split() == paid
    assert max(map(len, lines)) <= 80


def test_runs_without_any_say_how_to_begin() -> None:
    assert "reflectune init" in shown(render_runs([]))


def test_trace_shows_the_beginning_of_a_text_without_end() -> None:
    version = {
        "id": "v0", "parent": None, "round": 0, "phase": "original", "instruction": "ask", "input": "",
        "response": "begin" + "x" * 20_000, "critique": None, "current": True, "scores": [],
    }  # fmt: skip
    trace = {
        "sample": "abc", "position": 0, "split": "train", "versions": [version], "failures": [],
        "decisions": [], "trained_in": [],
    }  # fmt: skip
    text = "".join(shown(render_trace(trace, Console(file=io.StringIO()))).split())
    assert "begin" + "x" * 19_995 + "...5morecharacters,which--jsonhas" in text
