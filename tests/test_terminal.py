"""How runs, rounds and found samples look in a terminal."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from reflectune.loop.show.terminal.layout import tabulate
from reflectune.loop.show.terminal.runs import render_rounds, render_runs
from reflectune.loop.show.terminal.search import render_found
from reflectune.state.alarms import ALARMS
from reflectune.state.folder import RunFolder

FOLDER = RunFolder(Path("elsewhere/run"))
NOTHING = {
    "reflected": 0,
    "unchanged": 0,
    "failed": 0,
    "decided": 0,
    "accepted": 0,
    "frozen": 0,
    "reasons": [],
}
GIVEN: dict[str, Any] = {
    "best": None, "signal": None, "conversations": 0, "exchanges": 0, "followed": 0, "skipped": [],
}  # fmt: skip
UNKNOWN = {"mean": None, "median": None}
ROUND: dict[str, Any] = {
    "round": 1, "student": "s1", "pool": 9, "training": 0, "training_truncated": 0, "frozen": 0,
    "instruction": NOTHING, "response": NOTHING, "ifd": UNKNOWN, "r_ifd": UNKNOWN,
    "response_tokens": None, "evaluations": {}, "alarms": [], "judge": None,
    "teacher": {
        "calls": 0, "cached": 0, "prompt_tokens": None, "completion_tokens": None, "cost_usd": None,
        "tokens_per_accepted": None, "cost_per_accepted_usd": None,
    },
    "servers": {}, "seconds": {},
}  # fmt: skip


def shown(renderable: Any, width: int = 100, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None, **options)
    console.print(renderable, markup=False, highlight=False, crop=False)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def rounds_shown(*rounds: dict[str, Any], width: int = 80, terminal: bool = False, **given: Any) -> list[str]:
    run: Any = (
        GIVEN
        | {
            "name": "r",
            "status": "running",
            "stages": None,
            "workers": None,
            "stop_reason": None,
            "rounds": list(rounds),
        }
        | given
    )
    return shown(render_rounds(run), width, force_terminal=terminal).splitlines()


def test_rounds_under_way_have_dashes_for_what_is_not_known() -> None:
    given = ROUND | {"round": 0, "student": None, "evaluations": {"nll": 2.5}, "seconds": {"reflect": 1.25}}
    lines = rounds_shown(given, ROUND | {"teacher": ROUND["teacher"] | {"calls": 9}})
    assert lines[:3] == [
        "r: running",
        "accepted 0 of 0 proposals (-) · 9 teacher calls · 1.2 seconds",
        "round 1: student s1 is trained on 0 pairs",
    ]
    assert [line.split() for line in lines if line.startswith(("0 ", "1 "))] == [
        ["1", "instruction", "0", "0", "0", "0", "-"],
        ["1", "response", "0", "0", "0", "0", "-"],
        ["0", "-", "0", "2.500", "1.2"],
        ["1", "s1", "0", "-", "0.0"],
        ["1", "9", "-", "-", "-", "-", "-"],
        ["1", "9", "0", "-", "-", "-", "-", "-"],
    ]


def test_run_that_trained_no_student_says_so() -> None:
    ended: dict[str, Any] = {"status": "finished", "stop_reason": "rounds"}
    given, trained = ROUND | {"round": 0}, ROUND | {"round": 2, "training": 9}
    assert rounds_shown(given, ROUND, **ended)[0] == (
        "r: finished, stopped: rounds; no round trained a student"
    )
    assert rounds_shown(given, ROUND, trained, **ended)[0] == "r: finished, stopped: rounds"
    assert rounds_shown(given, ROUND)[0] == "r: running"


def test_rounds_tell_of_training_pairs_that_were_cut() -> None:
    lines = rounds_shown(ROUND, ROUND | {"round": 2, "training": 9, "training_truncated": 3}, width=100)
    assert "Training pairs whose response or context student.max_length cut: 3 in round 2" in lines


def test_rounds_name_servers_where_there_were_several() -> None:
    one, two = ({"servers": {f"http://{name}/v1": 5 for name in names}} for names in (["a"], ["a", "b"]))
    assert "Servers" not in "\n".join(rounds_shown(ROUND | one, ROUND | one))
    lines = rounds_shown(ROUND | one, ROUND | {"round": 2} | two)
    assert [line.split() for line in lines[lines.index("Servers that were asked") + 1 :]][-3:] == [
        ["1", "http://a/v1", "5"], ["2", "http://a/v1", "5"], ["2", "http://b/v1", "5"],
    ]  # fmt: skip


@pytest.mark.parametrize("terminal", [True, False])
def test_rounds_of_a_large_dataset_fit_80_columns(terminal: bool) -> None:
    half = {"mean": 0.5, "median": 0.5}
    row = ROUND | {
        "pool": 52002, "training": 33000, "frozen": 9001,
        "instruction": NOTHING | {"reflected": 21000, "unchanged": 30000, "failed": 1002, "decided": 21000,
                        "accepted": 12345, "frozen": 9500},
        "response": NOTHING | {"reflected": 38000, "unchanged": 12000, "failed": 2002, "decided": 38000,
                     "accepted": 33333, "frozen": 9001},
        "ifd": half, "r_ifd": half, "response_tokens": 123.4, "evaluations": {"nll": 2.5},
        "teacher": {
            "calls": 104004, "cached": 100002, "prompt_tokens": 70200100, "completion_tokens": 50300200,
            "cost_usd": 1234.5, "tokens_per_accepted": 2638.04, "cost_per_accepted_usd": 0.02703,
        },
        "seconds": {"reflect": 12345.6},
    }  # fmt: skip
    lines = rounds_shown(row, terminal=terminal)
    for told in (
        "1 instruction 21000 30000 1002 12345 59% 9500",
        "1 response 38000 12000 2002 33333 88% 9001",
        "1 52002 0.5000 0.5000 0.5000 0.5000 123.4",
        "1 104004 100002 70200100 50300200 1234.5000 2638.0 0.0270",
    ):
        assert told.split() in [line.split() for line in lines]
    assert any("Left alone after repeated refusals: 9001 in round 1" in line for line in lines)
    assert not terminal or max(map(len, lines)) <= 80


def test_alarms_fit_80_columns_and_are_of_the_newest_rounds() -> None:
    values = {name: 1.0 if alarm.unit in ("share", "more") else 12.34 for name, alarm in ALARMS.items()}
    alarms = [
        {"name": name, "value": value, "threshold": 0.5 if fires else None, "fires": fires}
        for name, value in values.items()
        for fires in [name != "length"]
    ]
    rounds = (ROUND | {"round": round, "alarms": alarms} for round in (1, 2, 3, 4))
    lines = rounds_shown(*rounds, terminal=True)
    assert max(map(len, lines)) <= 80
    rows = [" ".join(line.split()) for line in lines]
    for row in (
        "alarm fires round 2 round 3 round 4",
        "median response tokens off ×12.34 ×12.34 ×12.34",
        "near duplicates above +50.0% +100.0%! +100.0%! +100.0%!",
        "accepted proposals below 50% or above 50% 100.0%! 100.0%! 100.0%!",
        "behind the best held-out above 0.50 half-widths 12.34! 12.34! 12.34!",
        "median IFD under s0 beyond ×0.50 or ×2.00 ×12.34! ×12.34! ×12.34!",
    ):
        assert row in rows
    told = " ".join(rows).replace(" │ │ ", " ")
    assert "behind the best held-out 12.34 (above 0.50 half-widths of the 95 % interval)" in told
    assert "alarm in round 1: distinct word trigrams ×12.34 (below ×0.50); the" in " ".join(rows)


@pytest.mark.parametrize("terminal", [True, False])
def test_rounds_say_what_is_of_conversations_and_what_was_left_out(terminal: bool) -> None:
    skipped = [
        {"kind": "no \x1b[31mresponse", "number": 1007, "examples": ["row 3: blank", "row 9:\nnull"]},
        {"kind": "tools", "number": 1, "examples": []},
    ]
    given = {"conversations": 120, "exchanges": 412, "followed": 292, "skipped": skipped}
    lines = rounds_shown(ROUND, terminal=terminal, **given)
    text = " ".join(" ".join(lines).replace("│", " ").split())
    for told in (
        "412 exchanges of 120 conversations; later turns depend on 292 instructions, left as given",
        "Left out of the data: 1,008 rows (no \ufffd[31mresponse: 1,007, tools: 1)",
        "no \ufffd[31mresponse 1007 row 3: blank; row 9: null",
    ):
        assert told in text
    assert not terminal or max(map(len, lines)) <= 80
    assert "1 exchange of 1 conversation" in rounds_shown(ROUND, conversations=1, exchanges=1)


@pytest.mark.parametrize("width", [80, 200])
def test_rounds_stand_side_by_side_where_there_is_room(width: int) -> None:
    lines = rounds_shown(ROUND, width=width, terminal=True)
    beside = ["Proposals of the teacher" in line and "Each round's student" in line for line in lines]
    assert any(beside) == (width == 200)


def test_rounds_on_a_terminal_narrower_than_the_table_lose_no_digit() -> None:
    numbers = ("1234567890123456", "2345678901234567", "3456789012345678")
    table = tabulate(("round", "first number", "second number", "third number"), [("1", *numbers)])
    text = shown(table, 40, force_terminal=True)
    assert all(number in text for number in numbers)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ({"training": 7}, "round 2: refinetuning on 7 pairs"),
        ({"student": "s2", "training": 7}, "round 2: student s2 is trained on 7 pairs"),
        (
            {"instruction": NOTHING | {"reflected": 3, "unchanged": 1, "accepted": 2}},
            "round 2, phase instruction: 4 of 9 pairs reflected on, 2 accepted",
        ),
        (
            {"response": NOTHING | {"reflected": 1, "failed": 1}},
            "round 2, phase response: 2 of 9 pairs reflected on, 0 accepted",
        ),
    ],
)
def test_rounds_say_where_a_running_round_stands(run: dict[str, Any], said: str) -> None:
    assert said in rounds_shown(ROUND, ROUND | {"round": 2, "student": None, "pool": 0} | run)


@pytest.mark.parametrize(
    ("counts", "said", "share"),
    [
        ({"reflected": 9}, "9 proposals, none decided yet · 0 teacher calls", "-"),
        (
            {"reflected": 9, "decided": 4, "accepted": 1},
            "accepted 1 of 4 proposals (25%), 5 not decided yet · 0 teacher calls",
            "25%",
        ),
    ],
)
def test_shares_are_of_the_proposals_that_were_decided_about(
    counts: dict[str, int], said: str, share: str
) -> None:
    lines = rounds_shown(ROUND | {"instruction": NOTHING | counts})
    assert lines[1].startswith(said)
    (row,) = [line.split() for line in lines if line.startswith("1      instruction")]
    assert row[-1] == share


def test_runs_without_any_say_how_to_begin() -> None:
    assert "reflectune init" in shown(render_runs([]))


@pytest.mark.parametrize("terminal", [True, False])
def test_runs_with_long_names_keep_their_numbers_in_80_columns(terminal: bool) -> None:
    run: Any = {
        "name": "n" * 64, "status": "interrupted", "round": 12, "rounds": 100, "samples": 1_000_000,
        "acceptance": 0.5, "cost_usd": 12345.6789,
    }  # fmt: skip
    text = shown(render_runs([run]), width=80, force_terminal=terminal)
    assert not terminal or max(map(len, text.splitlines())) <= 80
    assert text.count("n") >= 64
    for number in ("interrupted", "12 of 100", "1000000", "50%", "12345.6789"):
        assert number in text


def found(**changes: Any) -> Any:
    unchanged = {
        "outcome": "unchanged",
        "reason": "no-candidate",
        "before": None,
        "after": None,
        "change": None,
    }
    accepted = {"outcome": "accepted", "reason": "accepted", "before": 0.9, "after": 0.7, "change": -0.00002}
    row = {
        "sample": "abc", "position": 123456, "split": "train", "round": 3, "instruction": unchanged,
        "response": accepted, "length_growth": 12.5, "trained": True,
        "text": "[bold]Name\nthree \x1b[2Jcolours[/bold] " + "x" * 200,
    }  # fmt: skip
    return {"name": "run", "found": 7, "shown": 1, "notes": [], "samples": [row | changes]}


def test_samples_have_a_row_each_and_what_to_do_next() -> None:
    lines = shown(render_found(found(), FOLDER), width=1_000_000).splitlines()
    head = "sample  round  instruction  IFD change  response  r-IFD change  length growth  trained"
    assert lines[0].startswith(head)
    assert lines[1].split()[:8] == ["123456", "3", "unchanged", "-", "accepted", "-2.00e-05", "×12.50", "yes"]
    assert "[bold]Name three \ufffd[2Jcolours[/bold]" in lines[1]
    assert lines[2:] == ["7 match, 1 shown; see one with `reflectune trace run 123456 --runs elsewhere`"]


@pytest.mark.parametrize("width", [80, 200])
def test_samples_fit_the_terminal(width: int) -> None:
    frozen = {"outcome": "frozen", "change": None}
    text = shown(
        render_found(found(trained=None, instruction=None, response=frozen), FOLDER),
        width,
        force_terminal=True,
    )
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    (row,) = [line for line in lines if "123456 " in line and "×12.50" in line]
    assert ("Name three" in row) == (width == 200)
    assert "Name three" in text
    assert "left alone" in row


def test_samples_that_none_fits_say_so() -> None:
    none: Any = {
        "name": "run",
        "found": 0,
        "shown": 0,
        "notes": ["policy random compares no IFD"],
        "samples": [],
    }
    text = shown(render_found(none, FOLDER))
    assert "nothing fits" in text
    assert "note: policy random compares no IFD" in text
