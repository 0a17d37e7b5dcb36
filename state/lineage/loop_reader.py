"""The lineage as the loop asks it: what is still missing, and what a decision rests on.

Every question is answered from stored rows, so that an interrupted loop goes on where it stopped.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, product
from typing import Any, get_args

from reflectune.state.groups import in_groups
from reflectune.state.lineage.calls import CallTable
from reflectune.state.lineage.connection import marks
from reflectune.state.lineage.failures import Failures
from reflectune.state.lineage.reader import ABOUT_A_PROPOSAL, LineageReader
from reflectune.state.records import (
    ANSWERED,
    ANSWERLESS,
    FINAL_STATUSES,
    CallStatus,
    Contest,
    Decision,
    Half,
    HeldOutAnswer,
    Pair,
    Phase,
    PoolPair,
    Reflection,
    Score,
    Scores,
    Spending,
    StudentRecord,
    Term,
)

__all__ = ["LoopReader", "TrainingPairs"]

# Of samples: that later turns depend on the instruction that a phase would rewrite; or that proposals were
# decided against in so many rounds, before this one and after the last in which one was accepted. A round
# without any proposal proves nothing about its pair: it does not count.
_IS_LEFT_ALONE = f"""
    (:phase = 'instruction' AND followed)
    OR :rounds IS NOT NULL AND :rounds <= (SELECT COUNT(DISTINCT round) FROM decisions AS against
        WHERE against.sample_id = samples.id AND against.round < :round
            AND {ABOUT_A_PROPOSAL} AND reason <> 'accepted'
            AND against.round > COALESCE((SELECT MAX(taken.round) FROM decisions AS taken
                WHERE taken.sample_id = samples.id AND taken.round < :round
                    AND taken.reason = 'accepted'), 0))
"""

# Of the last of some calls for a proposal: that nothing more is asked for it. A failure that is spared is
# final where its sample was decided before the phase failed.
_IS_SETTLED = f"""
    (status IN {ANSWERED} OR CASE WHEN attempt > :spared
        THEN status IN {FINAL_STATUSES} OR attempt >= :spared + :attempts
        ELSE EXISTS (SELECT 1 FROM decisions WHERE decisions.round = :round AND decisions.phase = :phase
            AND decisions.sample_id = calls.sample_id) END)
"""

# A phase's last calls, one for each proposal: a column beside a single MAX() is of the row that has it.
_LAST_CALLS = (
    "(SELECT sample_id, status, error, MAX(attempt) AS attempt FROM teacher_calls "
    "WHERE round = :round AND phase = :phase GROUP BY sample_id, candidate) AS calls"
)

# How many samples one question to the database reads at a time.
_PAGE = 500


def _of_half(column: str, half: Half | None) -> str:
    """A condition on a sample's id, as `half_of` says it."""
    if half is None:
        return ""
    return f"AND (instr('13579bdf', substr({column}, -1)) > 0) = {half}"


