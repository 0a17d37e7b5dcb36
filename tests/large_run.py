"""A made-up run of any size, written straight into a lineage, to measure what browsing a large run takes.

Its rows are those that a loop would have left, joins and all: versions, teacher calls with their texts,
scores under each round's student, decisions with every reason but `policy`, training sets. The words mean
nothing but come as often as words do (Zipf's law), and nothing was computed by a model. Ids are no content
hashes and rows have no seals, so `verify` has faults to find.

    python -m tests.large_run FOLDER --samples 153000 --rounds 3
"""

import json
import math
import random
import sqlite3
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from reflectune.state.config import RunConfig, parse_config
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import PHASES, TERMS, Phase, Term

__all__ = ["make_large_run", "vocabulary"]

_WORDS = 50_000  # in the vocabulary
_ROWS_AT_ONCE = 50_000
_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
_POLICY = "ifd+r-ifd"
_PATIENCE = 2  # rounds of refused proposals after which a sample is left alone
_FROZEN_SCORER = 1_000  # samples of the pool that s0 scores in every round
# What becomes of a question to the teacher, asked twice at most: the statuses of its calls, and how often.
_COURSES: tuple[tuple[tuple[str, ...], float], ...] = (
    (("ok",), 0.940),
    (("unparsable", "ok"), 0.025),
    (("error", "ok"), 0.005),
    (("unchanged", "unchanged"), 0.015),
    (("declined", "declined"), 0.005),
    (("cut", "cut"), 0.004),
    (("repetition", "placeholder"), 0.003),
    (("error", "error"), 0.002),
    (("refused",), 0.001),
)
_CRITERIA: dict[Phase, tuple[str, ...]] = {
    "instruction": ("Complexity", "Detail", "Knowledge", "Ambiguity", "Reasoning"),
    "response": ("Helpfulness", "Relevance", "Accuracy", "Detail"),
}

Row = Sequence[object]
Sums = tuple[float, float, float, float]  # of log-probabilities in nats, in the order of TERMS


@dataclass(slots=True)
class _Version:
    """One pair: its words, with a log IFD and log r-IFD that each student sees a little otherwise."""

    id: str
    instruction: list[str]
    input: list[str]
    response: list[str]
    ifd: float
    r_ifd: float
    scores: dict[str, Sums] = field(default_factory=dict)  # student -> sums, once one of them was wanted


@dataclass(slots=True)
class _Sample:
    id: str
    pool: _Version
    improved: bool = False  # whether its response was, in some round
    fruitless: int = 0  # rounds with nothing but refused proposals since the last accepted one
    accepted: bool = False  # in the round under way
    against: bool = False


def vocabulary(seed: int = 0) -> list[str]:
    """All words of the texts, the commonest first: that of rank n comes about 1/n as often as the first."""
    rng = random.Random(f"{seed}/words")
    onsets, vowels = (*"bcdfghjklmnprstvwz", "ch", "sh", "st", "tr"), (*"aeiouäöé", "ai", "ou")
    found: dict[str, None] = {}
    while len(found) < _WORDS:
        syllables = rng.choice((1, 2, 2, 3, 3, 4)) if len(found) > 200 else 1
        found[
            "".join(rng.choice(onsets) + rng.choice(vowels) for _ in range(syllables)) + rng.choice("nrslt")
        ] = None
    return list(found)


def make_large_run(
    folder: Path, samples: int = 153_000, rounds: int = 3, seed: int = 0, name: str = "large"
) -> RunFolder:
    """Write a finished run into the runs folder `folder`, of 1 + 2 * rounds versions a sample less 7 %.

    The same arguments give the same rows.
    """
    config = _config(name, samples, rounds, seed)
    with RunFolder.create(folder, name) as run:
        run.write_config(config.to_toml())
        with LineageWriter.create(run.lineage) as store:
            store.add_run(
                name=name,
                config=config.model_dump(mode="json"),
                config_hash=config.content_hash(),
                data_hash=f"{seed:032x}",
                versions={"reflectune": "0.1.0", "graph": "0" * 32},
                seed=seed,
            )
        connection = sqlite3.connect(run.lineage, isolation_level=None)
        try:
            _fill(connection, samples, config.data.holdout, rounds, seed)
        finally:
            connection.close()
    return RunFolder(folder / name)


