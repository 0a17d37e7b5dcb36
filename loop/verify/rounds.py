"""Rounds, students with their adapters, training sets and held-out measures, each checked against what it
follows from.

When a round began and ended, and the seconds it took, follow from nothing: they may be any times.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from reflectune.agents.student.adapters import hash_adapter
from reflectune.loop.selection import choose_training_set
from reflectune.loop.stopping import is_spent, stop_reason
from reflectune.loop.verify.findings import Findings
from reflectune.loop.verify.sample import Basis
from reflectune.state.config import RunConfig, parse_config
from reflectune.state.errors import AdapterError, ConfigError
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.ledger import Ledger, Row
from reflectune.state.records import PHASES, Phase

__all__ = ["RoundsCheck", "undo_change"]

# As `loop.stopping` gives them.
_STOP_REASONS = (
    "no-proposals", "nothing-accepted", "min-acceptance", "max-drop", "patience", "rounds", "budget",
)  # fmt: skip


class RoundsCheck:
    """What a lineage has about its rounds, and whether it fits.

    Attributes:
        rounds: the rows of the rounds.
        last: the last round that was begun.
    """

    def __init__(self, folder: RunFolder, ledger: Ledger, findings: Findings) -> None:
        self.folder, self.ledger, self.findings = folder, ledger, findings
        self.rounds = {row["round"]: row for row in ledger.rows("rounds")}
        self.students = {row["id"]: row for row in ledger.rows("students")}
        self.training_sets = ledger.training_sets()
        # Whatever number a row has been given: so many rounds were begun, and one row may be missing.
        self.last = min(max(self.rounds, default=0), len(self.rounds))

    def check(self, basis: Basis, adapters: list[str]) -> None:
        """Check everything but single samples. `adapters` are the names of the folders of finished ones."""
        self._check_rounds(basis)
        for student in self.students.values():
            self._check_student(student, basis)
        self._check_adapters(adapters)
        self._check_training_sets(basis)
        self._check_evaluations(basis)
        self._check_stop(basis)

    def students_by_round(self) -> dict[int, str]:
        """The student that each round must end with: its own, or where it has none the one before."""
        ends: dict[int, str] = {}
        for round, row in sorted(self.rounds.items()):
            own = f"s{round}"
            if own in self.students or row["student_id"] == own:
                ends[round] = own
            elif row["student_id"] is not None and round - 1 in ends:
                ends[round] = ends[round - 1]
        return ends

    def first_unfinished(self) -> tuple[int, Phase]:
        """The phase under way; one of a round that was not begun where all are finished."""
        last = self.last
        is_chosen = last in self.training_sets or self.rounds.get(last, {}).get("student_id") is not None
        if is_chosen or last == 0:
            return last + 1, PHASES[0]
        return last, PHASES[-1] if (last, PHASES[-1]) in self.ledger.phases_begun() else PHASES[0]

    def frozen_rounds(self, samples: int) -> frozenset[int]:
        """Rounds that say that s[0] has scored so many samples of their pool."""
        rounds = self.rounds.items()
        return frozenset(round for round, row in rounds if _read_metrics(row).get("frozen") == samples)

    def _check_rounds(self, basis: Basis) -> None:
        followed = self.rounds.keys() - {max(self.rounds, default=0)}
        for round in {0, *(round + 1 for round in followed)} - self.rounds.keys():
            self.findings.add("rounds", str(round), "is missing")  # the first of each gap
        for round, row in self.rounds.items():
            self.findings.look_at("rounds", row)
            if fault := self._round_fault(row, is_last=round == basis.rounds, basis=basis):
                self.findings.add("rounds", str(round), fault)

    def _round_fault(self, row: Row, *, is_last: bool, basis: Basis) -> str | None:
        wanted = basis.students.get(row["round"])
        if row["student_id"] != wanted:
            return f"ends with student {row['student_id']}, want {wanted}"
        is_finished = row["status"] == "finished"
        if is_finished != (row["finished_at"] is not None):
            return f"is {row['status']}, and finished_at is {row['finished_at']}"
        if is_finished and row["student_id"] is None:
            return "is finished without a student"
        if not is_last and not is_finished:
            return "is not finished, though a later round has begun"
        if row["stop_reason"] is not None and not (is_last and is_finished):
            return f"has the stop_reason {row['stop_reason']}, though the loop went on"
        if row["stop_reason"] not in (None, *_STOP_REASONS):
            return f"has the stop_reason {row['stop_reason']!r}"
        frozen = _read_metrics(row).get("frozen", 0)
        if frozen not in (0, len(basis.frozen)) and not self.findings.has_any("samples"):
            return f"says that s0 has scored {frozen} of its pairs, want {len(basis.frozen)}"
        return _metrics_fault(row["metrics"])

    def _check_student(self, row: Row, basis: Basis) -> None:
        """A student's row, and its adapter on disk."""
        id, round = row["id"], row["round"]
        if not self.findings.look_at("students", row):
            return
        adapter = f"adapters/round-{round:02d}" if round else None
        config, before = basis.config, basis.students.get(round - 1)
        goes_on = config.refinetune.start_from == "previous" and before != "s0"
        wanted = {
            "id": f"s{round}",
            "base_model": config.student.model,
            "base_revision": config.student.revision,
            "adapter": adapter,
            "parent_id": (before if goes_on else "s0") if round else None,
        }
        wrong = [f"{key} is {row[key]}, want {value}" for key, value in wanted.items() if row[key] != value]
        if wrong:
            self.findings.add("students", id, ", ".join(wrong))
        elif adapter is not None:
            self.findings.checked["adapters"] += 1
            try:
                found = hash_adapter(self.folder.path / adapter)
            except AdapterError as error:
                self.findings.add("adapters", Path(adapter).name, str(error))
                return
            if found != row["adapter_hash"]:
                self.findings.add(
                    "adapters",
                    Path(adapter).name,
                    f"is not what {id} was: {found}, not {row['adapter_hash']}",
                )

    def _check_adapters(self, names: list[str]) -> None:
        known = {Path(row["adapter"]).name for row in self.students.values() if row["adapter"]}
        known |= {
            self.folder.adapter(round).name
            for round, row in self.rounds.items()
            if row["student_id"] is None or row["student_id"] == f"s{round}"
        }
        for name in names:
            if name not in known:
                self.findings.add("adapters", name, "belongs to no student")

    # Training and evaluation

    def _check_training_sets(self, basis: Basis) -> None:
        """Training sets chosen again from the pool and its scores."""
        for round in self.training_sets.keys() - self.rounds.keys():
            for version in self.training_sets[round]:
                self.findings.add("training_sets", f"{round}/{version}", "is of a round that was never begun")
        chosen = [
            round
            for round in sorted(self.rounds)
            if round and (round in self.training_sets or self.rounds[round]["student_id"] is not None)
        ]
        self.findings.checked["training_sets"] += sum(map(len, self.training_sets.values()))
        if chosen and self.findings.has_any("samples", "scores", "decisions", "rounds"):
            self.findings.notes.append(
                "training sets were not chosen again: rows that they rest on are at fault"
            )
            return
        originals = self.ledger.store.original_ids()
        for round in chosen:
            expected = choose_training_set(
                self.ledger.store.scored_pool(round, basis.students[round - 1]),
                originals,
                selection=basis.config.selection,
                anchor=basis.config.refinetune.anchor,
                round=round,
                seed=basis.config.seed,
            )
            wanted = {version: rank for rank, version in enumerate(expected)}
            stored = self.training_sets.get(round, {})
            for version in wanted.keys() | stored.keys():
                rank, right = stored.get(version), wanted.get(version)
                if rank != right:
                    fault = "must not be trained on" if right is None else f"its rank is {rank}, want {right}"
                    self.findings.add("training_sets", f"{round}/{version}", fault)

    def _check_evaluations(self, basis: Basis) -> None:
        holdout = self.ledger.store.samples()["holdout"]
        names: dict[int, set[str]] = {}
        for row in self.ledger.rows("evaluations"):
            names.setdefault(row["round"], set()).add(row["name"])
            if self.findings.look_at("evaluations", row) and (
                fault := self._measure_fault(row, basis, holdout)
            ):
                self.findings.add("evaluations", f"{row['round']}/{row['name']}", fault)
        # What any round has, all have; but a checker may know nothing of a round's answers.
        always = {"nll"} | (set().union(*names.values()) & {"response_tokens"})
        for round, row in self.rounds.items():
            is_due = round % basis.config.evaluate.every == 0 or row["stop_reason"] is not None
            if holdout and row["status"] == "finished" and (is_due or round in names):
                for name in sorted(always - names.get(round, set())):
                    self.findings.add("evaluations", f"{round}/{name}", "is missing")

    def _measure_fault(self, row: Row, basis: Basis, holdout: int) -> str | None:
        wanted = basis.students.get(row["round"])
        if row["student_id"] != wanted:
            return f"is of student {row['student_id']}, want {wanted}"
        if not 1 <= row["n"] <= holdout and not self.findings.has_any("samples"):
            return f"is over {row['n']} pairs, and {holdout} are held out"
        low, value, high = row["low"], row["value"], row["high"]
        if (low is None) != (high is None) or (low is None) != (row["n"] < 2):
            return f"its bounds are {low} and {high} over {row['n']} pairs"
        if low is not None and not low <= value <= high:
            return f"{value} is not between {low} and {high}"
        return None

    # The end

    def _check_stop(self, basis: Basis) -> None:
        """Why the loop ended after the last round, or did not, found again from the rows of that round."""
        row = self.rounds.get(basis.rounds)
        if row is None or row["round"] == 0 or row["status"] != "finished":
            return
        if self.findings.has_any(
            "rounds", "samples", "versions", "teacher_calls", "decisions", "evaluations", "config_changes"
        ):
            self.findings.notes.append(
                "it was not found again why the loop stopped: rows that it rests on are at fault"
            )
            return
        reasons = [self._find_stop_reason(config, row["round"]) for config in self._configs(basis.config)]
        if row["stop_reason"] in reasons:
            return
        fault = f"has the stop_reason {row['stop_reason']}, want {reasons[0]}"
        if basis.reads_alike:
            self.findings.add("rounds", str(row["round"]), fault)
        else:
            self.findings.notes.append(
                f"round {row['round']} {fault} by this version of Reflectune, which did not begin the run"
            )

    def _configs(self, config: RunConfig) -> list[RunConfig]:
        """The config as it is, and as it was before each change: a run may not have gone on with one yet."""
        configs, values = [config], config.model_dump(mode="json")
        for change in reversed(list(self.ledger.rows("config_changes"))):
            undo_change(values, change)
            with suppress(ConfigError):  # halfway through a change of several keys
                configs.append(parse_config(values, source="an earlier config"))
        return configs

    def _find_stop_reason(self, config: RunConfig, round: int) -> str | None:
        """As `loop.nodes.why_stop` finds it."""
        store, teacher = self.ledger.store, config.teacher
        is_capped = teacher.budget_tokens is not None or teacher.budget_usd is not None
        asked = store.samples()["train"] - store.count_frozen(round, teacher.freeze_after)
        return stop_reason(
            config,
            round,
            proposals=store.count_proposals(round),
            accepted=store.count_decisions(round, reason="accepted"),
            measures=store.held_out_measures(),
            cut=any(
                store.count_settled(round, phase, attempts=teacher.attempts).total()
                < asked * teacher.candidates
                for phase in PHASES
            ),
            spent=is_capped and is_spent(teacher, store.spending()),
        )


def undo_change(values: dict[str, Any], change: Row) -> None:
    """Put a key of a config back to what it was before a change."""
    *sections, key = change["key"].split(".")
    for name in sections:
        values = values[name]
    values[key] = json.loads(change["before"])


def _read_metrics(row: Row) -> dict[str, Any]:
    with suppress(ValueError):
        metrics = json.loads(row["metrics"])
        return metrics if isinstance(metrics, dict) else {}
    return {}


def _metrics_fault(text: str) -> str | None:
    """Why this cannot be what a round took, in seconds by node; None where it can."""
    try:
        metrics = json.loads(text)
    except ValueError as error:
        return f"its metrics cannot be read: {error}"
    seconds = metrics.get("seconds", {}) if isinstance(metrics, dict) else None
    if not isinstance(seconds, dict) or not all(isinstance(value, int | float) for value in seconds.values()):
        return f"its metrics are {text}, want seconds by node"
    return None if all(value >= 0 for value in seconds.values()) else "has negative seconds"
