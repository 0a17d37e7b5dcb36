"""Our scores against the reference figures that the published scoring script gave for 300 records.

Every one of the 1,200 losses is compared; those that differ are listed.

    python -m tests.bench.reference
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from reflectune.loop.progress import LineDisplay
from reflectune.loop.score import open_data, score_dataset
from reflectune.state.config import DataConfig
from reflectune.state.records import Term
from tests.bench.results import SHARED, options, publish, table
from tests.bench.scoring import STUDENT, TEMPLATE, run_config

__all__ = ["TOLERANCE", "Difference", "compare_figures", "measure_differences"]

# The order of a line of figures.jsonl.
_TERMS: tuple[Term, ...] = (
    "instruction_alone",
    "response_alone",
    "instruction_given_response",
    "response_given_instruction",
)
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Difference:
    """One loss and what the reference says; nats per token, None where we have none."""

    record: int
    term: Term
    reference: float
    ours: float | None

    @property
    def relative(self) -> float:
        """|ours / reference - 1|; infinite where we have none."""
        return float("inf") if self.ours is None else abs(self.ours / self.reference - 1)


def measure_differences(pairs: int, threads: int) -> list[Difference]:
    """What `reflectune score` makes of the first pairs, against the reference."""
    figures = SHARED / "reference" / "figures.jsonl"
    reference = [json.loads(line)["loss"] for line in figures.read_text(encoding="utf-8").splitlines()]
    data = open_data(DataConfig(path=str(SHARED / "reference" / "alpaca-300.json"), limit=pairs))
    out = io.StringIO()
    score_dataset(data, run_config(STUDENT, TEMPLATE, "float32", threads).student, None, out, LineDisplay())
    lines = [json.loads(line)["nll"] for line in out.getvalue().splitlines()]
    return compare_figures(reference[: len(lines)], lines)


def main() -> None:
    arguments = options(__doc__, pairs=300).parse_args()
    torch.set_num_threads(arguments.threads)
    differences = measure_differences(arguments.pairs, arguments.threads)
    wrong = [difference for difference in differences if difference.relative > TOLERANCE]
    rows = [
        f"{item.record} | {item.term} | {item.reference:.6f} | {item.ours} | {item.relative:.1e}"
        for item in wrong
    ]
    body = [
        f"`reflectune score` with the reference template and student-6m in float32 against the losses of the "
        f"published script: {len(differences) - len(wrong):,} of {len(differences):,} agree within "
        f"{TOLERANCE:.0e} (relative). The largest difference is "
        f"{max(difference.relative for difference in differences):.1e}.",
        "",
        "Records that differ:" + ("" if wrong else " none."),
        "",
        *(table("record | term | reference | ours | relative", rows) if wrong else []),
    ]
    publish("Exactness", body, arguments)


def compare_figures(
    reference: Sequence[Sequence[float]], ours: Sequence[dict[Term, float | None]]
) -> list[Difference]:
    """Pair losses up: a reference line has them in the order of figures.jsonl, ours by term."""
    return [
        Difference(record, term, loss, line[term])
        for record, (losses, line) in enumerate(zip(reference, ours, strict=True))
        for term, loss in zip(_TERMS, losses, strict=True)
    ]


if __name__ == "__main__":
    main()
