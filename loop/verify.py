"""Verifying a run: what can be derived again is, through the very functions that made it.

A fault names a table and a row. Where one row was changed, others that rest on it may be named too.
"""

import importlib.metadata
import json
import math
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from reflectune.agents.student.adapters import hash_adapter
from reflectune.agents.teacher.parsing import Proposal, parse_answer
from reflectune.agents.teacher.prompts import Prompts, hash_messages, make_nonce, open_prompts
from reflectune.loop.context import SAMPLES_AT_ONCE
from reflectune.loop.graph import hash_graph
from reflectune.loop.nodes.evaluate import why_stop
from reflectune.loop.nodes.refinetune import choose_for_round
from reflectune.loop.selection import decide, needed_scores
from reflectune.state.config import (
    CHANGEABLE,
    RunConfig,
    flatten,
    load_begun_config,
    parse_config,
    upgrade_config,
)
from reflectune.state.data.datasets import dataset_hash
from reflectune.state.errors import ConfigError, ReflectuneError
from reflectune.state.folder import RunFolder
from reflectune.state.lineage import checks
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.lineage.seals import SEALED, find_seal
from reflectune.state.records import (
    ANSWERLESS,
    PHASES,
    TERMS,
    Contest,
    Decision,
    Pair,
    Phase,
    Sample,
    Scores,
    TeacherCall,
    Term,
    Version,
    content_hash,
)
from reflectune.state.text import one_line

__all__ = ["describe", "verify_run"]

Row = dict[str, Any]
_NO_PAIR = Pair("", "", "")
_BUDGET = ("teacher.budget_tokens", "teacher.budget_usd")


@dataclass(slots=True)
class Faults:
    """What is wrong, the first fault of each row, and what was looked at."""

    found: dict[tuple[str, str], str] = field(default_factory=dict)
    checked: Counter[str] = field(default_factory=Counter)  # rows by table
    unsealed: int = 0  # rows that were written before there were seals
    notes: list[str] = field(default_factory=list)  # what could not be checked, and why

    def add(self, table: str, row: str, fault: str) -> None:
        """Note a fault, unless the row has one."""
        self.found.setdefault((table, row), fault)

    def document(self, name: str) -> dict[str, Any]:
        """What `verify --json` prints."""
        faults = [{"table": table, "row": row, "fault": fault} for (table, row), fault in self.found.items()]
        counts = {"checked": dict(self.checked), "unsealed": self.unsealed, "notes": self.notes}
        return {"name": name, **counts, "faults": faults}


def verify_run(folder: RunFolder) -> dict[str, Any]:
    """Check everything about a run, as `verify --json` prints it.

    Files that a run writes before its lineage says so are read before the lineage, so that a run that goes on
    meanwhile is never ahead of it.

    Raises:
        StoreError: no lineage database, or one made by a newer version.
    """
    faults = Faults()
    adapters = sorted(path.name for path in folder.path.glob("adapters/round-*"))
    with LoopReader.open(folder.lineage) as lineage:
        try:
            for find in (checks.damage, checks.dangling, checks.schema_faults):
                for fault in find(lineage):
                    faults.add(*fault)
            _check_rows(lineage, faults)
            config = _check_run(folder, lineage, faults)
            for fault in checks.misplaced(lineage):
                faults.add(*fault)
            if config is not None:
                _Replay(folder, lineage, config, faults).run(adapters)
        except sqlite3.DatabaseError as error:
            faults.add("lineage.db", "", f"cannot be read on: {error}")
    return faults.document(folder.path.name)


def describe(document: Mapping[str, Any]) -> Iterator[str]:
    """One line a fault and a summary, safe to print."""
    for fault in document["faults"]:
        yield one_line(f"{fault['table']} {fault['row']}: {fault['fault']}")
    for note in document["notes"]:
        yield one_line(f"note: {note}")
    if document["unsealed"]:
        yield f"note: {document['unsealed']} rows were written before rows had seals"
    counts = ", ".join(f"{number} {table}" for table, number in document["checked"].items())
    number = len(document["faults"])
    verdict = "nothing is wrong" if not number else f"{number} at fault"
    yield f"{document['name']}: {verdict}; looked at {counts}"


# Rows by themselves


