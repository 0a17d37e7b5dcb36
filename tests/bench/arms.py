"""What selection is worth: the plan of arms.toml on the demo's world.

A seed settles data, split, first proposals and training for all arms alike. The runs are in runs/arms; the
same command goes on with them.

    python -m tests.bench.arms
"""

from collections.abc import Iterable
from pathlib import Path

from reflectune.loop.demo.account import account_for
from reflectune.loop.demo.noise import FAULTS, INPUT_RATE, VAGUE_RATE, write_dataset
from reflectune.loop.experiments.plan import load_experiment
from reflectune.state.config import RunConfig
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import PHASES
from tests.bench.plans import ROOT, percent, run_plan, tell_plan
from tests.bench.results import options, publish

PLAN = Path(__file__).with_name("arms.toml")
DATA = ROOT / "runs" / "arms-data"
PAIRS, HOLDOUT = 400, 500


def write_data(folder: Path, seeds: Iterable[int], size: int) -> None:
    """The noisy and the clean dataset of each seed, where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for kind in ("noisy", "clean"):
            path = folder / f"{kind}-{seed}.json"
            if not path.exists():
                write_dataset(path, size, seed, clean=kind == "clean")


def judge(lineage: LineageReader, config: RunConfig) -> dict[str, float | None]:
    """What the exact checker says: of the last pool, and of the last round's decisions.

    Shares in percent: of the pool that is right; of all proposals that were accepted; of accepted proposals
    that are right; of refused ones that were wrong or stood against a right pair. Pairs that were mended
    (wrong to right) and damaged (right to wrong).
    """
    last = account_for(lineage)[-1]
    figures = {"pool right %": percent(last["pool_right"])}
    for phase in PHASES:
        row, reflected = last[phase], last[phase]["reflected"]
        figures |= {
            f"{phase}: accepted %": 100 * row["accepted"] / reflected if reflected else None,
            f"{phase}: rightly %": percent(row["accepted_right"]),
            f"{phase}: refused rightly %": percent(row["refused_rightly"]),
            f"{phase}: mended": row["mended"],
            f"{phase}: damaged": row["damaged"],
        }
    return figures


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, of one torch thread each")
    arguments = parser.parse_args()
    write_data(DATA, load_experiment(PLAN).seeds, PAIRS + HOLDOUT)
    document = run_plan(PLAN, arguments.jobs)
    faults = ", ".join(f"{name} {share:.0%}" for name, share in FAULTS.items())
    body = [
        f"The demo's world, {PAIRS} pairs and {HOLDOUT} held out, seeds {document['seeds']}. Responses: "
        f"{faults}; {VAGUE_RATE:.0%} of the instructions do not say what to do, {INPUT_RATE:.0%} of the "
        f"others have an input; the teacher's faults are on its card. {arguments.jobs} runs at once, of one "
        "torch thread each. Figures of one's own are by the exact checker, of the last round.",
        "",
        *tell_plan(document),
    ]
    publish("Arms", body, arguments)


if __name__ == "__main__":
    main()
