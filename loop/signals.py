"""Stopping when asked: a first SIGINT or SIGTERM lets the batch in flight finish, a second leaves at once.

Within a second of the first it is no second one: `timeout`, and whatever forwards a signal to a group that
has it already, deliver one twice.

Nothing here knows what a batch is: whoever works asks `is_requested` between two of them, and raises
`Interrupted`.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

__all__ = ["Interrupted", "Interruption", "catch_signals", "exit_on_signals", "leave_at_once"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOTICE = "stopping after the batch in flight; once more leaves at once\n"
_SAME_SECONDS = 1.0  # from a first signal on
_STDERR = 2


class Interrupted(BaseException):
    """A signal asked to stop, and nothing is in flight.

    No Exception: it is no failure, and what handles failures on the way out must not take it for one.
    """


class Interruption:
    """Whether a signal has asked to stop."""

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._may_finish = False
        self._is_handled = False
        self._unsaid = threading.Lock()

    def is_requested(self) -> bool:
        """Whether the work shall end as soon as nothing is in flight."""
        return self._signal is not None

    @property
    def exit_code(self) -> int:
        """What a shell calls a command that the first signal ended: 130 or 143; 0 without any."""
        return 0 if self._signal is None else 128 + self._signal

    @contextmanager
    def finish_batches(self) -> Iterator[None]:
        """In this block a first signal is only noted; outside it raises Interrupted wherever the work is."""
        self._may_finish = True
        try:
            yield
        finally:
            self._may_finish = False

    def handle(self, number: int, frame: FrameType | None = None) -> None:
        """Take a signal where the work is, between two of its instructions.

        Any but the first is left to `watch`: it must not disturb what the first has begun to tidy up.

        Raises:
            Interrupted: at the first signal, outside of `finish_batches`.
        """
        self._note(number)
        is_first, self._is_handled = not self._is_handled, True
        if is_first and not self._may_finish:
            raise Interrupted

    def watch(self, numbers: int) -> None:
        """Read the numbers of signals from a pipe until it ends, and act on them without delay.

        A handler written in Python has to wait until a long computation returns, and then runs once for all
        signals that came meanwhile.
        """
        first_at: float | None = None
        while number := os.read(numbers, 1):
            if number[0] not in _SIGNALS:
                continue  # of somebody else's handler
            if first_at is None:
                first_at = time.monotonic()
                self._note(number[0])
            elif time.monotonic() - first_at > _SAME_SECONDS:
                # Whatever hangs, or would be waited for on the way out. A commit is whole or not there.
                _write("", show_cursor=True)
                os._exit(self.exit_code)

    def _note(self, number: int) -> None:
        """Remember the first signal and say so, whichever thread hears of it first."""
        self._signal = self._signal or signal.Signals(number)
        if self._may_finish and self._unsaid.acquire(blocking=False):
            _write(_NOTICE)


def leave_at_once(text: str) -> NoReturn:
    """End this process with a line, from any thread and as a kill would: nothing is tidied up."""
    _write(f"{text}\n", show_cursor=True)
    os._exit(1)


@contextmanager
def catch_signals() -> Iterator[Interruption]:
    """Handle SIGINT and SIGTERM while the block runs.

    A signal that this process was started to ignore, as background jobs ignore Ctrl-C, stays ignored. Outside
    the main thread, where signals cannot be handled, none is ever requested.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    caught = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    numbers, end = os.pipe()
    os.set_blocking(end, False)
    watcher = threading.Thread(target=interruption.watch, args=(numbers,), name="signals", daemon=True)
    watcher.start()
    other = signal.set_wakeup_fd(end, warn_on_full_buffer=False)
    try:
        for number in caught:
            signal.signal(number, interruption.handle)
        yield interruption
    finally:
        for number in caught:
            signal.signal(number, before[number])
        signal.set_wakeup_fd(other)
        os.close(end)
        watcher.join()
        os.close(numbers)


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """End by SIGINT and SIGTERM as by `sys.exit`, for what has to tidy up and nothing to finish."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write(text: str, *, show_cursor: bool = False) -> None:
    """Write to stderr past Python's buffers, which may be locked by whoever writes to them."""
    if os.isatty(_STDERR):
        # Over the line of a progress bar, which is drawn again below, and which hides the cursor.
        text = ("\x1b[?25h" if show_cursor else "") + ("\r\x1b[2K" + text if text else "")
    try:
        os.write(_STDERR, text.encode())
    except OSError:  # nobody reads it any more
        return