def _check_rows(lineage: LoopReader, faults: Faults) -> None:
    """Every row's seal, and the ids that are hashes of what a row holds."""
    first = (row for table in ("runs", "samples") for row in checks.rows(lineage, table))
    has_seals = any(row.get("seal") is not None for row in first)
    seen: Counter[str] = Counter()  # samples by source_hash, for their ids
    for table in checks.KEYS:
        for row in checks.rows(lineage, table):
            faults.checked[table] += 1
            name = checks.row_name(table, row)
            if table in SEALED and (fault := _seal_fault(table, row, has_seals, faults)):
                faults.add(table, name, fault)
            wanted = _wanted_id(table, row, seen)
            if wanted is not None and row["id"] != wanted:
                faults.add(table, name, "its id is not the hash of what it holds")
            if table == "samples":
                seen[row["source_hash"]] += 1


def _seal_fault(table: str, row: Row, has_seals: bool, faults: Faults) -> str | None:
    if row.get("seal") is None:
        faults.unsealed += 1
        return "has no seal, and its run began with them" if has_seals else None
    return None if row["seal"] == find_seal(table, row) else "its content is not what its seal was made of"


def _wanted_id(table: str, row: Row, seen: Mapping[str, int]) -> str | None:
    """What a row's id must be."""
    match table:
        case "samples":
            return content_hash(row["source_hash"], seen[row["source_hash"]])[:16]
        case "versions":
            version = row["sample_id"], row["parent_id"], row["round"], row["phase"], row["candidate"]
            return Version(*version, _pair(row), row["teacher_call_id"]).id
        case "teacher_calls":
            return _call_id(*(row[key] for key in ("round", "phase", "sample_id", "candidate", "attempt")))
        case "students":
            return f"s{row['round']}"
    return None


def _call_id(*place: Any) -> str:
    """The id of the teacher call of a round, phase, sample, candidate and attempt."""
    nothing: Any = None
    return TeacherCall(*place, *[nothing] * 13).id


def _pair(row: Row, prefix: str = "") -> Pair:
    return Pair(*(row[f"{prefix}{name}"] for name in ("instruction", "input", "response")))


# The run and its config


def _check_run(folder: RunFolder, lineage: LoopReader, faults: Faults) -> RunConfig | None:
    """The run's config; None where it is none, and nothing can be derived."""
    runs = list(checks.rows(lineage, "runs"))
    if len(runs) != 1:
        faults.add("runs", "", f"has {len(runs)} rows, want 1")
        return None
    run = runs[0]
    try:
        values, versions = json.loads(run["config"]), json.loads(run["versions"])
        config = parse_config(upgrade_config(values), source="its config")
        begun = versions.get("config")  # a run that began before this was kept has none
        graph, version = versions["graph"], versions.get("reflectune")
    except (ValueError, TypeError, AttributeError, KeyError, ConfigError) as error:
        faults.add("runs", run["name"], f"cannot be read: {error}")
        return None
    samples = [
        Sample(row["id"], row["position"], "train", _NO_PAIR, {})
        for row in sorted(checks.rows(lineage, "samples"), key=lambda row: row["position"])
    ]
    wrong = {
        "its config is not what its config_hash is of": content_hash(values) != run["config_hash"],
        "its name and seed are not those of its config": (config.name, config.seed)
        != (run["name"], run["seed"]),
        "its data_hash is not that of its samples": dataset_hash(samples) != run["data_hash"],
        "was begun by a version of Reflectune whose machine has other nodes": graph != hash_graph(),
    }
    for fault in (fault for fault, is_true in wrong.items() if is_true):
        faults.add("runs", run["name"], fault)
    if _check_changes(lineage, config, faults):
        for row in reversed(list(checks.rows(lineage, "config_changes"))):
            _undo(values, row)
        # Another version of Reflectune that changed a key has given newer ones their defaults.
        if begun is not None and content_hash(values) != begun and version == _this_version():
            faults.add("config_changes", "", "lacks changes: the run began with another config")
    _check_config_file(folder, config, faults)
    return config


def _check_changes(lineage: LoopReader, config: RunConfig, faults: Faults) -> bool:
    """Whether what a key was changed to is what it was before the next change, and what it is now."""
    now = flatten(config.model_dump(mode="json"))
    last: dict[str, Row] = {}
    is_whole = True
    for row in checks.rows(lineage, "config_changes"):
        before = last.get(row["key"])
        try:
            json.loads(row["before"])
            is_whole &= before is None or before["after"] == row["before"]
        except ValueError:
            is_whole = False
        if not is_whole:
            faults.add("config_changes", str(row["rowid"]), "does not begin where the change before it ended")
        last[row["key"]] = row
    for key, row in last.items():
        with suppress(ValueError):
            if key in now and json.loads(row["after"]) == now[key]:
                continue
        is_whole = False
        faults.add("config_changes", str(row["rowid"]), f"is the last of {key}, and not what it is now")
    return is_whole


