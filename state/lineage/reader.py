"""What a run's lineage tells a reader: its rounds, one sample's journey, the pairs of its pools.

Only reads, and only over its own connection, so that it never stands in the writer's way.
"""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from heapq import nsmallest
from pathlib import Path
from typing import Any, Self, cast, get_args

from reflectune.state.alarms import ALARMS
from reflectune.state.config import AlarmsConfig, SelectionConfig, upgrade_config
from reflectune.state.errors import StoreError
from reflectune.state.groups import in_groups
from reflectune.state.lineage.calls import describe_place, sum_calls
from reflectune.state.lineage.connection import marks, open_database
from reflectune.state.lineage.documents import (
    AlarmDocument,
    CallSums,
    DecisionCount,
    EvaluationDocument,
    GivenDocument,
    MeanMedian,
    Measures,
    PhaseDocument,
    RoundDocument,
    RunHead,
    Settings,
)
from reflectune.state.lineage.failures import Failures
from reflectune.state.lineage.judging import describe_judging
from reflectune.state.lineage.sample_reader import SampleReader
from reflectune.state.records import (
    ANSWERED,
    UNCONTESTED,
    Evaluation,
    Pair,
    Phase,
    Reason,
    Split,
    Turn,
    content_hash,
    content_part,
)

__all__ = ["ABOUT_A_PROPOSAL", "LineageReader", "deciding_round", "mean_and_median"]

# Of decisions: that there was a proposal to decide about.
ABOUT_A_PROPOSAL = f"reason NOT IN {UNCONTESTED}"
# How many versions one question asks about: naming them, it looks scores up instead of walking through all.
_AT_ONCE = 500
_REASONS = 3  # of failed calls that a phase is shown with


