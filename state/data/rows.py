"""One row of given data into records: the exchanges of it that are recycled, and its other fields."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from reflectune.state.config import DataConfig
from reflectune.state.data.conversations import find_exchanges, name_roles
from reflectune.state.data.fields import Given, Refusal, is_empty, jsonable
from reflectune.state.data.shapes import list_shapes, read_given
from reflectune.state.data.sources import clean, list_names
from reflectune.state.records import Conversation, Pair

__all__ = ["Record", "RowReader"]

_TOOLS = ("tools", "functions")  # fields that declare what the assistant may call


@dataclass(frozen=True, slots=True)
class Record:
    """One pair of the given data with its context, and the row's other fields as JSON-serialisable values."""

    pair: Pair
    meta: dict[str, Any]
    conversation: Conversation | None = None  # None for a pair that stands alone
    turn: int = 0  # index in the conversation of the user's turn


class RowReader:
    """Reads rows as a config says."""

    def __init__(self, data: DataConfig, allow_empty: bool = False) -> None:
        self.data, self.allow_empty = data, allow_empty
        self._shapes = list_shapes(data.format, data.columns)
        self._roles = name_roles(data.roles)

    def read(self, row: object) -> Iterator[Record | Refusal]:
        """The records of a row in the order of its turns, or why it, or one of its exchanges, has none."""
        try:
            if not isinstance(row, dict):
                raise Refusal("invalid", f"{type(row).__name__} instead of an object")
            for field in _TOOLS:
                if not is_empty(row.get(field)) and field not in self.data.ignore:
                    raise Refusal("tools", f"declares {field}")
            given = read_given(row, self._shapes, self._roles)
            exchanges = self._choose_exchanges(given)
        except Refusal as refusal:
            yield refusal
            return
        meta = {clean(str(key)): jsonable(value) for key, value in row.items() if key not in given.fields}
        turns = tuple(given.turns)
        is_single = len(turns) == 2 and not any(turn.more for turn in turns)
        conversation = None if is_single else Conversation(turns)
        for exchange in exchanges:
            if isinstance(exchange, Refusal):
                yield exchange
                continue
            asked = turns[exchange].content, ""
            if given.asked is not None and exchange == len(turns) - 2:
                asked = given.asked
            pair = Pair(*asked, turns[exchange + 1].content, turns[:exchange])
            texts = {"instruction": pair.instruction, "response": pair.response}
            blank = next((name for name, text in texts.items() if not text.strip()), None)
            if blank and not self.allow_empty:
                yield Refusal("invalid", f"blank {blank}")
            else:
                yield Record(pair, meta, conversation, exchange)

    def _choose_exchanges(self, given: Given) -> list[int | Refusal]:
        exchanges = list(find_exchanges(given.turns))
        if not exchanges:
            roles = list_names(turn.role for turn in given.turns)
            raise Refusal("invalid", f"its turns: {roles}; want user, assistant")
        match self.data.turns:
            case "last":
                return exchanges[-1:]
            case "first":
                return exchanges[:1]
            case "each":
                return exchanges
