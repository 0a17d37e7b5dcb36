"""What training on a pair does to choices about it, by lot: two students, each trained on one half of T[r].

    python -m tests.bench.halves runs/NAME [--round 1]

The halves are drawn by a hash of the pair. Training is as in the run, with half its tokens, so that a pair is
in as many epochs. What a pair gains under the student that saw it, beside the one that did not, is of having
seen it. Prints by phase and policy the means of what `reflectune signal` calls gain, gain on the proposal and
proposals accepted, with 95 % intervals.
"""

import argparse
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from reflectune.agents.student.refinetune import refinetune_student
from reflectune.agents.student.student import Student
from reflectune.loop.bias import find_gain
from reflectune.loop.context import SAMPLES_AT_ONCE
from reflectune.loop.resuming import restore_config
from reflectune.state.config import RunConfig
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.loop_reader import LoopReader
from reflectune.state.lineage.replays import training_ids
from reflectune.state.policies import POLICIES
from reflectune.state.records import PHASES, TERMS, Contest, Pair, Scores, content_part


def main() -> None:
    """Train both halves and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--round", type=int, default=1)
    options = parser.parse_args()
    folder, round = RunFolder(options.run), options.round
    config = restore_config(folder)
    with LoopReader.open(folder.lineage) as lineage:
        ids = training_ids(lineage, round)
        pairs = dict(zip(ids, lineage.training_pairs(round), strict=True))
        contests = {
            phase: [
                contest
                for group in lineage.contests(round + 1, phase, SAMPLES_AT_ONCE, decided=True)
                for contest in group
                if contest.candidate_ids and contest.incumbent_id in pairs
            ]
            for phase in PHASES
        }
    asked = [contest for drawn in contests.values() for contest in drawn]
    with tempfile.TemporaryDirectory() as place:
        scores = [
            score_by_half(
                config, [pairs[id] for id in ids if half(id) == side], round, Path(place, f"{side}"), asked
            )
            for side in (0, 1)
        ]
    print(f"{len(ids)} pairs in two halves")
    for phase, drawn in contests.items():
        for policy in (name for name, rule in POLICIES.items() if rule.measure(phase) is not None):
            gains = []
            for contest in drawn:
                seen = half(contest.incumbent_id)
                gains.append(find_gain(contest, policy, scores[1 - seen], scores[seen], config, phase))
            columns = (tell([gain[place] for gain in gains]) for place in range(3))
            print(f"{phase:12}{policy:12}{len(drawn):6} {' '.join(f'{column:32}' for column in columns)}")


def half(version: str) -> int:
    """Which half a version is in."""
    return int(content_part(version)[-1], 16) % 2


def score_by_half(
    config: RunConfig, pairs: Sequence[Pair], round: int, out: Path, contests: Sequence[Contest]
) -> Scores:
    """Train on some pairs, and score all of the contests."""
    tokens = config.refinetune.tokens
    refinetune = config.refinetune.model_copy(update={"tokens": tokens and tokens // 2})
    refinetune_student(
        config.model_copy(update={"refinetune": refinetune}), pairs, out, previous=None, round=round,
        on_step=lambda step, steps, loss: None,
    )  # fmt: skip
    versions = {id: pair for contest in contests for id, pair in contest.pairs.items()}
    targets = [(pair, term) for pair in versions.values() for term in TERMS]
    with Student.open(config.student, out) as student:
        found = iter(student.score(targets))
    return {id: {term: next(found) for term in TERMS} for id in versions}


def tell(values: Sequence[float | None]) -> str:
    """A mean with its interval."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return "-"
    mean, half = statistics.fmean(known), 1.96 * math.sqrt(statistics.variance(known) / len(known))
    return f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"


if __name__ == "__main__":
    main()
