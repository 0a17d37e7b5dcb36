"""Verifying a run: what can be derived again is, through the very functions that made it.

A fault names a table and a row. Where one row was changed, others that rest on it may be named too.
"""

import importlib.metadata
import itertools
import json
import math
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reflectune.agents.student.adapters import check_adapter
from reflectune.agents.teacher.parsing import AnswerParser, Proposal
from reflectune.agents.teacher.prompts import Prompts, make_nonce, open_prompts
from reflectune.loop.alarms import derive_figures
from reflectune.loop.context import SAMPLES_AT_ONCE
from reflectune.loop.graph import hash_graph
from reflectune.loop.judging import find_misread
from reflectune.loop.nodes.evaluate import derive_measures, is_due, why_stop
from reflectune.loop.nodes.refinetune import choose_for_round
from reflectune.loop.resuming import refuse_changed_config
from reflectune.loop.selection import decide, needed_scores
from reflectune.state.config import (
    RunConfig,
    flatten,
    load_begun_config,
    parse_config,
    set_key,
    upgrade_config,
)
from reflectune.state.data.datasets import dataset_hash
from reflectune.state.errors import AdapterError, ConfigError, StoreError
from reflectune.state.folder import RunFolder
from reflectune.state.groups import in_groups
from reflectune.state.lineage import checks
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.records import (
    ANSWERLESS,
    HALVES,
    PHASES,
    TERMS,
    Decision,
    Evaluation,
    Half,
    Pair,
    Phase,
    Scores,
    Term,
    content_hash,
    content_part,
)
from reflectune.state.text import one_line

__all__ = ["describe", "verify_run"]

_UNREAD = "teacher calls were asked with other words than the prompts have now, and were not read again"
_OTHERWISE = "rows are derived otherwise by this version of Reflectune than by the one that began the run"


@dataclass(slots=True)
class Faults:
    """What is wrong, the first fault of each row, and what was looked at."""

    found: dict[tuple[str, str], str] = field(default_factory=dict)
    checked: Counter[str] = field(default_factory=Counter)  # rows by table
    unsealed: Counter[str] = field(default_factory=Counter)  # those written before there were seals
    notes: Counter[str] = field(default_factory=Counter)  # rows that are no fault, by what to say of them
    is_own_run: bool = False  # whether this version of Reflectune began the run

    def add(self, table: str, row: str, fault: str) -> None:
        """Note a fault, unless the row has one."""
        self.found.setdefault((table, row), fault)

    def document(self, name: str) -> dict[str, Any]:
        """What `verify --json` prints."""
        faults = [{"table": table, "row": row, "fault": fault} for (table, row), fault in self.found.items()]
        notes = [f"{number} {note}" for note, number in self.notes.items()]
        counts = {"checked": dict(self.checked), "unsealed": self.unsealed.total()}
        return {"name": name, **counts, "notes": notes, "faults": faults}


def verify_run(folder: RunFolder) -> dict[str, Any]:
    """Check everything about a run, as `verify --json` prints it.

    Files that a run writes before its lineage says so are read before the lineage, so that a run that goes on
    meanwhile is never ahead of it.
    """
    faults = Faults()
    adapters = [path.name for path in folder.path.glob("adapters/round-*")]
    with LoopReader.open(folder.lineage) as lineage:
        try:
            of_rows = checks.row_faults(lineage, faults.checked, faults.unsealed)
            for fault in itertools.chain(checks.file_faults(lineage), of_rows):
                faults.add(*fault)
            if configs := _check_run(folder, lineage, faults):
                _Replay(folder, lineage, configs, faults).run(adapters)
        except (sqlite3.DatabaseError, StoreError) as error:
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
    verdict = f"{len(document['faults'])} at fault" if document["faults"] else "nothing is wrong"
    yield f"{document['name']}: {verdict}; looked at {counts}"


# The run and its config


