"""One sample's way through all rounds, built once from the lineage and shown by every medium.

Nothing here knows a terminal or HTML: each medium lays the steps out and marks what changed in texts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reflectune.loop.show.explanations import explain_call, explain_decision, explain_reason, unit_of
from reflectune.state.records import Outcome

__all__ = ["TEXTS", "Contestant", "Journey", "Proposal", "Step", "build_journey"]

Document = Mapping[str, Any]

# The texts of a version, in the order to read them.
TEXTS = ("instruction", "input", "response")


@dataclass(frozen=True, slots=True)
class Proposal:
    """One pair that the teacher proposed."""

    version: Document
    parent: Document  # the incumbent that it was to better
    number: int | None  # from 1, where the phase has several
    fate: Literal["accepted", "refused", "undecided"]
    not_compared: str | None  # why it was not the one that was compared with the incumbent

    @property
    def name(self) -> str:
        """What it is called beside the others of its phase."""
        return "proposal" if self.number is None else f"proposal {self.number}"

    @property
    def changed(self) -> list[str]:
        """Which of its texts differ from its parent's."""
        return [name for name in TEXTS if self.version[name] != self.parent[name]]


@dataclass(frozen=True, slots=True)
class Contestant:
    """A version that a decision was about, with its score under the student that decided."""

    name: str
    version: Document
    score: Document | None  # None where the policy needs none
    is_winner: bool


@dataclass(frozen=True, slots=True)
class Step:
    """What one phase of one round did to the sample."""

    round: int
    phase: str
    outcome: Outcome | Literal["undecided"]
    decision: Document | None
    explanation: str  # of the decision, with how it fell
    reason: str  # the same, for where the outcome stands beside it
    unit: str  # of the values that were compared
    student: str | None  # that decided
    proposals: tuple[Proposal, ...]
    contest: tuple[Contestant, ...]  # the incumbent first; empty where no scores were compared
    failures: tuple[str, ...]  # teacher calls without a proposal, a sentence each
    calls: tuple[Document, ...]  # all teacher calls, where they were asked for
    is_trained: bool  # whether the pair that it left was trained on in this round


@dataclass(frozen=True, slots=True)
class Journey:
    """A sample from the given pair to the one that is in the pool now."""

    sample: str
    position: int
    split: str
    trained_in: tuple[int, ...]
    given: Document
    current: Document
    steps: tuple[Step, ...]

    @property
    def proposals(self) -> list[Proposal]:
        """All proposals of all steps."""
        return [proposal for step in self.steps for proposal in step.proposals]


def build_journey(trace: Document, calls: Sequence[Document] = ()) -> Journey:
    """A sample's journey.

    Args:
        trace: of `LineageReader.trace`, which is what `trace --json` prints.
        calls: of `LineageReader.calls`, where a medium shows what the teacher wrote.
    """
    versions = {version["id"]: version for version in trace["versions"]}
    proposed = [version for version in trace["versions"] if version["parent"]]
    kinds = (proposed, trace["decisions"], trace["failures"], calls)
    places = sorted({(item["round"], item["phase"]) for kind in kinds for item in kind})
    return Journey(
        sample=trace["sample"],
        position=trace["position"],
        split=trace["split"],
        trained_in=tuple(trace["trained_in"]),
        given=next(version for version in trace["versions"] if not version["parent"]),
        current=next(version for version in trace["versions"] if version["current"]),
        steps=tuple(_build_step(trace, calls, versions, *place) for place in places),
    )


def _build_step(
    trace: Document, calls: Sequence[Document], versions: Mapping[str, Document], round: int, phase: str
) -> Step:
    def here(items: Sequence[Document]) -> list[Document]:
        return [item for item in items if (item["round"], item["phase"]) == (round, phase)]

    decision = next(iter(here(trace["decisions"])), None)
    failures = here(trace["failures"])
    proposed = [version for version in here(trace["versions"]) if version["parent"]]
    proposals = tuple(_build_proposal(version, decision, versions, len(proposed) > 1) for version in proposed)
    return Step(
        round=round,
        phase=phase,
        outcome=decision["outcome"] if decision else "undecided",
        decision=decision,
        explanation=explain_decision(decision) if decision else "not decided yet",
        reason=explain_reason(decision) if decision else "not decided yet",
        unit=unit_of(decision["policy"], phase) if decision else "",
        student=decision["student"] if decision else None,
        proposals=proposals,
        contest=tuple(_contestants(decision, versions, proposals)),
        failures=tuple(map(explain_call, failures)),
        calls=tuple(here(calls)),
        is_trained=phase == "response" and round in trace["trained_in"],
    )


def _build_proposal(
    version: Document, decision: Document | None, versions: Mapping[str, Document], is_one_of_several: bool
) -> Proposal:
    return Proposal(
        version=version,
        parent=versions[version["parent"]],
        number=version["candidate"] + 1 if is_one_of_several or version["candidate"] else None,
        fate="undecided"
        if decision is None
        else "accepted"
        if decision["winner"] == version["id"]
        else "refused",
        not_compared=_explain_not_compared(version, decision, versions),
    )


def _explain_not_compared(
    version: Document, decision: Document | None, versions: Mapping[str, Document]
) -> str | None:
    """Why another proposal of the phase was compared with the incumbent; None for the one that was."""
    if decision is None or decision["challenger"] in (None, version["id"]):
        return None
    best = f"proposal {versions[decision['challenger']]['candidate'] + 1}"
    student = decision["student"]
    if student is None:
        return f"{best} was taken: policy {decision['policy']} takes the first that can be scored"
    score = _score_under(version, student)
    if score is None or score["status"] != "ok":
        return f"cannot be scored under {student}: it cannot win"
    return f"{best} was as good or better under {student}, and was compared with the incumbent"


def _contestants(
    decision: Document | None, versions: Mapping[str, Document], proposals: Sequence[Proposal]
) -> Iterator[Contestant]:
    if decision is None or decision["student"] is None or not proposals:
        return
    named = [
        ("incumbent", versions[decision["incumbent"]]),
        *((item.name, item.version) for item in proposals),
    ]
    for name, version in named:
        score = _score_under(version, decision["student"])
        yield Contestant(name, version, score, version["id"] == decision["winner"])


def _score_under(version: Document, student: str) -> Document | None:
    return next((score for score in version["scores"] if score["student"] == student), None)
