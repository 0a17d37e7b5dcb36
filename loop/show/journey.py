"""One sample's way through all rounds, built once from the lineage and shown by every medium.

Nothing here knows a terminal or HTML: each medium lays the steps out and marks what changed in texts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from reflectune.loop.show.explanations import explain_call, explain_place, explain_reason
from reflectune.loop.show.turns import ShownTurn, read_turns
from reflectune.state.lineage.documents import (
    CallDocument,
    DecisionDocument,
    FailureDocument,
    ScoreDocument,
    Trace,
    VersionDocument,
)
from reflectune.state.policies import find_policy
from reflectune.state.records import Outcome

__all__ = ["TEXTS", "Contestant", "Journey", "Proposal", "Step", "build_journey"]

# The texts of a version, in the order to read them.
TextName = Literal["instruction", "input", "response"]
TEXTS: tuple[TextName, ...] = get_args(TextName)

_Item = TypeVar("_Item", VersionDocument, DecisionDocument, FailureDocument, CallDocument)


@dataclass(frozen=True, slots=True)
class Proposal:
    """One pair that the teacher proposed."""

    version: VersionDocument
    parent: VersionDocument  # the incumbent that it was to better
    name: str  # beside the others of its phase: "proposal", or with a number from 1
    is_accepted: bool
    not_compared: str | None  # why it was not the one that was compared with the incumbent

    @property
    def changed(self) -> list[TextName]:
        """Which of its texts differ from its parent's."""
        return [name for name in TEXTS if self.version[name] != self.parent[name]]


@dataclass(frozen=True, slots=True)
class Contestant:
    """A version that a decision was about, with its score under the student that decided."""

    name: str
    version: VersionDocument
    score: ScoreDocument | None  # None where the policy needs none
    is_winner: bool


@dataclass(frozen=True, slots=True)
class Step:
    """What one phase of one round did to the sample."""

    round: int
    phase: str
    outcome: Outcome | Literal["undecided"]
    decision: DecisionDocument | None
    reason: str  # why it fell as it did, for where the outcome stands beside it
    proposals: tuple[Proposal, ...]
    contest: tuple[Contestant, ...]  # the incumbent first; empty where no scores were compared
    failures: tuple[str, ...]  # teacher calls without a proposal, a sentence each
    servers: tuple[str, ...]  # that were asked
    calls: tuple[CallDocument, ...]  # all teacher calls, where they were asked for
    is_trained: bool  # whether the pair that it left was trained on in this round

    @property
    def explanation(self) -> str:
        """The reason by itself, with how the decision fell."""
        return f"{self.outcome}: {self.reason}" if self.outcome in ("accepted", "refused") else self.reason


@dataclass(frozen=True, slots=True)
class Journey:
    """A sample from the given pair to the one that is in the pool now."""

    sample: str
    position: int
    split: str
    meta: Mapping[str, Any]  # the other fields of its record
    context: tuple[ShownTurn, ...]
    place: str  # in its conversation; empty for a pair that stands alone
    trained_in: tuple[int, ...]
    given: VersionDocument
    current: VersionDocument
    steps: tuple[Step, ...]


def build_journey(trace: Trace, calls: Sequence[CallDocument] = ()) -> Journey:
    """A sample's journey from what `trace --json` prints; with calls, where a medium shows those."""
    proposed = [version for version in trace["versions"] if version["parent"]]
    kinds = (proposed, trace["decisions"], trace["failures"], calls)
    places = sorted({(item["round"], item["phase"]) for kind in kinds for item in kind})
    return Journey(
        sample=trace["sample"],
        position=trace["position"],
        split=trace["split"],
        meta=trace["meta"],
        context=tuple(read_turns(trace["context"])),
        place=explain_place(trace),
        trained_in=tuple(trace["trained_in"]),
        given=next(version for version in trace["versions"] if not version["parent"]),
        current=next(version for version in trace["versions"] if version["current"]),
        steps=tuple(_build_step(trace, calls, *place) for place in places),
    )


def _build_step(trace: Trace, calls: Sequence[CallDocument], round: int, phase: str) -> Step:
    def here(items: Sequence[_Item]) -> list[_Item]:
        return [item for item in items if (item["round"], item["phase"]) == (round, phase)]

    versions = {version["id"]: version for version in trace["versions"]}
    decision = next(iter(here(trace["decisions"])), None)
    proposed = [version for version in here(trace["versions"]) if version["parent"]]
    asked = [*here(trace["failures"]), *proposed]
    has_several = len(proposed) > 1 or any(version["candidate"] for version in proposed)
    proposals = tuple(
        Proposal(
            version=version,
            parent=versions[version["parent"] or ""],
            name=_number(version) if has_several else "proposal",
            is_accepted=decision is not None and decision["winner"] == version["id"],
            not_compared=_explain_not_compared(version, decision, versions),
        )
        for version in proposed
    )
    return Step(
        round=round,
        phase=phase,
        outcome=decision["outcome"] if decision else "undecided",
        decision=decision,
        reason=explain_reason(decision, trace["later_turns"]) if decision else "not decided yet",
        proposals=proposals,
        contest=tuple(_contestants(decision, versions, proposals)),
        failures=tuple(map(explain_call, here(trace["failures"]))),
        servers=tuple(dict.fromkeys(item["server"] for item in asked if item["server"])),
        calls=tuple(here(calls)),
        is_trained=phase == "response" and round in trace["trained_in"],
    )


def _number(version: VersionDocument) -> str:
    return f"proposal {version['candidate'] + 1}"


def _explain_not_compared(
    version: VersionDocument, decision: DecisionDocument | None, versions: Mapping[str, VersionDocument]
) -> str | None:
    """Why another proposal of the phase was compared with the incumbent; None for the one that was."""
    if decision is None or decision["challenger"] in (None, version["id"]):
        return None
    best, student = _number(versions[decision["challenger"]]), decision["student"]
    if student is None:
        return f"{best} was taken: policy {decision['policy']} takes the first that can be scored"
    score = _score_under(version, student)
    if score is None or score["status"] != "ok":
        return f"cannot be scored under {student}: it cannot win"
    length = ", or its response nearer in length" if find_policy(decision["policy"]).at_like_length else ""
    return f"{best} was as good or better under {student}{length}, and was compared with the incumbent"


def _contestants(
    decision: DecisionDocument | None,
    versions: Mapping[str, VersionDocument],
    proposals: Sequence[Proposal],
) -> Iterator[Contestant]:
    if decision and decision["student"] and proposals:
        named = [(item.name, item.version) for item in proposals]
        for name, version in (("incumbent", versions[decision["incumbent"]]), *named):
            score = _score_under(version, decision["student"])
            yield Contestant(name, version, score, version["id"] == decision["winner"])


def _score_under(version: VersionDocument, student: str) -> ScoreDocument | None:
    return next((score for score in version["scores"] if score["student"] == student), None)
