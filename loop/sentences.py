"""Decisions and failures in a sentence: the same one in a terminal, a report and a browser."""

from collections.abc import Mapping
from typing import Any

from loop.tables import format_number

__all__ = ["say_decision", "say_failure"]

_UNITS: Mapping[str, Mapping[str, str]] = {
    "ifd+r-ifd": {"instruction": "IFD", "response": "r-IFD"},
    "ifd": {"instruction": "IFD", "response": "IFD"},
    "r-ifd": {"instruction": "r-IFD", "response": "r-IFD"},
    "perplexity": {"instruction": "perplexity", "response": "perplexity"},
    "longest": {"instruction": "response tokens", "response": "response tokens"},
}


def say_decision(decision: Mapping[str, Any]) -> str:
    """Why a decision, as `trace --json` holds it, fell as it did."""
    policy, phase = decision["policy"], decision["phase"]
    unit = _UNITS.get(policy, {}).get(phase, "value")
    incumbent, challenger = decision["incumbent_value"], decision["challenger_value"]
    numbers = (
        f"{unit} {format_number(challenger, '.4f')} "
        f"against the incumbent's {format_number(incumbent, '.4f')} under {decision['student']}"
    )
    match decision["reason"]:
        case "accepted" if challenger is None:
            return f"accepted: policy {policy} takes it"
        case "accepted" if incumbent is None:
            return f"accepted: the incumbent cannot be scored under {decision['student']}"
        case "accepted" if unit == "IFD" and challenger < incumbent:
            return (
                f"accepted: the incumbent's IFD {incumbent:.4f} is not below the cap, "
                f"the proposal's {challenger:.4f} is, under {decision['student']}"
            )
        case "refused" if unit == "IFD" and challenger > incumbent:
            return (
                f"refused: the proposal's IFD {challenger:.4f} is not below the cap, "
                f"the incumbent's {incumbent:.4f} is, under {decision['student']}"
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
