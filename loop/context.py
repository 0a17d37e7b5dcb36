"""What the nodes work with: counters, lineage and models, and a student that scores what is missing."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from reflectune.agents.student.adapters import check_adapter
from reflectune.agents.student.answering import Writer
from reflectune.agents.student.evaluation import Checker
from reflectune.agents.student.refinetune import refinetune_student
from reflectune.agents.student.student import Prepared, Student
from reflectune.agents.teacher.teacher import Teacher
from reflectune.loop.progress import Display
from reflectune.loop.signals import Interrupted
from reflectune.state.config import RunConfig
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import Pair, Phase, Score, Scores, StudentRecord, Term

__all__ = ["SAMPLES_AT_ONCE", "LoopContext", "LoopState", "Scorer", "Texts", "find_adapter"]

# How many samples are scored and decided at once, and lost at most when the process dies. Fixed, since
# scores may differ in their last bits with what they are computed beside.
SAMPLES_AT_ONCE = 32

Wanted = tuple[str, Pair, Term]  # version id, its pair, which score
Texts = Mapping[tuple[str, Term], Prepared]  # by version id and which score


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
    display: Display
    checker: Checker | None
    open_teacher: Callable[[StudentRecord], Teacher]  # the newest student, who may teach itself
    open_student: Callable[[Path | None], Student]
    # What opens a faster writer of so many answers than the student, once that is closed; None: nothing does.
    find_writer: Callable[[Path | None, int], Callable[[], Writer] | None] = lambda adapter, answers: None
    refinetune_student: Callable[..., dict[str, float]] = refinetune_student
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

    def open_with_adapter(self, student: StudentRecord) -> Student:
        """Open a student as it was trained; AdapterError: its adapter is another now."""
        return self.open_student(find_adapter(self.folder, student))

    @contextmanager
    def timed(self, round: int, node: str) -> Iterator[None]:
        """Book the block's time on a node of a round, however it ends."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.lineage.add_seconds(round, node, time.monotonic() - began)


class Scorer:
    """Scores with one student, opened when the first score is really missing."""

    def __init__(self, context: LoopContext, student: StudentRecord, stack: ExitStack) -> None:
        self.context, self.student, self.stack = context, student, stack
        self.model: Student | None = None

    def open(self) -> Student:
        """The open student."""
        if self.model is None:
            self.model = self.stack.enter_context(self.context.open_with_adapter(self.student))
            self.context.leave_if_asked()
        return self.model

    def prepare(self, wanted: Iterable[Wanted], known: Scores) -> Texts:
        """What is wanted and not known, as the student takes it."""
        missing = [item for item in wanted if item[2] not in known.get(item[0], {})]
        if not missing:
            return {}
        prepared = self.open().prepare([(pair, term) for _, pair, term in missing])
        return {(version, term): each for (version, _, term), each in zip(missing, prepared, strict=True)}

    def compute(self, texts: Texts) -> Scores:
        """Score what `prepare` gave: version id -> term -> score."""
        scores: dict[str, dict[Term, Score]] = {}
        if texts:
            assert self.model is not None  # it has prepared them
            for (version, term), score in zip(texts, self.model.compute([*texts.values()]), strict=True):
                scores.setdefault(version, {})[term] = score
        return scores


def find_adapter(folder: RunFolder, student: StudentRecord) -> Path | None:
    """The adapter folder of a student, as it was trained; None for the base model."""
    if student.adapter is None or student.adapter_hash is None:
        return None
    adapter = folder.adapter(student.round)
    check_adapter(adapter, student.adapter_hash, student.id)
    return adapter
