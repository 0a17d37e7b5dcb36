"""What is closed leaves nothing of its model in memory: the next one needs the room."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from reflectune.agents.models import open_model
from reflectune.agents.student.refinetune import refinetune_student
from reflectune.agents.student.student import Student
from reflectune.agents.teacher.engines import TeacherModel
from reflectune.agents.teacher.teacher import open_teacher
from reflectune.state.config import RunConfig, StudentConfig, TeacherConfig
from reflectune.state.records import TERMS, Pair
from tests.teachers import asked
from tests.tiny_models import save_tiny_adapter, save_tiny_llama

pytestmark = pytest.mark.slow

PAIR = Pair("Name a colour.", "", "Red is a colour.")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "llama", chat=True, context=2048)


@pytest.fixture(scope="module")
def adapter(model: Path) -> Path:
    return save_tiny_adapter(model.with_name("adapter"), open_model(StudentConfig(model=str(model))))


@contextmanager
def leaving_nothing() -> Iterator[None]:
    """The block gathers the garbage itself, since nobody else does, and leaves no layer and no tensor."""
    gc.collect()
    gc.disable()
    try:
        known = {id(item) for item in find_weights()}
        yield
        assert [item for item in find_weights() if id(item) not in known] == []
    finally:
        gc.enable()


def find_weights() -> list[Any]:
    """Layers, and tensors of more than a few numbers."""
    return [
        item
        for item in gc.get_objects()
        if isinstance(item, torch.nn.Module) or (isinstance(item, torch.Tensor) and item.numel() > 64)
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("is_trained", [False, True])
def test_a_closed_student_leaves_nothing(model: Path, adapter: Path, dtype: str, is_trained: bool) -> None:
    config = StudentConfig.model_validate({"model": str(model), "template": "plain", "dtype": dtype})
    with leaving_nothing():
        with Student.open(config, adapter if is_trained else None) as student:
            scores = student.score([(PAIR, term) for term in TERMS])
            student.respond([PAIR], 4)
            assert find_weights()
        assert {score.status for score in scores} == {"ok"}


@pytest.mark.parametrize("is_trained", [False, True])
def test_a_closed_teacher_leaves_nothing(model: Path, adapter: Path, is_trained: bool) -> None:
    config = TeacherConfig(engine="transformers", model="self", max_tokens=4, retries=0)
    itself = TeacherModel("self", StudentConfig(model=str(model)), adapter if is_trained else None)
    with leaving_nothing():
        with open_teacher(config, 0, itself) as teacher:
            reflected = list(teacher.reflect([asked(0), asked(1)]))
            assert find_weights()
        calls = [call for group in reflected for call, _ in group]
        assert len(calls) == 2
        assert calls[0].completion_tokens


def test_a_training_leaves_nothing(model: Path, tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {
            "name": "n",
            "data": {"path": "unused"},
            "teacher": {"engine": "recorded", "path": "unused"},
            "student": {"model": str(model), "template": "plain", "dtype": "float32"},
            "refinetune": {"r": 4, "epochs": 2, "batch_tokens": 64},
        }
    )
    with leaving_nothing():
        refinetune_student(
            config, [PAIR] * 8, tmp_path / "adapter", previous=None, round=1, on_step=lambda *step: None
        )
