import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reflectune.state.lineage.evolution import STATES, read_evolution
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.policies import COMPARED, measure_of
from reflectune.state.records import PHASES, Phase, PolicyName, Reason, Sample, StudentRecord, Version
from tests.lineages import call, decided, given, make_store, original, propose, scores_of

# What five samples come to: (round, phase) -> sample -> the decision's reason, and the call's status.
COURSE: dict[tuple[int, Phase], dict[str, tuple[Reason, str]]] = {
    (1, "instruction"): {
        "a": ("accepted", "ok"),
        "b": ("accepted", "ok"),
        "c": ("tie", "ok"),
        "d": ("no-candidate", "cut"),
        "e": ("no-candidate", "unchanged"),
    },
    (1, "response"): {
        "a": ("accepted", "ok"),
        "b": ("refused", "ok"),
        "c": ("no-candidate", "cut"),
        "d": ("no-candidate", "unchanged"),
        "e": ("no-candidate", ""),
    },
    (2, "instruction"): {
        "a": ("no-candidate", "unchanged"),
        "b": ("frozen", ""),
        "c": ("unscorable", "ok"),
        "d": ("accepted", "ok"),
        "e": ("policy", "ok"),
    },
    (2, "response"): {
        "a": ("no-candidate", ""),
        "b": ("no-candidate", "unchanged"),
        "c": ("no-candidate", "unchanged"),
        "d": ("no-candidate", "unparsable"),
        "e": ("accepted", "ok"),
    },
}


def write_phase(
    store: LineageWriter,
    pool: dict[str, Version],
    round: int,
    phase: Phase,
    course: Mapping[str, tuple[Reason, str]],
) -> None:
    decisions = []
    for sample, (reason, status) in course.items():
        old, new = pool[sample], None
        if status == "ok":
            new = propose(store, old, f"{old.pair.response} +", round=round, phase=phase)
        elif status:
            store.add_reflections([call(sample, round, phase, status=status)], [])
        decisions.append(decided(old, new, reason=reason, round=round, phase=phase))
        if reason == "accepted" and new:
            pool[sample] = new
    store.add_decisions({}, "s0", decisions)


def write_two_rounds(path: Path, until: int = 4) -> None:
    with make_store(path, train=5) as store:
        pool = {sample: original(sample) for sample in "abcde"}
        for place, ((round, phase), course) in enumerate(COURSE.items()):
            if phase == "instruction":
                store.start_round(round)
            if place < until:
                write_phase(store, pool, round, phase, course)


@contextmanager
def evolution_of(path: Path) -> Iterator[dict[str, Any]]:
    with LineageReader.open(path) as history:
        yield read_evolution(history)


def told(document: dict[str, Any], kind: str) -> list[int]:
    return [item["position"] for item in document["telling"] if item["kind"] == kind]


def test_evolution_flows_put_every_sample_into_one_state_a_round(tmp_path: Path) -> None:
    write_two_rounds(tmp_path / "lineage.db")
    with evolution_of(tmp_path / "lineage.db") as document:
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
        (1, "original", "original", 1),
        (1, "original", "instruction improved", 1),
        (1, "original", "response improved", 1),
        (1, "original", "refused", 1),
        (1, "original", "failed", 1),
        (2, "original", "response improved", 1),
        (2, "instruction improved", "instruction improved", 1),
        (2, "response improved", "response improved", 1),
        (2, "refused", "refused", 1),
        (2, "failed", "instruction improved", 1),
    ]


def test_evolution_acceptance_adds_up_to_the_pool(tmp_path: Path) -> None:
    write_two_rounds(tmp_path / "lineage.db")
    with evolution_of(tmp_path / "lineage.db") as document:
        rows = {(row["round"], row["phase"]): row for row in document["acceptance"]}
    outcomes = ("accepted", "refused", "unchanged", "failed", "frozen", "unasked", "undecided")
    assert {place: tuple(row[name] for name in outcomes) for place, row in rows.items()} == {
        (1, "instruction"): (2, 1, 1, 1, 0, 0, 0),
        (1, "response"): (1, 1, 1, 1, 0, 1, 0),
        (2, "instruction"): (1, 2, 1, 0, 1, 0, 0),
        (2, "response"): (1, 0, 2, 1, 0, 1, 0),
    }


