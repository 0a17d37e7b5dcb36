"""Memory of devices: giving it back, copies into it, what having none is."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["alike_when_exhausted", "free_memory", "send"]

# What devices say where torch has no class for it: a CPU, MPS, and CUDA's own libraries.
_EXHAUSTED = (
    "DefaultCPUAllocator: can't allocate memory",
    "MPS backend out of memory",
    "CUDA error: out of memory",
    "ALLOC_FAILED",
)


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
