"""What became of all rows of a dataset, and of their fields."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from reflectune.state.config import OddKind
from reflectune.state.data.outlines import outline
from reflectune.state.data.rows import Reading
from reflectune.state.data.unused import Place, place_fields
from reflectune.state.records import SkippedRows, Turn

__all__ = ["Account"]

_SHOWN = 3  # odd rows that are kept as examples
_FIELDS = 500  # different fields that are told apart; more of them are no columns


@dataclass(slots=True)
class Account:
    """Counts of rows, pairs, shapes, fields and odd rows; no row is kept but for a few examples."""

    rows: int = 0
    kept: int = 0  # rows that gave a pair
    pairs: int = 0
    shapes: Counter[str] = field(default_factory=Counter)
    fields: dict[str, Counter[Place]] = field(default_factory=dict)
    contexts: dict[tuple[Turn, ...], None] = field(default_factory=dict)  # an outline of each sort
    odd: Counter[OddKind] = field(default_factory=Counter)
    examples: defaultdict[OddKind, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, reading: Reading, ignored: list[str]) -> None:
        """Count one row."""
        self.rows += 1
        self.kept += bool(reading.records)
        self.pairs += len(reading.records)
        for record in reading.records:
            if record.pair.context:
                self.contexts[outline(record.pair.context)] = None
        for refusal in reading.refusals:
            self.odd[refusal.kind] += 1
            if len(self.examples[refusal.kind]) < _SHOWN:
                self.examples[refusal.kind].append(f"{reading.where}: {refusal}")
        if not isinstance(reading.row, dict):
            return
        given = reading.given if reading.records else None
        if given is None:
            places: dict[str, Place] = dict.fromkeys(map(str, reading.row), "refused")
        else:
            self.shapes[given.shape] += 1
            places = dict(place_fields(reading.row, given, ignored))
        for name, place in places.items():
            if name in self.fields or len(self.fields) < _FIELDS:
                self.fields.setdefault(name, Counter())[place] += 1

    @property
    def skipped(self) -> tuple[SkippedRows, ...]:
        """The odd rows by kind."""
        return tuple(
            SkippedRows(kind, self.odd[kind], tuple(self.examples[kind])) for kind in sorted(self.odd)
        )

    @property
    def unused(self) -> dict[str, int]:
        """Fields that may change what a pair means, and are kept but not used -> in how many rows."""
        return {name: places["unused"] for name, places in self.fields.items() if places["unused"]}
