"""What bfloat16 changes on a real model: scores, and decisions between two answers to one instruction.

SmolLM2-135M-Instruct in float32 and in bfloat16, on judged answers of two models.

    python -m tests.bench.dtypes
"""

import itertools
import json
import statistics
from collections.abc import Callable, Iterator
from typing import Any

from reflectune.agents.student.formulas import ifd, r_ifd
from reflectune.agents.student.student import Student
from reflectune.state.config import StudentConfig
from reflectune.state.records import TERMS, Pair, Score, Term
from tests.bench.results import SHARED, options, publish, table
from tests.real_models import MODELS

_MODELS = ("alpaca-7b", "vicuna-7b-v1.5")
_LONGEST = 600  # characters of an answer

Scored = list[dict[Term, Score]]


def main() -> None:
    arguments = options(__doc__, pairs=60).parse_args()
    pairs = list(itertools.islice(_pairs(), arguments.pairs))
    exact, coarse = (_score(pairs, dtype, arguments.threads) for dtype in ("float32", "bfloat16"))
    rows = [f"nll, {term} | {_describe(_differences(exact, coarse, _nll(term)))}" for term in TERMS]
    rows += [
        f"{name} | {_describe(_differences(exact, coarse, measure))}"
        for name, measure in (("IFD", ifd), ("r-IFD", r_ifd))
    ]
    decided = [
        f"{_count_otherwise(exact, coarse, measure)} of {len(pairs) // 2} by {name}"
        for name, measure in (("IFD", ifd), ("r-IFD", r_ifd))
    ]
    body = [
        f"SmolLM2-135M-Instruct in bfloat16 against float32, on answers of {' and '.join(_MODELS)} to "
        f"{len(pairs) // 2} instructions, of at most {_LONGEST} characters. nll in nats a token.",
        "",
        *table("measure | mean difference | mean of absolute ones | largest", rows),
        f"Which of the two answers is taken differs in {' and '.join(decided)}.",
    ]
    publish("Number formats", body, arguments)


def _pairs() -> Iterator[Pair]:
    """Two answers to one instruction, one after the other."""
    for line in (SHARED / "data" / "judged.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        answers = {answer["model"]: answer["response"][:_LONGEST] for answer in record["answers"]}
        if answers.keys() >= set(_MODELS):
            yield from (Pair(record["instruction"], "", answers[model]) for model in _MODELS)


def _score(pairs: list[Pair], dtype: Any, threads: int) -> Scored:
    config = StudentConfig(model=str(MODELS / "smollm2"), dtype=dtype, threads=threads)
    with Student.open(config) as student:
        scores = iter(student.score([(pair, term) for pair in pairs for term in TERMS]))
        return [{term: next(scores) for term in TERMS} for _ in pairs]


def _nll(term: Term) -> Callable[[dict[Term, Score]], float | None]:
    return lambda scores: None if (s := scores[term]).sum_logprob is None else -s.sum_logprob / s.num_tokens


def _differences(exact: Scored, coarse: Scored, measure: Callable[..., float | None]) -> list[float]:
    both = [(measure(one), measure(other)) for one, other in zip(exact, coarse, strict=True)]
    return [other - one for one, other in both if one is not None and other is not None]


def _describe(differences: list[float]) -> str:
    apart = [abs(value) for value in differences]
    return f"{statistics.fmean(differences):+.4f} | {statistics.fmean(apart):.4f} | {max(apart):.4f}"


def _count_otherwise(exact: Scored, coarse: Scored, measure: Callable[..., float | None]) -> int:
    """Contests between two answers that end otherwise: whichever has the higher value, or the lower."""

    def decide(scores: Scored) -> list[bool]:
        values = [measure(item) or 0.0 for item in scores]
        return [first > second for first, second in zip(values[::2], values[1::2], strict=True)]

    return sum(one != other for one, other in zip(decide(exact), decide(coarse), strict=True))


if __name__ == "__main__":
    main()
