"""What a run under way does at this moment: its stages and workers, in a small file beside its lineage.

Nothing is derived from it. It is written anew every few seconds and removed when the process that works on
the run ends; what a killed process left is known as old by its time.
"""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypedDict, cast

from reflectune.state.folder import RunFolder

__all__ = ["Live", "StageDocument", "Worker", "WorkerDocument", "WorkerKind", "read_live", "write_live"]

_OLD = 15.0  # seconds; whoever writes does so every two

WorkerKind = Literal["student", "teacher", "judge", "trainer"]


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker as its pool knows it, since the pool was opened. What is not known is None."""

    kind: WorkerKind
    name: str  # which of its kind: its place in the pool from 1, or the address of a server
    under_way: int  # samples of a student, requests of a teacher, steps of a trainer
    done: int  # of the same
    queued: int = 0  # of the same: given to this worker, and not begun
    node: str | None = None  # the machine it runs on
    device: str | None = None  # as torch names it: "cuda:0", "cpu"
    memory_bytes: int | None = None  # resident
    gpu_memory_bytes: int | None = None  # that it holds of its device
    replaced: int = 0  # how often a worker in this place has died
    waits_for: str = ""  # what it cannot work without; empty where it can


class WorkerDocument(TypedDict):
    """A Worker, and what it gets done."""

    kind: WorkerKind
    name: str
    under_way: int
    done: int
    queued: int
    node: str | None
    device: str | None
    memory_bytes: int | None
    gpu_memory_bytes: int | None
    replaced: int
    waits_for: str  # "work" where it has none; empty where it is at work
    per_second: float | None  # of `done`, over the last half minute at most


class StageDocument(TypedDict):
    """One stage of a round that is under way."""

    title: str
    done: int
    total: int  # 0 while it is not known
    per_second: float | None  # of `done`, over the last half minute at most
    hold_up: str  # what holds up all of it; empty where nothing does
    groups_under_way: int  # groups of samples that workers were given, and that are not committed
    groups_computed: int  # those of them that wait for being committed


class Live(TypedDict):
    """What a run does at one moment: its stages, mostly one, and the workers of each."""

    stages: Sequence[StageDocument]
    workers: Sequence[WorkerDocument]


def write_live(folder: RunFolder, live: Live) -> None:
    """Put the file into place: all of it, or what was there before. A full disk keeps nobody from work."""
    part = folder.live.with_name(f".{folder.live.name}.partial")
    with suppress(OSError):
        part.write_text(json.dumps({"written_at": time.time(), **live}), encoding="utf-8")
        part.replace(folder.live)


def read_live(folder: RunFolder) -> Live | None:
    """What the process that works on a run does now; None without one, or where it tells nothing."""
    try:
        written = json.loads(folder.live.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if abs(time.time() - written.pop("written_at")) > _OLD:
        return None
    return cast(Live, written)
