"""IFD and r-IFD of any dataset under any student, without a run."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

from reflectune.agents.student.formulas import ifd, ifd_loss, nll, r_ifd, r_ifd_loss
from reflectune.agents.student.student import Student
from reflectune.loop.progress import Display
from reflectune.state.config import DataConfig, StudentConfig
from reflectune.state.data.datasets import read_dataset
from reflectune.state.lineage.reader import mean_and_median
from reflectune.state.records import TERMS, Pair, Score, Term

__all__ = ["score_dataset"]

# Records scored and written at once.
_AT_ONCE = 64


def score_dataset(
    data: DataConfig,
    student: StudentConfig,
    adapter: Path | None,
    out: IO[str],
    display: Display,
) -> dict[str, Any]:
    """Score every pair of a dataset and write one JSON object a line, in the order of the data.

    Returns:
        A summary: records, how many could be scored, mean and median of IFD and r-IFD.
    """
    records = read_dataset(data, allow_empty=True)
    ifds: list[float | None] = []
    r_ifds: list[float | None] = []
    scored = 0
    with (
        Student.open(student, adapter) as model,
        display.stage("score", total=len(records)) as stage,
    ):
        given = (record.pair for record in records)
        for start in range(0, len(records), _AT_ONCE):
            pairs = list(islice(given, _AT_ONCE))
            for index, scores in enumerate(_score(model, pairs), start):
                line = _line(index, scores)
                scored += line["status"] == "ok"
                ifds.append(line["ifd"])
                r_ifds.append(line["r_ifd"])
                out.write(json.dumps(line) + "\n")
            stage.update(start + len(pairs), len(records))
    return {
        "records": len(records),
        "scored": scored,
        "ifd": mean_and_median(ifds),
        "r_ifd": mean_and_median(r_ifds),
    }


def _score(model: Student, pairs: Sequence[Pair]) -> Iterator[dict[Term, Score]]:
    results = model.score([(pair, term) for pair in pairs for term in TERMS])
    for start in range(0, len(results), len(TERMS)):
        yield dict(zip(TERMS, results[start : start + len(TERMS)], strict=True))


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
