"""Decisions, scores and teacher calls in words."""

import math
from typing import Any

import pytest

from reflectune.loop.show.explanations import (
    explain_call,
    explain_place,
    explain_reason,
    explain_score,
    explain_signal,
)

CAPPED = "is not below the cap, the"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "r-IFD 0.7500 against the incumbent's 0.9000 under s0"),
        (
            {"reason": "refused", "challenger_value": 1.2},
            "r-IFD 1.2000 against the incumbent's 0.9000 under s0",
        ),
        ({"policy": "perplexity"}, "perplexity 0.7500 against the incumbent's 0.9000 under s0"),
        ({"policy": "ifd", "incumbent_value": 0.7}, "IFD 0.7500 against the incumbent's 0.7000 under s0"),
        (
            {"policy": "ifd", "reason": "refused", "incumbent_value": 0.00694, "challenger_value": 0.00691},
            "IFD 0.00691 against the incumbent's 0.00694 under s0",
        ),
        (
            {"policy": "ifd", "incumbent_value": 1.00001, "challenger_value": 0.99999},
            f"the incumbent's IFD 1.00001 {CAPPED} proposal's 0.99999 is, under s0",
        ),
        (
            {"policy": "ifd", "reason": "refused", "challenger_value": 1.2},
            f"the proposal's IFD 1.2000 {CAPPED} incumbent's 0.9000 is, under s0",
        ),
        (
            {"policy": "lc-ifd", "reason": "refused", "challenger_value": 0.95},  # a gain below the margin
            "its response is not of like length; IFD 0.9500 against 0.9000 under s0",
        ),
        (
            {"reason": "tie"},
            "not better by more than the margin 0.1: r-IFD 0.7500 against the incumbent's 0.9000 under s0",
        ),
        ({"incumbent_value": None}, "the incumbent cannot be scored under s0"),
        ({"reason": "unscorable"}, "no proposal can be scored"),
        ({"reason": "no-candidate"}, "no proposal to decide about; the incumbent stays"),
        ({"reason": "frozen"}, "left alone after repeated refusals"),
        (
            {"policy": "accept-all", "incumbent_value": None, "challenger_value": None},
            "policy accept-all takes it",
        ),
        ({"policy": "random", "reason": "policy"}, "policy random keeps the incumbent"),
    ],
)
def test_decision_is_explained(changes: Any, reason: str) -> None:
    decision: Any = {
        "round": 1, "phase": "response", "policy": "ifd+r-ifd", "reason": "accepted", "student": "s0",
        "incumbent_value": 0.9, "challenger_value": 0.75, "margin": 0.1,
    }  # fmt: skip
    assert explain_reason(decision | changes) == reason


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ifd": 0.5, "r_ifd": 0.25}, "IFD 0.5000, r-IFD 0.2500"),
        ({"ifd": 0.5, "truncated": True}, "IFD 0.5000, cut at student.max_length"),
        ({"status": "empty"}, "cannot be scored: empty"),
        (
            {"nll_response_given_instruction": math.log(12.5)},
            "perplexity of the response given the instruction 12.5",
        ),
        ({}, "IFD and r-IFD not scored"),
        ({"nll_response_given_instruction": 1e6}, "IFD and r-IFD not scored"),  # its exp() is no number
    ],
)
def test_score_is_explained_by_what_is_known_of_it(changes: Any, said: str) -> None:
    nothing: Any = {"ifd": None, "r_ifd": None, "nll_response_given_instruction": None}
    assert explain_score(nothing | {"status": "ok", "truncated": False} | changes) == said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "attempt 1 failed, cut"),
        ({"error": "at 80 tokens"}, "attempt 1 failed, cut: at 80 tokens"),
        ({"candidate": 1, "status": "error"}, "candidate 2, attempt 1 failed, error"),
        (
            {"error": "no JSON", "text": "hello\n\x1b[2Jthere"},
            "attempt 1 failed, cut: no JSON; it wrote: hello \ufffd[2Jthere",
        ),
        ({"text": "a" * 201}, f"attempt 1 failed, cut; it wrote: {'a' * 200} ..."),
        ({"status": "unchanged", "text": "{}"}, "attempt 1: the teacher found nothing to improve"),
    ],
)
def test_call_without_a_proposal_is_explained(changes: Any, said: str) -> None:
    call: Any = {"candidate": 0, "attempt": 1, "status": "cut", "error": None, "text": ""}
    assert explain_call(call | changes) == said


@pytest.mark.parametrize(
    ("phase", "later_turns", "reason"),
    [
        ("instruction", 4, "its instruction stays: 4 later turns depend on it"),
        ("instruction", 1, "its instruction stays: 1 later turn depends on it"),
        ("instruction", 0, "left alone after repeated refusals"),
        ("response", 4, "left alone after repeated refusals"),
    ],
)
def test_an_instruction_that_others_depend_on_is_told_from_one_that_was_refused(
    phase: str, later_turns: int, reason: str
) -> None:
    decision: Any = {"phase": phase, "reason": "frozen", "policy": "ifd+r-ifd", "student": None}
    assert explain_reason(decision, later_turns) == reason


def test_the_place_of_an_exchange_is_told_where_there_are_others() -> None:
    def place(turn: int, later_turns: int) -> str:
        trace: Any = {"turn": turn, "later_turns": later_turns}
        return explain_place(trace)

    assert place(0, 0) == ""
    assert place(1, 0) == "an exchange of a conversation, with 1 turn before it and 0 turns after it"
    assert place(0, 2) == "an exchange of a conversation, with 0 turns before it and 2 turns after it"


def test_signal_says_what_is_told_from_what_and_how_often_guessing_is_right() -> None:
    def share(value: float, low: float, high: float) -> dict[str, float]:
        return {"value": value, "low": low, "high": high, "n": 38}

    found: Any = {
        "pairs": 38,
        "matched": {"ifd": share(0.72, 0.56, 0.84), "r_ifd": share(0.65, 0.49, 0.78)},
        "longer": {"instruction": share(0.79, 0.6, 0.9), "response": {"value": None, "n": 0}},
        "warnings": ["a warning"],
    }
    assert explain_signal(found) == [
        "does s0 tell a pair from one with another pair's response? By IFD in 72% of 38 given pairs (56% to "
        "84%), by r-IFD in 65% (49% to 78%); guessing is right in 50%. In round 1 the longer response went "
        "on in 79% in phase instruction",
        "a warning",
    ]
