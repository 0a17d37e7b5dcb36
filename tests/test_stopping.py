import math
from typing import Any

import pytest

from reflectune.loop.stopping import best_round, is_spent, quality, stop_reason, why_failed
from reflectune.state.config import RunConfig, TeacherConfig
from reflectune.state.lineage.documents import ReasonDocument
from reflectune.state.lineage.failures import Failures
from reflectune.state.records import CallStatus, Evaluation, Phase, Spending


def config_with(**stop: object) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "r",
            "rounds": 3,
            "data": {"path": "d"},
            "teacher": {"engine": "recorded", "path": "t"},
            "student": {"model": "m"},
            "stop": stop,
        }
    )


def measured(*nlls: float) -> dict[int, dict[str, Evaluation]]:
    return {round: {"nll": Evaluation("nll", nll, 9, None, None)} for round, nll in enumerate(nlls)}


def reason(
    round: int = 1, proposals: int = 10, accepted: int = 5, nlls: tuple[float, ...] = (), **stop: object
) -> str | None:
    return stop_reason(
        config_with(**stop), round, proposals=proposals, accepted=accepted, measures=measured(*nlls)
    )


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({"round": 2}, None),
        ({"round": 3}, "rounds"),
        ({"accepted": 0}, "nothing-accepted"),
        ({"proposals": 0, "accepted": 0}, "no-proposals"),
        ({"accepted": 1, "min_acceptance": 0.2}, "min-acceptance"),
        ({"accepted": 2, "min_acceptance": 0.2}, None),
        ({"round": 2, "nlls": (3.0, 2.0, 2.5), "patience": 2}, None),
        ({"round": 2, "nlls": (2.0, 2.5, 2.4), "patience": 2}, "patience"),
        # nll 2.0 -> 2.3 is 15 % worse than the best.
        ({"round": 2, "nlls": (3.0, 2.0, 2.3), "max_drop": 0.1}, "max-drop"),
        ({"round": 2, "nlls": (3.0, 2.0, 2.3), "max_drop": 0.2}, None),
        ({"round": 2, "nlls": (2.0, 9.0), "max_drop": 0.1}, None),  # the round was not evaluated
    ],
)
def test_stop_reason(case: dict[str, Any], expected: str | None) -> None:
    assert reason(**case) == expected


def with_accuracy(nll: float, accuracy: float, n: int) -> dict[str, Evaluation]:
    """Measures of one round: nll over 9 samples, accuracy over the n that a checker could judge."""
    return measured(nll)[0] | {"accuracy": Evaluation("accuracy", accuracy, n, None, None)}


def test_quality_takes_accuracy_as_it_is_and_turns_nll_round() -> None:
    assert quality(Evaluation("nll", 2.0, 9, None, None), most=9) == -2.0
    assert quality(Evaluation("accuracy", 0.5, 9, None, None), most=9) == 0.5
    assert quality(Evaluation("nll", 0.1, 9, None, None), most=10) == -math.inf  # fails on one sample
    assert quality(None, most=9) == -math.inf


BEFORE = with_accuracy(2.0, 0.5, n=4)
FEWER = {"nll": Evaluation("nll", 0.5, 8, None, None)}


@pytest.mark.parametrize(
    ("before", "after", "dropped", "patient"),
    [
        # Accuracy 0.5 -> 0.6 over 4 of 9 samples is better, whatever nll does; 0.5 -> 0.2 is 60 % worse.
        (BEFORE, with_accuracy(3.0, 0.6, n=4), None, None),
        (BEFORE, with_accuracy(1.0, 0.2, n=4), "max-drop", "patience"),
        # A student without the measure, or with it over fewer samples, is worse than any.
        (with_accuracy(2.0, 0.0, n=4), measured(1.0)[0], "max-drop", "patience"),
        (measured(2.0)[0], FEWER, "max-drop", "patience"),
        # A best of 0 has no share to drop by.
        (with_accuracy(2.0, 0.0, n=9), with_accuracy(2.0, 0.0, n=9), None, "patience"),
        (with_accuracy(2.0, 0.4, n=9), with_accuracy(2.0, 0.0, n=9), "max-drop", "patience"),
    ],
)
def test_stop_goes_by_accuracy_where_there_is_one_and_by_nll_elsewhere(
    before: dict[str, Evaluation], after: dict[str, Evaluation], dropped: str | None, patient: str | None
) -> None:
    for stop, expected in (({"max_drop": 0.5}, dropped), ({"patience": 1}, patient)):
        measures = {0: before, 1: after}
        found = stop_reason(config_with(**stop), 1, proposals=2, accepted=1, measures=measures)
        assert found == expected


