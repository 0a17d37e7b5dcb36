"""Memory of devices and processes: giving it back, copies into it, how much is held, what having none is."""

import gc
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

import psutil
import torch

__all__ = ["alike_when_exhausted", "describe_process", "free_memory", "resident_bytes", "send"]

# What devices say where torch has no class for it: a CPU, MPS, and CUDA's own libraries.
_EXHAUSTED = (
    "DefaultCPUAllocator: can't allocate memory",
    "MPS backend out of memory",
    "CUDA error: out of memory",
    "ALLOC_FAILED",
)


class ProcessMemory(TypedDict):
    """What a process holds."""

    node: str
    memory_bytes: int
    gpu_memory_bytes: int | None  # None without a GPU in use


@contextmanager
def alike_when_exhausted() -> Iterator[None]:
    """Make a torch.OutOfMemoryError of whatever a device says when it has no memory left."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or not any(text in str(error) for text in _EXHAUSTED):
            raise
        raise torch.OutOfMemoryError(str(error)) from error


def send(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Values on a device; a copy to a GPU is queued there, from memory it can read by itself."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def free_memory() -> None:
    """Give memory of dropped models back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def resident_bytes(process: int | None) -> int | None:
    """Memory that a process and those it started hold; None where it has ended."""
    try:
        asked = psutil.Process(process)
        return sum(int(each.memory_info().rss) for each in (asked, *asked.children(recursive=True)))
    except psutil.Error:
        return None


def describe_process() -> ProcessMemory:
    """The machine of this process and the memory it holds, by the names that a Worker has for them."""
    has_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "node": socket.gethostname(),
        "memory_bytes": psutil.Process().memory_info().rss,
        "gpu_memory_bytes": torch.cuda.memory_reserved() if has_gpu else None,
    }
