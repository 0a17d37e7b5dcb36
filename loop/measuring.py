"""Which pairs of a dataset or of a run tell what a student's scores are worth, and the student that tells."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from reflectune.agents.student.student import Student
from reflectune.agents.student.templates import check_student
from reflectune.loop.context import find_adapter
from reflectune.loop.evidence import Choice, Evidence, measure_evidence
from reflectune.loop.progress import Display
from reflectune.loop.resuming import restore_config
from reflectune.state.config import DataConfig, SelectionConfig, StudentConfig
from reflectune.state.data.datasets import read_dataset
from reflectune.state.data.labels import read_preferences
from reflectune.state.errors import ConfigError
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.lineage.proposals import read_proposals
from reflectune.state.records import Pair

__all__ = ["measure_data", "measure_run"]

Item = TypeVar("Item")


def measure_data(
    data: DataConfig, student: StudentConfig, number: int, seed: int, display: Display
) -> Evidence:
    """What a student tells about so many pairs of a dataset, and about the preferences that it brings.

    Where it brings any, the preferred ones are the pairs.
    """
    check_student(student)
    choices = _draw([(each.better, each.worse) for each in read_preferences(data, seed)], number, seed)
    pairs = [better for better, _ in choices]
    if not choices:
        pairs = _draw([record.pair for record in read_dataset(data)], number, seed)
    band = SelectionConfig().length_band
    return _measure(str(data.path), student, None, pairs, choices, display, labelled=True, band=band)


def measure_run(folder: RunFolder, round: int, number: int, seed: int, display: Display) -> Evidence:
    """What the student that decides in a round tells about so many pairs of the pool, and about proposals.

    The choices are between incumbents and proposals of phase response.
    """
    if round == 0:
        raise ConfigError("--round 0: the given data has no proposals; name a round from 1 on")
    config = restore_config(folder)
    with LoopReader.open(folder.lineage) as lineage:
        student = lineage.round_student(round - 1)
        if student is None:
            raise ConfigError(f"--round {round}: no student has been trained in round {round - 1} yet")
        pairs = [*lineage.pool_pairs(round - 1, lineage.choose_samples(number, seed)).values()]
        made = [(each.incumbent, each.candidate) for each in read_proposals(lineage, round, "response")]
    adapter, source = find_adapter(folder, student), f"{config.name}, round {round}"
    choices, band = _draw(made, number, seed), config.selection.length_band
    return _measure(source, config.student, adapter, pairs, choices, display, labelled=False, band=band)


def _draw(items: Sequence[Item], number: int, seed: int) -> list[Item]:
    return random.Random(f"{seed}/signal").sample(items, min(number, len(items)))


def _measure(
    source: str,
    config: StudentConfig,
    adapter: Path | None,
    pairs: Sequence[Pair],
    choices: Sequence[Choice],
    display: Display,
    *,
    labelled: bool,
    band: float,
) -> Evidence:
    done, total = 0, 2 * len(pairs) + 2 * len(choices)
    with Student.open(config, adapter) as student, display.stage("signal", total=total) as stage:

        def count(number: int) -> None:
            nonlocal done
            stage.update(done := done + number, total)

        name = config.model if adapter is None else f"{config.model} with {adapter.name}"
        return measure_evidence(
            source, name, pairs, choices, student.score, labelled=labelled, band=band, on_scored=count
        )
