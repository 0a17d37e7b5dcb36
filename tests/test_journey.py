"""One sample's journey: what it holds, and how it looks in a terminal, with and without colour."""

import io
import re
from typing import Any

import pytest
from rich.console import Console

from reflectune.loop.show.journey import build_journey
from reflectune.loop.show.terminal.trace import render_trace
from reflectune.loop.show.turns import read_turns


def shown(trace: Any, width: int = 100, *, whole: bool = False, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width, **options)
    console.print(render_trace(trace, whole_context=whole), markup=False, highlight=False)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def decision(**changes: Any) -> dict[str, Any]:
    return {
        "round": 1, "phase": "response", "policy": "ifd+r-ifd", "reason": "accepted",
        "outcome": "accepted", "student": "s0",
        "incumbent": "v0", "challenger": "v1", "winner": "v1", "incumbent_value": 0.9,
        "challenger_value": 0.75, "margin": 0.1,
    } | changes  # fmt: skip


def version(**changes: Any) -> dict[str, Any]:
    return {
        "id": "v0", "parent": None, "round": 0, "phase": "original", "candidate": 0, "instruction": "ask",
        "input": "", "response": "answer", "critique": None, "server": None, "current": False, "scores": [],
    } | changes  # fmt: skip


def proposal(**changes: Any) -> dict[str, Any]:
    return version(**{"id": "v1", "parent": "v0", "round": 1, "phase": "response"} | changes)


def failure(**changes: Any) -> dict[str, Any]:
    return {
        "round": 1, "phase": "response", "candidate": 0, "attempt": 1, "status": "cut", "error": None,
        "text": "", "server": None,
    } | changes  # fmt: skip


def score(student: str, ifd: float | None, r_ifd: float | None, **changes: Any) -> dict[str, Any]:
    return {
        "student": student, "ifd": ifd, "r_ifd": r_ifd, "nll_response_given_instruction": 1.0, "status": "ok",
        "truncated": False,
    } | changes  # fmt: skip


def trace(*versions: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "sample": "abc", "position": 3, "split": "train", "versions": versions or [version(current=True)],
        "failures": [], "decisions": [], "trained_in": [], "meta": {}, "context": [], "turn": 0,
        "later_turns": 0,
    } | changes  # fmt: skip


THREE_PHASES = trace(
    version(scores=[score("s0", 0.9, 0.8)]),
    proposal(
        phase="instruction", instruction="ask for more", critique="Too vague.",
        scores=[score("s0", 0.00002, 0.4), score("s1", 0.5, None)],
    ),
    proposal(
        id="v2", response="a better answer", current=True, scores=[score("s0", 0.6, 0.25, truncated=True)],
    ),
    decisions=[
        decision(phase="instruction", reason="refused", outcome="refused", winner="v0",
                 challenger_value=0.00002),
        decision(winner="v2", challenger="v2", incumbent_value=0.8, challenger_value=0.25),
        decision(round=2, phase="instruction", reason="no-candidate", outcome="failed", incumbent="v2",
                 winner="v2", student=None, challenger=None),
    ],
    failures=[failure(round=2, phase="instruction", error="at 80 tokens")],
    trained_in=[1],
)  # fmt: skip


def test_journey_goes_step_by_step() -> None:
    journey = build_journey(THREE_PHASES, [failure(round=2, phase="instruction", text="half an ans")])
    assert (journey.position, journey.given["id"], journey.current["id"]) == (3, "v0", "v2")
    assert [(step.round, step.phase, step.outcome, step.is_trained) for step in journey.steps] == [
        (1, "instruction", "refused", False), (1, "response", "accepted", True),
        (2, "instruction", "failed", False),
    ]  # fmt: skip
    _, second, third = journey.steps
    changed = [item.changed for step in journey.steps for item in step.proposals]
    assert changed == [["instruction"], ["response"]]
    assert [(item.name, item.score and item.score["r_ifd"], item.is_winner) for item in second.contest] == [
        ("incumbent", 0.8, False), ("proposal", 0.25, True),
    ]  # fmt: skip
    assert second.reason == "r-IFD 0.2500 against the incumbent's 0.8000 under s0"
    assert third.failures == ("attempt 1 failed, cut: at 80 tokens",)
    assert [call["text"] for call in third.calls] == ["half an ans"]
    assert third.contest == ()


@pytest.mark.parametrize(
    ("scores", "student", "why"),
    [
        ([score("s0", None, 0.8)], "s0", "proposal 2 was as good or better under s0, and was compared"),
        ([score("s0", None, None, status="empty")], "s0", "cannot be scored under s0: it cannot win"),
        ([], "s0", "cannot be scored under s0: it cannot win"),
        ([], None, "proposal 2 was taken: policy ifd+r-ifd takes the first that can be scored"),
    ],
)
def test_journey_says_why_a_proposal_was_not_compared(scores: Any, student: str | None, why: str) -> None:
    candidates = [proposal(scores=scores), proposal(id="v2", candidate=1)]
    made = decision(winner="v2", challenger="v2", student=student)
    told = trace(version(current=True), *candidates, decisions=[made])
    one, other = build_journey(told).steps[0].proposals
    assert (one.name, one.is_accepted) == ("proposal 1", False)
    assert (other.name, other.is_accepted, other.not_compared) == ("proposal 2", True, None)
    text = shown(told)
    assert "version     v1 proposal 1 (refused) from v0" in text
    assert f"not chosen {why}" in " ".join(text.split())
    assert "version     v2 proposal 2 (accepted) from v0" in text


def test_journey_in_a_terminal_goes_from_top_to_bottom() -> None:
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


def test_journey_of_a_proposal_without_a_decision_says_so() -> None:
    text = shown(trace(version(current=True), proposal(response="new")))
    assert "round 1 · response · not decided yet" in text
    assert "version     v1 from v0" in text
    assert "decision" not in text


