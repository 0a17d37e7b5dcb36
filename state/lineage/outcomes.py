"""What a phase came to for a sample, as the view `outcomes` derives it."""

from typing import Literal, get_args

__all__ = ["OUTCOMES", "Outcome"]

# A proposal was taken; none was (refused, tie, unscorable or policy); the teacher found nothing to improve;
# it brought no proposal; the sample was left alone; nobody was asked, since the budget was spent.
Outcome = Literal["accepted", "refused", "unchanged", "failed", "frozen", "unasked"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
