"""Whether IFD and r-IFD mean more with a pair's context in front of the targets alone, or without it.

SmolLM2-135M-Instruct on the last exchanges of conversations: matched pairs against those with the
instruction, or the response, of the next conversation. Any file of conversations will do, such as
MT-Bench-101's as messages.

    python -m tests.bench.contexts FILE
"""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from reflectune.agents.student.formulas import nll
from reflectune.agents.student.student import Student
from reflectune.state.config import DataConfig, StudentConfig
from reflectune.state.data.datasets import read_dataset
from reflectune.state.records import Pair, Score, Term
from tests.bench.results import options, publish, table
from tests.real_models import MODELS

_LONGEST = 4000  # characters of a pair with its context
_GIVEN_AND_ALONE: dict[str, tuple[Term, Term]] = {
    "IFD": ("response_given_instruction", "response_alone"),
    "r-IFD": ("instruction_given_response", "instruction_alone"),
}


def main() -> None:
    parser = options(__doc__, pairs=50)
    parser.add_argument("file", help="conversations of two exchanges and more")
    arguments = parser.parse_args()
    records = read_dataset(DataConfig(path=arguments.file, odd={"invalid": "skip"}))
    fitting = (record.pair for record in records if record.pair.context and _length(record.pair) <= _LONGEST)
    pairs = list(itertools.islice(fitting, arguments.pairs))
    model = StudentConfig(model=str(MODELS / "smollm2"), dtype="float32", threads=arguments.threads)
    rows = []
    with Student.open(model) as student:
        for name, (given, alone) in _GIVEN_AND_ALONE.items():
            others = [*pairs[1:], *pairs[:1]]
            changed = "instruction" if name == "IFD" else "response"
            shuffled = [
                replace(pair, **{changed: getattr(other, changed)})
                for pair, other in zip(pairs, others, strict=True)
            ]
            right, wrong = _nlls(student, pairs, given), _nlls(student, shuffled, given)
            for what, bare in (("with", pairs), ("without", [replace(pair, context=()) for pair in pairs])):
                under = _nlls(student, bare, alone)
                matched, mixed = _ratios(right, under), _ratios(wrong, under)
                rows.append(
                    f"{name}, alone {what} the context | {_auc(matched, mixed):.2f} "
                    f"| {statistics.median(matched):.2f} | {_below_one(matched)} | {_below_one(mixed)}"
                )
    body = [f"{len(pairs)} exchanges, of at most {_LONGEST} characters with their contexts.", ""]
    body += table("measure | AUC | median | below 1 | below 1, shuffled", rows)
    publish("Contexts", body, arguments)


def _length(pair: Pair) -> int:
    return sum(len(text) for text in (pair.instruction, pair.response, *(t.content for t in pair.context)))


def _nlls(student: Student, pairs: Sequence[Pair], term: Term) -> list[float]:
    scores: list[Score] = student.score([(pair, term) for pair in pairs])
    values = [nll({term: score}, term) for score in scores]
    assert None not in values
    return [value for value in values if value is not None]


def _ratios(given: Sequence[float], alone: Sequence[float]) -> list[float]:
    return [math.exp(over - under) for over, under in zip(given, alone, strict=True)]


def _auc(lower: Sequence[float], higher: Sequence[float]) -> float:
    """How often one of the first is below one of the second."""
    return statistics.fmean((a < b) + (a == b) / 2 for a, b in itertools.product(lower, higher))


def _below_one(values: Sequence[float]) -> str:
    return f"{100 * statistics.fmean(value < 1 for value in values):.0f} %"


if __name__ == "__main__":
    main()
