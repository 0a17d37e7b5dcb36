"""A run's samples, indexed for search: found by words, outcome and change, whatever the run's size.

The index is a file of its own beside the lineage, `index.db`, derived from it and brought up to date by whoever
asks; delete it at will. The lineage itself is only read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from state.records import Phase

__all__ = ["OUTCOMES", "SORTS", "Outcome", "SampleIndex", "SampleQuery", "SortKey"]

# What a phase came to for a sample: its proposal was taken; it was compared, or its policy asked, in vain
# (refused, tie, unscorable, policy); the teacher found nothing to improve; it brought no proposal; it was not asked.
Outcome = Literal["accepted", "refused", "unchanged", "failed", "frozen"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
SortKey = Literal["position", "ifd_change", "r_ifd_change", "length_growth"]
SORTS: tuple[SortKey, ...] = get_args(SortKey)


@dataclass(frozen=True, slots=True)
class SampleQuery:
    """Which samples, in which rounds. Every condition that is set must hold.

    A change is the proposal's value minus the incumbent's, under the student that decided; length growth is the
    response's characters after the round per character of the given response.
    """

    text: str = ""  # words that one version of the sample holds, all of them; any case
    round: int | None = None
    phase: Phase | None = None  # where the outcome was; None: in either
    outcome: Outcome | None = None
    min_ifd_change: float | None = None
    max_ifd_change: float | None = None
    min_r_ifd_change: float | None = None
    max_r_ifd_change: float | None = None
    min_length_growth: float | None = None
    max_length_growth: float | None = None
    trained: bool | None = None  # whether its pair was in the round's training set
    sort: SortKey = "position"
    descending: bool = False
    limit: int = 50
    offset: int = 0


class SampleIndex:
    """Finds samples of one run.

    A row is one sample in one round: {"sample", "position", "round", "instruction": {"outcome", "reason", "before",
    "after", "change"} or None, "response": the same, "length_growth", "trained", "text"}. `before` and `after` are
    the incumbent's and the proposal's IFD (instruction) or r-IFD (response), None where the policy compared
    something else or nothing; `text` is how the instruction in the pool begins after the round.
    """
