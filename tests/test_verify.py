"""Runs as they are verify clean; whatever is changed in one is named by table and row."""

import json
import random
import shutil
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from reflectune.agents.teacher.prompts import SHIPPED
from reflectune.loop.progress import open_display
from reflectune.loop.run import change_run, create_run, run_loop
from reflectune.loop.signals import Interrupted
from reflectune.loop.verify import describe, verify_run
from reflectune.state.config import load_config
from reflectune.state.errors import StoreError
from reflectune.state.folder import RunFolder
from reflectune.state.judgements import JudgeCall
from reflectune.state.lineage.seals import SEALED
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import Pair, Version
from tests.lineages import call
from tests.test_migrations import SCHEMAS, load
from tests.worlds import invoke, write_world

pytestmark = pytest.mark.slow

Rows = set[tuple[str, str]]

# A row's name in SQL, as verify names it.
_NAMES = defaultdict(lambda: "id") | {
    "scores": "version_id || '/' || student_id || '/' || term",
    "decisions": "round || '/' || phase || '/' || sample_id",
    "training_sets": "round || '/' || version_id",
    "evaluations": "round || '/' || name",
    "alarms": "round || '/' || name",
    "held_out_answers": "student_id || '/' || sample_id",
    "judge_calls": "student_id || '/' || opponent || '/' || sample_id || '/' || swapped || '/' || attempt",
    "rounds": "CAST(round AS TEXT)",
    "servers": "CAST(id AS TEXT)",
    "runs": "name",
    "conversations": "CAST(id AS TEXT)",
    "skipped_rows": "kind",
    "config_changes": "CAST(rowid AS TEXT)",
    "_sqlite_migrations": "name",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run, of one round at first and of another when that was allowed, with prompts of its own.

    Two of its samples are exchanges of one conversation, and a row was left out.
    """
    folder = tmp_path_factory.mktemp("world")
    shutil.copyfile(SHIPPED, folder / "prompts.toml")
    data = {"turns": "each", "odd": {"invalid": "skip"}}
    write_world(folder, samples=20, data=data, refinetune={"epochs": 1}, teacher={"prompts": "prompts.toml"})
    records = json.loads((folder / "data.json").read_text())
    said = [{"role": role, "content": text} for text in "ab" for role in ("user", "assistant")]
    (folder / "data.json").write_text(json.dumps([*records, {"messages": said}, {}]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert invoke("run", "config.toml", "--set", "rounds=1") == 0
        assert invoke("resume", "tiny", "--set", "rounds=2") == 0
    run = RunFolder(folder / "runs/tiny")
    with LineageWriter.open(run.lineage) as lineage:  # which a recording has none of
        lineage._server_id("http://asked/v1")
        lineage.add_judge_calls([verdict_on(next(lineage.held_out_answers("s2")).sample_id)])
    return run


def verdict_on(sample: str) -> JudgeCall:
    """What a judge may have said of an answer of s2."""
    asked = {"student_id": "s2", "opponent": "s0", "sample_id": sample, "swapped": False, "attempt": 1}
    told = {"engine": "openai", "model": "wise", "prompt_hash": "p", "text": "[[A]]", "finish_reason": "stop"}
    costs = {"prompt_tokens": 1, "completion_tokens": 1, "cost_usd": 0.5, "seconds": 0.5}
    return JudgeCall(**asked, **told, **costs, status="ok", error=None, verdict="first")  # type: ignore[arg-type]


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


def query(run: RunFolder, statement: str) -> Any:
    """The first row that a statement finds, if any; what it changes is committed."""
    with open_lineage(run) as lineage:
        return lineage.execute(statement).fetchone()


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
        asked = iter(range(draw.randrange(8, 40)))  # so often the run may ask whether to stop
        try:
            run_loop(run, open_display(), lambda asked=asked: next(asked, None) is None)  # type: ignore[misc]
        except Interrupted:
            stops += 1
            assert faults(run) == set()
        else:
            break
        assert stops < 100
    assert stops > 5
    assert faults(run) == set()


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that asks for two candidates, again where there was no answer, and leaves refused pairs alone."""
    folder = tmp_path_factory.mktemp("patient")
    config = write_world(
        folder,
        samples=16,
        teacher={"candidates": 2, "freeze_after": 1},
        refinetune={"start_from": "previous", "anchor": 0.3, "epochs": 1},
        selection={"top_fraction": 0.5},
        data={"holdout": 2},
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
    assert query(run, "SELECT group_concat(DISTINCT round) FROM evaluations") == ("0,1",)
    assert query(run, "SELECT json_extract(metrics, '$.frozen') FROM rounds WHERE round = 1") == (10,)


def test_verify_finds_a_run_with_candidates_and_patience_whole(patient: RunFolder) -> None:
    assert query(patient, "SELECT 1 FROM decisions WHERE reason = 'frozen'")
    assert query(patient, "SELECT 1 FROM versions WHERE candidate = 1")
    assert verify_run(patient)["faults"] == []


@pytest.mark.parametrize(
    "selection",
    [
        {"policy": "ifd", "ifd_cap": 1.0, "keep": "all"},
        {"policy": "longest", "margin": 0.05},
        {"policy": "random"},
    ],
    ids=lambda selection: selection["policy"],
)
def test_verify_finds_runs_of_every_policy_whole(selection: dict[str, object], tmp_path: Path) -> None:
    short = {"max_length": 70}  # some targets have nothing left, and cannot be scored
    others = {"data": {"holdout": 2}, "student": short, "refinetune": {"epochs": 1}}
    config = write_world(tmp_path, samples=10, selection=selection, **others)
    run = create_run(load_config(config), tmp_path / "runs")
    run_loop(run, open_display())
    assert query(run, "SELECT 1 FROM scores WHERE status <> 'ok'")
    assert verify_run(run)["faults"] == []


@pytest.mark.parametrize(
    "chosen",
    [
        "SELECT id, 1, 1 FROM samples WHERE split = 'holdout'",
        "SELECT sample_id, 1, 2 FROM teacher_calls WHERE status = 'ok' AND phase = 'instruction'",
        "SELECT sample_id, round, 1 FROM decisions WHERE reason = 'frozen' AND phase = 'instruction'",
    ],
    ids=["held-out", "answered", "left-alone"],
)
def test_verify_names_a_call_that_nobody_makes(patient: RunFolder, tmp_path: Path, chosen: str) -> None:
    run = RunFolder(Path(shutil.copytree(patient.path, tmp_path / "patient")))
    sample, round, attempt = query(run, chosen)
    asked = call(sample, round, "instruction", attempt=attempt, status="no-entry")
    with LineageWriter.open(run.lineage) as store:
        store.add_reflections([asked], [])
    assert faults(run) == {("teacher_calls", asked.id)}


# Tampering


_REFUSED = "SELECT challenger_id FROM decisions WHERE reason = 'refused' AND round = 1"
_ACCEPTED = "reason = 'accepted' AND round = 1 AND phase ="
_HELD_OUT = "sample_id IN (SELECT id FROM samples WHERE split = 'holdout')"
_GIVEN_HELD_OUT = f"SELECT id FROM versions WHERE {_HELD_OUT}"
_LOSING = f"version_id IN ({_REFUSED} AND phase = 'instruction')"
_ANOTHERS = "SELECT id FROM teacher_calls AS it WHERE it.sample_id <> versions.sample_id"
# (table, what is set, where): changes that leave a row such as it might be.
UPDATES = (
    ("versions", "response = response || '!'", "id IN (SELECT parent_id FROM versions WHERE round = 2)"),
    ("versions", "response = 'I win'", f"id IN ({_REFUSED})"),
    ("versions", "instruction = 'Do'", "phase = 'original'"),
    ("versions", "response = 'Thing'", f"phase = 'original' AND {_HELD_OUT}"),
    ("versions", f"teacher_call_id = ({_ANOTHERS})", "round = 1"),
    ("decisions", "(winner_id, reason) = (incumbent_id, 'refused')", f"{_ACCEPTED} 'response'"),
    ("decisions", "(winner_id, reason) = (incumbent_id, 'tie')", f"{_ACCEPTED} 'instruction'"),
    ("decisions", "(winner_id, reason) = (challenger_id, 'accepted')", "reason = 'refused' AND round = 1"),
    ("decisions", "reason = 'unscorable'", "reason = 'refused'"),
    ("decisions", "incumbent_value = incumbent_value * 1.0001", "incumbent_value IS NOT NULL"),
    ("rounds", "student_id = 's0'", "round = 1"),
    ("rounds", "status = 'running'", "round = 1"),
    ("rounds", "stop_reason = 'budget'", "round = 1"),
    ("rounds", "stop_reason = 'patience'", "round = 2"),
    ("rounds", "stop_reason = 'no-proposals'", "round = 2"),
    ("rounds", "stop_reason = 'budget'", "round = 2"),
    ("rounds", "stop_reason = NULL", "round = 2"),
    ("rounds", "metrics = '[]'", "round = 0"),
    ("rounds", """metrics = '{"seconds": 5}'""", "round = 0"),
    ("rounds", """metrics = '{"seconds": {"select": -1}}'""", "round = 1"),
    ("runs", "config = json_set(config, '$.selection.margin', 0.5)", "1"),
    ("runs", "status = 'budget'", "1"),
    ("samples", "turn = 2", "turn = 0 AND conversation_id IS NOT NULL"),
    ("samples", "conversation_id = NULL", "turn = 0 AND conversation_id IS NOT NULL"),
    ("conversations", "turns = replace(turns, 'a', 'c')", "1"),
    *((table, "seal = NULL", "1") for table in SEALED),
)


@pytest.mark.parametrize(("table", "change", "where"), UPDATES)
def test_verify_names_the_row_that_was_changed(run: RunFolder, table: str, change: str, where: str) -> None:
    (row,) = query(run, f"SELECT {_NAMES[table]} FROM {table} WHERE {where} ORDER BY 1")
    query(run, f"UPDATE {table} SET {change} WHERE {_NAMES[table]} = '{row}'")
    assert (table, row) in faults(run)


# What a row has that is gone, and what else must be named then, as queries for it.
_OF_VERSION = {
    "teacher_calls": "SELECT teacher_call_id FROM versions WHERE id = :row",
    "scores": f"SELECT {_NAMES['scores']} FROM scores WHERE version_id = :row",
    "decisions": f"SELECT {_NAMES['decisions']} FROM decisions WHERE challenger_id = :row",
}
_OF_MEMBER = _OF_VERSION | {
    "training_sets": f"SELECT {_NAMES['training_sets']} FROM training_sets WHERE version_id = :row"
}
_LAST = f"SELECT winner_id FROM decisions WHERE {_ACCEPTED.replace('1', '2')} 'response'"
_TRAINED = f"SELECT winner_id FROM decisions WHERE {_ACCEPTED} 'response'"
_CALL = "SELECT round || '/' || phase || '/' || sample_id || '/0/1' FROM teacher_calls WHERE id = :row"
DELETIONS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("versions", f"id IN ({_REFUSED})", _OF_VERSION),
    ("versions", f"id IN ({_LAST})", _OF_MEMBER),
    ("teacher_calls", "status = 'ok'", {"versions": "SELECT id FROM versions WHERE teacher_call_id = :row"}),
    ("teacher_calls", "status = 'no-entry' AND round = 1", {"teacher_calls": _CALL}),
    ("scores", _LOSING, {}),
    ("scores", f"student_id = 's0' AND term = 'response_alone' AND version_id IN ({_TRAINED})", {}),
    ("decisions", "round = 1 AND phase = 'instruction'", {}),
    ("decisions", "round = 2 AND phase = 'response'", {}),
    ("training_sets", "round = 2", {}),
    ("evaluations", "round = 1 AND name = 'nll'", {}),
    ("scores", f"student_id = 's1' AND version_id IN ({_GIVEN_HELD_OUT})", {"evaluations": "SELECT '1/nll'"}),
    ("held_out_answers", "student_id = 's2'", {"evaluations": "SELECT '2/response_tokens'"}),
    ("evaluations", "round = 0 AND name = 'nll'", {}),
    ("alarms", "round = 1 AND name = 'held_out'", {}),
    ("evaluations", "round = 0 AND name = 'response_tokens'", {}),
    ("config_changes", "1", {"config_changes": "SELECT ''"}),
    ("_sqlite_migrations", "name = '0002_views'", {}),
    ("_sqlite_migrations", "name = '0005_seals'", {}),
)


@pytest.mark.parametrize(("table", "where", "named"), DELETIONS)
def test_verify_misses_what_was_deleted(
    run: RunFolder, table: str, where: str, named: dict[str, str]
) -> None:
    with open_lineage(run) as lineage:
        (row,) = lineage.execute(f"SELECT {_NAMES[table]} FROM {table} WHERE {where} ORDER BY 1").fetchone()
        expected = set() if named else {(table, row)}
        for other, query in named.items():
            expected |= {(other, name) for (name,) in lineage.execute(query, {"row": row})}
        assert {other for other, _ in expected} == (named.keys() or {table})
        lineage.execute(f"DELETE FROM {table} WHERE {_NAMES[table]} = ?", [row])
    assert expected <= faults(run)


_NEW = (
    "SELECT version_id FROM training_sets WHERE round = 2 "
    "AND version_id NOT IN (SELECT version_id FROM training_sets WHERE round = 1) ORDER BY 1 LIMIT 1"
)


@pytest.mark.parametrize(
    ("change", "table", "named"),
    [
        (
            "INSERT INTO scores SELECT version_id, 's2', term, sum_logprob, num_tokens, status, truncated, "
            f"NULL FROM scores WHERE student_id = 's0' AND {_LOSING}",
            "scores",
            f"SELECT version_id || '/s2/' || term FROM scores WHERE student_id = 's0' AND {_LOSING}",
        ),
        (
            f"INSERT INTO training_sets SELECT 1, version_id, 99 FROM ({_NEW})",
            "training_sets",
            f"SELECT '1/' || version_id FROM ({_NEW})",
        ),
        (
            "UPDATE training_sets SET rank = 1 - rank WHERE round = 1 AND rank IN (0, 1)",
            "training_sets",
            "SELECT '1/' || version_id FROM training_sets WHERE round = 1 AND rank IN (0, 1)",
        ),
        ("DELETE FROM evaluations WHERE name = 'nll'", "evaluations", "SELECT round || '/nll' FROM rounds"),
    ],
)
def test_verify_names_all_rows_that_were_added_or_changed(
    run: RunFolder, change: str, table: str, named: str
) -> None:
    with open_lineage(run) as lineage:
        expected = {(table, name) for (name,) in lineage.execute(named)}
        assert expected
        lineage.execute(change)
    assert expected <= faults(run)


# Columns that may change while a run goes on, and that nothing is derived from.
_OPEN = {
    ("rounds", "started_at"), ("rounds", "finished_at"),
    ("_sqlite_migrations", "id"), ("_sqlite_migrations", "applied_at"),
}  # fmt: skip


@pytest.mark.no_cover
def test_verify_names_the_row_in_which_any_column_was_changed(world: RunFolder, run: RunFolder) -> None:
    with open_lineage(run) as lineage:
        columns = lineage.execute(
            "SELECT tables.name, columns.name, columns.type FROM sqlite_master AS tables "
            "JOIN pragma_table_info(tables.name) AS columns "
            "WHERE tables.type = 'table' AND tables.name NOT LIKE 'sqlite_%'"
        ).fetchall()
    assert len(columns) > 70
    unnamed = set()
    for table, column, kind in columns:
        value = f"{10**18}" if kind in ("INTEGER", "REAL") else "'changed'"
        names = f"SELECT {_NAMES[table]} FROM {table} ORDER BY 1 DESC"
        with open_lineage(run) as lineage:
            before = lineage.execute(names).fetchall()
            where = f"{_NAMES[table]} = '{before[0][0]}'"
            lineage.execute(f"UPDATE {table} SET {column} = {value} WHERE {where}")
            changed = {before[0], *set(lineage.execute(names).fetchall()) - set(before)}
        began = time.monotonic()
        named = {(table, str(name)) for (name,) in changed}
        is_migration = table == "_sqlite_migrations"  # known by what it made, too, or the file is not opened
        with suppress(StoreError) if is_migration else nullcontext():
            if not any(it in named or (is_migration and it[0] == "sqlite_master") for it in faults(run)):
                unnamed.add((table, column))
        assert time.monotonic() - began < 20  # whatever the number
        shutil.copyfile(world.lineage, run.lineage)
    assert unnamed == _OPEN


def test_verify_names_a_gap_once(run: RunFolder) -> None:
    query(run, f"UPDATE rounds SET round = {10**18} WHERE round = 2")
    assert {row for row in faults(run) if row[0] == "rounds"} == {("rounds", str(10**18))}
    attempts = [10**9, 10**9 + 1]
    query(run, "UPDATE rounds SET round = 2 WHERE round > 2")
    (sample,) = query(run, "SELECT sample_id FROM teacher_calls WHERE status = 'no-entry'")
    with LineageWriter.open(run.lineage) as store:
        store.add_reflections([call(sample, 1, "instruction", attempt, "error") for attempt in attempts], [])
    named = {row for table, row in faults(run) if table == "teacher_calls"}
    assert 1 <= len(named) <= 4


DERIVED = ("runs.config", "runs.versions", "config_changes.after")
OTHERS = ("rounds.metrics", "samples.meta", "students.metrics", "config_changes.before")


@pytest.mark.parametrize("text", ["[]", "null", "{", '{"x": []}'])
@pytest.mark.parametrize("place", DERIVED + OTHERS)
def test_verify_outlasts_any_json(run: RunFolder, place: str, text: str) -> None:
    table, column = place.split(".")
    query(run, f"UPDATE {table} SET {column} = '{text}'")
    remove_seals(run)
    found = {table for table, _ in faults(run)}
    assert found == {table} if place in DERIVED else found <= {table}


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
    query(run, change)
    assert ("sqlite_master", name) in faults(run)
    assert {table for table, _ in faults(run)} <= {"sqlite_master", "evaluations", "lineage.db"}


def test_verify_finds_a_run_whole_whose_config_was_changed_after_its_end(run: RunFolder) -> None:
    change_run(run, ["rounds=3"])
    change_run(run, ["rounds=4"])
    assert faults(run) == set()
    query(run, "UPDATE rounds SET stop_reason = 'patience' WHERE round = 2")
    assert faults(run) == {("rounds", "2")}


def remove_seals(run: RunFolder) -> None:
    """As in a run that began before there were seals."""
    for table in SEALED:
        query(run, f"UPDATE {table} SET seal = NULL")


def test_verify_without_seals_still_names_what_is_derived(run: RunFolder) -> None:
    remove_seals(run)
    document = verify_run(run)
    assert document["faults"] == []
    sealed = sum(document["checked"][table] for table in SEALED)
    assert document["unsealed"] == sealed
    (text,) = query(run, "SELECT id FROM teacher_calls WHERE status = 'ok' AND round = 2")
    query(run, f"UPDATE teacher_calls SET text = replace(text, 'e', 'x') WHERE id = '{text}'")
    score, decision = query(
        run,
        "SELECT version_id || '/s0/instruction_alone', round || '/' || phase || '/' || sample_id "
        "FROM scores JOIN decisions ON version_id = challenger_id WHERE reason = 'refused' "
        "AND term = 'instruction_alone' AND phase = 'response' AND round = 1",
    )
    query(run, f"UPDATE scores SET sum_logprob = sum_logprob * 1.01 WHERE {_NAMES['scores']} = '{score}'")
    assert ("decisions", decision) in faults(run)
    assert {row for row in faults(run) if row[0] != "decisions"} == {("teacher_calls", text)}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_verify_reads_lineages_of_every_schema(schema: str, tmp_path: Path) -> None:
    run = load(schema, "finished", tmp_path)
    # No dump has adapters, and in the configs of some the paths were moved.
    assert faults(run) - {("runs", "finished")} == {("adapters", "round-01"), ("adapters", "round-02")}


def test_verify_finds_a_run_whole_that_died_between_an_adapter_and_its_row(run: RunFolder) -> None:
    with open_lineage(run) as lineage:
        lineage.execute("DELETE FROM evaluations WHERE round = 2")
        for table in ("scores", "held_out_answers", "judge_calls"):
            lineage.execute(f"DELETE FROM {table} WHERE student_id = 's2'")
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
        found = lineage.execute(f"SELECT * FROM versions WHERE id IN ({_REFUSED} AND phase = 'response')")
        row = found.fetchone()
        texts = Pair(row["instruction"], row["input"], "forged")
        place = [row[name] for name in ("sample_id", "parent_id", "round", "phase", "candidate")]
        forged = Version(*place, texts)
        for table, column in {"versions": "id", "scores": "version_id", "decisions": "challenger_id"}.items():
            lineage.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", [forged.id, row["id"]])
        lineage.execute("UPDATE versions SET response = 'forged' WHERE id = ?", [forged.id])
        scores = lineage.execute(f"SELECT {_NAMES['scores']} FROM scores WHERE version_id = ?", [forged.id])
        scored = {("scores", score[0]) for score in scores}
    assert faults(run) >= {("teacher_calls", row["teacher_call_id"]), *scored}


# Files


def _change(file: Path, old: bytes, new: bytes) -> None:
    content = file.read_bytes()
    assert old in content
    file.write_bytes(content.replace(old, new))


FILES: dict[str, tuple[Callable[[RunFolder], object], str | None]] = {
    "bytes": (lambda run: _change(run.adapter(1) / "adapter_model.safetensors", b"\0", b"\1"), "round-01"),
    "adapter-config": (lambda run: (run.adapter(2) / "adapter_config.json").write_text("{}"), "round-02"),
    "adapter-gone": (lambda run: shutil.rmtree(run.adapter(2)), "round-02"),
    "adapter-more": (lambda run: shutil.copytree(run.adapter(2), run.adapter(7)), "round-07"),
    "config": (lambda run: _change(run.config, b"margin = 0.0", b"margin = 0.25"), ""),
    "config-gone": (lambda run: run.config.unlink(), ""),
    "config-half": (lambda run: run.config.write_text("name = "), ""),
    "adapter-under-way": (lambda run: (run.path / "adapters/.round-03.partial").mkdir(), None),
}


@pytest.mark.parametrize("name", FILES)
def test_verify_names_the_file_that_was_changed(name: str, run: RunFolder) -> None:
    change, row = FILES[name]
    change(run)
    expected = set() if row is None else {("adapters" if row else "config.toml", row)}
    assert faults(run) == expected


def test_verify_says_once_that_the_prompts_have_changed_or_are_gone(world: RunFolder) -> None:
    prompts = world.path.parent.parent / "prompts.toml"
    words = prompts.read_text()
    head = '[task]\ninstruction = """\n'
    assert head in words
    try:
        prompts.write_text(words.replace(head, head + "Take your time. "))
        changed = verify_run(world)
        prompts.unlink()
        gone = verify_run(world)
    finally:
        prompts.write_text(words)
    assert changed["faults"] == gone["faults"] == []
    (note,) = changed["notes"]
    assert "other words" in note
    (note,) = gone["notes"]
    assert note.startswith(f"{gone['checked']['teacher_calls']} teacher calls were not read again: ")


def test_verify_blames_no_row_for_another_version_that_reads_answers_otherwise(run: RunFolder) -> None:
    (changed,) = query(run, "SELECT id FROM teacher_calls WHERE status = 'ok'")
    query(run, f"UPDATE teacher_calls SET critique = 'other' WHERE id = '{changed}'")
    remove_seals(run)
    assert faults(run) == {("teacher_calls", changed)}
    query(run, "UPDATE runs SET versions = json_set(versions, '$.reflectune', '0.0.1')")
    document = verify_run(run)
    assert document["faults"] == []
    assert document["notes"] == [
        "1 rows are derived otherwise by this version of Reflectune than by the one that began the run"
    ]


# The command


def test_verify_command_exits_by_what_it_finds(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    runs = run.path.parent
    assert invoke("verify", "tiny", "--runs", runs) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("tiny: nothing is wrong; looked at ")
    query(run, "UPDATE evaluations SET value = 0.5 WHERE round = 1 AND name = 'response_tokens'")
    query(run, "UPDATE samples SET source_hash = char(27) || '[31m' WHERE position = 0")
    (sample,) = query(run, "SELECT id FROM samples WHERE position = 0")
    assert invoke("verify", "tiny", "--runs", runs) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    lines = {line.split(":")[0] for line in out.splitlines()}
    assert lines == {f"samples {sample}", "evaluations 1/response_tokens", "tiny"}
    assert invoke("verify", "tiny", "--runs", runs, "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["name"] == "tiny"
    assert [set(fault) for fault in document["faults"]] == [{"table", "row", "fault"}] * 2
    assert invoke("verify", "other", "--runs", runs) == 2


def test_commands_say_of_a_damaged_lineage_what_to_do(
    run: RunFolder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    damage(run)
    runs = ("--runs", run.path.parent)
    advice = "put lineage.db back from a copy and delete lineage.db-wal and lineage.db-shm, then try again"
    for words in (("show", "tiny"), ("trace", "tiny", "0"), ("export", "tiny", "-o", tmp_path / "out.json")):
        assert invoke(*words, *runs) == StoreError.exit_code
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"reflectune: {run.path}: database disk image is malformed; ")
        assert line.endswith(advice)
    assert invoke("runs", *runs, "--json") == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert shown["status"] == "unreadable"
    assert "put lineage.db back from a copy" in shown["error"]
    assert invoke("verify", "tiny", *runs) == 1
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
    def contents() -> dict[Path, bytes]:
        files = (path for path in run.path.rglob("*") if path.is_file() and "lineage.db" not in path.name)
        return {path: path.read_bytes() for path in files}

    before = contents()
    with LineageWriter.open(run.lineage) as store, store.transaction():
        store.db.execute("UPDATE runs SET status = 'running'")
        assert faults(run) == set()
        store.db.execute("UPDATE runs SET status = 'finished'")
    assert contents() == before
