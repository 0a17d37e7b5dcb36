"""How numbers are written."""

import math

import pytest

from reflectune.loop.show.numbers import (
    format_apart,
    format_held_out,
    format_measure,
    format_moment,
    format_seconds,
    format_short,
    format_usd,
    format_with_interval,
    name_version,
)


def test_versions_are_named_by_the_hash_in_their_id() -> None:
    assert name_version("00000012-0123456789abcdef") == name_version("0123456789abcdef") == "0123456789ab"


def test_measures_that_are_not_0_are_not_written_as_0() -> None:
    values = (None, 0.0, 0.00002, 0.5, 12.34, 1234567.0)
    assert list(map(format_measure, values)) == ["-", "0", "2.00e-05", "0.5000", "12.3", "1.23e+06"]
    assert [format_measure(value, "+") for value in (0.25, -0.00002)] == ["+0.2500", "-2.00e-05"]


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ((0.00691, 0.00694), ("0.00691", "0.00694")),
        ((0.9, 0.90001), ("0.90000", "0.90001")),
        ((0.5, 0.25), ("0.5000", "0.2500")),
        ((0.5, 0.5), ("0.5000", "0.5000")),
        ((123.46, 123.54), ("123.46", "123.54")),
        ((2.001e-5, 2.002e-5), ("2.001e-05", "2.002e-05")),
        ((None, 0.5), ("-", "0.5000")),
        ((0.0, 1e-12), ("0", "1.00e-12")),
    ],
)
def test_measures_that_are_compared_look_different_where_they_are(
    values: tuple[float | None, float | None], written: tuple[str, str]
) -> None:
    assert format_apart(*values) == written


@pytest.mark.parametrize("value", [0.00691, 0.5, 123.456, 99_999.9, 1e-300, 1e300])
def test_measures_look_different_down_to_the_last_bit(value: float) -> None:
    one, other = format_apart(value, math.nextafter(value, math.inf))
    assert one != other


@pytest.mark.parametrize(
    ("name", "value", "sign", "written"),
    [
        ("accuracy", 0.4567, "", "45.7%"), ("accuracy", 0.05, "+", "+5.0%"), ("nll", 2.5, "", "2.500"),
        ("nll", -0.25, "+", "-0.250"), ("response_tokens", 123.456, "", "123.5"),
        ("response_tokens", 1234.5, "", "1234"), ("nll", None, "", "-"),
    ],
)  # fmt: skip
def test_held_out_measures_are_as_precise_as_their_size_asks(
    name: str, value: float | None, sign: str, written: str
) -> None:
    assert format_held_out(name, value, sign) == written


def test_intervals_are_written_where_there_are_any() -> None:
    evaluation = {"name": "accuracy", "value": 0.5, "low": 0.25, "high": 0.75}
    assert format_with_interval(evaluation) == "50.0% (25.0% to 75.0%)"
    assert format_with_interval(evaluation | {"low": None}) == "50.0%"


def test_times_and_amounts_have_the_unit_that_reads_best() -> None:
    seconds = (0.0, 59.94, 59.96, 3599.4, 3599.6, 7260, None)
    assert [format_seconds(value) for value in seconds] == [
        "0.0 s", "59.9 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "2 h 1 min", "-",
    ]  # fmt: skip
    assert [format_usd(value) for value in (0.0123, 1234.5, None)] == ["$0.0123", "$1,234.50", "-"]
    assert list(map(format_short, (12.5, 12_345, 2_500_000, 3e9))) == ["12.5", "12.3k", "2.5M", "3G"]
    assert format_moment("2026-01-02T03:04:05+01:00", utc=True) == "2026-01-02 02:04 UTC"
    assert format_moment(None) == "-"
