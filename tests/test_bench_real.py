"""The benchmarks on a real model: their plan, and what they make of answers, by hand-made ones."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from reflectune.loop.demo.english.verdicts import Answer, Judged, Verdicts, read_judged, write_inputs
from reflectune.loop.experiments.plan import load_experiment
from reflectune.state.records import Pair
from tests.bench.real import DATA, GIVEN, MIXES, PLAN, draw, keep_better, rank, spread
from tests.bench.real_rules import Contest, fit, share_right, token_features
from tests.bench.real_tables import tabulate_rounds

_THREE_ROUNDS = ("accept-all", "method", "method-frozen", "random", "oracle")


def test_arms_differ_in_who_decides_and_train_on_equal_tokens() -> None:
    experiment = load_experiment(PLAN)
    assert len(experiment.seeds) >= 3
    for run in experiment.runs:
        config, kind = run.config, {"oracle": "oracle"}.get(run.arm, "teacher")
        assert config.data.path == str(DATA / f"given-{run.seed}.json")
        assert run.arm == "raw" or config.teacher.path == str(DATA / f"{kind}-{run.seed}.jsonl")
        assert config.rounds == (3 if run.arm in _THREE_ROUNDS else 1)
        assert config.refinetune.tokens == experiment.tokens
        assert config.selection.scorer == ("base" if run.arm == "method-frozen" else "newest")
        assert (config.selection.keep == "improved") == (run.arm == "method-filtered")


def make_judged(instruction: str) -> Judged:
    models = dict.fromkeys(model for mix in (GIVEN, *MIXES) for model in mix)
    return Judged(
        instruction,
        tuple(Answer(model, f"{model} says", 0.01 * n) for n, model in enumerate(models, start=1)),
    )


def test_draw_gives_each_instruction_another_answer_of_every_rounds_mix() -> None:
    judged = [make_judged(f"Say {number}.") for number in range(30)] + [make_judged("long " * 200)]
    drawn = draw(judged, seed=1)
    assert drawn == draw(judged, seed=1) != draw(judged, seed=2)
    assert sorted(row.instruction for row in drawn) == sorted(row.instruction for row in judged[:30])
    for row in drawn:
        assert len(set(row.answers)) == 4
        for answer, mix in zip(row.answers, (GIVEN, *MIXES), strict=True):
            assert answer.model in mix


def test_inputs_are_the_first_answers_and_a_recording_of_the_next(tmp_path: Path) -> None:
    row = Judged("Say a.", (Answer("m", "a", 0.2), Answer("n", "b", 0.1), Answer("o", "c", 0.6)))
    judged = tmp_path / "judged.jsonl"
    judged.write_text(
        json.dumps({"instruction": row.instruction, "answers": [answer._asdict() for answer in row.answers]})
    )
    assert read_judged(judged) == [row]
    data, recording = tmp_path / "data.json", tmp_path / "recording.jsonl"
    write_inputs([row], data, recording)
    assert json.loads(data.read_text()) == [{"instruction": "Say a.", "output": "a"}]
    entries = [json.loads(line) for line in recording.read_text().splitlines()]
    assert [(entry["round"], entry["new_response"]) for entry in entries] == [(1, "b"), (2, "c")]
    assert [answer.response for answer in keep_better(row)] == ["a", "a", "c"]
    verdicts = Verdicts([row])
    assert verdicts.of(Pair("Say a.", "", " a\n")) == pytest.approx(math.log(0.25))
    assert verdicts.of(Pair("Say a.", "", "d")) is None


def test_rank_compares_clear_verdicts_by_nll_and_takes_the_mean_of_the_best() -> None:
    row = Judged(
        "Say a.", (Answer("m", "x" * 40, 0.01), Answer("n", "x" * 42, 0.5), Answer("o", "x" * 90, 0.9))
    )
    # The first below the last is wrong, the two others are right; only the first two are alike in length.
    assert rank([row], [[2.0, 1.0, 3.0]]) == (3.0, pytest.approx(100 / 3), 100.0)
    assert rank([row], [[None, 1.0, 0.5]]) == (0.5, 100.0, None)
    assert rank([row], [[2.0, 1.0, None]]) == (None, 100.0, 100.0)


def test_tables_pool_decisions_and_take_differences_seed_by_seed() -> None:
    last = {"1: pool": -7.0, "1: accepted": 6, "1: raised": 2, "1: nll of the best": 1.0, "2: pool": -5.0}
    method = [{"1: pool": -6.0, "1: nll of the best": 1.25}, None]  # the second seed's run failed
    figures = {
        "raw": [{"1: pool": -9.0, "1: nll of the best": 2.0}] * 2,
        "accept-all": [{"1: pool": -8.0, "1: accepted": 4, "1: raised": 3, "1: nll of the best": 1.5}, last],
        **dict.fromkeys(("method", "random", "method-frozen"), method),
        "oracle": [None, None],
    }
    arms = [
        {
            "arm": name,
            "rounds": 2 if name == "accept-all" else 1,
            "runs": [
                {"seed": seed, "figures": None if known is None else {"own": known}}
                for seed, known in enumerate(seeds)
            ],
        }
        for name, seeds in figures.items()
    ]
    document: Any = {"arms": arms, "baseline": "accept-all"}
    rows = [line.strip("| ").split(" | ") for line in tabulate_rounds(document)]
    assert ["accept-all", "-7.500 ± 6.353", "-", "-", "50% (24% to 76%) of 10", "-", "-", "-"] in rows
    for title, pool, nll in (
        ("round 1: method less accept-all", "+2.000", "-0.250"),
        ("round 1: raw less accept-all", "-1.500 ± 6.353", "+0.750 ± 3.176"),
        ("round 1: method less raw", "+3.000", "-0.750"),
        ("round 1: method less random", "+0.000", "+0.000"),
        ("round 2: accept-all less accept-all of round 1", "+2.000", "-"),
    ):
        assert [title, pool, nll, "-", "-", "-"] in rows


def test_students_rank_answers_from_the_worst_to_the_best() -> None:
    answers = [Answer(f"m{n}", f"{n}", n / 10) for n in (7, 1, 4, 2, 3, 5, 6)]
    row = Judged("Say a.", (*answers, Answer("long", "x" * 601, 0.9), Answer("none", " ", 0.8)))
    assert [answer.win for answer in spread(row).answers] == [0.1, 0.3, 0.5, 0.7]
    assert spread(Judged("Say a.", tuple(answers[:2]))).answers == (answers[1], answers[0])
    assert spread(Judged("Say a.", ())).answers == ()


def test_features_of_tokens_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    found = token_features(logits, torch.tensor([0, 2]))
    entropies = 1.5 * math.log(2), -(0.8 * math.log(0.8) + 0.2 * math.log(0.1))
    assert found["least likely fifth"] == pytest.approx(math.log(10))
    assert found["entropy"] == pytest.approx(sum(entropies) / 2)
    assert found["over entropy"] == pytest.approx((math.log(2) + math.log(10) - sum(entropies)) / 2)
    assert found["first choice"] == 0.5
    assert found["last quarter"] == pytest.approx(math.log(10))


def test_a_fitted_rule_finds_what_tells_and_a_share_counts_ties_by_half() -> None:
    contests = [
        Contest(f"{n}", {"tells": 1.0 + n % 2, "noise": n % 3}, {"tells": 0.0, "noise": (n + 1) % 3})
        for n in range(60)
    ]
    rule = fit(contests, ("tells", "noise"), 0.01)
    assert rule.weights[0] > abs(rule.weights[1])
    assert str(rule).startswith("tells +")
    preferred = rule(contests)
    assert share_right(contests, preferred) == (1.0, 1.0, 1.0)
    share, low, high = share_right(contests, [0.0] * 30 + [-1.0] * 15 + [1.0] * 15)
    assert share == 0.5
    assert low < 0.5 < high
