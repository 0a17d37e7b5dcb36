"""What training on pairs does to choices about them: the arithmetic, by hand."""

import math

import pytest

from reflectune.loop.bias import compare_trained, conclude, contrast
from reflectune.state.config import RunConfig
from reflectune.state.records import Contest, Pair, Scores
from tests.lineages import scores_of

CONFIG = RunConfig.model_validate(
    {
        "name": "run",
        "data": {"path": "data.json"},
        "student": {"model": "student"},
        "teacher": {"engine": "recorded", "path": "teacher.jsonl"},
    }
)
NAMES = [f"{letter}{number}" for letter in "abcd" for number in range(10)]
CONTESTS = [
    Contest(
        sample_id=name,
        incumbent_id=name,
        candidate_ids=(f"{name}+",),
        pairs=dict.fromkeys((name, f"{name}+"), Pair("", "", "")),
    )
    for name in NAMES
]
TRAINED = {name for name in NAMES if name[0] in "ab"}


def scored(**r_ifds: float) -> Scores:
    """Scores of ten incumbents a letter by r-IFD; the proposals' are 0.6, and all responses are alike."""
    incumbents = {name: r_ifds[name[0]] for name in NAMES if name[0] in r_ifds}
    proposals = {f"{name}+": 0.6 for name in incumbents}
    return {name: scores_of(1.0, value, tokens=10) for name, value in {**incumbents, **proposals}.items()}


def test_gains_of_what_was_trained_on_are_compared_with_those_of_the_rest() -> None:
    before = scored(a=0.8, b=0.8, c=0.8, d=0.8)
    after = scored(a=0.4, b=0.2, c=0.8, d=0.8)
    found = {
        item["policy"]: item for item in compare_trained(CONTESTS, TRAINED, before, after, CONFIG, "response")
    }
    assert {"random", "accept-all", "reject-all"}.isdisjoint(found)
    one = found["ifd+r-ifd"]
    assert one["unit"] == "log r-IFD"
    # Gains log 2 and log 4, ten of each, against none: variance 20 (log(2) / 2)² / 19 over 20, and none;
    # t = 2.093 with 19 degrees of freedom.
    assert one["incumbents"]["value"] == pytest.approx(1.5 * math.log(2))
    half = 2.093 * math.log(2) / 2 / math.sqrt(19)
    assert one["incumbents"]["low"] == pytest.approx(1.5 * math.log(2) - half)
    assert one["leads"] == one["incumbents"]  # their proposals gained nothing
    # Before, all proposals were accepted; after, those against a and b are not.
    assert one["acceptance"]["value"] == -1.0
    assert (one["acceptance"]["trained"], one["acceptance"]["others"]) == (20, 20)
    # With 1 and -1 added: mean -20/22 and variance (22 - 400/22) / 21, mean 0 and variance 2/21; t = 2.080.
    half = 2.080 * math.sqrt((22 - 400 / 22 + 2) / 21 / 22)
    assert one["acceptance"]["low"] == pytest.approx(-20 / 22 - half)
    assert one["acceptance"]["high"] == pytest.approx(-20 / 22 + half)
    assert found["longest"]["acceptance"]["value"] == 0.0
    # No side varies: how much is chance is not known.
    assert found["longest"]["incumbents"] == {
        "value": 0.0, "low": None, "high": None, "trained": 20, "others": 20,
    }  # fmt: skip
    told = conclude([one], "ifd+r-ifd", "s1")
    assert told.endswith("in phase response: -100%, beyond chance (-114% to -68%).")
    assert conclude([one], "random", "s1") == (
        "Policy random compares nothing: what s1 was trained on does not matter to it."
    )


def test_a_contrast_of_too_few_is_none() -> None:
    nothing = {"value": None, "low": None, "high": None}
    assert contrast([1.0] * 19, [0.0, 2.0] * 20) == {**nothing, "trained": 19, "others": 40}
    assert contrast([0.0, 2.0] * 20, [1.0] * 19, added=(1, -1)) == {**nothing, "trained": 40, "others": 19}
    before = scored(a=0.8, b=0.8)
    (one, *_) = compare_trained(CONTESTS[:20], TRAINED, before, before, CONFIG, "response")
    assert conclude([one], "ifd+r-ifd", "s1").endswith("in phase response: too few pairs to tell.")
