"""SIGKILL in each kind of node, then resume: the same end as without it, and no work done twice."""

import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.worlds import child_environment, command, reflectune, write_world

pytestmark = pytest.mark.slow

# Long enough to be killed in the middle of every node, short enough for a test.
SAMPLES = 120
# What may differ between two runs: times, and how many attempts there were.
_ROWS = {
    "samples": "*",
    "teacher_calls": "id, round, phase, sample_id, candidate, attempt, prompt_hash, text, status, critique",
    "versions": "*",
    "scores": "*",
    "decisions": "*",
    "training_sets": "*",
    "evaluations": "*",
    "students": "id, round, base_model, adapter, adapter_hash, parent_id",
    "rounds": "round, student_id, status, stop_reason",
    "runs": "name, status, data_hash",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world, and in its runs folder "calm" the undisturbed run."""
    folder = tmp_path_factory.mktemp("world")
    # Small learning rate and long training: five checkpoints with time to be killed between them.
    write_world(folder, samples=SAMPLES, refinetune={"epochs": 6, "batch_tokens": 256})
    result = reflectune("run", "config.toml", "--runs", "calm", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


def rows(database: Path) -> dict[str, list[tuple[object, ...]]]:
    with sqlite3.connect(database) as connection:
        return {
            table: sorted(connection.execute(f"SELECT {columns} FROM {table}"), key=repr)
            for table, columns in _ROWS.items()
        }


def count(database: Path, query: str) -> int:
    """A count from a database that may not be there yet."""
    if not database.exists():
        return 0
    try:
        with sqlite3.connect(database) as connection:
            return int(connection.execute(f"SELECT COUNT(*) FROM {query}").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def kill_when(
    world: Path, runs: Path, is_time: Callable[[Path], bool], how: signal.Signals = signal.SIGKILL
) -> tuple[int, str]:
    """Start the run, send it a signal at the first moment that `is_time` of its folder, and wait.

    Returns:
        Its exit code and what it wrote to stderr.
    """
    with subprocess.Popen(
        command("run", "config.toml", "--runs", runs),
        cwd=world,
        env=child_environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        deadline = time.monotonic() + 120
        while not is_time(runs / "tiny"):
            assert process.poll() is None, "the run ended first"
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
        return process.returncode, err


def decided(round: int, phase: str) -> Callable[[Path], bool]:
    where = f"decisions WHERE round = {round} AND phase = '{phase}'"
    return lambda run: count(run / "lineage.db", where) > 0


def called(round: int, phase: str) -> Callable[[Path], bool]:
    where = f"teacher_calls WHERE round = {round} AND phase = '{phase}'"
    return lambda run: count(run / "lineage.db", where) > 3


def checkpointed(run: Path) -> bool:
    return any((run / "adapters").glob(".round-01.partial/checkpoint-*"))


def trained(round: int) -> Callable[[Path], bool]:
    return lambda run: (run / f"adapters/round-{round:02d}").exists()


MOMENTS: dict[str, tuple[Callable[[Path], bool], str, int]] = {
    # node: when to kill, and what must then still be missing, of how many
    "evaluate-round-0": (lambda run: (run / "lineage.db").exists(), "evaluations", 4),
    "reflect-instruction": (
        called(1, "instruction"),
        "teacher_calls WHERE round = 1 AND phase = 'instruction'",
        SAMPLES - 6,
    ),
    "select-instruction": (
        decided(1, "instruction"),
        "decisions WHERE round = 1 AND phase = 'instruction'",
        SAMPLES - 6,
    ),
    "reflect-response": (
        called(1, "response"),
        "teacher_calls WHERE round = 1 AND phase = 'response'",
        SAMPLES - 6,
    ),
    "select-response": (
        decided(1, "response"),
        "decisions WHERE round = 1 AND phase = 'response'",
        SAMPLES - 6,
    ),
    "refinetune": (checkpointed, "students WHERE round = 1", 1),
    "evaluate": (trained(1), "evaluations WHERE round = 1", 2),
    "second-round": (decided(2, "instruction"), "decisions WHERE round = 2", 2 * (SAMPLES - 6)),
}


@pytest.mark.parametrize("node", MOMENTS)
def test_resume_after_a_kill_ends_like_an_undisturbed_run(node: str, world: Path, tmp_path: Path) -> None:
    is_time, missing, whole = MOMENTS[node]
    for attempt in range(5):  # on a crowded machine the signal may come when the node is done
        runs = tmp_path / f"runs-{attempt}"
        code, _ = kill_when(world, runs, is_time)
        assert code == -signal.SIGKILL
        if count(runs / "tiny/lineage.db", missing) < whole:
            break
    else:
        pytest.fail("killed too late, five times, to prove anything")
    before = rows(runs / "tiny/lineage.db")

    shown = reflectune("runs", "--runs", runs, "--json", cwd=world)
    assert '"status": "interrupted"' in shown.stdout
    resumed = reflectune("resume", "tiny", "--runs", runs, cwd=world)
    assert resumed.returncode == 0, resumed.stderr

    calm, disturbed = rows(world / "calm/tiny/lineage.db"), rows(runs / "tiny/lineage.db")
    for table, expected in calm.items():
        assert disturbed[table] == expected, table
    for table in ("teacher_calls", "versions", "scores", "decisions"):
        assert set(before[table]) <= set(disturbed[table]), f"work in {table} was thrown away"
    assert not list((runs / "tiny/adapters").glob(".*")), "an unfinished adapter was left behind"
    for what in ("pool", "training", "preferences"):
        exported = []
        for folder in (world / "calm", runs):
            out = tmp_path / f"{what}.json"
            result = reflectune("export", "tiny", "--runs", folder, "--what", what, "-o", out, cwd=world)
            assert result.returncode == 0, result.stderr
            exported.append(out.read_bytes())
        assert exported[0] == exported[1]
        assert len(exported[0]) > 10


@pytest.mark.parametrize("is_time", [called(1, "instruction"), decided(1, "response")])
def test_a_lineage_put_back_from_a_copy_goes_on_from_there(
    is_time: Callable[[Path], bool], world: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    code, _ = kill_when(world, runs, is_time)
    assert code == -signal.SIGKILL
    with sqlite3.connect(runs / "tiny/lineage.db") as lineage, sqlite3.connect(tmp_path / "copy.db") as copy:
        lineage.backup(copy)
    assert reflectune("resume", "tiny", "--runs", runs, cwd=world).returncode == 0
    # The checkpoints and the adapters of the whole run stay: they are ahead of the copy.
    for file in (runs / "tiny").glob("lineage.db*"):
        file.unlink()
    (tmp_path / "copy.db").rename(runs / "tiny/lineage.db")
    resumed = reflectune("resume", "tiny", "--runs", runs, cwd=world)
    assert resumed.returncode == 0, resumed.stderr
    assert rows(runs / "tiny/lineage.db") == rows(world / "calm/tiny/lineage.db")
    verified = reflectune("verify", "tiny", "--runs", runs, cwd=world)
    assert verified.returncode == 0, verified.stdout


def test_interrupt_in_the_middle_of_a_node_exits_130_and_can_go_on(world: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    code, err = kill_when(world, runs, decided(1, "response"), signal.SIGINT)
    assert code == 130
    assert err.splitlines()[-1] == "interrupted; go on with `reflectune resume tiny`"
    assert "Traceback" not in err
    resumed = reflectune("resume", "tiny", "--runs", runs, cwd=world)
    assert resumed.returncode == 0, resumed.stderr
    assert rows(runs / "tiny/lineage.db") == rows(world / "calm/tiny/lineage.db")


def test_resume_of_a_finished_run_changes_nothing(world: Path) -> None:
    before = rows(world / "calm/tiny/lineage.db")
    result = reflectune("resume", "tiny", "--runs", "calm", cwd=world)
    assert result.returncode == 0, result.stderr
    assert rows(world / "calm/tiny/lineage.db") == before
