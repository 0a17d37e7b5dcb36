"""The parts of a round for code of your own, and what a run keeps as tables.

Each does what the loop does by the same functions. Nothing here is stored: `reflectune run` does that.

    from reflectune.loop.library import open_student, score, reflect, select, open_run
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflectune.agents.student.formulas import ifd, nll, perplexity, pmi, r_ifd
from reflectune.agents.student.student import Student
from reflectune.agents.teacher.teacher import check_teacher, open_teacher
from reflectune.loop.context import Scorer, score_missing
from reflectune.loop.matching import score_pairs
from reflectune.loop.selection import decide, needed_scores
from reflectune.loop.show.documents import open_lineage
from reflectune.loop.stopping import final_round
from reflectune.state.config import (
    SELF,
    RunConfig,
    SelectionConfig,
    StudentConfig,
    TeacherConfig,
    parse_config,
)
from reflectune.state.errors import ConfigError
from reflectune.state.folder import RunFolder
from reflectune.state.groups import in_groups
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.lineage.tables import TableName, read_table
from reflectune.state.records import (
    Contest,
    Pair,
    Phase,
    Reason,
    Reflection,
    Score,
    Term,
    Version,
    content_hash,
)

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "Pair", "Proposal", "Run", "Scored", "Selected", "open_run", "open_student", "reflect", "score", "select"
]  # fmt: skip

_AT_ONCE = 32  # pairs


@dataclass(frozen=True, slots=True)
class Scored:
    """A pair under one student; a measure is None where the pair cannot be scored."""

    pair: Pair
    scores: Mapping[Term, Score]

    @property
    def ifd(self) -> float | None:
        """ppl(response given instruction) / ppl(response)."""
        return ifd(self.scores)

    @property
    def r_ifd(self) -> float | None:
        """ppl(instruction given response) / ppl(instruction)."""
        return r_ifd(self.scores)

    @property
    def pmi(self) -> float | None:
        """log p(response given instruction) - log p(response), nats."""
        return pmi(self.scores)

    @property
    def nll(self) -> float | None:
        """Of the response given the instruction, nats per token."""
        return nll(self.scores, "response_given_instruction")

    @property
    def perplexity(self) -> float | None:
        """Of the response given the instruction."""
        return perplexity(self.scores, "response_given_instruction")


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a teacher made of a pair."""

    pair: Pair  # the given one
    proposed: Pair | None  # None where there is no usable answer
    status: str  # "ok", or why there is none
    critique: str | None


@dataclass(frozen=True, slots=True)
class Selected:
    """What the student keeps of a pair and its proposals, and why; values are the policy's."""

    winner: Pair
    reason: Reason
    incumbent_value: float | None
    challenger_value: float | None


@contextmanager
def open_student(model: str | Path, adapter: str | Path | None = None, **settings: Any) -> Iterator[Student]:
    """A student that scores and answers, until the block ends.

    Args:
        model: folder or hub name.
        adapter: a LoRA folder, such as a run's `adapters/round-02`.
        settings: other keys of the section [student], such as template = "plain".
    """
    config = StudentConfig(model=str(model), **settings)
    with Student.open(config, None if adapter is None else Path(adapter)) as student:
        yield student


def score(pairs: Iterable[Pair], student: Scorer) -> Iterator[Scored]:
    """Score pairs one group after another, in their order, as they are pulled."""
    for group in in_groups(pairs, _AT_ONCE):
        yield from map(Scored, group, score_pairs(group, student.score))


def reflect(
    pairs: Iterable[Pair], teacher: TeacherConfig, phase: Phase = "response", *, seed: int = 0
) -> Iterator[Proposal]:
    """Ask a teacher to improve pairs, and yield what it makes of each, as answers come: in any order.

    Failed and useless answers are asked for again, `retries` times. Nothing is cached, stored or budgeted.

    Raises:
        TeacherError: nobody answers.
    """
    if teacher.model == SELF:
        raise ConfigError(f"teacher.model = {SELF}: without a run there is no student; name its folder")
    check_teacher(teacher)
    asked: dict[str, Pair] = {}

    def reflections() -> Iterator[Reflection]:
        for index, pair in enumerate(pairs):
            sample = content_hash(index, pair.content_hash)
            asked[sample] = pair
            version = Version(sample, None, 0, "original", 0, pair)
            for candidate in range(teacher.candidates):
                yield Reflection(sample, version.id, pair, 1, phase, candidate)

    with open_teacher(teacher, seed) as opened:
        for group in opened.reflect(reflections()):
            for call, version in group:
                if call.is_final(teacher.attempts):
                    proposed = None if version is None else version.pair
                    yield Proposal(asked[call.sample_id], proposed, call.status, call.critique)


def select(
    choices: Iterable[tuple[Pair, Sequence[Pair]]],
    student: Scorer,
    phase: Phase = "response",
    *,
    seed: int = 0,
    **settings: Any,
) -> Iterator[Selected]:
    """Let a student choose between each pair and its proposals, in their order.

    Args:
        choices: pairs with their proposals.
        student: who scores.
        phase: what the proposals change; policies compare another thing in each.
        seed: of policy random.
        settings: keys of the section [selection], such as policy = "r-ifd" and margin = 0.1.
    """
    selection = SelectionConfig(**settings)
    for index, (incumbent, proposals) in enumerate(choices):
        names = [f"{index}/{place}" for place in range(len(proposals) + 1)]
        pairs = dict(zip(names, (incumbent, *proposals), strict=True))
        contest = Contest(str(index), names[0], tuple(names[1:]), pairs)
        needed = needed_scores(contest, selection.policy, phase)
        scores = score_missing(((name, pairs[name], term) for name, term in needed), {}, student)
        decision = decide(contest, scores, selection, seed=seed, round=1, phase=phase, student_id="")
        yield Selected(
            pairs[decision.winner_id], decision.reason, decision.incumbent_value, decision.challenger_value
        )


class Run:
    """A run's lineage as Arrow tables: `.to_pandas()`, or `datasets.Dataset(table)`."""

    def __init__(self, name: str, lineage: LineageReader) -> None:
        self._lineage = lineage
        self.config: RunConfig = parse_config(lineage.settings()["config"], source=name)
        self.rounds: int = lineage.last_round()  # the last complete one

    def table(self, name: TableName, round: int | None = None) -> "pyarrow.Table":
        """A table of the lineage, of one round or of all."""
        return read_table(self._lineage, name, round)

    def pool(self, round: int | None = None) -> "pyarrow.Table":
        """The pairs of D[r]; of the round that the run ends with: the last complete one, with
        `stop.rollback` the best.
        """
        return self.table("pool", final_round(self._lineage) if round is None else round)

    def decisions(self, round: int | None = None) -> "pyarrow.Table":
        """Who won, and by which values."""
        return self.table("decisions", round)

    def versions(self, round: int | None = None) -> "pyarrow.Table":
        """Every state of every pair, with criticism, outcome, and the deciding student's IFD and r-IFD."""
        return self.table("evolution", round)


@contextmanager
def open_run(name: str, runs: str | Path = "runs") -> Iterator[Run]:
    """A run for reading, also while it goes on.

    Raises:
        StoreError: there is no such run, or it is damaged.
    """
    with open_lineage(RunFolder.find(Path(runs), name)) as lineage:
        yield Run(name, lineage)
