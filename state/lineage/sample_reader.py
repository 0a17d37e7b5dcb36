"""What a run's lineage tells of one sample: which one somebody means, its journey, its teacher calls."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from reflectune.state.errors import StoreError
from reflectune.state.lineage.documents import CallDocument, Trace
from reflectune.state.storage import OpenDatabase

__all__ = ["SampleReader", "read_ids"]

# Names of fields that tell records apart: id, _id, idx, uuid, prompt_id, promptId, ...
_ID_NAME = re.compile(r"(?i:(?:.*[^a-z])?(?:u|uu|gu)?idx?)|.*I[dD]")
# How many of several samples a message names.
_NAMED = 5


def read_ids(meta: Mapping[str, Any]) -> Iterator[str]:
    """What fields of a given record tell it from others by."""
    for name, value in meta.items():
        if _ID_NAME.fullmatch(name) and isinstance(value, str | int):
            yield str(value)


class SampleReader(OpenDatabase):
    """Answers questions about one sample of a run."""

    def find_sample(self, text: str) -> str:
        """The id of the one sample that `text` names.

        By its position, its id, an id that its given record had, FIELD=VALUE of that record, or the start of
        its id or of its hash; the first of these that any sample has.
        """
        is_position = text.isdecimal() and len(text) < 10
        found = self._named("position = ?", int(text)) if is_position else []
        found = found or self._named("id = ?", text) or self._with_field(text)
        if len(found) > 1:
            positions = [str(row["position"]) for row in found[:_NAMED]]
            raise StoreError(
                f"{len(found)} samples have {text}; give the position of one: {', '.join(positions)}"
                f"{', ...' if len(found) > _NAMED else ''}"
            )
        if not found and not is_position:
            starts = "substr(id, 1, ?1), substr(id, instr(id, '-') + 1, ?1)"
            found = self._named(f"?2 IN ({starts}) LIMIT 2", len(text), text)
        if len(found) == 1:
            return str(found[0]["id"])
        last = self._one("SELECT MAX(position) AS position FROM samples")["position"]
        problem = "several samples have an id that starts with" if found else "no sample"
        raise StoreError(f"{problem} {text}; give a position from 0 to {last} or a sample's id")

    def _named(self, condition: str, *params: object) -> list[dict[str, Any]]:
        return self._all(f"SELECT id, position FROM samples WHERE {condition}", *params)

    def _with_field(self, text: str) -> list[dict[str, Any]]:
        """The samples whose given record has this id, or this FIELD=VALUE."""
        value = json.dumps(text.rpartition("=")[2], ensure_ascii=False)[1:-1]
        rows = self.db.query("SELECT id, position, meta FROM samples WHERE instr(meta, ?)", [value])
        return [row for row in rows if _has_field(json.loads(row["meta"]), text)]

    def trace(self, sample: str) -> Trace:
        """One sample, as `find_sample` finds it, through all rounds."""
        sample_id = self.find_sample(sample)
        decisions = self._all(
            """
            SELECT round, phase, incumbent_id AS incumbent, winner_id AS winner, policy, decisions.reason,
                outcome, incumbent_value, winner_value, student_id AS student,
                challenger_id AS challenger, challenger_value, margin
            FROM decisions JOIN outcomes USING (round, phase, sample_id)
            WHERE sample_id = ? ORDER BY round, phase
            """,
            sample_id,
        )
        versions = self._all(
            """
            SELECT versions.id, parent_id AS parent, versions.round, versions.phase,
                versions.candidate, instruction, input, response, critique, address AS server
            FROM versions LEFT JOIN teacher_calls ON teacher_calls.id = teacher_call_id
                LEFT JOIN servers ON servers.id = server_id
            WHERE versions.sample_id = ?
            ORDER BY versions.round, versions.phase <> 'original', versions.phase, versions.candidate
            """,
            sample_id,
        )
        current = decisions[-1]["winner"] if decisions else versions[0]["id"]
        for version in versions:
            version["scores"] = self._all(
                "SELECT student_id AS student, ifd, r_ifd, nll_response_given_instruction, "
                "nll_response_alone, nll_instruction_given_response, nll_instruction_alone, status, "
                "response_tokens, truncated FROM pair_scores JOIN students ON students.id = student_id "
                "WHERE version_id = ? ORDER BY students.round",
                version["id"],
            )
            for score in version["scores"]:
                score["truncated"] = bool(score["truncated"])
            version["current"] = version["id"] == current
        failures = self._all(
            "SELECT round, phase, candidate, attempt, status, error, text, address AS server "
            "FROM teacher_calls LEFT JOIN servers ON servers.id = server_id "
            "WHERE sample_id = ? AND status <> 'ok' ORDER BY round, phase, candidate, attempt",
            sample_id,
        )
        trained = self._all(
            "SELECT DISTINCT training_sets.round FROM training_sets JOIN versions "
            "ON versions.id = version_id WHERE sample_id = ? ORDER BY training_sets.round",
            sample_id,
        )
        journey = {"versions": versions, "decisions": decisions, "failures": failures}
        return cast(
            Trace, self._given(sample_id) | journey | {"trained_in": [row["round"] for row in trained]}
        )

    def _given(self, sample_id: str) -> dict[str, Any]:
        """Where a sample's pair comes from: its record's other fields, and the turns around it."""
        row = self._one(
            "SELECT samples.id AS sample, position, split, meta, turn, turns FROM samples "
            "LEFT JOIN conversations ON conversations.id = conversation_id WHERE samples.id = :id",
            id=sample_id,
        )
        turns, turn = json.loads(row.pop("turns") or "[]"), row["turn"]
        after = max(0, len(turns) - turn - 2)  # the exchange itself is two
        told = {"meta": json.loads(row["meta"]), "context": turns[:turn], "later_turns": after}
        return row | told

    def calls(self, sample_id: str) -> list[CallDocument]:
        """Every teacher call of a sample with its raw text, by round, phase, candidate and attempt."""
        rows = self._all(
            "SELECT teacher_calls.id, round, phase, candidate, attempt, engine, model, address AS server, "
            "status, error, finish_reason, critique, text, prompt_tokens, completion_tokens, cost_usd, "
            "seconds, cached FROM teacher_calls LEFT JOIN servers ON servers.id = server_id "
            "WHERE sample_id = ? ORDER BY round, phase, candidate, attempt",
            sample_id,
        )
        return cast(list[CallDocument], [row | {"cached": bool(row["cached"])} for row in rows])

    def _all(self, query: str, *params: object) -> list[dict[str, Any]]:
        return list(self.db.query(query, params))

    def _one(self, query: str, **params: object) -> dict[str, Any]:
        return next(iter(self.db.query(query, params)))


def _has_field(meta: Mapping[str, Any], text: str) -> bool:
    """Whether a record has such an id or such a field, NAME=VALUE; what is no text is written as in JSON."""
    told = (
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in meta.items()
    )
    return text in read_ids(meta) or text in told
