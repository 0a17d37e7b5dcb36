"""One sample's story in a terminal: what it tells, and how at which width, with and without colour."""

import io
import math
import re
from typing import Any

import pytest
from rich.console import Console

from reflectune.loop.show.terminal.layout import has_colour
from reflectune.loop.show.terminal.sample import render_trace


def shown(trace: Any, width: int = 100, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width, **options)
    console.print(render_trace(trace, console), markup=False, highlight=False)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def on_a_terminal(trace: Any, width: int) -> str:
    return shown(trace, width, force_terminal=True, color_system=None)


def decision(**changes: Any) -> dict[str, Any]:
    return {
        "round": 1, "phase": "response", "policy": "ifd+r-ifd", "reason": "accepted", "student": "s0",
        "challenger": "v1", "winner": "v1", "incumbent_value": 0.9, "challenger_value": 0.75, "margin": 0.1,
    } | changes  # fmt: skip


def version(**changes: Any) -> dict[str, Any]:
    return {
        "id": "v0", "parent": None, "round": 0, "phase": "original", "candidate": 0, "instruction": "ask",
        "input": "", "response": "answer", "critique": None, "current": False, "scores": [],
    } | changes  # fmt: skip


def score(student: str, ifd: float | None, r_ifd: float | None, **changes: Any) -> dict[str, Any]:
    return {
        "student": student, "ifd": ifd, "r_ifd": r_ifd, "nll_response_given_instruction": 1.0, "status": "ok",
        "truncated": False,
    } | changes  # fmt: skip


def story(**changes: Any) -> dict[str, Any]:
    return {
        "sample": "abc", "position": 3, "split": "train", "versions": [], "failures": [], "decisions": [],
        "trained_in": [],
    } | changes  # fmt: skip


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
        (
            {
                "phase": "instruction",
                "reason": "refused",
                "incumbent_value": 0.00694,
                "challenger_value": 0.00691,
            },
            "refused: IFD 0.00691 against the incumbent's 0.00694 under s0",
        ),
        (
            {"phase": "instruction", "incumbent_value": 1.00001, "challenger_value": 0.99999},
            "the incumbent's IFD 1.00001 is not below the cap, the proposal's 0.99999 is, under s0",
        ),
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
def test_story_says_why_in_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    assert sentence in shown(story(decisions=[decision(**changes)]), width=140)


THREE_PHASES = story(
    versions=[
        version(scores=[score("s0", 0.9, 0.8)]),
        version(
            id="v1", parent="v0", round=1, phase="instruction", instruction="ask for more",
            critique="Too vague.", scores=[score("s0", 0.00002, 0.4), score("s1", 0.5, None)],
        ),
        version(
            id="v2", parent="v0", round=1, phase="response", response="a better answer", current=True,
            scores=[score("s0", 0.6, 0.25, truncated=True)],
        ),
    ],
    decisions=[
        decision(phase="instruction", reason="refused", winner="v0", challenger_value=0.00002),
        decision(winner="v2", challenger="v2", incumbent_value=0.8, challenger_value=0.25),
        decision(round=2, phase="instruction", reason="no-candidate", winner="v2"),
    ],
    failures=[
        {
            "round": 2, "phase": "instruction", "candidate": 0, "attempt": 1, "status": "cut",
            "error": "at 80 tokens",
        }
    ],
    trained_in=[1],
)  # fmt: skip


def test_story_goes_from_top_to_bottom() -> None:
    text = shown(THREE_PHASES)
    told = [
        "2 proposals, 1 accepted, 1 teacher call without a proposal",
        "round 0 · original",
        "version     v0",
        "instruction ask",
        "under s0    IFD 0.9000, r-IFD 0.8000",
        "round 1 · instruction · refused",
        "version     v1 (refused) from v0",
        "instruction ask{+ for more+}",
        "criticism   Too vague.",
        "under s0    IFD 2.00e-05, r-IFD 0.4000 (the student that decided)",
        "under s1    IFD 0.5000",
        "decision    refused:",
        "round 1 · response · accepted",
        "version     v2 (accepted, current) from v0",
        "response    {+a better +}answer",
        "under s0    IFD 0.6000, r-IFD 0.2500, cut at student.max_length (the student that decided)",
        "decision    accepted: r-IFD 0.2500 against the incumbent's 0.8000 under s0",
        "trained on  in round 1, for student s1",
        "round 2 · instruction · failed",
        "teacher     attempt 1 failed, cut: at 80 tokens",
        "decision    no proposal to decide about; the incumbent stays",
        "trained on in rounds: 1",
    ]
    places = [text.index(part) for part in told]
    assert places == sorted(places)


def test_story_of_several_candidates_names_the_one_that_was_taken() -> None:
    candidates = [
        version(
            id=f"v{number}",
            parent="v0",
            round=1,
            phase="response",
            candidate=number - 1,
            response=f"{number}",
        )
        for number in (1, 2)
    ]
    text = shown(story(versions=[version(), *candidates], decisions=[decision(winner="v2")]))
    assert "version     v1 candidate 1 (refused: another proposal was taken)" in text
    assert "version     v2 candidate 2 (accepted)" in text


