"""IFD and r-IFD of any dataset under any student, without a run."""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

from reflectune.agents.student.formulas import ifd, ifd_loss, nll, r_ifd, r_ifd_loss
from reflectune.agents.student.student import Prepared, Student
from reflectune.loop.pipeline import compute_groups
from reflectune.loop.progress import Display
from reflectune.state.config import DataConfig, StudentConfig
from reflectune.state.data.datasets import read_dataset
from reflectune.state.lineage.reader import mean_and_median
from reflectune.state.records import TERMS, Pair, Score, Term

__all__ = ["score_dataset"]

# Records scored and written at once.
_AT_ONCE = 64


def score_dataset(
    data: DataConfig, student: StudentConfig, adapter: Path | None, out: IO[str], display: Display
) -> dict[str, Any]:
    """Score every pair of a dataset and write one JSON object a line, in the order of the data.

    Returns:
        A summary: records, how many could be scored, mean and median of IFD and r-IFD.
    """
    records = read_dataset(data, allow_empty=True, has_config=False)
    values: dict[str, list[float | None]] = {"ifd": [], "r_ifd": []}
    scored = 0
    with Student.open(student, adapter) as model, display.stage("score", total=len(records)) as stage:

        def prepare(pairs: Sequence[Pair]) -> list[Prepared]:
            return model.prepare([(pair, term) for pair in pairs for term in TERMS])

        def write(scores: Sequence[Score]) -> None:
            nonlocal scored
            results, start = iter(scores), len(values["ifd"])
            for index in range(start, start + len(scores) // len(TERMS)):
                line = _line(index, {term: next(results) for term in TERMS})
                scored += line["status"] == "ok"
                for name, found in values.items():
                    found.append(line[name])
                out.write(json.dumps(line) + "\n")
            stage.update(len(values["ifd"]), len(records))

        given = (record.pair for record in records)
        groups = iter(lambda: list(islice(given, _AT_ONCE)), [])
        compute_groups(groups, prepare, model.compute, write)
    means = {name: mean_and_median(found) for name, found in values.items()}
    return {"records": len(records), "scored": scored, **means}


def _line(index: int, scores: dict[Term, Score]) -> dict[str, Any]:
    failures = [score.status for score in scores.values() if score.status != "ok"]
    return {
        "index": index,
        "ifd": ifd(scores),
        "r_ifd": r_ifd(scores),
        "ifd_loss": ifd_loss(scores),
        "r_ifd_loss": r_ifd_loss(scores),
        "nll": {term: nll(scores, term) for term in TERMS},
        "num_tokens": {term: scores[term].num_tokens for term in TERMS},
        "truncated": any(score.truncated for score in scores.values()),
        "status": failures[0] if failures else "ok",
    }
