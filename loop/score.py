"""IFD and r-IFD of any dataset under any student, without a run, and its best records as they were given."""

import json
import math
from array import array
from collections import deque
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from heapq import nlargest
from operator import methodcaller
from pathlib import Path
from typing import IO, Any

from reflectune.agents.pool import LocalPool
from reflectune.agents.student.formulas import ifd, ifd_loss, nll, r_ifd, r_ifd_loss
from reflectune.agents.student.student import Student, check_contexts
from reflectune.loop.pipeline import compute_groups
from reflectune.loop.progress import Display
from reflectune.state.config import DataConfig, StudentConfig
from reflectune.state.data.datasets import Dataset, read_dataset
from reflectune.state.data.exports import add_given
from reflectune.state.errors import ConfigError
from reflectune.state.groups import in_groups
from reflectune.state.lineage.reader import mean_and_median
from reflectune.state.records import TERMS, Pair, Score, Term

__all__ = ["Bounds", "Measured", "check_fields", "given_rows", "open_data", "score_dataset"]

# Pairs scored and written at once.
_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a record must meet to be kept; one that cannot be scored never is."""

    max_ifd: float = math.inf  # its IFD is below this
    max_r_ifd: float = math.inf  # its r-IFD is below this
    top: int | float | None = None  # of those, so many with the highest IFD; a float is a share of all


class Measured:
    """IFD and r-IFD of each record by its index, as the means of its exchanges; a few numbers a record."""

    def __init__(self) -> None:
        self._ifd, self._r_ifd, self._pairs = array("d"), array("d"), array("l")

    def add(self, index: int, ifd: float | None, r_ifd: float | None) -> None:
        """Take in an exchange. One that cannot be scored makes its record one that cannot."""
        for sums, value in ((self._ifd, ifd), (self._r_ifd, r_ifd)):
            sums.extend([0] * (index + 1 - len(sums)))
            sums[index] += math.nan if value is None else value
        self._pairs.extend([0] * (index + 1 - len(self._pairs)))
        self._pairs[index] += 1

    def choose(self, bounds: Bounds) -> Container[int]:
        """The indexes of the records to keep; of equal ones the first."""
        records = [index for index, pairs in enumerate(self._pairs) if pairs]
        within = [
            index
            for index in records
            if self._ifd[index] / self._pairs[index] < bounds.max_ifd
            and self._r_ifd[index] / self._pairs[index] < bounds.max_r_ifd
        ]
        top = bounds.top
        if top is None:
            return frozenset(within)
        count = max(1, round(top * len(records))) if isinstance(top, float) else top
        return frozenset(nlargest(count, within, key=lambda index: self._ifd[index] / self._pairs[index]))


def open_data(data: DataConfig) -> Dataset:
    """The dataset to score, checked; blank texts are taken, and get a status."""
    return read_dataset(data, allow_empty=True, has_config=False)


def check_fields(dataset: Dataset, fields: Collection[str]) -> None:
    """Refuse names of fields that no record has, before any work is done."""
    unseen, names = dict.fromkeys(fields), dict[str, None]()
    for row in given_rows(dataset):
        for name in row:
            unseen.pop(name, None)
        if not unseen:
            return
        names = names or dict.fromkeys(row)
    if unseen:
        raise ConfigError(
            f"--fields: no record has {', '.join(unseen)}; the first has {', '.join(map(str, names))}"
        )


def given_rows(dataset: Dataset, chosen: Container[int] | None = None) -> Iterator[Mapping[str, Any]]:
    """The given rows that are records, all or those with some indexes."""
    for index, reading in enumerate(dataset.readings()):
        if reading.records and (chosen is None or index in chosen) and isinstance(reading.row, dict):
            yield reading.row


def score_dataset(
    dataset: Dataset,
    student: StudentConfig,
    adapter: Path | None,
    out: IO[str] | None,
    display: Display,
    *,
    fields: Sequence[str] = (),
) -> tuple[dict[str, Any], Measured]:
    """Score every pair of a dataset and write one JSON object a line, in the order of the data.

    Args:
        dataset: from `open_data`.
        student: who scores.
        adapter: LoRA folder on top of it.
        out: where lines go; nowhere if None.
        display: progress.
        fields: of the given record that its lines have too, null where it lacks one; a name that the line
            has otherwise gets `given_` in front.

    Returns:
        A summary (records, their pairs, how many of these could be scored, mean and median of IFD and r-IFD,
        records skipped by kind), and the measures by record.
    """
    measured = Measured()
    values: dict[str, list[float | None]] = {"ifd": [], "r_ifd": []}
    scored = 0
    places: deque[tuple[int, int, dict[str, Any]]] = deque()  # of the pairs that are under way

    def read_pairs() -> Iterator[Pair]:
        for index, reading in enumerate(dataset.readings()):
            row = reading.row if isinstance(reading.row, dict) else {}
            for record in reading.records:
                places.append((index, record.turn, {name: row.get(name) for name in fields}))
                yield record.pair

    check_contexts(student, dataset.account.contexts)
    with (
        LocalPool(lambda: Student.open(student, adapter)) as pool,
        display.stage("score", total=len(dataset)) as stage,
    ):

        def begin(pairs: Sequence[Pair]) -> Future[list[Score]]:
            targets = [(pair, term) for pair in pairs for term in TERMS]
            return pool.submit(methodcaller("score", targets), size=len(pairs))

        def write(scores: Sequence[Score]) -> None:
            nonlocal scored
            results = iter(scores)
            for _ in range(len(scores) // len(TERMS)):
                index, turn, given = places.popleft()
                line = _line(index, turn, {term: next(results) for term in TERMS})
                scored += line["status"] == "ok"
                for name, found in values.items():
                    found.append(line[name])
                measured.add(index, line["ifd"], line["r_ifd"])
                if out is not None:
                    add_given(line, given, taken=())
                    out.write(json.dumps(line, default=str) + "\n")
            stage.update(len(values["ifd"]), len(dataset))

        compute_groups(in_groups(read_pairs(), _AT_ONCE), begin, write, pool.at_once)
    summary = {"records": dataset.account.kept, "pairs": len(dataset), "scored": scored}
    means = {name: mean_and_median(found) for name, found in values.items()}
    skipped = {rows.kind: rows.number for rows in dataset.account.skipped}
    return summary | means | {"skipped": skipped}, measured


def _line(index: int, turn: int, scores: dict[Term, Score]) -> dict[str, Any]:
    failures = [score.status for score in scores.values() if score.status != "ok"]
    return {
        "index": index,
        "turn": turn,
        "ifd": ifd(scores),
        "r_ifd": r_ifd(scores),
        "ifd_loss": ifd_loss(scores),
        "r_ifd_loss": r_ifd_loss(scores),
        "nll": {term: nll(scores, term) for term in TERMS},
        "num_tokens": {term: scores[term].num_tokens for term in TERMS},
        "truncated": any(score.truncated for score in scores.values()),
        "status": failures[0] if failures else "ok",
    }