class LoopReader(LineageReader):
    """What the loop asks of a lineage, page by page, so that rows may be written meanwhile."""

    def round_student(self, round: int) -> StudentRecord | None:
        """The student a round ended with; None while it has none."""
        query = "SELECT students.* FROM students JOIN rounds ON student_id = id WHERE rounds.round = ?"
        for row in self.db.query(query, [round]):
            row.pop("seal")
            return StudentRecord(**row | {"metrics": json.loads(row["metrics"])})
        return None

    def is_round_finished(self, round: int) -> bool:
        """Whether a round has gone through its evaluation."""
        return self._count("rounds WHERE round = ? AND status = 'finished'", [round]) > 0

    # Reflection

    def pending_reflections(self, round: int, phase: Phase, **asked: Any) -> Iterator[Reflection]:
        """The proposals of `pending_groups`, one after another."""
        return chain.from_iterable(self.pending_groups(round, phase, _PAGE, **asked))

    def pending_groups(
        self,
        round: int,
        phase: Phase,
        size: int,
        *,
        candidates: int,
        attempts: int,
        freeze_after: int | None = None,
        decided: bool = False,
    ) -> Iterator[list[Reflection]]:
        """Proposals still to be asked for of the samples that a phase has not decided yet, or of all it has.

        They come in the order of the samples, those of at most `size` samples at once, and are read so, so
        that rows may be written meanwhile. Frozen samples have none. A proposal is settled once a call for it
        is answered, once its failure is final, or after `attempts` calls; spared failures count for nothing.
        """
        place = self._settling(round, phase, attempts)
        spared = place["spared"]
        for page in self._incumbents(round, phase, size):
            sample_ids = [row["sample_id"] for row in page]
            among = {"samples": json.dumps(sample_ids)}
            known = self.db.execute(
                "SELECT sample_id FROM decisions WHERE round = :round AND phase = :phase "
                "AND sample_id IN (SELECT value FROM json_each(:samples))",
                {"round": round, "phase": phase} | among,
            )
            is_decided = {sample_id for (sample_id,) in known}
            rows = [row for row in page if (row["sample_id"] in is_decided) == decided]
            if not rows:
                continue
            frozen = self._frozen(round, phase, freeze_after, sample_ids)
            calls = self.db.execute(
                f"SELECT sample_id, candidate, {_IS_SETTLED}, MAX(attempt) FROM teacher_calls AS calls "
                "WHERE round = :round AND phase = :phase "
                "AND sample_id IN (SELECT value FROM json_each(:samples)) GROUP BY 1, 2",
                place | among,
            )
            attempted = {(sample, candidate): (settled, made) for sample, candidate, settled, made in calls}
            group = []
            for (row, pair), candidate in product(
                zip(rows, self.read_pairs(rows), strict=True), range(candidates)
            ):
                sample_id = row["sample_id"]
                settled, made = attempted.get((sample_id, candidate), (False, 0))
                if not settled and sample_id not in frozen:
                    asked = Reflection(sample_id, row["version_id"], pair, round, phase, candidate)
                    group.append(replace(asked, attempts=max(made, spared), spared=spared))
            yield group

    def count_settled(self, round: int, phase: Phase, *, attempts: int) -> Counter[CallStatus]:
        """How many of a phase's proposals need no further call, by the status of their last one."""
        counts = ", ".join(f"SUM(status = '{status}') AS '{status}'" for status in get_args(CallStatus))
        row = self._one(
            f"SELECT {counts} FROM {_LAST_CALLS} WHERE {_IS_SETTLED}",
            **self._settling(round, phase, attempts),
        )
        return Counter({status: row[status] for status in get_args(CallStatus) if row[status]})

    def spared_attempts(self, round: int, phase: Phase) -> int:
        """How many attempts at a phase's proposals count for nothing, since the phase failed after them."""
        query = "SELECT json_extract(metrics, ?) FROM rounds WHERE round = ? AND json_valid(metrics)"
        row = self.db.execute(query, [f"$.spared.{phase}[#-1]", round]).fetchone()
        return (row and row[0]) or 0

    def most_attempts(self, round: int, phase: Phase) -> int:
        """The most attempts that one of a phase's proposals had, without those that are spared."""
        query = "SELECT MAX(attempt) FROM teacher_calls WHERE round = ? AND phase = ?"
        (most,) = self.db.execute(query, [round, phase]).fetchone()
        return max(0, (most or 0) - self.spared_attempts(round, phase))

    def last_failures(self, round: int, phase: Phase, *, attempts: int) -> Failures:
        """What a phase's settled proposals failed for; spared failures are left out."""
        rows = self.db.execute(
            f"SELECT status, error, COUNT(*) FROM {_LAST_CALLS} "
            f"WHERE {_IS_SETTLED} AND status NOT IN {ANSWERED} AND attempt > :spared GROUP BY 1, 2",
            self._settling(round, phase, attempts),
        )
        return Failures(rows)

    def has_answers(self) -> bool:
        """Whether the teacher has ever said anything."""
        return self._count(f"(SELECT 1 FROM teacher_calls WHERE status NOT IN {ANSWERLESS} LIMIT 1)", []) > 0

    def spending(self, table: CallTable = "teacher_calls") -> Spending:
        """What all calls of the teacher, or of the judge, took; answers from the cache took nothing."""
        row = self.db.execute(
            "SELECT COALESCE(SUM(COALESCE(prompt_tokens, 0) + COALESCE(completion_tokens, 0)), 0), "
            f"COALESCE(SUM(cost_usd), 0.0) FROM {table} WHERE NOT cached"
        ).fetchone()
        return Spending(*row)

    def count_frozen(self, round: int, phase: Phase, freeze_after: int | None) -> int:
        """How many samples are left alone in a phase."""
        place = {"round": round, "phase": phase, "rounds": freeze_after}
        return self._count(f"samples WHERE split = 'train' AND ({_IS_LEFT_ALONE})", place)

    # Selection

    def contests(
        self,
        round: int,
        phase: Phase,
        size: int,
        *,
        freeze_after: int | None = None,
        decided: bool = False,
        half: Half | None = None,
    ) -> Iterator[list[Contest]]:
        """The samples a phase has not decided yet, in fixed groups of at most `size`; or all that it has.

        With `half` only samples of that.

        A group is the same samples whether or not a run was interrupted, so whatever is computed
        for a group at once comes out the same.
        """
        for page in self._incumbents(round, phase, size, half):
            sample_ids = [row["sample_id"] for row in page]
            if not decided and self.decisions(round, phase, sample_ids):
                continue
            frozen = self._frozen(round, phase, freeze_after, sample_ids)
            candidates: dict[str, dict[str, Pair]] = {sample_id: {} for sample_id in sample_ids}
            rows = self._all(
                "SELECT id, sample_id, instruction, input, response FROM versions "
                f"WHERE round = ? AND phase = ? AND sample_id IN ({marks(page)}) ORDER BY candidate",
                round, phase, *sample_ids,
            )  # fmt: skip
            for row, pair in zip(rows, self.read_pairs(rows), strict=True):
                candidates[row["sample_id"]][row["id"]] = pair
            yield [
                Contest(
                    sample_id=row["sample_id"],
                    incumbent_id=row["version_id"],
                    candidate_ids=tuple(candidates[row["sample_id"]]),
                    pairs={row["version_id"]: pair} | candidates[row["sample_id"]],
                    is_frozen=row["sample_id"] in frozen,
                )
                for row, pair in zip(page, self.read_pairs(page), strict=True)
            ]

    def scores(self, version_ids: Sequence[str], student_id: str) -> Scores:
        """The scores some versions already have under one student."""
        found: dict[str, dict[Term, Score]] = {version_id: {} for version_id in version_ids}
        for version_id, term, total, tokens, status, truncated in self.db.execute(
            "SELECT version_id, term, sum_logprob, num_tokens, status, truncated FROM scores "
            f"WHERE student_id = ? AND version_id IN ({marks(version_ids)})",
            [student_id, *version_ids],
        ):
            found[version_id][term] = Score(total, tokens, status, bool(truncated))
        return found

    def decisions(self, round: int, phase: Phase, sample_ids: Sequence[str]) -> dict[str, Decision]:
        """What a phase decided about some samples, by sample."""
        rows = self.db.query(
            f"SELECT * FROM decisions WHERE round = ? AND phase = ? AND sample_id IN ({marks(sample_ids)})",
            [round, phase, *sample_ids],
        )
        return {row["sample_id"]: Decision(**row) for row in rows}

    def count_proposals(self, round: int) -> int:
        """How many samples of a decided round got at least one proposal, summed over both phases."""
        return self._count(f"decisions WHERE round = ? AND {ABOUT_A_PROPOSAL}", [round])

    # Training and evaluation

    def scored_pool(self, round: int, student_id: str) -> Iterator[PoolPair]:
        """The pool D[r] in the order of the samples, with scores under one student."""
        for page in self._incumbents(round + 1, "instruction", _PAGE):
            scores = self.scores([row["version_id"] for row in page], student_id)
            improved = {
                row["sample_id"]
                for row in self.db.query(
                    "SELECT DISTINCT sample_id FROM decisions WHERE phase = 'response' "
                    f"AND reason = 'accepted' AND round <= ? AND sample_id IN ({marks(page)})",
                    [round, *(row["sample_id"] for row in page)],
                )
            }
            for row in page:
                version_id = row["version_id"]
                yield PoolPair(version_id, row["sample_id"] in improved, scores[version_id])

    def pool_pairs(self, round: int, sample_ids: Sequence[str]) -> dict[str, Pair]:
        """Some samples' pairs in the pool D[r], by version id, in the order of the samples given."""
        found: dict[str, dict[str, Any]] = {}
        for asked in in_groups(sample_ids, _PAGE):
            rows = self.db.query(
                "SELECT pool.sample_id, versions.id, instruction, input, response FROM pool "
                "JOIN versions ON versions.id = pool.version_id "
                f"WHERE pool.round = ? AND pool.sample_id IN ({marks(asked)})",
                [round, *asked],
            )
            found |= {row["sample_id"]: row for row in rows}
        page = [found[sample] for sample in sample_ids if sample in found]
        return {row["id"]: pair for row, pair in zip(page, self.read_pairs(page), strict=True)}

    def training_pairs(self, round: int, half: Half | None = None) -> "TrainingPairs":
        """The training set T[r], or one half of it, as what trains on it reads it, again and again."""
        return TrainingPairs(self, round, half)

    def original_ids(self) -> list[str]:
        """Version ids of the given training pairs, by position."""
        return [row["version_id"] for page in self._incumbents(1, "instruction", _PAGE) for row in page]

    def held_out_pairs(self, size: int) -> Iterator[dict[str, Pair]]:
        """The held-out pairs by version id, in fixed groups of at most `size`, by position."""
        position = -1
        while page := list(
            self.db.query(
                "SELECT position, versions.id, sample_id, instruction, input, response FROM samples "
                "CROSS JOIN versions ON sample_id = samples.id AND round = 0 AND phase = 'original' "
                "WHERE split = 'holdout' AND position > ? ORDER BY position LIMIT ?",
                [position, size],
            )
        ):
            yield {row["id"]: pair for row, pair in zip(page, self.read_pairs(page), strict=True)}
            position = page[-1]["position"]

    def held_out_scores(self, student_id: str) -> Iterator[Score]:
        """The scores nll(y|x) of held-out pairs under one student; none where an earlier version measured."""
        rows = self.db.execute(
            "SELECT sum_logprob, num_tokens, status, truncated FROM samples "
            "CROSS JOIN versions ON sample_id = samples.id AND versions.round = 0 AND phase = 'original' "
            "JOIN scores ON version_id = versions.id AND term = 'response_given_instruction' "
            "WHERE split = 'holdout' AND student_id = ? ORDER BY position",
            [student_id],
        )
        return (Score(total, tokens, status, bool(truncated)) for total, tokens, status, truncated in rows)

    def held_out_answers(self, student_id: str) -> Iterator[HeldOutAnswer]:
        """What one student wrote for held-out pairs."""
        columns = "sample_id, text, num_tokens, verdict"
        query = f"SELECT {columns} FROM held_out_answers WHERE student_id = ? ORDER BY sample_id"
        return (HeldOutAnswer(*row) for row in self.db.execute(query, [student_id]))

    def given_pairs(self, sample_ids: Sequence[str]) -> dict[str, Pair]:
        """The given pairs of some samples, by sample, in the order of the samples given."""
        rows = self._all(
            "SELECT sample_id, instruction, input, response FROM versions "
            f"WHERE round = 0 AND phase = 'original' AND sample_id IN ({marks(sample_ids)})",
            *sample_ids,
        )
        pairs = self.read_pairs(rows)
        found = {row["sample_id"]: pair for row, pair in zip(rows, pairs, strict=True)}
        return {sample: found[sample] for sample in sample_ids}

    # How rows are found

    def _settling(self, round: int, phase: Phase, attempts: int) -> dict[str, Any]:
        """What tells settled proposals of a phase from others."""
        spared = self.spared_attempts(round, phase)
        return {"round": round, "phase": phase, "attempts": attempts, "spared": spared}

    def _incumbents(
        self, round: int, phase: Phase, size: int, half: Half | None = None
    ) -> Iterator[list[dict[str, Any]]]:
        """Training samples, or those of one half, with the version that a phase begins with, page by page."""
        before = (round - 1, "response") if phase == "instruction" else (round, "instruction")
        if before[0] == 0:
            join = "CROSS JOIN versions ON versions.sample_id = samples.id AND versions.phase = 'original'"
        else:
            join = (
                "CROSS JOIN decisions ON decisions.round = :round AND decisions.phase = :phase "
                "AND decisions.sample_id = samples.id JOIN versions ON versions.id = decisions.winner_id"
            )
        query = (
            "SELECT samples.position, samples.id AS sample_id, versions.id AS version_id, "
            f"versions.instruction, versions.input, versions.response FROM samples {join} WHERE "
            f"samples.split = 'train' AND samples.position > :position {_of_half('samples.id', half)} "
            "ORDER BY samples.position LIMIT :size"
        )
        place = {"round": before[0], "phase": before[1], "position": -1, "size": size}
        while page := list(self.db.query(query, place)):
            yield page
            place["position"] = page[-1]["position"]

    def _frozen(
        self, round: int, phase: Phase, freeze_after: int | None, sample_ids: Sequence[str]
    ) -> set[str]:
        """Those among some samples that are left alone in a phase."""
        among = "id IN (SELECT value FROM json_each(:samples))"
        query = f"SELECT id FROM samples WHERE {among} AND ({_IS_LEFT_ALONE})"
        place = {"round": round, "phase": phase, "rounds": freeze_after}
        return {row["id"] for row in self.db.query(query, place | {"samples": json.dumps(sample_ids)})}


class TrainingPairs:
    """The pairs of a training set T[r], or of one half of the samples, by rank; every iteration reads anew.

    Rows may be written meanwhile, but not of this training set.
    """

    def __init__(self, lineage: LoopReader, round: int, half: Half | None = None) -> None:
        self._lineage, self._round = lineage, round
        self._of_half = _of_half("sample_id", half)

    def __len__(self) -> int:
        joined = f"JOIN versions ON versions.id = version_id {self._of_half}" if self._of_half else ""
        return self._lineage._count(f"training_sets {joined} WHERE training_sets.round = ?", [self._round])

    def __iter__(self) -> Iterator[Pair]:
        query = (
            "SELECT rank, sample_id, instruction, input, response FROM training_sets "
            "CROSS JOIN versions ON versions.id = version_id "
            f"WHERE training_sets.round = ? AND rank > ? {self._of_half} ORDER BY rank LIMIT ?"
        )
        rank = -1
        while page := list(self._lineage.db.query(query, [self._round, rank, _PAGE])):
            yield from self._lineage.read_pairs(page)
            rank = page[-1]["rank"]
