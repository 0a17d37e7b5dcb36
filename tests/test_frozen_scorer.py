"""A run whose base student decides in all rounds."""

import sqlite3
from pathlib import Path

import pytest

from reflectune.loop.show.documents import open_lineage
from reflectune.state.folder import RunFolder
from tests.test_pages import Pages
from tests.worlds import reflectune, write_world

pytestmark = pytest.mark.slow


def test_the_base_student_decides_in_all_rounds_and_the_newest_goes_on_being_trained(tmp_path: Path) -> None:
    config = write_world(
        tmp_path,
        samples=12,
        data={"holdout": 3},
        selection={"scorer": "base"},
        evaluate={"answers": 0, "base_samples": 0},
    )
    done = reflectune("run", config, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = RunFolder(tmp_path / "runs" / "tiny")
    with sqlite3.connect(folder.lineage) as db:
        deciding = db.execute(
            "SELECT DISTINCT round, student_id FROM decisions WHERE student_id <> '' ORDER BY round"
        ).fetchall()
        versions = db.execute("SELECT COUNT(*) FROM versions WHERE round = 2").fetchone()[0]
        scored = db.execute(
            "SELECT COUNT(DISTINCT version_id) FROM scores JOIN versions ON versions.id = version_id "
            "WHERE round = 2 AND student_id <> 's0'"
        ).fetchone()[0]
        views = db.execute(
            "SELECT evolution.student_id, ifd IS NULL, r_ifd IS NULL, response_tokens IS NULL "
            "FROM evolution JOIN decisions ON winner_id = version_id WHERE evolution.round = 2 "
            "AND reason = 'accepted' AND evolution.phase = 'response'"
        ).fetchall()
        students = [row[0] for row in db.execute("SELECT id FROM students ORDER BY round")]
    assert deciding == [(1, "s0"), (2, "s0")]
    assert versions
    assert scored == 0
    assert set(views) == {("s0", 0, 0, 0)}
    assert students == ["s0", "s1", "s2"]
    with open_lineage(folder) as lineage:
        assert lineage.round(2)["r_ifd"]["median"] is not None
        assert lineage.round(2)["training"]
    assert reflectune("verify", "tiny", cwd=tmp_path).returncode == 0
    page = Pages(tmp_path / "runs", "tiny").get("/rounds/2").text
    assert "Student s0 decided; the training gave s2." in page
    assert page.count(", under s0") == 2
    again = reflectune("replay", "tiny", "--json", cwd=tmp_path)
    assert '"changes": []' in again.stdout, again.stderr
    assert '"forks_after": null' in again.stdout
