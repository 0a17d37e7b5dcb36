import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reflectune.state.errors import StoreError
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import (
    PHASES,
    Evaluation,
    HeldOutAnswer,
    Phase,
    Reflection,
    Score,
    Spending,
    StudentRecord,
    content_part,
)
from tests.lineages import call, decided, given, make_store, name, original, propose, scores_of


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LineageWriter]:
    with make_store(tmp_path / "lineage.db") as store:
        yield store


def pending(store: LineageWriter, round: int = 1, attempts: int = 2, candidates: int = 1) -> list[Reflection]:
    return list(store.pending_reflections(round, "response", candidates=candidates, attempts=attempts))


def decide_all(store: LineageWriter, round: int, phase: Phase, accepted: str = "") -> None:
    """Decide a phase for every sample; samples named in `accepted` take their one proposal."""
    for (contest,) in store.contests(round, phase, 1):
        made = decided(original(contest.sample_id), round=round, phase=phase)
        made = replace(made, incumbent_id=contest.incumbent_id, winner_id=contest.incumbent_id)
        if contest.sample_id in accepted:
            made = replace(made, winner_id=contest.candidate_ids[0], reason="accepted")
        store.add_decisions({}, "s0", [made])


def test_writer_asks_for_every_missing_proposal_of_training_samples(store: LineageWriter) -> None:
    store.start_round(1)
    decide_all(store, 1, "instruction")
    assert [(item.sample_id, item.candidate, item.attempts) for item in pending(store, candidates=2)] == [
        (sample, candidate, 0) for sample in "abc" for candidate in (0, 1)
    ]
    assert pending(store)[0].pair == given("a")


def test_writer_asks_no_more_for_settled_proposals(store: LineageWriter) -> None:
    store.start_round(1)
    decide_all(store, 1, "instruction")
    propose(store, original("a"), "better", round=1, phase="response")
    store.add_reflections([call("b", status="unparsable")], [])
    store.add_reflections([call("c", status="no-entry")], [])
    assert [(item.sample_id, item.attempts) for item in pending(store)] == [("b", 1)]
    assert store.count_settled(1, "response", attempts=2) == {"ok": 1, "no-entry": 1}
    store.add_reflections([call("b", attempt=2, status="error")], [])
    assert pending(store) == []
    assert store.count_settled(1, "response", attempts=2) == {"ok": 1, "no-entry": 1, "error": 1}


def test_writer_settles_proposals_by_the_last_call_for_each(store: LineageWriter) -> None:
    store.start_round(1)
    decide_all(store, 1, "instruction")
    store.add_reflections([call("a", status="unchanged"), call("a", attempt=2, status="cut")], [])
    store.add_reflections([call("b", status="cut"), call("b", attempt=2, status="unchanged")], [])
    store.add_reflections([call("c", status="cut")], [])  # to be asked again
    propose(store, original("b"), "better", round=1, phase="response", candidate=1)
    propose(store, original("c"), "better", round=1, phase="response", candidate=1)
    assert store.count_settled(1, "response", attempts=2) == {"cut": 1, "unchanged": 1, "ok": 2}
    assert [(item.sample_id, item.candidate) for item in pending(store, candidates=2)] == [
        ("a", 1),
        ("c", 0),
    ]


def test_writer_commits_calls_and_proposals_together_or_not_at_all(store: LineageWriter) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        store.add_reflections([call("a")], [replace(original("a"), sample_id="nobody", round=1)])
    assert store.count_settled(1, "response", attempts=1).total() == 0


def test_writer_incumbents_follow_the_decisions(store: LineageWriter) -> None:
    store.start_round(1)
    first = propose(store, original("a"), "better", round=1, phase="instruction")
    decide_all(store, 1, "instruction", accepted="a")
    contests = {item.sample_id: item for item in next(store.contests(1, "response", 10))}
    assert contests["a"].incumbent_id == first.id
    assert contests["b"].incumbent_id == original("b").id
    second = propose(store, first, "best", round=1, phase="response")
    decide_all(store, 1, "response", accepted="a")
    store.start_round(2)
    assert [item.incumbent_id for item in next(store.contests(2, "instruction", 10))] == [
        second.id,
        original("b").id,
        original("c").id,
    ]


