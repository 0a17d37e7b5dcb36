"""Samples found through the index, on a lineage whose every row is known."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reflectune.state.errors import StoreError
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.index import SORTS, SampleIndex, SampleQuery
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import OUTCOMES, Version
from tests.lineages import call, decide, decided, exchange, make_store, original, propose, scores_of, talk


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """Samples a to e, e held out. Round 1 rewrites a; b is refused, c fails, d has nothing to improve.

    The given responses are "answer a", "answer b", ...: 8 characters.
    """
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    with make_store(folder.lineage, train=4, holdout=1) as store:
        write_round(store)
        store.finish_round(1, None)
    return folder


def write_round(store: LineageWriter) -> None:
    store.start_round(1)
    old = {sample: original(sample) for sample in "abcd"}
    new = propose(store, old["a"], "answer a", round=1, phase="instruction", instruction="ask a well")
    decide(
        store,
        decided(old["a"], new, reason="accepted", phase="instruction", values=(0.5, 0.75)),
        *(decided(old[sample], phase="instruction") for sample in "bcd"),
    )
    good = propose(store, new, "a much better <b>Größe</b>", round=1, phase="response")  # 26 characters
    bad = propose(store, old["b"], "worse b", round=1, phase="response")
    store.add_reflections([call("c", attempt=1, status="unparsable"), call("c", attempt=2, status="cut")], [])
    store.add_reflections([call("d", status="unchanged")], [])
    decide(
        store,
        decided(new, good, reason="accepted", values=(0.75, 0.25)),
        decided(old["b"], bad, reason="refused", values=(0.5, 0.625)),
        decided(old["c"]),
        decided(old["d"]),
        scores={good.id: scores_of(0.5, 0.25)},
    )
    store.set_training_set(1, [good.id])
    store.set_round_student(1, "s0")


@pytest.fixture
def index(folder: RunFolder) -> Iterator[SampleIndex]:
    with SampleIndex.open(folder) as index:
        index.update()
        yield index


def found(index: SampleIndex, **conditions: Any) -> list[tuple[str, int]]:
    """Sample and round of every row found."""
    return [(row["sample"], row["round"]) for row in index.find(SampleQuery(**conditions))]


def test_a_row_is_a_sample_in_a_round(index: SampleIndex) -> None:
    sample = {"sample": "a", "position": 0, "split": "train"}
    accepted = {"outcome": "accepted", "reason": "accepted"}
    assert index.find(SampleQuery(position=0)) == [
        sample
        | {"round": 0, "instruction": None, "response": None, "length_growth": None}
        | {"trained": None, "text": "ask a"},
        sample
        | {
            "round": 1,
            "instruction": accepted | {"before": 0.5, "after": 0.75, "change": 0.25},
            "response": accepted | {"before": 0.75, "after": 0.25, "change": -0.5},
            "length_growth": 26 / 8,
            "trained": True,
            "text": "ask a well",
        },
    ]


def test_outcomes_tell_refusals_failures_and_what_was_good_apart(index: SampleIndex) -> None:
    by_outcome = {outcome: found(index, phase="response", outcome=outcome) for outcome in OUTCOMES}
    assert by_outcome == {
        "accepted": [("a", 1)],
        "refused": [("b", 1)],
        "unchanged": [("d", 1)],
        "failed": [("c", 1)],
        "frozen": [],
        "unasked": [],
    }
    # Nobody was asked about the instructions of the other three: they have no call.
    assert found(index, phase="instruction", outcome="unasked") == [("b", 1), ("c", 1), ("d", 1)]
    assert found(index, outcome="unasked") == [("b", 1), ("c", 1), ("d", 1)]


def test_round_zero_has_every_sample_held_out_ones_too(index: SampleIndex) -> None:
    rows = index.find(SampleQuery(round=0))
    assert {row["sample"]: row["split"] for row in rows} == dict.fromkeys("abcd", "train") | {"e": "holdout"}


def test_text_finds_samples_by_any_of_their_versions(index: SampleIndex) -> None:
    assert found(index, text="MUCH bett", round=1) == [("a", 1)]
    assert found(index, text="GROße", round=1) == [("a", 1)]  # diacritics make no difference
    assert found(index, text="worse", round=0) == [("b", 0)]  # refused, and found all the same
    assert found(index, text="answer e") == [("e", 0)]
    assert found(index, text="well worse") == []  # words of two samples
    # Words that one version has, the one of its parent's instruction and the other of its own response.
    assert found(index, text="well größe", round=1) == [("a", 1)]
    assert found(index, text="mu") == []  # short words are no beginnings
    assert found(index, text="muc", round=1) == [("a", 1)]
    assert found(index, text="answer b", round=1) == [("b", 1)]
    assert len(found(index, text="ask")) == 9
    assert found(index, text="ask", most_matches=1) == [("a", 0), ("a", 1)]


@pytest.mark.parametrize(
    ("text", "most", "is_cut"),
    [(text, most, most == 4) for text in ("ask", "ans") for most in (4, 5, None)] + [("", 1, False)],
)
def test_an_index_says_where_more_samples_hold_the_words(
    index: SampleIndex, text: str, most: int | None, is_cut: bool
) -> None:
    query = SampleQuery(text=text, most_matches=most)
    assert index.is_cut(query) is is_cut
    assert index.count(query) == (9 if most != 4 else 8)  # all but the held-out one


def test_an_index_knows_whether_a_policy_compares_a_measure(index: SampleIndex, folder: RunFolder) -> None:
    assert {"ifd_change", "r_ifd_change"} <= index.known()
    index.db.execute("UPDATE found.steps SET ifd_change = NULL")
    assert "ifd_change" not in index.known()


@pytest.mark.parametrize(
    "text",
    ['"', "*", "ask OR better", "NEAR(ask better)", "text: ask", "' --", "-", "\x00", "ask^x", "(" * 9],
)
def test_text_is_words_and_no_query(index: SampleIndex, text: str) -> None:
    assert found(index, text=text) == []


def test_marks_around_a_word_are_no_part_of_it(index: SampleIndex) -> None:
    assert found(index, text="<ask>") == found(index, text="ask") != []


def test_changes_and_growth_are_bounds_and_orders(index: SampleIndex) -> None:
    assert found(index, sort="r_ifd_change") == [("a", 1), ("b", 1)]  # -0.5, 0.125
    assert found(index, sort="r_ifd_change", descending=True) == [("b", 1), ("a", 1)]
    assert found(index, max_r_ifd_change=0.0) == [("a", 1)]
    assert found(index, min_r_ifd_change=0.125) == [("b", 1)]
    assert found(index, min_ifd_change=0.25) == [("a", 1)]
    assert found(index, min_ifd_change=0.26) == []
    assert found(index, min_length_growth=1.5) == [("a", 1)]
    assert found(index, sort="length_growth", limit=2) == [("b", 1), ("c", 1)]
    assert found(index, sort="length_growth", limit=2, offset=2) == [("d", 1), ("a", 1)]
    assert found(index, trained=True) == [("a", 1)]
    assert found(index, trained=False) == [("b", 1), ("c", 1), ("d", 1)]


@pytest.mark.parametrize("sort", SORTS)
def test_pages_hold_every_row_once(index: SampleIndex, sort: Any) -> None:
    whole = found(index, sort=sort, descending=True)
    pages = [found(index, sort=sort, descending=True, limit=2, offset=at) for at in range(0, 10, 2)]
    assert [row for page in pages for row in page] == whole
    assert index.count(SampleQuery(sort=sort)) == len(whole)


def test_count_stops_where_it_is_told(index: SampleIndex) -> None:
    assert index.count(SampleQuery()) == 9
    assert index.count(SampleQuery(), at_most=4) == 4
    assert index.count(SampleQuery(text="worse", round=1)) == 1


def test_update_takes_in_what_a_running_loop_adds(folder: RunFolder) -> None:
    with SampleIndex.open(folder) as index:
        index.update()
        changes = index.db.conn.total_changes
        index.update()
        assert index.db.conn.total_changes == changes
        with LineageWriter.open(folder.lineage) as store:
            store.start_round(2)
            for number, sample in enumerate("bc", start=1):
                decide(store, decided(original(sample), round=2, phase="instruction", reason="frozen"))
                index.update()
                assert found(index, round=2, outcome="frozen") == [("b", 2), ("c", 2)][:number]
        with LineageReader.open(folder.lineage) as history:
            assert index.rounds() == history.rounds()
        assert not [row for row in index.find(SampleQuery(round=2)) if row["trained"] is not None]


def test_an_index_of_another_lineage_is_made_anew(folder: RunFolder, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier.db"
    shutil.copy(folder.lineage, earlier)
    with LineageWriter.open(folder.lineage) as store:
        store.start_round(2)
        propose(store, original("b"), "never kept", round=2, phase="response")
    with SampleIndex.open(folder) as index:
        index.update()
        assert found(index, text="never kept", round=0) == [("b", 0)]
    for path in folder.path.glob("lineage.db*"):
        path.unlink()
    shutil.copy(earlier, folder.lineage)
    with SampleIndex.open(folder) as index:
        index.update()
        assert found(index, text="never kept") == []
        assert found(index, text="much better", round=1) == [("a", 1)]


def test_an_index_is_made_beside_a_folder_that_cannot_be_written(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # who runs the tests may write anywhere
    with SampleIndex.open(folder) as index:
        index.update()
        assert found(index, trained=True) == [("a", 1)]
    assert not folder.index.exists()
    assert len(list((tmp_path / "cache" / "reflectune").glob("*.db"))) == 1


def test_what_is_no_index_is_said_so(folder: RunFolder) -> None:
    folder.index.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="delete it"):
        SampleIndex.open(folder)


def test_words_of_a_context_and_ids_of_a_record_find_the_sample_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    known = talk("Speak Latin.", "ave", "salve", "quid novi", "nihil")
    last = talk("Speak Greek.", "chaire", "kai sy", "ti kainon", "ouden")
    with make_store(folder.lineage, train=0, holdout=0) as store:
        store.add_samples(
            [
                exchange("e", 0, known, 1, chat_id="abc-17", topic="forum"),
                exchange("f", 1, known, 3, chat_id="abc-17"),
                exchange("g", 2, last, 3, idx=40417, uuid=None),
            ]
        )
    with SampleIndex.open(folder) as index:
        index.update()
        assert [found(index, text=text) for text in ("latin", "ave", "salve", "novi")] == [
            [("e", 0)], [("e", 0)], [("e", 0)], [("f", 0)],
        ]  # fmt: skip
        assert found(index, text="greek chaire kainon") == [("g", 0)]
        assert found(index, text="abc-17") == [("e", 0), ("f", 0)]
        assert found(index, text="40417") == [("g", 0)]
        assert found(index, text="forum") == []
        with LineageWriter.open(folder.lineage) as store:
            store.start_round(1)
            given = exchange("f", 1, known, 3).pair
            parent = Version("f", None, 0, "original", 0, given)
            propose(store, parent, "multa nova", round=1, phase="response")
        index.update()
        assert found(index, text="multa") == [("f", 0)]
        assert found(index, text="multa abc") == [], "a proposal holds its own words alone"