def test_story_of_a_proposal_without_a_decision_says_so() -> None:
    proposal = version(id="v1", parent="v0", round=1, phase="response", response="new")
    text = shown(story(versions=[version(current=True), proposal]))
    assert "round 1 · response · not decided yet" in text
    assert "version     v1 from v0" in text


def test_story_says_where_the_teacher_found_nothing_to_improve() -> None:
    failure = {"round": 1, "phase": "response", "candidate": 0, "status": "unchanged", "error": None}
    failures = [failure | {"attempt": 1, "status": "cut"}, failure | {"attempt": 2}]
    lines = shown(story(failures=failures)).splitlines()
    assert [line.split("teacher", 1)[1].strip() for line in lines if "attempt" in line] == [
        "attempt 1 failed, cut",
        "attempt 2: the teacher found nothing to improve",
    ]


@pytest.mark.parametrize(
    ("nll", "said"),
    [
        (math.log(12.5), "perplexity of the response given the instruction 12.5 (the student that decided)"),
        (None, "IFD and r-IFD not scored (the student that decided)"),
        (1e6, "IFD and r-IFD not scored (the student that decided)"),  # its exp() is no number
    ],
)
def test_story_says_what_was_scored_where_neither_ifd_nor_r_ifd_was(nll: float | None, said: str) -> None:
    scores = [score("s0", None, None, nll_response_given_instruction=nll)]
    new = version(id="v1", parent="v0", round=1, phase="response", response="new", scores=scores)
    text = shown(story(versions=[version(), new], decisions=[decision(policy="perplexity")]))
    assert f"under s0    {said}" in text


def test_story_of_hostile_text_only_shows_it() -> None:
    given = version(
        instruction="[bold]ask[/bold]", response="\x1b[2Jgone", current=True,
        scores=[score("s0", None, None, status="empty")],
    )  # fmt: skip
    failure = {
        "round": 1, "phase": "response", "candidate": 1, "attempt": 2, "status": "error",
        "error": "\x1b]0;x\x07 [red]",
    }  # fmt: skip
    for text in (
        shown(story(versions=[given], failures=[failure])),
        on_a_terminal(story(versions=[given], failures=[failure]), 100),
    ):
        assert "[bold]ask[/bold]" in text
        assert "\ufffd[2Jgone" in text
        assert "\x1b" not in text
        assert "under s0    cannot be scored: empty" in text
        assert "candidate 2, attempt 2 failed, error: \ufffd]0;x\ufffd [red]" in text


def test_story_shows_the_beginning_of_a_text_without_end() -> None:
    text = "".join(shown(story(versions=[version(response="begin" + "x" * 20_000)])).split())
    assert "begin" + "x" * 19_995 + "...5morecharacters,which--jsonhas" in text


@pytest.mark.parametrize("width", [80, 200])
def test_story_fits_the_terminal_in_frames(width: int) -> None:
    text = on_a_terminal(THREE_PHASES, width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert sum(line.startswith("╭─ round") for line in lines) == 4
    beside = [line for line in lines if "version     v1" in line and "Too vague." in line]
    assert len(beside) == (1 if width == 200 else 0)


def test_story_off_a_terminal_has_no_frames_and_a_line_for_a_line() -> None:
    critique = "word " * 100
    versions = [version(), version(id="v1", parent="v0", round=1, phase="response", critique=critique)]
    text = shown(story(versions=versions), width=1_000_000)
    assert not re.search("[─-╿]", text)
    assert critique.strip() in text


def test_story_says_without_colour_what_it_says_with_it() -> None:
    coloured = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="standard")
    refused = Console(
        file=io.StringIO(), width=100, force_terminal=True, color_system="standard", no_color=True
    )
    assert (has_colour(coloured), has_colour(refused)) == (True, False)
    for console in (coloured, refused):
        console.print(render_trace(THREE_PHASES, console), markup=False, highlight=False)
    with_colour, without = (console.file.getvalue() for console in (coloured, refused))  # type: ignore[attr-defined]
    assert "\x1b[32m" in with_colour
    assert not re.search(r"\x1b\[[\d;]*\b(3|4|9|10)\d\b", without)
    plain = re.sub(r"\x1b\[[\d;]*m", "", without)
    assert "ask{+ for more+}" in plain
    assert "round 1 · instruction · refused" in plain


def test_story_uses_only_colours_that_can_be_read_on_black_and_on_white() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="standard")
    console.print(render_trace(THREE_PHASES, console), markup=False, highlight=False)
    codes = set(";".join(re.findall(r"\x1b\[([\d;]*)m", console.file.getvalue())).split(";"))  # type: ignore[attr-defined]
    # Bold, italic, underlined, reversed, struck; red, green, magenta, the usual one. Nothing dim or bright.
    assert codes <= {"", "0", "1", "3", "4", "7", "9", "31", "32", "35", "39"}
