"""What a report says about a run's samples, on lineages small enough to work out by hand."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reflectune.state.lineage.evolution import STATES, read_evolution
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.policies import POLICIES
from reflectune.state.records import OUTCOMES, PHASES, Pair, Phase, PolicyName, Sample, StudentRecord
from tests.lineages import call, decided, make_store, name, original, propose, scores_of

# (round, phase) -> sample -> the decision's reason, the call's status and the two values that were compared.
Course = Mapping[tuple[int, Phase], Mapping[str, tuple[Any, ...]]]

# What five samples come to.
COURSE: Course = {
    (1, "instruction"): {
        "a": ("accepted", "ok"), "b": ("accepted", "ok"), "c": ("tie", "ok"), "d": ("no-candidate", "cut"),
        "e": ("no-candidate", "unchanged"),
    },
    (1, "response"): {
        "a": ("accepted", "ok"), "b": ("refused", "ok"), "c": ("no-candidate", "cut"),
        "d": ("no-candidate", "unchanged"), "e": ("no-candidate", ""),
    },
    (2, "instruction"): {
        "a": ("no-candidate", "unchanged"), "b": ("frozen", ""), "c": ("unscorable", "ok"),
        "d": ("accepted", "ok"), "e": ("policy", "ok"),
    },
    (2, "response"): {
        "a": ("no-candidate", ""), "b": ("no-candidate", "unchanged"), "c": ("no-candidate", "unchanged"),
        "d": ("no-candidate", "unparsable"), "e": ("accepted", "ok"),
    },
}  # fmt: skip


def read_course(path: Path, course: Course, train: int = 5, **changes: Any) -> dict[str, Any]:
    """The evolution of a run that took this course; `changes` are of its decisions."""
    with make_store(path, train=train) as store:
        pool = {name(index): original(name(index)) for index in range(train)}
        for (round, phase), of_samples in course.items():
            store.start_round(round)
            decisions = []
            for sample, (reason, status, *values) in of_samples.items():
                old, new = pool[sample], None
                if status == "ok":
                    new = propose(store, old, f"{round} {phase}", round=round, phase=phase)
                elif status:
                    store.add_reflections([call(sample, round, phase, status=status)], [])
                before, after = values or (None, None)
                made = decided(old, new, reason=reason, round=round, phase=phase, values=(before, after))
                decisions.append(replace(made, **changes))
                if reason == "accepted" and new:
                    pool[sample] = new
            store.add_decisions({}, "s0", decisions)
    return evolution_of(path)


def evolution_of(path: Path) -> dict[str, Any]:
    with LineageReader.open(path) as history:
        document: dict[str, Any] = json.loads(json.dumps(read_evolution(history), allow_nan=False))
    return document


def told(document: dict[str, Any], kind: str) -> list[int]:
    return [item["position"] for item in document["telling"] if item["kind"] == kind]


def test_evolution_counts_every_sample_once_a_round(tmp_path: Path) -> None:
    document = read_course(tmp_path / "lineage.db", COURSE)
    states, transitions = document["flows"]["states"], document["flows"]["transitions"]
    assert [(row["round"], row["kept"]) for row in states] == [(0, 5), (1, 1), (2, 2)]
    assert [[row["counts"][state] for state in STATES] for row in states] == [
        [5, 0, 0, 0, 0],
        # a: its response; b: its instruction, though its response was refused; c: a tie beats a failure;
        # d failed; e had nothing to improve, and is still as it was given.
        [1, 1, 1, 1, 1],
        # a and b: nothing was proposed, so they are where round 1 left their pairs; c: not scorable;
        # d: its instruction, though reflection on its response failed; e: its response, though the policy
        # kept its instruction.
        [0, 2, 2, 1, 0],
    ]
    assert [(row["round"], row["before"], row["after"], row["n"]) for row in transitions] == [
        *((1, "original", state, 1) for state in STATES),
        (2, "original", "response improved", 1),
        (2, "instruction improved", "instruction improved", 1),
        (2, "response improved", "response improved", 1),
        (2, "refused", "refused", 1),
        (2, "failed", "instruction improved", 1),
    ]
    assert {
        (row["round"], row["phase"]): tuple(row[name] for name in (*OUTCOMES, "undecided"))
        for row in document["acceptance"]
    } == {
        # accepted, refused, unchanged, failed, frozen, unasked, undecided
        (1, "instruction"): (2, 1, 1, 1, 0, 0, 0),
        (1, "response"): (1, 1, 1, 1, 0, 1, 0),
        (2, "instruction"): (1, 2, 1, 0, 1, 0, 0),
        (2, "response"): (1, 0, 2, 1, 0, 1, 0),
    }


def test_evolution_of_a_round_under_way_has_its_decisions_but_no_states(tmp_path: Path) -> None:
    document = read_course(tmp_path / "lineage.db", dict(list(COURSE.items())[:3]))
    assert document["complete"] == 1
    assert [row["round"] for row in document["flows"]["states"]] == [0, 1]
    assert {row["round"] for row in document["flows"]["transitions"]} == {1}
    assert [row["round"] for row in document["lengths"]["rounds"]] == [0, 1]
    under_way = document["acceptance"][-2:]
    assert [(row["accepted"], row["undecided"]) for row in under_way] == [(1, 0), (0, 5)]


def test_evolution_of_a_run_that_has_not_begun_is_empty(tmp_path: Path) -> None:
    document = read_course(tmp_path / "lineage.db", {})
    assert document["complete"] == 0
    assert document["acceptance"] == document["telling"] == document["flows"]["transitions"] == []
    assert document["scores"] == {"ifd": [], "r_ifd": []}
    (states,) = document["flows"]["states"]
    assert (states["counts"]["original"], states["kept"]) == (5, 5)


def test_evolution_lengths_are_characters_of_the_pool(tmp_path: Path) -> None:
    path = tmp_path / "lineage.db"
    with make_store(path, train=0, holdout=0) as store:
        store.add_samples(
            Sample(str(size), size, "train", Pair("ask", "", "é" * size)) for size in (1, 2, 3, 4, 100)
        )
    lengths = evolution_of(path)["lengths"]
    (row,) = lengths["rounds"]
    # Quantiles between two values: 5 % of four steps is 0.2 of the first, 95 % is 0.8 of the last.
    expected = {"mean": 22.0, "low": 1.2, "q1": 2.0, "median": 3.0, "q3": 4.0, "high": 4 + 0.8 * 96}
    assert {key: row[key] for key in expected} == pytest.approx(expected)
    assert (row["n"], sum(row["counts"]), row["counts"][0], row["counts"][-1]) == (5, 5, 1, 1)
    assert (lengths["edges"][0], lengths["edges"][-1]) == (pytest.approx(1), pytest.approx(100))


def read_scores(path: Path, drawn: int, change: str = "") -> Any:
    """The IFD panels of two rounds that take new responses for a and b, after a change in SQL.

    s0 decides about the first and s1 about the second. s0 is to score so many samples in all rounds, and
    scores a and b after the second too. c never changes.
    """
    with make_store(path) as store:
        store.change_config({"evaluate.base_samples": (None, drawn)})
        pool = {sample: original(sample) for sample in "abc"}
        store.add_scores({pool["c"].id: scores_of(0.9, 0.9)}, "s0")
        for round, student, old, new in ((1, "s0", 0.1, (0.2, 0.3)), (2, "s1", 0.2, (0.4, 0.6))):
            store.start_round(round)
            store.add_scores({pool[sample].id: scores_of(old, 0.5) for sample in "ab"}, student)
            for phase in PHASES:
                store.add_decisions({}, student, [decided(pool["c"], round=round, phase=phase)])
            for sample, value in zip("ab", new, strict=True):
                better = propose(store, pool[sample], f"{round}", round=round, phase="response")
                store.add_scores({better.id: scores_of(value, 0.5)}, student)
                decisions = [
                    decided(pool[sample], round=round, phase="instruction"),
                    decided(pool[sample], better, reason="accepted", round=round, values=(0.9, 0.5)),
                ]
                store.add_decisions({}, student, decisions)
                pool[sample] = better
            store.add_student(StudentRecord(f"s{round}", round, "base", None, f"adapters/{round}", "h", "s0"))
            store.finish_round(round, None)
        if drawn:
            store.add_scores({pool[sample].id: scores_of(0.5, 0.5) for sample in "ab"}, "s0")
        if change:
            with store.transaction() as database:
                database.execute(change)
    return evolution_of(path)["scores"]["ifd"]


def test_evolution_scores_share_one_student_where_it_scored_every_round(tmp_path: Path) -> None:
    (panel,) = read_scores(tmp_path / "lineage.db", drawn=3)
    assert (panel["student"], panel["n"], panel["of"], panel["drawn"]) == ("s0", 3, 3, 3)
    # a, b and c: 0.1, 0.1, 0.9; then 0.2, 0.3, 0.9; then 0.5, 0.5, 0.9.
    assert [(row["round"], row["n"]) for row in panel["rounds"]] == [(0, 3), (1, 3), (2, 3)]
    assert [row["median"] for row in panel["rounds"]] == pytest.approx([0.1, 0.3, 0.5])
    assert panel["rounds"][0]["mean"] == pytest.approx(1.1 / 3)


def test_evolution_scores_leave_out_samples_that_were_not_drawn(tmp_path: Path) -> None:
    (panel,) = read_scores(tmp_path / "lineage.db", drawn=2)
    with LineageReader.open(tmp_path / "lineage.db") as history:
        drawn = history.choose_samples(2, seed=0)
    last = {"a": 0.5, "b": 0.5, "c": 0.9}
    assert (panel["n"], panel["drawn"]) == (2, 2)
    assert panel["rounds"][-1]["mean"] == pytest.approx(sum(last[sample] for sample in drawn) / 2)


def test_evolution_scores_of_an_older_run_are_never_of_two_students_in_one_panel(tmp_path: Path) -> None:
    panels = read_scores(tmp_path / "lineage.db", drawn=0)
    # c is scored by s0 before and after round 1, but by s1 never.
    told = [(panel["student"], panel["n"], panel["drawn"]) for panel in panels]
    assert told == [("s0", 3, None), ("s1", 2, None)]
    assert [[row["round"] for row in panel["rounds"]] for panel in panels] == [[0, 1], [1, 2]]
    assert [row["median"] for row in panels[1]["rounds"]] == pytest.approx([0.2, 0.5])


def test_evolution_scores_show_no_round_that_is_scored_in_part(tmp_path: Path) -> None:
    last = "SELECT id FROM versions WHERE round = 2 AND sample_id = 'a'"
    change = f"DELETE FROM scores WHERE student_id = 's0' AND version_id IN ({last})"
    panels = read_scores(tmp_path / "lineage.db", drawn=3, change=change)
    assert [panel["drawn"] for panel in panels] == [None, None]


def test_evolution_a_pair_that_cannot_be_scored_has_no_value(tmp_path: Path) -> None:
    change = (
        "UPDATE scores SET sum_logprob = NULL, num_tokens = NULL, status = 'empty' "
        f"WHERE student_id = 's0' AND version_id = '{original('a').id}'"
    )
    (panel,) = read_scores(tmp_path / "lineage.db", drawn=3, change=change)
    assert (panel["n"], panel["drawn"]) == (2, 3)
    assert panel["rounds"][0]["low"] == pytest.approx(0.1 + 0.05 * 0.8)


def many(samples: int) -> Course:
    """Of every four samples one gains the more the later it is, and one is refused by more.

    One fails, and one is improved in both phases.
    """

    def entry(index: int, phase: Phase, better: int) -> tuple[Any, ...]:
        match index % 4:
            case 0 if phase == "instruction":
                return "accepted", "ok", 1.0, 2.0 + index
            case 0:
                return "refused", "ok", 1.0, 9.0
            case 1:
                return "refused", "ok", 1.0, 1.0 - better * index / 1000
            case 2:
                return "no-candidate", "cut" if index % 8 == 2 else "declined"
        return "accepted", "ok", 1.0, 1.0 + better * 1e-6

    signs: tuple[tuple[Phase, int], ...] = (("instruction", 1), ("response", -1))  # highest IFD, lowest r-IFD
    return {
        (1, phase): {name(index): entry(index, phase, better) for index in range(samples)}
        for phase, better in signs
    }


def test_evolution_tells_twenty_samples_of_all_kinds_none_twice(tmp_path: Path) -> None:
    document = read_course(tmp_path / "lineage.db", many(64), train=64)
    telling = document["telling"]
    assert len(telling) == len({item["sample"] for item in telling}) == 20
    # Gains are asked of both phases in turn; in phase response they are all as small, by sample id.
    assert told(document, "gain") == [60, 3, 56, 7, 52, 11]
    assert told(document, "narrow") == [1, 5, 9, 13, 17]
    assert told(document, "failure") == [2, 6, 10, 14]
    assert told(document, "journey") == [15, 19, 23, 27, 31]
    kinds = [item["kind"] for item in telling]
    assert kinds == sorted(kinds, key=["gain", "narrow", "failure", "journey"].index)
    gain = telling[0]
    assert (gain["round"], gain["phase"], gain["reason"], gain["before"], gain["after"]) == (
        1, "instruction", "accepted", 1.0, 62.0,
    )  # fmt: skip
    failure = next(item for item in telling if item["kind"] == "failure")
    assert (failure["status"], failure["phase"], failure["before"]) == ("cut", "instruction", None)
    assert next(item for item in telling if item["kind"] == "journey")["accepted"] == 2


def test_evolution_tells_more_of_one_kind_where_others_are_missing(tmp_path: Path) -> None:
    document = read_course(tmp_path / "lineage.db", many(12), train=12)
    assert sorted(item["position"] for item in document["telling"]) == list(range(12))


def test_evolution_tells_gains_of_each_round_in_turn(tmp_path: Path) -> None:
    # Under another student all of round 2 changes ten times as much.
    course: Course = {
        (1, "response"): {"a": ("accepted", "ok", 0.9, 0.8), "b": ("accepted", "ok", 0.9, 0.7)},
        (2, "response"): {"c": ("accepted", "ok", 9.0, 4.0), "d": ("accepted", "ok", 9.0, 6.0)},
    }
    assert told(read_course(tmp_path / "lineage.db", course), "gain") == [1, 2, 0, 3]  # b, c, a, d


@pytest.mark.parametrize(
    ("phase", "margin", "values", "narrow"),
    [
        # a is not below a cap, or it would have won; e is nearer than d, though by a larger share.
        ("instruction", 0.0, [(0.5, 36.0), (0.5, 0.2), (0.5, 0.5), (0.5, 0.4), (0.01, 0.009)], [2, 4, 3, 1]),
        ("response", 0.1, [(0.9, 0.9), (0.9, 0.85), (0.9, 0.91)], [1, 0, 2]),  # within the margin: narrowest
    ],
)
def test_evolution_tells_narrow_refusals_and_none_by_a_cap(
    tmp_path: Path, phase: Phase, margin: float, values: list[tuple[float, float]], narrow: list[int]
) -> None:
    sign = 1 if phase == "instruction" else -1
    course = {
        name(index): ("tie" if 0 <= sign * (after - before) <= margin else "refused", "ok", before, after)
        for index, (before, after) in enumerate(values)
    }
    document = read_course(tmp_path / "lineage.db", {(1, phase): course}, margin=margin)
    assert told(document, "narrow") == narrow


def test_evolution_tells_no_refusal_by_a_cap_within_the_margin_as_narrow(tmp_path: Path) -> None:
    course: Course = {
        (1, "instruction"): {"a": ("refused", "ok", 0.98, 1.02), "b": ("refused", "ok", 0.98, 0.5)}
    }
    assert told(read_course(tmp_path / "lineage.db", course, margin=0.1), "narrow") == [1]


@pytest.mark.parametrize("policy", [name for name, policy in POLICIES.items() if policy.response])
def test_evolution_gains_have_the_sign_of_the_policy(tmp_path: Path, policy: PolicyName) -> None:
    signs = {phase: measure.sign for phase in PHASES if (measure := POLICIES[policy].measure(phase))}
    course: Course = {
        (1, phase): {name(index): ("accepted", "ok", 20.0, 20.0 + sign * (index + 1)) for index in range(3)}
        for phase, sign in signs.items()
    }
    # The largest first, of both phases in turn, so that either's sign shows.
    assert told(read_course(tmp_path / "lineage.db", course, policy=policy), "gain") == [2, 1, 0]
