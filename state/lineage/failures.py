"""Why teacher calls failed: what differs in names, numbers and quoted texts alone is one reason."""

import re
from collections import Counter
from collections.abc import Iterable

from reflectune.state.lineage.documents import ReasonDocument
from reflectune.state.records import CallStatus

__all__ = ["group_failures"]

# A number, a name with one in it, or a text in quotation marks.
_ID = re.compile(r"[\w-]*\d[\w-]*|(?<!\w)([\"'`]).*?\1(?!\w)")
_LONGEST = 500  # characters of a message that are compared


def group_failures(failures: Iterable[tuple[CallStatus, str | None, int]]) -> list[ReasonDocument]:
    """Reasons, the most common first, with the message that was first of each.

    Args:
        failures: status, message, and how often the two came.
    """
    numbers: Counter[tuple[CallStatus, str]] = Counter()
    messages: dict[tuple[CallStatus, str], str | None] = {}
    for status, message, number in failures:
        reason = status, _ID.sub("#", (message or "")[:_LONGEST])
        numbers[reason] += number
        messages.setdefault(reason, message)
    return [
        {"status": reason[0], "message": messages[reason], "number": number}
        for reason, number in numbers.most_common()
    ]
