"""What is found wrong with a run: one fault a row, and what was looked at."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from reflectune.state.lineage.ledger import Row, row_name
from reflectune.state.lineage.seals import SEALED, find_seal

__all__ = ["Findings"]


@dataclass(slots=True)
class Findings:
    """Faults by table and row. A row has the first that is found: others may follow from it."""

    faults: dict[tuple[str, str], str] = field(default_factory=dict)
    checked: Counter[str] = field(default_factory=Counter)  # rows by table
    wants_seals: bool = False  # whether every row of the run was written with one
    unsealed: int = 0  # rows that were written before there were seals
    notes: list[str] = field(default_factory=list)  # what could not be checked, and why

    def add(self, table: str, row: str, fault: str) -> None:
        """Note a fault, unless the row has one."""
        self.faults.setdefault((table, row), fault)

    def has(self, table: str, row: str) -> bool:
        """Whether a row has a fault."""
        return (table, row) in self.faults

    def has_any(self, *tables: str) -> bool:
        """Whether a row of these tables has a fault."""
        return any(table in tables for table, _ in self.faults)

    def look_at(self, table: str, row: Row) -> bool:
        """Count a row and check its seal; False where it has been changed."""
        self.checked[table] += 1
        if table not in SEALED:
            return True
        if row.get("seal") is None:
            if self.wants_seals:
                self.add(table, row_name(table, row), "has no seal, and its run began with them")
                return False
            self.unsealed += 1
            return True
        if row["seal"] == find_seal(table, row):
            return True
        self.add(table, row_name(table, row), "its content is not what its seal was made of")
        return False

    def document(self, name: str) -> dict[str, Any]:
        """What `verify --json` prints."""
        return {
            "name": name,
            "checked": dict(self.checked),
            "unsealed": self.unsealed,
            "notes": self.notes,
            "faults": [
                {"table": table, "row": row, "fault": fault} for (table, row), fault in self.faults.items()
            ],
        }
