"""Full disks, read-only folders, foreign locks, damaged and changed files: one clear line, and on it goes."""

import math
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from reflectune.agents.model_files import fingerprint
from reflectune.agents.student.adapters import hash_adapter
from reflectune.agents.student.refinetune import refinetune_student
from reflectune.agents.student.trainer import _checkpoints, last_whole_checkpoint
from reflectune.agents.teacher.prompts import SHIPPED
from reflectune.loop.progress import LineDisplay, Stage
from reflectune.loop.resuming import hash_files, refuse_changed_files
from reflectune.loop.run import change_run, create_run, run_loop
from reflectune.loop.show.documents import describe_signal
from reflectune.loop.show.explanations import explain_signal
from reflectune.loop.verify import verify_run
from reflectune.state.cache import AnswerCache, cache_path
from reflectune.state.config import load_config
from reflectune.state.data.datasets import read_dataset
from reflectune.state.errors import AdapterError, ConfigError, ReflectuneError, StoreError
from reflectune.state.folder import RunFolder
from reflectune.state.lineage import writer as lineage_writer
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import Answer
from tests.lives import started
from tests.test_refinetune import PAIRS, configure, interrupt, train
from tests.tiny_models import save_tiny_llama
from tests.torture import read_tables
from tests.worlds import write_world

pytestmark = [pytest.mark.slow, pytest.mark.no_cover]


class Reached(KeyboardInterrupt):
    """A stage that a test wants to end at has begun."""


class WatchedDisplay(LineDisplay):
    """Does something when a stage whose title has certain words begins."""

    def __init__(self, words: str, act: Callable[[], None]) -> None:
        self.words, self.act = words, act

    @contextmanager
    def stage(self, title: str, *, total: int, done: int = 0) -> Iterator[Stage]:
        if self.words in title:
            self.act()
        with super().stage(title, total=total, done=done) as stage:
            yield stage


def end_here() -> None:
    raise Reached


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world; in "calm" a run of one round at first and of two in the end, whose lineage and config after
    the first are in "one"; in "cut" one that was interrupted in the second round."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "template.toml").write_text(
        'prompt = "Q: {instruction}\\nA: "\n'
        'prompt_with_input = "Q: {instruction} {input}\\nA: "\n'
        'reverse = "A: {response}\\nQ: "\n'
    )
    mine = {"template": str(folder / "template.toml")}
    path = write_world(folder, samples=12, data={"holdout": 2}, student=mine, refinetune={"epochs": 1})
    calm = create_run(load_config(path, ["rounds=1"]), folder / "calm")
    run_loop(calm, LineDisplay())
    (folder / "one").mkdir()
    for file in (calm.lineage, calm.config):
        shutil.copy(file, folder / "one")
    change_run(calm, ["rounds=2"])
    run_loop(calm, LineDisplay())
    cut = create_run(load_config(path), folder / "cut")
    with pytest.raises(Reached):
        run_loop(cut, WatchedDisplay("round 2 · select · instr", end_here))
    return folder


@pytest.fixture
def cut(world: Path, tmp_path: Path) -> RunFolder:
    """A copy of the interrupted run."""
    return RunFolder(Path(shutil.copytree(world / "cut/tiny", tmp_path / "runs/tiny")))


def rows(folder: RunFolder) -> dict[str, list[tuple[object, ...]]]:
    """What a run comes to, whatever was changed in its config meanwhile."""
    tables = read_tables(folder.path)
    return {table: rows for table, rows in tables.items() if table not in ("runs", "config_changes")}


def assert_ends_as_calm(folder: RunFolder, world: Path) -> None:
    """Going on brings the run to the very end of the undisturbed one."""
    assert run_loop(folder, LineDisplay()) == "rounds"
    assert rows(folder) == rows(RunFolder(world / "calm/tiny"))
    assert sorted(path.name for path in (folder.path / "adapters").iterdir()) == ["round-01", "round-02"]


