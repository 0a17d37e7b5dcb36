"""What half precision changes on a real model: scores, decisions between two answers, and training.

SmolLM2-135M-Instruct in float32 and in bfloat16, on judged answers of two models; and trained on some of them
in either, and with a base in float16.

    python -m tests.bench.dtypes
"""

import itertools
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reflectune.agents.student.formulas import ifd, r_ifd
from reflectune.agents.student.refinetune import refinetune_student
from reflectune.agents.student.student import Student
from reflectune.state.config import RefinetuneConfig, StudentConfig
from reflectune.state.records import TERMS, Pair, Score, Term
from tests.bench.results import SHARED, options, publish, table
from tests.bench.scoring import run_config
from tests.real_models import MODELS

_MODELS = ("alpaca-7b", "vicuna-7b-v1.5")
_LONGEST = 600  # characters of an answer

Scored = list[dict[Term, Score]]


def main() -> None:
    parser = options(__doc__, pairs=60)
    parser.add_argument("--train-pairs", type=int, default=8, help="pairs to train on (default 8)")
    arguments = parser.parse_args()
    read = _pairs()
    pairs = list(itertools.islice(read, arguments.pairs))
    taught = list(itertools.islice(read, arguments.train_pairs))
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
        "",
        f"Trained for one epoch on {len(taught)} other answers, in steps of 512 tokens; nll(y|x) of those "
        "above under the base in float32 and the adapter, less than before:",
        "",
        *table(
            "trained in | mean | largest difference from float32",
            _train_in_all(taught, pairs, arguments.threads),
        ),
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


def _train_in_all(taught: list[Pair], held_out: list[Pair], threads: int) -> list[str]:
    """A row of the table for each number format that is trained in."""
    before, *after = (
        _losses(held_out, threads, taught, dtype) for dtype in (None, "float32", "bfloat16", "float16")
    )
    rows = []
    for name, losses in zip(("float32", "bfloat16", "bfloat16, the base in float16"), after, strict=True):
        gains = [one - other for one, other in zip(before, losses, strict=True)]
        apart = max(abs(one - other) for one, other in zip(after[0], losses, strict=True))
        rows.append(f"{name} | {statistics.fmean(gains):.4f} | {apart:.4f}")
    return rows


def _losses(held_out: list[Pair], threads: int, taught: list[Pair], dtype: str | None) -> list[float]:
    """nll(y|x) after training in a number format, or before."""
    config = run_config(MODELS / "smollm2", "chat", dtype or "float32", threads)
    config = config.model_copy(update={"refinetune": RefinetuneConfig(epochs=1, batch_tokens=512)})
    exact = run_config(MODELS / "smollm2", "chat", "float32", threads)
    with tempfile.TemporaryDirectory() as folder:
        adapter = None if dtype is None else Path(folder) / "adapter"
        if adapter is not None:
            how: dict[str, Any] = {"previous": None, "round": 1, "on_step": lambda *step: None}
            refinetune_student(config, taught, adapter, **how)
        with Student.open(exact.student, adapter) as student:
            scores = student.score([(pair, "response_given_instruction") for pair in held_out])
    return [-(score.sum_logprob or 0.0) / (score.num_tokens or 1) for score in scores]


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
