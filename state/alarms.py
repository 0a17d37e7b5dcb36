"""The alarms: figures of a round's end that tell a collapse, and which way each is bad.

How they come from a lineage is in `loop.alarms`. What each looks at, and from where on it fires, is said by
the keys of the config's section [alarms], which have the same names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["ALARMS", "Alarm"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """A figure, and the side of its threshold on which it fires."""

    title: str  # as people read it
    # Times round 0's; a share of pairs or proposals, or how much more than round 0's it is; halves of a 95 %
    # interval.
    unit: Literal["times", "share", "more", "halves"]
    # above or below the threshold; beyond it: above the threshold or below 1 / threshold; near an end: closer
    # to 0 or 1 than the threshold.
    way: Literal["above", "below", "beyond", "near an end"]

    def fires(self, value: float, threshold: float | None) -> bool:
        """Whether a figure is on the bad side of a threshold; None is none."""
        if threshold is None:
            return False
        match self.way:
            case "above":
                return value > threshold
            case "below":
                return value < threshold
            case "beyond":
                return not 1 / threshold <= value <= threshold
            case "near an end":
                return min(value, 1 - value) < threshold


ALARMS: Mapping[str, Alarm] = {
    "length": Alarm("median response tokens", "times", "above"),
    "diversity": Alarm("distinct word trigrams", "times", "below"),
    "openings": Alarm("the commonest opening", "more", "above"),
    "duplicates": Alarm("near duplicates", "more", "above"),
    "acceptance": Alarm("accepted proposals", "share", "near an end"),
    "ifd_drift": Alarm("median IFD under s0", "times", "beyond"),
    "held_out": Alarm("behind the best held-out", "halves", "above"),
    "entities": Alarm("pairs without entities", "share", "above"),
}