def _check_run(folder: RunFolder, lineage: LoopReader, faults: Faults) -> list[RunConfig]:
    """The run's config, and as it was before each change, newest first; none where it cannot be read."""
    run = next(checks.rows(lineage, "runs"), None)
    if run is None:
        faults.add("runs", "", "is missing")
        return []
    try:
        values, versions = json.loads(run["config"]), json.loads(run["versions"])
        graph, begun, version = (versions.get(name) for name in ("graph", "config", "reflectune"))
        configs = [parse_config(upgrade_config(values), source="its config")]
    except (ValueError, TypeError, AttributeError, ConfigError) as error:
        faults.add("runs", run["name"], f"cannot be read: {error}")
        return []
    if replayed := versions.get("replay_of"):
        raise ConfigError(f"{folder.path.name} is a replay of {replayed}, made by what would verify it")
    faults.is_own_run = version == importlib.metadata.version("reflectune")
    if content_hash(values) != run["config_hash"]:
        faults.add("runs", run["name"], "its config is not what its config_hash is of")
    if dataset_hash(lineage.sample_ids()) != run["data_hash"]:
        faults.add("runs", run["name"], "its data_hash is not that of its samples")
    if graph != hash_graph():
        faults.add("runs", run["name"], "was begun by a version of Reflectune whose machine has other nodes")
    for earlier in _undo_changes(lineage, values, faults):
        with suppress(ConfigError):  # halfway through a change of several keys
            configs.append(parse_config(upgrade_config(earlier), source="an earlier config"))
    # A run that began before this was kept has none. Another version of Reflectune that changed a key has
    # given newer ones their defaults.
    is_undone = not any(table == "config_changes" for table, _ in faults.found)
    if is_undone and begun not in (None, content_hash(values)) and faults.is_own_run:
        faults.add("config_changes", "", "lacks changes: the run began with another config")
    _check_config_file(folder, lineage, faults)
    return configs


def _undo_changes(lineage: LoopReader, values: dict[str, Any], faults: Faults) -> Iterator[dict[str, Any]]:
    """The values of the config as they were before each change, the newest first."""
    for row in reversed(list(checks.rows(lineage, "config_changes"))):
        now = flatten(values)
        with suppress(ValueError):
            before = json.loads(row["before"])
            if row["key"] in now and now[row["key"]] == json.loads(row["after"]):
                set_key(values, row["key"], before)
                yield values
                continue
        faults.add("config_changes", str(row["rowid"]), "does not end in what the config was then")
        return


def _check_config_file(folder: RunFolder, lineage: LoopReader, faults: Faults) -> None:
    if not folder.config.exists():
        faults.add("config.toml", "", "is missing; `reflectune resume` writes it anew")
        return
    try:
        config = load_begun_config(folder.config)
        if not folder.is_locked():  # by a process that may just be changing both
            refuse_changed_config(lineage, config, folder)
    except ConfigError as error:
        faults.add("config.toml", "", str(error))
    except ValueError:  # a row of config_changes is no JSON, which is told of it
        return


# What follows from what


