"""Seals: a hash in every row that nothing else is derived from, so that a change of it shows.

Versions, decisions and training sets need none: they are derived again. Columns that change while a run goes
on stand outside. A seal tells accidents and careless edits; whoever means to deceive can write a new one.
"""

from collections.abc import Mapping
from typing import Any

from reflectune.state.records import content_hash

__all__ = ["SEALED", "find_seal", "seal_row"]

# What a table's seals cover. Columns that are added later stand outside: rows sealed before lack them.
SEALED: dict[str, tuple[str, ...]] = {
    "runs": ("name", "created_at", "data_hash", "versions", "seed"),
    "samples": ("id", "position", "source_hash", "split", "meta"),
    "conversations": ("id", "turns"),
    "skipped_rows": ("kind", "number", "examples"),
    "students": (
        "id", "round", "base_model", "base_revision", "adapter", "adapter_hash", "parent_id", "metrics",
    ),
    "teacher_calls": (
        "id", "round", "phase", "sample_id", "candidate", "attempt", "engine", "model", "prompt_hash", "text",
        "finish_reason", "status", "error", "critique", "prompt_tokens", "completion_tokens", "cost_usd",
        "seconds", "cached",
    ),
    "servers": ("id", "address"),
    "scores": ("version_id", "student_id", "term", "sum_logprob", "num_tokens", "status", "truncated"),
    "evaluations": ("round", "student_id", "name", "value", "n", "low", "high"),
    "held_out_answers": ("student_id", "sample_id", "text", "num_tokens", "verdict"),
    "judge_calls": (
        "student_id", "opponent", "sample_id", "swapped", "attempt", "engine", "model", "prompt_hash", "text",
        "finish_reason", "status", "error", "verdict", "prompt_tokens", "completion_tokens", "cost_usd",
        "seconds", "cached",
    ),
    "config_changes": ("changed_at", "key", "before", "after"),
}  # fmt: skip


def seal_row(table: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its seal, if rows of the table have one."""
    return dict(row) | ({"seal": find_seal(table, row)} if table in SEALED else {})


def find_seal(table: str, row: Mapping[str, Any]) -> int:
    """The seal of a row: 63 bits of the content hash of its table's name and its values."""
    values = (_as_stored(row[column]) for column in SEALED[table])
    return int(content_hash(table, *values)[:16], 16) >> 1


def _as_stored(value: object) -> object:
    """One form for what SQLite gives back in another: 1, True and 1.0; 0.0 and -0.0."""
    return float(value) + 0.0 if isinstance(value, int | float) else value
