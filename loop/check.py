"""What a dataset holds and what ails it, before a run is started: rows, fields, odd rows, known faults.

Opens no model and asks no teacher.
"""

from dataclasses import asdict
from functools import partial
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from reflectune.loop.show.terminal.layout import tabulate
from reflectune.state.config import DataConfig
from reflectune.state.data.account import Account
from reflectune.state.data.datasets import read_rows
from reflectune.state.data.lint import find_faults
from reflectune.state.data.sources import open_source
from reflectune.state.text import inert_document

__all__ = ["check_data", "render_check"]

_PLACES = {
    "pair": "the pair",
    "context": "its context",
    "meta": "kept with it",
    "ignored": "kept with it, ignored by request",
    "unused": "kept with it, not shown to teacher and student: may change what it means",
    "refused": "rows left out",
}


def check_data(data: DataConfig) -> dict[str, Any]:
    """Everything that `check --json` prints; odd rows of every kind are counted, not refused."""
    account = Account()
    read = partial(read_rows, data, open_source(data))
    faults = find_faults(read, lambda reading: account.add(reading, data.ignore))
    return {
        "data": data.path or data.hf,
        "rows": account.rows,
        "rows_kept": account.kept,
        "pairs": account.pairs,
        "shapes": dict(account.shapes),
        "fields": [
            {"field": name, "place": place, "rows": number}
            for name, places in account.fields.items()
            for place, number in places.items()
        ],
        "skipped": [asdict(rows) for rows in account.skipped],
        "faults": [asdict(fault) for fault in faults],
    }


def render_check(document: dict[str, Any]) -> RenderableType:
    """The same as a terminal shows it."""
    document = inert_document(document)
    shapes = ", ".join(f"{name} {number:,d}" for name, number in document["shapes"].items())
    parts: list[RenderableType] = [
        Text(f"{document['data']}: {document['rows']:,d} rows, {document['pairs']:,d} pairs", style="bold"),
        Text(f"shapes: {shapes or 'none'}"),
    ]
    if not document["pairs"]:
        parts.append(Text("no row gives a pair; say which fields hold it where these have other names"))
    if fields := document["fields"]:
        rows = ((each["field"], _PLACES[each["place"]], f"{each['rows']:,d}") for each in fields)
        parts.append(tabulate(("field", "goes into", "rows"), rows, texts=("goes into",)))
    for title, name, found in (
        ("rows and exchanges that give no pair", "kind", document["skipped"]),
        ("known faults", "what", [fault for fault in document["faults"] if fault["number"]]),
    ):
        if not found:
            parts.append(Text(f"{title}: none"))
            continue
        rows = ((each[name], f"{each['number']:,d}", "; ".join(each["examples"])) for each in found)
        parts += [Text(title), tabulate((name, "number", "examples"), rows, texts=("examples",))]
    return Group(*parts)
