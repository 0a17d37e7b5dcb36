"""What a run under way does at this moment: its stages and workers, in a small file beside its lineage.

Nothing is derived from it. It is written anew every few seconds and removed when the process that works on
the run ends; what a killed process left is known as old by its time.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Worker", "WorkerKind"]

WorkerKind = Literal["student", "teacher", "trainer"]


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker as its pool knows it, since the pool was opened. What is not known is None."""

    kind: WorkerKind
    name: str  # which of its kind: its place in the pool from 1, or the address of a server
    under_way: int  # jobs of a student, requests of a teacher, steps of a trainer
    done: int  # of the same
    queued: int = 0  # of the same: given to this worker, and not begun
    node: str | None = None  # the machine it runs on
    device: str | None = None  # as torch names it: "cuda:0", "cpu"
    memory_bytes: int | None = None  # resident
    gpu_memory_bytes: int | None = None  # that it holds of its device
    replaced: int = 0  # how often a worker in this place has died
