"""Real runs of tiny models, killed at random moments and resumed until they are done.

    python -m tests.torture --kills 200 --seed 0

Every life of a run is the real command in a process of its own, killed in a place drawn from the seed, at a
random moment of the time that an undisturbed run spends there. A run that has ended must be what an
undisturbed one is: every row but for times, every adapter to the byte, the same files; and what its lives
asked the teacher for and did not commit is at most what was under way when they were killed. A seed repeats
the plan of the kills, not their instants: when a process comes to a place is the machine's affair.
"""

import argparse
import itertools
import json
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflectune.state.records import PHASES
from tests.lives import Life, started
from tests.teacher_server import Reply, TeacherServer, improve, prompt_of, serve_teacher
from tests.worlds import write_world

NAME = "tiny"
ROUNDS = 2  # of the worlds
SAMPLES, HOLDOUT = 36, 8
CONCURRENCY = 4
_MOST_SECONDS = 900.0  # that a life may go on after its last strike: to the end of the run
KEY = "TORTURE_KEY"  # environment variable that tells the teacher who asks
# What runs take turns in: chats, answers that are kept or not, several proposals, adapters that go on, both
# phases at once.
WORLDS: tuple[dict[str, dict[str, Any]], ...] = (
    {"teacher": {"cache": "off"}, "data": {"turns": "each"}},
    {
        "teacher": {"cache": "on", "candidates": 2, "temperature": 1.0},
        "refinetune": {"start_from": "previous"},
    },
    {
        "teacher": {"cache": "on", "freeze_after": 1},
        "selection": {"policy": "r-ifd"},
        "scale": {"overlap": True},
    },
)
# Times, and what is computed of them; they differ between any two runs.
_TIMES = {
    "runs": {"created_at", "seal"},
    "rounds": {"started_at", "finished_at", "seal"},
    "teacher_calls": {"seconds", "seal"},
    "students": {"seal"},
    "_sqlite_migrations": {"applied_at"},
}


Moment = tuple[int, Callable[[str, Path], bool]]  # the number of its place, and whether it has come


class TortureError(AssertionError):
    """A run is not what an undisturbed one is."""


@dataclass(frozen=True)
class Place:
    """Where a life can be killed, and the sign that it has come there."""

    name: str
    has_come: Callable[[str, Path], bool]  # by what it said and the runs' folder


def stage(node: str, phase: str, round: int) -> Place:
    title = f"round {round} · {node} · {phase}"
    return Place(title, lambda said, runs: title in said)


def training(round: int, pattern: str) -> Place:
    """What a training writes, as soon as it is there; or the adapter in its place."""
    title = f"round {round} · refinetune · "
    written = (f".round-{round:02d}.partial/{pattern}", f"round-{round:02d}")

    def has_come(said: str, runs: Path) -> bool:
        return title in said and any(any(runs.glob(f"{NAME}/adapters/{path}")) for path in written)

    return Place(title + pattern, has_come)


PLACES: tuple[Place, ...] = (
    Place("creating", lambda said, runs: any(runs.glob(".*.partial")) or (runs / NAME).exists()),
    Place("opening", lambda said, runs: (runs / NAME / "lineage.db").exists()),
    stage("evaluate", "", 0),
    *(
        place
        for round in range(1, ROUNDS + 1)
        for place in (
            *(stage(node, phase, round) for phase in PHASES for node in ("reflect", "select")),
            stage("refinetune", "", round),
            *(training(round, written) for written in ("checkpoint-*", "adapter")),
            stage("evaluate", "", round),
        )
    ),
)


def answer(request: dict[str, Any], number: int) -> Reply:
    """What the teacher says: one answer in five is of no use. Slow, so that a kill finds some under way."""
    is_useless = random.Random(prompt_of(request)).random() < 0.2
    return Reply("Let me think." if is_useless else improve(request, number).text, delay=0.03)