def refusal(folder: RunFolder, kind: type[ReflectuneError], words: str) -> str:
    """What resuming says, in one line; nothing that was committed is lost by it."""
    before = rows(folder)
    with pytest.raises(kind, match=words) as caught:
        run_loop(folder, LineDisplay())
    assert "\n" not in str(caught.value)
    assert rows(folder) == before
    return str(caught.value)


@contextmanager
def holding(file: Path, content: bytes) -> Iterator[None]:
    """A file has other content in the block."""
    kept = file.read_bytes()
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(kept)


def flip_a_bit(content: bytes, at: int) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 1
    return bytes(changed)


# Adapters


def test_adapter_that_is_not_what_was_trained_is_never_scored_with(
    cut: RunFolder, world: Path, tmp_path: Path
) -> None:
    adapter = cut.adapter(1)
    weights, config = (adapter / "adapter_model.safetensors"), (adapter / "adapter_config.json")
    trained, text = weights.read_bytes(), config.read_bytes()
    for file, content in (
        (weights, trained[:-20]),
        (weights, flip_a_bit(trained, -1)),  # of one weight: it opens without complaint
        (config, text[:-20]),
        (config, text + b" "),
    ):
        with holding(file, content):
            assert str(adapter) in refusal(cut, AdapterError, r"student s1: .*put it back from a copy")
    for file in (weights, config, adapter):
        away = file.rename(tmp_path / "away")
        assert str(adapter) in refusal(cut, AdapterError, r"student s1: .*not an adapter folder")
        away.rename(file)
    assert_ends_as_calm(cut, world)
    assert_ends_as_calm(cut, world)  # and stays so


def test_adapter_is_only_looked_for_inside_the_run(cut: RunFolder, tmp_path: Path) -> None:
    shutil.move(cut.adapter(1), tmp_path / "outside")
    with sqlite3.connect(cut.lineage) as connection:
        connection.execute("UPDATE students SET adapter = '../../outside' WHERE id = 's1'")
    refusal(cut, AdapterError, r"runs/tiny/adapters/round-01: not an adapter folder")


# Config


def test_config_that_was_written_by_half_is_refused_until_it_is_deleted_and_written_anew(
    cut: RunFolder, world: Path
) -> None:
    text = cut.config.read_text()
    for share in (0.0, 0.1, 0.5, 0.9):
        cut.config.write_text(text[: int(share * len(text))])
        refusal(cut, ConfigError, "delete it")
    cut.config.unlink()
    assert_ends_as_calm(cut, world)
    assert cut.config.read_text() == text
    cut.config.unlink()
    change_run(cut, ["rounds=3"])  # it is there again for a change, too
    assert load_config(cut.config).rounds == 3


def test_changed_config_is_refused_with_what_changed(cut: RunFolder) -> None:
    changed = cut.config.read_text()
    for old, new in {
        "seed = 0": "seed = 1", "rounds = 2": "rounds = 9", "[data]": "[data]\nlimit = 12",
        "margin = 0.0": "margin = 0.5", "alpha = 8": "alpha = 16", "epochs = 1": "epochs = 3",
        "every = 1": "every = 2",
    }.items():  # fmt: skip
        assert old in changed
        changed = changed.replace(old, new)
    cut.config.write_text(changed)
    said = refusal(cut, ConfigError, r"config.toml was changed since the run began \(rounds 2 -> 9, seed 0")
    assert re.search(r", seed 0 -> 1, data\.limit unset -> 12, .*, and 2 more\); put it back", said)
    assert "evaluate.every" not in said


# What the config names


def test_data_that_is_gone_or_changed_is_not_missed(cut: RunFolder, world: Path) -> None:
    given = world / "data.json"
    assert len(read_dataset(load_config(cut.config).data)) == 12
    with holding(given, b'[{"instruction": "Something else.", "output": "Altogether."}]'):
        with pytest.raises(Reached):
            run_loop(cut, WatchedDisplay("round 2 · refinetune", end_here))
        given.unlink()
        assert_ends_as_calm(cut, world)


