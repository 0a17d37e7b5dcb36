"""How long rounds take on given GPUs, and how many models work there at once: arithmetic alone.

A pass over a token takes 2 FLOPs a parameter (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). Training
takes 4, since a LoRA's base is frozen and gets no weight gradients, and 2 more where layers are
computed again. Mixtures of experts count with all their parameters, though fewer work on a token.
"""

import math
import re
from dataclasses import asdict, dataclass
from typing import TypedDict

from reflectune.agents.model_size import ModelSize
from reflectune.state.errors import ConfigError
from reflectune.state.policies import Policy
from reflectune.state.records import PHASES, TERMS, Term

__all__ = [
    "GPUS",
    "Hours",
    "Lengths",
    "Plan",
    "Scale",
    "TeacherLoad",
    "find_gpus",
    "plan_run",
    "scored_tokens",
]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as its vendor describes it."""

    tflops: float  # bfloat16, dense, on tensor cores, accumulated in float32
    memory_gb: float
    bandwidth_gb: float  # GB per second


# NVIDIA's data sheets, SXM modules where there are any. Theirs with sparsity are halved.
GPUS = {
    "A100-40GB": Gpu(312, 40, 1555),
    "A100-80GB": Gpu(312, 80, 2039),
    "H100": Gpu(989, 80, 3350),
    "H200": Gpu(989, 141, 4800),
    "B200": Gpu(2250, 180, 8000),
    "L40S": Gpu(362, 48, 864),
    "L4": Gpu(121, 24, 300),
    "RTX-4090": Gpu(165, 24, 1008),
}
# Shares of these figures that are reached. They are assumed, on the low side of what is published: training
# and long passes of 7B models reach 40 to 55 % of a GPU's FLOPs, decoding 60 to 80 % of its bandwidth.
SCORING_SHARE = 0.4
TRAINING_SHARE = 0.3
DECODING_SHARE = 0.5
WEIGHTS_SHARE = 0.8  # of the memory: the rest is for activations, or for the cache of keys and values


class Hours(TypedDict):
    """Hours of a round's parts; None where they are not known."""

    teacher: float | None  # by the server, or by recorded answers
    scoring: float | None
    training: float | None


class Scale(TypedDict):
    """What to set in the section [scale]; None where a model does not fit, or none is opened."""

    students: int | None
    trainers: int | None
    teachers: int | None
    gpus_per_teacher: int | None