def test_evolution_of_a_round_under_way_has_its_decisions_but_no_states(tmp_path: Path) -> None:
    write_two_rounds(tmp_path / "lineage.db", until=3)
    with evolution_of(tmp_path / "lineage.db") as document:
        under_way = document["acceptance"][-2:]
        assert document["complete"] == 1
        assert [row["round"] for row in document["flows"]["states"]] == [0, 1]
        assert {row["round"] for row in document["flows"]["transitions"]} == {1}
        assert [row["round"] for row in document["lengths"]["rounds"]] == [0, 1]
    assert [(row["accepted"], row["undecided"]) for row in under_way] == [(1, 0), (0, 5)]


def test_evolution_of_a_run_that_has_not_begun_is_empty(tmp_path: Path) -> None:
    with make_store(tmp_path / "lineage.db"):
        pass
    with evolution_of(tmp_path / "lineage.db") as document:
        assert document["complete"] == 0
        assert document["acceptance"] == document["telling"] == document["flows"]["transitions"] == []
        assert document["scores"] == {"ifd": [], "r_ifd": []}
        (states,) = document["flows"]["states"]
        assert (states["counts"]["original"], states["kept"]) == (3, 3)


def test_evolution_lengths_are_characters_of_the_pool(tmp_path: Path) -> None:
    path = tmp_path / "lineage.db"
    with make_store(path, train=0, holdout=0) as store:
        store.add_samples(
            Sample(name, index, "train", type(given("a"))("ask", "", "é" * length))
            for index, (name, length) in enumerate(zip("abcde", (1, 2, 3, 4, 100), strict=True))
        )
    with evolution_of(path) as document:
        (row,) = document["lengths"]["rounds"]
    # Quantiles between two values: 5 % of four steps is 0.2 of the first, 95 % is 0.8 of the last.
    expected = {"mean": 22.0, "low": 1.2, "q1": 2.0, "median": 3.0, "q3": 4.0, "high": 4 + 0.8 * 96}
    assert {key: row[key] for key in expected} == pytest.approx(expected)
    assert (row["n"], sum(row["counts"]), row["counts"][0], row["counts"][-1]) == (5, 5, 1, 1)
    edges = document["lengths"]["edges"]
    assert (edges[0], edges[-1]) == (pytest.approx(1), pytest.approx(100))


def write_scores(path: Path, frozen: int | None) -> None:
    """Two rounds; where `frozen`, s0 scores a and b after the second too. c never changes."""
    with make_store(path, train=3) as store:
        if frozen is not None:
            store.db.execute(
                "UPDATE runs SET config = json_set(config, '$.evaluate', json(?))",
                [f'{{"base_samples": {frozen}}}'],
            )
            store.db.conn.commit()
        pool = {sample: original(sample) for sample in "abc"}
        store.add_decisions({pool["c"].id: scores_of(0.9, 0.9)}, "s0", [])
        for round, student in ((1, "s0"), (2, "s1")):
            store.start_round(round)
            store.add_decisions(
                {}, student, [decided(pool[sample], round=round, phase="instruction") for sample in "abc"]
            )
            new = {
                sample: propose(store, pool[sample], f"{round}", round=round, phase="response")
                for sample in "ab"
            }
            values = {1: (0.2, 0.3), 2: (0.4, 0.6)}[round]
            old = (
                {pool[s].id: scores_of(0.1 * round, 0.5) for s in "ab"}
                if student == "s1" or round == 1
                else {}
            )
            store.add_decisions(
                old | {new[s].id: scores_of(value, 0.5) for s, value in zip("ab", values, strict=True)},
                student,
                [decided(pool[s], new[s], reason="accepted", round=round, values=(0.9, 0.5)) for s in "ab"]
                + [decided(pool["c"], round=round)],
            )
            pool |= new
            store.add_student(StudentRecord(f"s{round}", round, "base", None, f"adapters/{round}", "h", "s0"))
            store.finish_round(round, None)
        if frozen:
            store.add_scores({pool[s].id: scores_of(0.5, 0.5) for s in "ab"}, "s0")


def test_evolution_scores_share_one_student_where_it_scored_every_round(tmp_path: Path) -> None:
    write_scores(tmp_path / "lineage.db", frozen=3)
    with evolution_of(tmp_path / "lineage.db") as document:
        (panel,) = document["scores"]["ifd"]
    assert (panel["student"], panel["n"], panel["of"], panel["drawn"]) == ("s0", 3, 3, 3)
    # a, b and c: 0.1, 0.1, 0.9; then 0.2, 0.3, 0.9; then 0.5, 0.5, 0.9.
    assert [(row["round"], row["n"]) for row in panel["rounds"]] == [(0, 3), (1, 3), (2, 3)]
    assert [row["median"] for row in panel["rounds"]] == pytest.approx([0.1, 0.3, 0.5])
    assert panel["rounds"][0]["mean"] == pytest.approx(1.1 / 3)


