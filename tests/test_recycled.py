"""What is exported of a run: conversations joined again, in the order of the data, with nothing left out."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reflectune.state.lineage.proposals import read_proposals
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.lineage.recycled import read_pool, read_preferences, read_training
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import Conversation, Pair, Sample, Split, StudentRecord, Turn, Version
from tests.lineages import decide, decided, propose


def turns_of(*texts: str) -> list[Turn]:
    """A system message, then user and assistant in turn."""
    roles = ("assistant", "user")
    return [Turn("system" if index == 0 else roles[index % 2], text) for index, text in enumerate(texts)]


# Three exchanges: the first and the last are recycled, the second is not. A user's turn is left unanswered.
CHAT = [*turns_of("Be brief.", "q1", "a1", "q2", "a2", "q3", "a3", "bye")]
CHAT[3] = Turn("user", "q2", '{"name": "Ann"}')
CHAT[6] = Turn("assistant", "a3", '{"name": "Bob", "reasoning_content": "Why a3?"}')
BOB = '{"name": "Bob"}'  # all that holds of another answer


def sample(
    id: str, position: int, conversation: Conversation | None = None, turn: int = 0, split: Split = "train"
) -> Sample:
    """Of a conversation, or a pair that stands alone."""
    if conversation is None:
        return Sample(id, position, split, Pair(f"ask {id}", "", f"answer {id}"), {"id": f"given {id}"})
    turns = conversation.turns
    pair = Pair(turns[turn].content, "", turns[turn + 1].content, turns[:turn])
    return Sample(id, position, split, pair, {"id": "chat"}, conversation, turn)


def version_of(sample: Sample) -> Version:
    return Version(sample.id, None, 0, "original", 0, sample.pair)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two rounds over pairs, one of them twice, two exchanges of a conversation, and held-out records."""
    chat, held = Conversation(tuple(CHAT)), Conversation(tuple(turns_of("Hold.", "q", "a")))
    samples = [
        sample("x", 0),
        sample("1", 1, chat, 1),
        sample("3", 2, chat, 5),
        sample("h", 3, held, 1, "holdout"),
        sample("y", 4),
        sample("z", 5, split="holdout"),
    ]
    again = Sample("x2", 6, "train", samples[0].pair, samples[0].meta)  # a duplicate
    train = [version_of(each) for each in (*samples, again) if each.split == "train"]
    path = tmp_path / "lineage.db"
    with LineageWriter.create(path) as store:
        store.add_run({"name": "run", "rounds": 2, "seed": 0}, data_hash="d", versions={"graph": "g"})
        store.add_samples([*samples, again])
        store.start_round(0)
        store.add_student(StudentRecord("s0", 0, "base", None, None, None, None))
        store.finish_round(0, None)
        pool = {version.sample_id: version for version in train}
        for round, improved in ((1, ("1", "y")), (2, ("1", "3"))):
            store.start_round(round)
            decide(store, *(decided(v, phase="instruction", round=round) for v in pool.values()))
            decisions = []
            for id, version in pool.items():
                if id not in improved:
                    decisions.append(decided(version, round=round))
                    continue
                better = propose(store, version, f"better {id} of {round}", round=round, phase="response")
                decisions.append(decided(version, better, reason="accepted", round=round, values=(0.8, 0.2)))
                pool[id] = better
            decide(store, *decisions)
            store.set_training_set(round, [pool[id].id for id in reversed(improved)])
    return path


@pytest.fixture
def lineage(path: Path) -> Iterator[LineageReader]:
    with LineageReader.open(path) as lineage:
        yield lineage


def with_responses(first: str, third: str) -> tuple[Turn, ...]:
    """The conversation with other responses in two exchanges, and all else as given."""
    more = CHAT[6].more if third == "a3" else BOB
    return (*CHAT[:2], Turn("assistant", first), *CHAT[3:6], Turn("assistant", third, more), CHAT[7])


@pytest.mark.parametrize(
    ("round", "first", "third"),
    [(0, "a1", "a3"), (1, "better 1 of 1", "a3"), (2, "better 1 of 2", "better 3 of 2")],
)
def test_read_pool_joins_a_conversation_of_one_round(
    lineage: LineageReader, round: int, first: str, third: str
) -> None:
    records = list(read_pool(lineage, round))
    assert [record.sample_ids for record in records] == [("x",), ("1", "3"), ("y",), ("x2",)]
    assert records[1].turns == with_responses(first, third)
    assert records[1].asked is None  # the last exchange is none of the samples'
    assert (records[1].meta, records[1].round) == ({"id": "chat"}, round)
    pool = {
        row["sample_id"]: row["version_id"]
        for row in lineage.db.query("SELECT * FROM pool WHERE round = ?", [round])
    }
    assert records[1].version_ids == (pool["1"], pool["3"])


