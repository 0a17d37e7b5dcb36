"""What the nodes work with: counters, lineage, models, and the scores that are missing."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypedDict

from reflectune.agents.judge.judge import Judge, open_judge
from reflectune.agents.pool import StudentPool
from reflectune.agents.student.adapters import check_adapter
from reflectune.agents.student.evaluation import Checker
from reflectune.agents.student.refinetune import refinetune_student
from reflectune.agents.teacher.teacher import Teacher
from reflectune.loop.live import LiveDisplay
from reflectune.loop.progress import Display
from reflectune.loop.signals import Interrupted
from reflectune.state.config import JudgeConfig, RunConfig
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.live import Worker
from reflectune.state.records import HALVES, Half, Pair, Phase, Score, Scores, StudentRecord, Term

__all__ = [
    "SAMPLES_AT_ONCE", "LoopContext", "LoopState", "Scorer", "Wanted", "find_adapter", "find_scorers",
    "score_missing", "unscored",
]  # fmt: skip

# How many samples are scored and decided at once, and lost at most when the process dies. Fixed, since
# scores may differ in their last bits with what they are computed beside.
SAMPLES_AT_ONCE = 32

Wanted = tuple[str, Pair, Term]  # version id, its pair, which score


class LoopState(TypedDict):
    """What the machine carries: names and counters only; data lives in the lineage database."""

    run: str
    round: int  # the round under way, from 1
    phase: Phase  # of the next reflection
    student: str  # the newest student's id
    stop_reason: str | None


@dataclass(frozen=True, slots=True)
class LoopContext:
    """What the nodes work with. Tests put fakes in the place of models; nothing is global."""

    config: RunConfig
    folder: RunFolder
    lineage: LineageWriter
    display: Display | LiveDisplay
    checker: Checker | None
    open_teacher: Callable[[StudentRecord], Teacher]  # the newest student, who may teach itself
    open_students: Callable[[Path | None], StudentPool]  # those with an adapter; None: the base model
    open_judge: Callable[[JudgeConfig], Judge] = open_judge
    # What writes so many answers faster than students, once these are closed; None: nothing does.
    open_writers: Callable[[Path | None, int], StudentPool | None] = lambda adapter, answers: None
    refinetune_student: Callable[..., dict[str, float]] = refinetune_student
    trainers: Callable[[], Sequence[Worker]] = tuple  # what each does while a student is trained
    stopping: Callable[[], bool] = lambda: False  # whether somebody asked to stop

    def leave_if_asked(self) -> None:
        """Raise Interrupted where somebody asked to stop; call it where nothing is in flight."""
        if self.stopping():
            raise Interrupted

    def round_student(self, round: int) -> StudentRecord:
        """The student that a round ended with."""
        student = self.lineage.round_student(round)
        assert student is not None, f"round {round} has no student"
        return student

    def deciding_student(self, round: int) -> StudentRecord:
        """The student whose scores decide in a round."""
        return self.round_student(self.config.selection.deciding(round))

    def is_decided(self, round: int, phase: Phase) -> bool:
        """Whether every sample of a phase is decided."""
        return self.lineage.count_decisions(round, phase) == self.lineage.samples()["train"]

    def open_pool(self, student: StudentRecord) -> StudentPool:
        """Students as one was trained; AdapterError: its adapter is another now."""
        return self.open_students(find_adapter(self.folder, student))

    @contextmanager
    def timed(self, round: int, node: str) -> Iterator[None]:
        """Book the block's time on a node of a round, however it ends."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.lineage.add_seconds(round, node, time.monotonic() - began)


class Scorer(Protocol):
    """What scores targets, in the given order: an open student."""

    def score(self, targets: Sequence[tuple[Pair, Term]]) -> list[Score]:
        """One score for each target."""


def unscored(wanted: Iterable[Wanted], known: Scores) -> list[Wanted]:
    """What is wanted and not known."""
    return [item for item in wanted if item[2] not in known.get(item[0], {})]


def score_missing(wanted: Iterable[Wanted], known: Scores, scorer: Scorer | None) -> Scores:
    """Score what is wanted and not known: version id -> term -> score. Nobody need be there where all is."""
    missing = unscored(wanted, known)
    scores: dict[str, dict[Term, Score]] = {}
    if missing:
        assert scorer is not None
        found = scorer.score([(pair, term) for _, pair, term in missing])
        for (version, _, term), score in zip(missing, found, strict=True):
            scores.setdefault(version, {})[term] = score
    return scores


def find_adapter(folder: RunFolder, student: StudentRecord) -> Path | None:
    """The adapter folder of a student, as it was trained; None for the base model."""
    if student.adapter is None or student.adapter_hash is None:
        return None
    adapter = folder.adapter(student.round)
    check_adapter(adapter, student.adapter_hash, student.id)
    return adapter


def find_scorers(folder: RunFolder, student: StudentRecord) -> list[tuple[Half | None, Path | None]]:
    """Whose adapter scores which samples of the pool: the student's all, or each half's those of the other.

    With `selection.cross_fit` a student's scores of the pool are so of two that were trained on half of its
    pairs; metrics["halves"] has the hashes of their adapters, None where a half had no pair.
    """
    hashes = student.metrics.get("halves")
    if hashes is None:
        return [(None, find_adapter(folder, student))]
    found: list[tuple[Half | None, Path | None]] = []
    for half, trained in zip(HALVES, reversed(HALVES), strict=True):
        adapter = folder.adapter(student.round, trained)
        if hashes[trained] is not None:
            check_adapter(adapter, hashes[trained], f"{student.id}, half {trained}")
        found.append((half, None if hashes[trained] is None else adapter))
    return found
