"""Which decisions go wrong: the contests of the default policy, decided by other rules and judged exactly.

The runs of `tests.bench.arms` give the contests with the scores that decided them; each rule then decides the
same contests, all of them and those alone in which both responses are equally long.

    python -m tests.bench.arms && python -m tests.bench.rules
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reflectune.loop.demo.world import is_right
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import PHASES, Pair, Phase
from tests.bench.arms import PAIRS, ROOT
from tests.bench.results import options, publish, table

RUNS = ROOT / "runs" / "arms"
ARM, ROUNDS = "method-3-rounds", (1, 2)
MARGIN = 0.1
Measures = Mapping[str, Any]  # of one version under the deciding student: ifd, r_ifd; its length
TakesCandidate = Callable[[Measures, Measures], bool]


@dataclass(frozen=True, slots=True)
class Contest:
    """An incumbent and a candidate as the deciding student measured them, and whether each is right."""

    round: int
    phase: Phase
    incumbent: Measures
    candidate: Measures
    incumbent_right: bool
    candidate_right: bool


def _fits(measures: Measures) -> bool:
    return bool(measures["ifd"] < 1)


EITHER: Mapping[str, TakesCandidate] = {
    "longest": lambda old, new: new["length"] > old["length"],
    "accept all": lambda old, new: True,
    "reject all": lambda old, new: False,
}
RULES: Mapping[Phase, Mapping[str, TakesCandidate]] = {
    "instruction": {
        "highest IFD (the method)": lambda old, new: new["ifd"] > old["ifd"],
        f"highest IFD by more than {MARGIN}": lambda old, new: new["ifd"] > old["ifd"] + MARGIN,
        "highest IFD below 1 (ifd_cap)": lambda old, new: (_fits(new), new["ifd"]) > (_fits(old), old["ifd"]),
        "lowest IFD": lambda old, new: new["ifd"] < old["ifd"],
        **EITHER,
    },
    "response": {
        "lowest r-IFD (the method)": lambda old, new: new["r_ifd"] < old["r_ifd"],
        f"lowest r-IFD by more than {MARGIN}": lambda old, new: new["r_ifd"] < old["r_ifd"] - MARGIN,
        **EITHER,
    },
}
MEASURE: Mapping[Phase, str] = {"instruction": "ifd", "response": "r_ifd"}


def play(folder: RunFolder) -> list[Contest]:
    """The contests of a run's first rounds."""
    with LineageReader.open(folder.lineage) as history:
        positions = range(sum(history.samples().values()))
        contests = (contest for position in positions for contest in read(history.trace(str(position))))
        return [contest for contest in contests if contest.round in ROUNDS]


def read(trace: Mapping[str, Any]) -> Iterator[Contest]:
    """The contests of one sample in which both pairs were measured by what their phase compares."""
    versions = {version["id"]: version for version in trace["versions"]}
    for decision in trace["decisions"]:
        sides = [versions.get(decision["incumbent"]), versions.get(decision["challenger"])]
        measured = [
            score | {"length": len(side["response"])}
            for side in sides
            if side is not None
            for score in side["scores"]
            if score["student"] == decision["student"] and score[MEASURE[decision["phase"]]] is not None
        ]
        if len(measured) == 2:
            pairs = [Pair(side["instruction"], side["input"], side["response"]) for side in sides if side]
            incumbent, candidate = measured
            yield Contest(decision["round"], decision["phase"], incumbent, candidate, *map(is_right, pairs))


def rows(contests: Sequence[Contest], phase: Phase) -> Iterator[str]:
    """One row a rule."""
    for name, takes in RULES[phase].items():
        cells = [phase, name]
        for round in sorted({contest.round for contest in contests}):
            here = [contest for contest in contests if (contest.round, contest.phase) == (round, phase)]
            equal = [item for item in here if item.incumbent["length"] == item.candidate["length"]]
            cells += [judge(here, takes), judge(equal, takes)]
        yield " | ".join(cells)


def judge(contests: Sequence[Contest], takes: TakesCandidate) -> str:
    """What a rule makes of contests: pairs right afterwards, mended, damaged."""
    taken = [takes(contest.incumbent, contest.candidate) for contest in contests]
    decided = list(zip(contests, taken, strict=True))
    right = sum(c.candidate_right if take else c.incumbent_right for c, take in decided)
    mended = sum(take and c.candidate_right and not c.incumbent_right for c, take in decided)
    damaged = sum(take and c.incumbent_right and not c.candidate_right for c, take in decided)
    share = f"{right / len(contests):.1%}" if contests else "-"
    return f"{share} (+{mended}, -{damaged})"


def main() -> None:
    parser = options(__doc__)
    arguments = parser.parse_args()
    folders = [folder for folder in RunFolder.all(RUNS) if folder.path.name.startswith(f"{ARM}-")]
    if not folders:
        parser.error("there are no runs yet; first `python -m tests.bench.arms`")
    contests = [contest for folder in folders for contest in play(folder)]
    counts = ", ".join(
        f"{sum((c.round, c.phase) == (round, phase) for c in contests):,} in round {round} phase {phase}"
        for round in ROUNDS
        for phase in PHASES
    )
    publish(
        "Rules",
        [
            f"The contests of the default policy over {len(folders)} seeds of {PAIRS} pairs: "
            f"{counts}. Round 1 is scored by the base student, round 2 by the first trained one. Each cell: "
            'pairs that are right afterwards (pairs mended, pairs damaged); "equal": contests in which both '
            "responses are equally long.",
            "",
            *table(
                "phase | rule | round 1 | round 1, equal | round 2 | round 2, equal",
                [row for phase in PHASES for row in rows(contests, phase)],
            ),
        ],
        arguments,
    )


if __name__ == "__main__":
    main()
