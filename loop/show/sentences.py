"""Decisions, outcomes, scores and failures in words: the same in a terminal, a report and a browser."""

import math
from collections.abc import Mapping
from typing import Any

from reflectune.loop.show.numbers import format_apart, format_measure

__all__ = ["say_decision", "say_failure", "say_outcome", "say_score", "unit_of"]

_OUTCOMES: Mapping[str, str] = {
    "frozen": "left alone",
    "unasked": "not asked",
    "undecided": "not decided yet",
}
# The nll whose exp() is still a number.
_MOST_NLL = 709.0

_UNITS: Mapping[str, Mapping[str, str]] = {
    "ifd+r-ifd": {"instruction": "IFD", "response": "r-IFD"},
    "ifd": {"instruction": "IFD", "response": "IFD"},
    "r-ifd": {"instruction": "r-IFD", "response": "r-IFD"},
    "perplexity": {"instruction": "perplexity", "response": "perplexity"},
    "longest": {"instruction": "response tokens", "response": "response tokens"},
}


def unit_of(policy: str, phase: str) -> str:
    """What a policy compares in a phase."""
    return _UNITS.get(policy, {}).get(phase, "value")


def say_outcome(outcome: str) -> str:
    """What a phase came to, a word of `state.lineage.outcomes.Outcome` or "undecided", as people read it."""
    return _OUTCOMES.get(outcome, outcome)


def say_score(score: Mapping[str, Any]) -> str:
    """What one student makes of a version, as `trace --json` holds it."""
    known = {"IFD": score["ifd"], "r-IFD": score["r_ifd"]}
    said = [f"{name} {format_measure(value)}" for name, value in known.items() if value is not None]
    if score["status"] != "ok":
        said.append(f"cannot be scored: {score['status']}")
    elif not said:
        nll = score["nll_response_given_instruction"]
        said.append(
            "IFD and r-IFD not scored"
            if nll is None or nll > _MOST_NLL
            else f"perplexity of the response given the instruction {format_measure(math.exp(nll))}"
        )
    if score["truncated"]:
        said.append("cut at student.max_length")
    return ", ".join(said)


def say_decision(decision: Mapping[str, Any]) -> str:
    """Why a decision, as `trace --json` holds it, fell as it did."""
    policy, phase = decision["policy"], decision["phase"]
    unit = unit_of(policy, phase)
    incumbent, challenger = decision["incumbent_value"], decision["challenger_value"]
    old, new = format_apart(incumbent, challenger)
    numbers = f"{unit} {new} against the incumbent's {old} under {decision['student']}"
    match decision["reason"]:
        case "accepted" if challenger is None:
            return f"accepted: policy {policy} takes it"
        case "accepted" if incumbent is None:
            return f"accepted: the incumbent cannot be scored under {decision['student']}"
        case "accepted" if unit == "IFD" and challenger < incumbent:
            return (
                f"accepted: the incumbent's IFD {old} is not below the cap, "
                f"the proposal's {new} is, under {decision['student']}"
            )
        case "refused" if unit == "IFD" and challenger > incumbent:
            return (
                f"refused: the proposal's IFD {new} is not below the cap, "
                f"the incumbent's {old} is, under {decision['student']}"
            )
        case "accepted":
            return f"accepted: {numbers}"
        case "refused":
            return f"refused: {numbers}"
        case "tie":
            return f"refused, not better by more than the margin {decision['margin']:g}: {numbers}"
        case "unscorable":
            return "refused: no proposal can be scored"
        case "no-candidate":
            return "no proposal to decide about; the incumbent stays"
        case "frozen":
            return "left alone after repeated refusals"
        case _:
            return f"refused: policy {policy} keeps the incumbent"


def say_failure(failure: Mapping[str, Any]) -> str:
    """What came of a teacher call without a proposal, as `trace --json` holds it."""
    which = f"candidate {failure['candidate'] + 1}, " if failure["candidate"] else ""
    which += f"attempt {failure['attempt']}"
    if failure["status"] == "unchanged":
        return f"{which}: the teacher found nothing to improve"
    error = f": {failure['error']}" if failure["error"] else ""
    return f"{which} failed, {failure['status']}{error}"