class Torture:
    """Undisturbed runs of every world, to hold the tortured ones against.

    Args:
        scale: keys of that section, for all worlds.
    """

    def __init__(self, folder: Path, teacher: TeacherServer, **scale: Any) -> None:
        self.folder, self.teacher, self.scale = folder, teacher, scale
        self.kills: Counter[str] = Counter()  # by the place that was aimed at
        self.uncommitted = self.runs = 0
        self._calm: dict[int, tuple[Path, list[float]]] = {}

    def torture(self, seed: int, plan: Sequence[int] | None = None) -> None:
        """Kill and resume one run until it is done, in places by their numbers, or drawn from the seed.

        Raises:
            TortureError: it is not what an undisturbed run is.
        """
        rng = random.Random(seed)
        world = seed % len(WORLDS)
        calm, seconds = self._undisturbed(world)
        folder = self.folder / f"seed-{seed}"
        if plan is None:
            plan = sorted(rng.choices(range(len(PLACES)), k=rng.randint(1, len(PLACES))))
        moments = ((target, _moment_after(target, rng.uniform(0, seconds[target]))) for target in plan)
        for number in itertools.count():
            if self._live(folder, world, f"seed-{seed}-life-{number}", moments) == 0:
                break
        self.compare(calm, folder)
        self.runs += 1
        shutil.rmtree(folder)

    def strike(self, life: Life) -> bool:
        """Do to a life what its moment brings; returns whether it ends by that."""
        life.send(signal.SIGKILL)
        return True

    def is_due(self, life: Life, code: int) -> bool:
        """Whether a life may end so."""
        return code in (0, -signal.SIGKILL)

    def _live(self, folder: Path, world: int, key: str, moments: Iterator[Moment]) -> int:
        """Run or resume until a moment that ends the life, or to the end; returns the exit code."""
        runs = folder / "runs"
        is_there = (runs / NAME / "lineage.db").exists()
        words = ("resume", NAME) if is_there else ("run", self.config(world))
        stored = _count_calls(runs)
        with started(*words, "--runs", runs, folder=folder, **{KEY: key}) as life:
            for target, is_time in moments:
                if not life.live_until(lambda life, is_time=is_time: is_time(life.text, runs)):
                    break
                self.kills[PLACES[target].name] += 1
                if self.strike(life):
                    break
            code = life.end(_MOST_SECONDS)
            if not self.is_due(life, code):
                raise TortureError(f"exit code {code}: {life.text[-2000:]}")
        self.count_lost(key, _count_calls(runs) - stored, CONCURRENCY if code else 0)
        return code

    def _undisturbed(self, world: int) -> tuple[Path, list[float]]:
        """An undisturbed run's folder, and how long it was in every place."""
        if world not in self._calm:
            folder = self.folder / f"calm-{world}"
            came: dict[int, float] = {}

            def note(said: str, runs: Path) -> bool:
                for number, place in enumerate(PLACES):
                    if number not in came and place.has_come(said, runs):
                        came[number] = time.monotonic()
                return False

            self._live(folder, world, folder.name, iter([(0, note)]))
            if missing := [place.name for number, place in enumerate(PLACES) if number not in came]:
                raise TortureError(f"the undisturbed run never came to {', '.join(missing)}")
            times = [*(came[number] for number in range(len(PLACES))), time.monotonic()]
            seconds = [max(after - before, 0.0) for before, after in itertools.pairwise(times)]
            self._calm[world] = folder, seconds
        return self._calm[world]

    def count_lost(self, key: str, stored: int, most: int) -> None:
        """Compare what a life asked with what it committed; so many calls may have been under way."""
        with self.teacher.lock:
            lost = self.teacher.keys.count(f"Bearer {key}") - stored
        if not 0 <= lost <= most:
            raise TortureError(f"{key}: {lost} calls were asked and not committed; at most {most} may be")
        self.uncommitted += lost

    def config(self, world: int) -> Path:
        """The config of a world, the same for all its runs."""
        folder = self.folder / f"world-{world}"
        if (path := folder / "config.toml").exists():
            return path
        teacher = {"engine": "openai", "path": None, "model": "teacher", "base_url": self.teacher.url}
        sections = {
            "data": {"holdout": HOLDOUT},
            "teacher": teacher | {"api_key_env": KEY, "concurrency": CONCURRENCY, "retries": 0},
            "refinetune": {"epochs": 3, "batch_tokens": 256, "dropout": 0.1},
            "scale": self.scale,
        }
        for name, section in WORLDS[world].items():
            sections[name] = sections.get(name, {}) | section
        exchanges = 2 if sections["data"].get("turns") == "each" else 1
        return write_world(folder, samples=SAMPLES + HOLDOUT, exchanges=exchanges, **sections)

    def compare(self, calm: Path, tortured: Path) -> None:
        """What must be equal, or TortureError is raised; exports follow from the tables."""
        expected, found = read_tables(calm / "runs" / NAME), read_tables(tortured / "runs" / NAME)
        for table in expected | found:
            here, there = expected.get(table, []), found.get(table, [])
            if here != there:
                lost = [row for row in here if row not in there]
                more = [row for row in there if row not in here]
                raise TortureError(
                    f"{table} differs: {len(lost)} rows only undisturbed, such as {str(lost[:1])[:400]}, "
                    f"{len(more)} only tortured, such as {str(more[:1])[:400]}"
                )
        listed = [_list_files(folder / "runs") for folder in (calm, tortured)]
        if listed[0] != listed[1]:
            raise TortureError(f"files: undisturbed {listed[0]}, tortured {listed[1]}")
        for path in listed[0]:
            one, other = (folder / "runs" / path for folder in (calm, tortured))
            if path.suffix == ".safetensors" and one.read_bytes() != other.read_bytes():
                raise TortureError(f"{path} differs from the undisturbed run's")


