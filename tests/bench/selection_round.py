"""One round's selection over given pairs: by the real nodes and store, and one at a time.

Proposals are records of their own, so that texts are real and none is met twice: of three times as many
records as there are samples the second third gives the pairs that are proposed in phase instruction, the last
third the responses that are proposed in phase response.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from langgraph.runtime import Runtime

from reflectune.agents.pool import LocalPool
from reflectune.agents.student.formulas import nll
from reflectune.agents.student.pairs import Prepared
from reflectune.agents.student.student import Student
from reflectune.loop.context import LoopContext
from reflectune.loop.nodes.select import select
from reflectune.loop.progress import LineDisplay
from reflectune.state.config import RunConfig
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import PHASES, Pair, Phase, Sample, Score, StudentRecord, Term, Version
from tests.bench.meter import Meter
from tests.bench.one_at_a_time import OneAtATime, Perplexity

__all__ = ["Choice", "Round", "choose_one_at_a_time", "select_round"]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a phase decided for one sample."""

    incumbent: Pair
    winner: Pair


@dataclass
class Round:
    """One round's selection: how long it took, what it chose, and the scores it took."""

    seconds: float = 0.0
    opening_seconds: float = 0.0  # opening and closing the student, once a phase; not in `seconds`
    texts: int = 0  # that had to be scored: different renderings that were asked for at once
    choices: dict[tuple[Phase, int], Choice] = field(default_factory=dict)  # by phase and sample
    scores: dict[tuple[Pair, Term], Perplexity] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """How many samples were chosen for."""
        return len(self.choices) // len(PHASES)


def select_round(
    config: RunConfig, records: Sequence[Pair], folder: Path, meter: Meter | None = None
) -> Round:
    """Run the node `select` for both phases over a lineage database.

    Of the records a third each are samples, proposed pairs and proposed responses. The meter listens to the
    student, but for the trial passes of its opening.
    """
    run, result = RunFolder(folder), Round()

    def open_student(adapter: Path | None) -> Student:
        began = time.perf_counter()
        student = Student.open(config.student, adapter)
        if meter is not None:
            meter.attach(student._model)
        compute, close = student._compute, student.close

        def counted(items: Sequence[Prepared]) -> list[Score]:
            result.texts += len({repr(item) for item in items})
            return compute(items)

        def timed_close() -> None:
            closing = time.perf_counter()
            close()
            result.opening_seconds += time.perf_counter() - closing

        student._compute, student.close = counted, timed_close  # type: ignore[method-assign]
        result.opening_seconds += time.perf_counter() - began
        return student

    with LineageWriter.create(run.lineage) as store:
        _begin(store, records[: len(records) // 3])
        context = LoopContext(
            config=config,
            folder=run,
            lineage=store,
            display=LineDisplay(),
            checker=None,
            open_teacher=None,  # a selection asks no teacher
            open_students=lambda adapter: LocalPool(lambda: open_student(adapter)),
        )
        for phase in PHASES:
            _propose(store, records, phase)
            began = time.perf_counter()
            select(
                {"run": "bench", "round": 1, "phase": phase, "student": "s0", "stop_reason": None},
                Runtime(context=context),
            )
            result.seconds += time.perf_counter() - began
        result.seconds -= result.opening_seconds
        _read(store, result)
    return result


def choose_one_at_a_time(scorer: OneAtATime, records: Sequence[Pair], number: int) -> Round:
    """The same round for the first `number` of its samples, one pass at a time."""
    result = Round()
    began = time.perf_counter()
    for position in range(number):
        pair = records[position]
        for phase in PHASES:
            candidate = _candidate(records, phase, position, pair)
            winner, scores = scorer.choose(phase, pair, candidate)
            result.choices[phase, position] = Choice(pair, winner)
            for scored, terms in zip((pair, candidate), scores, strict=True):
                result.texts += len(terms)
                result.scores |= {(scored, term): perplexity for term, perplexity in terms.items()}
            pair = winner
    result.seconds = time.perf_counter() - began
    return result


def _candidate(records: Sequence[Pair], phase: Phase, position: int, incumbent: Pair) -> Pair:
    """What the teacher would have proposed for a sample."""
    samples = len(records) // 3
    if phase == "instruction":
        return records[samples + position]
    return Pair(incumbent.instruction, incumbent.input, records[2 * samples + position].response)


def _begin(store: LineageWriter, pairs: Sequence[Pair]) -> None:
    store.add_run({"name": "bench", "seed": 0}, data_hash="", versions={})
    store.add_samples(
        Sample(f"{position:016x}", position, "train", pair) for position, pair in enumerate(pairs)
    )
    for round in (0, 1):
        store.start_round(round)
    store.add_student(StudentRecord("s0", 0, "base", None, None, None, None))


def _propose(store: LineageWriter, records: Sequence[Pair], phase: Phase) -> None:
    """Store one proposal for every incumbent, as the node reflect would have."""
    proposals = [
        Version(
            sample_id=contest.sample_id,
            parent_id=contest.incumbent_id,
            round=1,
            phase=phase,
            candidate=0,
            pair=_candidate(records, phase, int(contest.sample_id, 16), contest.pairs[contest.incumbent_id]),
        )
        for group in store.contests(1, phase, len(records))
        for contest in group
    ]
    store.add_reflections([], proposals)


def _read(store: LineageWriter, result: Round) -> None:
    """Decisions and scores as they stand in the database."""
    versions = {
        row["id"]: Pair(row["instruction"], row["input"], row["response"])
        for row in store.db.query("SELECT id, instruction, input, response FROM versions")
    }
    for row in store.db.query("SELECT phase, sample_id, incumbent_id, winner_id FROM decisions"):
        choice = Choice(versions[row["incumbent_id"]], versions[row["winner_id"]])
        result.choices[row["phase"], int(row["sample_id"], 16)] = choice
    for row in store.db.query("SELECT version_id, term, sum_logprob, num_tokens, status FROM scores"):
        term: Term = row["term"]
        loss = nll({term: Score(row["sum_logprob"], row["num_tokens"], row["status"])}, term)
        if loss is not None:
            result.scores[versions[row["version_id"]], term] = Perplexity(loss, row["num_tokens"])
