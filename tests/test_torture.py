"""A few of the kills that `make torture` deals out, and that it would notice what they could break."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lineages import make_store
from tests.torture import NAME, ROUNDS, Life, Torture, TortureError
from tests.worlds import ROOT, child_environment


@pytest.mark.slow
def test_killed_runs_end_like_undisturbed_ones() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tests.torture", "--kills", "8", "--seed", "0"],
        cwd=ROOT,
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "8 kills; " in result.stdout


def sql(statement: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        with sqlite3.connect(run / "lineage.db") as connection:
            connection.execute(statement)
        connection.close()

    return change


def change_weights(run: Path) -> None:
    (run / "adapters/round-01/adapter_model.safetensors").write_bytes(b"other")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "lost row": (sql("DELETE FROM samples WHERE id = 'c'"), "samples: only undisturbed 1 rows"),
    "other value": (sql("UPDATE versions SET response = 'x' WHERE sample_id = 'a'"), "versions"),
    "status": (sql("UPDATE runs SET status = 'failed'"), "runs"),
    "metrics": (sql("""UPDATE rounds SET metrics = '{"x": 1}'"""), "rounds"),
    "orphan": (lambda run: (run / "adapters/.round-01.partial").mkdir(), r"\.round-01\.partial"),
    "weights": (change_weights, "adapter_model.safetensors differs"),
    "export": (lambda run: (run.parents[1] / "pool-1.json").write_text("other"), "export of pool, round 1"),
}


def make_run(folder: Path) -> Path:
    """A run with a lineage, an adapter and exports."""
    run = folder / "runs" / NAME
    (run / "adapters/round-01").mkdir(parents=True)
    (run / "adapters/round-01/adapter_model.safetensors").write_bytes(b"weights")
    make_store(run / "lineage.db").close()
    for what in ("pool", "training", "preferences"):
        for round in range(1, ROUNDS + 1):
            (folder / f"{what}-{round}.json").write_text("[{}]\n")
    return run


@pytest.mark.parametrize("fault", FAULTS)
def test_a_difference_from_the_undisturbed_run_is_named(tmp_path: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    harness = Torture(tmp_path, teacher=None)  # type: ignore[arg-type]  # nobody asks it here
    calm, tortured = tmp_path / "calm", tmp_path / "tortured"
    make_run(calm)
    run = make_run(tortured)
    sql("UPDATE runs SET created_at = '1999-01-01'")(run)
    sql("""UPDATE rounds SET started_at = 'x', metrics = '{"seconds": {"select": 7}}'""")(run)
    harness.compare(calm, tortured)
    change(run)
    with pytest.raises(TortureError, match=message):
        harness.compare(calm, tortured)


def test_calls_that_are_paid_twice_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked:
        def asked(self) -> dict[str, int]:
            return {"life": 10}

    harness = Torture(tmp_path, Asked())  # type: ignore[arg-type]
    harness.count_lost("life", stored=10, most=0)
    harness.count_lost("life", stored=6, most=4)
    assert harness.uncommitted == 4
    for stored, most in ((9, 0), (5, 4), (11, 4)):
        with pytest.raises(TortureError, match=rf"{10 - stored} calls were asked and not committed"):
            harness.count_lost("life", stored, most)


@pytest.mark.parametrize(
    ("stages", "paths", "where"),
    [
        ((), (), ("creating", "", 0)),
        ((), ("lineage.db",), ("opening", "", 0)),
        (("round 0 · evaluate · s0: 0/8",), (), ("evaluate", "", 0)),
        (
            ("round 1 · select · instruction: 9/9", "round 1 · reflect · response: 0/9"),
            (),
            ("reflect", "response", 1),
        ),
        (("round 2 · refinetune · 7 pairs: 0/0",), (), ("refinetune", "before a checkpoint", 2)),
        (
            ("round 2 · refinetune · 7 pairs: 0/0",),
            ("adapters/.round-02.partial/checkpoint-3", "adapters/round-01"),
            ("refinetune", "after a checkpoint", 2),
        ),
        (
            ("round 2 · refinetune · 7 pairs: 0/0",),
            ("adapters/.round-02.partial/adapter",),
            ("refinetune", "writing the adapter", 2),
        ),
        (
            ("round 2 · refinetune · 7 pairs: 0/0",),
            ("adapters/round-02",),
            ("refinetune", "adapter in its place", 2),
        ),
    ],
)
def test_a_kill_is_counted_where_it_hit(
    tmp_path: Path, stages: tuple[str, ...], paths: tuple[str, ...], where: tuple[str, str, int]
) -> None:
    for path in paths:
        (tmp_path / NAME / path).mkdir(parents=True)
    life = Life(pid=0, err=0, folder=tmp_path, checkpoints=0, text="\n".join(stages))
    assert life.where() == where