def test_writer_contests_come_in_the_same_groups_after_an_interruption(store: LineageWriter) -> None:
    store.start_round(1)
    groups = [[item.sample_id for item in group] for group in store.contests(1, "instruction", 2)]
    assert groups == [["a", "b"], ["c"]]
    store.add_decisions({}, "s0", [decided(original(sample), phase="instruction") for sample in "ab"])
    groups = [[item.sample_id for item in group] for group in store.contests(1, "instruction", 2)]
    assert groups == [["c"]]


def test_writer_scores_come_back_as_they_were(store: LineageWriter) -> None:
    version = original("a")
    scores = {
        version.id: scores_of(0.5, 0.7)
        | {"instruction_alone": Score(None, None, "non-finite", truncated=True)}
    }
    store.add_decisions(scores, "s0", [])
    assert store.scores([version.id, original("b").id], "s0") == scores | {original("b").id: {}}


def test_writer_refuses_rows_that_cannot_be(store: LineageWriter) -> None:
    store.start_round(1)
    failure_with_a_number: Any = {original("a").id: {"response_alone": Score(-1.0, 1, "non-finite")}}
    for write in (
        lambda: store.add_decisions(failure_with_a_number, "s0", []),
        lambda: store.add_decisions({}, "s0", [decided(original("a"), reason="accepted")]),  # of what it was
        lambda: store.set_training_set(0, ["no such version"]),
    ):
        with pytest.raises(sqlite3.IntegrityError):
            write()


def test_writer_pool_tells_improved_responses_and_their_scores(store: LineageWriter) -> None:
    store.start_round(1)
    decide_all(store, 1, "instruction")
    better = propose(store, original("a"), "better", round=1, phase="response")
    decide_all(store, 1, "response", accepted="a")
    store.add_decisions({better.id: scores_of(0.5, 0.7)}, "s0", [])
    pool = list(store.scored_pool(1, "s0"))
    assert [(pair.version_id, pair.improved) for pair in pool] == [
        (better.id, True),
        (original("b").id, False),
        (original("c").id, False),
    ]
    assert pool[0].scores == scores_of(0.5, 0.7)
    store.start_round(2)
    decide_all(store, 2, "instruction")
    decide_all(store, 2, "response")
    assert [pair.improved for pair in store.scored_pool(2, "s0")] == [True, False, False]
    assert [store.count_decisions(round, reason="accepted") for round in (1, 2)] == [1, 0]
    assert [store.count_proposals(round) for round in (1, 2)] == [1, 0]


def test_writer_training_set_keeps_its_order(store: LineageWriter) -> None:
    assert list(store.training_pairs(0)) == []
    store.set_training_set(0, [original("c").id, original("a").id])
    assert list(store.training_pairs(0)) == [given("c"), given("a")]
    assert store.original_ids() == [original(sample).id for sample in "abc"]


def test_writer_round_student_is_none_until_there_is_one(store: LineageWriter) -> None:
    store.start_round(1)
    assert store.round_student(1) is None
    student = StudentRecord("s1", 1, "base", "rev", "adapters/round-01", "hash", "s0", {"loss": 1.5})
    store.add_student(student)
    assert store.round_student(1) == student
    store.start_round(2)
    store.set_round_student(2, "s1")
    assert store.round_student(2) == student


def test_writer_keeps_the_time_of_every_visit(store: LineageWriter) -> None:
    store.add_seconds(0, "select", 1.5)
    store.add_seconds(0, "select", 2.0)
    metrics = store.db.execute("SELECT metrics FROM rounds WHERE round = 0").fetchone()[0]
    assert metrics == '{"seconds":{"select":3.5}}'


def test_writer_evaluations_come_back_by_round(store: LineageWriter) -> None:
    nll = Evaluation("nll", 2.5, 4, 2.0, 3.0)
    store.add_evaluations(0, "s0", [nll])
    assert store.held_out_measures() == {0: {"nll": nll}}


