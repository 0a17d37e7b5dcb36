"""The large run is one that a loop could have left, so that what is measured on it means something."""

import sqlite3
from pathlib import Path

import pytest

from reflectune.state.folder import RunFolder
from reflectune.state.lineage.reader import LineageReader
from tests.large_run import make_large_run, vocabulary

pytestmark = pytest.mark.slow

SAMPLES, HELD_OUT, ROUNDS = 1_500, 15, 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_large_run(tmp_path_factory.mktemp("runs"), samples=SAMPLES, rounds=ROUNDS)


@pytest.fixture
def db(run: RunFolder) -> sqlite3.Connection:
    return sqlite3.connect(run.lineage)


def rows(db: sqlite3.Connection, query: str) -> list[tuple[object, ...]]:
    return db.execute(query).fetchall()


def test_large_run_joins_hold(db: sqlite3.Connection) -> None:
    assert rows(db, "PRAGMA integrity_check") == [("ok",)]
    assert rows(db, "PRAGMA foreign_key_check") == []
    assert rows(db, "SELECT split, COUNT(*) FROM samples GROUP BY 1") == [
        ("holdout", HELD_OUT),
        ("train", SAMPLES - HELD_OUT),
    ]
    assert rows(
        db,
        "SELECT DISTINCT calls.status, calls.sample_id = versions.sample_id, calls.round = versions.round, "
        "calls.phase = versions.phase "
        "FROM versions JOIN teacher_calls AS calls ON calls.id = teacher_call_id",
    ) == [("ok", 1, 1, 1)]
    assert rows(
        db,
        "SELECT COUNT(*) FROM teacher_calls WHERE status = 'ok' "
        "AND id NOT IN (SELECT teacher_call_id FROM versions WHERE teacher_call_id IS NOT NULL)",
    ) == [(0,)]


def test_large_run_decides_every_sample_of_the_pool_in_every_phase(db: sqlite3.Connection) -> None:
    counts = rows(db, "SELECT round, phase, COUNT(*) FROM decisions GROUP BY 1, 2")
    pool = SAMPLES - HELD_OUT
    assert counts == [(r, phase, pool) for r in (1, 2, 3) for phase in ("instruction", "response")]
    reasons = {reason for (reason,) in rows(db, "SELECT DISTINCT reason FROM decisions")}
    assert reasons == {"accepted", "refused", "tie", "unscorable", "no-candidate", "frozen"}


def test_large_run_incumbents_are_the_winners_of_the_phase_before(db: sqlite3.Connection) -> None:
    given = "SELECT id FROM versions WHERE sample_id = now.sample_id AND phase = 'original'"
    for round, phase, before in (
        (1, "instruction", given),
        (1, "response", "SELECT winner_id FROM decisions WHERE (round, phase) = (1, 'instruction')"),
        (2, "instruction", "SELECT winner_id FROM decisions WHERE (round, phase) = (1, 'response')"),
        (3, "response", "SELECT winner_id FROM decisions WHERE (round, phase) = (3, 'instruction')"),
    ):
        own = before if before is given else f"{before} AND sample_id = now.sample_id"
        assert rows(
            db,
            f"SELECT COUNT(*) FROM decisions AS now WHERE (round, phase) = ({round}, '{phase}') "
            f"AND incumbent_id <> ({own})",
        ) == [(0,)]
    parents = "SELECT incumbent_id FROM decisions WHERE (round, phase) = (new.round, new.phase)"
    assert rows(
        db,
        "SELECT COUNT(*) FROM versions AS new WHERE phase <> 'original' "
        f"AND parent_id <> ({parents} AND sample_id = new.sample_id)",
    ) == [(0,)]


def test_large_run_decisions_follow_from_the_scores(db: sqlite3.Connection) -> None:
    checked = 0
    for phase, measure, sign in (("instruction", "ifd", 1), ("response", "r_ifd", -1)):
        for reason, before, after, scored_before, scored_after in rows(
            db,
            f"SELECT reason, incumbent_value, challenger_value, old.{measure}, new.{measure} FROM decisions "
            "JOIN pair_scores AS old ON old.version_id = incumbent_id "
            "JOIN pair_scores AS new ON new.version_id = challenger_id AND new.student_id = old.student_id "
            f"WHERE old.student_id = decisions.student_id AND phase = '{phase}'",
        ):
            assert (before, after) == pytest.approx((scored_before, scored_after), rel=1e-9)
            gain = sign * (after - before)  # type: ignore[operator]
            assert reason == ("accepted" if gain > 0 else "tie" if gain == 0 else "refused")
            checked += 1
    assert checked > SAMPLES * 2 * ROUNDS * 0.8


def test_large_run_winners_have_all_scores_and_only_good_ones_are_trained_on(db: sqlite3.Connection) -> None:
    scored = rows(
        db,
        "SELECT MIN(ifd IS NOT NULL), MIN(r_ifd IS NOT NULL), COUNT(*) FROM decisions "
        "JOIN pair_scores ON version_id = winner_id AND pair_scores.student_id = 's' || (round - 1) "
        "WHERE phase = 'response'",
    )
    assert scored == [(1, 1, (SAMPLES - HELD_OUT) * ROUNDS)]
    trained = rows(
        db,
        "SELECT training_sets.round, MAX(ifd) < 1, MAX(r_ifd) < 1, COUNT(*) > 100 FROM training_sets "
        "JOIN pair_scores ON pair_scores.version_id = training_sets.version_id "
        "AND student_id = 's' || (training_sets.round - 1) GROUP BY 1",
    )
    assert trained == [(1, 1, 1, 1), (2, 1, 1, 1), (3, 1, 1, 1)]


def test_large_run_can_be_read_like_any_other(run: RunFolder) -> None:
    with LineageReader.open(run.lineage) as history:
        rounds = history.rounds()
        trace = history.trace("17")
    assert [row["round"] for row in rounds] == [0, 1, 2, 3]
    assert all(row["pool"] == SAMPLES - HELD_OUT for row in rounds)
    assert all(
        0.3 < row[p]["accepted"] / row[p]["reflected"] < 0.7
        for row in rounds[1:]
        for p in ("instruction", "response")
    )
    assert 5 <= len(trace["versions"]) <= 7
    assert len(trace["decisions"]) == 6


def test_large_run_has_rare_and_common_words(db: sqlite3.Connection) -> None:
    words = vocabulary()
    assert len(set(words)) == 50_000
    texts = [
        set(text.lower().replace(".", "").split())
        for (text,) in rows(db, "SELECT response FROM versions WHERE phase = 'original'")
    ]
    shares = [sum(words[rank] in text for text in texts) / len(texts) for rank in (0, 200, 40_000)]
    assert shares[0] > 0.9
    assert 0.005 < shares[1] < 0.1
    assert shares[2] < 0.002


def test_large_run_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    def dump(name: str, seed: int) -> list[tuple[object, ...]]:
        run = make_large_run(tmp_path, samples=40, rounds=2, seed=seed, name=name)
        with sqlite3.connect(run.lineage) as db:
            return [
                row
                for table in ("versions", "scores", "decisions")
                for row in rows(db, f"SELECT * FROM {table}")
            ]

    one, again, another = dump("one", 7), dump("again", 7), dump("another", 8)
    assert one == again != another
