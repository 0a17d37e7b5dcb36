"""Runs as they are verify clean; whatever is changed in one is named by table and row."""

import json
import random
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database

from reflectune.loop.progress import open_display
from reflectune.loop.run import change_run, create_run, run_loop
from reflectune.loop.signals import Interrupted
from reflectune.loop.verify import describe, verify_run
from reflectune.state.config import load_config
from reflectune.state.errors import StoreError
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.schema import migrations
from reflectune.state.lineage.seals import SEALED
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import Pair, Version
from tests.lineages import call
from tests.worlds import child_environment, command, invoke, write_world

pytestmark = pytest.mark.slow

Rows = set[tuple[str, str]]

# A row's name in SQL, as verify names it.
_NAMES = {
    "scores": "version_id || '/' || student_id || '/' || term",
    "decisions": "round || '/' || phase || '/' || sample_id",
    "training_sets": "round || '/' || version_id",
    "evaluations": "round || '/' || name",
    "rounds": "CAST(round AS TEXT)",
    "runs": "name",
    "config_changes": "CAST(rowid AS TEXT)",
    "_sqlite_migrations": "name",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run, of one round at first and of another when that was allowed."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, samples=30)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert invoke("run", "config.toml", "--set", "rounds=1") == 0
        assert invoke("resume", "tiny", "--set", "rounds=2") == 0
    return RunFolder(folder / "runs/tiny")


@pytest.fixture
def run(world: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of the run, to be tampered with."""
    shutil.copytree(world.path, tmp_path / "tiny")
    return RunFolder(tmp_path / "tiny")


def open_lineage(run: RunFolder) -> "closing[sqlite3.Connection]":
    """A connection that lets one do anything."""
    connection = sqlite3.connect(run.lineage, isolation_level=None)
    connection.execute("PRAGMA ignore_check_constraints = ON")
    return closing(connection)


def faults(run: RunFolder) -> Rows:
    document = verify_run(run)
    assert len(list(describe(document))) > len(document["faults"])
    return {(fault["table"], fault["row"]) for fault in document["faults"]}


# Runs as they are


def test_verify_finds_a_finished_run_whole_and_counts_its_rows(world: RunFolder) -> None:
    document = verify_run(world)
    assert document["faults"] == []
    assert document["notes"] == []
    assert document["unsealed"] == 0
    with open_lineage(world) as lineage:
        tables = {"versions", "scores", "decisions", "teacher_calls", "training_sets", *SEALED}
        counts = {t: lineage.execute(f"SELECT COUNT(*) FROM {t}").fetchone()[0] for t in tables}
    assert {table: document["checked"][table] for table in tables} == counts
    assert (document["checked"]["adapters"], document["checked"]["config_changes"]) == (2, 1)


def test_verify_finds_a_run_whole_wherever_it_stops(tmp_path: Path) -> None:
    config = load_config(write_world(tmp_path / "world", samples=40, refinetune={"epochs": 1}))
    run = create_run(config, tmp_path / "runs")
    assert faults(run) == set()
    stops, draw = 0, random.Random(0)
    while True:
        asked = iter(range(draw.randrange(4, 24)))  # so often the run may ask whether to stop
        try:
            run_loop(run, open_display(), lambda asked=asked: next(asked, None) is None)  # type: ignore[misc]
        except Interrupted:
            stops += 1
            assert verify_run(run)["faults"] == []
        else:
            break
        assert stops < 200
    assert stops > 10
    assert faults(run) == set()


def test_verify_finds_a_run_whole_while_it_goes_on(tmp_path: Path) -> None:
    write_world(tmp_path, samples=60)
    run = RunFolder(tmp_path / "runs/tiny")
    looks = 0
    with subprocess.Popen(
        command("run", "config.toml"),
        cwd=tmp_path,
        env=child_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None:
            if run.lineage.exists():
                assert verify_run(run)["faults"] == []
                looks += 1
            time.sleep(0.02)
    assert process.returncode == 0
    assert looks > 5
    assert verify_run(run)["faults"] == []


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that asks for two candidates, again where there was no answer, and leaves refused pairs alone."""
    folder = tmp_path_factory.mktemp("patient")
    config = write_world(
        folder,
        samples=40,
        teacher={"candidates": 2, "freeze_after": 1},
        refinetune={"start_from": "previous", "anchor": 0.3, "epochs": 1},
        selection={"top_fraction": 0.5},
        data={"path": "data.json", "holdout": 0},
    )
    entries = [json.loads(line) for line in (folder / "teacher.jsonl").read_text().splitlines()]
    again = [entry | {"new_response": f"Or else: {entry['new_response']}"} for entry in entries]
    (folder / "teacher.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries + again))
    run = create_run(load_config(config, ["name=patient"]), folder / "runs")
    run_loop(run, open_display())
    return run


def test_verify_finds_a_run_whole_that_is_ended_where_it_was_to_go_on(tmp_path: Path) -> None:
    config = write_world(tmp_path, samples=16, evaluate={"every": 2}, refinetune={"epochs": 1})
    run = create_run(load_config(config, ["rounds=3"]), tmp_path / "runs")

    def is_between_rounds() -> bool:
        with LineageWriter.open(run.lineage) as store:
            return store.is_round_finished(1) and store.newest_round() == 1

    with pytest.raises(Interrupted):
        run_loop(run, open_display(), is_between_rounds)
    assert faults(run) == set()
    change_run(run, ["rounds=1"])
    assert run_loop(run, open_display()) == "rounds"
    assert faults(run) == set()
    with open_lineage(run) as lineage:
        measured = lineage.execute("SELECT DISTINCT round FROM evaluations").fetchall()
        (frozen,) = lineage.execute(
            "SELECT json_extract(metrics, '$.frozen') FROM rounds WHERE round = 1"
        ).fetchone()
    assert (measured, frozen) == ([(0,), (1,)], 10)


def test_verify_finds_a_run_with_candidates_and_patience_whole(patient: RunFolder) -> None:
    with open_lineage(patient) as lineage:
        (frozen,) = lineage.execute("SELECT COUNT(*) FROM decisions WHERE reason = 'frozen'").fetchone()
        (second,) = lineage.execute("SELECT COUNT(*) FROM versions WHERE candidate = 1").fetchone()
    assert frozen > 0
    assert second > 0
    assert verify_run(patient)["faults"] == []


@pytest.mark.parametrize(
    "selection",
    [
        {"policy": "ifd", "ifd_cap": 1.0, "keep": "all"},
        {"policy": "longest", "margin": 0.05},
        {"policy": "random"},
        {"policy": "accept-all"},
    ],
    ids=lambda selection: selection["policy"],
)
def test_verify_finds_runs_of_every_policy_whole(selection: dict[str, object], tmp_path: Path) -> None:
    config = write_world(
        tmp_path,
        samples=16,
        selection=selection,
        data={"holdout": 2},
        # So short that some targets have nothing left, and cannot be scored.
        student={"max_length": 70},
        refinetune={"epochs": 1},
    )
    run = create_run(load_config(config), tmp_path / "runs")
    run_loop(run, open_display())
    with open_lineage(run) as lineage:
        (unscorable,) = lineage.execute("SELECT COUNT(*) FROM scores WHERE status <> 'ok'").fetchone()
    assert unscorable > 0
    assert verify_run(run)["faults"] == []


def test_verify_names_what_does_not_fit_a_pair_that_is_left_alone(patient: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(patient.path, tmp_path / "patient")))
    with open_lineage(run) as lineage:
        frozen, sample = lineage.execute(
            f"SELECT {_NAMES['decisions']}, sample_id FROM decisions "
            "WHERE reason = 'frozen' AND phase = 'response'"
        ).fetchone()
        lineage.execute(
            f"UPDATE decisions SET reason = 'no-candidate' WHERE {_NAMES['decisions']} = ?", [frozen]
        )
    asked = call(sample, int(frozen[0]), "instruction", status="no-entry")
    with LineageWriter.open(run.lineage) as store:
        store.add_reflections([asked], [])
    assert faults(run) == {("decisions", frozen), ("teacher_calls", asked.id)}


def test_verify_names_what_a_held_out_sample_must_not_have(run: RunFolder) -> None:
    with open_lineage(run) as lineage:
        (sample,) = lineage.execute("SELECT id FROM samples WHERE split = 'holdout'").fetchone()
    asked = call(sample, 1, "instruction", status="no-entry")
    with LineageWriter.open(run.lineage) as store:
        store.add_reflections([asked], [])
    assert faults(run) == {("teacher_calls", asked.id)}


def test_verify_names_calls_that_go_on_after_an_answer(run: RunFolder) -> None:
    with open_lineage(run) as lineage:
        (sample,) = lineage.execute("SELECT sample_id FROM teacher_calls WHERE status = 'ok'").fetchone()
    asked = call(sample, 1, "instruction", attempt=2, status="no-entry")
    with LineageWriter.open(run.lineage) as store:
        store.add_reflections([asked], [])
    assert faults(run) == {("teacher_calls", asked.id)}


# Tampering


@dataclass(frozen=True)
class Tampering:
    """A change of one row, and what verify must say.

    `where` picks the row, which `change` calls :row; `also` are further rows that must be named, as tables
    and queries for names that may use :row. They are asked before the change.
    """

    table: str
    where: str
    change: str
    also: tuple[tuple[str, str], ...] = ()
    is_named: bool = True  # whether the row itself is


def name_of(table: str) -> str:
    return _NAMES.get(table, "id")


def update(table: str, column: str, value: str, where: str = "1", *also: tuple[str, str]) -> Tampering:
    change = f"UPDATE {table} SET {column} = {value} WHERE {name_of(table)} = :row"
    return Tampering(table, where, change, also)


def delete(table: str, where: str = "1", *also: tuple[str, str]) -> Tampering:
    return Tampering(table, where, f"DELETE FROM {table} WHERE {name_of(table)} = :row", also)


def unnamed(table: str, where: str, *also: tuple[str, str]) -> Tampering:
    """A deleted version is known by its call, which has no proposal."""
    call = ("teacher_calls", "SELECT teacher_call_id FROM versions WHERE id = :row")
    return replace(delete(table, where, call, *also), is_named=False)


_REFUSED = "id IN (SELECT challenger_id FROM decisions WHERE reason = 'refused' AND round = 1)"
_PARENT = "id IN (SELECT parent_id FROM versions WHERE round = 2) AND round = 1"
_WINNING = (
    "student_id = 's0' AND version_id IN (SELECT winner_id FROM decisions WHERE reason = 'accepted' "
    "AND round = 1 AND phase = 'response')"
)
_LOSING = (
    "version_id IN (SELECT challenger_id FROM decisions WHERE reason = 'refused' AND round = 1 "
    "AND phase = 'instruction')"
)
_ACCEPTED = "reason = 'accepted' AND round = 1"
_SCORES_OF_VERSION = ("scores", f"SELECT {_NAMES['scores']} FROM scores WHERE version_id = :row")

TAMPERINGS: dict[str, Tampering] = {
    "version-text": update("versions", "response", "response || '!'", _PARENT),
    "version-text-of-a-loser": update("versions", "response", "'I win'", _REFUSED),
    "version-given-instruction": update("versions", "instruction", "'Do'", "phase = 'original'"),
    "version-given-text-held-out": update(
        "versions",
        "response",
        "'Thing'",
        "phase = 'original' AND sample_id IN (SELECT id FROM samples WHERE split = 'holdout')",
    ),
    "version-parent": update(
        "versions",
        "parent_id",
        "(SELECT id FROM versions AS other WHERE phase = 'original' "
        "AND other.sample_id <> versions.sample_id)",
        "round = 1 AND phase = 'instruction'",
    ),
    "version-call-of-another": update(
        "versions",
        "teacher_call_id",
        "(SELECT id FROM teacher_calls WHERE teacher_calls.sample_id <> versions.sample_id)",
        "round = 1",
    ),
    "version-without-call": update("versions", "teacher_call_id", "NULL", "round = 2"),
    "version-candidate": update("versions", "candidate", "5", "round = 1 AND phase = 'response'"),
    "version-deleted": unnamed(
        "versions",
        _REFUSED,
        _SCORES_OF_VERSION,
        ("decisions", f"SELECT {_NAMES['decisions']} FROM decisions WHERE challenger_id = :row"),
    ),
    "version-accepted-deleted": unnamed(
        "versions",
        "id IN (SELECT winner_id FROM decisions "
        "WHERE reason = 'accepted' AND round = 2 AND phase = 'response')",
        _SCORES_OF_VERSION,
        ("decisions", f"SELECT {_NAMES['decisions']} FROM decisions WHERE challenger_id = :row"),
        ("training_sets", f"SELECT {_NAMES['training_sets']} FROM training_sets WHERE version_id = :row"),
    ),
    "call-text": update("teacher_calls", "text", "text || ' '", "status = 'ok'"),
    "call-critique": update("teacher_calls", "critique", "'well done'", "status = 'ok'"),
    "call-tokens": update("teacher_calls", "prompt_tokens", "1"),
    "call-error": update("teacher_calls", "error", "'none'", "status = 'no-entry'"),
    "call-status": update("teacher_calls", "status", "'no-entry'", "status = 'ok'"),
    "call-deleted": delete(
        "teacher_calls", "status = 'ok'", ("versions", "SELECT id FROM versions WHERE teacher_call_id = :row")
    ),
    "call-of-a-failure-deleted": delete("teacher_calls", "status = 'no-entry' AND round = 1"),
    "score-sum-of-a-winner": update("scores", "sum_logprob", "sum_logprob - 0.001", _WINNING),
    "score-sum-of-a-loser": update("scores", "sum_logprob", "sum_logprob * 1.5", _LOSING),
    "score-tokens": update("scores", "num_tokens", "num_tokens + 1", _LOSING),
    "score-truncated": update("scores", "truncated", "1", _WINNING),
    "score-status": update(
        "scores", "(status, sum_logprob, num_tokens)", "('non-finite', NULL, NULL)", _LOSING
    ),
    "score-deleted": delete("scores", _LOSING),
    "score-that-only-training-needed-deleted": delete(
        "scores", f"{_WINNING} AND term = 'response_alone'"
    ),
    "score-nobody-asked-for": Tampering(
        "scores",
        _LOSING,
        "INSERT INTO scores SELECT version_id, 's2', term, sum_logprob, num_tokens, status, truncated, NULL "
        f"FROM scores WHERE {_NAMES['scores']} = :row",
        (("scores", "SELECT replace(:row, '/s0/', '/s2/')"),),
        is_named=False,
    ),
    "decision-winner": update(
        "decisions",
        "(winner_id, reason)",
        "(incumbent_id, 'refused')",
        f"{_ACCEPTED} AND phase = 'response'"
    ),
    "decision-winner-of-an-instruction": update(
        "decisions",
        "(winner_id, reason)",
        "(incumbent_id, 'tie')",
        f"{_ACCEPTED} AND phase = 'instruction'"
    ),
    "decision-for-the-loser": update(
        "decisions", "(winner_id, reason)", "(challenger_id, 'accepted')", "reason = 'refused' AND round = 1"
    ),
    "decision-reason": update("decisions", "reason", "'unscorable'", "reason = 'refused'"),
    "decision-value": update(
        "decisions", "incumbent_value", "incumbent_value * 1.0001", "incumbent_value IS NOT NULL"
    ),
    "decision-margin": update("decisions", "margin", "0.5"),
    "decision-policy": update("decisions", "policy", "'ifd'", "round = 2"),
    "decision-student": update("decisions", "student_id", "'s2'", "student_id = 's0'"),
    "decision-deleted": delete("decisions", "round = 1 AND phase = 'instruction'"),
    "decision-accepted-deleted": delete("decisions", f"{_ACCEPTED} AND phase = 'response'"),
    "decision-of-the-last-phase-deleted": delete("decisions", "round = 2 AND phase = 'response'"),
    "training-rank": Tampering(
        "training_sets",
        "round = 1 AND rank = 0",
        "UPDATE training_sets SET rank = 1 - rank WHERE round = 1 AND rank IN (0, 1)",
        (("training_sets", "SELECT '1/' || version_id FROM training_sets WHERE round = 1 AND rank = 1"),),
    ),
    "training-member-deleted": delete("training_sets", "round = 2"),
    "training-member-added": Tampering(
        "training_sets",
        "round = 1",
        "INSERT INTO training_sets SELECT 1, version_id, 99 FROM training_sets WHERE round = 2 "
        "AND version_id NOT IN (SELECT version_id FROM training_sets WHERE round = 1) LIMIT 1",
        (
            (
                "training_sets",
                "SELECT '1/' || version_id FROM training_sets WHERE round = 2 "
                "AND version_id NOT IN (SELECT version_id FROM training_sets WHERE round = 1) LIMIT 1",
            ),
        ),
        is_named=False,
    ),
    "training-member-unknown": update(
        "training_sets",
        "version_id",
        "'nothing'",
        "round = 1",
        ("training_sets", "SELECT '1/nothing'"),
    ),
    "evaluation-value": update("evaluations", "value", "value + 0.01", "name = 'nll'"),
    "evaluation-number": update("evaluations", "n", "5"),
    "evaluation-bound": update("evaluations", "low", "low - 1"),
    "evaluation-student": update("evaluations", "student_id", "'s0'", "round = 2"),
    "evaluation-deleted": delete("evaluations", "round = 1 AND name = 'nll'"),
    "evaluation-of-the-first-student-deleted": delete("evaluations", "round = 0 AND name = 'nll'"),
    "evaluation-of-its-answers-deleted": delete("evaluations", "round = 0 AND name = 'response_tokens'"),
    "evaluation-deleted-everywhere": Tampering(
        "evaluations",
        "name = 'nll'",
        "DELETE FROM evaluations WHERE name = 'nll'",
        (("evaluations", f"SELECT {_NAMES['evaluations']} FROM evaluations WHERE name = 'nll'"),),
    ),
    "student-hash": update("students", "adapter_hash", "'0'", "id = 's1'"),
    "student-base": update("students", "base_model", "'other'", "id = 's0'"),
    "student-parent": update("students", "parent_id", "'s1'", "id = 's2'"),
    "student-metrics": update("students", "metrics", "'{}'", "id = 's1'"),
    "round-student": update("rounds", "student_id", "'s0'", "round = 1"),
    "round-status": update("rounds", "status", "'running'", "round = 1"),
    "round-stop-reason": update("rounds", "stop_reason", "'budget'", "round = 1"),
    "round-stop-reason-to-patience": update("rounds", "stop_reason", "'patience'", "round = 2"),
    "round-stop-reason-to-no-proposals": update("rounds", "stop_reason", "'no-proposals'", "round = 2"),
    "round-stop-reason-to-budget": update("rounds", "stop_reason", "'budget'", "round = 2"),
    "round-stop-reason-to-none": update("rounds", "stop_reason", "NULL", "round = 2"),
    "round-metrics-of-no-kind": update("rounds", "metrics", "'[]'"),
    "round-metrics-of-nothing": update("rounds", "metrics", "'null'"),
    "round-metrics-of-one-number": update("rounds", "metrics", "'{\"seconds\": 5}'"),
    "round-seconds-in-words": update("rounds", "metrics", "'{\"seconds\": {\"x\": \"y\"}}'"),
    "round-seconds": update("rounds", "metrics", "'{\"seconds\": {\"select\": -1}}'", "round = 1"),
    "sample-split-to-holdout": update("samples", "split", "'holdout'", "split = 'train'"),
    "sample-split-to-train": update("samples", "split", "'train'", "split = 'holdout'"),
    "sample-meta": update("samples", "meta", "'{\"lang\": \"de\"}'"),
    "sample-source-hash": update("samples", "source_hash", "'0'"),
    "sample-position": update("samples", "position", "1000", "position = 29"),
    "run-config": update("runs", "config", "json_set(config, '$.selection.margin', 0.5)"),
    "run-config-hash": update("runs", "config_hash", "'0'"),
    "run-data-hash": update("runs", "data_hash", "'0'"),
    "run-created-at": update("runs", "created_at", "'2020-01-01T00:00:00+00:00'"),
    "run-machine": update("runs", "versions", "json_set(versions, '$.graph', 'other')"),
    "run-status": update("runs", "status", "'budget'"),
    "run-seed": update("runs", "seed", "1"),
    "change-before": update("config_changes", "before", "5"),
    "change-after": update("config_changes", "after", "5"),
    "change-time": update("config_changes", "changed_at", "'2020-01-01T00:00:00+00:00'"),
    "change-deleted": Tampering(
        "config_changes",
        "1",
        "DELETE FROM config_changes",
        (("config_changes", "SELECT ''"),),
        is_named=False,
    ),
    "migration-deleted": delete("_sqlite_migrations", "name = '0002_views'"),
    "migration-deleted-last": delete("_sqlite_migrations", "name = '0005_seals'"),
} | {f"{table}-seal-removed": update(table, "seal", "NULL") for table in SEALED}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERINGS)
def test_verify_names_the_row_that_was_changed(name: str, run: RunFolder) -> None:
    case = TAMPERINGS[name]
    key = name_of(case.table)
    with open_lineage(run) as lineage:
        found = lineage.execute(f"SELECT {key} FROM {case.table} WHERE {case.where} ORDER BY 1").fetchone()
        assert found is not None, "the world has no such row"
        expected = {(case.table, found[0])} if case.is_named else set()
        for table, query in case.also:
            rows = lineage.execute(query, {"row": found[0]} if ":row" in query else {}).fetchall()
            assert rows
            expected |= {(table, row[0]) for row in rows}
        changed = lineage.execute(case.change, {"row": found[0]} if ":row" in case.change else {}).rowcount
        assert changed >= 1
    assert expected <= faults(run)


def tables_of(run: RunFolder) -> set[str]:
    with open_lineage(run) as lineage:
        names = lineage.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return {name for (name,) in names if not name.startswith("sqlite_")}


def test_every_table_is_tampered_with(world: RunFolder) -> None:
    assert {case.table for case in TAMPERINGS.values()} == tables_of(world)


# Columns that may change while a run goes on, and that nothing is derived from.
_OPEN = {
    ("rounds", "started_at"),
    ("rounds", "finished_at"),
    ("_sqlite_migrations", "id"),
    ("_sqlite_migrations", "applied_at"),
}


def test_verify_notices_a_change_of_any_column(world: RunFolder, run: RunFolder) -> None:
    unnoticed = set()
    for table in sorted(tables_of(run)):
        with open_lineage(run) as lineage:
            columns = lineage.execute(f"PRAGMA table_info({table})").fetchall()
        for _, column, kind, *_ in columns:
            value = "1234" if kind in ("INTEGER", "REAL") else "'changed'"
            with open_lineage(run) as lineage:
                where = f"{name_of(table)} = (SELECT MAX({name_of(table)}) FROM {table})"
                lineage.execute(f"UPDATE {table} SET {column} = {value} WHERE {where}")
            with suppress(StoreError):  # the file is not even opened
                if not faults(run):
                    unnoticed.add((table, column))
            shutil.copyfile(world.lineage, run.lineage)
    assert unnoticed == _OPEN


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("rounds", "round"),
        ("students", "round"),
        ("samples", "position"),
        ("teacher_calls", "round"),
        ("teacher_calls", "candidate"),
        ("teacher_calls", "attempt"),
        ("versions", "round"),
        ("versions", "candidate"),
        ("decisions", "round"),
        ("training_sets", "round"),
        ("training_sets", "rank"),
        ("evaluations", "round"),
    ],
)
def test_verify_outlasts_any_number(run: RunFolder, table: str, column: str) -> None:
    with open_lineage(run) as lineage:
        where = f"{name_of(table)} = (SELECT MAX({name_of(table)}) FROM {table})"
        lineage.execute(f"UPDATE {table} SET {column} = {10**18} WHERE {where}")
    began = time.monotonic()
    assert table in {table for table, _ in faults(run)}
    assert time.monotonic() - began < 20


