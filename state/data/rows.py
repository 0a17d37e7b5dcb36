"""One row of given data into records: the exchanges of it that are recycled, and its other fields."""

from dataclasses import dataclass, field
from typing import Any

from reflectune.state.config import DataConfig
from reflectune.state.data.conversations import calls_tools, find_exchanges, name_roles
from reflectune.state.data.fields import Given, Refusal, find_media, jsonable
from reflectune.state.data.shapes import list_shapes, read_given
from reflectune.state.records import Conversation, Pair, Turn
from reflectune.state.text import clean_text, is_empty, list_names

__all__ = ["Reading", "Record", "RowReader"]

_TOOLS = ("tools", "functions")  # fields that declare what the assistant may call


@dataclass(frozen=True, slots=True)
class Record:
    """One pair of the given data with its context, and the row's other fields as JSON-serialisable values."""

    pair: Pair
    meta: dict[str, Any]
    conversation: Conversation | None = None  # None for a pair that stands alone
    turn: int = 0  # index in the conversation of the user's turn


@dataclass(slots=True)
class Reading:
    """What one row came to."""

    where: str
    row: object
    given: Given | None = None  # None where the row itself is refused
    records: list[Record] = field(default_factory=list)  # in the order of its turns
    refusals: list[Refusal] = field(default_factory=list)  # of the row, or of some of its exchanges


class RowReader:
    """Reads rows as a config says."""

    def __init__(self, data: DataConfig, allow_empty: bool = False) -> None:
        self.data, self.allow_empty = data, allow_empty
        self._shapes = list_shapes(data.format, data.columns)
        self._roles = name_roles(data.roles)

    def read(self, where: str, row: object) -> Reading:
        """The records of a row, and why there are no more."""
        reading = Reading(where, row)
        try:
            if not isinstance(row, dict):
                raise Refusal("invalid", f"{type(row).__name__} instead of an object")
            for name in _TOOLS:
                if not is_empty(row.get(name)) and name not in self.data.ignore:
                    raise Refusal("tools", f"declares {name}")
            given = read_given(row, self._shapes, self._roles)
            for name, value in row.items():
                if name not in self.data.ignore and (media := find_media(value)):
                    raise Refusal("media", f"{list_names([name])} holds {media}")
            exchanges = self._choose_exchanges(given)
            meta = {
                clean_text(str(key)): jsonable(value, key)
                for key, value in row.items()
                if key not in given.fields or key == given.kept
            }
        except Refusal as refusal:
            reading.refusals.append(refusal)
            return reading
        reading.given = given
        turns = tuple(given.turns)
        is_single = len(turns) == 2 and not any(turn.more for turn in turns)
        conversation = None if is_single else Conversation(turns)
        for exchange in exchanges:
            try:
                if isinstance(exchange, Refusal):
                    raise exchange
                pair = self._make_pair(given, turns, exchange)
            except Refusal as refusal:
                reading.refusals.append(refusal)
            else:
                reading.records.append(Record(pair, meta, conversation, exchange))
        return reading

    def _make_pair(self, given: Given, turns: tuple[Turn, ...], exchange: int) -> Pair:
        asked = turns[exchange].content, ""
        if given.asked is not None and exchange == len(turns) - 2:
            asked = given.asked
        if "earlier_tools" in self.data.odd and calls_tools(turns[:exchange]):
            raise Refusal("earlier_tools", f"tools are called before turn {exchange}")
        pair = Pair(*asked, turns[exchange + 1].content, turns[:exchange])
        for name, text in (("instruction", pair.instruction), ("response", pair.response)):
            if not self.allow_empty and not text.strip():
                raise Refusal("invalid", f"blank {name}", is_blank=True)
        return pair

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
