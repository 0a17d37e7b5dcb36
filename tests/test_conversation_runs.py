"""Runs on conversations and on data with odd rows, by the command, from a file to what is shown."""

import json
from pathlib import Path

import pytest

from tests.prompting import write_own
from tests.worlds import make_records, reflectune, write_world

pytestmark = pytest.mark.slow


def test_run_refuses_prompts_without_words_for_contexts_in_a_line(tmp_path: Path) -> None:
    prompts = write_own(tmp_path, context=None)
    write_world(tmp_path, samples=8, exchanges=2, data={"holdout": 2}, teacher={"prompts": str(prompts)})
    result = reflectune("run", "config.toml", cwd=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "teacher.prompts: the file has no section [context]" in line
    assert not (tmp_path / "runs" / "tiny").exists()


def test_rows_that_are_skipped_are_told_by_run_show_and_report(tmp_path: Path) -> None:
    write_world(tmp_path, samples=8, data={"holdout": 2, "odd": {"tools": "skip", "invalid": "skip"}})
    rows = [*make_records(8), make_records(1)[0] | {"tools": [{"name": "f"}]}, {"title": "nothing"}]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    ran = reflectune("run", "config.toml", "--set", "rounds=1", cwd=tmp_path)
    assert ran.returncode == 0
    told = "eft out of the data: 2 rows"
    assert told in ran.stderr
    shown = reflectune("show", "tiny", cwd=tmp_path).stdout
    assert told in shown
    assert "index 8" in shown
    document = json.loads(reflectune("show", "tiny", "--json", cwd=tmp_path).stdout)
    assert {kind["kind"]: kind["number"] for kind in document["skipped"]} == {"tools": 1, "invalid": 1}
    assert reflectune("report", "tiny", "-o", "report.html", cwd=tmp_path).returncode == 0
    assert told in (tmp_path / "report.html").read_text()
