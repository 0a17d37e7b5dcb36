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
from tests.worlds import ROOT, child_environment, command, copy_world, invoke, reflectune

pytestmark = pytest.mark.slow

NEW = ("run", "config.toml", "--name", "new", "--set")
PLAIN = ("--student", "student", "--template", "plain")


@pytest.fixture(scope="module")
def world(finished_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with one finished run, "tiny", to be worked in."""
    return copy_world(finished_world, tmp_path_factory.mktemp("world"))


def as_json(world: Path, *arguments: object) -> Any:
    return json.loads(printed(world, *arguments, "--json"))


def printed(world: Path, *arguments: object) -> str:
    result = reflectune(*arguments, cwd=world)
    assert result.returncode == 0, result.stderr
    return result.stdout


def refused(world: Path, *arguments: object) -> str:
    """The one line that a wrong use gets."""
    result = reflectune(*arguments, cwd=world)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def document(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    """What a command prints with --json in the folder that the test is in."""
    capsys.readouterr()
    assert invoke(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def complaint(_: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a wrong use gets there."""
    return refused(Path(), *arguments)


def copy_of_run(world: Path, runs: str) -> Path:
    shutil.copytree(world / "runs/tiny", world / runs / "tiny")
    return world / runs / "tiny"


def test_run_leaves_a_whole_folder(world: Path) -> None:
    names = {path.name for path in (world / "runs/tiny").iterdir()}
    assert names >= {"config.toml", "lineage.db", "adapters"}
    assert {path.name for path in (world / "runs/tiny/adapters").iterdir()} == {"round-01", "round-02"}
    assert (world / "runs/tiny/adapters/round-01/adapter_model.safetensors").is_file()


def test_show_and_runs_tell_a_run_as_json_and_as_tables(world: Path) -> None:
    shown = as_json(world, "show", "tiny")
    assert (shown["name"], shown["status"], shown["stop_reason"]) == ("tiny", "finished", "rounds")
    assert [(row["round"], row["student"]) for row in shown["rounds"]] == [(0, "s0"), (1, "s1"), (2, "s2")]
    for row in shown["rounds"]:
        assert row["pool"] == 34
        assert set(row["evaluations"]) == {"nll", "response_tokens"}
    one = shown["rounds"][1]
    assert sum(one["instruction"][key] for key in ("reflected", "unchanged", "failed")) == 34
    assert 0 < one["training"] <= 34
    assert one["ifd"]["mean"] > 0
    (overview,) = as_json(world, "runs")
    assert (overview["name"], overview["round"], overview["samples"]) == ("tiny", 2, 40)
    assert "tiny: finished, stopped: rounds" in printed(world, "show", "tiny")
    assert re.search(r"tiny\s+finished\s+2 of 2\s+40\s", printed(world, "runs"))


def test_trace_tells_a_sample_as_json_and_as_a_story(world: Path) -> None:
    traces = (as_json(world, "trace", "tiny", position) for position in range(40))
    traced = next(trace for trace in traces if len(trace["versions"]) == 5)
    assert [(item["round"], item["phase"]) for item in traced["decisions"]] == [
        (round, phase) for round in (1, 2) for phase in ("instruction", "response")
    ]
    assert sum(version["current"] for version in traced["versions"]) == 1
    assert as_json(world, "trace", "tiny", traced["sample"][:8]) == traced
    story = printed(world, "trace", "tiny", traced["position"])
    for part in (r"round 0 · original", r"\{\+", r"\[-", r"(accepted|refused): r-IFD \d"):
        assert re.search(part, story)


def test_export_writes_pool_training_and_preferences(world: Path, tmp_path: Path) -> None:
    shown = as_json(world, "show", "tiny")
    pool, training, preferences = (tmp_path / name for name in ("pool.json", "t.jsonl", "p.jsonl"))
    written = as_json(world, "export", "tiny", "-o", pool)
    assert (written["written"], written["round"]) == (34, 2)
    assert {frozenset(record) for record in json.loads(pool.read_text())} == {
        frozenset({"instruction", "input", "output"})
    }
    printed(world, "export", "tiny", "--what", "training", "--round", 1, "-o", training)
    assert len(training.read_text().splitlines()) == shown["rounds"][1]["training"]
    options = ("--what", "preferences", "--format", "messages")
    printed(world, "export", "tiny", *options, "-o", preferences)
    for line in preferences.read_text().splitlines():
        record = json.loads(line)
        assert set(record) == {"prompt", "chosen", "rejected"}
        assert record["chosen"] != record["rejected"]
    written = as_json(world, "export", "tiny", *options[:2], "--scores", "-o", preferences)
    for line in preferences.read_text().splitlines():
        record = json.loads(line)  # the lowest r-IFD wins
        assert record["margin"] == record["score_chosen"] - record["score_rejected"] > 0
    refusal = refused(world, "export", "tiny", "--format", "ultrafeedback", "-o", preferences)
    assert "--format ultrafeedback: is of preferences alone" in refusal
    printed(world, "export", "tiny", "--round", 0, "-o", pool)
    given = json.loads((world / "data.json").read_text())
    assert all(record in given for record in json.loads(pool.read_text()))
    assert "round 3 is not complete" in refused(world, "export", "tiny", "--round", 3, "-o", pool)


def test_export_for_a_trainer_says_how_to_train(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "to train"
    told = as_json(world, "export", "tiny", "--for", "llama-factory", "--full", "-o", out)
    assert (told["written"], told["trainer"], told["command"]) == (
        34,
        "llama-factory",
        "llamafactory-cli train train.yaml",
    )
    assert {path.name for path in out.iterdir()} == {"train.jsonl", "train.yaml", "dataset_info.json"}
    line = " ".join(
        printed(world, "export", "tiny", "--for", "trl", "--what", "preferences", "-o", out).split()
    )
    assert f"train with `cd '{out}' && trl dpo --config train.yaml`" in line
    assert "--full: is for a trainer's config" in refused(world, "export", "tiny", "--full", "-o", out)
    refusal = refused(world, "export", "tiny", "--for", "trl", "--format", "alpaca", "-o", out)
    assert "--for trl: has a format of its own" in refusal


def test_score_writes_a_line_per_record(world: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    records = json.loads((world / "data.json").read_text())[:3]
    data.write_text(json.dumps([*records, {"instruction": "Say nothing.", "output": ""}]))
    lines = [json.loads(line) for line in printed(world, "score", data, *PLAIN).splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2, 3]
    assert [line["status"] for line in lines] == ["ok", "ok", "ok", "empty"]
    assert lines[3]["ifd"] is None
    for line in lines[:3]:
        nll, tokens = line["nll"], line["num_tokens"]
        assert line["ifd_loss"] == pytest.approx(nll["response_given_instruction"] / nll["response_alone"])
        assert tokens["response_given_instruction"] > 0
    adapter = world / "runs/tiny/adapters/round-01"
    out = tmp_path / "scores.jsonl"
    summary = as_json(world, "score", data, *PLAIN, "--adapter", adapter, "-o", out)
    assert (summary["records"], summary["scored"]) == (4, 3)
    assert json.loads(out.read_text().splitlines()[0])["ifd"] != lines[0]["ifd"]


def test_init_writes_a_config_once(tmp_path: Path) -> None:
    printed(tmp_path, "init")
    before = (tmp_path / "reflectune.toml").read_text()
    assert "reflectune.toml exists" in refused(tmp_path, "init")
    assert (tmp_path / "reflectune.toml").read_text() == before
    assert "cannot be written" in refused(tmp_path, "init", "no/such/folder.toml")


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
        ([*NEW, "data.pth=x"], "did you mean path?"),
        (["run", "config.toml", "--name", "../new"], "name: string should match pattern"),
        ([*NEW, "data.path=missing.json"], "missing.json"),
        ([*NEW, "data.path=broken.json"], "line 3"),
        ([*NEW, "teacher.path=none.jsonl"], "none.jsonl"),
        ([*NEW, "teacher.prompts=none.toml"], "no such prompts"),
        ([*NEW, "teacher.prompts=config.toml"], "unknown section"),
        ([*NEW, "student.model=./hollow"], "weights"),
        ([*NEW, "student.model=./none"], "no such model"),
        ([*NEW, "student.template=chat"], "chat template"),
        ([*NEW, "student.model=./cut"], "could not be opened"),
        ([*NEW, "student.device=nowhere"], "student.device"),
        ([*NEW, "evaluate.checker=nope:f"], "cannot import nope"),
        ([*NEW, "selection.policy=best"], "selection.policy"),
        (["run", "config.toml", "--name", ""], "name: string should match pattern"),
        ([*NEW, "data.holdout=true"], "data.holdout"),
        (["resume", "tiny", "--set", "seed=1"], "--set seed: a run that has begun keeps it"),
        (["resume", "tiny", "--set", "rounds=0"], "--set: rounds: input should be greater than"),
        (["estimate", "missing.toml"], "no such config file"),
        (["resume", "missing"], "no run called missing in runs; known: tiny"),
        (["show", "missing"], "no run called missing"),
        (["show", "../runs/tiny"], "no run called"),
        (["trace", "tiny", "999"], "no sample 999; give a position from 0 to 39"),
        (["export", "tiny", "-o", "no/folder/x.json"], "no/folder"),
        (["score", "missing.json", *PLAIN], "missing.json"),
        (["score", "data.json", *PLAIN, "--adapter", "none"], "no LoRA adapter there"),
        (["score", "data.json", "--student", "./none"], "no such model folder"),
        (["score", "data.json", "--student", "student", "--json"], "say with -o FILE"),
        (["export", "tiny", "-o", "x.csv"], "x.csv: ends in .csv; name a file that ends in .json"),
        (["export", "tiny", "-o", "x", "--format", "xml"], "xml"),
        (["show"], "Missing argument 'name'; `reflectune show --help` lists its arguments and options"),
        (["run", "config.toml", "--nmae", "x"], "; `reflectune run --help` lists its"),
        (["signal", "tiny", "--format", "foo"], "Invalid value for '--format': 'foo' is not one of 'auto'"),
        (["unknown"], "No such command 'unknown'; `reflectune --help` lists the commands and options"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line_and_leaves_nothing_behind(
    world: Path, arguments: list[str], message: str
) -> None:
    (world / "broken.json").write_text('[\n {"instruction": "a", "output": "b"},\n {"instruction" "c"}\n]')
    (world / "hollow").mkdir(exist_ok=True)
    for name in ("config.json", "tokenizer.json"):
        (world / "hollow" / name).write_bytes((world / "student" / name).read_bytes())
    shutil.copytree(world / "student", world / "cut", dirs_exist_ok=True)
    (world / "cut/model.safetensors").write_bytes((world / "student/model.safetensors").read_bytes()[:999])
    before = sorted((world / "runs").rglob("*"))
    assert message in refused(world, *arguments)
    assert sorted((world / "runs").rglob("*")) == before


def test_run_made_by_a_newer_version_is_refused(world: Path) -> None:
    with sqlite3.connect(copy_of_run(world, "later") / "lineage.db") as connection:
        connection.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
            "VALUES ('reflectune', '9999_future', 'later')"
        )
    for name in ("show", "resume"):
        assert "made by a newer version" in refused(world, name, "tiny", "--runs", "later")


def test_run_made_by_another_machine_is_not_resumed(world: Path) -> None:
    with sqlite3.connect(copy_of_run(world, "other") / "lineage.db") as connection:
        connection.execute("UPDATE runs SET versions = json_set(versions, '$.graph', 'another')")
    assert "whose machine has other nodes" in refused(world, "resume", "tiny", "--runs", "other")


def test_run_with_an_impossible_adapter_ends_before_it_begins(world: Path) -> None:
    options = ("--name", "new", "--set", "refinetune.target_modules=nonesuch")
    result = reflectune("run", "config.toml", *options, cwd=world)
    assert result.returncode == 1
    assert "refinetune.target_modules" in result.stderr
    assert not (world / "runs/new").exists()


def test_run_whose_config_was_changed_is_not_resumed(world: Path) -> None:
    config = copy_of_run(world, "changed") / "config.toml"
    config.write_text(config.read_text().replace("rounds = 2", "rounds = 5").replace("r = 4", "r = 8"))
    message = refused(world, "resume", "tiny", "--runs", "changed")
    assert "config.toml was changed since the run began (rounds 2 -> 5, refinetune.r 4 -> 8)" in message


def test_run_of_an_earlier_version_is_gone_on_with(world: Path) -> None:
    folder = copy_of_run(world, "older")
    before = as_json(world, "show", "tiny", "--runs", "older")
    with sqlite3.connect(folder / "lineage.db") as connection:
        for key in ("teacher.timeout", "teacher.freeze_after", "refinetune.tokens", "selection.ifd_cap"):
            connection.execute("UPDATE runs SET config = json_remove(config, ?)", [f"$.{key}"])
    connection.close()
    (folder / "checkpoints.db").write_bytes(b"no database")
    printed(world, "resume", "tiny", "--runs", "older")
    assert (folder / "checkpoints.db").read_bytes() == b"no database"
    after = as_json(world, "show", "tiny", "--runs", "older")
    assert [row["evaluations"] for row in after["rounds"]] == [row["evaluations"] for row in before["rounds"]]


def test_run_can_be_moved_and_read_where_nothing_can_be_written(world: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("takes root, to run as somebody who may not write")
    code = (
        "import os, sys; from pathlib import Path\n"
        "from reflectune.state.lineage.reader import LineageReader\n"
        "import sqlite_utils; sqlite_utils.Database(memory=True)  # loads plugins, while it may\n"
        "os.setuid(65534)\n"
        "with LineageReader.open(Path(sys.argv[1]) / 'lineage.db') as run: print(run.last_round())"
    )
    with tempfile.TemporaryDirectory() as elsewhere:
        os.chmod(elsewhere, 0o755)
        moved = shutil.copytree(world / "runs/tiny", Path(elsewhere) / "tiny")
        for name in ("lineage.db-wal", "lineage.db-shm"):
            (moved / name).unlink(missing_ok=True)
        process = [sys.executable, "-c", code, str(moved)]
        result = subprocess.run(process, cwd=ROOT, env=child_environment(), capture_output=True, check=False)
    assert (result.stdout, result.stderr) == (b"2\n", b"")


def test_runs_lists_what_cannot_be_read_beside_the_others(world: Path) -> None:
    copy_of_run(world, "mixed")
    (world / "mixed/junk").mkdir()
    (world / "mixed/junk/lineage.db").write_text("this is no database, whatever its name may say")
    listed = {run["name"]: run["status"] for run in as_json(world, "runs", "--runs", "mixed")}
    assert listed == {"tiny": "finished", "junk": "unreadable"}
    assert "unreadable" in printed(world, "runs", "--runs", "mixed")


def test_unexpected_errors_are_one_line_and_a_traceback_on_request(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(folder: object) -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr("reflectune.loop.show.documents.overview", explode)
    result = reflectune("runs", cwd=world, REFLECTUNE_DEBUG="")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("reflectune: unexpected ZeroDivisionError: on purpose")
    assert "Traceback" in reflectune("--debug", "runs", cwd=world).stderr


def test_interrupt_says_how_to_go_on_and_exits_130(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("reflectune.loop.nodes.evaluate.derive_measures", interrupt)
    result = reflectune("run", "config.toml", "--name", "cut", "--runs", "interrupted", cwd=world)
    assert result.returncode == 130
    assert "go on with `reflectune resume cut --runs interrupted`" in result.stderr
    assert as_json(world, "runs", "--runs", "interrupted")[0]["status"] == "interrupted"


def test_run_by_two_processes_is_refused(world: Path) -> None:
    from reflectune.state.folder import RunFolder

    with RunFolder(world / "runs/tiny").lock():
        assert "is working on this run" in refused(world, "resume", "tiny")
    assert as_json(world, "show", "tiny")["status"] == "finished"


def test_broken_pipe_is_no_traceback(world: Path) -> None:
    shell = subprocess.run(
        ["bash", "-c", '"$@" | true; exit ${PIPESTATUS[0]}', "-", *command("show", "tiny")],
        cwd=world,
        env=child_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (shell.returncode, shell.stderr) == (1, "")


def test_every_command_documents_itself() -> None:
    for registered in app.registered_commands:
        assert registered.callback is not None
        assert registered.callback.__doc__
