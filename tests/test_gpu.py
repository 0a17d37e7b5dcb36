"""The whole way on a GPU, held against the CPU: scores, training, writing, memory, vLLM, a run.

`make test-gpu` runs it with a real model. Everywhere else the very same tests run on the CPU with a tiny one,
so that the tests themselves are known to work.
"""

import importlib.util
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from reflectune.agents.memory import free_memory
from reflectune.agents.student.refinetune import refinetune_student
from reflectune.agents.student.student import Student
from reflectune.agents.teacher.engines import TeacherModel
from reflectune.agents.teacher.teacher import open_teacher
from reflectune.state.config import RunConfig, StudentConfig, TeacherConfig
from reflectune.state.records import TERMS, Pair, Score, Term
from tests.bench import gpu
from tests.real_models import real_model
from tests.teachers import asked
from tests.tiny_models import save_tiny_llama
from tests.worlds import make_records, reflectune, write_world

HAS_GPU = torch.cuda.is_available()
needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not HAS_GPU, reason="no CUDA device: nothing was tried on a GPU; see `make test-gpu`"),
]
needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.no_cover]

PAIRS = [
    Pair("Name three primary colours.", "", "The three primary colours are red, yellow and blue."),
    Pair("Say hello in German.", "", "\n Hallo,  Welt! 😀\n"),
    Pair("Indent it:", "if x:\n\treturn 1", "```python\nif x:\n\n        return  1\n```"),
    *(Pair(record["instruction"], record["input"], record["output"]) for record in make_records(13)),
]
TARGETS: list[tuple[Pair, Term]] = [(pair, term) for pair in PAIRS for term in TERMS]
MIB = 2**20


@dataclass(frozen=True)
class Place:
    """A device, and the model to try there."""

    device: str
    model: str
    vllm: dict[str, Any]  # keys of the teacher; vLLM's defaults on a GPU

    def student(self, **values: Any) -> StudentConfig:
        given = {"model": self.model, "device": self.device, "dtype": "float32"}
        return StudentConfig(**given | values)

    def run(self, dtype: str = "float32", row_tokens: int = 512, **refinetune: Any) -> RunConfig:
        return RunConfig.model_validate(
            {
                "name": "n",
                "data": {"path": "unused"},
                "teacher": {"engine": "recorded", "path": "unused"},
                "student": self.student(dtype=dtype, batch_tokens=row_tokens).model_dump(),
                "refinetune": {"r": 8, "lr": 2e-3, "epochs": 4, "batch_tokens": 512} | refinetune,
            }
        )

    @property
    def allocated(self) -> int:
        return torch.cuda.memory_allocated() if self.device == "cuda" else 0

    @property
    def free(self) -> int:
        return torch.cuda.mem_get_info()[0] if self.device == "cuda" else 0


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=needs_gpu)])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    if request.param == "cuda":
        torch.ones(64, 64, device="cuda").matmul(torch.ones(64, 64, device="cuda"))  # what stays to the end
        return Place("cuda", str(real_model("smollm2")), {})
    folder = save_tiny_llama(tmp_path_factory.mktemp("models") / "llama", chat=True, heads=1, context=2048)
    return Place("cpu", str(folder), {"gpu_memory_utilization": 0.1, "concurrency": 16})


@pytest.fixture(scope="module")
def on_cpu(place: Place) -> list[Score]:
    return score(place.student(device="cpu"))


def score(config: StudentConfig, adapter: Path | None = None) -> list[Score]:
    with Student.open(config, adapter) as student:
        return student.score(TARGETS)


def train(config: RunConfig, out: Path) -> list[float]:
    """Losses of the steps, nats per token."""
    losses: list[float] = []

    def on_step(step: int, steps: int, loss: float | None) -> None:
        assert loss is not None
        losses.append(loss)

    refinetune_student(config, PAIRS, out, previous=None, round=1, on_step=on_step)
    return losses


@contextmanager
def little_memory(place: Place, left: int) -> Iterator[None]:
    """A card with so many bytes left, where the block must have run out of memory; a CPU is left as it is."""
    if place.device == "cpu":
        yield
        return
    free_memory()
    ran_out = torch.cuda.memory_stats()["num_ooms"]
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((place.allocated + left) / total)
    try:
        yield
        assert torch.cuda.memory_stats()["num_ooms"] > ran_out
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def assert_same(scores: list[Score], expected: list[Score], per_token: float) -> None:
    for one, other, target in zip(scores, expected, TARGETS, strict=True):
        assert (one.status, one.num_tokens) == (other.status, other.num_tokens) == ("ok", other.num_tokens)
        assert one.sum_logprob is not None, target
        assert other.sum_logprob is not None
        assert other.num_tokens is not None
        assert abs(one.sum_logprob - other.sum_logprob) < per_token * other.num_tokens, target


@pytest.mark.parametrize(("dtype", "per_token"), [("float32", 1e-4), ("bfloat16", 0.15)])
def test_scores_are_those_of_the_cpu(place: Place, on_cpu: list[Score], dtype: str, per_token: float) -> None:
    assert_same(score(place.student(dtype=dtype)), on_cpu, per_token)