def test_verify_names_a_gap_once(run: RunFolder) -> None:
    with open_lineage(run) as lineage:
        lineage.execute(f"UPDATE rounds SET round = {10**18} WHERE round = 2")
    assert {row for row in faults(run) if row[0] == "rounds"} == {("rounds", str(10**18))}
    attempts = [10**9, 10**9 + 1]
    with open_lineage(run) as lineage:
        lineage.execute("UPDATE rounds SET round = 2 WHERE round > 2")
        (sample,) = lineage.execute(
            "SELECT sample_id FROM teacher_calls WHERE status = 'no-entry'"
        ).fetchone()
    with LineageWriter.open(run.lineage) as store:
        store.add_reflections([call(sample, 1, "instruction", attempt, "error") for attempt in attempts], [])
    named = {row for table, row in faults(run) if table == "teacher_calls"}
    assert 1 <= len(named) <= 4


@pytest.mark.parametrize("text", ["[]", "null", "5", '"x"', "{", '{"x": []}'])
@pytest.mark.parametrize(
    ("table", "column", "is_derived"),
    [
        ("runs", "config", True),
        ("runs", "versions", True),
        ("rounds", "metrics", False),
        ("samples", "meta", False),
        ("students", "metrics", False),
        ("config_changes", "before", False),
        ("config_changes", "after", True),
    ],
)
def test_verify_outlasts_any_json(
    run: RunFolder, table: str, column: str, is_derived: bool, text: str
) -> None:
    with open_lineage(run) as lineage:
        lineage.execute(f"UPDATE {table} SET {column} = ?", [text])
    remove_seals(run)
    found = {table for table, _ in faults(run)}
    assert found == {table} if is_derived else found <= {table}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("DROP VIEW evolution", "evolution"),
        ("DROP INDEX decisions_sample", "decisions_sample"),
        ("DROP TABLE evaluations", "evaluations"),
        ("CREATE TRIGGER late AFTER INSERT ON scores BEGIN DELETE FROM scores; END", "late"),
    ],
)
def test_verify_names_what_was_changed_in_the_schema(run: RunFolder, change: str, name: str) -> None:
    with open_lineage(run) as lineage:
        lineage.execute(change)
    assert ("sqlite_master", name) in faults(run)
    assert {table for table, _ in faults(run)} <= {"sqlite_master", "evaluations", "lineage.db"}


