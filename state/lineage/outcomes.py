"""What a phase came to for a sample, as the view `outcomes` derives it."""

from typing import Literal, get_args

from reflectune.state.records import UNCONTESTED

__all__ = ["ABOUT_A_PROPOSAL", "OUTCOMES", "Outcome"]

# A proposal was taken; none was (refused, tie, unscorable or policy); the teacher found nothing to improve;
# it brought no proposal; the sample was left alone; nobody was asked, since the budget was spent.
Outcome = Literal["accepted", "refused", "unchanged", "failed", "frozen", "unasked"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

# Of decisions: that there was a proposal to decide about.
ABOUT_A_PROPOSAL = f"reason NOT IN {UNCONTESTED}"