def test_journey_shows_the_beginning_of_a_text_without_end() -> None:
    text = "".join(shown(trace(version(response="begin" + "x" * 20_000, current=True))).split())
    assert "begin" + "x" * 19_995 + "...5morecharacters,which--jsonhas" in text


@pytest.mark.parametrize("width", [80, 200])
def test_journey_fits_the_terminal_in_frames(width: int) -> None:
    lines = shown(THREE_PHASES, width, force_terminal=True, color_system=None).splitlines()
    assert max(map(len, lines)) <= width
    assert sum(line.startswith("╭─ round") for line in lines) == 4
    beside = [line for line in lines if "version     v1" in line and "Too vague." in line]
    assert len(beside) == (1 if width == 200 else 0)


def test_journey_off_a_terminal_has_no_frames_and_a_line_for_a_line() -> None:
    critique = "word " * 100
    text = shown(trace(version(current=True), proposal(critique=critique)), width=1_000_000)
    assert not re.search("[─-╿]", text)
    assert critique.strip() in text


def test_journey_says_without_colour_what_it_says_with_it() -> None:
    with_colour, without = (
        shown(THREE_PHASES, force_terminal=True, color_system="standard", no_color=no_colour)
        for no_colour in (False, True)
    )
    codes = set(";".join(re.findall(r"\x1b\[([\d;]*)m", with_colour)).split(";"))
    # Bold, italic, underlined, reversed, struck; red, green, magenta, the usual one: readable on black and on
    # white. Nothing dim or bright.
    assert {"32"} < codes <= {"", "0", "1", "3", "4", "7", "9", "31", "32", "35", "39"}
    assert not re.search(r"\x1b\[[\d;]*\b(3|4|9|10)\d\b", without)
    plain = re.sub(r"\x1b\[[\d;]*m", "", without)
    assert "ask{+ for more+}" in plain
    assert "round 1 · instruction · refused" in plain


CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"word": "ave"}'}}
CONTEXT = [
    {"role": "system", "content": "Speak Latin. " + "x" * 500},
    {"role": "user", "content": "hello", "name": "Ann"},
    {"role": "assistant", "content": "", "tool_calls": [CALL, {"name": "f", "arguments": {"a\n": 1}}]},
    {"role": "tool", "content": "salve", "tool_call_id": "c1"},
    {"role": "assistant", "content": "ave"},
]  # fmt: skip


def told_turns(context: list[dict[str, Any]], **options: Any) -> str:
    told = trace(context=context, turn=len(context), later_turns=2, meta={"id": "abc-17", "n": 1})
    return shown(told, color_system=None, **options)


def test_journey_begins_with_the_turns_before_it() -> None:
    text = told_turns(CONTEXT)
    told = [
        "an exchange of a conversation, with 5 turns before it and 2 turns after it",
        "\ncontext\n",
        "system      Speak Latin.",
        "user        Ann: hello",
        'calls       look_up({"word": "ave"})',
        'calls       f({"a\\n": 1})',
        "tool        look_up: salve",
        "assistant   ave",
        "round 0 · original",
        'record      {"id": "abc-17", "n": 1}',
    ]
    places = [text.index(part) for part in told]
    assert places == sorted(places)
    assert "\ncontext\n" not in shown(trace())


def test_journey_shortens_turns_on_a_terminal_unless_all_are_asked_for() -> None:
    piped, short, whole = (
        "".join(re.sub("[│╭╰─╮╯]", "", told_turns(CONTEXT, **options)).split())
        for options in ({}, {"force_terminal": True}, {"force_terminal": True, "whole": True})
    )
    # "Speak Latin. " is 13 characters of the 400 that are shown of 513.
    assert "SpeakLatin." + "x" * 387 + "...113morecharacters,which--contexthas" in short
    assert "x" * 500 in piped
    assert "x" * 500 in whole


def test_journey_shows_the_first_and_the_last_of_many_turns() -> None:
    turns = [{"role": "user", "content": f"turn-{number}-"} for number in range(100)]
    short, whole = (told_turns(turns, force_terminal=True, whole=whole) for whole in (False, True))
    assert re.findall(r"turn-(\d+)-", short) == ["0", "1", "94", "95", "96", "97", "98", "99"]
    assert short.index("turn-1-") < short.index("... 92 turns more, which --context has")
    assert len(re.findall(r"turn-(\d+)-", whole)) == 100


@pytest.mark.parametrize(
    ("more", "calls"),
    [
        ({"tool_calls": None}, ()),
        ({"tool_calls": "f"}, ("(f)",)),
        ({"tool_calls": [None, 3, "f"]}, ("(null)", "(3)", "(f)")),
        ({"tool_calls": [{"function": {"name": "f"}}]}, ("f()",)),
        ({"tool_calls": [{"function": "f"}]}, ('({"function": "f"})',)),
        ({"tool_calls": "[]", "function_call": {"name": "f", "arguments": "{}"}}, ("f({})",)),
        ({"function_calls": "f(1)"}, ("(f(1))",)),
    ],
)
def test_turns_show_calls_of_whatever_form(more: dict[str, Any], calls: tuple[str, ...]) -> None:
    (turn,) = read_turns([{"role": "assistant", "content": "x"} | more])
    assert turn.calls == calls


def test_journey_tells_why_an_instruction_is_left_alone() -> None:
    frozen = decision(phase="instruction", reason="frozen", outcome="frozen", student=None, challenger=None,
                      winner="v0")  # fmt: skip
    told = trace(version(current=True), decisions=[frozen], later_turns=3)
    assert "its instruction stays: 3 later turns depend on it" in shown(told)
    assert "left alone after repeated refusals" in shown(told | {"later_turns": 0})
