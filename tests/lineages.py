"""Small lineages with known contents, for tests of whatever reads or writes them."""

import math
from collections.abc import Sequence
from pathlib import Path

from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import (
    TERMS,
    Conversation,
    Decision,
    Pair,
    Phase,
    Reason,
    Sample,
    Score,
    Scores,
    Split,
    StudentRecord,
    TeacherCall,
    Term,
    Turn,
    Version,
    content_part,
)


def make_store(path: Path, train: int = 3, holdout: int = 1, ids: str | Sequence[str] = "") -> LineageWriter:
    """A store with samples "a", "b", ... or of other ids (held-out ones last), round 0 and student s0."""
    store = LineageWriter.create(path)
    store.add_run({"name": "run", "rounds": 2, "seed": 0}, data_hash="d", versions={"graph": "g"})
    store.add_samples(
        Sample(id, index, "train" if index < train else "holdout", given(id))
        for index, id in enumerate(ids or map(name, range(train + holdout)))
    )
    store.start_round(0)
    store.add_student(StudentRecord("s0", 0, "base", None, None, None, None))
    store.finish_round(0, None)
    return store


def name(index: int) -> str:
    return chr(ord("a") + index)


def given(sample: str) -> Pair:
    """The pair of a sample, wherever that stands in the data."""
    text = content_part(sample)
    return Pair(f"ask {text}", "", f"answer {text}")


def call(
    sample: str,
    round: int = 1,
    phase: Phase = "response",
    attempt: int = 1,
    status: str = "ok",
    candidate: int = 0,
) -> TeacherCall:
    return TeacherCall(
        round=round,
        phase=phase,
        sample_id=sample,
        candidate=candidate,
        attempt=attempt,
        engine="recorded",
        model="m",
        prompt_hash="p",
        text="text",
        finish_reason="stop",
        status=status,  # type: ignore[arg-type]
        error=None if status == "ok" else "broken",
        critique="too short" if status == "ok" else None,
        prompt_tokens=10,
        completion_tokens=5,
        cost_usd=0.25,
        seconds=0.1,
    )


def propose(
    store: LineageWriter,
    parent: Version,
    response: str,
    *,
    round: int,
    phase: Phase,
    candidate: int = 0,
    instruction: str | None = None,
) -> Version:
    """Commit a teacher call with the version it proposed."""
    made = call(parent.sample_id, round, phase, candidate=candidate)
    pair = Pair(instruction or parent.pair.instruction, parent.pair.input, response)
    version = Version(parent.sample_id, parent.id, round, phase, candidate, pair, made.id)
    store.add_reflections([made], [version])
    return version


def decide(
    store: LineageWriter, *decisions: Decision, scores: Scores | None = None, student: str = "s0"
) -> None:
    store.add_decisions(scores or {}, student, decisions)


def original(sample: str) -> Version:
    return Version(sample, None, 0, "original", 0, given(sample))


def scores_of(ifd: float = 1.0, r_ifd: float = 1.0, tokens: int = 4) -> dict[Term, Score]:
    """All four scores, such that the measures come out as given: the alone passes have nll 1."""
    nlls = (1 + math.log(ifd), 1.0, 1 + math.log(r_ifd), 1.0)
    return {term: Score(-nll * tokens, tokens, "ok") for term, nll in zip(TERMS, nlls, strict=True)}


def decided(
    incumbent: Version,
    challenger: Version | None = None,
    *,
    reason: Reason = "no-candidate",
    round: int = 1,
    phase: Phase = "response",
    values: tuple[float | None, float | None] = (None, None),
) -> Decision:
    """A decision; `values` are the incumbent's and the challenger's."""
    accepted = reason == "accepted" and challenger is not None
    return Decision(
        round=round,
        phase=phase,
        sample_id=incumbent.sample_id,
        student_id="s0",
        policy="ifd+r-ifd",
        incumbent_id=incumbent.id,
        winner_id=challenger.id if accepted and challenger else incumbent.id,
        challenger_id=challenger.id if challenger else None,
        reason=reason,
        incumbent_value=values[0],
        winner_value=values[1] if accepted else values[0],
        challenger_value=values[1],
        margin=0.0,
    )


def talk(*turns: str) -> Conversation:
    """A conversation of a system message and then the user and the assistant in turn."""
    roles = ("system", *("user", "assistant") * len(turns))
    return Conversation(tuple(Turn(role, said) for role, said in zip(roles, turns, strict=False)))


def exchange(
    id: str, position: int, conversation: Conversation, turn: int, split: Split = "train", **meta: object
) -> Sample:
    """The sample that an exchange of a conversation is."""
    asked, said = conversation.turns[turn : turn + 2]
    pair = Pair(asked.content, "", said.content, conversation.turns[:turn])
    return Sample(id, position, split, pair, meta, conversation, turn)