def test_read_pool_keeps_duplicates_and_the_fields_of_each_record(lineage: LineageReader) -> None:
    first, _, _, second = read_pool(lineage, 2)
    assert first.turns == second.turns == (Turn("user", "ask x"), Turn("assistant", "answer x"))
    assert first.asked == ("ask x", "")
    assert first.meta == second.meta == {"id": "given x"}
    assert first.version_ids != second.version_ids


def test_read_pool_has_held_out_records_in_their_places(lineage: LineageReader) -> None:
    records = list(read_pool(lineage, 2, holdout=True))
    assert [(record.sample_ids[0], record.split) for record in records] == [
        ("x", "train"), ("1", "train"), ("h", "holdout"), ("y", "train"), ("z", "holdout"), ("x2", "train"),
    ]  # fmt: skip
    assert records[2].turns == tuple(turns_of("Hold.", "q", "a"))
    assert records[2].asked == ("q", "")
    assert records[4].turns[1].content == "answer z"


def test_read_training_has_each_pair_after_the_context_it_was_trained_with(lineage: LineageReader) -> None:
    third, first = read_training(lineage, 2)
    assert third.turns == (*CHAT[:6], Turn("assistant", "better 3 of 2", BOB))
    assert first.turns == (*CHAT[:2], Turn("assistant", "better 1 of 2"))
    assert (third.sample_ids, third.meta, third.round) == (("3",), {"id": "chat"}, 2)


def test_read_preferences_has_winner_and_loser_after_their_context(lineage: LineageReader) -> None:
    records = list(read_preferences(lineage, 2))
    assert [
        (each.turns[-1].content, each.rejected and each.rejected.content, each.round) for each in records
    ] == [
        ("better 1 of 1", "a1", 1),
        ("better y of 1", "answer y", 1),
        ("better 1 of 2", "better 1 of 1", 2),
        ("better 3 of 2", "a3", 2),
    ]
    assert records[3].turns == (*CHAT[:6], Turn("assistant", "better 3 of 2", BOB))
    assert records[3].rejected == CHAT[6]
    assert records[2].version_ids == (records[2].version_ids[0], records[0].version_ids[0])
    assert list(read_preferences(lineage, 0)) == []


@pytest.mark.parametrize(("policy", "number"), [("lc-r-ifd", 1), ("ifd+r-ifd", 2)])
def test_what_was_refused_for_its_length_alone_is_no_preference(path: Path, policy: str, number: int) -> None:
    """Of a policy that compares at like length; another has refused a lower r-IFD by its cap or margin."""
    with LineageWriter.open(path) as store:
        store.start_round(3)
        for id, value in (("x", 0.2), ("x2", 0.9)):
            old = version_of(replace(sample("x", 0), id=id))
            new = propose(store, old, f"better {id}", round=3, phase="response")
            refused = decided(old, new, reason="refused", round=3, values=(0.8, value))
            decide(store, replace(refused, policy=policy))
        found = [each for each in read_preferences(store, 3) if each.round == 3]
    assert len(found) == number
    assert found[-1].rejected == Turn("assistant", "better x2")


def test_proposals_are_read_in_their_contexts(lineage: LineageReader) -> None:
    (first, third) = read_proposals(lineage, 2, "response")
    assert (first.incumbent.response, third.incumbent.response) == ("better 1 of 1", "a3")
    for proposed, context in ((first, CHAT[:1]), (third, CHAT[:5])):
        assert proposed.incumbent.context == proposed.candidate.context == tuple(context)


def test_read_pool_looks_each_version_up(lineage: LineageReader) -> None:
    """No walk through whole tables for each sample."""
    asked: list[str] = []
    lineage.db.conn.set_trace_callback(asked.append)
    list(read_pool(lineage, 2))
    lineage.db.conn.set_trace_callback(None)
    query = next(text for text in asked if "samples CROSS JOIN" in text)
    plan = " / ".join(row[3] for row in lineage.db.execute(f"EXPLAIN QUERY PLAN {query}"))
    assert plan.count("SCAN") == plan.count("SCAN samples USING INDEX") == 1, plan
    assert "TEMP B-TREE" not in plan
