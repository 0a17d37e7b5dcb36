"""What this machine's CPU does best, found by timing short matmuls.

Timings differ from one call to the next: whoever needs the same bits again writes the answer down. Nothing
here knows models or configurations.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

import torch

__all__ = [
    "fastest_count",
    "measure_threads",
    "prefers_bfloat16",
    "torch_threads",
    "visible_cpus",
    "visible_gpus",
]

_WIDTH = 512  # of the square matrices: one product takes a core about 3 ms in float32
_SECONDS = 0.03  # spent on each measurement; on a crowded machine one product can take longer
_WORTH = 0.1  # more threads must be faster by this share
_GAIN = 1.3  # bfloat16 must be faster by this factor


@cache
def measure_threads() -> int:
    """The number of CPU threads that multiplies matrices fastest; the fewest of those within 10 %.

    Tries 1, 2, 4, ... and all visible CPUs, once a process. More threads can be slower by far: visible CPUs
    may share cores, or be lent to somebody else.
    """
    visible = visible_cpus()
    counts = sorted({*(2**power for power in range(visible.bit_length())), visible})
    return fastest_count({n: _matmul_seconds(torch.float32, threads=n) for n in counts})


@cache
def prefers_bfloat16() -> bool:
    """Whether one thread multiplies bfloat16 matrices at least 1.3 times as fast as float32 ones."""
    float32, bfloat16 = (_matmul_seconds(dtype, threads=1) for dtype in (torch.float32, torch.bfloat16))
    return float32 >= _GAIN * bfloat16


def fastest_count(seconds: Mapping[int, float]) -> int:
    """The smallest number of threads that takes at most 10 % more seconds than the best."""
    limit = (1 + _WORTH) * min(seconds.values())
    return min(threads for threads, taken in seconds.items() if taken <= limit)


def visible_cpus() -> int:
    """CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The CUDA devices this process may use, as CUDA_VISIBLE_DEVICES names them; none is opened."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in named.split(",") if name]
    return [str(number) for number in range(torch.cuda.device_count())]


def _matmul_seconds(dtype: torch.dtype, threads: int) -> float:
    """Seconds of one product, the mean over a short while: the best one would hide a crowded machine."""
    matrix = torch.ones(_WIDTH, _WIDTH, dtype=dtype)
    with torch_threads(threads):
        torch.mm(matrix, matrix)  # the first one starts threads and is not counted
        runs, start = 0, time.perf_counter()
        while (taken := time.perf_counter() - start) < _SECONDS:
            torch.mm(matrix, matrix)
            runs += 1
    return taken / runs


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Compute with so many torch threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
