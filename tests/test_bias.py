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
CONTESTS = [
    Contest(
        sample_id=name,
        incumbent_id=name,
        candidate_ids=(f"{name}+",),
        pairs=dict.fromkeys((name, f"{name}+"), Pair("", "", "")),
    )
    for name in "abcd"
]
TRAINED = {"a", "b"}


def scored(**r_ifds: float) -> Scores:
    """Scores of the incumbents by r-IFD; the proposals' are always 0.6, and all responses are alike."""
    proposals = {f"{name}+": 0.6 for name in r_ifds}
    return {name: scores_of(1.0, value, tokens=10) for name, value in {**r_ifds, **proposals}.items()}


def test_gains_of_what_was_trained_on_are_compared_with_those_of_the_rest() -> None:
    before = scored(a=0.8, b=0.8, c=0.8, d=0.8)
    after = scored(a=0.4, b=0.2, c=0.8, d=0.8)
    found = {
        item["policy"]: item for item in compare_trained(CONTESTS, TRAINED, before, after, CONFIG, "response")
    }
    assert {"random", "accept-all", "reject-all"}.isdisjoint(found)
    one = found["ifd+r-ifd"]
    assert one["unit"] == "log r-IFD"
    # Gains log 2 and log 4 against none; variance log(2)² / 2 over two, and none.
    assert one["incumbents"]["value"] == pytest.approx(1.5 * math.log(2))
    assert one["incumbents"]["low"] == pytest.approx(1.5 * math.log(2) - 1.96 * math.log(2) / 2)
    assert one["leads"] == one["incumbents"]  # their proposals gained nothing
    # Before, all proposals were accepted; after, those against a and b are not.
    assert one["acceptance"]["value"] == -1.0
    assert (one["acceptance"]["trained"], one["acceptance"]["others"]) == (2, 2)
    assert found["longest"]["acceptance"]["value"] == 0.0
    told = conclude([one], "ifd+r-ifd", "s1")
    assert told.endswith("in phase response: -100%, beyond chance (-100% to -100%).")
    assert conclude([one], "random", "s1") == (
        "Policy random compares nothing: what s1 was trained on does not matter to it."
    )


def test_a_contrast_of_too_few_is_none() -> None:
    assert contrast([1.0], [1.0, 2.0]) == {
        "value": None, "low": None, "high": None, "trained": 1, "others": 2,
    }  # fmt: skip
    before = scored(a=0.8, b=0.8)
    (one, *_) = compare_trained(CONTESTS[:2], TRAINED, before, before, CONFIG, "response")
    assert conclude([one], "ifd+r-ifd", "s1").endswith("in phase response: too few pairs to tell.")
