"""Lineages as each earlier schema's own code wrote them: shown, migrated, and gone on with.

schema_NNNN_*.sql are dumps of databases that the last code of that schema made; schema_NNNN.json is what
that code's own `LineageReader` told of the finished one.
"""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from reflectune.loop.progress import LineDisplay
from reflectune.loop.run import change_run, run_loop
from reflectune.loop.verify import verify_run
from reflectune.state.errors import StoreError
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.connection import open_database
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.lineage.recycled import read_pool, read_preferences, read_training
from reflectune.state.lineage.schema import migrations
from reflectune.state.lineage.writer import LineageWriter
from tests.worlds import write_world

pytestmark = pytest.mark.no_cover

TESTS = Path(__file__).parent
SCHEMAS = [path.name.split("_")[1] for path in sorted(TESTS.glob("schema_*_finished.sql"))]
WORLD = "/world"  # where the dumps say that their world is

# What the old code's own end has in common with today's. From round 2 on a student decides that today's code
# has trained; before, only stored texts and the base model count.
_BEFORE_TRAINING = ("versions", "teacher_calls", "decisions", "training_sets")
_SAME_END = {
    "samples": "id, position, source_hash, split, meta",
    "versions": "id, sample_id, parent_id, round, phase, candidate, teacher_call_id",
    "teacher_calls": "id, round, phase, sample_id, candidate, attempt, text, status",
    "decisions": "round, phase, sample_id, student_id, incumbent_id, winner_id, challenger_id, reason",
    "training_sets": "round, version_id, rank",
    "rounds": "round, student_id, status, stop_reason",
    "students": "id, round, adapter, parent_id",
    "evaluations": "round, student_id, name, n",
    "runs": "status, data_hash, seed",
}


def load(schema: str, name: str, folder: Path, world: Path = Path(WORLD)) -> RunFolder:
    """A run folder with the lineage of a dump, and with the config that its code wrote."""
    text = (TESTS / f"schema_{schema}_{name}.sql").read_text(encoding="utf-8")
    run = RunFolder(folder / name)
    run.path.mkdir(parents=True)
    connection = sqlite3.connect(run.lineage)
    connection.executescript(text.replace(WORLD, str(world)))
    connection.execute("PRAGMA journal_mode = WAL")
    (config,) = connection.execute("SELECT config FROM runs").fetchone()
    connection.close()
    run.config.write_text(tomli_w.dumps(without_none(json.loads(config))))
    return run


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: without_none(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if value is not None
    }


def expected(schema: str) -> dict[str, Any]:
    """What its code told, but for a sum over no calls: it was null once, and is 0 since there is a cache."""
    document: dict[str, Any] = json.loads((TESTS / f"schema_{schema}.json").read_text(encoding="utf-8"))
    for row in document["rounds"]:
        if row["teacher"]["calls"] == 0:
            row["teacher"] |= {"prompt_tokens": 0, "completion_tokens": 0, "cost_usd": 0.0}
    return document