def test_files_under_the_same_name_must_stay_the_same(cut: RunFolder, world: Path) -> None:
    for key, name, old, new in (
        ("student.model", "student/model.safetensors", None, None),
        ("student.template", "template.toml", b"Q: ", b"Ask: "),
        ("teacher.path", "teacher.jsonl", b"There are", b"There were"),
    ):
        file = world / name
        kept = file.read_bytes()
        with holding(file, kept.replace(old, new) if old else flip_a_bit(kept, -1)):
            refusal(cut, ConfigError, rf"^{key}: what .* holds was changed since the run began; put it back")
        os.utime(file, (0, 0))  # its time does not count
    away = (world / "student").rename(world / "away")
    try:
        refusal(cut, ReflectuneError, r"/student: no such model folder")
    finally:
        away.rename(world / "student")
    assert_ends_as_calm(cut, world)


def test_prompts_and_local_teacher_must_stay_the_same_too(world: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.toml"
    prompts.write_bytes(SHIPPED.read_bytes())
    teacher = save_tiny_llama(tmp_path / "teacher")
    local = {"engine": "transformers", "model": str(teacher), "path": None, "prompts": str(prompts)}
    config = load_config(write_world(tmp_path, samples=12, data={"holdout": 2}, teacher=local))
    before = hash_files(config)
    assert set(before) == {"student.model", "teacher.model", "teacher.prompts"}
    assert hash_files(config) == before
    prompts.write_bytes(SHIPPED.read_bytes() + b"\n# more")
    (teacher / "config.json").write_bytes((teacher / "config.json").read_bytes() + b"\n")
    changed = {key for key, value in hash_files(config).items() if value != before[key]}
    assert changed == {"teacher.prompts", "teacher.model"}


def test_the_function_of_a_policy_must_stay_the_same_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rules = tmp_path / "rules_of_damage.py"
    rules.write_text("def value(scores, phase):\n    return 1.0\n")
    policy = {"policy": "rules_of_damage:value"}
    config = load_config(write_world(tmp_path, samples=12, data={"holdout": 2}, selection=policy))
    with LineageWriter.create(tmp_path / "lineage.db") as lineage:
        lineage.add_run(config.model_dump(mode="json"), data_hash="", versions=hash_files(config))
        refuse_changed_files(lineage, config)
        rules.write_text("def value(scores, phase):\n    return 2.0\n")
        with pytest.raises(
            ConfigError, match=r"^selection.policy: what rules_of_damage:value holds was changed"
        ):
            refuse_changed_files(lineage, config)


def test_what_only_vllm_reads_of_a_model_must_stay_the_same_too(tmp_path: Path) -> None:
    seen = {fingerprint(tmp_path)}
    for name in ("tekken", "params", "quantize_config", "quant_config", "hf_quant_config"):
        (tmp_path / f"{name}.json").write_text("{}")
        assert fingerprint(tmp_path) not in seen, name
        seen.add(fingerprint(tmp_path))


def test_run_begun_before_files_were_hashed_is_not_checked(cut: RunFolder, world: Path) -> None:
    with sqlite3.connect(cut.lineage) as connection:
        connection.execute("UPDATE runs SET versions = json_remove(versions, '$.\"student.template\"')")
    file = world / "template.toml"
    with holding(file, file.read_bytes() + b"# a remark\n"), pytest.raises(Reached):
        run_loop(cut, WatchedDisplay("round 2 · select", end_here))


# Databases


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for a database that is locked."""
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, timeout=0.1))


@pytest.mark.usefixtures("impatient")
def test_lineage_that_another_program_writes_in_is_named(cut: RunFolder) -> None:
    with closing(sqlite3.connect(cut.lineage, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        said = refusal(cut, StoreError, "database is locked; another program writes in it, let it end")
        assert f"`{cut.command('resume')}`" in said
        with LineageReader.open(cut.lineage) as history:
            assert history.last_round() == 1


def test_lineage_that_is_cut_is_refused(cut: RunFolder) -> None:
    with sqlite3.connect(cut.lineage) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    cut.lineage.write_bytes(cut.lineage.read_bytes()[: 20 * 4096])  # pages: the schema, and some rows
    with pytest.raises(StoreError, match=r"database disk image is malformed") as caught:
        run_loop(cut, LineDisplay())
    assert "\n" not in str(caught.value)


def test_lineage_is_put_back_by_what_the_refusal_says(cut: RunFolder, world: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(cut.lineage)) as lineage:
        with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
            lineage.backup(copy)
        lineage.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('UPDATE versions SET response = response || 1'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(cut.lineage)], check=False)
    assert (cut.path / "lineage.db-wal").stat().st_size > 0  # which SQLite replays onto whatever is there
    with cut.lineage.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(20 * 4096)
        file.write(b"x" * (size - 20 * 4096))
    with started("resume", "tiny", "--runs", cut.path.parent, folder=tmp_path) as resumed:
        assert resumed.end() == StoreError.exit_code
    assert "back from a copy" in resumed.text
    shutil.copyfile(tmp_path / "copy.db", cut.lineage)
    for name in re.findall(r"lineage\.db-\w+", resumed.text):
        (cut.path / name).unlink(missing_ok=True)
    assert_ends_as_calm(cut, world)


def test_resume_tidies_up_after_a_lineage_that_was_put_back(world: Path, tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(world / "calm/tiny", tmp_path / "runs/tiny")))
    for file in run.path.glob("lineage.db*"):
        file.unlink()
    for file in (world / "one").iterdir():
        shutil.copy(file, run.path)
    (run.path / "adapters/.round-02.partial").mkdir()
    assert {fault["table"] for fault in verify_run(run)["faults"]} == {"adapters"}
    assert run_loop(run, LineDisplay()) == "rounds"
    assert verify_run(run)["faults"] == []
    assert [path.name for path in (run.path / "adapters").iterdir()] == ["round-01"]
    change_run(run, ["rounds=2"])
    assert_ends_as_calm(run, world)
    assert verify_run(run)["faults"] == []


# Clocks


def test_clock_that_jumps_back_changes_nothing(
    cut: RunFolder, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = datetime.now(UTC)

    def earlier() -> str:
        nonlocal shown
        shown -= timedelta(hours=1)
        return shown.isoformat(timespec="seconds")

    monkeypatch.setattr(lineage_writer, "_now", earlier)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    change_run(cut, ["rounds=3"])
    change_run(cut, ["rounds=2"])
    assert_ends_as_calm(cut, world)


def test_checkpoints_of_a_training_are_kept_by_step_and_not_by_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(save_tiny_llama(tmp_path / "tiny"), epochs=5)
    partial = tmp_path / ".adapter.partial"

    def as_if_tomorrow(step: int, steps: int, loss: float | None) -> None:
        for path in _checkpoints(partial):
            os.utime(path, (2e9, 2e9))
        if step == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refinetune_student(
            config, PAIRS, tmp_path / "adapter", previous=None, round=1, on_step=as_if_tomorrow
        )
    assert [path.name for path in _checkpoints(partial)] == ["checkpoint-9", "checkpoint-6"]


@pytest.fixture(scope="module")
def cut_training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, an interrupted training in "cut", and the undisturbed one, "calm"."""
    folder = tmp_path_factory.mktemp("training")
    config = configure(save_tiny_llama(folder / "tiny"), epochs=5)
    interrupt(config, folder / "cut/adapter", 9)
    train(config, folder / "calm")
    return folder


def test_checkpoint_that_is_damaged_is_passed_over(cut_training: Path, tmp_path: Path) -> None:
    shutil.copytree(cut_training / "cut", tmp_path, dirs_exist_ok=True)
    partial = tmp_path / ".adapter.partial"
    last, before = _checkpoints(partial)
    whole = {file: file.read_bytes() for file in last.iterdir()}
    assert {file.name for file in whole} >= {"adapter_model.safetensors", "manifest.json", "optimizer.pt"}
    for file, content in whole.items():
        middle = len(content) // 2
        for damaged in (flip_a_bit(content, middle), content[:middle], None):
            shutil.copytree(cut_training / "cut", tmp_path, dirs_exist_ok=True)
            file.unlink() if damaged is None else file.write_bytes(damaged)
            assert last_whole_checkpoint(partial) == before
    config, out = configure(cut_training / "tiny", epochs=5), tmp_path / "adapter"
    _, steps = train(config, out)
    assert steps[0][0] == int(before.name.partition("-")[2]) + 1
    assert hash_adapter(out) == hash_adapter(cut_training / "calm")


# Numbers


def test_student_that_has_no_room_for_any_pair_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_world(tmp_path, samples=12, data={"holdout": 2}, student={"max_length": 8})
    folder = create_run(load_config(path), tmp_path / "runs")
    run_loop(folder, LineDisplay())
    line = "the student can score none of the given pairs; raise student.max_length"
    assert line in capsys.readouterr().err
    assert verify_run(folder)["faults"] == []
    with LineageReader.open(folder.lineage) as lineage:
        assert explain_signal(describe_signal(lineage)) == [line]


@pytest.mark.parametrize(("keep", "anchor"), [("improved", 0.0), ("all", 0.5)])
def test_student_without_one_finite_score_takes_nothing_and_is_not_trained(
    tmp_path: Path, keep: str, anchor: float
) -> None:
    path = write_world(
        tmp_path, samples=12, data={"holdout": 2}, selection={"keep": keep}, refinetune={"anchor": anchor}
    )
    weights = tmp_path / "student/model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"].fill_(math.nan)
    save_file(tensors, weights, metadata={"format": "pt"})
    folder = create_run(load_config(path), tmp_path / "runs")
    assert run_loop(folder, LineDisplay()) == "nothing-accepted"
    with sqlite3.connect(folder.lineage) as connection:
        scores = connection.execute("SELECT DISTINCT status, sum_logprob FROM scores").fetchall()
        reasons = connection.execute("SELECT DISTINCT reason FROM decisions ORDER BY 1").fetchall()
        measures = connection.execute("SELECT DISTINCT name FROM evaluations").fetchall()
    assert scores == [("non-finite", None)]
    assert reasons == [("no-candidate",), ("unscorable",)]
    assert measures == [("response_tokens",)]
    with LineageReader.open(folder.lineage) as history:
        one = history.rounds()[1]
        assert (one["student"], one["training"], one["ifd"]["mean"]) == ("s0", 0, None)
        assert list(history.pool(1)) == list(history.pool(0))
    assert not (folder.path / "adapters").exists()


