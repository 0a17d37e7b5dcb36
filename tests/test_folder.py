import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reflectune.state.errors import ConfigError, StoreError
from reflectune.state.folder import RunFolder, to_command

ROOT = Path(__file__).parent.parent


def make(runs: Path, name: str) -> None:
    with RunFolder.create(runs, name) as folder:
        folder.lineage.touch()


@contextmanager
def in_another_process(block: str, path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process in a block, whose code calls the path `path`. To be killed."""
    code = (
        "import sys, time; from pathlib import Path; from reflectune.state.folder import RunFolder\n"
        f"path = Path(sys.argv[1])\n{block} print('there', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "there\n"
        yield other


def test_commands_name_the_folder_of_runs_where_it_is_not_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REFLECTUNE_RUNS", raising=False)
    at_home, elsewhere = RunFolder(Path("runs/one")), RunFolder(Path("my runs/one"))
    assert at_home.command("resume") == "reflectune resume one"
    assert RunFolder(tmp_path / "runs" / "one").command("resume") == "reflectune resume one"
    assert elsewhere.command("resume", "--set", "teacher.budget_usd=N") == (
        "reflectune resume one --set teacher.budget_usd=N --runs 'my runs'"
    )
    assert to_command(Path("my runs"), "experiment", "abl.toml").endswith(" abl.toml --runs 'my runs'")
    monkeypatch.setenv("REFLECTUNE_RUNS", "my runs")
    assert elsewhere.command("resume") == "reflectune resume one"
    assert at_home.command("resume") == "reflectune resume one --runs runs"


def test_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    runs = tmp_path / "runs"

    def fail_half_way() -> None:
        with RunFolder.create(runs, "one") as folder:
            folder.config.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert not runs.exists()
    make(runs, "one")
    assert [path.name for path in runs.iterdir()] == ["one"]


def test_folder_that_a_killed_process_half_made_is_swept_away(tmp_path: Path) -> None:
    with in_another_process("with RunFolder.create(path, 'one') as folder:", tmp_path) as other:
        (partial,) = tmp_path.iterdir()
        make(tmp_path, "two")
        assert partial.exists()
        other.kill()
    make(tmp_path, "three")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["three", "two"]


@pytest.mark.parametrize("is_late", [False, True])
def test_folder_of_an_existing_name_is_left_alone(tmp_path: Path, is_late: bool) -> None:
    def write_theirs() -> None:
        (tmp_path / "one").mkdir()
        (tmp_path / "one/config.toml").write_text("theirs")

    def make_ours() -> None:
        with RunFolder.create(tmp_path, "one"):
            if is_late:  # another process was faster
                write_theirs()

    if not is_late:
        write_theirs()
    with pytest.raises(ConfigError, match="a run called one exists"):
        make_ours()
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert (tmp_path / "one/config.toml").read_text() == "theirs"


def test_folder_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot make a run there"):
        make(tmp_path / "file", "one")


def test_find_names_the_runs_there_are(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there are no runs yet"):
        RunFolder.find(tmp_path, "one")
    make(tmp_path, "one")
    make(tmp_path, "two")
    (tmp_path / ".three.1.partial").mkdir()
    (tmp_path / ".three.1.partial/lineage.db").touch()
    assert [folder.path.name for folder in RunFolder.all(tmp_path)] == ["one", "two"]
    assert RunFolder.find(tmp_path, "two").path == tmp_path / "two"
    for name in ("three", "../runs/one", ".three.1.partial"):
        with pytest.raises(StoreError, match="known: one, two"):
            RunFolder.find(tmp_path, name)


def test_lock_is_held_by_one_process_and_goes_with_it(tmp_path: Path) -> None:
    make(tmp_path, "one")
    folder = RunFolder(tmp_path / "one")
    assert not folder.is_locked()
    with in_another_process("with RunFolder(path).lock():", folder.path) as other:
        assert folder.is_locked()
        with pytest.raises(StoreError, match=f"process {other.pid} is working"), folder.lock():
            pass
        other.kill()
    assert not folder.is_locked()
    with folder.lock():
        assert folder.is_locked()
