"""Training, writing, vLLM and a round of the loop on a GPU, for `tests.bench.gpu`.

Weights and texts are random. Needs what the project itself needs; vLLM only where that is measured.
"""

import random
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from reflectune.agents.memory import free_memory
from reflectune.agents.student.refinetune import refinetune_student
from reflectune.agents.student.student import Student
from reflectune.agents.teacher.engines import Request, TeacherModel
from reflectune.state.config import RunConfig, StudentConfig, TeacherConfig
from reflectune.state.records import Pair, Reflection
from tests.tiny_models import byte_level_tokenizer, save_tiny_llama

__all__ = ["PARTS", "Trial", "save", "turn_loop"]

_TRAINED = 16  # pairs, each as long as a row: four steps by default
_WRITTEN = 32, 128  # answers at once, and tokens of each
_ASKED = 256, 128  # the same of vLLM


@dataclass(frozen=True)
class Trial:
    """A model folder, and where it is tried."""

    name: str
    folder: str
    device: str

    @property
    def is_tiny(self) -> bool:
        return self.device == "cpu"

    @property
    def student(self) -> StudentConfig:
        """By default a row has 2,048 tokens."""
        tiny = {"max_length": 128, "batch_tokens": 128} if self.is_tiny else {}
        given = {"model": self.folder, "device": self.device, "template": "plain", "threads": 2}
        return StudentConfig.model_validate(given | tiny)


def save(model: Any, folder: Path) -> None:
    """Write a model with a tokenizer of a few hundred tokens, of as many as it embeds."""
    model.save_pretrained(folder)
    byte_level_tokenizer(chat=True).save_pretrained(folder)


def train(trial: Trial) -> str:
    """Cells: name, tokens a second after the first step, GiB at most, MiB of activations a token of a row."""
    pairs = _make_pairs(_TRAINED, words=60 if trial.is_tiny else 1500)
    config = RunConfig.model_validate(
        {
            "name": "gpu",
            "data": {"path": "unused"},
            "teacher": {"engine": "recorded", "path": "unused"},
            "student": trial.student.model_dump(),
            "refinetune": {"epochs": 1} | ({"batch_tokens": 512} if trial.is_tiny else {}),
        }
    )
    ends: list[float] = []
    kept: list[float] = []

    def on_step(step: int, steps: int, loss: float | None) -> None:
        if not ends:
            _reset_peak(trial.device)
            kept.append(_gib(torch.cuda.memory_allocated, trial.device))
        ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "adapter"
        metrics = refinetune_student(config, pairs, out, previous=None, round=1, on_step=on_step)
    rate = metrics["tokens"] * (len(ends) - 1) / len(ends) / (ends[-1] - ends[0])
    most = _gib(torch.cuda.max_memory_allocated, trial.device)
    per_token = (most - kept[0]) * 1024 / trial.student.batch_tokens
    return f"{trial.name} | {rate:,.0f} | {most:.1f} | {per_token:.1f}"


def write(trial: Trial) -> str:
    """Cells: name, tokens a second, GiB at most."""
    count, length = (4, 8) if trial.is_tiny else _WRITTEN
    with Student.open(trial.student) as student:
        student.respond(_make_pairs(2, words=8), 4)  # the first passes are slower
        _reset_peak(trial.device)
        began = time.perf_counter()
        responses = student.respond(_make_pairs(count, words=8), length)
        seconds = time.perf_counter() - began
    tokens = sum(response.num_tokens for response in responses if response)
    most = _gib(torch.cuda.max_memory_allocated, trial.device)
    return f"{trial.name} | {tokens / seconds:,.0f} | {most:.1f}"


def ask_vllm(trial: Trial) -> str:
    """Cells: name, seconds to start, tokens a second."""
    if find_spec("vllm") is None:
        raise ModuleNotFoundError("no vLLM", name="vllm")
    from reflectune.agents.teacher.engines.vllm_engine import VllmEngine

    free_memory()
    count, length = (4, 8) if trial.is_tiny else _ASKED
    own: dict[str, Any] = {"gpu_memory_utilization": 0.1} if trial.is_tiny else {}
    config = TeacherConfig(engine="vllm", model=trial.folder, max_tokens=length, **own)
    began = time.perf_counter()
    engine = VllmEngine(config, TeacherModel("random", StudentConfig(model=trial.folder)))
    try:
        started = time.perf_counter()
        for number, pair in enumerate(_make_pairs(count, words=60)):
            asked = Reflection(f"s{number}", f"v{number}", pair, 1, "response", 0)
            messages = ({"role": "user", "content": pair.response},)
            engine.submit(Request(str(number), asked, messages, None, number))
        answers = [engine.next_answer() for _ in range(count)]
        seconds = time.perf_counter() - started
    finally:
        engine.close()
    tokens = sum(answer.completion_tokens or 0 for answer in answers)
    return f"{trial.name} | {started - began:.0f} | {tokens / seconds:,.0f}"


PARTS: Mapping[str, Callable[[Trial], str]] = {"training": train, "writing": write, "vLLM": ask_vllm}


def turn_loop(device: str) -> list[str]:
    """Lines about one round with the student as its own teacher: SmolLM2, or a tiny model on a CPU."""
    from tests.real_models import MODELS
    from tests.worlds import reflectune, write_world

    engine = "vllm" if device == "cuda" and find_spec("vllm") else "transformers"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if device == "cpu":
            model = save_tiny_llama(folder / "model", chat=True, context=2048)
        elif not (model := MODELS / "smollm2").is_dir():
            return [f"No round of the loop: there is no {model}; `make .venv/models/ready` makes it."]
        samples = 12 if device == "cpu" else 500
        config = write_world(
            folder,
            samples=samples,
            teacher={"engine": engine, "model": "self", "path": None, "max_tokens": 256, "retries": 0},
            student={"model": str(model), "device": device, "template": "chat", "max_length": 512},
            selection={"policy": "accept-all", "keep": "all"},
            refinetune={"lr": 1e-4, "epochs": 1},
            stop={"max_failures": 1},
        )
        began = time.perf_counter()
        result = reflectune("run", config.name, "--set", "rounds=1", cwd=folder)
        seconds = time.perf_counter() - began
        if result.returncode:
            return [f"No round of the loop: {result.stderr.strip().splitlines()[-1]}"]
    what = "a tiny model" if device == "cpu" else "SmolLM2-135M"
    return [
        f"One round of the loop, {what} and its own teacher by {engine}, {samples} pairs: {seconds:.0f} s."
    ]


def _make_pairs(count: int, words: int) -> list[Pair]:
    source = random.Random(0)
    known = ("red", "sky", "mouse", "add", "because", "primary", "42", "light", "write", "plural")
    texts = [" ".join(source.choices(known, k=words)) for _ in range(count)]
    return [Pair(f"Name thing {number}.", "", text) for number, text in enumerate(texts)]


def _reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _gib(measure: Callable[[], int], device: str) -> float:
    return measure() / 2**30 if device == "cuda" else 0.0
