import subprocess
import sys
from pathlib import Path

import pytest

from state.errors import ConfigError, StoreError
from state.folder import RunFolder


def make(runs: Path, name: str) -> None:
    with RunFolder.create(runs, name) as folder:
        folder.lineage.touch()


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
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    alive, gone = (tmp_path / f".one.{pid}.partial" for pid in (1, dead.pid))
    for partial in (alive, gone):
        partial.mkdir()
    make(tmp_path, "two")
    assert alive.exists()
    assert not gone.exists()


def test_folder_that_another_process_made_meanwhile_is_left_alone(tmp_path: Path) -> None:
    def be_late() -> None:
        with RunFolder.create(tmp_path, "one"):
            (tmp_path / "one").mkdir()
            (tmp_path / "one/config.toml").write_text("theirs")

    with pytest.raises(ConfigError, match="a run called one exists"):
        be_late()
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert (tmp_path / "one/config.toml").read_text() == "theirs"


def test_folder_of_an_existing_name_is_left_alone(tmp_path: Path) -> None:
    make(tmp_path, "one")
    (tmp_path / "one/config.toml").write_text("mine")
    with pytest.raises(ConfigError, match="a run called one exists"):
        make(tmp_path, "one")
    assert (tmp_path / "one/config.toml").read_text() == "mine"


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


def test_adapter_folders_are_numbered(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).adapter(3) == tmp_path / "adapters/round-03"


def test_lock_is_held_by_one_process_and_goes_with_it(tmp_path: Path) -> None:
    make(tmp_path, "one")
    folder = RunFolder(tmp_path / "one")
    assert not folder.is_locked()
    code = (
        "import sys, time; from pathlib import Path; from state.folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).lock(): print('locked', flush=True); time.sleep(60)"
    )
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path)], cwd=root, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        assert folder.is_locked()
        with pytest.raises(StoreError, match=f"process {other.pid} is working"), folder.lock():
            pass
        other.kill()
    assert not folder.is_locked()
    with folder.lock():
        assert folder.is_locked()