def test_verify_finds_a_run_whole_whose_config_was_changed_after_its_end(run: RunFolder) -> None:
    change_run(run, ["rounds=3"])
    change_run(run, ["rounds=4"])
    assert faults(run) == set()
    with open_lineage(run) as lineage:
        lineage.execute("UPDATE rounds SET stop_reason = 'patience' WHERE round = 2")
    assert faults(run) == {("rounds", "2")}


def remove_seals(run: RunFolder) -> None:
    """As in a run that began before there were seals."""
    with open_lineage(run) as lineage:
        for table in SEALED:
            lineage.execute(f"UPDATE {table} SET seal = NULL")


def test_verify_wants_no_seals_of_what_a_run_wrote_before_there_were_any(run: RunFolder) -> None:
    older = {
        "teacher_calls": "round = 1",
        "scores": "student_id = 's0'",
        "students": "round < 2",
        "evaluations": "round < 2",
        "config_changes": "0",
    }
    with open_lineage(run) as lineage:
        for table in SEALED:
            lineage.execute(f"UPDATE {table} SET seal = NULL WHERE {older.get(table, '1')}")
    document = verify_run(run)
    assert document["faults"] == []
    assert 0 < document["unsealed"] < sum(document["checked"][table] for table in SEALED)


def test_verify_without_seals_still_names_what_is_derived(run: RunFolder) -> None:
    remove_seals(run)
    document = verify_run(run)
    assert document["faults"] == []
    sealed = sum(document["checked"][table] for table in SEALED)
    assert document["unsealed"] == sealed
    with open_lineage(run) as lineage:
        (text,) = lineage.execute("SELECT id FROM teacher_calls WHERE status = 'ok' AND round = 2").fetchone()
        lineage.execute("UPDATE teacher_calls SET text = replace(text, 'e', 'x') WHERE id = ?", [text])
        score, decision = lineage.execute(
            "SELECT version_id || '/s0/instruction_alone', round || '/' || phase || '/' || sample_id "
            "FROM scores JOIN decisions ON version_id = challenger_id WHERE reason = 'refused' "
            "AND term = 'instruction_alone' AND phase = 'response' AND round = 1"
        ).fetchone()
        lineage.execute(
            f"UPDATE scores SET sum_logprob = sum_logprob * 1.01 WHERE {_NAMES['scores']} = ?", [score]
        )
    assert ("decisions", decision) in faults(run)
    assert {row for row in faults(run) if row[0] != "decisions"} == {("teacher_calls", text)}


