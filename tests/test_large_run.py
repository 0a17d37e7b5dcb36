"""The large run is one of the machine itself, so that what is measured on it means something."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from reflectune.loop.verify import verify_run
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import PHASES
from tests.large_run import make_large_run, vocabulary

pytestmark = [pytest.mark.slow, pytest.mark.no_cover]

SAMPLES, HELD_OUT, ROUNDS = 600, 6, 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_large_run(tmp_path_factory.mktemp("runs"), samples=SAMPLES, rounds=ROUNDS)


@pytest.fixture
def db(run: RunFolder) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(run.lineage)) as connection:
        yield connection


def test_large_run_has_nothing_wrong(run: RunFolder) -> None:
    assert verify_run(run)["faults"] == []


def test_large_run_has_every_outcome_as_often_as_it_should(run: RunFolder, db: sqlite3.Connection) -> None:
    reasons = {reason for (reason,) in db.execute("SELECT DISTINCT reason FROM decisions")}
    assert reasons == {"accepted", "refused", "tie", "unscorable", "no-candidate", "frozen"}
    with LineageReader.open(run.lineage) as history:
        rounds = history.rounds()
        trace = history.trace("17")
    assert [(row["round"], row["pool"]) for row in rounds] == [(r, SAMPLES - HELD_OUT) for r in (0, 1, 2, 3)]
    assert all(row["training"] > 50 for row in rounds[1:])
    taken = [row[phase]["accepted"] / row[phase]["reflected"] for row in rounds[1:] for phase in PHASES]
    assert all(0.3 < share < 0.7 for share in taken)
    assert (5 <= len(trace["versions"]) <= 7, len(trace["decisions"])) == (True, 6)


def test_large_run_has_rare_and_common_words(db: sqlite3.Connection) -> None:
    words = vocabulary()
    assert len(set(words)) == 50_000
    responses = db.execute("SELECT response FROM versions WHERE phase = 'original'").fetchall()
    texts = [set(text.split()) for (text,) in responses]
    shares = [sum(words[rank] in text for text in texts) / len(texts) for rank in (0, 200, 40_000)]
    assert shares[0] > 0.9
    assert 0.005 < shares[1] < 0.1
    assert shares[2] < 0.004


def test_large_run_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    def dump(name: str, seed: int) -> list[list[tuple[object, ...]]]:
        run = make_large_run(tmp_path, samples=40, rounds=2, seed=seed, name=name)
        with closing(sqlite3.connect(run.lineage)) as db:
            tables = ("versions", "scores", "decisions")
            return [db.execute(f"SELECT * FROM {table}").fetchall() for table in tables]

    one, again, another = dump("one", 7), dump("again", 7), dump("another", 8)
    assert one == again != another
