import email.utils
import math
import random
import time

import pytest

from reflectune.agents.teacher.engines.pacing import Pace, parse_retry_after

pytestmark = pytest.mark.alone


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("-1", 0.0),
        ("inf", float("inf")),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        (None, None),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("Thu, 99 Jan 1970 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value) == seconds
    ahead = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert parse_retry_after(ahead) == pytest.approx(30, abs=1.5)


def test_pace_halves_once_a_burst_and_never_below_one() -> None:
    pace = Pace(16)
    burst = time.monotonic()
    limits = []
    for entered in (burst, burst, time.monotonic() + 1, time.monotonic() + 2):
        pace.narrow(entered, 0.0)
        limits.append(pace.limit)
    assert limits == [8, 8, 4, 2]
    for later in range(3, 8):
        pace.narrow(time.monotonic() + later, 0.0)
    assert pace.limit == 1


def test_pace_widens_by_one_for_as_many_answers_as_were_under_way() -> None:
    pace = Pace(6)
    pace.narrow(time.monotonic(), 0.0)
    assert pace.limit == 3
    for _ in range(3):
        pace.widen()  # 3 + 1/3 + 1/3.33 + 1/3.63 = 3.909
    assert pace.limit == pytest.approx(3.909, abs=1e-3)
    for _ in range(50):
        pace.widen()
    assert pace.limit == 6


def test_pace_pauses_double_by_chance_up_to_half_less(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = Pace(16)
    for pause in (0.5, 1.0, 2.0, 4.0):
        pace.narrow(now + 100, None)
        assert pause / 2 <= pace._resume_at - now <= pause
    for _ in range(100):
        pace.narrow(now + 100, None)
    assert pace._resume_at - now <= 60
    pace.widen()
    pace._resume_at = 0.0
    pace.narrow(now + 100, None)
    assert pace._resume_at - now <= 0.5


def test_pace_gives_up_a_server_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = Pace(4, give_up_after=10.0)
    assert not pace.is_given_up
    pace.narrow(now, 9.0)
    assert not pace.is_given_up
    pace.narrow(now, 11.0)
    assert pace.is_given_up
    now += 11.0
    assert pace.is_given_up, "nothing was taken meanwhile"
    pace.widen()
    assert not pace.is_given_up


def test_pace_pauses_after_a_stumble_double_up_to_sixteen_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = Pace(4)
    for longest in (2, 4, 8, 16, 16):
        sent = now
        now += 3.0  # the server took its time to fail
        pauses = [pace.stumble(sent, 1) for _ in range(200)]  # of one burst
        assert longest / 2 <= min(pauses) < 0.6 * longest
        assert 0.9 * longest < max(pauses) <= longest
        now += longest
    pace.recover()
    assert 1 <= pace.stumble(now, 1) <= 2
    now += 1.5
    assert 1 <= pace.stumble(now - 1.5, 1) <= 2, "sent before the pause, failed after it: one stumble"


def test_pace_counts_what_fails_in_a_pause_to_its_stumble(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(random, "uniform", lambda low, high: 0.0)
    pace = Pace(4)
    assert pace.stumble(now, 1) == 1.0
    now += 0.4
    assert pace.stumble(now - 0.3, 1) == 1.0, "the same stumble, and an attempt of its own"
    now += 0.6
    assert pace.stumble(now, 2) == 2.0


def test_pace_holds_a_request_by_its_own_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(random, "uniform", lambda low, high: 0.0)
    pace = Pace(4)
    pace.stumble(now, 1)
    now += 1.1
    pace.stumble(now - 0.2, 1)  # entered in the first pause, failed after it: another pause of a second
    now += 0.2
    assert pace.stumble(now - 0.1, 2) == 2.0, "within that pause, by its second attempt"


def test_pace_lets_so_many_pass_until_one_leaves() -> None:
    pace = Pace(2)
    pace.enter()
    assert pace.pause == 0
    pace.enter()
    assert pace.pause == math.inf
    pace.leave()
    assert pace.pause == 0


@pytest.mark.parametrize(("retry_after", "fewest"), [(None, 0.25), (0.0, 0.25), (0.6, 0.6)])
def test_pace_holds_everybody_for_its_pause_or_the_one_asked_for(
    retry_after: float | None, fewest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    pace = Pace(4)
    pace.narrow(pace.enter(), retry_after)
    pace.leave()
    assert fewest <= pace.pause <= max(fewest, 0.5)