def view_of_schema(number: int, view: str) -> str:
    """How an earlier schema made a view."""
    with Database(memory=True) as database:
        for migration in migrations._migrations[:number]:
            migration.fn(database)
        query = "SELECT sql FROM sqlite_master WHERE name = ?"
        return str(database.execute(query, [view]).fetchone()[0])


def test_verify_reads_a_lineage_from_before_there_were_seals(run: RunFolder) -> None:
    with open_lineage(run) as lineage:
        for table in SEALED:
            lineage.execute(f"ALTER TABLE {table} DROP COLUMN seal")
        lineage.execute("DELETE FROM _sqlite_migrations WHERE name >= '0005'")
        lineage.execute("DROP INDEX teacher_calls_sample")
        for view in ("evolution", "pool", "outcomes"):
            lineage.execute(f"DROP VIEW {view}")
        lineage.execute(view_of_schema(4, "evolution"))
    document = verify_run(run)
    assert document["faults"] == []
    assert document["unsealed"] == sum(document["checked"][table] for table in SEALED)
    with open_lineage(run) as lineage:
        (version,) = lineage.execute("SELECT id FROM versions WHERE round = 2").fetchone()
        lineage.execute("UPDATE versions SET response = 'other' WHERE id = ?", [version])
    assert ("versions", version) in faults(run)


