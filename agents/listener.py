"""Who hears of what goes on while work is under way, and the wish to stop it. Loads no torch."""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Listener", "StoppedError"]


class StoppedError(Exception):
    """A training, or a wait for room, was asked to stop; the same call goes on, to the same bits."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Who hears of a cluster. On one machine there is nothing to hear."""

    say: Callable[[str], None] = print
    """Shows a line, such as that workers wait for room."""
    stopping: Callable[[], bool] = lambda: False
    """Whether somebody asked to stop; who waits for room asks."""
    leave: Callable[[str], None] = lambda why: None
    """Called from another thread, with the reason, where the cluster is lost. It should end this process:
    calls to Ray hang from then on, or end it without a word."""
