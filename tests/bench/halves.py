"""What training on a pair does to choices about it, by lot: by the halves of a run with selection.cross_fit.

Whatever a pair of the training set gains under the student that was trained on its half, beside the one that
was trained on the other, is of having been seen. Gain, gain on the proposal and acceptance are those of
`reflectune.loop.bias`, here as means over pairs, each beside itself.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from reflectune.agents.student.student import Student
from reflectune.loop.bias import find_gain
from reflectune.loop.context import SAMPLES_AT_ONCE
from reflectune.loop.resuming import restore_config
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.lineage.replays import training_ids
from reflectune.state.policies import POLICIES
from reflectune.state.records import HALVES, PHASES, TERMS, Contest, Scores, half_of
from tests.bench.results import options, publish, table


def main() -> None:
    """Score the contests about what was trained on by both students, and tell the differences."""
    parser = options(__doc__)
    parser.add_argument("run", type=Path, help="folder of a run with selection.cross_fit")
    parser.add_argument("--round", type=int, default=2, help="whose contests (default 2)")
    arguments = parser.parse_args()
    folder, round = RunFolder(arguments.run), arguments.round
    config = restore_config(folder)
    with LoopReader.open(folder.lineage) as lineage:
        trained = {*training_ids(lineage, round - 1)}
        contests = {
            phase: [
                contest
                for group in lineage.contests(round, phase, SAMPLES_AT_ONCE, decided=True)
                for contest in group
                if contest.candidate_ids and contest.incumbent_id in trained
            ]
            for phase in PHASES
        }
    by_half = []
    for half in HALVES:
        with Student.open(config.student, folder.adapter(round - 1, half)) as student:
            by_half.append(_score(student, [it for drawn in contests.values() for it in drawn]))

    def rows() -> Iterator[str]:
        for phase, drawn in contests.items():
            for policy in (name for name, rule in POLICIES.items() if rule.measure(phase) is not None):
                gains = []
                for contest in drawn:
                    half = half_of(contest.sample_id)
                    sides = by_half[1 - half], by_half[half]
                    gains.append(find_gain(contest, policy, *sides, config, phase))
                means = (_tell([gain[place] for gain in gains]) for place in range(3))
                yield " | ".join((phase, policy, f"{len(drawn)}", *means))

    head = "phase | policy | contests | gain (95 %) | gain on the proposal | proposals accepted"
    body = [
        f"Contests of round {round} about the {len(trained)} pairs of the training set before, under the "
        "half's student that was trained on the pair, minus under the other.",
        "",
        *table(head, rows()),
    ]
    publish("Seen and unseen pairs", body, arguments)


def _score(student: Student, contests: Sequence[Contest]) -> Scores:
    versions = {id: pair for contest in contests for id, pair in contest.pairs.items()}
    found = iter(student.score([(pair, term) for pair in versions.values() for term in TERMS]))
    return {id: {term: next(found) for term in TERMS} for id in versions}


def _tell(values: Sequence[float | None]) -> str:
    """A mean with its 95 % interval."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return "-"
    mean, half = statistics.fmean(known), 1.96 * math.sqrt(statistics.variance(known) / len(known))
    return f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"


if __name__ == "__main__":
    main()