@pytest.mark.parametrize(
    ("measures", "best"),
    [
        (measured(3.0, 2.0, 2.5), 1),
        (measured(2.0, 2.5, 2.0), 0),  # the earliest of equals
        ({0: BEFORE, 2: with_accuracy(3.0, 0.6, n=4)}, 2),
        ({0: BEFORE, 1: with_accuracy(1.0, 0.9, n=3)}, 0),  # failed on one of four samples
        ({1: measured(2.0)[0], 2: with_accuracy(3.0, 0.1, n=9)}, 2),  # the one with the measure
        ({1: {}}, None),
        ({}, None),
    ],
)
def test_best_round_goes_by_what_stopping_goes_by(
    measures: dict[int, dict[str, Evaluation]], best: int | None
) -> None:
    assert best_round(measures) == best


@pytest.mark.parametrize(
    ("caps", "spent"),
    [
        ({}, False),
        ({"budget_tokens": 101}, False),
        ({"budget_tokens": 100}, True),
        ({"budget_usd": 0.6}, False),
        ({"budget_usd": 0.5}, True),
        ({"budget_tokens": 101, "budget_usd": 0.5}, True),
    ],
)
def test_budget_is_spent_at_the_first_cap_reached(caps: dict[str, float], spent: bool) -> None:
    teacher = TeacherConfig.model_validate(
        {"engine": "openai", "model": "m", "price_in": 1.0, "price_out": 1.0, **caps}
    )
    assert is_spent(teacher, Spending(tokens=100, usd=0.5)) is spent


@pytest.mark.parametrize(
    ("round", "proposals", "cut", "spent", "expected"),
    [
        (1, 0, True, True, "budget"),  # not "no-proposals": nobody was asked
        (3, 9, True, True, "budget"),
        (1, 0, True, False, None),  # the cap was raised before the round ended
        (3, 9, True, False, "rounds"),
        (1, 9, False, True, "budget"),  # the last answer of a whole round reached the cap
        (3, 9, False, True, "rounds"),
        (1, 0, False, True, "no-proposals"),
    ],
)
def test_stop_by_budget_where_more_would_be_asked(
    round: int, proposals: int, cut: bool, spent: bool, expected: str | None
) -> None:
    found = stop_reason(
        config_with(), round, proposals=proposals, accepted=proposals, measures={}, cut=cut, spent=spent
    )
    assert found == expected


def failing(number: int, status: CallStatus = "error", message: str | None = None) -> ReasonDocument:
    return {"status": status, "message": message, "number": number}


@pytest.mark.parametrize(
    ("failures", "settled", "fails"),
    [
        ([failing(5)], 10, False),  # half is not more than half
        ([failing(6)], 10, True),
        ([failing(6, "cut")], 10, True),
        ([failing(4), failing(3, "cut")], 10, False),  # for two reasons
        ([failing(4), failing(6, "refused")], 10, True),  # none has an answer
        ([failing(8, "no-entry")], 10, False),
        ([failing(2)], 2, False),  # too few
        ([failing(3)], 3, True),
        ([], 0, False),
    ],
)
def test_why_failed_is_one_reason_of_more_than_a_share(
    failures: list[ReasonDocument], settled: int, fails: bool
) -> None:
    found = why_failed(failures, settled, 0.5, "response", has_answers=True)
    assert found == (failures[0] if fails else None)
    assert why_failed(failures, settled, 1.0, "response", has_answers=False) is None


def test_why_failed_is_also_a_teacher_that_never_answered() -> None:
    def failed(status: CallStatus, phase: Phase) -> bool:
        return why_failed([failing(1, status)], 1, 0.5, phase, has_answers=False) is not None

    assert failed("error", "instruction")
    assert failed("no-entry", "response")
    assert not failed("no-entry", "instruction")  # a recording may be of responses alone


def test_failures_are_grouped_by_what_is_left_without_names_numbers_and_quotations() -> None:
    refused = "request req_8f3 refused, status 400: 'this prompt'"
    other = "request req_77a refused, status 400: 'another'"
    rows: list[tuple[CallStatus, str | None, int]] = [
        ("cut", None, 4), ("refused", refused, 2), ("refused", other, 3),
        ("error", refused, 1),
    ]  # fmt: skip
    assert Failures(rows).reasons == [
        failing(5, "refused", refused), failing(4, "cut"), failing(1, "error", refused),
    ]  # fmt: skip