def test_writer_held_out_pairs_come_in_groups_with_scores_and_answers(tmp_path: Path) -> None:
    held = [original(sample) for sample in "bcdef"]
    with make_store(tmp_path / "lineage.db", train=1, holdout=5) as store:
        groups = [list(group.items()) for group in store.held_out_pairs(2)]
        assert groups == [[(it.id, it.pair) for it in held[:2]], [(it.id, it.pair) for it in held[2:4]],
                          [(held[4].id, held[4].pair)]]  # fmt: skip
        scores = {it.id: scores_of(1.0, 1.0, tokens) for tokens, it in enumerate(held[:3], 1)}
        store.add_scores(scores | {original("a").id: scores_of()}, "s0")
        assert [score.num_tokens for score in store.held_out_scores("s0")] == [1, 2, 3]
        assert store.given_pairs(["c", "a"]) == {"c": given("c"), "a": given("a")}
        answers = [HeldOutAnswer("b", "text", 3, 0.5), HeldOutAnswer("c", None, None, None)]
        store.add_answers("s0", answers)
        assert list(store.held_out_answers("s0")) == answers
        assert list(store.held_out_answers("s1")) == list(store.held_out_scores("s1")) == []
        with pytest.raises(sqlite3.IntegrityError):
            store.add_answers("s0", [HeldOutAnswer("d", None, 3, None)])


def test_writer_draws_samples_of_a_split_by_the_seed(tmp_path: Path) -> None:
    with make_store(tmp_path / "lineage.db", train=10, holdout=12) as store:
        drawn = store.choose_samples(5, 0, "holdout")
        assert set(drawn) < {name(index) for index in range(10, 22)}
        assert (len(drawn), store.choose_samples(5, 0, "holdout")) == (5, drawn)
        assert store.choose_samples(7, 0, "holdout")[:5] == drawn
        assert store.choose_samples(5, 1, "holdout") != drawn
        assert len(store.choose_samples(500, 0, "holdout")) == 12


def test_writer_survives_reopening(tmp_path: Path) -> None:
    make_store(tmp_path / "lineage.db").db.close()
    with LineageWriter.open(tmp_path / "lineage.db") as store:
        assert store.samples()["train"] == 3
        assert store.settings()["versions"] == {"graph": "g"}
        assert [store.is_round_finished(round) for round in (0, 1)] == [True, False]


def test_writer_opens_only_lineages_it_understands(tmp_path: Path) -> None:
    path = tmp_path / "lineage.db"
    with pytest.raises(StoreError, match="no lineage database there"):
        LineageWriter.open(path)
    path.write_text("this is no database at all, but long enough to be read as one")
    with pytest.raises(StoreError, match="file is not a database; put "):
        LineageWriter.open(path)
    path.unlink()
    sqlite3.connect(path).execute("CREATE TABLE other (x)").connection.close()
    with pytest.raises(StoreError, match="not a lineage database"):
        LineageWriter.open(path)


def test_writer_refuses_a_newer_schema(tmp_path: Path) -> None:
    path = tmp_path / "lineage.db"
    with make_store(path) as store:
        store.db.table("_sqlite_migrations").insert(
            {"migration_set": "reflectune", "name": "9999_future", "applied_at": "later"}
        )
    with pytest.raises(StoreError, match=r"made by a newer version .*9999_future"):
        LineageWriter.open(path)


def test_writer_tables_are_strict(store: LineageWriter) -> None:
    tables = store.db.query("SELECT name, strict FROM pragma_table_list WHERE type = 'table'")
    loose = {row["name"] for row in tables if not row["strict"]}
    assert loose == {"_sqlite_migrations", "sqlite_schema", "sqlite_temp_schema"}


def test_writer_ids_change_with_the_parent() -> None:
    child = replace(original("a"), parent_id=original("a").id, round=1, phase="response")
    assert len({original("a").id, child.id, replace(child, parent_id="another").id}) == 3
    assert child.id == replace(child).id