class Plan(TypedDict):
    """Hours of a run on given GPUs."""

    on: str
    gpus: int
    gpu: dict[str, float]  # one of them: tflops, memory_gb, bandwidth_gb
    student_parameters: int
    student_gb: float  # its weights
    teacher_parameters: int | None
    teacher_gb: float | None
    scale: Scale
    samples_per_second: float | None  # scored, of a round's two phases together
    hours_per_round: Hours
    hours: Hours  # of the run's most rounds


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean tokens of a pair."""

    instruction: float  # with its input
    response: float


@dataclass(frozen=True, slots=True)
class TeacherLoad:
    """What a round asks of a teacher that is opened here."""

    size: ModelSize
    calls: float
    prompt_tokens: float  # of a call
    completion_tokens: float
    at_once: int  # most calls under way at each replica
    gpus: int | None  # that a replica is spread over; None: the fewest it fits on


def find_gpus(on: str) -> tuple[int, str]:
    """Number and name of GPUs as in "8xH100" or "H100".

    Raises:
        ConfigError: the table does not have them.
    """
    found = re.fullmatch(r"\s*(?:([1-9]\d{0,4})\s*x\s*)?(.+?)\s*", on, re.IGNORECASE)
    names = {name.lower(): name for name in GPUS}
    name = names.get(re.sub(r"\s+", "-", found[2].lower())) if found else None
    if found is None or name is None:
        raise ConfigError(
            f"--on {on}: no GPUs that are known; want NxNAME, such as 8xH100, of {', '.join(GPUS)}"
        )
    return int(found[1] or 1), name


def scored_tokens(policy: Policy, lengths: Lengths, candidates: int, *, follows: float = 0.0) -> float:
    """Tokens that the student reads for one sample of a round: what decisions and the training filter ask.

    A share `follows` of the samples has no instruction phase. What is known from before is counted again.
    """
    both = lengths.instruction + lengths.response
    tokens: dict[Term, float] = {
        "response_given_instruction": both,
        "response_alone": lengths.response,
        "instruction_given_response": both,
        "instruction_alone": lengths.instruction,
    }
    decided = {
        phase: sum(tokens[term] for term in policy.terms(phase))
        * (candidates + (policy.measure(phase) is not None))
        for phase in PHASES
    }
    filtered = sum(tokens[term] for term in TERMS if term not in policy.terms("response"))
    return (1 - follows) * decided["instruction"] + decided["response"] + filtered


def plan_run(
    on: str,
    *,
    student: ModelSize,
    teacher: TeacherLoad | None,
    rounds: int,
    samples: int,
    tokens_per_sample: float,
    trained_tokens: float,
    recomputes: bool,
) -> Plan:
    """What rounds take on the GPUs that `on` names, one part of a round after the other.

    Args:
        teacher: None for one whose time is a server's.
        tokens_per_sample: that the student reads in a round.
        trained_tokens: of a round's training, over all its epochs.
        recomputes: whether layers are computed again in the backward pass.
    """
    number, name = find_gpus(on)
    gpu = GPUS[name]
    fits = student.weight_bytes <= WEIGHTS_SHARE * gpu.memory_gb * 1e9
    rate = number * gpu.tflops * 1e12 / (2 * student.parameters * tokens_per_sample) * SCORING_SHARE
    training = (6 if recomputes else 4) * student.parameters * trained_tokens
    hours: Hours = {
        "teacher": None,
        "scoring": samples / rate / 3600 if fits else None,
        "training": training / (number * gpu.tflops * 1e12 * TRAINING_SHARE) / 3600 if fits else None,
    }
    per_teacher = None if teacher is None else _gpus_each(teacher, gpu, number)
    if teacher is not None and per_teacher is not None:
        seconds = teacher.calls / (number // per_teacher * _calls_per_second(teacher, gpu, per_teacher))
        hours["teacher"] = seconds / 3600
    return {
        "on": f"{number}x{name}",
        "gpus": number,
        "gpu": asdict(gpu),
        "student_parameters": student.parameters,
        "student_gb": student.weight_bytes / 1e9,
        "teacher_parameters": None if teacher is None else teacher.size.parameters,
        "teacher_gb": None if teacher is None else teacher.size.weight_bytes / 1e9,
        "scale": {
            "students": number if fits else None,
            "trainers": number if fits else None,
            "teachers": None if per_teacher is None else number // per_teacher,
            "gpus_per_teacher": per_teacher,
        },
        "samples_per_second": rate if fits else None,
        "hours_per_round": hours,
        "hours": {
            "teacher": _times(hours["teacher"], rounds),
            "scoring": _times(hours["scoring"], rounds),
            "training": _times(hours["training"], rounds),
        },
    }


def _times(hours: float | None, rounds: int) -> float | None:
    return None if hours is None else hours * rounds


def _gpus_each(teacher: TeacherLoad, gpu: Gpu, number: int) -> int | None:
    """GPUs of a replica: as many as are set, else the fewest power of two; None where it does not fit."""
    room = WEIGHTS_SHARE * gpu.memory_gb * 1e9
    fewest = 2 ** max(math.ceil(math.log2(teacher.size.weight_bytes / room)), 0)
    each = teacher.gpus or fewest
    return each if each * room >= teacher.size.weight_bytes and each <= number else None


def _calls_per_second(teacher: TeacherLoad, gpu: Gpu, gpus: int) -> float:
    """Calls that one replica answers: prompts by its FLOPs, each step of a batch by bandwidth or FLOPs."""
    size, flops = teacher.size, gpus * gpu.tflops * 1e12 * SCORING_SHARE
    cache = (teacher.prompt_tokens + teacher.completion_tokens) * size.cache_bytes  # of one call
    room = 0.9 * gpus * gpu.memory_gb * 1e9 - size.weight_bytes  # vLLM takes nine tenths of the memory
    batch = max(min(teacher.at_once, teacher.calls, room // cache), 1)
    read = (size.weight_bytes + batch * cache) / (gpus * gpu.bandwidth_gb * 1e9 * DECODING_SHARE)
    step = max(read, 2 * size.parameters * batch / flops)
    prefill = 2 * size.parameters * teacher.prompt_tokens / flops
    return 1 / (prefill + teacher.completion_tokens * step / batch)
