"""`reflectune verify`: a whole run checked against itself; every row that does not fit is named.

Reads one state of the lineage while a run may go on, opens no model, and changes nothing. What is half done
is no fault.
"""

import importlib.metadata
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from reflectune.agents.teacher.prompts import open_prompts
from reflectune.loop.graph import hash_graph
from reflectune.loop.verify.findings import Findings
from reflectune.loop.verify.rounds import RoundsCheck, undo_change
from reflectune.loop.verify.sample import Basis, verify_sample
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
from reflectune.state.lineage.ledger import Ledger, Row
from reflectune.state.records import Pair, Sample, content_hash
from reflectune.state.text import one_line

__all__ = ["describe", "verify_run"]

_NO_PAIR = Pair("", "", "")
_STATUSES = ("running", "interrupted", "budget", "failed", "finished")
_BUDGET = ("teacher.budget_tokens", "teacher.budget_usd")
_UNREADABLE = object()


def verify_run(folder: RunFolder) -> dict[str, Any]:
    """Check everything about a run, as `verify --json` prints it.

    Files that a run writes before its lineage says so are read before the lineage, so that a run that goes on
    meanwhile is never ahead of it.

    Raises:
        StoreError: no lineage database, or one made by a newer version.
    """
    findings = Findings()
    adapters = _list_adapters(folder)
    with Ledger.open(folder.lineage) as ledger:
        try:
            _Verification(folder, ledger, findings).verify(adapters)
        except sqlite3.DatabaseError as error:
            findings.add("lineage.db", "", f"cannot be read on: {error}")
    return findings.document(folder.path.name)


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