def _config(name: str, samples: int, rounds: int, seed: int) -> RunConfig:
    return parse_config(
        {
            "name": name,
            "rounds": rounds,
            "seed": seed,
            "data": {"path": "/data/made-up.json", "holdout": max(samples // 100, 1)},
            "teacher": {
                "engine": "openai", "base_url": "http://localhost:8000/v1", "model": "made-up-teacher",
                "retries": 1, "freeze_after": _PATIENCE, "price_in": 0.5, "price_out": 1.5,
            },
            "student": {"model": "/models/made-up-student", "template": "plain"},
        },
        source="large run",
    )  # fmt: skip


def _fill(connection: sqlite3.Connection, samples: int, holdout: int | float, rounds: int, seed: int) -> None:
    # Nobody needs this file if the machine fails meanwhile.
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "foreign_keys = OFF", "cache_size = -1000000"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("BEGIN")
    _Writer(connection, seed).write(samples, int(holdout), rounds)
    connection.execute("UPDATE runs SET status = 'finished', created_at = ?", [_time(0)])
    connection.execute("COMMIT")
    connection.execute("PRAGMA journal_mode = WAL")


class _Writer:
    """Makes up a run round by round, as the loop would, and writes its rows many at a time."""

    def __init__(self, connection: sqlite3.Connection, seed: int) -> None:
        self.connection = connection
        self.rng = random.Random(seed)
        self.words = _words(vocabulary(seed), seed)
        self.waiting: dict[str, list[Row]] = {}
        self.courses = [course for course, _ in _COURSES]
        self.shares = [share for _, share in _COURSES]

    def write(self, samples: int, holdout: int, rounds: int) -> None:
        pool = list(self._given(samples, holdout))
        self._end_round(0, pool, trained=0)
        for round in range(1, rounds + 1):
            student = f"s{round - 1}"
            for sample in pool:
                sample.accepted = sample.against = False
            for phase in PHASES:
                proposals = [self._reflect(sample, round, phase) for sample in pool]
                for sample, proposal in zip(pool, proposals, strict=True):
                    self._select(sample, proposal, round, phase, student)
            for sample in pool:
                sample.fruitless = 0 if sample.accepted else sample.fruitless + sample.against
            trained = self._train(pool, round, student)
            self._end_round(round, pool, trained)
        self._flush()
        self.connection.execute("UPDATE rounds SET stop_reason = 'rounds' WHERE round = ?", [rounds])

    def _given(self, samples: int, holdout: int) -> Iterator[_Sample]:
        held_out = set(self.rng.sample(range(samples), holdout))
        for position in range(samples):
            sample_id = f"{self.rng.getrandbits(64):016x}"
            version = self._version(
                self._take(self.rng.gauss(15, 5)),
                self._take(self.rng.gauss(20, 8)) if self.rng.random() < 0.3 else [],
                self._take(self.rng.lognormvariate(math.log(48), 0.6)),
            )
            split = "holdout" if position in held_out else "train"
            self._add("samples", sample_id, position, f"{self.rng.getrandbits(128):032x}", split, "{}", None)
            self._add_version(version, sample_id, None, 0, "original", None)
            if split == "train":
                yield _Sample(sample_id, version)

    def _reflect(self, sample: _Sample, round: int, phase: Phase) -> _Version | None:
        """Write the calls of one question, and the proposal, if they brought one."""
        if sample.fruitless >= _PATIENCE:
            return None
        pool, proposal, call_id = sample.pool, None, ""
        for attempt, status in enumerate(self.rng.choices(self.courses, self.shares)[0], 1):
            call_id = f"{self.rng.getrandbits(128):032x}"
            text, critique = "", None
            if status == "ok":
                proposal = self._propose(pool, phase)
                critique = self._criticise(phase)
                text = _answer(critique, proposal, phase)
            elif status == "unchanged":
                text = _answer(self._criticise(phase), pool, phase)
            elif status == "declined":
                text = "I'm sorry, but I can't help with that."
            elif status not in ("error", "refused"):
                text = _answer(self._criticise(phase), pool, phase)[: -self.rng.randrange(2, 80)]
            counts = (len(text) // 5 + 400, len(text) // 4) if text else (None, None)
            cost = None if counts[1] is None else (counts[0] * 0.5 + counts[1] * 1.5) / 1e6
            self._add(
                "teacher_calls", call_id, round, phase, sample.id, 0, attempt, "openai", "made-up-teacher",
                f"{self.rng.getrandbits(128):032x}", text,
                None if not text else "length" if status == "cut" else "stop", status,
                {"error": "the server said 503: overloaded", "refused": "the prompt is too long"}.get(status),
                critique, *counts, cost, self.rng.lognormvariate(0.5, 0.4), 0, None,
            )  # fmt: skip
        if proposal is not None:
            self._add_version(proposal, sample.id, pool.id, round, phase, call_id)
        return proposal

    def _select(
        self, sample: _Sample, proposal: _Version | None, round: int, phase: Phase, student: str
    ) -> None:
        """Write a decision and the scores that it and, after phase response, the training filter needed."""
        before = sample.pool
        winner, challenger, reason = before, None, "no-candidate"
        values: tuple[float | None, float | None] = (None, None)
        terms = TERMS[:2] if phase == "instruction" else TERMS[2:]
        sign = 1 if phase == "instruction" else -1
        if sample.fruitless >= _PATIENCE:
            reason = "frozen"
        elif proposal is not None and self.rng.random() < 0.003:
            reason = "unscorable"
            values = (self._value(before, student, phase), None)
            self._score(before, student, terms)
            for term in terms:
                self._add("scores", proposal.id, student, term, None, None, "truncated-away", 0, None)
        elif proposal is not None:
            if self.rng.random() < 0.002:  # scores as before: a tie, where the number of tokens is too
                self._sums(before, student)
                proposal.scores = dict(before.scores)
            challenger = proposal
            self._score(before, student, terms)
            self._score(proposal, student, terms)
            values = (self._value(before, student, phase), self._value(proposal, student, phase))
            gain = sign * (values[1] - values[0])
            reason = "accepted" if gain > 0 else "tie" if gain == 0 else "refused"
        if reason == "accepted":
            assert proposal is not None
            winner = sample.pool = proposal
            sample.accepted = True
            sample.improved |= phase == "response"
        sample.against |= reason in ("refused", "tie", "unscorable")
        if phase == "response":
            self._score(winner, student, TERMS)
        compared = reason not in ("no-candidate", "frozen")
        self._add(
            "decisions", round, phase, sample.id, student if compared else None, _POLICY, before.id,
            winner.id, challenger and challenger.id, reason,
            values[0], values[1] if reason == "accepted" else values[0], values[1], 0.0,
        )  # fmt: skip

    def _train(self, pool: list[_Sample], round: int, student: str) -> int:
        """Write T[r], hardest first; how many pairs it has."""
        hardness = {}
        for sample in pool:
            ifd, r_ifd = (self._value(sample.pool, student, phase) for phase in PHASES)
            if sample.improved and ifd < 1 and r_ifd < 1:
                hardness[sample.pool.id] = ifd
        for rank, version_id in enumerate(
            sorted(hardness, key=lambda version: (-hardness[version], version))
        ):
            self._add("training_sets", round, version_id, rank)
        return len(hardness)

    def _end_round(self, round: int, pool: list[_Sample], trained: int) -> None:
        for sample in pool[:_FROZEN_SCORER]:
            self._score(sample.pool, "s0", TERMS)
        metrics = {
            "train_loss": 1.9 - 0.1 * round,
            "steps": trained // 16,
            "pairs": trained,
            "seconds": 600.5,
        }
        self._add(
            "students", f"s{round}", round, "/models/made-up-student", None,
            f"adapters/round-{round:02d}" if round else None, f"{round:032x}" if round else None,
            "s0" if round else None, json.dumps(metrics if round else {}), None,
        )  # fmt: skip
        seconds = {"reflect": 5400.25, "select": 3100.5, "refinetune": 610.125} if round else {}
        self._add(
            "rounds", round, f"s{round}", _time(round), _time(round + 1), "finished", None,
            json.dumps({"seconds": seconds | {"evaluate": 60.0625}}),
        )  # fmt: skip
        for name, value, spread in (
            ("accuracy", 0.40 + 0.05 * round, 0.025),
            ("nll", 1.90 - 0.04 * round, 0.031),
            ("response_tokens", 71.5 + 4 * round, 1.75),
        ):
            self._add(
                "evaluations", round, f"s{round}", name, value, 1500, value - spread, value + spread, None
            )

    # Texts

    def _take(self, number: float) -> list[str]:
        return [next(self.words) for _ in range(min(max(int(number), 3), 400))]

    def _propose(self, pool: _Version, phase: Phase) -> _Version:
        """A proposal keeps most of what it rewrites."""
        if phase == "instruction":
            return self._version(self._rewrite(pool.instruction), [], self._rewrite(pool.response), pool)
        return self._version(pool.instruction, pool.input, self._rewrite(pool.response), pool)

    def _rewrite(self, words: list[str]) -> list[str]:
        """Two stretches are replaced, by a few words more than they had."""
        start, end = sorted(self.rng.sample(range(len(words) + 1), 2))
        middle, last = (start + end) // 2, (end + len(words)) // 2
        added = self.rng.randrange(1 + min(len(words), 120) // 8)
        first, second = self._take(middle - start + added), self._take(last - end)
        return [*words[:start], *first, *words[middle:end], *second, *words[last:]]

    def _criticise(self, phase: Phase) -> str:
        return " ".join(f"{criterion}: {_prose(self._take(6))}" for criterion in _CRITERIA[phase])

    # Versions and their scores

    def _version(
        self, instruction: list[str], input: list[str], response: list[str], parent: _Version | None = None
    ) -> _Version:
        ifd, r_ifd = self.rng.gauss(-0.6, 0.35), self.rng.gauss(-0.5, 0.3)
        if parent is not None:
            ifd, r_ifd = (parent.ifd + ifd) / 2, (parent.r_ifd + r_ifd) / 2
        return _Version(f"{self.rng.getrandbits(128):032x}", instruction, input, response, ifd, r_ifd)

    def _sums(self, version: _Version, student: str) -> Sums:
        if student not in version.scores:
            x, y = _tokens(version)
            skill = 0.05 * int(student[1:])  # later students know more of what they were trained on
            alone_y, alone_x = self.rng.gauss(3.0, 0.4), self.rng.gauss(3.4, 0.4)
            given_y = max(alone_y + version.ifd - skill + self.rng.gauss(0, 0.05), 0.01)
            given_x = max(alone_x + version.r_ifd - skill + self.rng.gauss(0, 0.05), 0.01)
            version.scores[student] = (-given_y * y, -alone_y * y, -given_x * x, -alone_x * x)
        return version.scores[student]

    def _value(self, version: _Version, student: str, phase: Phase) -> float:
        """IFD in phase instruction, r-IFD in phase response."""
        x, y = _tokens(version)
        given_y, alone_y, given_x, alone_x = self._sums(version, student)
        difference = (alone_y - given_y) / y if phase == "instruction" else (alone_x - given_x) / x
        return math.exp(difference)

    def _score(self, version: _Version, student: str, terms: Sequence[Term]) -> None:
        """Write some scores; those that are there already stay."""
        x, y = _tokens(version)
        sums = dict(zip(TERMS, self._sums(version, student), strict=True))
        for term in terms:
            self._add(
                "scores", version.id, student, term, sums[term], y if term in TERMS[:2] else x, "ok", 0, None
            )

    # Rows

    def _add_version(
        self, version: _Version, sample_id: str, parent: str | None, round: int, phase: str, call: str | None
    ) -> None:
        texts = (_prose(version.instruction), _prose(version.input), _prose(version.response))
        self._add("versions", version.id, sample_id, parent, round, phase, 0, *texts, call)

    def _add(self, table: str, *row: object) -> None:
        rows = self.waiting.setdefault(table, [])
        rows.append(row)
        if len(rows) == _ROWS_AT_ONCE:
            self._insert(table)

    def _insert(self, table: str) -> None:
        rows = self.waiting.pop(table, [])
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            self.connection.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", rows)

    def _flush(self) -> None:
        for table in list(self.waiting):
            self._insert(table)


def _words(known: list[str], seed: int) -> Iterator[str]:
    """Words without end, each as often as its rank says."""
    rng = np.random.default_rng(seed)
    shares = np.cumsum(1 / np.arange(1, len(known) + 1))
    shares /= shares[-1]
    array = np.array(known, dtype=object)
    while True:
        yield from array[np.searchsorted(shares, rng.random(1_000_000))]


def _prose(words: list[str]) -> str:
    """Sentences of a dozen words."""
    sentences = (" ".join(words[start : start + 12]) for start in range(0, len(words), 12))
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)


def _answer(critique: str, version: _Version, phase: Phase) -> str:
    texts = {"critique": critique}
    if phase == "instruction":
        texts["instruction"] = _prose(version.instruction)
    return json.dumps(texts | {"response": _prose(version.response)}, ensure_ascii=False)


def _tokens(version: _Version) -> tuple[int, int]:
    """Of instruction with input, and of response."""
    return (len(version.instruction) + len(version.input)) * 3 // 2, len(version.response) * 3 // 2


def _time(round: int) -> str:
    return (_BEGAN + timedelta(hours=3 * round)).isoformat(timespec="seconds")


def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="runs folder to make the run in")
    parser.add_argument("--samples", type=int, default=153_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="large")
    arguments = parser.parse_args()
    began = time.perf_counter()
    run = make_large_run(
        arguments.folder, arguments.samples, arguments.rounds, arguments.seed, arguments.name
    )
    print(f"{run.path}: {time.perf_counter() - began:.0f} s, {run.lineage.stat().st_size / 2**20:,.0f} MiB")
    with sqlite3.connect(run.lineage) as connection:
        for table in ("samples", "versions", "teacher_calls", "scores", "decisions", "training_sets"):
            print(f"{connection.execute(f'SELECT COUNT(*) FROM {table}').fetchone()[0]:>10,} {table}")
        reasons = Counter(dict(connection.execute("SELECT reason, COUNT(*) FROM decisions GROUP BY 1")))
    print(", ".join(f"{number:,} {reason}" for reason, number in reasons.most_common()))


if __name__ == "__main__":
    main()