def test_evolution_scores_leave_out_samples_that_were_not_drawn(tmp_path: Path) -> None:
    write_scores(tmp_path / "lineage.db", frozen=2)
    with LineageWriter.open(tmp_path / "lineage.db") as store:
        drawn = store.choose_samples(2, seed=0)
    with evolution_of(tmp_path / "lineage.db") as document:
        (panel,) = document["scores"]["ifd"]
    last = {"a": 0.5, "b": 0.5, "c": 0.9}
    assert (panel["n"], panel["drawn"]) == (2, 2)
    assert panel["rounds"][-1]["mean"] == pytest.approx(sum(last[sample] for sample in drawn) / 2)


def test_evolution_scores_of_an_older_run_are_never_of_two_students_in_one_panel(tmp_path: Path) -> None:
    write_scores(tmp_path / "lineage.db", frozen=None)
    with evolution_of(tmp_path / "lineage.db") as document:
        panels = document["scores"]["ifd"]
    # c is scored by s0 before and after round 1, but by s1 never.
    assert [(panel["student"], panel["n"], panel["drawn"]) for panel in panels] == [
        ("s0", 3, None),
        ("s1", 2, None),
    ]
    assert [[row["round"] for row in panel["rounds"]] for panel in panels] == [[0, 1], [1, 2]]
    assert [row["median"] for row in panels[1]["rounds"]] == pytest.approx([0.2, 0.5])


def test_evolution_scores_show_no_round_that_is_scored_in_part(tmp_path: Path) -> None:
    write_scores(tmp_path / "lineage.db", frozen=3)
    with LineageWriter.open(tmp_path / "lineage.db") as store:
        store.db.execute(
            "DELETE FROM scores WHERE student_id = 's0' AND version_id IN "
            "(SELECT id FROM versions WHERE round = 2 AND sample_id = 'a')"
        )
        store.db.conn.commit()
    with evolution_of(tmp_path / "lineage.db") as document:
        panels = document["scores"]["ifd"]
    assert [panel["drawn"] for panel in panels] == [None, None]


def test_evolution_a_pair_that_cannot_be_scored_has_no_value(tmp_path: Path) -> None:
    write_scores(tmp_path / "lineage.db", frozen=3)
    with LineageWriter.open(tmp_path / "lineage.db") as store:
        store.db.execute(
            "UPDATE scores SET sum_logprob = NULL, num_tokens = NULL, status = 'empty' "
            "WHERE student_id = 's0' AND version_id = ?",
            [original("a").id],
        )
        store.db.conn.commit()
    with evolution_of(tmp_path / "lineage.db") as document:
        (panel,) = document["scores"]["ifd"]
    assert (panel["n"], panel["drawn"]) == (2, 3)
    assert panel["rounds"][0]["low"] == pytest.approx(0.1 + 0.05 * 0.8)


def write_many(path: Path, samples: int) -> None:
    """One round; of every four samples one gains the more the later it is, and one is refused by more.

    One fails, and one is improved in both phases.
    """
    with make_store(path, train=0, holdout=0) as store:
        names = [f"n{index:03}" for index in range(samples)]
        store.add_samples(Sample(name, index, "train", given(name)) for index, name in enumerate(names))
        store.start_round(1)
        pool = {name: original(name) for name in names}
        for phase, better in (("instruction", 1), ("response", -1)):  # the highest IFD, the lowest r-IFD
            decisions = []
            for index, name in enumerate(names):
                old = pool[name]
                if index % 4 == 2:
                    store.add_reflections(
                        [call(name, 1, phase, status="cut" if index % 8 == 2 else "declined")], []
                    )
                    decisions.append(decided(old, phase=phase))
                    continue
                new = propose(store, old, f"new {phase}", round=1, phase=phase)
                if index % 4 == 3:
                    values = (1.0, 1.0 + better * 1e-6)
                    decisions.append(decided(old, new, reason="accepted", phase=phase, values=values))
                    pool[name] = new
                elif index % 4 == 0 and phase == "instruction":
                    decisions.append(
                        decided(old, new, reason="accepted", phase=phase, values=(1.0, 2.0 + index))
                    )
                    pool[name] = new
                else:
                    values = (1.0, 1.0 - better * index / 1000) if index % 4 == 1 else (1.0, 9.0)
                    decisions.append(decided(old, new, reason="refused", phase=phase, values=values))
            store.add_decisions({}, "s0", decisions)


def test_evolution_tells_twenty_samples_of_all_kinds_none_twice(tmp_path: Path) -> None:
    write_many(tmp_path / "lineage.db", 64)
    with evolution_of(tmp_path / "lineage.db") as document:
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


