"""Where the time of a scoring run goes: by part of the program, and by operation of torch."""

from collections.abc import Callable, Sequence
from typing import Any

from torch.profiler import ProfilerActivity, profile
from transformers import LlamaForCausalLM, LlamaModel

from reflectune.agents.student import scoring
from reflectune.agents.student.student import Student
from reflectune.agents.student.targets import TargetEncoder
from reflectune.state.lineage.writer import LineageWriter
from tests.bench import selection_round
from tests.bench.stopwatch import Part, stopwatch

__all__ = ["measure_operations", "measure_parts"]

_OUTSIDE = "outside"  # making the database and the proposals

_PARTS: Sequence[Part] = (
    (selection_round, "select", "database reading, decisions, the node"),
    (Student, "open", "opening and closing the student"),
    (Student, "close", "opening and closing the student"),
    (Student, "score", "rendering of texts"),
    (TargetEncoder, "encode", "tokenisation"),
    (scoring, "score_sequences", "sorting, packing, summing"),
    (scoring, "build_row", "rows and masks"),
    (scoring, "build_tree_row", "rows and masks"),
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
        "aten::silu",
        "aten::mul",
        "aten::add",
        "aten::neg",
        "aten::cat",
    ),
    "log-softmax and gathering": ("aten::logsumexp", "aten::gather", "aten::exp", "aten::sub", "aten::sum"),
    "copies and conversions": (
        "aten::copy_",
        "aten::_to_copy",
        "aten::to",
        "aten::clone",
        "aten::contiguous",
    ),
}


def measure_parts(run: Callable[[], object]) -> dict[str, float]:
    """Seconds of a round's selection by part of the program."""
    with stopwatch(_PARTS, _OUTSIDE) as seconds:
        run()
    return {part: value for part, value in seconds.items() if part != _OUTSIDE}


def measure_operations(run: Callable[[], object]) -> dict[str, float]:
    """Seconds of a run in torch's operations by kind, each without the operations it calls.

    The profiler adds to every operation, to small ones most.
    """
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    seconds: dict[str, float] = {}
    for event in profiler.key_averages():
        kind = _kind(event)
        seconds[kind] = seconds.get(kind, 0.0) + event.self_cpu_time_total / 1e6
    return seconds


def _kind(event: Any) -> str:
    return next((kind for kind, names in _KINDS.items() if event.key.startswith(names)), "other operations")
