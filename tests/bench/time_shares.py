"""Where the time of a scoring run goes: by part of the program, and by operation of torch.

Functions are timed from outside, for the length of a block; what is timed knows nothing of it.
"""

import functools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.profiler import ProfilerActivity, profile
from transformers import LlamaForCausalLM, LlamaModel

from reflectune.agents import pool
from reflectune.agents.student import scoring, student
from reflectune.agents.student.pairs import PairEncoder
from reflectune.agents.student.student import Student
from reflectune.agents.student.targets import TargetEncoder
from reflectune.loop.pipeline import completed
from reflectune.state.lineage.writer import LineageWriter
from tests.bench import selection_round

__all__ = ["Part", "measure_operations", "measure_parts", "stopwatch"]

Part = tuple[Any, str, str]  # owner, name of its function, what to call the part

_OUTSIDE = "outside"  # making the database and the proposals

_PARTS: Sequence[Part] = (
    (selection_round, "select", "database reading, decisions, the node"),
    (Student, "open", "opening and closing the student"),
    (Student, "close", "opening and closing the student"),
    (PairEncoder, "encode", "rendering of texts"),
    (Student, "_compute", "sorting, packing, summing"),
    (TargetEncoder, "encode", "tokenisation"),
    (student, "score_sequences", "sorting, packing, summing"),
    (scoring, "build_row", "rows and masks"),
    (scoring, "target_logprobs", "log-softmax and gathering"),
    (LlamaForCausalLM, "forward", "model: head"),
    (LlamaModel, "forward", "model: layers"),
    (LineageWriter, "add_decisions", "database writing"),
)

# Kinds of operation by the beginning of torch's name for them.
_KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::linear", "mkldnn::", "aten::matmul"),
    "attention": ("aten::_scaled_dot", "aten::scaled_dot", "aten::_flash", "aten::_fused"),
    "norms": ("aten::pow", "aten::mean", "aten::rsqrt", "aten::rms_norm", "aten::_fused_rms"),
    "activations, rotary positions, residuals": (
        "aten::silu", "aten::mul", "aten::add", "aten::neg", "aten::cat",
    ),
    "log-softmax and gathering": ("aten::logsumexp", "aten::gather", "aten::exp", "aten::sub", "aten::sum"),
    "copies and conversions": (
        "aten::copy_", "aten::_to_copy", "aten::to", "aten::clone", "aten::contiguous",
    ),
}  # fmt: skip


def measure_parts(run: Callable[[], object]) -> dict[str, float]:
    """Seconds of a round's selection by part of the program, one after the other."""
    threads = pool.ThreadPoolExecutor, student.ThreadPoolExecutor
    pool.ThreadPoolExecutor = student.ThreadPoolExecutor = _InTurn  # type: ignore[assignment, misc]
    try:
        with stopwatch(_PARTS, _OUTSIDE) as seconds:
            run()
    finally:
        pool.ThreadPoolExecutor, student.ThreadPoolExecutor = threads  # type: ignore[misc]
    return {part: value for part, value in seconds.items() if part != _OUTSIDE}


def measure_operations(run: Callable[[], object]) -> dict[str, float]:
    """Seconds of a run in torch's operations by kind, each without the operations it calls.

    The profiler adds to every operation, to small ones most.
    """
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    seconds: Counter[str] = Counter()
    for event in profiler.key_averages():
        kinds = (kind for kind, names in _KINDS.items() if event.key.startswith(names))
        seconds[next(kinds, "other operations")] += event.self_cpu_time_total / 1e6
    return seconds


class _InTurn:
    """In the place of threads: whoever asks does the work."""

    def __init__(self, number: int, name: str) -> None:
        pass

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return completed(function(*arguments))

    def shutdown(self, **how: Any) -> None:
        pass


@contextmanager
def stopwatch(parts: Sequence[Part], rest: str) -> Iterator[dict[str, float]]:
    """Seconds by part while the block runs; `rest` is what no part claims.

    Every instant counts for the innermost part under way. Only the thread of the block counts: what others do
    meanwhile shows as the time it is waited for.
    """
    seconds: Counter[str] = Counter()
    under_way = [rest]
    thread = threading.get_ident()
    mark = time.perf_counter()

    def switch() -> None:
        nonlocal mark
        now = time.perf_counter()
        seconds[under_way[-1]] += now - mark
        mark = now

    def timed(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:
                return function(*args, **kwargs)
            switch()
            under_way.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                switch()
                under_way.pop()

        return run

    own = [vars(owner)[name] for owner, name, _ in parts]
    for owner, name, part in parts:
        setattr(owner, name, timed(getattr(owner, name), part))
    try:
        yield seconds
    finally:
        switch()
        for (owner, name, _), function in zip(parts, own, strict=True):
            setattr(owner, name, function)
