"""The comparison of policies on the demo's world: its plans, its figures, and rules decided by hand."""

import json
from pathlib import Path
from typing import Any

from reflectune.loop.demo.world import is_right
from reflectune.loop.experiments.plan import load_experiment
from reflectune.state.records import Pair
from tests.bench.arms import DATA, PLAN, write_data
from tests.bench.rules import ARM, RULES, Contest, judge, read


def test_every_arm_trains_on_equal_tokens_and_the_data_of_its_seed() -> None:
    experiment = load_experiment(PLAN)
    assert len(experiment.seeds) == 5
    assert experiment.baseline == "accept-all"
    for run in experiment.runs:
        config = run.config
        assert config.refinetune.tokens == 75_000
        assert config.rounds == (3 if "3-rounds" in run.arm else 1)
        assert (config.selection.keep == "improved") == ("filtered" in run.arm)
        assert (config.selection.train_max_ifd == 1.0) == ("filtered" in run.arm)
        kind = "clean" if run.arm == "without-faults" else "noisy"
        assert config.data.path == str(DATA / f"{kind}-{run.seed}.json")
    for lots, arm in (("random", "method"), ("random-3-rounds", "method-3-rounds")):
        assert {run.acceptance_of for run in experiment.runs if run.arm == lots} == {
            f"{arm}-{seed}" for seed in experiment.seeds
        }
    assert ARM in experiment.arms


def test_clean_data_has_no_fault_and_noisy_data_is_the_demos(tmp_path: Path) -> None:
    write_data(tmp_path, [3], 20)
    noisy, clean = (json.loads((tmp_path / f"{kind}-3.json").read_text()) for kind in ("noisy", "clean"))
    right = [
        [is_right(Pair(each["instruction"], each["input"], each["output"])) for each in records]
        for records in (noisy, clean)
    ]
    assert all(right[1])
    assert not all(right[0])


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