def write_contests(
    path: Path,
    course: Mapping[tuple[int, Phase], Mapping[str, tuple[Reason, float, float]]],
    **changes: Any,
) -> None:
    """By round and phase what was decided: sample -> reason, the incumbent's value and the proposal's."""
    with make_store(path, train=5) as store:
        for round in sorted({round for round, _ in course}):
            store.start_round(round)
            for phase in PHASES:
                decisions = []
                for sample, (reason, *values) in course.get((round, phase), {}).items():
                    old = original(sample)
                    new = propose(store, old, f"{round} {phase}", round=round, phase=phase)
                    made = decided(
                        old, new, reason=reason, round=round, phase=phase, values=(values[0], values[1])
                    )
                    decisions.append(replace(made, **changes))
                store.add_decisions({}, "s0", decisions)


def test_evolution_tells_gains_of_each_round_in_turn(tmp_path: Path) -> None:
    # Under another student all of round 2 changes ten times as much.
    course: dict[tuple[int, Phase], dict[str, tuple[Reason, float, float]]] = {
        (1, "response"): {"a": ("accepted", 0.9, 0.8), "b": ("accepted", 0.9, 0.7)},
        (2, "response"): {"c": ("accepted", 9.0, 4.0), "d": ("accepted", 9.0, 6.0)},
    }
    write_contests(tmp_path / "lineage.db", course)
    with evolution_of(tmp_path / "lineage.db") as document:
        assert told(document, "gain") == [1, 2, 0, 3]  # b, c, a, d


def test_evolution_tells_no_refusal_by_a_cap_as_narrow(tmp_path: Path) -> None:
    course: dict[tuple[int, Phase], dict[str, tuple[Reason, float, float]]] = {
        (1, "instruction"): {
            "a": ("refused", 0.5, 35.6),  # not below the cap: it would have won otherwise
            "b": ("refused", 0.5, 0.2),
            "c": ("tie", 0.5, 0.5),
            "d": ("refused", 0.5, 0.4),
            "e": ("refused", 0.001, 0.0009),  # nearer than d, though by a larger share
        }
    }
    write_contests(tmp_path / "lineage.db", course)
    with evolution_of(tmp_path / "lineage.db") as document:
        assert told(document, "narrow") == [2, 4, 3, 1]  # c, e, d, b


def test_evolution_tells_refusals_within_the_margin_as_the_narrowest(tmp_path: Path) -> None:
    course: dict[tuple[int, Phase], dict[str, tuple[Reason, float, float]]] = {
        (1, "response"): {
            "a": ("tie", 0.9, 0.9),
            "b": ("tie", 0.9, 0.85),
            "c": ("refused", 0.9, 0.91),
        }
    }
    write_contests(tmp_path / "lineage.db", course, margin=0.1)
    with evolution_of(tmp_path / "lineage.db") as document:
        assert told(document, "narrow") == [1, 0, 2]


@pytest.mark.parametrize("policy", [policy for policy in COMPARED if measure_of(policy, "response")])
def test_evolution_gains_have_the_sign_of_the_policy(tmp_path: Path, policy: PolicyName) -> None:
    """The largest gain comes first."""
    signs = {phase: measure.sign for phase in PHASES if (measure := measure_of(policy, phase))}
    course: dict[tuple[int, Phase], dict[str, tuple[Reason, float, float]]] = {
        (1, phase): {
            "a": ("accepted", 20.0, 20.0 + sign),
            "b": ("accepted", 20.0, 20.0 + 2 * sign),
            "c": ("accepted", 20.0, 20.0 + 3 * sign),
        }
        for phase, sign in signs.items()
    }
    write_contests(tmp_path / "lineage.db", course, policy=policy)
    with evolution_of(tmp_path / "lineage.db") as document:
        assert told(document, "gain") == [2, 1, 0]  # of both phases in turn, so that either's sign shows


def test_evolution_tells_more_of_one_kind_where_others_are_missing(tmp_path: Path) -> None:
    write_many(tmp_path / "lineage.db", 12)
    with evolution_of(tmp_path / "lineage.db") as document:
        assert len(document["telling"]) == 12
        assert sorted(item["position"] for item in document["telling"]) == list(range(12))


def test_evolution_values_are_finite_numbers(tmp_path: Path) -> None:
    write_scores(tmp_path / "lineage.db", frozen=3)

    def numbers(value: Any) -> Iterator[float]:
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                yield from numbers(item)
        elif isinstance(value, float):
            yield value

    with evolution_of(tmp_path / "lineage.db") as document:
        assert all(map(math.isfinite, numbers(document)))
