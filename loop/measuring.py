"""Which pairs of a dataset or of a run tell what a student's scores are worth, and the student that tells."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import TypeVar

from reflectune.agents.student.student import Student, StudentBase
from reflectune.agents.student.templates import check_student
from reflectune.loop.bias import Bias, compare_trained, conclude
from reflectune.loop.context import SAMPLES_AT_ONCE, find_adapter, find_scorers, score_missing
from reflectune.loop.evidence import Choice, Evidence, measure_evidence
from reflectune.loop.progress import Display
from reflectune.loop.resuming import refuse_changed_files, restore_config
from reflectune.state.config import DataConfig, RunConfig, SelectionConfig, StudentConfig
from reflectune.state.data.datasets import read_dataset
from reflectune.state.data.labels import question_of, read_preferences
from reflectune.state.errors import ConfigError
from reflectune.state.folder import RunFolder
from reflectune.state.groups import in_groups
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.lineage.proposals import read_proposals
from reflectune.state.lineage.signals import find_trained
from reflectune.state.records import (
    PHASES,
    TERMS,
    Contest,
    Pair,
    Phase,
    Score,
    Scores,
    StudentRecord,
    Term,
    half_of,
)

__all__ = ["measure_data", "measure_run"]

Item = TypeVar("Item")


def measure_data(
    data: DataConfig, student: StudentConfig, number: int, seed: int, display: Display
) -> Evidence:
    """What a student tells about so many pairs of a dataset, and about the preferences that it brings.

    Where it brings any, the preferred ones are the pairs.
    """
    check_student(student)
    found = ((each.better, each.worse) for each in read_preferences(data, seed))
    choices = _draw(_one_each(found), number, seed)
    pairs = [better for better, _ in choices]
    if not choices:
        pairs = _draw((record.pair for record in read_dataset(data)), number, seed)
    band = SelectionConfig().length_band
    with Student.open(student) as opened:
        return _measure(
            str(data.path), student.model, opened, pairs, choices, display, labelled=True, band=band
        )


def measure_run(folder: RunFolder, round: int, number: int, seed: int, display: Display) -> Evidence:
    """What the student that decides in a round tells about so many pairs of the pool, and about proposals.

    The choices are between incumbents and proposals of phase response. Where the round is the second or a
    later one, or a second one was decided, it also tells what being trained on a pair does to its value.
    """
    if round == 0:
        raise ConfigError("--round 0: the given data has no proposals; name a round from 1 on")
    config = restore_config(folder)
    with LoopReader.open(folder.lineage) as lineage, StudentBase(config.student) as base:
        refuse_changed_files(lineage, config, "student.model")
        student = lineage.round_student(config.selection.deciding(round))
        if student is None:
            raise ConfigError(f"--round {round}: no student has been trained in round {round - 1} yet")
        pairs = [*lineage.pool_pairs(round - 1, lineage.choose_samples(number, seed)).values()]
        made = ((each.incumbent, each.candidate) for each in read_proposals(lineage, round, "response"))
        adapter, source = find_adapter(folder, student), f"{config.name}, round {round}"
        choices, band = _draw(_one_each(made), number, seed), config.selection.length_band
        name = config.student.model if adapter is None else f"{config.student.model} with {adapter.name}"
        with Student(base, adapter) as opened:
            evidence = _measure(source, name, opened, pairs, choices, display, labelled=False, band=band)
        bias = _Bias(folder, config, lineage, base, max(round, 2), display).measure(number, seed)
    return evidence | {"bias": bias}


@dataclass(frozen=True, slots=True)
class _Bias:
    """The two students that contests of a round are scored by: s[0] and the one that decided."""

    folder: RunFolder
    config: RunConfig
    lineage: LoopReader
    base: StudentBase
    round: int
    display: Display

    def measure(self, number: int, seed: int) -> Bias | None:
        """What training does to so many contests a phase; None where nothing was trained or decided."""
        student = self.lineage.round_student(self.config.selection.deciding(self.round))
        if student is None or student.adapter is None:
            return None
        contests = {phase: self._draw(phase, number, seed) for phase in PHASES}
        if not any(contests.values()):
            return None
        asked = [contest for drawn in contests.values() for contest in drawn]
        frozen = self.lineage.round_student(0)
        assert frozen is not None
        before, after = self._score(asked, frozen), self._score(asked, student)
        first = 1 if self.config.refinetune.start_from == "previous" else student.round
        trained = find_trained(self.lineage, [it.incumbent_id for it in asked], first, student.round)
        policies = [
            found
            for phase, drawn in contests.items()
            for found in compare_trained(drawn, trained, before, after, self.config, phase)
        ]
        return Bias(
            student=student.id,
            round=self.round,
            contests={phase: len(drawn) for phase, drawn in contests.items()},
            policies=policies,
            conclusion=conclude(policies, self.config.selection.policy, student.id),
        )

    def _draw(self, phase: Phase, number: int, seed: int) -> list[Contest]:
        """By lot, of those that had a proposal."""
        groups = self.lineage.contests(self.round, phase, SAMPLES_AT_ONCE, decided=True)
        decided = (contest for group in groups for contest in group if contest.candidate_ids)
        return _draw(decided, number, seed)

    def _score(self, contests: Sequence[Contest], student: StudentRecord) -> Scores:
        """All scores under a student: as they are stored, or computed."""
        found: dict[str, Mapping[Term, Score]] = {}
        for half, adapter in find_scorers(self.folder, student):
            own = [each for each in contests if half is None or half_of(each.sample_id) == half]
            with (
                Student(self.base, adapter) as scorer,
                self.display.stage(f"signal · {student.id}", total=len(own)) as stage,
            ):
                for group in in_groups(own, SAMPLES_AT_ONCE):
                    pairs = {id: pair for contest in group for id, pair in contest.pairs.items()}
                    known = self.lineage.scores([*pairs], student.id)
                    wanted = ((id, pair, term) for id, pair in pairs.items() for term in TERMS)
                    fresh = score_missing(wanted, known, scorer)
                    found |= {id: {**known[id], **fresh.get(id, {})} for id in pairs}
                    stage.advance(len(group))
        return found


def _one_each(choices: Iterable[Choice]) -> Iterator[Choice]:
    """The first choice of each question: others of the same one are not independent of it."""
    asked: set[int] = set()
    for choice in choices:
        question = hash(question_of(choice[0]))
        if question not in asked:
            asked.add(question)
            yield choice


def _draw(items: Iterable[Item], number: int, seed: int) -> list[Item]:
    """Up to so many by lot, in random order. Only these are held."""
    lots = random.Random(f"{seed}/signal")
    return nsmallest(number, items, key=lambda _: lots.random())


def _measure(
    source: str,
    name: str,
    student: Student,
    pairs: Sequence[Pair],
    choices: Sequence[Choice],
    display: Display,
    *,
    labelled: bool,
    band: float,
) -> Evidence:
    with display.stage("signal", total=2 * len(pairs) + 2 * len(choices)) as stage:
        return measure_evidence(
            source, name, pairs, choices, student.score, labelled=labelled, band=band, on_scored=stage.advance
        )
