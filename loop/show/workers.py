"""The stages and workers of a run under way as tables, for a terminal and a page alike."""

from collections.abc import Iterable, Sequence

from reflectune.loop.show.comparison import Section
from reflectune.loop.show.numbers import format_number
from reflectune.state.live import StageDocument, WorkerDocument
from reflectune.state.text import one_line

__all__ = ["tabulate_stages", "tabulate_workers"]

_STAGE_HEADS = (
    "stage", "done", "of", "per\nsecond", "groups\nunder way", "groups\nto commit", "held up by",
)  # fmt: skip
_WORKER_HEADS = (
    "worker", "node", "device", "waits for", "under\nway", "queued", "done", "per\nsecond",
    "memory\nGiB", "GPU\nGiB", "replaced",
)  # fmt: skip
_TEXTS = ("node", "device", "waits for", "held up by")


def tabulate_stages(stages: Iterable[StageDocument] | None) -> Section:
    """A row for each stage; none where nothing is under way."""
    rows = [
        (
            one_line(stage["title"]),
            stage["done"],
            stage["total"] or "-",
            format_number(stage["per_second"], ".1f"),
            stage["groups_under_way"],
            stage["groups_computed"],
            one_line(stage["hold_up"]) or "-",
        )
        for stage in stages or ()
    ]
    return _tell("Stages", _STAGE_HEADS, rows)


def tabulate_workers(workers: Iterable[WorkerDocument] | None) -> Section:
    """A row for each worker; none where nothing is under way."""
    rows = [
        (
            one_line(f"{worker['kind']} {worker['name']}"),
            one_line(worker["node"] or "-"),
            worker["device"] or "-",
            worker["waits_for"] or "-",
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
    return _tell("Workers", _WORKER_HEADS, rows)


def _tell(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> Section:
    """The table without columns in which nothing is told of anyone: a terminal has little room."""
    told = [at for at in range(len(heads)) if any(row[at] not in ("-", 0) for row in rows)]
    return Section(title, [heads[at] for at in told], [[row[at] for at in told] for row in rows], _TEXTS)


def _format_gib(bytes: int | None) -> str:
    return format_number(None if bytes is None else bytes / 2**30, ".1f")
