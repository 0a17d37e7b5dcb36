"""Facts about a run in words: the same in a terminal, a report and a browser."""

import math
from collections.abc import Collection, Sequence
from typing import Any

from reflectune.loop.show.numbers import (
    format_apart,
    format_measure,
    format_share,
    format_with_interval,
    name_held_out,
)
from reflectune.state.lineage.documents import (
    BestDocument,
    DecisionDocument,
    FailureDocument,
    GivenDocument,
    RoundDocument,
    ScoreDocument,
    Settings,
    SignalDocument,
    SkippedDocument,
    Trace,
)
from reflectune.state.policies import TITLES, find_policy
from reflectune.state.text import one_line

__all__ = [
    "count_things", "explain_best", "explain_call", "explain_given", "explain_place",
    "explain_reason", "explain_rule", "explain_score", "explain_signal", "explain_skipped", "explain_unknown",
    "explain_untrained", "name_outcome", "policy_of", "sum_seconds", "unit_of",
]  # fmt: skip

_OUTCOMES = {"frozen": "left alone", "unasked": "not asked", "undecided": "not decided yet"}
# Characters of what a failed call wrote.
_MAX_TEXT = 200
# The nll whose exp() is still a number.
_MAX_NLL = 709.0


def policy_of(settings: Settings) -> str:
    """A run's policy."""
    return str(_selection(settings).get("policy", "ifd+r-ifd"))


def _selection(settings: Settings) -> dict[str, Any]:
    return dict(settings["config"].get("selection", {}))


def unit_of(policy: str, phase: str) -> str:
    """What a policy compares in a phase."""
    measure = find_policy(policy).measure(phase)
    return "value" if measure is None else measure.title


def sum_seconds(round: RoundDocument) -> float:
    """What all steps of a round took."""
    return sum(round["seconds"].values(), start=0.0)


def count_things(number: int, thing: str) -> str:
    """So many things, in words."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def explain_given(given: GivenDocument) -> str:
    """What of a run's samples is exchanges of conversations; empty where none is."""
    if not given["conversations"]:
        return ""
    exchanges = count_things(given["exchanges"], "exchange")
    said = f"{exchanges} of {count_things(given['conversations'], 'conversation')}"
    if not given["followed"]:
        return said
    followed = count_things(given["followed"], "instruction")
    return f"{said}; later turns depend on {followed}, left as given"


def explain_best(best: BestDocument | None) -> str:
    """Which round is the best, by what, and whether the run ends with it; empty before one is measured."""
    if best is None:
        return ""
    measure = f"held-out {name_held_out(best['name'])} {format_with_interval(best)}"
    end = "; the run ends with its best round" if best["is_end"] else ""
    return f"best: round {best['round']}, student {best['student']}, {measure}{end}"


def explain_signal(signal: SignalDocument | None) -> list[str]:
    """What the base student told of a few given pairs before its first decision, and what it warns of."""
    if signal is None or not signal["pairs"]:
        return [] if signal is None else signal["warnings"]
    pairs = f" of {count_things(signal['pairs'], 'given pair')}"
    told = [
        f"{TITLES[name]} in {format_share(share['value'])}{'' if index else pairs} "
        f"({format_share(share['low'])} to {format_share(share['high'])})"
        for index, (name, share) in enumerate(signal["matched"].items())
    ]
    went_on = [
        f"{format_share(share['value'])} in phase {phase}"
        for phase, share in signal["longer"].items()
        if share["n"]
    ]
    longer = f". In round 1 the longer response went on in {' and '.join(went_on)}" if went_on else ""
    answer = f"By {', by '.join(told)}; guessing is right in 50%{longer}"
    return [f"does s0 tell a pair from one with another pair's response? {answer}", *signal["warnings"]]


def explain_untrained(stop_reason: str | None, rounds: Sequence[RoundDocument]) -> str:
    """That a run has ended without a training; empty where that is not so."""
    is_untrained = stop_reason and len(rounds) > 1 and not any(row["training"] for row in rounds)
    return "no round trained a student" if is_untrained else ""


def explain_skipped(skipped: Sequence[SkippedDocument]) -> str:
    """How many rows of the given data were left out, by kind; empty where none was."""
    if not skipped:
        return ""
    rows = count_things(sum(kind["number"] for kind in skipped), "row")
    kinds = (f"{kind['kind']}: {kind['number']:,}" for kind in skipped)
    return f"left out of the data: {rows} ({', '.join(kinds)})"