def assert_holds(found: Any, wanted: Any, where: str = "") -> None:
    """Whatever was told then is told now, number for number; more may be told."""
    if isinstance(wanted, dict):
        for key, value in wanted.items():
            assert_holds(found[key], value, f"{where}.{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
            assert_holds(one, other, f"{where}[{index}]")
    else:
        assert found == wanted, where


def assert_tells_what_it_told(lineage: Path, schema: str) -> None:
    told = expected(schema)
    with LineageReader.open(lineage) as history:
        assert_holds(history.rounds(), told["rounds"], "rounds")
        assert_holds(history.trace("4"), told["trace"], "trace")
        for what, read in {
            "pool": read_pool,
            "training": read_training,
            "preferences": read_preferences,
        }.items():
            exported = list(read(history, 2))
            texts = [
                [*(record.asked or ()), record.turns[-1].content, record.rejected and record.rejected.content]
                for record in exported
            ]
            assert [[text for text in each if text is not None] for each in texts] == told[what]


def test_every_schema_has_its_files() -> None:
    """The first two migrations came together; each later one was a schema that runs were written in."""
    names = [migration.name[:4] for migration in migrations._migrations]
    assert [name for name in names if name in SCHEMAS] == SCHEMAS
    assert set(names) - set(SCHEMAS) == {"0001", names[-1]}  # the newest is what today's code writes
    for schema in SCHEMAS:
        with sqlite3.connect(":memory:") as connection:
            connection.executescript((TESTS / f"schema_{schema}_finished.sql").read_text())
            applied = connection.execute("SELECT name FROM _sqlite_migrations ORDER BY id").fetchall()
        assert [name[:4] for (name,) in applied] == names[: names.index(schema) + 1]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_old_lineage_is_shown_as_it_was_and_left_alone(schema: str, tmp_path: Path) -> None:
    run = load(schema, "finished", tmp_path)
    before = run.lineage.read_bytes()
    assert_tells_what_it_told(run.lineage, schema)
    assert run.lineage.read_bytes() == before
    with open_database(run.lineage, read_only=True) as database:
        assert len(migrations.pending(database)) == len(migrations._migrations) - int(schema)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_old_lineage_is_brought_up_to_date_and_tells_the_same(schema: str, tmp_path: Path) -> None:
    run = load(schema, "finished", tmp_path)
    with sqlite3.connect(run.lineage) as connection:
        before = connection.execute("SELECT * FROM evolution").fetchall()
    with LineageWriter.open(run.lineage) as store:
        assert migrations.pending(store.db) == []
        assert [tuple(row) for row in store.db.execute("PRAGMA integrity_check")] == [("ok",)]
        assert list(store.db.execute("PRAGMA foreign_key_check")) == []
        assert store.spending().tokens == 0
        for view in ("pool", "outcomes", "pair_scores", "round_summary"):
            assert store.db.execute(f"SELECT COUNT(*) FROM {view}").fetchone()[0] > 0
        wanted = schema_of(Path(":memory:"))
        assert {name: columns(store.db, name) for name in wanted} == wanted
        after = store.db.execute("SELECT * FROM evolution").fetchall()
    assert_tells_what_it_told(run.lineage, schema)
    assert len(before) > 20
    # The last column is the outcome; once it was the decision's reason.
    assert rounded([row[:-1] for row in after]) == rounded([row[:-1] for row in before])
    words = {"tie": "refused", "unscorable": "refused", "policy": "refused"}
    assert [row[-1] for row in after] == [words.get(row[-1], row[-1]) for row in before]


def rounded(rows: list[tuple[Any, ...]]) -> list[list[Any]]:
    """Equal formulas may differ in the last bits."""
    return [[round(value, 9) if isinstance(value, float) else value for value in row] for row in rows]


def schema_of(path: Path) -> dict[str, list[str]]:
    """Tables and columns of a lineage that is made today."""
    with LineageWriter.create(path) as store:
        names = store.db.table_names()
        return {name: columns(store.db, name) for name in names if name != "_sqlite_migrations"}


def columns(database: Any, table: str) -> list[str]:
    query = f"SELECT name || ' ' || type || ' ' || \"notnull\" FROM pragma_table_info('{table}')"
    return sorted(made for (made,) in database.execute(query))


def test_old_lineage_that_cannot_be_migrated_stays_as_it_was(tmp_path: Path) -> None:
    run = load("0002", "finished", tmp_path)
    with closing(sqlite3.connect(run.lineage)) as connection:
        connection.execute("CREATE TABLE config_changes (x)")  # in the way of a migration
    before = dump(run.lineage)
    with pytest.raises((StoreError, sqlite3.OperationalError), match="config_changes already exists"):
        LineageWriter.open(run.lineage)
    assert dump(run.lineage) == before


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


@pytest.mark.slow
@pytest.mark.parametrize("schema", SCHEMAS)
def test_run_begun_by_an_old_version_goes_on_to_its_end(schema: str, tmp_path: Path) -> None:
    world = tmp_path / "world"
    write_world(world, samples=12)
    run = load(schema, "interrupted", tmp_path / "runs", world)
    with sqlite3.connect(run.lineage) as connection:
        before = set(connection.execute("SELECT id FROM teacher_calls"))
    change_run(run, ["teacher.timeout=60"])
    assert run_loop(run, LineDisplay()) == "rounds"
    ended, begun = tables(run.lineage), tables(load(schema, "finished", tmp_path / "runs", world).lineage)
    for table, rows in begun.items():
        assert ended[table] == rows, table
    with sqlite3.connect(run.lineage) as connection:
        assert before < set(connection.execute("SELECT id FROM teacher_calls"))
    assert sorted(path.name for path in (run.path / "adapters").iterdir()) == ["round-01", "round-02"]
    # The dump's paths were moved, which are in the sealed row of s0 and in the hash of the first config.
    found = {(fault["table"], fault["row"]) for fault in verify_run(run)["faults"]}
    assert found <= {("students", "s0"), ("config_changes", "")}


def tables(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with sqlite3.connect(path) as connection:
        return {
            table: sorted(
                connection.execute(
                    f"SELECT {columns} FROM {table}" + " WHERE round < 2" * (table in _BEFORE_TRAINING)
                ),
                key=repr,
            )
            for table, columns in _SAME_END.items()
        }