def test_verify_finds_a_run_whole_that_died_between_an_adapter_and_its_row(run: RunFolder) -> None:
    with open_lineage(run) as lineage:
        lineage.execute("DELETE FROM evaluations WHERE round = 2")
        lineage.execute("DELETE FROM students WHERE id = 's2'")
        lineage.execute(
            "UPDATE rounds SET student_id = NULL, status = 'running', finished_at = NULL, stop_reason = NULL "
            "WHERE round = 2"
        )
        lineage.execute("UPDATE runs SET status = 'running'")
    assert faults(run) == set()


def test_verify_names_a_forged_version_by_its_call(run: RunFolder) -> None:
    with open_lineage(run) as lineage:
        lineage.row_factory = sqlite3.Row
        row = lineage.execute(f"SELECT * FROM versions WHERE {_REFUSED} AND phase = 'response'").fetchone()
        texts = Pair(row["instruction"], row["input"], "forged")
        forged = Version(
            row["sample_id"], row["parent_id"], row["round"], row["phase"], row["candidate"], texts
        )
        for table, column in {"versions": "id", "scores": "version_id", "decisions": "challenger_id"}.items():
            lineage.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", [forged.id, row["id"]])
        lineage.execute("UPDATE versions SET response = 'forged' WHERE id = ?", [forged.id])
        scores = lineage.execute(
            f"SELECT {_NAMES['scores']} FROM scores WHERE version_id = ?", [forged.id]
        ).fetchall()
    assert faults(run) >= {
        ("teacher_calls", row["teacher_call_id"]),
        *(("scores", score[0]) for score in scores),
    }