def _moment_after(target: int, delay: float) -> Callable[[str, Path], bool]:
    """Whether a life has come to a place, or to a later one, so many seconds ago."""
    came: list[float] = []

    def is_time(said: str, runs: Path) -> bool:
        if not came and any(place.has_come(said, runs) for place in PLACES[target:]):
            came.append(time.monotonic())
        return bool(came) and time.monotonic() >= came[0] + delay

    return is_time


def read_tables(run: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table of a run's lineage, times left out, in an order of their own."""
    tables: dict[str, list[tuple[object, ...]]] = {}
    with closing(sqlite3.connect(run / "lineage.db")) as connection:
        connection.row_factory = sqlite3.Row
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in names:
            rows = connection.execute(f"SELECT * FROM [{table}]")
            tables[table] = sorted((_timeless(table, dict(row)) for row in rows), key=repr)
    return tables


def _timeless(table: str, row: Mapping[str, Any]) -> tuple[object, ...]:
    kept = {name: value for name, value in row.items() if name not in _TIMES.get(table, ())}
    if "metrics" in kept:
        metrics = json.loads(kept["metrics"]) or {}
        kept["metrics"] = tuple(sorted((name, value) for name, value in metrics.items() if name != "seconds"))
    return tuple(kept.items())


def _count_calls(runs: Path) -> int:
    """Calls that a run's lineage has, and that were not answered from the cache."""
    database = runs / NAME / "lineage.db"
    if not database.exists():
        return 0
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM teacher_calls WHERE NOT cached").fetchone()[0])


def _list_files(runs: Path) -> list[Path]:
    """Everything below the runs folder, but for SQLite's files beside a database."""
    paths = (path.relative_to(runs) for path in runs.rglob("*"))
    return sorted(path for path in paths if not path.name.endswith(("-wal", "-shm")))


def torture_until(
    open_torture: Callable[[Path, TeacherServer, int], Torture], about: str, kills: int
) -> None:
    """Torture runs until there were so many kills, or one is not what it must be."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=kills)
    parser.add_argument("--seed", type=int, default=0, help="of the first run; each has the next one")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    with serve_teacher(answer) as teacher:
        torture = open_torture(folder, teacher, options.seed)
        for seed in itertools.count(options.seed):
            try:
                torture.torture(seed)
            except TortureError as error:
                sys.exit(f"--seed {seed}: {error}; see {folder / f'seed-{seed}'}")
            print(f"seed {seed}: {torture.kills.total()} kills so far", file=sys.stderr, flush=True)
            if torture.kills.total() >= options.kills:
                break
    for place in PLACES:
        print(f"{torture.kills[place.name]:>5}  {place.name}")
    print(
        f"{torture.kills.total()} kills; {torture.runs} runs ended as undisturbed ones; "
        f"{torture.uncommitted} teacher calls were under way when a process was killed, and asked again"
    )
    shutil.rmtree(folder)


if __name__ == "__main__":
    torture_until(lambda folder, teacher, seed: Torture(folder, teacher), __doc__, kills=200)
