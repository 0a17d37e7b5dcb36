"""One round's selection over given pairs: by the real nodes and store, and one at a time.

Proposals are records of their own, so that texts are real and none is met twice: of three times as many
records as there are samples the second third gives the pairs that are proposed in phase instruction, the last
third the responses that are proposed in phase response. Nothing here measures anything but time.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langgraph.runtime import Runtime

from reflectune.agents import models
from reflectune.agents.student.formulas import nll
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
    texts: int = 0  # different renderings that were asked for at once: what has to be scored
    choices: dict[tuple[Phase, int], Choice] = field(default_factory=dict)  # by phase and sample
    losses: dict[tuple[Pair, Term], float] = field(default_factory=dict)  # nats per token
    num_tokens: dict[tuple[Pair, Term], int] = field(default_factory=dict)


def select_round(
    config: RunConfig, records: Sequence[Pair], folder: Path, meter: Meter | None = None
) -> Round:
    """Run the node `select` for both phases over a lineage database in a folder.

    Args:
        config: whose student decides.
        records: samples, proposed pairs and proposed responses, a third each.
        folder: where the database is made.
        meter: listens to the student, but for the trial passes of its opening.
    """
    run = RunFolder(folder)
    result = Round()

    def open_student(adapter: Path | None) -> Student:
        began = time.perf_counter()
        with _metered(meter):
            student = Student.open(config.student, adapter)
        score, close = student.score, student.close

        def counted(questions: Sequence[tuple[Pair, Term]]) -> list[Score]:
            result.texts += len({_text(pair, term) for pair, term in questions})
            return score(questions)

        def timed_close() -> None:
            closing = time.perf_counter()
            close()
            result.opening_seconds += time.perf_counter() - closing

        student.score = counted  # type: ignore[method-assign]
        student.close = timed_close  # type: ignore[method-assign]
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
            open_teacher=_no_teacher,
            open_student=open_student,
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
            choose = scorer.choose_by_ifd if phase == "instruction" else scorer.choose_by_r_ifd
            candidate = _candidate(records, phase, position, pair)
            winner, scores = choose(pair, candidate)
            result.choices[phase, position] = Choice(pair, winner)
            _keep(result, [pair, candidate], scores)
            pair = winner
    result.seconds = time.perf_counter() - began
    return result


def _keep(result: Round, pairs: Sequence[Pair], scores: Sequence[dict[Term, Perplexity]]) -> None:
    for pair, terms in zip(pairs, scores, strict=True):
        for term, perplexity in terms.items():
            result.losses[pair, term] = perplexity.loss
            result.num_tokens[pair, term] = perplexity.num_tokens


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
    contests = [contest for group in store.contests(1, phase, len(records)) for contest in group]
    proposals = [
        Version(
            sample_id=contest.sample_id,
            parent_id=contest.incumbent_id,
            round=1,
            phase=phase,
            candidate=0,
            pair=_candidate(records, phase, int(contest.sample_id, 16), contest.pairs[contest.incumbent_id]),
        )
        for contest in contests
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
            result.losses[versions[row["version_id"]], term] = loss
            result.num_tokens[versions[row["version_id"]], term] = row["num_tokens"]


@contextmanager
def _metered(meter: Meter | None) -> Iterator[None]:
    """Have a meter listen to the model that is opened inside."""
    if meter is None:
        yield
        return
    original = models.open_model
    models.open_model = lambda *args: meter.attach(original(*args))
    meter.listening = False  # to the trial passes of the opening
    try:
        yield
    finally:
        models.open_model = original
        meter.listening = True


def _text(pair: Pair, term: Term) -> tuple[str, ...]:
    """What a term's rendering depends on."""
    match term:
        case "response_alone":
            return term, pair.response
        case "instruction_alone":
            return term, pair.instruction, pair.input
        case _:
            return term, pair.instruction, pair.input, pair.response


def _no_teacher(student: StudentRecord) -> Any:
    raise AssertionError("a selection asks no teacher")
