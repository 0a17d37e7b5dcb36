"""What a phase came to for a sample: told by its decision and, without a proposal, by the last call."""

from typing import Literal, get_args

__all__ = ["LAST_STATUS", "OUTCOME", "OUTCOMES", "Outcome", "tell_outcome"]

# A proposal was taken; none was (refused, tie, unscorable or policy); the teacher found nothing to improve;
# it brought no proposal; the sample was left alone; nobody was asked, since the budget was spent.
Outcome = Literal["accepted", "refused", "unchanged", "failed", "frozen", "unasked"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

# Both are SQL values; `.format(decision=...)` puts in the name of a row of `decisions`.
# The status of the last call of the last candidate; NULL where there was none.
LAST_STATUS = """(
    SELECT status FROM teacher_calls AS calls
    WHERE calls.round = {decision}.round AND calls.phase = {decision}.phase
        AND calls.sample_id = {decision}.sample_id
    ORDER BY candidate DESC, attempt DESC LIMIT 1)"""
# What `tell_outcome` tells.
OUTCOME = f"""
    CASE WHEN {{decision}}.reason IN ('accepted', 'frozen') THEN {{decision}}.reason
        WHEN {{decision}}.reason <> 'no-candidate' THEN 'refused'
        ELSE COALESCE((SELECT CASE status WHEN 'unchanged' THEN status ELSE 'failed' END FROM {LAST_STATUS}),
            'unasked') END
"""


def tell_outcome(reason: str, last_status: str | None) -> Outcome:
    """What a phase came to.

    Args:
        reason: of the decision.
        last_status: of the last call of the last candidate; None where there was none.
    """
    match reason:
        case "accepted":
            return "accepted"
        case "frozen":
            return "frozen"
        case "no-candidate" if last_status is None:
            return "unasked"
        case "no-candidate":
            return "unchanged" if last_status == "unchanged" else "failed"
        case _:
            return "refused"
