"""Decisions, outcomes, scores and teacher calls in words: the same in a terminal, a report and a browser."""

import math
from collections.abc import Mapping
from typing import Any

from reflectune.loop.show.numbers import format_apart, format_measure
from reflectune.state.policies import measure_of

__all__ = [
    "explain_call",
    "explain_decision",
    "explain_reason",
    "explain_score",
    "name_outcome",
    "unit_of",
]

Document = Mapping[str, Any]

_OUTCOMES: Mapping[str, str] = {
    "frozen": "left alone",
    "unasked": "not asked",
    "undecided": "not decided yet",
}
# The nll whose exp() is still a number.
_MAX_NLL = 709.0


def unit_of(policy: str, phase: str) -> str:
    """What a policy compares in a phase."""
    measure = measure_of(policy, phase)
    return "value" if measure is None else measure.title


def name_outcome(outcome: str) -> str:
    """What a phase came to, a word of `state.records.Outcome` or "undecided", as people read it."""
    return _OUTCOMES.get(outcome, outcome)


def explain_score(score: Document) -> str:
    """What one student makes of a version, as `trace --json` holds it."""
    known = {"IFD": score["ifd"], "r-IFD": score["r_ifd"]}
    said = [f"{name} {format_measure(value)}" for name, value in known.items() if value is not None]
    if score["status"] != "ok":
        said.append(f"cannot be scored: {score['status']}")
    elif not said:
        nll = score["nll_response_given_instruction"]
        said.append(
            "IFD and r-IFD not scored"
            if nll is None or nll > _MAX_NLL
            else f"perplexity of the response given the instruction {format_measure(math.exp(nll))}"
        )
    if score["truncated"]:
        said.append("cut at student.max_length")
    return ", ".join(said)


def explain_decision(decision: Document) -> str:
    """How a decision, as `trace --json` holds it, fell and why."""
    match decision["reason"]:
        case "accepted":
            return f"accepted: {explain_reason(decision)}"
        case "no-candidate" | "frozen":
            return explain_reason(decision)
        case _:
            return f"refused: {explain_reason(decision)}"


def explain_reason(decision: Document) -> str:
    """Why a decision fell as it did, for where its outcome stands beside it."""
    incumbent, challenger = decision["incumbent_value"], decision["challenger_value"]
    policy, student = decision["policy"], decision["student"]
    match decision["reason"]:
        case "accepted" if challenger is None:
            return f"policy {policy} takes it"
        case "accepted" if incumbent is None:
            return f"the incumbent cannot be scored under {student}"
        case "accepted" | "refused":
            return _explain_numbers(decision)
        case "tie":
            return f"not better by more than the margin {decision['margin']:g}: {_explain_numbers(decision)}"
        case "unscorable":
            return "no proposal can be scored"
        case "no-candidate":
            return "no proposal to decide about; the incumbent stays"
        case "frozen":
            return "left alone after repeated refusals"
        case _:
            return f"policy {policy} keeps the incumbent"


def _explain_numbers(decision: Document) -> str:
    """The two values that were compared; what falls against the order of IFD was decided by its cap."""
    unit, student = unit_of(decision["policy"], decision["phase"]), decision["student"]
    incumbent, challenger = decision["incumbent_value"], decision["challenger_value"]
    old, new = format_apart(incumbent, challenger)
    if unit == "IFD" and decision["reason"] == "accepted" and challenger < incumbent:
        return f"the incumbent's IFD {old} is not below the cap, the proposal's {new} is, under {student}"
    if unit == "IFD" and decision["reason"] == "refused" and challenger > incumbent:
        return f"the proposal's IFD {new} is not below the cap, the incumbent's {old} is, under {student}"
    return f"{unit} {new} against the incumbent's {old} under {student}"


def explain_call(call: Document) -> str:
    """What came of a teacher call without a proposal, as `trace --json` holds it among its failures."""
    which = f"candidate {call['candidate'] + 1}, " if call["candidate"] else ""
    which += f"attempt {call['attempt']}"
    if call["status"] == "unchanged":
        return f"{which}: the teacher found nothing to improve"
    error = f": {call['error']}" if call["error"] else ""
    return f"{which} failed, {call['status']}{error}"
