"""The node in which the student decides."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from langgraph.runtime import Runtime

from reflectune.agents.pool import StudentPool
from reflectune.loop.context import (
    SAMPLES_AT_ONCE,
    LoopContext,
    LoopState,
    Scorer,
    Wanted,
    find_scorers,
    score_missing,
    unscored,
)
from reflectune.loop.matching import measure_matching, score_matching, warn_of
from reflectune.loop.pipeline import completed, compute_groups
from reflectune.loop.progress import Stage
from reflectune.loop.selection import decide, needed_scores
from reflectune.state.config import RunConfig
from reflectune.state.lineage.documents import Matching
from reflectune.state.lineage.signals import has_compared, read_signal
from reflectune.state.records import TERMS, UNCONTESTED, Contest, Decision, Half, Pair, Phase, Scores, Term

__all__ = ["Decided", "Deciding", "Group", "decide_group", "select"]

_SIGNAL_PAIRS = 64  # given pairs that tell what the base student's scores are worth


def select(state: LoopState, runtime: Runtime[LoopContext]) -> dict[str, object]:
    """Let the deciding student, mostly that of the last round, decide every contest of a phase.

    After the phase response every pair that goes on has all four scores under this student: what the
    training filter needs. While groups are scored and decided the next is read, and the last committed.
    """
    context, round, phase = runtime.context, state["round"], state["phase"]
    context.leave_if_asked()
    if not context.is_decided(round, phase):
        with context.timed(round, "select"):
            for half, adapter in find_scorers(context.folder, context.deciding_student(round)):
                _decide(context, round, phase, half, adapter)
    return {"phase": "response" if phase == "instruction" else "instruction"}


def _decide(context: LoopContext, round: int, phase: Phase, half: Half | None, adapter: Path | None) -> None:
    with ExitStack() as stack:
        pool = stack.enter_context(context.open_students(adapter))
        deciding = Deciding(context, pool, round, phase, half)
        deciding.show(stack)
        steps = deciding.groups, deciding.begin, deciding.commit
        compute_groups(*steps, pool.at_once, context.stopping, deciding.stage.show_groups)
        context.leave_if_asked()


Decided = tuple[Scores, Sequence[Decision]]  # the new scores, and the decisions they led to


@dataclass(frozen=True, slots=True)
class Group:
    """Contests of a phase that are scored and decided at once, wherever the student is."""

    contests: Sequence[Contest]
    known: Scores
    config: RunConfig
    round: int
    phase: Phase
    student_id: str

    def needed(self) -> Iterator[Wanted]:
        """What the decisions rest on."""
        for contest in self.contests:
            for version, term in needed_scores(contest, self.config.selection.policy, self.phase):
                yield version, contest.pairs[version], term

    def goes_on(self, versions: Iterable[str]) -> Iterator[Wanted]:
        """What has to be known of pairs that may go on to the training set."""
        pairs = {version: pair for contest in self.contests for version, pair in contest.pairs.items()}
        terms: Sequence[Term] = TERMS if self.phase == "response" else ()
        return ((version, pairs[version], term) for version in versions for term in terms)

    def decide(self, scores: Scores) -> list[Decision]:
        """What the scores come to."""
        return [
            decide(
                each,
                scores,
                self.config.selection,
                seed=self.config.seed,
                round=self.round,
                phase=self.phase,
                student_id=self.student_id,
            )
            for each in self.contests
        ]


class Deciding:
    """The decisions of a phase, or about one half of it: groups begun on students, committed in order."""

    stage: Stage

    def __init__(
        self, context: LoopContext, pool: StudentPool, round: int, phase: Phase, half: Half | None = None
    ) -> None:
        lineage, freeze_after = context.lineage, context.config.teacher.freeze_after
        self._context, self._pool, self._round, self.phase = context, pool, round, phase
        self._student_id = context.deciding_student(round).id
        self._is_signal_due = round == 1  # unless it was measured before
        self._accepted = lineage.count_decisions(round, phase, "accepted")
        self.total, self.done = lineage.samples()["train"], lineage.count_decisions(round, phase)
        self._compared = self.done - sum(lineage.count_decisions(round, phase, it) for it in UNCONTESTED)
        self.groups = lineage.contests(round, phase, SAMPLES_AT_ONCE, freeze_after=freeze_after, half=half)

    def show(self, stack: ExitStack) -> None:
        """Show how the phase gets on for as long as the stack lasts."""
        title = f"round {self._round} · select · {self.phase}"
        self.stage = stack.enter_context(self._context.display.stage(title, total=self.total, done=self.done))
        self.stage.watch(self._pool.workers)

    def begin(self, contests: Sequence[Contest]) -> Future[Decided]:
        """Have a group decided: by the pool, unless all that it may need is known."""
        lineage = self._context.lineage
        versions = [version for contest in contests for version in contest.pairs]
        known = lineage.scores(versions, self._student_id)
        group = Group(contests, known, self._context.config, self._round, self.phase, self._student_id)
        if not unscored([*group.needed(), *group.goes_on(versions)], known):
            return completed(decide_group(group, None))
        if self._is_signal_due:
            self._is_signal_due = False
            self._measure_signal()
        place = f"round {self._round}, {self.phase}"
        about = f"{place}, samples {contests[0].sample_id} to {contests[-1].sample_id}"
        return self._pool.submit(partial(decide_group, group), about, len(contests))

    def _measure_signal(self) -> None:
        """Before its first decision, measure what the student tells of a few given pairs, and warn.

        That is six passes a pair. Their scores are not stored: no decision and no later score depends on it.
        """
        lineage, config = self._context.lineage, self._context.config
        if read_signal(lineage) is not None or has_compared(lineage):  # begun by an earlier version
            return
        number = min(_SIGNAL_PAIRS, config.evaluate.base_samples)
        if number < 2 or len(chosen := lineage.choose_samples(number, config.seed)) < 2:
            return
        job = partial(_tell, [*lineage.pool_pairs(0, chosen).values()])
        matching = self._pool.submit(job, "telling pairs from shuffled ones").result()
        lineage.set_signal(self._round, chosen, matching)
        see = self._context.folder.command("signal")
        for warning in warn_of(matching):
            self._context.display.say(f"{warning}; see `{see}`")

    def commit(self, decided: Decided) -> None:
        """Commit a group's decisions with the scores they rest on."""
        scores, decisions = decided
        self._context.lineage.add_decisions(scores, self._student_id, decisions)
        self.done += len(decisions)
        self._compared += sum(decision.reason not in UNCONTESTED for decision in decisions)
        self._accepted += sum(decision.reason == "accepted" for decision in decisions)
        self.stage.update(self.done, self.total, accepted=f"{self._accepted} of {self._compared}")


def decide_group(group: Group, scorer: Scorer | None) -> Decided:
    """Score and decide a group, and score what is still missing of the pairs that go on."""
    fresh = score_missing(group.needed(), group.known, scorer)
    scores = _union(group.known, fresh)
    decisions = group.decide(scores)
    winners = group.goes_on(decision.winner_id for decision in decisions)
    return _union(fresh, score_missing(winners, scores, scorer)), decisions


def _tell(pairs: Sequence[Pair], scorer: Scorer) -> Matching:
    return measure_matching(*score_matching(pairs, scorer.score))


def _union(known: Scores, fresh: Scores) -> Scores:
    return {key: {**known.get(key, {}), **fresh.get(key, {})} for key in {**known, **fresh}}
