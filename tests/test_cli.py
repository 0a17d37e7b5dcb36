"""The real command on a tiny real world: what it prints, what it exits with, what it leaves behind."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from reflectune.agents.teacher.prompts import SHIPPED, open_prompts
from reflectune.loop.cli import app
from tests.worlds import ROOT, child_environment, command, invoke, reflectune, write_world

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with one finished run, "tiny"."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, samples=40)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert invoke("run", "config.toml") == 0
    return folder


@pytest.fixture
def inside(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(world)
    return world


def document(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    capsys.readouterr()
    assert invoke(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a wrong use gets."""
    capsys.readouterr()
    assert invoke(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    return err


def test_run_leaves_a_whole_folder(world: Path) -> None:
    names = {path.name for path in (world / "runs/tiny").iterdir()}
    assert names >= {"config.toml", "lineage.db", "adapters"}
    assert {path.name for path in (world / "runs/tiny/adapters").iterdir()} == {"round-01", "round-02"}
    assert (world / "runs/tiny/adapters/round-01/adapter_model.safetensors").is_file()


def test_show_has_the_documented_keys(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = document(capsys, "show", "tiny")
    assert {key: shown[key] for key in ("name", "status", "stop_reason")} == {
        "name": "tiny",
        "status": "finished",
        "stop_reason": "rounds",
    }
    assert [row["round"] for row in shown["rounds"]] == [0, 1, 2]
    assert [row["student"] for row in shown["rounds"]] == ["s0", "s1", "s2"]
    for row in shown["rounds"]:
        assert list(row) == [
            "round", "student", "pool", "training", "frozen", "instruction", "response", "ifd", "r_ifd",
            "response_tokens", "evaluations", "teacher", "seconds",
        ]  # fmt: skip
        assert row["pool"] == 34
        assert set(row["evaluations"]) == {"nll", "response_tokens"}
    one = shown["rounds"][1]
    assert list(one["instruction"]) == ["reflected", "unchanged", "failed", "accepted", "teacher", "statuses"]
    assert sum(one["instruction"][key] for key in ("reflected", "unchanged", "failed")) == 34
    assert 0 < one["training"] <= 34
    assert one["ifd"]["mean"] > 0


def test_show_and_runs_are_readable(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke("show", "tiny") == 0
    assert "tiny: finished, stopped: rounds" in capsys.readouterr().out
    assert invoke("runs") == 0
    assert re.search(r"tiny\s+finished\s+2 of 2\s+40\s", capsys.readouterr().out)
    (overview,) = document(capsys, "runs")
    assert (overview["name"], overview["round"], overview["samples"]) == ("tiny", 2, 40)


def test_trace_tells_a_sample_as_json_and_as_a_story(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    positions = [
        position
        for position in range(40)
        if len(document(capsys, "trace", "tiny", position)["versions"]) == 5
    ]
    traced = document(capsys, "trace", "tiny", positions[0])
    assert [(item["round"], item["phase"]) for item in traced["decisions"]] == [
        (round, phase) for round in (1, 2) for phase in ("instruction", "response")
    ]
    assert {"sample", "versions", "decisions", "trained_in"} <= set(traced)
    for version in traced["versions"]:
        assert {
            "id", "parent", "round", "phase", "instruction", "input", "response", "critique", "scores",
            "current",
        } <= set(version)  # fmt: skip
    assert sum(version["current"] for version in traced["versions"]) == 1
    assert document(capsys, "trace", "tiny", traced["sample"][:8]) == traced
    capsys.readouterr()
    assert invoke("trace", "tiny", positions[0]) == 0
    story = capsys.readouterr().out
    assert "round 0 · original" in story
    assert "{+" in story
    assert "[-" in story
    assert re.search(r"(accepted|refused): r-IFD \d", story)


def test_export_writes_pool_training_and_preferences(
    inside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = document(capsys, "show", "tiny")
    pool, training, preferences = (tmp_path / name for name in ("pool.json", "t.jsonl", "p.jsonl"))
    written = document(capsys, "export", "tiny", "-o", pool)
    assert (written["written"], written["round"]) == (34, 2)
    assert {frozenset(record) for record in json.loads(pool.read_text())} == {
        frozenset({"instruction", "input", "output"})
    }
    assert invoke("export", "tiny", "--what", "training", "--round", 1, "-o", training) == 0
    assert len(training.read_text().splitlines()) == shown["rounds"][1]["training"]
    options = ("--what", "preferences", "--format", "messages")
    assert invoke("export", "tiny", *options, "-o", preferences) == 0
    for line in preferences.read_text().splitlines():
        record = json.loads(line)
        assert set(record) == {"prompt", "chosen", "rejected"}
        assert record["chosen"] != record["rejected"]
    assert invoke("export", "tiny", "--round", 0, "-o", pool) == 0
    given = json.loads((inside / "data.json").read_text())
    assert all(record in given for record in json.loads(pool.read_text()))
    assert "round 3 is not complete" in complaint(capsys, "export", "tiny", "--round", 3, "-o", pool)


def test_score_writes_a_line_per_record(
    inside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.json"
    records = json.loads((inside / "data.json").read_text())[:3]
    data.write_text(json.dumps([*records, {"instruction": "Say nothing.", "output": ""}]))
    assert invoke("score", data, "--student", "student", "--template", "plain") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2, 3]
    assert [line["status"] for line in lines] == ["ok", "ok", "ok", "empty"]
    assert lines[3]["ifd"] is None
    for line in lines[:3]:
        nll, tokens = line["nll"], line["num_tokens"]
        assert line["ifd_loss"] == pytest.approx(nll["response_given_instruction"] / nll["response_alone"])
        assert tokens["response_given_instruction"] > 0
    adapter = inside / "runs/tiny/adapters/round-01"
    out = tmp_path / "scores.jsonl"
    options = ("--student", "student", "--adapter", adapter, "--template", "plain", "-o", out)
    summary = document(capsys, "score", data, *options)
    assert (summary["records"], summary["scored"]) == (4, 3)
    assert json.loads(out.read_text().splitlines()[0])["ifd"] != lines[0]["ifd"]


def test_init_writes_a_config_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("init") == 0
    before = (tmp_path / "reflectune.toml").read_text()
    assert "reflectune.toml exists" in complaint(capsys, "init")
    assert (tmp_path / "reflectune.toml").read_text() == before
    assert "cannot be written" in complaint(capsys, "init", "no/such/folder.toml")


def test_prompts_prints_a_file_that_opens(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['reflectune', 'prompts']\n"
        "from reflectune.loop.cli import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'transformers', 'langgraph'} & set(sys.modules)\n"
    )
    mine = tmp_path / "mine.toml"
    with mine.open("wb") as stream:
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=stream, check=True)
    assert mine.read_bytes() == SHIPPED.read_bytes()
    assert open_prompts(mine) == open_prompts(None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "missing.toml"], "no such config file"),
        (["run", "config.toml"], "a run called tiny exists"),
        (["run", "config.toml", "--name", "new", "--set", "data.pth=x"], "did you mean path?"),
        (["run", "config.toml", "--name", "../new"], "name: string should match pattern"),
        (["run", "config.toml", "--name", "new", "--set", "data.path=missing.json"], "missing.json"),
        (["run", "config.toml", "--name", "new", "--set", "data.path=empty.json"], "empty.json"),
        (["run", "config.toml", "--name", "new", "--set", "data.path=broken.json"], "line 3"),
        (["run", "config.toml", "--name", "new", "--set", "data.path=turns.json"], "single-turn"),
        (["run", "config.toml", "--name", "new", "--set", "data.path=holes.json"], "1 of 2 records"),
        (["run", "config.toml", "--name", "new", "--set", "teacher.path=none.jsonl"], "none.jsonl"),
        (["run", "config.toml", "--name", "new", "--set", "teacher.prompts=none.toml"], "no such prompts"),
        (["run", "config.toml", "--name", "new", "--set", "teacher.prompts=config.toml"], "unknown section"),
        (["run", "config.toml", "--name", "new", "--set", "student.model=./hollow"], "weights"),
        (["run", "config.toml", "--name", "new", "--set", "student.model=./none"], "no such model"),
        (["run", "config.toml", "--name", "new", "--set", "student.template=chat"], "chat template"),
        (["run", "config.toml", "--name", "new", "--set", "student.model=./cut"], "could not be opened"),
        (["run", "config.toml", "--name", "new", "--set", "student.device=nowhere"], "student.device"),
        (["run", "config.toml", "--name", "new", "--set", "evaluate.checker=nope:f"], "cannot import nope"),
        (["run", "config.toml", "--name", "new", "--set", "selection.policy=best"], "selection.policy"),
        (["run", "config.toml", "--name", ""], "name: string should match pattern"),
        (["run", "config.toml", "--name", "new", "--set", "data.holdout=true"], "data.holdout"),
        (["resume", "tiny", "--set", "seed=1"], "--set seed: a run that has begun keeps it"),
        (["resume", "tiny", "--set", "rounds=0"], "--set: rounds: input should be greater than"),
        (["estimate", "missing.toml"], "no such config file"),
        (["resume", "missing"], "no run called missing in runs; known: tiny"),
        (["show", "missing"], "no run called missing"),
        (["show", "../runs/tiny"], "no run called"),
        (["trace", "tiny", "999"], "no sample 999; give a position from 0 to 39"),
        (["export", "tiny", "-o", "no/folder/x.json"], "no/folder"),
        (["score", "missing.json", "--student", "student", "--template", "plain"], "missing.json"),
        (
            ["score", "data.json", "--student", "student", "--template", "plain", "--adapter", "none"],
            "no LoRA adapter there",
        ),
        (["score", "data.json", "--student", "./none"], "no such model folder"),
        (["score", "data.json", "--student", "student", "--json"], "say with -o FILE"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line_and_leaves_nothing_behind(
    inside: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (inside / "empty.json").write_text("")
    (inside / "broken.json").write_text('[\n {"instruction": "a", "output": "b"},\n {"instruction" "c"}\n]')
    turn = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    (inside / "turns.json").write_text(json.dumps([{"messages": [*turn, *turn]}]))
    (inside / "holes.json").write_text(json.dumps([{"instruction": "a", "output": "b"}, {"output": "c"}]))
    (inside / "hollow").mkdir(exist_ok=True)
    for name in ("config.json", "tokenizer.json"):
        (inside / "hollow" / name).write_bytes((inside / "student" / name).read_bytes())
    shutil.copytree(inside / "student", inside / "cut", dirs_exist_ok=True)
    (inside / "cut/model.safetensors").write_bytes((inside / "student/model.safetensors").read_bytes()[:999])
    before = sorted((inside / "runs").rglob("*"))
    assert message in complaint(capsys, *arguments)
    assert sorted((inside / "runs").rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show"], "Missing argument"),
        (["unknown"], "No such command"),
        (["export", "tiny", "-o", "x", "--format", "xml"], "xml"),
    ],
)
def test_wrong_use_is_explained(
    inside: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert invoke(*arguments) == 2
    assert message in capsys.readouterr().err


def test_run_made_by_a_newer_version_is_refused(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(inside / "runs/tiny", inside / "later/newer")
    with sqlite3.connect(inside / "later/newer/lineage.db") as connection:
        connection.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
            "VALUES ('reflectune', '9999_future', 'later')"
        )
    for name in ("show", "resume"):
        assert "made by a newer version" in complaint(capsys, name, "newer", "--runs", "later")


def test_run_made_by_another_machine_is_not_resumed(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(inside / "runs/tiny", inside / "other/tiny")
    with sqlite3.connect(inside / "other/tiny/lineage.db") as connection:
        connection.execute("UPDATE runs SET versions = json_set(versions, '$.graph', 'another')")
    assert "whose machine has other nodes" in complaint(capsys, "resume", "tiny", "--runs", "other")


def test_run_with_an_impossible_adapter_ends_before_it_begins(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--name", "new", "--set", "refinetune.target_modules=nonesuch")
    assert invoke("run", "config.toml", *options) == 1
    assert "refinetune.target_modules" in capsys.readouterr().err
    assert not (inside / "runs/new").exists()


def copy_of_run(world: Path, runs: str) -> Path:
    shutil.copytree(world / "runs/tiny", world / runs / "tiny")
    return world / runs / "tiny"


def test_run_whose_config_was_changed_is_not_resumed(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = copy_of_run(inside, "changed") / "config.toml"
    config.write_text(config.read_text().replace("rounds = 2", "rounds = 5").replace("r = 4", "r = 8"))
    message = complaint(capsys, "resume", "tiny", "--runs", "changed")
    assert "config.toml was changed since the run began (rounds 2 -> 5, refinetune.r 4 -> 8)" in message


def test_run_begun_before_a_key_existed_can_be_resumed(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of_run(inside, "older")
    with sqlite3.connect(folder / "lineage.db") as connection:
        for key in ("teacher.timeout", "teacher.freeze_after", "refinetune.tokens", "selection.ifd_cap"):
            connection.execute("UPDATE runs SET config = json_remove(config, ?)", [f"$.{key}"])
    connection.close()
    assert invoke("resume", "tiny", "--runs", "older") == 0, capsys.readouterr().err


def test_checkpoints_of_an_earlier_version_are_left_alone(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of_run(inside, "broken")
    before = document(capsys, "show", "tiny", "--runs", "broken")
    (folder / "checkpoints.db").write_bytes(b"no database")
    assert invoke("resume", "tiny", "--runs", "broken") == 0
    assert (folder / "checkpoints.db").read_bytes() == b"no database"
    after = document(capsys, "show", "tiny", "--runs", "broken")
    for row in (*before["rounds"], *after["rounds"]):
        row.pop("seconds")
    assert after == before | {"status": "finished"}


def test_run_can_be_moved_and_read_where_nothing_can_be_written(world: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("takes root, to run as somebody who may not write")
    with tempfile.TemporaryDirectory() as elsewhere:
        os.chmod(elsewhere, 0o755)
        moved = Path(elsewhere) / "tiny"
        shutil.copytree(world / "runs/tiny", moved)
        for name in ("lineage.db-wal", "lineage.db-shm"):
            (moved / name).unlink(missing_ok=True)
        code = (
            "import os, sys; from pathlib import Path\n"
            "from reflectune.state.lineage.reader import LineageReader\n"
            "import sqlite_utils; sqlite_utils.Database(memory=True)  # loads plugins, while it may\n"
            "os.setuid(65534)\n"
            "with LineageReader.open(Path(sys.argv[1]) / 'lineage.db') as run: print(run.last_round())"
        )
        result = subprocess.run(
            [sys.executable, "-c", code, str(moved)],
            cwd=ROOT, env=child_environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (result.stdout, result.stderr) == ("2\n", "")


def test_runs_lists_what_cannot_be_read_beside_the_others(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_of_run(inside, "mixed")
    (inside / "mixed/junk").mkdir()
    (inside / "mixed/junk/lineage.db").write_text("this is no database, whatever its name may say")
    listed = {run["name"]: run["status"] for run in document(capsys, "runs", "--runs", "mixed")}
    assert listed == {"tiny": "finished", "junk": "unreadable"}
    assert invoke("runs", "--runs", "mixed") == 0
    assert "unreadable" in capsys.readouterr().out


def test_unexpected_errors_are_one_line_and_a_traceback_on_request(
    inside: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(folder: object) -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr("reflectune.loop.show.documents.overview", explode)
    monkeypatch.setenv("REFLECTUNE_DEBUG", "")
    assert invoke("runs") == 1
    err = capsys.readouterr().err
    assert err.startswith("reflectune: unexpected ZeroDivisionError: on purpose")
    assert err.count("\n") == 1
    assert invoke("--debug", "runs") == 1
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_says_how_to_go_on_and_exits_130(
    inside: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("reflectune.loop.nodes.evaluate.evaluate_student", interrupt)
    assert invoke("run", "config.toml", "--name", "cut", "--runs", "interrupted") == 130
    assert "go on with `reflectune resume cut`" in capsys.readouterr().err
    assert document(capsys, "runs", "--runs", "interrupted")[0]["status"] == "interrupted"


def test_run_by_two_processes_is_refused(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from reflectune.state.folder import RunFolder

    with RunFolder(inside / "runs/tiny").lock():
        assert "is working on this run" in complaint(capsys, "resume", "tiny")
    assert document(capsys, "show", "tiny")["status"] == "finished"


def test_json_output_is_the_whole_of_stdout(world: Path) -> None:
    result = reflectune("show", "tiny", "--json", cwd=world)
    assert json.loads(result.stdout)["name"] == "tiny"
    assert result.stderr == ""


def test_broken_pipe_is_no_traceback(world: Path) -> None:
    shell = subprocess.run(
        ["bash", "-c", '"$@" | true', "-", *command("show", "tiny")],
        cwd=world,
        env=child_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in shell.stderr


def test_every_command_documents_itself() -> None:
    for registered in app.registered_commands:
        assert registered.callback is not None
        assert registered.callback.__doc__
    assert (ROOT / "README.md").is_file()