class _Replay:
    """Derives answers, decisions, training sets and the end of a run again from what they rest on."""

    def __init__(
        self, folder: RunFolder, lineage: LoopReader, configs: Sequence[RunConfig], faults: Faults
    ) -> None:
        self.folder, self.lineage, self.faults = folder, lineage, faults
        self.configs, self.config = configs, configs[0]
        self.rounds = {row["round"]: row for row in checks.rows(lineage, "rounds")}
        # Whatever number a row has been given: so many rounds were begun, and one row may be missing.
        self.last = min(max(self.rounds, default=0), len(self.rounds))
        self.students = {round: row["student_id"] for round, row in self.rounds.items() if row["student_id"]}
        self.training_sets = checks.training_sets(lineage)
        # Rounds that have got as far as their training set.
        self.chosen = self.training_sets.keys() | self.students.keys()
        changes = checks.rows(lineage, "config_changes")
        self.has_had_budget = any(row["key"].startswith("teacher.budget_") for row in changes)
        self.measures = lineage.held_out_measures()
        self.base_samples = lineage.choose_samples(self.config.evaluate.base_samples, self.config.seed)

    def run(self, adapters: Iterable[str]) -> None:
        """Check everything. `adapters` are the names of the folders of finished ones."""
        self._check_answers()
        for round in range(1, self.last + 1):
            if (student := self.students.get(self.config.selection.deciding(round))) is None:
                continue
            for phase in PHASES:
                self._check_calls(round, phase)
                self._check_decisions(round, phase, student)
            if round in self.chosen:
                self._check_training_set(round, student)
        for round, row in self.rounds.items():
            self._check_metrics(round, row["metrics"])
        self._check_adapters(adapters)
        self._check_verdicts()
        self._check_evaluations()
        self._check_alarms()
        self._check_stop()

    def _is_decided(self, round: int) -> bool:
        """Whether a round must have all its decisions."""
        return round < self.last or round in self.chosen

    def _add_derived(self, table: str, row: str, fault: str) -> None:
        """Note what is not as it is derived; a fault only where the version that began the run does so."""
        if self.faults.is_own_run:
            self.faults.add(table, row, fault)
        else:
            self.faults.notes[_OTHERWISE] += 1

    # Answers

    def _check_answers(self) -> None:
        """What a call's text says must be what became of it."""
        try:
            own = self.config.teacher.prompts
            prompts = open_prompts(None if own is None else Path(own))
        except ConfigError as error:
            note = f"teacher calls were not read again: {error}"
            self.faults.notes[note] = self.faults.checked["teacher_calls"]
            return
        for row, incumbent, proposed in checks.answers(self.lineage):
            answer = self._read(prompts, row, incumbent)
            if answer is None:
                self.faults.notes[_UNREAD] += 1
            elif not _is_as_answered(row, answer, proposed):
                fault = "its status, critique or proposal is not what its text says"
                self._add_derived("teacher_calls", row["id"], fault)

    def _read(self, prompts: Prompts, row: dict[str, Any], pair: Pair) -> Proposal | str | None:
        """What a call's text says: a proposal or a status; None where it was asked with other words."""
        phase, sample = row["phase"], content_part(row["sample_id"])
        nonce = make_nonce(pair, self.config.seed, row["round"], phase, sample, row["attempt"])
        for structured in (True, False):
            messages = prompts.messages(phase, pair, structured=structured, nonce=nonce)
            if row["prompt_hash"] == content_hash(messages):
                parser = AnswerParser(prompts, phase, pair, structured, nonce)
                return parser.parse(row["text"], row["finish_reason"])
        return None

    def _check_calls(self, round: int, phase: Phase) -> None:
        """All proposals of what is decided were asked for, unless there has ever been a budget."""
        teacher = self.config.teacher
        if teacher.budget_tokens is not None or teacher.budget_usd is not None or self.has_had_budget:
            return
        attempts = min(config.teacher.attempts for config in self.configs)  # when it was asked
        for missing in self.lineage.pending_reflections(
            round, phase, candidates=teacher.candidates, attempts=attempts,
            freeze_after=teacher.freeze_after, decided=True,
        ):  # fmt: skip
            place = f"{round}/{phase}/{missing.sample_id}/{missing.candidate}/{missing.attempts + 1}"
            self.faults.add("teacher_calls", place, "is missing")

    # Decisions and training sets

    def _check_decisions(self, round: int, phase: Phase, student: str) -> None:
        freeze_after = self.config.teacher.freeze_after
        # What is decided one after the other.
        halves = HALVES if self.config.selection.cross_fit and student != "s0" else (None,)
        for contests in itertools.chain.from_iterable(
            self.lineage.contests(
                round, phase, SAMPLES_AT_ONCE, freeze_after=freeze_after, decided=True, half=half
            )
            for half in halves
        ):
            stored = self.lineage.decisions(round, phase, [contest.sample_id for contest in contests])
            if not stored and not self._is_decided(round):
                continue  # the group that the run would decide next
            scores = self.lineage.scores([version for it in contests for version in it.pairs], student)
            for contest in contests:
                settings, seed = self.config.selection, self.config.seed
                expected = decide(
                    contest, scores, settings, seed=seed, round=round, phase=phase, student_id=student
                )
                needed = set(needed_scores(contest, self.config.selection.policy, phase))
                decision = stored.get(contest.sample_id)
                if decision is not None and phase == PHASES[-1]:  # the training filter looks at the winner's
                    needed |= {(decision.winner_id, term) for term in TERMS}
                self._want_scores(needed, scores, student)
                if fault := _decision_fault(decision, expected, is_compared=bool(contest.candidate_ids)):
                    self.faults.add("decisions", f"{round}/{phase}/{contest.sample_id}", fault)

    def _want_scores(self, needed: Iterable[tuple[str, Term]], scores: Scores, student: str) -> None:
        for version, term in needed:
            if term not in scores.get(version, {}):
                self.faults.add("scores", f"{version}/{student}/{term}", "is missing, and was needed")

    def _check_training_set(self, round: int, student: str) -> None:
        chosen = choose_for_round(self.lineage, self.config, round, student)
        wanted = {version: rank for rank, version in enumerate(chosen)}
        stored = self.training_sets.get(round, {})
        for version in wanted.keys() | stored.keys():
            if stored.get(version) != wanted.get(version):
                fault = f"its rank is {stored.get(version)}, want {wanted.get(version)}"
                self.faults.add("training_sets", f"{round}/{version}", fault)

    # What else a round has, adapters and the end

    def _check_metrics(self, round: int, metrics: str) -> None:
        """A round has spent seconds on nodes, and the base student has scored the pairs it says it has."""
        try:
            values = json.loads(metrics)
            is_time = all(seconds >= 0 for seconds in values.get("seconds", {}).values())
            scored = values.get("frozen", 0)
        except (ValueError, AttributeError, TypeError):
            is_time, scored = False, 0
        if not is_time or scored not in (0, len(self.base_samples)):
            self.faults.add("rounds", str(round), "its metrics are no seconds by node, or of other samples")
            return
        for group in in_groups(self.base_samples[:scored], SAMPLES_AT_ONCE):
            pairs = self.lineage.pool_pairs(0, group) | self.lineage.pool_pairs(round, group)
            needed = itertools.product(pairs, TERMS)
            self._want_scores(needed, self.lineage.scores([*pairs], "s0"), "s0")

    def _check_adapters(self, found: Iterable[str]) -> None:
        """A student's adapter is what was trained; any other adapter is of a round under way."""
        under_way = itertools.product(self.rounds.keys() - self.students.keys(), (None, *HALVES))
        known = {self.folder.adapter(round, half).name for round, half in under_way}
        for student in checks.rows(self.lineage, "students"):
            if student["round"] == 0:
                continue
            hashes: dict[Half | None, str | None] = {None: student["adapter_hash"]}
            with suppress(ValueError, AttributeError, TypeError):  # its seal tells
                hashes |= dict(zip(HALVES, json.loads(student["metrics"]).get("halves", ()), strict=False))
            for half, hash in hashes.items():
                if hash is None:  # of a half that had no pair
                    continue
                adapter = self.folder.adapter(student["round"], half)
                known.add(adapter.name)
                self.faults.checked["adapters"] += 1
                try:
                    check_adapter(adapter, hash, student["id"])
                except AdapterError as error:
                    self.faults.add("adapters", adapter.name, str(error))
        for name in set(found) - known:
            self.faults.add("adapters", name, "belongs to no student")

    def _check_verdicts(self) -> None:
        """What a judge's call says must be what became of it."""
        for row in find_misread(self.lineage, checks.rows(self.lineage, "judge_calls")):
            fault = "its status or verdict is not what its text says"
            self._add_derived("judge_calls", checks.name_row("judge_calls", row), fault)

    def _check_evaluations(self) -> None:
        """What any round has, all have that are measured; but a checker may know nothing of an answer."""
        if not self.lineage.samples()["holdout"]:
            return
        always = {"nll"} | (set().union(*self.measures.values()) & {"response_tokens"})
        for round, row in self.rounds.items():
            measured = self.measures.get(round, {})
            if row["status"] == "finished" and (measured or is_due(self.config, round, row["stop_reason"])):
                missing = always - measured.keys()
                for name in missing - {"nll"} if self._can_score_nothing(round) else missing:
                    self.faults.add("evaluations", f"{round}/{name}", "is missing")
            if measured and round in self.students:
                self._check_measures(round, measured)

    def _can_score_nothing(self, round: int) -> bool:
        scored = {score.status for score in self.lineage.held_out_scores(self.students.get(round, ""))}
        return bool(scored) and "ok" not in scored

    def _check_measures(self, round: int, measured: Mapping[str, Evaluation]) -> None:
        """What is stored of each held-out pair comes to the measures; earlier versions stored nothing."""
        derived = {
            item.name: item for item in derive_measures(self.lineage, self.config, self.students[round])
        }
        for name in derived and derived.keys() | measured.keys():
            found, wanted = measured.get(name), derived.get(name)
            if found is None or wanted is None or checks.differences(found, wanted):
                fault = "is not what the scores, answers and verdicts of its held-out pairs come to"
                self.faults.add("evaluations", f"{round}/{name}", fault)

    def _check_alarms(self) -> None:
        """Figures follow from pools, scores and measures; what earlier versions measured has none."""
        stored: dict[int, dict[str, float]] = {}
        for row in checks.rows(self.lineage, "alarms"):
            stored.setdefault(row["round"], {})[row["name"]] = row["value"]
        for round, row in self.rounds.items():
            if round < min(stored, default=self.last + 1) or row["status"] != "finished":
                continue
            found = stored.get(round, {})
            if not found and not is_due(self.config, round, row["stop_reason"]):
                continue
            wanted = derive_figures(self.lineage, self.config, round)
            for name in found.keys() | wanted.keys():
                value, want = found.get(name, math.nan), wanted.get(name, math.nan)
                if not math.isclose(value, want, rel_tol=1e-12):
                    self._add_derived("alarms", f"{round}/{name}", f"value is {value}, want {want}")

    def _check_stop(self) -> None:
        """Why the loop ended after the last round, or did not; it may not know the newest config yet."""
        row = self.rounds.get(self.last)
        if row is None or self.last == 0 or row["status"] != "finished":
            return
        reasons = [why_stop(self.lineage, config, self.last, self.measures) for config in self.configs]
        if row["stop_reason"] not in reasons:
            fault = f"has the stop_reason {row['stop_reason']}, want {reasons[0]}"
            self._add_derived("rounds", str(self.last), fault)


def _is_as_answered(row: dict[str, Any], answer: Proposal | str, proposed: Pair | None) -> bool:
    """Whether a call came to what its text says; of a proposal that is missing its row is told otherwise."""
    if row["status"] in ANSWERLESS:
        return True
    if isinstance(answer, str):
        return bool(row["status"] == answer and row["critique"] is None)
    return (row["status"], row["critique"], proposed or answer.pair) == ("ok", answer.critique, answer.pair)


def _decision_fault(stored: Decision | None, expected: Decision, *, is_compared: bool) -> str | None:
    """Why a decision is not the one that its scores lead to."""
    if stored is None:
        return "is missing"
    found = checks.differences(stored, expected)
    if not is_compared:  # a value may have become known later
        found = {name: fault for name, fault in found.items() if getattr(stored, name) is not None}
    return ", ".join(found.values()) or None
