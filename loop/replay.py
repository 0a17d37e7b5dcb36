"""A run's decisions and training sets anew, by another policy: from stored scores, with no teacher.

A replay goes on for as long as the run's own road does. Once a decision differs, the next student would be
another one: there the road forks, and what the run did afterwards says nothing.
"""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from reflectune.agents.student.student import Student
from reflectune.loop.context import SAMPLES_AT_ONCE, Scorer, find_adapter
from reflectune.loop.nodes.refinetune import choose_for_round
from reflectune.loop.nodes.select import Group, decide_group
from reflectune.loop.progress import Display
from reflectune.loop.resuming import hash_files, refuse_changed_files
from reflectune.state.config import RunConfig, assign, parse_config, without_unset
from reflectune.state.errors import ConfigError
from reflectune.state.folder import RunFolder
from reflectune.state.groups import in_groups
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.lineage.replays import (
    begin_replay,
    copy_lineage,
    find_positions,
    forget_after,
    forget_proposals,
    training_ids,
)
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import HALVES, PHASES, Contest, Decision, Pair, Phase, Reason, Score, Term
from reflectune.state.storage import explain_storage_errors

__all__ = ["Change", "PhaseReplayed", "Replayed", "RoundReplayed", "replay_run"]


class PhaseReplayed(TypedDict):
    """What became of a phase's decisions."""

    phase: Phase
    decisions: int
    changed: int  # another pair goes on
    lacking: int  # rest on scores that the run lacks; without --score taken as they were
    forked: int  # phase response: whose instruction is another now, so that nothing was proposed for it


class RoundReplayed(TypedDict):
    """What became of a round."""

    round: int
    phases: list[PhaseReplayed]
    trained_before: int  # pairs of the training set
    trained: int | None  # None where scores lack
    trained_both: int | None


class Change(TypedDict):
    """A decision that falls otherwise."""

    position: int
    round: int
    phase: Phase
    before: Reason
    after: Reason


class Replayed(TypedDict):
    """What a replay came to, as `replay --json` prints it."""

    name: str
    replay: str | None  # the run it is kept as; None where scores lack
    selection: dict[str, Any]  # its section of the config
    rounds: list[RoundReplayed]
    forks_after: int | None  # the last round that can be replayed; None where all can
    scored: int  # scores that the rounds' students computed for it
    changes: list[Change]


class _LackingError(Exception):
    """A score that the run does not have."""


class _NotKeptError(Exception):
    """A replay that would hold decisions which nobody took."""


def replay_run(
    folder: RunFolder,
    config: RunConfig,
    name: str,
    settings: Sequence[str],
    *,
    score: bool,
    display: Display,
) -> Replayed:
    """Take a run's decisions anew, and keep them as a run of another name.

    Args:
        folder: of the run, which stays as it is and may go on meanwhile.
        config: of the run.
        name: of the replay.
        settings: what is other than in the run, as `--set` takes it.
        score: whether the round's student computes what is lacking; else such decisions stay as they were,
            are counted, and nothing is kept.
        display: progress.

    Raises:
        ConfigError: an impossible value, a name that is taken, or a run without a decided round.
    """
    changed = _change(config, name, settings)
    if changed.selection.cross_fit != config.selection.cross_fit:
        raise ConfigError("selection.cross_fit: a run's scores are of the students it had; start another run")
    if score and config.selection.cross_fit:
        raise ConfigError(
            "--score: this run's students decide by halves (selection.cross_fit); replay without"
        )
    result = Replayed(
        name=config.name,
        replay=name,
        selection=changed.selection.model_dump(mode="json"),
        rounds=[],
        forks_after=None,
        scored=0,
        changes=[],
    )
    try:
        with (
            RunFolder.create(folder.path.parent, name) as made,
            explain_storage_errors(folder.path.parent, "replay again"),
        ):
            copy_lineage(folder.lineage, made.lineage)
            with LoopReader.open(folder.lineage) as stored, LineageWriter.open(made.lineage) as lineage:
                refuse_changed_files(stored, config)
                begin_replay(lineage, changed.model_dump(mode="json"), config.name, hash_files(changed))
                _Replay(folder, stored, lineage, changed, result, score, display).run()
            if any(phase["lacking"] for round in result["rounds"] for phase in round["phases"]) and not score:
                raise _NotKeptError
            made.write_config(changed.to_toml())
            _copy_adapters(folder, made, result)
    except _NotKeptError:
        result["replay"] = None
    return result


def _change(config: RunConfig, name: str, settings: Sequence[str]) -> RunConfig:
    values = config.model_dump(mode="json")
    for setting in settings:
        assign(values, setting)
    return parse_config(without_unset(values) | {"name": name}, source="replay")