class LineageReader(SampleReader):
    """Answers questions about one run from its lineage.db."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a lineage database for reading; StoreError: there is none, or a newer version made it."""
        database = open_database(path, read_only=True)
        database.execute("BEGIN")  # whatever is asked is told as of one moment; no writer waits for it
        return cls(database)

    # The run

    def run(self) -> RunHead:
        """Name, creation time, status as last written, most rounds, and why the loop stopped."""
        row = self._one(
            "SELECT name, created_at, status, json_extract(config, '$.rounds') AS rounds, "
            "(SELECT stop_reason FROM rounds ORDER BY round DESC LIMIT 1) AS stop_reason FROM runs"
        )
        return cast(RunHead, row)

    def settings(self) -> Settings:
        """What the run is made of: the newest config, and what was changed in it."""
        row = self._one("SELECT config, data_hash, versions, seed FROM runs")
        query = "SELECT changed_at, key, before, after FROM config_changes ORDER BY rowid"
        changes = self._all(query) if self.db.table("config_changes").exists() else []
        for change in changes:
            change |= {side: json.loads(change[side]) for side in ("before", "after")}
        row["config"] = upgrade_config(json.loads(row["config"]))
        row["versions"] = json.loads(row["versions"])
        return cast(Settings, row | {"changes": changes})

    def samples(self) -> dict[str, int]:
        """How many samples each split has."""
        counts = (f"COUNT(*) FILTER (WHERE split = '{split}') AS {split}" for split in get_args(Split))
        return self._one(f"SELECT {', '.join(counts)} FROM samples")

    def given(self) -> GivenDocument:
        """What of the given data is exchanges of conversations, and what was left out."""
        counts = self._one(
            "SELECT (SELECT COUNT(*) FROM conversations) AS conversations, "
            "COUNT(conversation_id) AS exchanges, COALESCE(SUM(followed), 0) AS followed FROM samples"
        )
        skipped = self._all("SELECT kind, number, examples FROM skipped_rows ORDER BY number DESC, kind")
        rows = [row | {"examples": json.loads(row["examples"])} for row in skipped]
        return cast(GivenDocument, counts | {"skipped": rows})

    def sample_ids(self) -> Iterator[str]:
        """The ids of all samples, by position."""
        return (id for (id,) in self.db.execute("SELECT id FROM samples ORDER BY position"))

    def choose_samples(self, count: int, seed: int, split: Split = "train") -> list[str]:
        """Up to `count` samples of a split, at random by the seed: the same ones in every round."""
        ids = (id for (id,) in self.db.execute("SELECT id FROM samples WHERE split = ?", [split]))
        # "frozen" is a word of the draw: another would choose other samples of runs that have begun.
        return nsmallest(count, ids, key=lambda id: content_hash("frozen", seed, content_part(id)))

    def acceptance(self) -> float | None:
        """Share of all decided proposals that were accepted; None before the first decision."""
        query = f"SELECT AVG(reason = 'accepted') FROM decisions WHERE {ABOUT_A_PROPOSAL}"
        share: float | None = self.db.execute(query).fetchone()[0]
        return share

    def count_decisions(
        self, round: int | None = None, phase: Phase | None = None, reason: Reason | None = None
    ) -> int:
        """How many decisions there are, of one round and phase and with one reason if given."""
        where, place = describe_place(round=round, phase=phase, reason=reason)
        return self._count(f"decisions WHERE {where}", place)

    def count_by_phase(self) -> list[DecisionCount]:
        """By round and phase: decisions about a proposal, and the accepted ones."""
        rows = self._all(
            f"SELECT round, phase, SUM({ABOUT_A_PROPOSAL}) AS decided, SUM(reason = 'accepted') AS accepted "
            "FROM decisions GROUP BY round, phase ORDER BY round, phase"
        )
        return cast(list[DecisionCount], rows)

    def count_outcomes(self, round: int) -> dict[str, dict[str, int]]:
        """Samples of a round by what each phase came to, phase -> outcome -> number, leaving out zeros."""
        counts: dict[str, dict[str, int]] = {}
        query = "SELECT phase, outcome, COUNT(*) FROM outcomes WHERE round = ? GROUP BY phase, outcome"
        for phase, outcome, number in self.db.execute(query, [round]):
            counts.setdefault(phase, {})[outcome] = number
        return counts

    def newest_round(self) -> int:
        """The newest round that has begun."""
        return int(self.db.execute("SELECT MAX(round) FROM rounds").fetchone()[0])

    def last_round(self) -> int:
        """The last round whose pool is complete; 0 is the given data."""
        row = self._one(
            "SELECT MAX(round) AS round FROM (SELECT round FROM decisions WHERE phase = 'response' "
            "GROUP BY round HAVING COUNT(*) = :train)",
            train=self.samples()["train"],
        )
        return int(row["round"] or 0)

    def teacher(self, round: int | None = None) -> CallSums:
        """Calls, tokens and cost of a round, or of all, also per accepted proposal.

        Calls answered from the cache are counted, and add nothing to the sums: nobody paid for them again. A
        sum is None where an answered call's figure is not known; what is per accepted proposal is None too
        where none was accepted.
        """
        total = self.count_calls(round=round)
        accepted = self.count_decisions(round, reason="accepted")
        prompts, completions = total["prompt_tokens"], total["completion_tokens"]
        tokens = None if prompts is None or completions is None else prompts + completions
        return total | {
            "tokens_per_accepted": _per(tokens, accepted),
            "cost_per_accepted_usd": _per(total["cost_usd"], accepted),
        }

    def count_calls(self, **place: object) -> CallSums:
        """Calls of a place, and what those that were paid for took."""
        return sum_calls(self, "teacher_calls", **place)

    def rounds(self, since: int = 0) -> list[RoundDocument]:
        """One document a round, as `show --json` prints it, from round `since` on."""
        rows = self._all("SELECT round FROM rounds WHERE round >= ? ORDER BY round", since)
        return [self.round(row["round"]) for row in rows]

    def evaluations(self) -> list[EvaluationDocument]:
        """All held-out measures with their 95 % intervals, by round and name."""
        query = "SELECT round, student_id AS student, name, value, n, low, high FROM evaluations"
        return cast(list[EvaluationDocument], self._all(f"{query} ORDER BY round, name"))

    def held_out_measures(self) -> dict[int, dict[str, Evaluation]]:
        """All held-out measures: round -> name -> measure, rounds ascending."""
        measures: dict[int, dict[str, Evaluation]] = {}
        for row in self.evaluations():
            measure = Evaluation(row["name"], row["value"], row["n"], row["low"], row["high"])
            measures.setdefault(row["round"], {})[row["name"]] = measure
        return measures

    def alarms(self, round: int) -> list[AlarmDocument]:
        """What tells a collapse after a round, by the thresholds of today; nothing before it is measured."""
        if not self.db.table("alarms").exists():
            return []
        # As they are: what an earlier version took is still shown.
        section = AlarmsConfig.model_construct(**self.settings()["config"].get("alarms", {}))
        found = dict(self.db.execute("SELECT name, value FROM alarms WHERE round = ?", [round]).fetchall())
        known = {name: found[name] for name in ALARMS if name in found}
        thresholds = {name: None if (set_to := getattr(section, name)) == "off" else set_to for name in known}
        return [
            {
                "name": name,
                "value": value,
                "threshold": thresholds[name],
                "fires": ALARMS[name].fires(value, thresholds[name]),
            }
            for name, value in known.items()
        ]

    def round(self, round: int) -> RoundDocument:
        """One round that has begun, as `show --json` prints it."""
        row = self._one(
            "SELECT student_id, students.id AS trained, rounds.metrics, "
            "json_extract(students.metrics, '$.truncated') AS truncated "
            "FROM rounds LEFT JOIN students ON students.id = student_id AND students.round = rounds.round "
            "WHERE rounds.round = :round",
            round=round,
        )
        scores = self._pool_scores(round)
        evaluations = self.db.query("SELECT name, value FROM evaluations WHERE round = ?", [round])
        servers = self.db.execute(
            "SELECT address, COUNT(*) FROM teacher_calls JOIN servers ON servers.id = server_id "
            "WHERE round = ? GROUP BY servers.id",
            [round],
        )
        seconds = json.loads(row["metrics"]).get("seconds", {})
        return {
            "round": round,
            "student": row["student_id"],
            "pool": self._count("pool WHERE round = ?", [round]),
            "training": self._count("training_sets WHERE round = ?", [round]),
            "training_truncated": int(row["truncated"] or 0),
            "frozen": self._count(
                "(SELECT DISTINCT sample_id FROM decisions JOIN samples ON samples.id = sample_id "
                "WHERE round = ? AND reason = 'frozen' AND NOT (phase = 'instruction' AND followed))",
                [round],
            ),
            "instruction": self._phase(round, "instruction"),
            "response": self._phase(round, "response"),
            "ifd": mean_and_median([score["ifd"] for score in scores]),
            "r_ifd": mean_and_median([score["r_ifd"] for score in scores]),
            "response_tokens": mean_and_median([score["response_tokens"] for score in scores])["mean"],
            "evaluations": {item["name"]: item["value"] for item in evaluations},
            "alarms": self.alarms(round),
            "judge": None if row["trained"] is None else describe_judging(self, row["trained"]),
            "teacher": self.teacher(round),
            "servers": dict(servers.fetchall()),
            "seconds": {
                node: float(f"{seconds.get(node, 0.0):.1f}")
                for node in ("reflect", "select", "refinetune", "evaluate")
            },
        }

    def _phase(self, round: int, phase: Phase) -> PhaseDocument:
        """Without a proposal, the last candidate's last call tells an unchanged sample from a failed one."""
        place: dict[str, Any] = {"round": round, "phase": phase}
        where, _ = describe_place(**place)
        samples = self._one(
            f"""
            SELECT COUNT(*) FILTER (WHERE answered) AS reflected,
                COUNT(*) FILTER (WHERE NOT answered AND last = 'unchanged') AS unchanged,
                COUNT(*) FILTER (WHERE NOT answered AND last <> 'unchanged') AS failed,
                (SELECT COUNT(*) FROM decisions WHERE {where} AND {ABOUT_A_PROPOSAL}) AS decided,
                (SELECT COUNT(*) FROM decisions WHERE {where} AND reason = 'accepted') AS accepted,
                (SELECT COUNT(*) FROM decisions WHERE {where} AND reason = 'frozen') AS frozen
            FROM (
                -- A column beside a single MAX() is of the row that has it.
                SELECT status AS last, MAX(candidate << 32 | attempt), SUM(status = 'ok') > 0 AS answered
                FROM teacher_calls WHERE {where} GROUP BY sample_id)
            """,
            **place,
        )
        statuses = self.db.query(
            f"SELECT status, COUNT(*) AS n FROM teacher_calls WHERE {where} GROUP BY status ORDER BY status",
            place,
        )
        calls = {row["status"]: row["n"] for row in statuses}
        failures = self.db.execute(
            f"SELECT status, error, COUNT(*) FROM teacher_calls WHERE {where} AND status NOT IN {ANSWERED} "
            "GROUP BY 1, 2",
            place,
        )
        reasons = Failures(failures).reasons[:_REASONS]
        more = {"teacher": self.count_calls(**place), "statuses": calls, "reasons": reasons}
        return cast(PhaseDocument, samples | more)

    def _pool_scores(self, round: int) -> list[Measures]:
        """Scores of the pool D[r] under the student that decided about it."""
        before = self.db.execute(
            "SELECT student_id FROM rounds WHERE round = ?", [self.deciding_round(round)]
        ).fetchone()
        if before is None or round == 0:
            return []
        pool = self.db.query("SELECT version_id FROM pool WHERE round = ?", [round])
        return list(self.measures([row["version_id"] for row in pool], before[0]).values())

    def deciding_round(self, round: int) -> int:
        """The round whose student decides in a round."""
        return deciding_round(self.settings(), round)

    def measures(self, version_ids: Sequence[str], student: str) -> dict[str, Measures]:
        """IFD, r-IFD and response tokens of those of some versions that a student scored, by version id."""
        measured: dict[str, Measures] = {}
        for some in in_groups(version_ids, _AT_ONCE):
            for row in self.db.query(
                "SELECT version_id, ifd, r_ifd, response_tokens, status FROM pair_scores "
                f"WHERE version_id IN ({marks(some)}) AND student_id = ?",
                [*some, student],
            ):
                measured[row.pop("version_id")] = cast(Measures, row)
        return measured

    # Pairs

    def pool(self, round: int) -> Iterator[Pair]:
        """The pairs of the pool D[r], by position."""
        rows = self.db.query(
            "SELECT versions.sample_id, instruction, input, response FROM pool "
            "JOIN samples ON samples.id = pool.sample_id JOIN versions ON versions.id = pool.version_id "
            "WHERE pool.round = ? ORDER BY position",
            [round],
        )
        for page in in_groups(rows, _AT_ONCE):
            yield from self.read_pairs(page)

    def exchanges(self, sample_ids: Sequence[str]) -> dict[str, tuple[Turn, ...]]:
        """Given turns up to the end of some samples' exchanges, by sample; none of pairs that stand alone."""
        if not self._count("(SELECT 1 FROM conversations LIMIT 1)", []):
            return {}  # spares large runs of pairs alone a search for every sample
        rows = self.db.execute(
            "SELECT samples.id, samples.turn, turns FROM samples "
            "JOIN conversations ON conversations.id = samples.conversation_id "
            "WHERE samples.id IN (SELECT value FROM json_each(?))",
            [json.dumps(sample_ids)],
        )
        try:
            return {
                id: tuple(Turn.of_message(message) for message in json.loads(turns)[: turn + 2])
                for id, turn, turns in rows
            }
        except (ValueError, TypeError, LookupError) as error:
            raise StoreError("a row of conversations is not what was written there") from error

    def read_pairs(self, rows: Sequence[Mapping[str, Any]], prefix: str = "") -> list[Pair]:
        """The pairs of rows that have `sample_id` and the three texts, whose names begin with `prefix`."""
        return [pair for pair, _ in self.read_exchanges(rows, prefix)]

    def read_exchanges(
        self, rows: Sequence[Mapping[str, Any]], prefix: str = ""
    ) -> list[tuple[Pair, tuple[Turn, ...]]]:
        """The same, each with the two turns that were given for it, if it is of a conversation."""
        given = self.exchanges(list({row["sample_id"] for row in rows}))
        found = []
        for row in rows:
            instruction, input, response = (
                row[f"{prefix}{name}"] for name in ("instruction", "input", "response")
            )
            turns = given.get(row["sample_id"], ())
            found.append((Pair(instruction, input, response, turns[:-2]), turns[-2:]))
        return found

    def _count(self, source: str, params: Sequence[Any] | dict[str, Any]) -> int:
        return int(self.db.execute(f"SELECT COUNT(*) FROM {source}", params).fetchone()[0])


def deciding_round(settings: Settings, round: int) -> int:
    """The round whose student decides in a round of a run with such settings."""
    selection = settings["config"].get("selection", {})
    return SelectionConfig.model_construct(**selection).deciding(round)


def _per(total: float | None, number: int) -> float | None:
    return None if total is None or number == 0 else total / number


def mean_and_median(values: Sequence[float | None]) -> MeanMedian:
    """Mean and median of what could be measured; None where nothing could."""
    known = [value for value in values if value is not None]
    if not known:
        return {"mean": None, "median": None}
    return {"mean": statistics.fmean(known), "median": statistics.median(known)}
