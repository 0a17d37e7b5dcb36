from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reflectune.state.errors import StoreError
from reflectune.state.lineage.proposals import read_proposals
from reflectune.state.lineage.reader import LineageReader, mean_and_median
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import (
    Evaluation,
    Pair,
    Phase,
    Proposed,
    Sample,
    SkippedRows,
    StudentRecord,
    Version,
)
from tests.lineages import (
    call,
    decide,
    decided,
    exchange,
    given,
    make_store,
    original,
    propose,
    scores_of,
    talk,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """One round: "a" is improved, "b" is refused, "c" gets no proposal."""
    path = tmp_path / "lineage.db"
    with make_store(path) as store:
        write_round(store)
    return path


@pytest.fixture
def reader(path: Path) -> Iterator[LineageReader]:
    with LineageReader.open(path) as reader:
        yield reader


NO_CALLS = {"calls": 0, "cached": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost_usd": 0.0}
# Of calls of 10 + 5 tokens, 0.25 each.
FOUR_CALLS = {"calls": 4, "cached": 0, "prompt_tokens": 40, "completion_tokens": 20, "cost_usd": 1.0}


def counts(reflected: int, unchanged: int, failed: int, accepted: int, decided: int = 0) -> dict[str, int]:
    kinds = {"reflected": reflected, "unchanged": unchanged, "failed": failed, "accepted": accepted}
    return kinds | {"decided": decided, "frozen": 0}


def write_round(store: LineageWriter) -> None:
    store.start_round(1)
    old = {sample: original(sample) for sample in "abc"}
    decide(store, *(decided(version, phase="instruction") for version in old.values()))
    good = propose(store, old["a"], "better a", round=1, phase="response")
    bad = propose(store, old["b"], "worse b", round=1, phase="response")
    store.add_reflections([call("c", attempt=1, status="unparsable"), call("c", attempt=2, status="cut")], [])
    scores = {
        good.id: scores_of(0.5, 0.2, tokens=8),
        bad.id: scores_of(0.6, 0.9),
        old["a"].id: scores_of(0.9, 0.8),
        old["b"].id: scores_of(0.7, 0.4, tokens=4),
        old["c"].id: scores_of(0.9, 0.6, tokens=6),
    }
    decide(
        store,
        decided(old["a"], good, reason="accepted", values=(0.8, 0.2)),
        decided(old["b"], bad, reason="refused", values=(0.4, 0.9)),
        decided(old["c"]),
        scores=scores,
    )
    store.set_training_set(1, [good.id])
    store.add_student(StudentRecord("s1", 1, "base", None, "adapters/round-01", "h", "s0"))
    store.add_evaluations(1, "s1", [Evaluation("nll", 2.5, 1, None, None)])
    store.add_seconds(1, "select", 2.04)
    store.finish_round(1, "rounds")


def test_reader_rounds_have_the_documented_keys_and_values(reader: LineageReader) -> None:
    zero, one = reader.rounds()
    assert zero["round"] == 0
    assert (zero["student"], zero["pool"], zero["training"]) == ("s0", 3, 0)
    assert zero["ifd"] == {"mean": None, "median": None}
    assert [tuple(it.values()) for it in one["response"].pop("reasons")] == [
        ("cut", "broken", 1), ("unparsable", "broken", 1),
    ]  # fmt: skip
    assert one == {
        "round": 1,
        "student": "s1",
        "pool": 3,
        "training": 1,
        "training_truncated": 0,
        "frozen": 0,
        "instruction": counts(0, 0, 0, 0) | {"teacher": NO_CALLS, "statuses": {}, "reasons": []},
        "response": counts(2, 0, 1, 1, decided=2)
        | {
            "teacher": FOUR_CALLS,
            "statuses": {"cut": 1, "ok": 2, "unparsable": 1},
        },
        # The pool D[1] is better a, b, c with IFD 0.5, 0.7, 0.9 and r-IFD 0.2, 0.4, 0.6.
        "ifd": {"mean": pytest.approx(0.7), "median": pytest.approx(0.7)},
        "r_ifd": {"mean": pytest.approx(0.4), "median": pytest.approx(0.4)},
        "response_tokens": 6.0,
        "evaluations": {"nll": 2.5},
        "alarms": [],
        "judge": None,
        "teacher": FOUR_CALLS | {"tokens_per_accepted": 60.0, "cost_per_accepted_usd": 1.0},
        "servers": {},
        "seconds": {"reflect": 0.0, "select": 2.0, "refinetune": 0.0, "evaluate": 0.0},
    }


def test_reader_counts_samples_without_a_proposal_by_their_last_call(path: Path) -> None:
    statuses: dict[Phase, dict[str, tuple[tuple[str, ...], ...]]] = {  # of each candidate's attempts
        "instruction": {
            "a": (("cut", "unchanged"),),
            "b": (("unchanged", "cut"),),
            "c": (("unchanged", "cut"), ("error", "unchanged")),
        },
        "response": {"a": (("unchanged",), ("cut",)), "b": ((), ("unchanged",))},
    }
    with LineageWriter.open(path) as store:
        store.start_round(2)
        propose(store, original("b"), "new b", round=2, phase="response")
        calls = [
            call(sample, 2, phase, attempt, status, candidate)
            for phase, of_samples in statuses.items()
            for sample, of_candidates in of_samples.items()
            for candidate, attempts in enumerate(of_candidates)
            for attempt, status in enumerate(attempts, start=1)
        ]
        # In the order in which a busy server may answer: the last row need not be the last call.
        store.add_reflections(reversed(calls), [])
    with LineageReader.open(path) as reader:
        two = reader.rounds()[2]
    assert two["instruction"].items() >= counts(0, 2, 1, 0).items()
    assert two["response"].items() >= counts(1, 0, 1, 0).items()
    assert two["instruction"]["statuses"] == {"cut": 3, "error": 1, "unchanged": 4}
    assert two["response"]["statuses"] == {"cut": 1, "ok": 1, "unchanged": 2}


def test_reader_run_overview(path: Path, reader: LineageReader) -> None:
    assert reader.run() | {"created_at": ""} == {
        "name": "run", "created_at": "", "status": "running", "rounds": 2, "stop_reason": "rounds"
    }  # fmt: skip
    assert reader.samples() == {"train": 3, "holdout": 1}
    assert reader.acceptance() == 0.5
    assert reader.last_round() == 1
    assert reader.count_outcomes(1) == {
        "instruction": {"unasked": 3},
        "response": {"accepted": 1, "failed": 1, "refused": 1},
    }
    with LineageWriter.open(path) as store:  # a round under way counts for nothing
        store.start_round(2)
        decide(store, decided(original("a"), round=2))
    with LineageReader.open(path) as later:
        assert later.last_round() == 1


def test_reader_sums_what_was_paid_for(path: Path) -> None:
    """Two calls from the cache are counted, and add nothing; those of round 1 took 60 tokens and 1 USD."""
    with LineageWriter.open(path) as store:
        store.start_round(2)
        kept = [replace(call(sample, 2), cached=True, cost_usd=0.0, seconds=0.0) for sample in "ab"]
        uncounted = replace(call("c", 2, status="error"), prompt_tokens=None, cost_usd=None)
        store.add_reflections([*kept, uncounted, replace(call("c", 2, attempt=2), cost_usd=0.5)], [])
    with LineageReader.open(path) as reader:
        two = reader.rounds()[2]
        sums = {"calls": 4, "cached": 2, "prompt_tokens": 10, "completion_tokens": 10, "cost_usd": 0.5}
        assert two["response"]["teacher"] == sums
        nothing = {"tokens_per_accepted": None, "cost_per_accepted_usd": None}
        assert two["teacher"] == sums | nothing  # nothing was accepted
        sums = {"calls": 8, "cached": 2, "prompt_tokens": 50, "completion_tokens": 30, "cost_usd": 1.5}
        assert reader.teacher() == sums | {"tokens_per_accepted": 80.0, "cost_per_accepted_usd": 1.5}


@pytest.mark.parametrize("status", ["ok", "unparsable", "cut", "unchanged"])
def test_reader_a_sum_is_unknown_where_an_answered_call_is_not_counted(path: Path, status: str) -> None:
    with LineageWriter.open(path) as store:
        uncounted = call("a", attempt=7, status=status)
        store.add_reflections([replace(uncounted, completion_tokens=None, cost_usd=None)], [])
    with LineageReader.open(path) as reader:
        one = reader.rounds()[1]
    for sums in (one["teacher"], one["response"]["teacher"]):
        assert (sums["prompt_tokens"], sums["completion_tokens"], sums["cost_usd"]) == (50, None, None)
    assert (one["teacher"]["tokens_per_accepted"], one["teacher"]["cost_per_accepted_usd"]) == (None, None)
    assert one["instruction"]["teacher"] == NO_CALLS


def test_reader_of_a_cached_call_without_counts_leaves_the_sums_known(path: Path) -> None:
    with LineageWriter.open(path) as store:
        kept = replace(call("a", attempt=7), cached=True, cost_usd=0.0)
        store.add_reflections([replace(kept, prompt_tokens=None, completion_tokens=None)], [])
    with LineageReader.open(path) as reader:
        assert reader.rounds()[1]["response"]["teacher"] == FOUR_CALLS | {"calls": 5, "cached": 1}


def test_reader_tells_which_server_was_asked(path: Path) -> None:
    servers = ["http://one/v1", "http://two/v1", "http://one/v1", None]
    with LineageWriter.open(path) as store:
        calls = [
            replace(call("a", round=2, attempt=attempt, status="cut"), server=server)
            for attempt, server in enumerate(servers, start=1)
        ]
        store.start_round(2)
        store.add_reflections(calls[:1], [])
        store.add_reflections(calls[1:], [])
    with LineageReader.open(path) as reader:
        assert reader.round(2)["servers"] == {"http://one/v1": 2, "http://two/v1": 1}
        assert [item["server"] for item in reader.trace("a")["failures"]] == servers
        assert [item["server"] for item in reader.calls("a")][1:] == servers
        numbers = reader.db.execute("SELECT server_id FROM teacher_calls WHERE round = 2 ORDER BY attempt")
        assert [number for (number,) in numbers] == [1, 2, 1, None]


def test_reader_trace_tells_the_whole_story(reader: LineageReader) -> None:
    trace = reader.trace("0")
    assert (trace["sample"], trace["position"], trace["split"]) == ("a", 0, "train")
    assert [(version["phase"], version["current"]) for version in trace["versions"]] == [
        ("original", False),
        ("response", True),
    ]
    improved = trace["versions"][1]
    assert improved["parent"] == trace["versions"][0]["id"]
    assert (improved["critique"], improved["response"]) == ("too short", "better a")
    (score,) = improved["scores"]
    assert (score["student"], score["status"]) == ("s0", "ok")
    assert (score["ifd"], score["r_ifd"]) == (pytest.approx(0.5), pytest.approx(0.2))
    assert [(item["phase"], item["reason"]) for item in trace["decisions"]] == [
        ("instruction", "no-candidate"),
        ("response", "accepted"),
    ]
    assert trace["trained_in"] == [1]
    assert trace["failures"] == []


def test_reader_trace_of_a_failed_reflection_names_each_attempt(reader: LineageReader) -> None:
    trace = reader.trace("c")
    assert [item["status"] for item in trace["failures"]] == ["unparsable", "cut"]
    assert [item["text"] for item in trace["failures"]] == [item["text"] for item in reader.calls("c")]
    assert trace["trained_in"] == []


def test_reader_finds_samples_by_position_and_id(reader: LineageReader) -> None:
    assert reader.find_sample("2") == reader.find_sample("c") == "c"
    for text, problem in (
        ("9", "no sample 9; give a position from 0 to 3"),
        ("", "several samples"),
        ("%", "no sample %"),
    ):
        with pytest.raises(StoreError, match=problem):
            reader.find_sample(text)


def test_reader_finds_samples_by_the_start_of_an_id_or_of_its_hash(tmp_path: Path) -> None:
    ids = ("00000000-abc1", "00000001-abd2", "00000002-1234567890", "00000003-7e07")
    with make_store(tmp_path / "lineage.db", ids=ids):
        pass
    with LineageReader.open(tmp_path / "lineage.db") as reader:
        for text in ("00000001-abd2", "00000001-", "00000001", "1", "abd2", "abd"):
            assert reader.find_sample(text) == ids[1], text
        assert (reader.find_sample("1234567890"), reader.find_sample("7e")) == (ids[2], ids[3])
        for text, problem in (("ab", "several samples"), ("bd2", "no sample"), ("7", "no sample 7")):
            with pytest.raises(StoreError, match=problem):
                reader.find_sample(text)


@pytest.fixture
def talks(tmp_path: Path) -> Iterator[LineageReader]:
    """Two exchanges of one conversation of five turns, and a pair that stands alone; rows were left out."""
    path = tmp_path / "talks.db"
    talked = talk("Be brief.", "one", "1", "two", "2")
    with make_store(path, train=0, holdout=0) as store:
        meta = {"id": 17, "topic": "sums", "checked": True, "note": 'a "b" \u00e9'}
        alone = Sample("a1", 2, "train", given("a"), meta)
        first, second = (exchange(f"e{turn}", turn // 2, talked, turn, chat_id="abc-17") for turn in (1, 3))
        store.add_samples([first, second, alone])
        store.add_skipped([SkippedRows("tools", 2, ("row 3: calls f",)), SkippedRows("empty", 7, ())])
        store.start_round(1)
        instruction = [decided(Version(s.id, None, 0, "original", 0, s.pair), phase="instruction",
                               reason="frozen" if s.is_followed else "no-candidate")
                       for s in (first, second, alone)]  # fmt: skip
        left = Version("a1", None, 0, "original", 0, given("a"))
        decide(store, *instruction, decided(left, reason="frozen"))
    with LineageReader.open(path) as reader:
        yield reader


def test_reader_trace_has_the_turns_around_an_exchange(talks: LineageReader) -> None:
    first, second, alone = (talks.trace(str(position)) for position in range(3))
    system = {"role": "system", "content": "Be brief."}
    asked, said = {"role": "user", "content": "one"}, {"role": "assistant", "content": "1"}
    assert (first["context"], first["turn"], first["later_turns"]) == ([system], 1, 2)
    assert (second["context"], second["turn"], second["later_turns"]) == ([system, asked, said], 3, 0)
    assert (alone["context"], alone["turn"], alone["later_turns"]) == ([], 0, 0)
    assert second["meta"] == {"chat_id": "abc-17"}


def test_reader_tells_what_was_given_and_what_was_left_out(talks: LineageReader) -> None:
    assert talks.given() == {
        "conversations": 1,
        "exchanges": 2,
        "followed": 1,
        "skipped": [
            {"kind": "empty", "number": 7, "examples": []},
            {"kind": "tools", "number": 2, "examples": ["row 3: calls f"]},
        ],
    }


def test_reader_counts_who_is_left_alone_after_refusals_apart(talks: LineageReader) -> None:
    one = talks.rounds()[1]
    assert (one["instruction"]["frozen"], one["response"]["frozen"], one["frozen"]) == (1, 1, 1)


def test_reader_finds_samples_by_what_their_records_had(talks: LineageReader) -> None:
    for text in ("2", "a1", "17", "id=17", "topic=sums", 'note=a "b" \u00e9', "checked=true", "a"):
        assert talks.find_sample(text) == "a1", text
    for text, problem in (
        ("abc-17", "2 samples have abc-17; give the position of one: 0, 1"),
        ("sums", "no sample sums"),  # no id
        ("topic=sum", "no sample topic=sum"),
        ("checked=True", "no sample checked=True"),
        ("e", "several samples have an id that starts with e"),
    ):
        with pytest.raises(StoreError, match=problem):
            talks.find_sample(text)


def test_reader_pool_follows_the_decisions(reader: LineageReader) -> None:
    assert [pair.response for pair in reader.pool(1)] == ["better a", "answer b", "answer c"]
    assert list(reader.pool(0)) == [given(sample) for sample in "abc"]


def test_reader_proposed_has_every_decided_proposal_with_its_incumbent(path: Path) -> None:
    with LineageWriter.open(path) as store:
        store.start_round(2)
        taken = Version("a", original("a").id, 1, "response", 0, Pair("ask a", "", "better a"))
        best = propose(store, taken, "best a", round=2, phase="instruction")
        old = original("b")
        second = propose(store, old, "second b", round=2, phase="instruction", candidate=1)
        first = propose(store, old, "first b", round=2, phase="instruction", candidate=0)
        propose(store, original("c"), "new c", round=2, phase="instruction")  # not decided yet
        decide(
            store,
            decided(old, second, reason="accepted", round=2, phase="instruction"),
            decided(taken, reason="policy", round=2, phase="instruction"),  # by lot, without a look at it
        )
    with LineageReader.open(path) as reader:
        assert list(read_proposals(reader, 1, "instruction")) == []
        assert list(read_proposals(reader, 1, "response")) == [
            Proposed(0, given("a"), Pair("ask a", "", "better a"), accepted=True),
            Proposed(1, given("b"), Pair("ask b", "", "worse b"), accepted=False),
        ]
        assert list(read_proposals(reader, 2, "instruction")) == [
            Proposed(0, taken.pair, best.pair, accepted=False),
            Proposed(1, old.pair, first.pair, accepted=False),
            Proposed(1, old.pair, second.pair, accepted=True),
        ]


def test_reader_evaluations_are_all_measures_by_round_and_name(path: Path) -> None:
    with LineageWriter.open(path) as store:
        store.add_evaluations(0, "s0", [Evaluation("nll", 3.0, 4, 2.5, 3.5)])
        store.add_evaluations(1, "s1", [Evaluation("accuracy", 0.5, 2, 0.1, 0.9)])
    with LineageReader.open(path) as reader:
        assert reader.evaluations() == [
            {"round": 0, "student": "s0", "name": "nll", "value": 3.0, "n": 4, "low": 2.5, "high": 3.5},
            {"round": 1, "student": "s1", "name": "accuracy", "value": 0.5, "n": 2, "low": 0.1, "high": 0.9},
            {"round": 1, "student": "s1", "name": "nll", "value": 2.5, "n": 1, "low": None, "high": None},
        ]


def test_reader_cannot_write(reader: LineageReader) -> None:
    with pytest.raises(Exception, match="readonly"):
        reader.db.execute("DELETE FROM runs")


def test_evolution_view_has_a_row_per_version(reader: LineageReader) -> None:
    rows = list(reader.db.query("SELECT sample_id, phase, outcome, ifd FROM evolution"))
    assert [(row["sample_id"], row["phase"], row["outcome"]) for row in rows] == [
        ("a", "original", None),
        ("a", "response", "accepted"),
        ("b", "original", None),
        ("b", "response", "refused"),
        ("c", "original", None),
        ("d", "original", None),
    ]
    assert rows[1]["ifd"] == pytest.approx(0.5)
    assert rows[5]["ifd"] is None


@pytest.mark.parametrize(("scorer", "deciding", "ifd"), [("newest", "s1", 0.25), ("base", "s0", 0.75)])
def test_evolution_view_has_scores_of_the_deciding_student(
    tmp_path: Path, scorer: str, deciding: str, ifd: float
) -> None:
    with make_store(tmp_path / "lineage.db") as store:
        store.change_config({"selection.scorer": (None, scorer)})
        store.start_round(1)
        store.add_student(StudentRecord("s1", 1, "base", None, "adapters/1", "h", "s0"))
        store.finish_round(1, None)
        store.start_round(2)
        better = propose(store, original("a"), "1", round=2, phase="response")
        store.add_scores({better.id: scores_of(0.75, 0.5)}, "s0")
        store.add_scores({better.id: scores_of(0.25, 0.5)}, "s1")
    with LineageReader.open(tmp_path / "lineage.db") as reader:
        query = "SELECT student_id, ifd FROM evolution WHERE round = 2"
        assert [tuple(row) for row in reader.db.execute(query)] == [(deciding, pytest.approx(ifd))]


def test_evolution_view_sorts_nothing_and_walks_through_samples_alone(reader: LineageReader) -> None:
    plan = [row[3] for row in reader.db.execute("EXPLAIN QUERY PLAN SELECT * FROM evolution LIMIT 10")]
    assert not [step for step in plan if "TEMP B-TREE" in step or "AUTOMATIC" in step], plan
    walks = [step for step in plan if step.startswith("SCAN")]
    assert walks == ["SCAN samples USING INDEX sqlite_autoindex_samples_2", "SCAN runs"]  # a run is one row


def test_round_summary_view_counts_reasons(reader: LineageReader) -> None:
    rows = {row["phase"]: row for row in reader.db.query("SELECT * FROM round_summary")}
    assert rows["instruction"]["no_candidate"] == 3
    response = rows["response"]
    assert (response["pool"], response["accepted"], response["refused"]) == (3, 1, 1)
    assert (response["no_candidate"], response["training"]) == (1, 1)


def test_mean_and_median_leave_out_what_is_unknown() -> None:
    assert mean_and_median([1.0, None, 2.0, 6.0]) == {"mean": 3.0, "median": 2.0}
    assert mean_and_median([None]) == {"mean": None, "median": None}
