"""What becomes of a small real model that teaches itself: SmolLM2-135M-Instruct, two rounds, 40 pairs.

The plan is real_self.toml: answers by a schema from vLLM on a CPU, between tags from transformers. How many
of the answers can be used, how many are accepted, and what becomes of the held-out measures. The runs are in
runs/real_self; the same command goes on with them.

    python -m tests.bench.real_self
"""

from pathlib import Path

from reflectune.loop.demo.english.verdicts import write_inputs
from reflectune.state.config import RunConfig
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import PHASES
from tests.bench.plans import run_plan, tell_plan
from tests.bench.real import DATA, draw, read_answers
from tests.bench.results import options, publish

__all__ = ["PLAN", "count"]

PLAN = Path(__file__).with_name("real_self.toml")
_PAIRS = 60  # 20 of them are held out
_LONGEST = 300  # characters of an instruction


def count(lineage: LineageReader, config: RunConfig) -> dict[str, float | None]:
    """By round and phase in percent: answers that hold a proposal, that are of no use; proposals accepted."""
    figures: dict[str, float | None] = {}
    for row in lineage.rounds(since=1):
        for phase in PHASES:
            told, place = row[phase], f"{row['round']} {phase}"
            asked = told["reflected"] + told["unchanged"] + told["failed"]
            figures |= {
                f"{place}: proposed %": 100 * told["reflected"] / asked if asked else None,
                f"{place}: failed %": 100 * told["failed"] / asked if asked else None,
                f"{place}: accepted %": 100 * told["accepted"] / told["reflected"]
                if told["reflected"]
                else None,
            }
    return figures


def main() -> None:
    parser = options(__doc__)
    arguments = parser.parse_args()
    data = DATA / "short.json"
    if not data.exists():
        DATA.mkdir(parents=True, exist_ok=True)
        drawn = [row for row in draw(read_answers(), seed=0) if len(row.instruction) <= _LONGEST]
        write_inputs(drawn[:_PAIRS], data, DATA / "short-teacher.jsonl")
    note = "- An arm without training pairs has trained nobody: its measures are those before any training."
    publish("A real model that teaches itself", [note, *tell_plan(run_plan(PLAN, jobs=1))], arguments)


if __name__ == "__main__":
    main()