def test_greedy_answers_are_those_of_the_cpu(place: Place) -> None:
    written = []
    for device in ("cpu", place.device):
        with Student.open(place.student(device=device)) as student:
            written.append(student.respond(PAIRS[:4], 24))
    assert written[0] == written[1]
    assert all(response and response.num_tokens for response in written[0])


def test_a_training_goes_as_on_the_cpu(place: Place, tmp_path: Path) -> None:
    config = place.run()
    at_home = config.model_copy(update={"student": place.student(device="cpu", batch_tokens=512)})
    losses, expected = train(config, tmp_path / "there"), train(at_home, tmp_path / "here")
    assert losses == pytest.approx(expected, rel=2e-3)
    assert losses[-1] < losses[0]
    trained = score(place.student(), tmp_path / "there")
    assert_same(trained, score(place.student(device="cpu"), tmp_path / "there"), 1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_base_in_half_precision_trains(place: Place, tmp_path: Path, dtype: str) -> None:
    losses = train(place.run(dtype), tmp_path / "adapter")
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
    assert {scored.status for scored in score(place.student(dtype=dtype), tmp_path / "adapter")} == {"ok"}


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_a_base_in_four_bits_trains(place: Place, tmp_path: Path) -> None:
    config = place.run("bfloat16")
    student = config.student.model_copy(update={"load_in_4bit": True})
    losses = train(config.model_copy(update={"student": student}), tmp_path / "adapter")
    assert losses[-1] < losses[0]


def test_scoring_survives_a_full_card(place: Place, on_cpu: list[Score]) -> None:
    with Student.open(place.student(batch_tokens=2048)) as student, little_memory(place, 64 * MIB):
        assert_same(student.score(TARGETS), on_cpu, 1e-4)


def test_training_survives_a_full_card(place: Place, tmp_path: Path) -> None:
    weights = sum(file.stat().st_size for file in Path(place.model).glob("*.safetensors"))
    # In bfloat16, as they are stored: room for an adapter and a few pairs, not for a row of 2,048 tokens.
    with little_memory(place, weights + 400 * MIB):
        losses = train(place.run("bfloat16", 2048, batch_tokens=4096), tmp_path / "adapter")
    assert all(map(math.isfinite, losses))


@pytest.mark.parametrize("place", [pytest.param("cuda", marks=needs_gpu)], indirect=True)
@needs_vllm
def test_vllm_gets_the_memory_of_a_closed_student_and_gives_it_back(place: Place) -> None:
    free_memory()
    allocated, free = place.allocated, place.free
    with Student.open(place.student()) as student:
        student.score(TARGETS)
        student.respond(PAIRS[:2], 8)
    assert place.allocated - allocated < 64 * MIB  # workspaces of its libraries
    assert abs(place.free - free) < 512 * MIB
    config = TeacherConfig(engine="vllm", model="self", max_tokens=64, retries=0, **place.vllm)
    itself = TeacherModel("self", place.student(dtype="auto", device="cpu"))
    with open_teacher(config, 0, itself) as teacher:
        made = list(teacher.reflect([asked(number) for number in range(8)]))
    assert len(made) == 8
    assert all(call.completion_tokens for call, _ in made)
    assert abs(place.free - free) < 512 * MIB
    assert {scored.status for scored in score(place.student())} == {"ok"}  # and the student gets it again


@pytest.mark.parametrize("place", [pytest.param("cuda", marks=needs_gpu)], indirect=True)
@needs_vllm
def test_a_run_goes_through_a_round(place: Place, tmp_path: Path) -> None:
    own = {"engine": "vllm", "model": "self", "path": None, "max_tokens": 256, "retries": 0} | place.vllm
    config = write_world(
        tmp_path,
        samples=24,
        teacher=own,
        student={"model": place.model, "device": place.device, "template": "chat", "max_length": 512},
        selection={"policy": "accept-all", "keep": "all"},
        refinetune={"lr": 1e-4, "epochs": 1},
        stop={"max_failures": 1},
    )
    result = reflectune("run", config.name, "--set", "rounds=1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    shown = json.loads(reflectune("show", "tiny", "--json", cwd=tmp_path).stdout)
    assert [row["round"] for row in shown["rounds"]] == [0, 1]
    verified = reflectune("verify", "tiny", cwd=tmp_path)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert (tmp_path / "runs/tiny/adapters/round-01/adapter_model.safetensors").is_file()


def test_the_benchmark_runs_through(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(gpu, "publish", lambda title, body, arguments, device: told.extend(body))
    command = ["gpu", "--tiny", "--pairs", "8", "--threads", "1", "--batch-tokens", "256"]
    monkeypatch.setattr("sys.argv", command)
    gpu.main()
    rows = [line for line in told if line.startswith("| tiny")]
    missing = [line for line in told if line.startswith("Left out")]
    assert len(rows) + len(missing) == 5
    assert all("no vllm here" in line for line in missing)
    assert told[-1 - len(missing)].startswith("One round of the loop, a tiny model")


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
def test_without_a_gpu_the_benchmark_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu"])
    with pytest.raises(SystemExit) as stop:
        gpu.main()
    assert stop.value.code == 1
    assert capsys.readouterr().err.endswith("no CUDA device on this machine; nothing was measured\n")
