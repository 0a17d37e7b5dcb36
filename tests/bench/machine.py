"""Which machine a benchmark ran on, and the matmul rate that its figures are shares of.

The rate is what torch itself reaches here with the same threads at the same time, not a data sheet's.
"""

import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from reflectune.agents.student.linear import multiply_by_onednn

__all__ = ["describe_machine", "matmul_rate"]

# Square sizes to try: which one is fastest differs between machines and number formats.
_SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}


def describe_machine(device: str = "cpu") -> str:
    """One line: processor or GPU, visible CPUs, memory, torch, threads, and how busy all of it is."""
    parts = []
    if device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        parts.append(f"{gpu.name} with {gpu.total_memory / 2**30:.0f} GiB")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts += [
        f"{_processor()}, {len(os.sched_getaffinity(0))} CPUs visible, {memory:.0f} GiB",
        f"Python {platform.python_version()}, torch {torch.__version__}",
        f"torch threads: {torch.get_num_threads()}",
        f"load average at the end: {os.getloadavg()[0]:.1f}",
    ]
    return "; ".join(parts)


def matmul_rate(dtype: torch.dtype, device: str = "cpu", seconds: float = 1.0) -> float:
    """The best matmul rate seen, FLOP/s: 2 n^3 over the time of one product of square matrices.

    Each size is tried for some seconds. On a CPU in float32 the product is torch's own or oneDNN's, whichever
    is faster.
    """
    return max(
        _rate(product, size, device, seconds)
        for size in _SIZES[device]
        for product in _products(size, dtype, device)
    )


def _products(size: int, dtype: torch.dtype, device: str) -> Iterator[Callable[[], object]]:
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    out = torch.empty_like(left)
    yield lambda: torch.mm(left, right, out=out)
    if device == "cpu" and dtype == torch.float32:
        layer = torch.nn.Linear(size, size, bias=False).requires_grad_(False)
        multiply_by_onednn(layer)
        yield lambda: layer(left)


def _rate(product: Callable[[], object], size: int, device: str, seconds: float) -> float:
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    product()  # kernels are chosen and compiled at the first call
    best = float("inf")
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        wait()
        began = time.perf_counter()
        product()
        wait()
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    names = {name.strip(): value.strip() for name, value in facts.items()}
    model = f"family {names.get('cpu family')}, model {names.get('model')}"
    return f"{names.get('model name', platform.machine())} ({model})"
