"""The workers of a run under way as a table, for a terminal and a page alike."""

from collections.abc import Iterable

from reflectune.loop.show.comparison import Section
from reflectune.loop.show.numbers import format_number
from reflectune.state.live import WorkerDocument
from reflectune.state.text import one_line

__all__ = ["tabulate_workers"]

_HEADS = (
    "worker", "node", "device", "under way", "queued", "done", "per second",
    "memory GiB", "GPU GiB", "replaced",
)  # fmt: skip


def tabulate_workers(workers: Iterable[WorkerDocument] | None) -> Section:
    """A row for each worker; none where nothing is under way."""
    rows = [
        (
            one_line(f"{worker['kind']} {worker['name']}"),
            one_line(worker["node"] or "-"),
            worker["device"] or "-",
            worker["under_way"],
            worker["queued"],
            worker["done"],
            format_number(worker["per_second"], ".1f"),
            _format_gib(worker["memory_bytes"]),
            _format_gib(worker["gpu_memory_bytes"]),
            worker["replaced"],
        )
        for worker in workers or ()
    ]
    return Section("Workers", _HEADS, rows, texts=("node", "device"))


def _format_gib(bytes: int | None) -> str:
    return format_number(None if bytes is None else bytes / 2**30, ".1f")