# Disks


@contextmanager
def mounted(folder: Path, options: str, *, source: str = "tmpfs", bind: bool = False) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    kind = ["--bind"] if bind else ["-t", "tmpfs", "-o", options]
    try:
        subprocess.run(["mount", *kind, source, str(folder)], check=True, capture_output=True)
        if bind:
            subprocess.run(["mount", "-o", options, str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("takes the right to mount: run as root, or by `unshare -rm`")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "size=3m") as folder:
        yield folder


def fill(disk: Path, leave: int = 0) -> Path:
    """Leave no more than so many bytes free; returns the file that takes the room."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        size = 2**16
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
        file.truncate(max(0, file.tell() - leave))
    return filler


def test_full_disk_ends_the_run_in_one_line_and_loses_nothing(world: Path, small_disk: Path) -> None:
    folder = RunFolder(Path(shutil.copytree(world / "cut/tiny", small_disk / "tiny")))
    for stage in ("select", "reflect · resp", "select · resp", "ref", "eval"):
        before = rows(folder)
        with pytest.raises(StoreError, match="is full; make room on the disk, then `reflectune resume tiny "):
            run_loop(folder, WatchedDisplay(f"round 2 · {stage}", lambda: fill(small_disk) and None))
        (small_disk / "filler").unlink()
        after = rows(folder)
        for table in ("teacher_calls", "versions", "scores", "decisions", "students"):
            assert set(before[table]) <= set(after[table])
    assert_ends_as_calm(folder, world)


def test_full_disk_in_a_training_ends_it_in_one_line(cut_training: Path, small_disk: Path) -> None:
    config = configure(cut_training / "tiny", epochs=5)
    out = small_disk / "adapter"
    for leave in (0, 30_000, 50_000, 80_000, 120_000, 200_000):
        shutil.rmtree(small_disk / ".adapter.partial", ignore_errors=True)
        filler = fill(small_disk, leave)
        with pytest.raises(AdapterError, match=r"cannot be written: .*make room for it") as caught:
            train(config, out)
        assert "\n" not in str(caught.value)
        assert not out.exists()
        filler.unlink()
    train(config, out)
    assert hash_adapter(out) == hash_adapter(cut_training / "calm")


def test_full_disk_under_the_cache_keeps_what_it_has(small_disk: Path) -> None:
    long = Answer("0", "x" * 2**16, "stop", cached=True)
    with AnswerCache.open(small_disk) as cache:
        cache.put("first", "m", long)
        fill(small_disk)

        def put_more() -> None:
            for number in range(100):
                cache.put(str(number), "m", long)

        with pytest.raises(StoreError, match=r"cache\.db: .*disk is full; make room"):
            put_more()
        assert cache.get("first", "0") == long
    (small_disk / "filler").unlink()
    with AnswerCache.open(small_disk) as cache:
        cache.put("last", "m", long)
        assert (cache.get("first", "0"), cache.get("last", "0")) == (long, long)
    assert cache_path(small_disk).is_file()


def test_full_disk_makes_no_run(world: Path, small_disk: Path) -> None:
    filler = fill(small_disk, leave=8192)
    with pytest.raises(StoreError, match="make room on the disk, then start the run again"):
        create_run(load_config(world / "config.toml"), small_disk)
    filler.unlink()
    assert list(small_disk.iterdir()) == []
    create_run(load_config(world / "config.toml"), small_disk)


def test_read_only_folder_is_shown_and_not_worked_in(cut: RunFolder, world: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "ground", "remount,ro,bind", source=str(cut.path.parent), bind=True) as ground:
        folder = RunFolder.find(ground, "tiny")
        with LineageReader.open(folder.lineage) as history:
            assert history.last_round() == 1
            assert len(history.trace("0")["versions"]) >= 1
        for work in (lambda: run_loop(folder, LineDisplay()), lambda: change_run(folder, ["rounds=3"])):
            with pytest.raises(StoreError, match="make the folder writable, then `reflectune resume tiny "):
                work()
        with pytest.raises(ConfigError, match="cannot make a run there"):
            create_run(load_config(world / "config.toml", ['name="other"']), ground)


@pytest.mark.usefixtures("impatient")
def test_database_that_another_program_keeps_for_itself_is_not_shown_stale(cut: RunFolder) -> None:
    with closing(sqlite3.connect(cut.lineage, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("UPDATE rounds SET stop_reason = 'newest'")
        with pytest.raises(StoreError, match=r"lineage\.db: .*is locked; another program"):
            LineageReader.open(cut.lineage)
        with pytest.raises(StoreError, match="is locked; another program writes in it, let it end"):
            run_loop(cut, LineDisplay())
    with LineageReader.open(cut.lineage) as history:
        assert history.run()["stop_reason"] == "newest"


def test_write_ahead_log_without_its_index_is_not_passed_over(cut: RunFolder, tmp_path: Path) -> None:
    copy = tmp_path / "copy/tiny"
    with closing(sqlite3.connect(cut.lineage, isolation_level=None)) as writer:
        writer.execute("UPDATE rounds SET stop_reason = 'newest'")
        shutil.copytree(cut.path, copy, ignore=shutil.ignore_patterns("*-shm"))
    assert (copy / "lineage.db-wal").stat().st_size > 0
    with (
        mounted(tmp_path / "ground", "remount,ro,bind", source=str(copy.parent), bind=True) as ground,
        pytest.raises(StoreError, match=r"newest rows are in lineage\.db-wal: make the folder writable"),
    ):
        LineageReader.open(ground / "tiny/lineage.db")
    with LineageReader.open(copy / "lineage.db") as history:
        assert history.run()["stop_reason"] == "newest"
