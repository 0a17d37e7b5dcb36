"""A round's student as one model that other programs open."""

from pathlib import Path
from typing import TypedDict

from reflectune.agents.student.merging import merge_student
from reflectune.loop.context import find_adapter
from reflectune.loop.resuming import refuse_changed_files
from reflectune.state.config import parse_config
from reflectune.state.errors import ConfigError
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.storage import explain_storage_errors

__all__ = ["Merged", "merge_round"]


class Merged(TypedDict):
    """A model that was written."""

    name: str  # of the run
    round: int
    student: str
    out: str
    base_model: str
    dtype: str
    load_in_4bit: bool  # whether its base had 4-bit weights, which were written out in `dtype`
    template: str  # that it was trained with: student.template


def merge_round(folder: RunFolder, lineage: LoopReader, round: int, out: Path) -> Merged:
    """Write the student that a round ended with as one model into a folder, which is made.

    Raises:
        AdapterError, StudentError: adapter or base cannot be read, or is not what was trained.
        ConfigError: the round has no student of its own, or there is something at `out`.
    """
    name = folder.path.name
    student = lineage.round_student(round)
    if student is None:
        raise ConfigError(f"{name}: round {round} has no student yet; wait for it, or name an earlier round")
    adapter = find_adapter(folder, student)
    if adapter is None:
        raise ConfigError(f"{name}: the student of round {round} is its base model, {student.base_model}")
    config = parse_config(lineage.settings()["config"], source=name)
    refuse_changed_files(lineage, config, "student.model")
    with explain_storage_errors(out, "merge again"):
        dtype = merge_student(config.student, adapter, out)
    return {
        "name": name,
        "round": round,
        "student": student.id,
        "out": str(out),
        "base_model": student.base_model,
        "dtype": dtype,
        "load_in_4bit": config.student.load_in_4bit,
        "template": config.student.template,
    }