class _Verification:
    def __init__(self, folder: RunFolder, ledger: Ledger, findings: Findings) -> None:
        self.folder, self.ledger, self.findings = folder, ledger, findings
        self.rounds_check = RoundsCheck(folder, ledger, findings)
        self.rounds = self.rounds_check.rounds

    def verify(self, adapters: list[str]) -> None:
        findings, ledger = self.findings, self.ledger
        for text in ledger.damage():
            findings.add("lineage.db", "", text)
        for table, row, fault in ledger.dangling():
            findings.add(table, row, fault)
        for table, row, fault in ledger.schema_faults():
            findings.add(table, row, fault)
        # These rows were written when the run began.
        first = (row for table in ("runs", "samples") for row in ledger.rows(table))
        findings.wants_seals = any(row.get("seal") is not None for row in first)
        config = self._check_run()
        if config is not None:
            self._derive(config, adapters)
        # Last: a round whose stop_reason is at fault is not the fault of the run.
        self._check_end()

    def _derive(self, config: RunConfig, adapters: list[str]) -> None:
        """Derive everything again that follows from the config."""
        findings, ledger = self.findings, self.ledger
        frozen = frozenset(ledger.store.choose_samples(config.evaluate.base_samples, config.seed))
        basis = Basis(
            config=config,
            prompts=None,
            students=self.rounds_check.students_by_round(),
            rounds=self.rounds_check.last,
            unfinished=self.rounds_check.first_unfinished(),
            asks_all=self._asks_all(config),
            reads_alike=self._reads_alike(),
            frozen=frozen,
            frozen_rounds=self.rounds_check.frozen_rounds(len(frozen)),
        )
        try:
            prompts = config.teacher.prompts
            basis.prompts = open_prompts(None if prompts is None else Path(prompts))
        except ConfigError as error:
            findings.notes.append(f"the teacher's answers were not read again: {error}")
        for sample in ledger.samples():
            verify_sample(basis, sample, findings)
        if basis.other_words:
            findings.notes.append(
                f"{basis.other_words} teacher calls were asked with other words than the prompts have now; "
                "their answers were not read again"
            )
        if basis.other_readings:
            findings.notes.append(
                f"{basis.other_readings} answers are read otherwise by this version of Reflectune "
                "than by the one that began the run"
            )
        self.rounds_check.check(basis, adapters)

    # The run and its config

    def _check_run(self) -> RunConfig | None:
        """The run's config; None where it is none, and nothing can be derived."""
        findings = self.findings
        rows = list(self.ledger.rows("runs"))
        if len(rows) != 1:
            findings.add("runs", "", f"has {len(rows)} rows, want 1")
            return None
        run = rows[0]
        name = run["name"]
        is_sound = findings.look_at("runs", run)
        try:
            values = json.loads(run["config"])
            config = parse_config(upgrade_config(values), source="its config")
        except (ValueError, ConfigError) as error:
            findings.add("runs", name, f"its config cannot be read: {error}")
            return None
        if content_hash(values) != run["config_hash"]:
            findings.add("runs", name, "its config is not what its config_hash is of")
            written = self._config_of_file(config, run["config_hash"])
            if written is None:
                return None
            config = written
        if (config.name, config.seed) != (name, run["seed"]):
            findings.add("runs", name, "its name and seed are not those of its config")
        samples = [Sample(id, at, "train", _NO_PAIR, {}) for id, at in self.ledger.sample_ids()]
        if is_sound and dataset_hash(samples) != run["data_hash"]:
            findings.add("runs", name, "its data_hash is not that of its samples")
        if is_sound and self._versions().get("graph") != hash_graph():
            findings.add("runs", name, "was begun by a version of Reflectune whose machine has other nodes")
        self._check_changes(config)
        self._check_begun(values)
        if not findings.has("runs", name):
            self._check_config_file(config)
        return config

    def _versions(self) -> dict[str, str]:
        """Versions of libraries and machine that began the run; none where they cannot be read."""
        with suppress(ValueError, TypeError):
            return self.ledger.store.versions()
        return {}

    def _config_of_file(self, config: RunConfig, config_hash: str) -> RunConfig | None:
        """What config.toml says, if that settles whether a run's config or its hash was changed."""
        with suppress(ReflectuneError):
            written = load_begun_config(self.folder.config)
            if written == config or written.content_hash() == config_hash:
                return written
        self.findings.notes.append("nothing was derived again: it is not known by which config")
        return None

    def _check_end(self) -> None:
        """A run that has ended says why, in its last round."""
        last = self.rounds[max(self.rounds)] if self.rounds else {"round": 0, "stop_reason": None}
        rows = list(self.ledger.rows("runs"))
        if len(rows) != 1 or self.findings.has("rounds", str(last["round"])):
            return
        (run,) = rows
        is_ended = run["status"] in ("budget", "finished")
        if run["status"] not in _STATUSES:
            self.findings.add("runs", run["name"], f"has the status {run['status']!r}")
        elif is_ended and last["stop_reason"] is None:
            self.findings.add(
                "runs", run["name"], f"is {run['status']}, but its last round has no stop_reason"
            )
        elif is_ended and (run["status"] == "budget") != (last["stop_reason"] == "budget"):
            self.findings.add(
                "runs", run["name"], f"is {run['status']}, but its last round says {last['stop_reason']}"
            )

    def _check_changes(self, config: RunConfig) -> None:
        """What a key was changed to is what it was before the next change, and what it is now."""
        now = flatten(config.model_dump(mode="json"))
        last: dict[str, Row] = {}
        for row in self.ledger.rows("config_changes"):
            is_sound = self.findings.look_at("config_changes", row)
            before = last.get(row["key"])
            if is_sound and before is not None and before["after"] != row["before"]:
                self.findings.add(
                    "config_changes", str(row["rowid"]), f"begins at {row['before']}, not {before['after']}"
                )
            elif is_sound and _read_json(row["before"]) is _UNREADABLE:
                self.findings.add("config_changes", str(row["rowid"]), "its before cannot be read")
            last[row["key"]] = row
        for key, row in last.items():
            if self.findings.has("config_changes", str(row["rowid"])):
                continue
            if key not in now or _read_json(row["after"]) != now[key]:
                self.findings.add(
                    "config_changes", str(row["rowid"]), f"is the last of {key}, and not what it is now"
                )

    def _check_begun(self, values: dict[str, Any]) -> None:
        """Undoing every change of the config leads to what the run began with: no change is missing."""
        begun = self._versions().get("config")  # a run that began before this was kept has none
        if begun is None or self.findings.has_any("runs", "config_changes"):
            return
        for row in reversed(list(self.ledger.rows("config_changes"))):
            undo_change(values, row)
        # Another version of Reflectune that changed a key has given newer ones their defaults.
        if content_hash(values) != begun and self._reads_alike():
            self.findings.add("config_changes", "", "lacks changes: the run began with another config")

    def _reads_alike(self) -> bool:
        """Whether this version of Reflectune began the run."""
        return self._versions().get("reflectune") == importlib.metadata.version("reflectune")

    def _check_config_file(self, config: RunConfig) -> None:
        if not self.folder.config.exists():
            self.findings.add("config.toml", "", "is missing; `reflectune resume` writes it anew")
            return
        try:
            written = flatten(load_begun_config(self.folder.config).model_dump(mode="json"))
        except ReflectuneError as error:
            self.findings.add("config.toml", "", f"cannot be used: {error}")
            return
        stored = flatten(config.model_dump(mode="json"))
        differing = [key for key in stored if stored[key] != written[key]]
        if set(differing) <= set(CHANGEABLE) and self.folder.is_locked():
            return  # another process is just changing both
        for key in differing:
            self.findings.add("config.toml", key, f"is {written[key]!r}, the run has {stored[key]!r}")

    def _asks_all(self, config: RunConfig) -> bool:
        """Whether every reflection was asked to its end: there has never been a budget."""
        has_budget = config.teacher.budget_tokens is not None or config.teacher.budget_usd is not None
        return not has_budget and all(row["key"] not in _BUDGET for row in self.ledger.rows("config_changes"))


def _read_json(text: str) -> object:
    """What a text says as JSON; `_UNREADABLE` where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return _UNREADABLE


def _list_adapters(folder: RunFolder) -> list[str]:
    """What lies among the adapters, but for hidden folders of work under way."""
    adapters = folder.path / "adapters"
    if not adapters.is_dir():
        return []
    return sorted(path.name for path in adapters.iterdir() if not path.name.startswith("."))