def test_writer_ids_are_a_position_and_a_hash_that_does_not_depend_on_it() -> None:
    given = replace(original("a"), sample_id="00000003-a")
    moved = replace(given, sample_id="00000012-a")
    assert [version.id.rpartition("-")[0] for version in (given, moved)] == ["00000003", "00000012"]
    made = [replace(version, parent_id=version.id, round=1, phase="response") for version in (given, moved)]
    calls = [call(version.sample_id) for version in (given, moved)]
    # Without a position in the sample's id, as earlier versions made it, there is none in the others.
    first = replace(original("a"), parent_id=original("a").id, round=1, phase="response")
    assert {content_part(item.id) for item in (given, moved)} == {original("a").id}
    assert {content_part(item.id) for item in made} == {first.id}
    assert {content_part(item.id) for item in calls} == {call("a").id}
    assert [item.id[:9] for item in (*made, *calls)] == ["00000003-", "00000012-"] * 2


def test_writer_spending_sums_what_is_known_of_every_call_that_was_paid(store: LineageWriter) -> None:
    assert store.spending() == Spending(0, 0.0)
    unknown = replace(call("b", status="error"), prompt_tokens=None, completion_tokens=None, cost_usd=None)
    kept = replace(call("c"), cached=True)
    store.add_reflections([call("a"), call("a", attempt=2), unknown, kept], [])
    assert store.spending() == Spending(tokens=30, usd=0.5)  # two calls of 10 + 5 tokens, 0.25 each
    assert store.spending().plus(call("c")) == Spending(45, 0.75)
    assert store.spending().plus(unknown) == store.spending().plus(kept) == Spending(30, 0.5)
    places: tuple[tuple[int, Phase], ...] = ((1, "response"), (1, "instruction"), (2, "response"))
    assert [store.count_calls(round=round, phase=phase)["cached"] for round, phase in places] == [1, 0, 0]


def test_writer_freezes_samples_by_rounds_of_refusal_since_the_last_acceptance(store: LineageWriter) -> None:
    # a: refused in both phases of round 1 and in round 3, which makes two rounds; round 2 had no proposal
    # b: refused in rounds 1 and 3, accepted in round 2, which makes one
    # c: never a proposal
    told = {
        1: {"a": ("refused", "tie"), "b": ("no-candidate", "unscorable")},
        2: {"b": ("refused", "accepted")},
        3: {"a": ("policy", "no-candidate"), "b": ("refused", "no-candidate")},
    }
    for round, reasons in told.items():
        store.start_round(round)
        for number, phase in enumerate(PHASES):
            for sample in "abc":
                reason = reasons.get(sample, ("no-candidate", "no-candidate"))[number]
                better = None
                if reason == "accepted":
                    better = propose(store, original(sample), "better", round=round, phase=phase)
                made = decided(original(sample), better, reason=reason, round=round, phase=phase)  # type: ignore[arg-type]
                store.add_decisions({}, "s0", [made])
    assert [store.count_frozen(round, "instruction", 2) for round in (1, 2, 3, 4)] == [0, 0, 0, 1]
    assert [store.count_frozen(round, "instruction", 1) for round in (1, 2, 3, 4)] == [0, 2, 1, 2]
    assert store.count_frozen(4, "response", None) == 0
    (group,) = store.contests(4, "instruction", 3, freeze_after=2)
    assert [contest.sample_id for contest in group if contest.is_frozen] == ["a"]
    asked = store.pending_reflections(4, "instruction", candidates=1, attempts=1, freeze_after=2)
    assert [item.sample_id for item in asked] == ["b", "c"]


def test_writer_changed_config_keeps_what_it_was(store: LineageWriter) -> None:
    before = store.settings()["config"]
    store.change_config({"rounds": (2, 5), "teacher.budget_usd": (None, 0.5)})
    assert store.settings()["config"] == before | {
        "rounds": 5,
        "teacher": before["teacher"] | {"budget_usd": 0.5},
    }
    changes = [(row["key"], row["before"], row["after"]) for row in store.db.table("config_changes").rows]
    assert changes == [("rounds", "2", "5"), ("teacher.budget_usd", "null", "0.5")]