@dataclass(slots=True)
class _Replay:
    folder: RunFolder
    stored: LoopReader
    lineage: LineageWriter
    config: RunConfig
    result: Replayed
    score: bool
    display: Display
    own: bool = field(init=False, default=True)  # whether all is as in the run up to here
    forked: set[str] = field(init=False, default_factory=set)  # samples of which the instruction is another

    def run(self) -> None:
        """Replay rounds until the road forks."""
        # Of the copy: the run may have come further meanwhile.
        complete = self.lineage.newest_round() + 1
        rounds = [it for it in range(1, complete) if self.lineage.round_student(it) is not None]
        if not rounds:
            raise ConfigError(f"run {self.result['name']} has no round that is decided yet")
        for round in rounds:
            self._replay_round(round)
            if not self.own:
                forget_after(self.lineage, round)
                self.lineage.finish_round(round, "replay")
                self.result["forks_after"] = round
                return
        forget_after(self.lineage, rounds[-1], student=False)

    def _replay_round(self, round: int) -> None:
        student = self.stored.round_student(self.config.selection.deciding(round))
        assert student is not None
        self.forked.clear()
        phases = []
        with ExitStack() as stack:
            scorer = _Scorer(self, stack, find_adapter(self.folder, student)) if self.score else _Refusing()
            for phase in PHASES:
                replayed = self._replay_phase(round, phase, student.id, scorer)
                phases.append(replayed)
                if phase == "instruction" and self.forked:
                    forget_after(self.lineage, round)
                    for page in in_groups(sorted(self.forked), SAMPLES_AT_ONCE):
                        forget_proposals(self.lineage, round, page)
        before, chosen = training_ids(self.stored, round), None
        if self.score or not any(phase["lacking"] for phase in phases):
            chosen = choose_for_round(self.lineage, self.config, round, student.id)
            self.lineage.set_training_set(round, chosen)
        has_changed = any(phase["changed"] for phase in phases) or chosen not in (None, before)
        self.own = self.own and not has_changed
        self.result["rounds"].append(
            RoundReplayed(
                round=round,
                phases=phases,
                trained_before=len(before),
                trained=None if chosen is None else len(chosen),
                trained_both=None if chosen is None else len({*before} & {*chosen}),
            )
        )

    def _replay_phase(self, round: int, phase: Phase, student_id: str, scorer: Scorer) -> PhaseReplayed:
        counts = PhaseReplayed(phase=phase, decisions=0, changed=0, lacking=0, forked=0)
        total = self.lineage.samples()["train"]
        place = self.config, round, phase
        contests = self.lineage.contests(
            round, phase, SAMPLES_AT_ONCE, freeze_after=self.config.teacher.freeze_after
        )
        with self.display.stage(f"round {round} · replay · {phase}", total=total) as stage:
            for group in contests:
                sample_ids = [contest.sample_id for contest in group]
                stored = self.stored.decisions(round, phase, sample_ids)
                positions = find_positions(self.lineage, sample_ids)
                scores = self.lineage.scores([id for each in group for id in each.pairs], student_id)
                # A student scores what a run scores at once; what is lacking is found contest by contest.
                for part in [group] if self.score else [[contest] for contest in group]:
                    made = Group(part, scores, *place, student_id)
                    try:
                        fresh, decisions = decide_group(made, scorer)
                    except _LackingError:
                        counts["lacking"] += 1
                        fresh = {}
                        decisions = (
                            [stored[part[0].sample_id]] if part[0].candidate_ids else made.decide(scores)
                        )
                    kept = [
                        self._count(counts, contest, stored[contest.sample_id], decision, positions)
                        for contest, decision in zip(part, decisions, strict=True)
                    ]
                    self.lineage.add_decisions(fresh, student_id, kept)
                stage.update(counts["decisions"], total, changed=str(counts["changed"]))
        return counts

    def _count(
        self,
        counts: PhaseReplayed,
        contest: Contest,
        before: Decision,
        after: Decision,
        positions: Mapping[str, int],
    ) -> Decision:
        """Count a decision; returns it as it is stored."""
        counts["decisions"] += 1
        is_same = before.winner_id == after.winner_id
        if not contest.candidate_ids:  # what is known by now of the incumbent was not compared
            value = before.incumbent_value if is_same and before.policy == after.policy else None
            after = replace(after, incumbent_value=value, winner_value=value)
        if is_same:
            return after
        if after.sample_id in self.forked:
            counts["forked"] += 1
            return after
        counts["changed"] += 1
        if after.phase == "instruction":
            self.forked.add(after.sample_id)
        self.result["changes"].append(
            Change(
                position=positions[after.sample_id],
                round=after.round,
                phase=after.phase,
                before=before.reason,
                after=after.reason,
            )
        )
        return after


class _Refusing:
    """In the place of a student: what is not known stays unknown."""

    def score(self, targets: Sequence[tuple[Pair, Term]]) -> list[Score]:
        raise _LackingError


@dataclass(slots=True)
class _Scorer:
    """A round's student, opened for the first score that is lacking."""

    replay: _Replay
    stack: ExitStack
    adapter: Path | None
    student: Student | None = None

    def score(self, targets: Sequence[tuple[Pair, Term]]) -> list[Score]:
        if self.student is None:
            self.student = self.stack.enter_context(Student.open(self.replay.config.student, self.adapter))
        self.replay.result["scored"] += len(targets)
        return self.student.score(targets)


def _copy_adapters(folder: RunFolder, made: RunFolder, result: Replayed) -> None:
    """The adapters of the students that are the replay's too."""
    last = result["rounds"][-1]["round"] - (result["forks_after"] is not None)
    for round in range(1, last + 1):
        for half in (None, *HALVES):
            if folder.adapter(round, half).exists():
                shutil.copytree(folder.adapter(round, half), made.adapter(round, half))
