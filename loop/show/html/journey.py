"""One sample's story as its page tells it: versions with diffs, decisions with the numbers behind them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reflectune.loop.show.explanations import explain_call, explain_decision
from reflectune.loop.show.html.environment import mark_sides, mark_words

__all__ = ["FIELDS", "tell_journey"]

Document = Mapping[str, Any]

FIELDS = ("instruction", "input", "response")
# Characters of one text that a page shows, and of two texts that are compared word by word.
_MOST_SHOWN = 20_000
_MOST_COMPARED = 6_000
# What a sentence begins with where its outcome stands before it.
_OUTCOME = re.compile("^(accepted|refused)[:,] ")


def tell_journey(trace: Document, calls: Sequence[Document], *, side: bool) -> dict[str, Any]:
    """What the page of a sample shows.

    Args:
        trace: of `LineageReader.trace`.
        calls: of `LineageReader.calls`.
        side: whether texts stand side by side, or what changed is marked in one.
    """
    versions = {version["id"]: version for version in trace["versions"]}
    given = next(version for version in trace["versions"] if version["phase"] == "original")
    places = sorted(
        {(item["round"], item["phase"]) for kind in (trace["decisions"], calls) for item in kind}
        | {(item["round"], item["phase"]) for item in trace["versions"] if item["phase"] != "original"}
    )
    return {
        **{key: trace[key] for key in ("sample", "position", "split", "trained_in")},
        "given": _describe_version(given, None, side=side),
        "current": next(version for version in trace["versions"] if version["current"]),
        "steps": [_tell_step(trace, calls, versions, *place, side=side) for place in places],
    }


def _tell_step(
    trace: Document,
    calls: Sequence[Document],
    versions: Mapping[str, Document],
    round: int,
    phase: str,
    *,
    side: bool,
) -> dict[str, Any]:
    """What a phase of a round did to the sample."""

    def here(items: Sequence[Document]) -> list[Document]:
        return [item for item in items if (item["round"], item["phase"]) == (round, phase)]

    decision = next(iter(here(trace["decisions"])), None)
    proposals = here(trace["versions"])
    asked = here(calls)
    incumbent = versions.get(decision["incumbent"] if decision else proposals[0]["parent"]) if (
        decision or proposals
    ) else None  # fmt: skip
    return {
        "round": round,
        "phase": phase,
        "decision": decision,
        "outcome": _outcome(decision, asked),
        "sentence": _OUTCOME.sub("", _say(decision, asked)),
        "contest": list(_contestants(decision, incumbent, proposals)),
        "proposals": [
            _describe_version(version, versions.get(version["parent"]), side=side)
            | {"why": _why_not_challenger(version, decision, versions)}
            for version in proposals
        ],
        "calls": asked,
    }


def _outcome(decision: Document | None, calls: Sequence[Document]) -> str:
    """What the phase came to; "undecided" before it is decided."""
    if decision is None:
        return "undecided"
    return str(decision["outcome"])


def _say(decision: Document | None, calls: Sequence[Document]) -> str:
    if decision is None:
        return "not decided yet"
    if decision["reason"] == "no-candidate" and calls:
        return f"{explain_decision(decision)} ({explain_call(calls[-1])})"
    return explain_decision(decision)


def _contestants(
    decision: Document | None, incumbent: Document | None, proposals: Sequence[Document]
) -> Iterator[dict[str, Any]]:
    """The incumbent and the proposals with their scores under the student that decided."""
    if decision is None or decision["student"] is None or incumbent is None or not proposals:
        return
    for version in (incumbent, *proposals):
        is_incumbent = version is incumbent
        yield {
            "name": "incumbent"
            if is_incumbent
            else f"proposal {version['candidate'] + 1}"
            if len(proposals) > 1
            else "proposal",
            "id": version["id"],
            "won": version["id"] == decision["winner"],
            "challenged": version["id"] == decision["challenger"],
            "score": _score_under(version, decision["student"]),
        }


def _score_under(version: Document, student: str) -> Document | None:
    return next((score for score in version["scores"] if score["student"] == student), None)


def _why_not_challenger(
    version: Document, decision: Document | None, versions: Mapping[str, Document]
) -> str | None:
    """Why a proposal was not even compared with the incumbent: another one of the same phase was."""
    if decision is None or decision["challenger"] in (None, version["id"]):
        return None
    best = f"candidate {versions[decision['challenger']]['candidate'] + 1}"
    if decision["student"] is None:
        return f"{best} was taken: policy {decision['policy']} takes the first that can be scored"
    score = _score_under(version, decision["student"])
    if score is None or score["status"] != "ok":
        return f"cannot be scored under {decision['student']}: it cannot win"
    return (
        f"another proposal of this phase was as good or better under {decision['student']}: {best} was the "
        "one compared with the incumbent"
    )


def _describe_version(version: Document, parent: Document | None, *, side: bool) -> dict[str, Any]:
    return {
        **{key: version[key] for key in ("id", "parent", "round", "phase", "candidate", "current", "scores")},
        "critique": version["critique"] and version["critique"][:_MOST_SHOWN],
        "parent_version": parent,
        "texts": [
            _describe_text(version, parent, name, side=side)
            for name in FIELDS
            if version[name] or (parent is not None and parent[name])
        ],
        "same": parent is not None and all(version[name] == parent[name] for name in FIELDS),
    }


def _describe_text(version: Document, parent: Document | None, name: str, *, side: bool) -> dict[str, Any]:
    """One text of a version, marked with what changed from its parent's."""
    new: str = version[name]
    old: str = new if parent is None else parent[name]
    text = {"name": name, "changed": old != new, "length": len(new)}
    if old == new:
        return text | {"whole": new[:_MOST_SHOWN], "cut": max(0, len(new) - _MOST_SHOWN)}
    cut = max(0, len(new) - _MOST_COMPARED, len(old) - _MOST_COMPARED)
    new, old = new[:_MOST_COMPARED], old[:_MOST_COMPARED]
    if side:
        before, after = mark_sides(new, old)
        return text | {"before": before, "after": after, "cut": cut}
    return text | {"words": mark_words(new, old), "cut": cut}
