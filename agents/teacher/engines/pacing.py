"""How many requests a server bears at once, and when it takes the next one.

Additive increase, multiplicative decrease: each answer lets a little more under way, each refusal for
being busy halves it. Failures lead to pauses, which double until the server answers. Knows nothing of HTTP
but the Retry-After header.
"""

import email.utils
import math
import random
import time

__all__ = ["Pace", "parse_retry_after"]

_FIRST_PAUSE = 0.5  # seconds
_LONGEST_PAUSE = 60.0  # seconds; a server may ask for a longer one
# Three attempts, as by default, outlast a server that stumbles for 3 to 6 seconds.
_FIRST_STUMBLE = 2.0  # seconds
_LONGEST_STUMBLE = 16.0  # seconds


class Pace:
    """Says when requests to one server may pass, between 1 and `max_limit` at once."""

    def __init__(self, max_limit: int, give_up_after: float = 600.0) -> None:
        self.max_limit = max_limit
        self.limit = float(max_limit)
        self._give_up_after = give_up_after  # seconds that a server may take nothing
        self.under_way = 0
        self._resume_at = 0.0  # time.monotonic()
        self._shrunk_at = -math.inf
        self._shrunk = 0  # how often in a row
        self.taken = 0  # requests that the server took
        self.busy_since: float | None = None  # time.monotonic(); None while the server takes requests
        self._stumbles = 0  # in a row
        self._steady_at = 0.0  # time.monotonic(): what entered earlier belongs to the last stumble

    @property
    def pause(self) -> float:
        """Seconds until another request may be sent, 0 for now; inf until one leaves."""
        if self.under_way >= int(self.limit):
            return math.inf
        return max(0.0, self._resume_at - time.monotonic())

    @property
    def is_given_up(self) -> bool:
        """Whether the server takes nothing for longer than it is worth waiting for."""
        if self.busy_since is None:
            return False
        return max(self._resume_at, time.monotonic()) > self.busy_since + self._give_up_after

    def enter(self) -> float:
        """Note that a request is sent; returns when that was. Follow it by one leave()."""
        self.under_way += 1
        return time.monotonic()

    def leave(self) -> None:
        """A request is no longer under way."""
        self.under_way -= 1

    def widen(self) -> None:
        """The server took a request: about `limit` of these let one more under way."""
        self.taken += 1
        self.limit = min(float(self.max_limit), self.limit + 1 / self.limit)
        self._shrunk = 0
        self.busy_since = None

    def narrow(self, entered: float, retry_after: float | None) -> None:
        """The server was too busy for a request that entered at this time: halve the limit, and pause.

        Requests sent before the last halving tell nothing new, and halve no further. The pause doubles from
        half a second, less up to half of it by chance; it is at least `retry_after` seconds.
        """
        now = time.monotonic()
        self.busy_since = self.busy_since or now
        pause = retry_after or 0.0
        if entered >= self._shrunk_at:
            self.limit = max(1.0, self.limit / 2)
            longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._shrunk, 30))
            pause = max(pause, longest * random.uniform(0.5, 1))
            self._shrunk += 1
            self._shrunk_at = now
        self._resume_at = max(self._resume_at, now + pause)

    def stumble(self, entered: float, attempt: int) -> float:
        """Seconds to wait after a request failed, by no fault of its own, at this attempt (from 1).

        From two, doubling with each stumble in a row, less up to half of it by chance. Requests that entered
        before the last pause was over are of the same stumble; each still waits as its own attempts demand.
        """
        now = time.monotonic()
        if entered >= self._steady_at:
            self._stumbles += 1
        half = _half_pause(self._stumbles)
        if now >= self._steady_at:
            self._steady_at = now + half
        return max(self._steady_at - now, _half_pause(attempt)) + random.uniform(0, half)

    def recover(self) -> None:
        """The server answered: the next failure is the first in a row."""
        self._stumbles = 0
        self._steady_at = 0.0


def _half_pause(stumbles: int) -> float:
    """Seconds that a pause lasts at least, after so many stumbles in a row."""
    return min(_LONGEST_STUMBLE, _FIRST_STUMBLE * 2.0 ** min(stumbles - 1, 30)) / 2


def parse_retry_after(value: str | None) -> float | None:
    """Seconds from now that a Retry-After header asks for, in seconds or as an HTTP date; None if unclear."""
    try:
        seconds = float(value or "nan")
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value or "").timestamp() - time.time()
        except (ValueError, OverflowError, OSError):
            return None
    return None if math.isnan(seconds) else max(0.0, seconds)
