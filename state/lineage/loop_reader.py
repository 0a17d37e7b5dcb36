"""The lineage as the loop asks it: what is still missing, and what a decision rests on.

Every question is answered from stored rows, so that an interrupted loop goes on where it stopped.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from reflectune.state.config import upgrade_config
from reflectune.state.lineage.connection import marks
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import (
    FINAL_STATUSES,
    PHASES,
    CallStatus,
    Contest,
    Decision,
    Evaluation,
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

__all__ = ["LoopReader"]

# Samples that had proposals decided against in so many rounds, before this one and after the last in which
# one was accepted. A round without any proposal proves nothing about its pair: it does not count.
_FROZEN = """
    SELECT sample_id FROM decisions AS against
    WHERE round < ? AND reason IN ('refused', 'tie', 'unscorable', 'policy') {among}
        AND round > COALESCE((SELECT MAX(round) FROM decisions AS taken WHERE reason = 'accepted'
            AND taken.sample_id = against.sample_id AND taken.round < ?), 0)
    GROUP BY sample_id HAVING COUNT(DISTINCT round) >= ?
"""

# How many samples one question to the database reads at a time.
_PAGE = 500


class LoopReader(LineageReader):
    """What the loop asks of a lineage, page by page, so that rows may be written meanwhile."""

    def config(self) -> dict[str, Any]:
        """The configuration that the run began with, and with what was changed in it since."""
        return upgrade_config(self._stored_config())

    def _stored_config(self) -> dict[str, Any]:
        return dict(json.loads(self.db.execute("SELECT config FROM runs").fetchone()[0]))

    def versions(self) -> dict[str, str]:
        """Versions of the libraries, and the hash of the machine, that began the run."""
        row = self.db.execute("SELECT versions FROM runs").fetchone()
        return dict(json.loads(row[0]))

    def stop_reason(self, round: int) -> str | None:
        """Why the loop stops after a round; None where it goes on, or nothing is known of the round."""
        row = self.db.execute("SELECT stop_reason FROM rounds WHERE round = ?", [round]).fetchone()
        return None if row is None else cast("str | None", row[0])

    def round_student(self, round: int) -> StudentRecord | None:
        """The student a round ended with; None while it has none."""
        query = "SELECT students.* FROM students JOIN rounds ON student_id = id WHERE rounds.round = ?"
        for row in self.db.query(query, [round]):
            row.pop("seal")
            return StudentRecord(**row | {"metrics": json.loads(row["metrics"])})
        return None

    def newest_round(self) -> int:
        """The newest round that has begun."""
        return int(self.db.execute("SELECT MAX(round) FROM rounds").fetchone()[0])

    def is_round_finished(self, round: int) -> bool:
        """Whether a round has gone through its evaluation."""
        return self._count("rounds WHERE round = ? AND status = 'finished'", round) > 0

    def holdout_pairs(self) -> list[Pair]:
        """The held-out pairs, by position."""
        rows = self.db.query(
            "SELECT instruction, input, response FROM versions JOIN samples ON samples.id = sample_id "
            "WHERE split = 'holdout' AND phase = 'original' ORDER BY position"
        )
        return [Pair(**row) for row in rows]

    # Reflection

    def pending_reflections(
        self, round: int, phase: Phase, *, candidates: int, attempts: int, freeze_after: int | None = None
    ) -> Iterator[Reflection]:
        """Proposals still to be asked for in a phase, in the order of the samples; none of frozen ones.

        A proposal is settled once a call for it is answered, once its failure is final, or after
        `attempts` calls. Samples are read page by page, so rows may be written meanwhile.
        """
        for page in self._pool_pages(_before(round, phase), _PAGE):
            frozen = self._frozen(round, freeze_after, [row["sample_id"] for row in page])
            calls = {
                (row["sample_id"], row["candidate"]): row
                for row in self.db.query(
                    "SELECT sample_id, candidate, COUNT(*) AS attempts, "
                    f"MAX(status IN ({marks(FINAL_STATUSES)})) AS settled FROM teacher_calls "
                    f"WHERE round = ? AND phase = ? AND sample_id IN ({marks(page)}) GROUP BY 1, 2",
                    [*FINAL_STATUSES, round, phase, *(row["sample_id"] for row in page)],
                )
            }
            for row in page:
                if row["sample_id"] in frozen:
                    continue
                for candidate in range(candidates):
                    call = calls.get((row["sample_id"], candidate))
                    made = call["attempts"] if call else 0
                    if made < attempts and not (call and call["settled"]):
                        sample_id, incumbent_id = row["sample_id"], row["version_id"]
                        yield Reflection(sample_id, incumbent_id, _pair(row), round, phase, candidate, made)

    def count_settled(self, round: int, phase: Phase, *, attempts: int) -> Counter[CallStatus]:
        """How many of a phase's proposals need no further call, by the status of their last one."""
        rows = self.db.query(
            "SELECT status, COUNT(*) AS n FROM teacher_calls WHERE round = ? AND phase = ? "
            f"AND (attempt >= ? OR status IN ({marks(FINAL_STATUSES)})) GROUP BY status",
            [round, phase, attempts, *FINAL_STATUSES],
        )
        return Counter({row["status"]: row["n"] for row in rows})

    def spending(self) -> Spending:
        """What all calls of the run took; answers from the cache took nothing."""
        row = self.db.execute(
            "SELECT COALESCE(SUM(COALESCE(prompt_tokens, 0) + COALESCE(completion_tokens, 0)), 0), "
            "COALESCE(SUM(cost_usd), 0.0) FROM teacher_calls WHERE NOT cached"
        ).fetchone()
        return Spending(*row)

    def count_cached(self, round: int, phase: Phase) -> int:
        """How many of a phase's calls were answered from the cache."""
        return self._count("teacher_calls WHERE round = ? AND phase = ? AND cached", round, phase)

    def count_frozen(self, round: int, freeze_after: int | None) -> int:
        """How many samples are left alone in a round."""
        if freeze_after is None:
            return 0
        return self._count(f"({_FROZEN.format(among='')})", round, round, freeze_after)

    # Selection

    def contests(
        self, round: int, phase: Phase, size: int, *, freeze_after: int | None = None, decided: bool = False
    ) -> Iterator[list[Contest]]:
        """The samples a phase has not decided yet, in fixed groups of at most `size`; or all that it has.

        A group is the same samples whether or not a run was interrupted, so whatever is computed
        for a group at once comes out the same.
        """
        for page in self._pool_pages(_before(round, phase), size):
            sample_ids = [row["sample_id"] for row in page]
            among = f"decisions WHERE round = ? AND phase = ? AND sample_id IN ({marks(page)})"
            if not decided and self._count(among, round, phase, *sample_ids):
                continue
            frozen = self._frozen(round, freeze_after, sample_ids)
            candidates: dict[str, dict[str, Pair]] = {sample_id: {} for sample_id in sample_ids}
            for row in self.db.query(
                "SELECT id, sample_id, instruction, input, response FROM versions "
                f"WHERE round = ? AND phase = ? AND sample_id IN ({marks(page)}) ORDER BY candidate",
                [round, phase, *sample_ids],
            ):
                candidates[row["sample_id"]][row["id"]] = _pair(row)
            yield [
                Contest(
                    sample_id=row["sample_id"],
                    incumbent_id=row["version_id"],
                    candidate_ids=tuple(candidates[row["sample_id"]]),
                    pairs={row["version_id"]: _pair(row)} | candidates[row["sample_id"]],
                    is_frozen=row["sample_id"] in frozen,
                )
                for row in page
            ]

    def scores(self, version_ids: Sequence[str], student_id: str) -> Scores:
        """The scores some versions already have under one student."""
        found: dict[str, dict[Term, Score]] = {version_id: {} for version_id in version_ids}
        for row in self.db.query(
            "SELECT version_id, term, sum_logprob, num_tokens, status, truncated FROM scores "
            f"WHERE student_id = ? AND version_id IN ({marks(version_ids)})",
            [student_id, *version_ids],
        ):
            found[row["version_id"]][row["term"]] = _score(row)
        return found

    def decisions(self, round: int, phase: Phase, sample_ids: Sequence[str]) -> dict[str, Decision]:
        """What a phase decided about some samples, by sample."""
        rows = self.db.query(
            f"SELECT * FROM decisions WHERE round = ? AND phase = ? AND sample_id IN ({marks(sample_ids)})",
            [round, phase, *sample_ids],
        )
        return {row["sample_id"]: Decision(**row) for row in rows}

    def count_decisions(self, round: int, phase: Phase | None = None, reason: str | None = None) -> int:
        """How many decisions a round has taken, of one phase and with one reason if given."""
        return self._count(
            "decisions WHERE round = ? AND phase = COALESCE(?, phase) AND reason = COALESCE(?, reason)",
            round,
            phase,
            reason,
        )

    def count_proposals(self, round: int) -> int:
        """How many samples of a round got at least one proposal, summed over both phases."""
        return self._count("(SELECT DISTINCT phase, sample_id FROM versions WHERE round = ?)", round)

    # Training and evaluation

    def scored_pool(self, round: int, student_id: str) -> Iterator[PoolPair]:
        """The pool D[r] in the order of the samples, with scores under one student."""
        for page in self._pool_pages((round, PHASES[-1]) if round else None, _PAGE):
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
                yield PoolPair(
                    sample_id=row["sample_id"],
                    version_id=row["version_id"],
                    improved=row["sample_id"] in improved,
                    scores=scores[row["version_id"]],
                )

    def pool_pairs(self, round: int, sample_ids: Sequence[str]) -> dict[str, Pair]:
        """Some samples' pairs in the pool D[r], by version id, in the order of the samples given."""
        rows = self.db.query(
            "SELECT pool.sample_id, versions.id, instruction, input, response FROM pool "
            "JOIN versions ON versions.id = pool.version_id "
            f"WHERE pool.round = ? AND pool.sample_id IN ({marks(sample_ids)})",
            [round, *sample_ids],
        )
        found = {row["sample_id"]: row for row in rows}
        return {found[sample]["id"]: _pair(found[sample]) for sample in sample_ids if sample in found}

    def original_ids(self) -> list[str]:
        """Version ids of the given training pairs, by position."""
        return [row["version_id"] for page in self._pool_pages(None, _PAGE) for row in page]

    def held_out_measures(self) -> dict[int, dict[str, Evaluation]]:
        """All held-out measures: round -> name -> measure, rounds ascending."""
        measures: dict[int, dict[str, Evaluation]] = {}
        for row in self.db.query(
            "SELECT round, name, value, n, low, high FROM evaluations ORDER BY round, name"
        ):
            round = row.pop("round")
            measures.setdefault(round, {})[row["name"]] = Evaluation(**row)
        return measures

    # What verifying asks

    def has_begun(self, round: int, phase: Phase) -> bool:
        """Whether a phase has asked or decided anything."""
        tables = ("teacher_calls", "decisions")
        return any(self._count(f"{table} WHERE round = ? AND phase = ?", round, phase) for table in tables)

    def training_sets(self) -> dict[int, dict[str, int]]:
        """Every training set: round -> version id -> rank."""
        sets: dict[int, dict[str, int]] = {}
        for row in self.db.query("SELECT round, version_id, rank FROM training_sets"):
            sets.setdefault(row["round"], {})[row["version_id"]] = row["rank"]
        return sets

    def answers(self) -> Iterator[tuple[dict[str, Any], Pair, Pair | None]]:
        """Every teacher call of a decided phase, the pair it was asked about, and the one it proposed."""
        texts = ", ".join(
            f"{side}.{name} AS {side}_{name}"
            for side in ("incumbent", "proposed")
            for name in ("instruction", "input", "response")
        )
        rows = self.db.query(
            f"""
            SELECT calls.*, {texts}
            FROM teacher_calls AS calls
            JOIN decisions ON decisions.round = calls.round AND decisions.phase = calls.phase
                AND decisions.sample_id = calls.sample_id
            JOIN versions AS incumbent ON incumbent.id = decisions.incumbent_id
            LEFT JOIN versions AS proposed ON proposed.sample_id = calls.sample_id
                AND proposed.round = calls.round AND proposed.phase = calls.phase
                AND proposed.teacher_call_id = calls.id
            """
        )
        for row in rows:
            proposed = None if row["proposed_response"] is None else _pair(row, "proposed_")
            yield row, _pair(row, "incumbent_"), proposed

    # How rows are found

    def _pool_pages(self, decided_in: tuple[int, Phase] | None, size: int) -> Iterator[list[dict[str, Any]]]:
        """Training samples with the version that won a phase (None: the given one), page by page."""
        if decided_in is None:
            winner = "versions.sample_id = samples.id AND versions.phase = 'original'"
            place: tuple[int, Phase] | tuple[()] = ()
            join = f"CROSS JOIN versions ON {winner}"
        else:
            place = decided_in
            join = (
                "CROSS JOIN decisions ON decisions.round = ? AND decisions.phase = ? "
                "AND decisions.sample_id = samples.id JOIN versions ON versions.id = decisions.winner_id"
            )
        query = (
            "SELECT samples.position, samples.id AS sample_id, versions.id AS version_id, "
            f"versions.instruction, versions.input, versions.response FROM samples {join} "
            "WHERE samples.split = 'train' AND samples.position > ? ORDER BY samples.position LIMIT ?"
        )
        position = -1
        while page := list(self.db.query(query, [*place, position, size])):
            yield page
            position = page[-1]["position"]

    def _frozen(self, round: int, freeze_after: int | None, sample_ids: Sequence[str]) -> set[str]:
        """Those of some samples that are left alone in a round."""
        if freeze_after is None:
            return set()
        query = _FROZEN.format(among=f"AND sample_id IN ({marks(sample_ids)})")
        return {row["sample_id"] for row in self.db.query(query, [round, *sample_ids, round, freeze_after])}


def _before(round: int, phase: Phase) -> tuple[int, Phase] | None:
    """The (round, phase) whose winners are the incumbents of this one; None for the given pairs."""
    if phase == PHASES[0]:
        return (round - 1, PHASES[-1]) if round > 1 else None
    return (round, PHASES[0])


def _pair(row: Mapping[str, Any], prefix: str = "") -> Pair:
    return Pair(*(row[f"{prefix}{name}"] for name in ("instruction", "input", "response")))


def _score(row: Mapping[str, Any]) -> Score:
    return Score(row["sum_logprob"], row["num_tokens"], row["status"], bool(row["truncated"]))