# Files


def _cut_adapter(run: RunFolder) -> None:
    weights = run.adapter(1) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")


def _change_config(run: RunFolder) -> None:
    text = run.config.read_text()
    assert "margin = 0.0" in text
    run.config.write_text(text.replace("margin = 0.0", "margin = 0.25"))


FILES: dict[str, tuple[Callable[[RunFolder], object], Rows]] = {
    "adapter-bytes": (_cut_adapter, {("adapters", "round-01")}),
    "adapter-config": (
        lambda run: (run.adapter(2) / "adapter_config.json").write_text("{}"),
        {("adapters", "round-02")},
    ),
    "adapter-gone": (lambda run: shutil.rmtree(run.adapter(2)), {("adapters", "round-02")}),
    "adapter-more": (
        lambda run: shutil.copytree(run.adapter(2), run.adapter(7)),
        {("adapters", "round-07")},
    ),
    "config": (_change_config, {("config.toml", "selection.margin")}),
    "config-gone": (lambda run: run.config.unlink(), {("config.toml", "")}),
    "config-half": (lambda run: run.config.write_text("name = "), {("config.toml", "")}),
    "adapter-under-way": (lambda run: (run.path / "adapters/.round-03.partial").mkdir(), set()),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_verify_names_the_file_that_was_changed(name: str, run: RunFolder) -> None:
    change, expected = FILES[name]
    change(run)
    assert faults(run) == expected


def test_verify_says_what_of_a_damaged_file_it_cannot_read(run: RunFolder) -> None:
    content = bytearray(run.lineage.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = b"\xa5" * 4096
    run.lineage.write_bytes(content)
    assert ("lineage.db", "") in faults(run)


def test_verify_says_once_that_the_prompts_have_changed(tmp_path: Path) -> None:
    from reflectune.agents.teacher.prompts import SHIPPED

    prompts = tmp_path / "prompts.toml"
    shutil.copyfile(SHIPPED, prompts)
    path = write_world(tmp_path / "world", samples=12, teacher={"prompts": str(prompts)})
    run = create_run(load_config(path, ["rounds=1"]), tmp_path / "runs")
    run_loop(run, open_display())
    assert verify_run(run)["notes"] == []
    words = prompts.read_text()
    head = '[task]\ninstruction = """\n'
    assert head in words
    prompts.write_text(words.replace(head, head + "Take your time. "))
    document = verify_run(run)
    assert document["faults"] == []
    (note,) = document["notes"]
    assert "other words" in note


def test_verify_blames_no_row_for_another_version_that_reads_answers_otherwise(run: RunFolder) -> None:
    with open_lineage(run) as lineage:
        (changed,) = lineage.execute("SELECT id FROM teacher_calls WHERE status = 'ok'").fetchone()
        lineage.execute("UPDATE teacher_calls SET critique = 'other' WHERE id = ?", [changed])
    remove_seals(run)
    assert faults(run) == {("teacher_calls", changed)}
    with open_lineage(run) as lineage:
        lineage.execute("UPDATE runs SET versions = json_set(versions, '$.reflectune', '0.0.1')")
    document = verify_run(run)
    assert document["faults"] == []
    assert document["notes"] == [
        "1 answers are read otherwise by this version of Reflectune than by the one that began the run"
    ]


# The command


def test_verify_command_exits_by_what_it_finds(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    runs = run.path.parent
    assert invoke("verify", "tiny", "--runs", runs) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("tiny: nothing is wrong; looked at ")
    with open_lineage(run) as lineage:
        lineage.execute("UPDATE evaluations SET value = 0.5 WHERE round = 1 AND name = 'nll'")
        lineage.execute("UPDATE samples SET source_hash = char(27) || '[31m' WHERE position = 0")
        (sample,) = lineage.execute("SELECT id FROM samples WHERE position = 0").fetchone()
    assert invoke("verify", "tiny", "--runs", runs) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    lines = {line.split(":")[0] for line in out.splitlines()}
    assert lines == {f"samples {sample}", "evaluations 1/nll", "tiny"}
    assert invoke("verify", "tiny", "--runs", runs, "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["name"] == "tiny"
    assert [set(fault) for fault in document["faults"]] == [{"table", "row", "fault"}] * 2
    assert invoke("verify", "other", "--runs", runs) == 2


@pytest.mark.parametrize(
    "arguments", [("show", "tiny"), ("trace", "tiny", "0"), ("export", "tiny", "--out", "out.json")]
)
def test_readers_say_of_a_damaged_lineage_what_to_do(
    run: RunFolder, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], tmp_path: Path
) -> None:
    damage(run)
    words = [str(tmp_path / word) if word == "out.json" else word for word in arguments]
    assert invoke(*words, "--runs", run.path.parent) == StoreError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"reflectune: {run.path}: database disk image is malformed; ")
    advice = "put lineage.db back from a copy and delete lineage.db-wal and lineage.db-shm, then try again"
    assert line.endswith(advice)


def test_runs_and_verify_outlast_a_damaged_lineage(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(run)
    assert invoke("runs", "--runs", run.path.parent, "--json") == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert shown["status"] == "unreadable"
    assert "put lineage.db back from a copy" in shown["error"]
    assert invoke("verify", "tiny", "--runs", run.path.parent) == 1
    captured = capsys.readouterr()
    assert "unexpected" not in captured.err
    assert "lineage.db" in captured.out + captured.err


def damage(run: RunFolder) -> None:
    """Overwrite where the samples, rounds and decisions of a lineage begin."""
    with open_lineage(run) as lineage:
        lineage.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (size,) = lineage.execute("PRAGMA page_size").fetchone()
        pages = lineage.execute(
            "SELECT rootpage FROM sqlite_master WHERE name IN ('samples', 'rounds', 'decisions')"
        ).fetchall()
    with run.lineage.open("r+b") as file:
        for (page,) in pages:
            file.seek((page - 1) * size)
            file.write(b"x" * size)


def test_verify_neither_writes_nor_waits_for_the_writer(run: RunFolder) -> None:
    def contents() -> Iterator[tuple[str, Any]]:
        for path in sorted(run.path.rglob("*")):
            if path.is_file() and not path.name.endswith(("-wal", "-shm")):
                yield path.name, path.read_bytes()

    before = list(contents())
    with LineageWriter.open(run.lineage) as store, store.transaction():
        store.db.execute("UPDATE runs SET status = 'running'")
        assert faults(run) == set()
        store.db.execute("UPDATE runs SET status = 'finished'")
    assert [content for content in contents() if content[0] != "lineage.db"] == [
        content for content in before if content[0] != "lineage.db"
    ]
