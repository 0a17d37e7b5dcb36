"""Why teacher calls failed: what differs in names, numbers and quoted texts alone is one reason."""

import re
from collections import Counter
from collections.abc import Iterable

from reflectune.state.lineage.documents import ReasonDocument
from reflectune.state.records import CallStatus

__all__ = ["Failures"]

# A number, a name with one in it, or a text in quotation marks.
_ID = re.compile(r"[\w-]*\d[\w-]*|(?<!\w)([\"'`]).*?\1(?!\w)")
_LONGEST = 500  # characters of a message that are compared


class Failures:
    """Failed calls, counted by their reasons."""

    def __init__(self, failures: Iterable[tuple[CallStatus, str | None, int]]) -> None:
        self._numbers: Counter[tuple[CallStatus, str]] = Counter()
        self._messages: dict[tuple[CallStatus, str], str | None] = {}
        for failure in failures:
            self.add(*failure)

    def add(self, status: CallStatus, message: str | None, number: int = 1) -> None:
        """Count so many calls of one status and message."""
        reason = status, _ID.sub("#", (message or "")[:_LONGEST])
        self._numbers[reason] += number
        self._messages.setdefault(reason, message)

    @property
    def reasons(self) -> list[ReasonDocument]:
        """Reasons, the most common first, with the message that was first of each."""
        return [
            {"status": reason[0], "message": self._messages[reason], "number": number}
            for reason, number in self._numbers.most_common()
        ]
