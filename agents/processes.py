"""What processes hold: where they run, and their memory. Loads no torch."""

import socket
import sys
from typing import TypedDict

import psutil

__all__ = ["describe_process", "resident_bytes"]


class ProcessMemory(TypedDict):
    """What a process holds."""

    node: str
    memory_bytes: int
    gpu_memory_bytes: int | None  # None without a GPU in use


def resident_bytes(process: int | None) -> int | None:
    """Memory that a process and those it started hold; None where it has ended."""
    try:
        asked = psutil.Process(process)
        return sum(int(each.memory_info().rss) for each in (asked, *asked.children(recursive=True)))
    except psutil.Error:
        return None


def describe_process() -> ProcessMemory:
    """The machine of this process and the memory it holds, by the names that a Worker has for them."""
    torch = sys.modules.get("torch")  # who has not loaded it holds nothing by it
    has_gpu = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "node": socket.gethostname(),
        "memory_bytes": psutil.Process().memory_info().rss,
        "gpu_memory_bytes": torch.cuda.memory_reserved() if torch and has_gpu else None,
    }
