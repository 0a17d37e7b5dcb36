"""Decisions and failures in a sentence: the same one in a terminal, a report and a browser."""

from collections.abc import Mapping
from typing import Any

from loop.tables import format_measure

__all__ = ["say_decision", "say_failure", "unit_of"]

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


def say_decision(decision: Mapping[str, Any]) -> str:
    """Why a decision, as `trace --json` holds it, fell as it did."""
    policy, phase = decision["policy"], decision["phase"]
    unit = unit_of(policy, phase)
    incumbent, challenger = decision["incumbent_value"], decision["challenger_value"]
    numbers = (
        f"{unit} {format_measure(challenger)} "
        f"against the incumbent's {format_measure(incumbent)} under {decision['student']}"
    )
    match decision["reason"]:
        case "accepted" if challenger is None:
            return f"accepted: policy {policy} takes it"
        case "accepted" if incumbent is None:
            return f"accepted: the incumbent cannot be scored under {decision['student']}"
        case "accepted" if unit == "IFD" and challenger < incumbent:
            return (
                f"accepted: the incumbent's IFD {format_measure(incumbent)} is not below the cap, "
                f"the proposal's {format_measure(challenger)} is, under {decision['student']}"
            )
        case "refused" if unit == "IFD" and challenger > incumbent:
            return (
                f"refused: the proposal's IFD {format_measure(challenger)} is not below the cap, "
                f"the incumbent's {format_measure(incumbent)} is, under {decision['student']}"
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
    which = f"candidate {failure['candidate']}, " if failure["candidate"] else ""
    which += f"attempt {failure['attempt']}"
    if failure["status"] == "unchanged":
        return f"{which}: the teacher found nothing to improve"
    error = f": {failure['error']}" if failure["error"] else ""
    return f"{which} failed, {failure['status']}{error}"