def explain_place(trace: Trace) -> str:
    """Where in its conversation a sample stands; empty for a pair that stands alone."""
    before, after = (count_things(trace[key], "turn") for key in ("turn", "later_turns"))
    if not trace["turn"] and not trace["later_turns"]:
        return ""
    return f"an exchange of a conversation, with {before} before it and {after} after it"


def name_outcome(outcome: str) -> str:
    """What a phase came to, a word of `state.records.Outcome` or "undecided", as people read it."""
    return _OUTCOMES.get(outcome, outcome)


def explain_score(score: ScoreDocument) -> str:
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


def explain_reason(decision: DecisionDocument, later_turns: int = 0) -> str:
    """Why a decision fell as it did, for where its outcome stands beside it.

    `later_turns` are those of its conversation that follow the sample's exchange.
    """
    policy, student = decision["policy"], decision["student"]
    match decision["reason"]:
        case "accepted" if decision["challenger_value"] is None:
            return f"policy {policy} takes it"
        case "accepted" if decision["incumbent_value"] is None:
            return f"the incumbent cannot be scored under {student}"
        case "accepted" | "refused":
            return _explain_numbers(decision)
        case "tie":
            return f"not better by more than the margin {decision['margin']:g}: {_explain_numbers(decision)}"
        case "unscorable":
            return "no proposal can be scored"
        case "no-candidate":
            return "no proposal to decide about; the incumbent stays"
        case "frozen" if later_turns and decision["phase"] == "instruction":
            depend = "depends" if later_turns == 1 else "depend"
            return f"its instruction stays: {count_things(later_turns, 'later turn')} {depend} on it"
        case "frozen":
            return "left alone after repeated refusals"
        case _:
            return f"policy {policy} keeps the incumbent"


def _explain_numbers(decision: DecisionDocument) -> str:
    """The two values that were compared; what falls against the policy's order was decided by its cap."""
    incumbent, challenger = decision["incumbent_value"], decision["challenger_value"]
    policy, student = find_policy(decision["policy"]), decision["student"]
    measure = policy.measure(decision["phase"])
    assert measure is not None
    old, new = format_apart(incumbent, challenger)
    gain = measure.sign * ((challenger or 0.0) - (incumbent or 0.0))
    if decision["reason"] == "refused" and policy.is_refused_for_length(gain):
        return f"its response is not of like length; {measure.title} {new} against {old} under {student}"
    if decision["reason"] == "accepted" and gain < 0:
        above, below = f"the incumbent's {measure.title} {old}", f"the proposal's {new}"
    elif decision["reason"] == "refused" and gain > 0:
        above, below = f"the proposal's {measure.title} {new}", f"the incumbent's {old}"
    else:
        return f"{measure.title} {new} against the incumbent's {old} under {student}"
    return f"{above} is not below the cap, {below} is, under {student}"


def explain_call(call: FailureDocument) -> str:
    """What came of a teacher call without a proposal, as `trace --json` holds it among its failures."""
    which = f"candidate {call['candidate'] + 1}, " if call["candidate"] else ""
    which += f"attempt {call['attempt']}"
    if call["status"] == "unchanged":
        return f"{which}: the teacher found nothing to improve"
    error = f": {call['error']}" if call["error"] else ""
    text = one_line(call["text"])
    beginning = text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} ..."
    wrote = f"; it wrote: {beginning}" if text else ""
    return f"{which} failed, {call['status']}{error}{wrote}"


def explain_rule(settings: Settings, phase: str) -> str:
    """Which pair stays in a phase."""
    name, cap = policy_of(settings), _selection(settings).get("ifd_cap")
    policy = find_policy(name)
    if (measure := policy.measure(phase)) is None:
        return f"Policy {name} decides."
    best = f"The pair with the {'highest' if measure.sign > 0 else 'lowest'} {measure.title}"
    if policy.at_like_length:
        band = _selection(settings).get("length_band")
        return f"{best} stays, where the responses' lengths differ by no more than {band} times."
    if measure.key != "ifd" or cap is None:
        return f"{best} stays."
    return f"{best} below {cap} stays (selection.ifd_cap); where none is below, the pair with the highest."


def explain_unknown(policy: str, known: Collection[str]) -> dict[str, str]:
    """By the names of changes in a search that no row of a run has: why."""
    changes = (("ifd_change", "instruction", "IFD"), ("r_ifd_change", "response", "r-IFD"))
    return {
        name: f"no {measure} has been compared yet"
        if unit_of(policy, phase) == measure
        else f"policy {policy} compares no {measure}"
        for name, phase, measure in changes
        if name not in known
    }
