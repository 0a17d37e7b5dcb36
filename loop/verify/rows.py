"""One sample's rows, each checked by itself: its id, its seal, and numbers that can be.

Which row follows from which is not known here.
"""

import math
from typing import Any, get_args

from reflectune.loop.verify.findings import Findings
from reflectune.state.lineage.ledger import Row, SampleRows, row_name
from reflectune.state.records import Pair, Phase, ScoreStatus, TeacherCall, Term, Version, content_hash

__all__ = ["Place", "RowsCheck", "ScoreKey", "call_id", "pair_of"]

Place = tuple[int, Phase]
ScoreKey = tuple[str, str, Term]  # version, student, term

# Sums are of logarithms of probabilities: what is above 0 by more than rounding is none.
_ROUNDING = 1e-3


class RowsCheck:
    """The rows of one sample by their keys, and what is wrong with each."""

    def __init__(self, rows: SampleRows, findings: Findings) -> None:
        self.findings = findings
        self.sample = rows.sample
        self.id: str = rows.sample["id"]
        self.occurrence = rows.occurrence
        self.versions = {row["id"]: row for row in rows.versions}
        self.calls = {row["id"]: row for row in rows.calls}
        self.decisions = {(row["round"], row["phase"]): row for row in rows.decisions}
        self.scores: dict[ScoreKey, Row] = {_score_key(row): row for row in rows.scores}
        # Rows that are not what they were: nothing is derived from them.
        self.broken: set[tuple[str, str]] = set()

    def fault(self, table: str, row: Row, fault: str) -> None:
        """Note a fault of a row."""
        self.findings.add(table, row_name(table, row), fault)

    def mark_broken(self, table: str, row: Row, fault: str) -> None:
        """A fault that makes a row useless for what follows from it."""
        self.fault(table, row, fault)
        self.broken.add((table, row_name(table, row)))

    def is_broken(self, table: str, row: Row) -> bool:
        """Whether a row is useless for what follows from it."""
        return (table, row_name(table, row)) in self.broken

    def check_each(self) -> None:
        """Check every row by itself."""
        self._check_sample()
        for call in self.calls.values():
            self._check_call(call)
        for version in self.versions.values():
            self._check_version(version)
        for score in self.scores.values():
            self._check_score(score)
        for row in self.decisions.values():
            self.findings.look_at("decisions", row)

    def _check_sample(self) -> None:
        if not self.findings.look_at("samples", self.sample):
            self.broken.add(("samples", self.id))
        elif content_hash(self.sample["source_hash"], self.occurrence)[:16] != self.id:
            self.mark_broken("samples", self.sample, "its id is not that of its source_hash")

    def _check_call(self, row: Row) -> None:
        if not self.findings.look_at("teacher_calls", row):
            self.broken.add(("teacher_calls", row["id"]))
        elif row["id"] != call_id(self.id, (row["round"], row["phase"]), row["candidate"], row["attempt"]):
            self.mark_broken("teacher_calls", row, "its id is not that of its place in the run")

    def _check_version(self, row: Row) -> None:
        self.findings.look_at("versions", row)
        if row["id"] != _version(row).id:
            self.mark_broken("versions", row, "its id is not the hash of its texts, place and parent")

    def _check_score(self, row: Row) -> None:
        if not self.findings.look_at("scores", row):
            self.broken.add(("scores", row_name("scores", row)))
            return
        number, tokens, status = row["sum_logprob"], row["num_tokens"], row["status"]
        if status not in get_args(ScoreStatus):
            self.mark_broken("scores", row, f"has the status {status!r}")
        elif status != "ok":
            if number is not None or tokens is not None:
                self.mark_broken("scores", row, f"has numbers with the status {status}")
        elif number is None or not math.isfinite(number) or number > _ROUNDING or not tokens or tokens < 1:
            self.mark_broken("scores", row, f"a sum of {number} over {tokens} tokens is no log-probability")

    def check_original(self, row: Row) -> None:
        """Check the given pair against its sample."""
        given = row["round"], row["candidate"], row["parent_id"], row["teacher_call_id"]
        if given != (0, 0, None, None):
            self.fault("versions", row, "is the given pair, and has a round, a parent or a teacher call")
        elif self.is_broken("versions", row) or self.is_broken("samples", self.sample):
            return
        elif pair_of(row).content_hash != self.sample["source_hash"]:
            self.mark_broken("versions", row, "is not the given pair that its sample's source_hash is of")


def call_id(sample: str, place: Place, candidate: int, attempt: int) -> str:
    """The id of the teacher call of a place in the run."""
    nothing: Any = None
    return TeacherCall(*place, sample, candidate, attempt, *[nothing] * 13).id


def _version(row: Row) -> Version:
    place = row["round"], row["phase"], row["candidate"]
    return Version(row["sample_id"], row["parent_id"], *place, pair_of(row), row["teacher_call_id"])


def pair_of(row: Row) -> Pair:
    """The pair of a version."""
    return Pair(row["instruction"], row["input"], row["response"])


def _score_key(row: Row) -> ScoreKey:
    return row["version_id"], row["student_id"], row["term"]