def _undo(values: dict[str, Any], change: Row) -> None:
    """Put a key of a config back to what it was before a change."""
    section, _, name = change["key"].rpartition(".")
    (values.setdefault(section, {}) if section else values)[name] = json.loads(change["before"])


def _check_config_file(folder: RunFolder, config: RunConfig, faults: Faults) -> None:
    if not folder.config.exists():
        faults.add("config.toml", "", "is missing; `reflectune resume` writes it anew")
        return
    try:
        written = flatten(load_begun_config(folder.config).model_dump(mode="json"))
    except ReflectuneError as error:
        faults.add("config.toml", "", f"cannot be used: {error}")
        return
    stored = flatten(config.model_dump(mode="json"))
    differing = [key for key in stored if stored[key] != written[key]]
    if set(differing) <= set(CHANGEABLE) and folder.is_locked():
        return  # another process is just changing both
    for key in differing:
        faults.add("config.toml", key, f"is {written[key]!r}, the run has {stored[key]!r}")


def _this_version() -> str:
    return importlib.metadata.version("reflectune")


# What follows from what


class _Replay:
    """Derives answers, decisions, training sets and the end of a run again from what they rest on."""

    def __init__(self, folder: RunFolder, lineage: LoopReader, config: RunConfig, faults: Faults) -> None:
        self.folder, self.lineage, self.config, self.faults = folder, lineage, config, faults
        self.rounds = {row["round"]: row for row in checks.rows(lineage, "rounds")}
        self.changes = list(checks.rows(lineage, "config_changes"))
        self.training_sets: dict[int, dict[str, int]] = {}  # round -> version id -> rank
        for row in checks.rows(lineage, "training_sets"):
            self.training_sets.setdefault(row["round"], {})[row["version_id"]] = row["rank"]
        self.base_samples = lineage.choose_samples(config.evaluate.base_samples, config.seed)
        # Whether this version of Reflectune began the run.
        self.reads_alike = lineage.settings()["versions"].get("reflectune") == _this_version()
        # Whatever number a row has been given: so many rounds were begun, and one row may be missing.
        self.last = min(max(self.rounds, default=0), len(self.rounds))

    def run(self, adapters: list[str]) -> None:
        """Check everything. `adapters` are the names of the folders of finished ones."""
        self._check_answers()
        for round in range(1, self.last + 1):
            student = self.rounds.get(round - 1, {}).get("student_id")
            if student is None:
                continue
            for phase in PHASES:
                self._check_calls(round, phase)
                self._check_decisions(round, phase, student)
            if self._is_chosen(round):
                self._check_training_set(round, student)
            self._check_base_scores(round)
        self._check_students(adapters)
        self._check_evaluations()
        self._check_stop()

    def _is_chosen(self, round: int) -> bool:
        """Whether a round has got as far as its training set."""
        return round in self.training_sets or self.rounds.get(round, {}).get("student_id") is not None

    def _is_over(self, round: int, phase: Phase) -> bool:
        """Whether a phase must have all its calls and decisions."""
        if round < self.last or self._is_chosen(round):
            return True
        return phase == "instruction" and bool(
            self.lineage.count_settled(round, "response", attempts=1)
            or self.lineage.count_decisions(round, "response")
        )

    # Answers

    def _check_answers(self) -> None:
        """What a call's text says must be what became of it."""
        try:
            own = self.config.teacher.prompts
            prompts = open_prompts(None if own is None else Path(own))
        except ConfigError as error:
            self.faults.notes.append(f"the teacher's answers were not read again: {error}")
            return
        unread = otherwise = 0
        for row in self.lineage.answers():
            answer = self._read(prompts, row)
            if answer is None:
                unread += 1
            elif fault := _answer_fault(row, answer):
                if self.reads_alike:
                    self.faults.add("teacher_calls", row["id"], fault)
                otherwise += 1
        if unread:
            self.faults.notes.append(
                f"{unread} teacher calls were asked with other words than the prompts have now; "
                "their answers were not read again"
            )
        if otherwise and not self.reads_alike:
            self.faults.notes.append(
                f"{otherwise} answers are read otherwise by this version of Reflectune "
                "than by the one that began the run"
            )

    def _read(self, prompts: Prompts, row: Row) -> Proposal | str | None:
        """What a call's text says: a proposal or a status; None where it was asked with other words."""
        pair, phase = _pair(row, "incumbent_"), row["phase"]
        nonce = make_nonce(pair, self.config.seed, row["round"], phase, row["sample_id"], row["attempt"])
        for structured in (True, False):
            messages = prompts.messages(phase, pair, structured=structured, nonce=nonce)
            if row["prompt_hash"] == hash_messages(messages):
                return parse_answer(
                    prompts, row["text"], phase=phase, pair=pair, structured=structured, nonce=nonce,
                    finish_reason=row["finish_reason"],
                )  # fmt: skip
        return None

    def _check_calls(self, round: int, phase: Phase) -> None:
        """All proposals of a phase that is over were asked for, unless there has ever been a budget."""
        teacher = self.config.teacher
        has_budget = teacher.budget_tokens is not None or teacher.budget_usd is not None
        if (
            has_budget
            or any(row["key"] in _BUDGET for row in self.changes)
            or not self._is_over(round, phase)
        ):
            return
        for missing in self.lineage.pending_reflections(
            round, phase, candidates=teacher.candidates, attempts=teacher.attempts,
            freeze_after=teacher.freeze_after,
        ):  # fmt: skip
            call = _call_id(round, phase, missing.sample_id, missing.candidate, missing.attempts + 1)
            self.faults.add("teacher_calls", call, f"is missing: round {round}, {phase}, {missing.sample_id}")

    # Decisions and training sets

    def _check_decisions(self, round: int, phase: Phase, student: str) -> None:
        groups = self.lineage.contests(
            round, phase, SAMPLES_AT_ONCE, freeze_after=self.config.teacher.freeze_after, decided=True
        )
        for contests in groups:
            stored = self.lineage.decisions(round, phase, [contest.sample_id for contest in contests])
            if not stored and not self._is_over(round, phase):
                continue  # the group that the run would decide next
            scores = self.lineage.scores(
                [version for contest in contests for version in contest.pairs], student
            )
            for contest in contests:
                self._check_decision(contest, stored.get(contest.sample_id), scores, round, phase, student)

    def _check_decision(
        self,
        contest: Contest,
        stored: Decision | None,
        scores: Scores,
        round: int,
        phase: Phase,
        student: str,
    ) -> None:
        name = f"{round}/{phase}/{contest.sample_id}"
        if stored is None:
            self.faults.add("decisions", name, "is missing")
            return
        needed = set(needed_scores(contest, self.config.selection.policy, phase))
        if phase == PHASES[-1]:  # the training filter looks at the winner's
            needed |= {(stored.winner_id, term) for term in TERMS}
        self._want_scores(needed, scores, student)
        expected = decide(
            contest, scores, selection=self.config.selection, round=round, phase=phase, student_id=student,
            seed=self.config.seed,
        )  # fmt: skip
        pairs = (
            (item.name, getattr(stored, item.name), getattr(expected, item.name)) for item in fields(Decision)
        )
        differing = [
            f"{name} is {is_}, want {want}"
            for name, is_, want in pairs
            # Where nothing was compared, a value may have become known later.
            if not _is_same(is_, want) and (is_ is not None or contest.candidate_ids)
        ]
        if differing:
            self.faults.add("decisions", name, ", ".join(differing))

    def _want_scores(self, needed: set[tuple[str, Term]], scores: Scores, student: str) -> None:
        for version, term in needed:
            if term not in scores.get(version, {}):
                self.faults.add("scores", f"{version}/{student}/{term}", "is missing, and was needed")

    def _check_base_scores(self, round: int) -> None:
        """The base student's scores of a round that says that it has them."""
        with suppress(ValueError, AttributeError):
            number = json.loads(self.rounds.get(round, {}).get("metrics", "{}")).get("frozen", 0)
            samples = self.base_samples if number else []
            if number not in (0, len(samples)):
                fault = f"has scores of {number} pairs, want {len(samples)}"
                self.faults.add("rounds", str(round), fault)
                return
            for start in range(0, len(samples), SAMPLES_AT_ONCE):
                group = samples[start : start + SAMPLES_AT_ONCE]
                pairs = self.lineage.pool_pairs(0, group) | self.lineage.pool_pairs(round, group)
                needed = {(version, term) for version in pairs for term in TERMS}
                self._want_scores(needed, self.lineage.scores([*pairs], "s0"), "s0")

    def _check_training_set(self, round: int, student: str) -> None:
        expected = choose_for_round(self.lineage, self.config, round, student)
        wanted = {version: rank for rank, version in enumerate(expected)}
        stored = self.training_sets.get(round, {})
        for version in wanted.keys() | stored.keys():
            if stored.get(version) != wanted.get(version):
                fault = f"its rank is {stored.get(version)}, want {wanted.get(version)}"
                self.faults.add("training_sets", f"{round}/{version}", fault)

    # Students, measures and the end

    def _check_students(self, adapters: list[str]) -> None:
        known = {
            self.folder.adapter(round).name for round, row in self.rounds.items() if not row["student_id"]
        }
        for row in checks.rows(self.lineage, "students"):
            round = row["round"]
            before = self.rounds.get(round - 1, {}).get("student_id")
            goes_on = self.config.refinetune.start_from == "previous" and before != "s0"
            wanted = {
                "base_model": self.config.student.model,
                "base_revision": self.config.student.revision,
                "adapter": f"adapters/round-{round:02d}" if round else None,
                "parent_id": (before if goes_on else "s0") if round else None,
            }
            for key in (key for key, value in wanted.items() if row[key] != value):
                self.faults.add("students", row["id"], f"{key} is {row[key]}, want {wanted[key]}")
            if round:
                known.add(self.folder.adapter(round).name)
                self._check_adapter(round, row["adapter_hash"])
        for name in set(adapters) - known:
            self.faults.add("adapters", name, "belongs to no student")

    def _check_adapter(self, round: int, wanted: str) -> None:
        adapter = self.folder.adapter(round)
        self.faults.checked["adapters"] += 1
        try:
            if hash_adapter(adapter) != wanted:
                self.faults.add("adapters", adapter.name, f"is not what was trained: want {wanted}")
        except ReflectuneError as error:
            self.faults.add("adapters", adapter.name, str(error))

    def _check_evaluations(self) -> None:
        """What any round has, all have that are measured; but a checker may know nothing of an answer."""
        measured = self.lineage.held_out_measures()
        always = {"nll"} | (set().union(*measured.values()) & {"response_tokens"})
        for round, row in self.rounds.items():
            is_due = round % self.config.evaluate.every == 0 or row["stop_reason"] is not None
            if (
                self.lineage.samples()["holdout"]
                and row["status"] == "finished"
                and (is_due or round in measured)
            ):
                for name in always - measured.get(round, {}).keys():
                    self.faults.add("evaluations", f"{round}/{name}", "is missing")

    def _check_stop(self) -> None:
        """Why the loop ended after the last round, or did not, found again from the rows of that round."""
        row = self.rounds.get(self.last)
        if row is None or self.last == 0 or row["status"] != "finished":
            return
        measures = self.lineage.held_out_measures()
        reasons = [why_stop(self.lineage, config, self.last, measures) for config in self._configs()]
        if row["stop_reason"] in reasons:
            return
        fault = f"has the stop_reason {row['stop_reason']}, want {reasons[0]}"
        if self.reads_alike:
            self.faults.add("rounds", str(self.last), fault)
        else:
            self.faults.notes.append(
                f"round {self.last} {fault} by this version, which did not begin the run"
            )

    def _configs(self) -> Iterator[RunConfig]:
        """The config as it is, and as it was before each change: a run may not have gone on with one yet."""
        yield self.config
        values = self.config.model_dump(mode="json")
        for change in reversed(self.changes):
            with suppress(ConfigError, ValueError):  # halfway through a change of several keys
                _undo(values, change)
                yield parse_config(values, source="an earlier config")


def _answer_fault(row: Row, answer: Proposal | str) -> str | None:
    """Why a call is not what its text says."""
    if row["status"] in ANSWERLESS:
        return None
    if isinstance(answer, str):
        return None if answer == row["status"] else f"its status is {row['status']}, its text {answer}"
    if row["status"] != "ok":
        return f"its status is {row['status']}, its text a proposal"
    if row["critique"] != answer.critique:
        return "its critique is not that of its text"
    if row["proposed_response"] is not None and _pair(row, "proposed_") != answer.pair:
        return "its text says another proposal than the version has"
    return None


def _is_same(stored: object, expected: object) -> bool:
    """Values may differ by rounding: another machine's exp() may end in another bit."""
    if isinstance(expected, float) and isinstance(stored, float):
        return math.isclose(expected, stored, rel_tol=1e-12)
    return expected == stored
