"""The comparison of policies counts and averages as its tables say."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reflectune.loop.demo.world import is_right
from reflectune.state.records import Pair
from tests.bench.arms import ARMS, DEFAULT, EXPLORED, RANDOM, V1, Arm, Job, configure, interval, outcome_rows
from tests.bench.rules import RULES, Contest, judge, read


def test_interval_is_students_t_over_the_seeds() -> None:
    # Mean 60, standard deviation 10, t = 4.303 with 2 degrees of freedom: 4.303 * 10 / sqrt(3) = 24.84.
    assert interval([0.5, 0.6, 0.7]) == "60.0 ± 24.8"
    assert interval([0.5, None]) == "50.0"
    assert interval([None]) == "-"


@pytest.mark.parametrize(
    "arm", sorted({*ARMS, *EXPLORED}, key=str), ids=lambda arm: f"{arm.name}-{arm.rounds}"
)
def test_every_arm_trains_on_equal_tokens_and_the_same_data(arm: Arm, tmp_path: Path) -> None:
    (tmp_path / "reference").mkdir()
    config = configure(Job(arm, 3, pairs=20, tokens=999, random_rate=0.25), tmp_path)
    assert config.refinetune.tokens == 999
    assert (config.selection.policy, config.rounds) == (arm.policy, arm.rounds)
    assert (config.selection.keep == "improved") == arm.filtered
    assert (config.selection.train_max_ifd == 1.0) == arm.filtered
    assert (config.selection.ifd_cap == 1.0) == ("ifd_cap" in arm.name)
    reference = configure(Job(DEFAULT, 3, pairs=20, tokens=999), tmp_path / "reference")
    records, plain = (json.loads(Path(c.data.path or "").read_text()) for c in (config, reference))
    if arm.clean:
        assert all(is_right(Pair(r["instruction"], r["input"], r["output"])) for r in records)
    else:
        assert records == plain


def test_outcomes_are_set_against_one_round_of_accept_all_seed_by_seed() -> None:
    def figures(*matches: float) -> list[dict[str, Any]]:
        rest = {"pool_right": 1.0, "training": 10, "response_tokens": 4.0}
        return [{"exact_match": match, **rest} for match in matches]

    results = {V1: figures(0.5, 0.7), replace(DEFAULT, rounds=3): figures(0.6, 0.8)}
    assert list(outcome_rows(results)) == [
        f"{V1.name} | 1 | 60.0 ± 127.1 | 0.0 ± 0.0 | 100.0 ± 0.0 | 10 | 4.00",
        f"{DEFAULT.name} | 3 | 70.0 ± 127.1 | 10.0 ± 0.0 | 100.0 ± 0.0 | 10 | 4.00",
    ]


def test_the_arms_that_others_are_set_against_are_there() -> None:
    for arms in (ARMS, EXPLORED):
        assert V1 in arms
        assert len(set(arms)) == len(arms)
    # Random takes its rate from the default.
    assert ARMS.index(DEFAULT) < ARMS.index(RANDOM)
    assert RANDOM not in EXPLORED


def measures(ifd: float, r_ifd: float = 0.5, length: int = 3) -> dict[str, Any]:
    return {"ifd": ifd, "r_ifd": r_ifd, "length": length}


def test_judge_counts_what_a_rule_would_have_mended_and_damaged() -> None:
    contests = [
        Contest(1, "instruction", measures(2.0), measures(0.2), incumbent_right=False, candidate_right=True),
        Contest(1, "instruction", measures(0.2), measures(0.4), incumbent_right=True, candidate_right=False),
        Contest(1, "instruction", measures(0.3), measures(0.1), incumbent_right=True, candidate_right=True),
        Contest(1, "instruction", measures(0.3), measures(0.1), incumbent_right=False, candidate_right=False),
    ]
    rules = RULES["instruction"]
    assert judge(contests, rules["highest IFD (the method)"]) == "25.0% (+0, -1)"
    assert judge(contests, rules["highest IFD below 1 (ifd_cap)"]) == "50.0% (+1, -1)"
    assert judge(contests, rules["lowest IFD"]) == "75.0% (+1, -0)"
    assert judge(contests, rules["accept all"]) == "50.0% (+1, -1)"
    assert judge(contests, rules["reject all"]) == "50.0% (+0, -0)"
    assert judge([], rules["accept all"]) == "- (+0, -0)"


def test_read_takes_the_scores_of_the_student_that_decided() -> None:
    def version(name: str, response: str, *scores: dict[str, Any]) -> dict[str, Any]:
        return {"id": name, "instruction": "Shout cat.", "input": "", "response": response, "scores": scores}

    def score(student: str, r_ifd: float | None) -> dict[str, Any]:
        return {"student": student, "ifd": None, "r_ifd": r_ifd}

    decision = {"round": 2, "phase": "response", "incumbent": "old", "challenger": "new", "student": "s1"}
    trace = {
        "versions": [
            version("old", "ca", score("s0", 0.9), score("s1", 0.8)),
            version("new", "CAT", score("s1", 0.3)),
            version("unscored", "CAT", score("s1", None)),
        ],
        "decisions": [decision, decision | {"challenger": None}, decision | {"challenger": "unscored"}],
    }
    (contest,) = read(trace)
    assert (contest.round, contest.phase) == (2, "response")
    assert (contest.incumbent["r_ifd"], contest.candidate["r_ifd"]) == (0.8, 0.3)
    assert (contest.incumbent["length"], contest.candidate["length"]) == (2, 3)
    assert (contest.incumbent_right, contest.candidate_right) == (False, True)
