"""A whole run with a judge behind a real server: shown, verified, and its students asked about other data."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from reflectune.loop.verify import verify_run
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.seals import seal_row
from reflectune.state.lineage.writer import LineageWriter
from tests.teacher_server import Reply, TeacherServer, serve_teacher
from tests.test_judging import shown
from tests.worlds import reflectune, write_world

pytestmark = [pytest.mark.slow, pytest.mark.no_cover]


def longer(request: dict[str, object], number: int) -> Reply:
    """The longer answer, and the first one where both are as long."""
    first, second = map(len, shown(request))
    return Reply(f"[[{'A' if first >= second else 'B'}]]")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, TeacherServer]]:
    folder = tmp_path_factory.mktemp("judged")
    with serve_teacher(longer) as server:
        judge = {"engine": "openai", "model": "wise", "base_url": server.url}
        judge |= {"against": ["s0", "previous", "references"]}
        write_world(
            folder, samples=12, data={"holdout": 4}, judge=judge, refinetune={"epochs": 1},
            evaluate={"max_tokens": 6, "base_samples": 2},
        )  # fmt: skip
        ran = reflectune("run", "config.toml", "--set", "rounds=1", cwd=folder)
        assert ran.returncode == 0, ran.stderr
        yield folder, server


def test_run_is_judged_after_each_round_and_shows_it(judged: tuple[Path, TeacherServer]) -> None:
    folder, server = judged
    document = json.loads(reflectune("show", "tiny", "--json", cwd=folder).stdout)
    named = [set(row["evaluations"]) - {"nll", "response_tokens"} for row in document["rounds"]]
    kinds = ("win_rate_", "lc_win_rate_")
    everyone = {f"{kind}{name}" for kind in kinds for name in ("s0", "previous", "references")}
    assert named == [{f"{kind}references" for kind in kinds}, everyone]
    contests = [[each["opponent"] for each in row["judge"]["contests"]] for row in document["rounds"]]
    assert contests == [["references"], ["references", "s0"]]
    sums = [row["judge"]["calls"] for row in document["rounds"]]
    assert sum(each["calls"] - each["cached"] for each in sums) == len(server.requests) > 0
    assert document["rounds"][0]["teacher"]["calls"] == 0
    text = reflectune("show", "tiny", cwd=folder, COLUMNS="200").stdout
    assert "The judge on held-out answers" in text
    assert "win rate\n" in text or "win rate " in text
    assert reflectune("report", "tiny", cwd=folder).returncode == 0
    page = (folder / "runs/tiny/report.html").read_text()
    assert "LC win rate against references" in page
    assert "The judge on held-out answers" in page


def test_verify_reads_verdicts_again_and_derives_win_rates(judged: tuple[Path, TeacherServer]) -> None:
    folder, _ = judged
    run = RunFolder(folder / "runs/tiny")
    document = verify_run(run)
    assert document["faults"] == []
    assert document["checked"]["judge_calls"] > 0
    with LineageWriter.open(run.lineage) as lineage:
        place = "prompt_hash <> '' AND opponent = 'references' AND student_id = 's1' AND verdict = 'first'"
        (row,) = lineage.db.query(f"SELECT * FROM judge_calls WHERE {place} ORDER BY sample_id LIMIT 1")
        changed = seal_row("judge_calls", row | {"verdict": "second", "cached": bool(row["cached"])})
        key = " AND ".join(f"{name} = :{name}" for name in ("student_id", "sample_id", "opponent", "swapped"))
        lineage.db.execute(f"UPDATE judge_calls SET verdict = :verdict, seal = :seal WHERE {key}", changed)
    try:
        faults = {(fault["table"], fault["row"]) for fault in verify_run(run)["faults"]}
        name = f"s1/references/{row['sample_id']}/{row['swapped']}/1"
        assert ("judge_calls", name) in faults
        assert {table for table, _ in faults} <= {"judge_calls", "evaluations"}
    finally:
        with LineageWriter.open(run.lineage) as lineage:
            lineage.db.execute(f"UPDATE judge_calls SET verdict = :verdict, seal = :seal WHERE {key}", row)


def test_students_answer_other_data_as_alpaca_eval_reads_it(judged: tuple[Path, TeacherServer]) -> None:
    folder, _ = judged
    records = [
        {"instruction": "Name two colours.", "output": "", "dataset": "mine"},
        {"instruction": "Name one.", "input": "Of the sky.", "output": "Blue."},
        {"instruction": "Too long. " * 300, "output": ""},
    ]
    (folder / "other.json").write_text(json.dumps(records))
    told = reflectune(
        "answer", "tiny", "other.json", "-o", "outputs.json", "--round", "1", "--max-tokens", "4", "--json",
        cwd=folder,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    document = json.loads(told.stdout)
    assert document == {
        "name": "tiny", "round": 1, "student": "s1", "out": "outputs.json", "written": 2, "left_out": 1,
    }  # fmt: skip
    outputs = json.loads((folder / "outputs.json").read_text())
    assert [row.pop("output") != "" for row in outputs] == [True, True]
    assert outputs == [
        {"instruction": "Name two colours.", "generator": "tiny-s1", "dataset": "mine"},
        {"instruction": "Name one.\nOf the sky.", "generator": "tiny-s1"},
    ]
    (folder / "prompts.jsonl").write_text('{"prompt": "Name a colour."}\n')
    alone = ("--columns", "instruction=prompt,response=prompt", "--round", "0", "--max-tokens", "2")
    told = reflectune("answer", "tiny", "prompts.jsonl", "-o", "alone.json", *alone, cwd=folder)
    assert told.stdout == "wrote 1 answers of s0 to alone.json\n"
    told = reflectune("answer", "tiny", "prompts.jsonl", "-o", "prompts.jsonl", *alone, cwd=folder)
    assert "prompts.jsonl: is the file of the given data; name another one to write" in told.stderr
    assert (folder / "prompts.jsonl").read_text() == '{"prompt": "Name a colour."}\n'
    refused = reflectune("answer", "tiny", "other.json", "-o", "outputs.json", "--round", "7", cwd=folder)
    assert (refused.returncode, len(json.loads((folder / "outputs.json").read_text()))) == (2, 2)
    assert "no student has been trained in round 7" in refused.stderr
