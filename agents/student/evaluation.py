"""Held-out measures of a student, each with its 95 % interval.

A sample that cannot be measured is left out of n, never counted as 0.
"""

import math
import reprlib
import statistics
from collections.abc import Callable, Iterable, Sequence

from reflectune.agents.student.formulas import nll
from reflectune.state.errors import ConfigError
from reflectune.state.functions import describe_error
from reflectune.state.intervals import Z, wilson
from reflectune.state.records import Evaluation, HeldOutAnswer, Pair, Score, Term
from reflectune.state.text import one_line

__all__ = ["Checker", "judge", "measure_held_out", "summarise"]

Checker = Callable[[str, str, str, str], bool | float | None]
"""Says how right an answer is: checker(instruction, input, response, reference).

None where nothing can say, such as for an instruction without one right answer. That should depend on the
instruction alone: students whose accuracies are over different samples cannot be compared.
"""


def measure_held_out(scores: Iterable[Score], answers: Iterable[HeldOutAnswer]) -> list[Evaluation]:
    """What a student's scores of held-out responses and its own answers come to.

    "nll": mean over pairs of nll(y|x), nats per token. "response_tokens": mean length of the answers.
    "accuracy": mean of what the checker says of them, without those of which it cannot say anything. A
    measure that no pair allows is left out.
    """
    term: Term = "response_given_instruction"
    nlls = [nll({term: score}, term) for score in scores]
    told = [(answer.num_tokens, answer.verdict) for answer in answers]
    measures: dict[str, Sequence[float | None]] = {
        "nll": nlls,
        "response_tokens": [length for length, _ in told],
        "accuracy": [verdict for _, verdict in told],
    }
    known = {name: [value for value in values if value is not None] for name, values in measures.items()}
    return [summarise(name, values) for name, values in known.items() if values]


def judge(checker: Checker, pair: Pair, response: str) -> float | None:
    """What a checker says of an answer to a held-out pair, whose own response is the reference.

    Raises:
        ConfigError: it fails, or says what is neither a number nor None.
    """
    where = f"on the answer to {pair.instruction[:60]!r}"
    try:
        verdict = checker(pair.instruction, pair.input, response, pair.response)
    except Exception as error:
        raise ConfigError(f"evaluate.checker failed {where}: {describe_error(error)}") from error
    if verdict is None:
        return None
    if not isinstance(verdict, int | float) or not math.isfinite(verdict):
        raise ConfigError(
            f"evaluate.checker said {one_line(reprlib.repr(verdict))} {where}; "
            "want true, false, a number or None, in Python's own types"
        )
    return float(verdict)


def summarise(name: str, values: Sequence[float]) -> Evaluation:
    """Mean with its 95 % interval; no interval from a single value."""
    count, mean = len(values), statistics.fmean(values)
    if count < 2:
        return Evaluation(name, mean, count, None, None)
    if name == "accuracy" and set(values) <= {0.0, 1.0}:
        return Evaluation(name, mean, count, *wilson(mean, count))
    half = Z * statistics.stdev(values) / math.sqrt(count)
    return Evaluation(name, mean, count, mean - half, mean + half)
