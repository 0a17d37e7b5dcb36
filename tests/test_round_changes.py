"""Two rounds of one run beside each other, on lineages small enough to work out by hand."""

import math
from pathlib import Path
from typing import Any

import pytest

from reflectune.agents.student.evaluation import measure_held_out
from reflectune.state.errors import StoreError
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.lineage.round_comparison import compare_rounds
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import PHASES, Evaluation, HeldOutAnswer, Score, StudentRecord
from tests.lineages import decide, decided, make_store, original, propose, scores_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Round 1 gives "a" a longer response and refuses one for "b"; round 2 rewrites "c" and "a" again."""
    path = tmp_path / "lineage.db"
    old = {sample: original(sample) for sample in "abc"}
    with make_store(path) as store:
        store.add_evaluations(0, "s0", [Evaluation("nll", 2.0, 10, 1.5, 2.5)])
        store.start_round(1)
        decide(store, *(decided(version, phase="instruction") for version in old.values()))
        better = propose(store, old["a"], "a longer one", round=1, phase="response")
        worse = propose(store, old["b"], "no", round=1, phase="response")
        scores = {
            old["a"].id: scores_of(0.9, 0.8),
            old["b"].id: scores_of(0.7, 0.4),
            old["c"].id: scores_of(0.9, 0.6),
            better.id: scores_of(0.5, 0.2),
            worse.id: scores_of(0.6, 0.9),
        }
        decide(
            store,
            decided(old["a"], better, reason="accepted", values=(0.8, 0.2)),
            decided(old["b"], worse, reason="refused", values=(0.4, 0.9)),
            decided(old["c"]),
            scores=scores,
        )
        store.set_training_set(1, [better.id])
        store.add_student(StudentRecord("s1", 1, "base", None, "adapters/round-01", "h", "s0"))
        store.add_evaluations(
            1, "s1", [Evaluation("nll", 1.25, 10, 1.0, 1.4), Evaluation("accuracy", 0.5, 4, 0.2, 0.8)]
        )
        store.finish_round(1, None)
        store.start_round(2)
        told = propose(store, old["c"], "told c", round=2, phase="instruction", instruction="tell c")
        decide(
            store,
            decided(better, round=2, phase="instruction"),
            decided(old["b"], round=2, phase="instruction", reason="frozen"),
            decided(old["c"], told, reason="accepted", round=2, phase="instruction", values=(0.3, 0.4)),
            scores={old["c"].id: scores_of(0.3, 0.3), told.id: scores_of(0.4, 0.3)},
            student="s1",
        )
        longest = propose(store, better, "a still longer one", round=2, phase="response")
        decide(
            store,
            decided(better, longest, reason="accepted", round=2, values=(0.75, 0.5)),
            decided(old["b"], round=2, reason="frozen"),
            decided(told, round=2),
            scores={better.id: scores_of(0.5, 0.75), longest.id: scores_of(0.6, 0.5)},
            student="s1",
        )
        store.set_training_set(2, [better.id, longest.id])
        store.add_student(StudentRecord("s2", 2, "base", None, "adapters/round-02", "h", "s0"))
        store.finish_round(2, "rounds")
    return path


def compared(path: Path, before: int, after: int, **options: Any) -> dict[str, Any]:
    with LineageReader.open(path) as history:
        return compare_rounds(history, before, after, **options)


def test_rounds_differ_by_what_was_accepted_between(path: Path) -> None:
    one, two = compared(path, 0, 1), compared(path, 0, 2)
    assert one["pairs"] == {"total": 3, "instruction": 0, "response": 1, "both": 0, "unchanged": 2}
    assert two["pairs"] == {"total": 3, "instruction": 0, "response": 1, "both": 1, "unchanged": 1}
    assert one["decisions"] == [
        {"round": 1, "phase": "instruction", "decided": 0, "accepted": 0},
        {"round": 1, "phase": "response", "decided": 2, "accepted": 1},
    ]
    assert [row["accepted"] for row in two["decisions"]] == [0, 1, 1, 1]
    assert [row["decided"] for row in two["decisions"]] == [0, 2, 1, 1]
    assert one["acceptance"] == {"before": {}, "after": {"instruction": None, "response": 0.5}}


def test_rounds_responses_are_measured_in_characters(path: Path) -> None:
    # "answer x" has 8 characters, "a longer one" 12.
    lengths = compared(path, 0, 1)["response_characters"]
    assert lengths["before"] == {"mean": 8, "median": 8}
    assert lengths["after"] == {"mean": pytest.approx(28 / 3), "median": 8}


def test_rounds_scores_come_from_one_student_that_scored_both_pools(path: Path) -> None:
    (under,) = compared(path, 0, 1)["scores"]
    assert under["student"] == "s0"
    assert (under["ifd"]["known"], under["ifd"]["changed"]) == (3, 1)
    assert under["ifd"]["before"] == {"mean": pytest.approx(2.5 / 3), "median": pytest.approx(0.9)}
    assert under["ifd"]["after"] == {"mean": pytest.approx(0.7), "median": pytest.approx(0.7)}
    assert under["r_ifd"]["before"]["mean"] == pytest.approx(0.6)
    assert under["r_ifd"]["after"]["mean"] == pytest.approx(0.4)


def test_rounds_scores_of_pairs_that_nobody_scored_in_both_are_not_compared(path: Path) -> None:
    # Of D[0] and D[2], s0 scored both pairs of "b" alone; s1 scored those of "c", and none of "a" in D[0].
    under = {scores["student"]: scores["ifd"] for scores in compared(path, 0, 2)["scores"]}
    assert {student: (ifd["known"], ifd["changed"]) for student, ifd in under.items()} == {
        "s1": (1, 1),
        "s0": (1, 0),
    }
    assert under["s1"]["before"]["mean"] == pytest.approx(0.3)
    assert under["s1"]["after"]["mean"] == pytest.approx(0.4)


def test_rounds_scores_are_under_the_student_of_the_round_before(path: Path) -> None:
    assert [scores["student"] for scores in compared(path, 0, 2)["scores"]] == ["s1", "s0"]
    with LineageWriter.open(path) as store:
        store.db.execute("UPDATE rounds SET student_id = 's0' WHERE round = 1")  # which may have kept it
    assert [scores["student"] for scores in compared(path, 0, 2)["scores"]] == ["s0"]


def test_rounds_held_out_measures_have_a_difference_where_both_are_known(path: Path) -> None:
    accuracy, nll = compared(path, 0, 1)["held_out"]
    assert (accuracy["name"], accuracy["before"], accuracy["difference"]) == ("accuracy", None, None)
    assert nll["before"] == {"student": "s0", "value": 2.0, "n": 10, "low": 1.5, "high": 2.5}
    assert (nll["difference"], nll["difference_low"]) == (-0.75, None)  # nothing is stored of its pairs


def test_rounds_held_out_changes_have_an_interval_of_their_own_by_pair(tmp_path: Path) -> None:
    """Intervals that overlap by far hide no change that every pair shows."""
    path = tmp_path / "lineage.db"
    held_out = [original(sample) for sample in "bcd"]
    with make_store(path, train=1, holdout=3) as store:
        # nll of 1, 2 and 6, then 0.5, 1.5 and 5.3; answers of 4, 5 and 9 tokens, then of 4, 6 and 13.
        for round, (student, sums, lengths) in enumerate(
            (("s0", (2.0, 4.0, 12.0), (4, 5, 9)), ("s1", (1.0, 3.0, 10.6), (4, 6, 13)))
        ):
            if round:
                store.start_round(round)
                decide(store, *(decided(original("a"), phase=phase) for phase in PHASES))
                store.add_student(StudentRecord(student, round, "base", None, "adapters/round-01", "h", "s0"))
            scores = {
                version.id: {"response_given_instruction": Score(-total, 2, "ok")}
                for version, total in zip(held_out, sums, strict=True)
            }
            store.add_scores(scores, student)
            answers = (
                HeldOutAnswer(version.sample_id, "text", length, None)
                for version, length in zip(held_out, lengths, strict=True)
            )
            store.add_answers(student, answers)
            store.add_evaluations(round, student, measure_held_out(
                [score for terms in scores.values() for score in terms.values()],
                [HeldOutAnswer("b", "text", length, None) for length in lengths],
            ))  # fmt: skip
        store.finish_round(1, None)
    nll, tokens = compared(path, 0, 1)["held_out"]
    assert nll["before"]["low"] < nll["after"]["value"] < nll["before"]["value"]
    # Differences of -0.5, -0.5 and -0.7: mean -0.5667, deviation 0.11547, t = 4.303 with 2 degrees.
    half = 4.303 * 0.11547 / math.sqrt(3)
    assert nll["difference"] == pytest.approx(-0.56667, abs=1e-5)
    assert nll["difference_low"] == pytest.approx(-0.56667 - half, abs=1e-4)
    assert nll["difference_high"] == pytest.approx(-0.56667 + half, abs=1e-4)
    # Of 0, 1 and 4 tokens: mean 5 / 3, deviation 2.0817.
    assert tokens["difference_low"] == pytest.approx(5 / 3 - 4.303 * 2.0817 / math.sqrt(3), abs=1e-3)
    with LineageWriter.open(path) as store:
        store.db.execute("DELETE FROM scores WHERE student_id = 's1' AND sum_logprob = -1.0")
    nll, _ = compared(path, 0, 1)["held_out"]
    assert (nll["difference_low"], nll["difference_high"]) == (None, None)  # over other pairs


def test_rounds_training_sets_overlap_by_pairs(path: Path) -> None:
    assert compared(path, 1, 2)["training"] == {"before": 1, "after": 2, "both": 1}


def test_rounds_changed_samples_come_with_both_pairs_and_the_way_between(path: Path) -> None:
    first, second = compared(path, 0, 2)["samples"]
    # Of "c" the r-IFD is known in both, of "a" it is not: what is unknown comes last.
    assert (first["position"], second["position"]) == (2, 0)
    assert first["r_ifd"] == {
        "student": "s1", "before": pytest.approx(0.3), "after": pytest.approx(0.3)
    }  # fmt: skip
    assert second["r_ifd"] is None
    assert (first["before"]["instruction"], first["after"]["instruction"]) == ("ask c", "tell c")
    assert (second["before"]["response"], second["after"]["response"]) == ("answer a", "a still longer one")
    assert second["characters"] == {"before": 8, "after": 18}
    assert second["accepted"] == [{"round": 1, "phase": "response"}, {"round": 2, "phase": "response"}]


@pytest.mark.parametrize(
    ("order", "positions"), [("r-ifd-change", [0, 2]), ("length-change", [0, 2]), ("position", [0, 2])]
)
def test_rounds_changed_samples_have_an_order(path: Path, order: Any, positions: list[int]) -> None:
    # From D[1] to D[2] the r-IFD of "a" falls by 0.25 under s1 and "c" stays; 6 characters come, 2 go.
    assert [row["position"] for row in compared(path, 1, 2, order=order)["samples"]] == positions
    assert [row["position"] for row in compared(path, 1, 2, order=order, limit=1)["samples"]] == positions[:1]
    # The other way round, the r-IFD of "a" rises.
    if order == "r-ifd-change":
        assert [row["position"] for row in compared(path, 2, 1, order=order)["samples"]] == [2, 0]


@pytest.mark.parametrize(
    ("rounds", "message"),
    [((0, 3), "round 3 is not complete"), ((-1, 1), "round -1 is not complete"), ((1, 1), "are the same")],
)
def test_rounds_that_cannot_be_compared_get_one_line(
    path: Path, rounds: tuple[int, int], message: str
) -> None:
    with pytest.raises(StoreError, match=message) as refused:
        compared(path, *rounds)
    assert "\n" not in str(refused.value)
