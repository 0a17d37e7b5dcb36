"""Real runs on the embedded models, killed at random moments and resumed until they are done.

    python -m tests.torture --kills 200 --seed 0

Every life of a run is the real command in a process of its own, forked from this one, which has imported
everything and computed nothing. It is killed by SIGKILL in a place drawn from the seed, at a random moment of
the time that an undisturbed run spends there. A run that has ended must be what an undisturbed one is: every
row of every table but for times, every export and adapter to the byte, the same files; and what its lives
asked the teacher for and did not commit is at most what was under way when they were killed.

The teacher is the embedded one behind a server on loopback, asked one prompt at a time, so that an answer
follows from its prompt and seed alone. For Linux. When a process comes to a place is the machine's affair: a
seed repeats the plan of the kills, not their instants.
"""

import argparse
import json
import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.worlds import ROOT

NAME = "tortured"
ROUNDS = 2
SAMPLES, HOLDOUT = 36, 8
CONCURRENCY = 4
KEY = "TORTURE_KEY"  # environment variable that tells the teacher who asks
# What runs take turns in: answers that are kept or not, several proposals, adapters that go on.
WORLDS: tuple[dict[str, dict[str, Any]], ...] = (
    {"teacher": {"cache": "off"}},
    {"teacher": {"cache": "on", "candidates": 2}, "refinetune": {"start_from": "previous"}},
    {"teacher": {"cache": "on", "freeze_after": 1}, "selection": {"policy": "r-ifd"}},
)
# Times, and what is computed of them; they differ between any two runs.
_TIMES = {
    "runs": {"created_at", "seal"},
    "rounds": {"started_at", "finished_at", "seal"},
    "teacher_calls": {"seconds", "seal"},
    "students": {"seal"},
    "_sqlite_migrations": {"applied_at"},
}
_SIGHT = 0.001  # seconds between two looks at a life
_LIFE_SECONDS = 300.0
_MOST_FAILURES = 10  # of runs, before the rest is given up


class TortureError(AssertionError):
    """A run is not what an undisturbed one is."""


@dataclass(frozen=True)
class Place:
    """Where a life can be killed, and the sign that it has come there."""

    node: str
    phase: str
    round: int
    has_come: "Callable[[Life], bool]"
    seconds: float | None = None  # that it lasts; None until an undisturbed run has shown it


@dataclass
class Life:
    """One process that works on a run."""

    pid: int
    err: int  # read end of its stderr
    folder: Path  # that holds the runs
    checkpoints: int  # that were there when it began
    text: str = ""
    code: int | None = None  # negative: the signal that ended it
    began: float = field(default_factory=time.monotonic)

    @property
    def run(self) -> Path:
        return self.folder / NAME

    def look(self) -> None:
        """Take in what it has said, and whether it has ended."""
        while select.select([self.err], [], [], 0)[0] and (data := os.read(self.err, 65536)):
            self.text += data.decode(errors="replace")
        if self.code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if ended else None

    def kill(self) -> None:
        """End it by SIGKILL, unless it has ended."""
        self.look()
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self.look()

    def where(self) -> tuple[str, str, int]:
        """Node, phase and round of the last stage it has shown, the refinetune by what lies in the folder."""
        stages = [line.partition(":")[0] for line in self.text.splitlines() if line.startswith("round ")]
        if not stages:
            return ("opening" if (self.run / "lineage.db").exists() else "creating"), "", 0
        title, node, phase = stages[-1].split(" · ")
        round = int(title.removeprefix("round "))
        if node == "evaluate":
            return node, "", round
        if node != "refinetune":
            return node, phase, round
        partial = self.run / f"adapters/.round-{round:02d}.partial"
        if (self.run / f"adapters/round-{round:02d}").exists():
            phase = "adapter in its place"
        elif (partial / "adapter").exists():
            phase = "writing the adapter"
        else:
            phase = "after a checkpoint" if _checkpoints(partial) else "before a checkpoint"
        return node, phase, round


def stage(node: str, phase: str, round: int) -> Place:
    title = f"round {round} · {node} · {phase}"
    return Place(node, phase, round, lambda life: title in life.text)


def training(what: str, round: int, seconds: float) -> Place:
    def has_come(life: Life) -> bool:
        partial = life.run / f"adapters/.round-{round:02d}.partial"
        if what == "checkpoint":
            return _checkpoints(partial) > life.checkpoints
        return (partial / "adapter").exists() or (life.run / f"adapters/round-{round:02d}").exists()

    return Place("refinetune", what, round, has_come, seconds)


def _checkpoints(partial: Path) -> int:
    """The newest checkpoint's step; 0 without any."""
    return max((int(path.name.rpartition("-")[2]) for path in partial.glob("checkpoint-*")), default=0)


def _newest_checkpoint(folder: Path) -> int:
    return max((_checkpoints(path) for path in folder.glob(f"{NAME}/adapters/.*.partial")), default=0)


PLACES: tuple[Place, ...] = (
    Place("creating", "", 0, lambda life: any(life.folder.glob(".*.partial"))),
    Place("opening", "", 0, lambda life: (life.run / "lineage.db").exists()),
    stage("evaluate", "", 0),
    *(
        place
        for round in range(1, ROUNDS + 1)
        for place in (
            stage("reflect", "instruction", round),
            stage("select", "instruction", round),
            stage("reflect", "response", round),
            stage("select", "response", round),
            stage("refinetune", "", round),
            training("checkpoint", round, 0.03),
            training("adapter", round, 0.03),
            stage("evaluate", "", round),
        )
    ),
)


# The teacher


@contextmanager
def open_teacher() -> Iterator["Teacher"]:
    """The embedded teacher behind a server, in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.torture", "--serve"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Teacher(process)
        finally:
            process.kill()


class Teacher:
    """A server, and how often who has asked it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.url = self._read()

    def asked(self) -> Counter[str]:
        """Requests so far, by the key they came with."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Counter(json.loads(self._read()))

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the teacher's process has ended"
        return line


def serve() -> None:
    """Serve until nobody can ask any more; for every line on stdin, say who has asked how often."""
    import threading

    import torch

    from reflectune.agents.teacher.engines import ENGINES, Request, TeacherModel
    from reflectune.loop.demo.demo import demo_config
    from reflectune.state.config import StudentConfig
    from reflectune.state.records import Pair, Reflection
    from tests.teacher_server import Reply, serve_teacher

    torch.set_num_threads(1)
    config = demo_config("x", Path("x"), rounds=1, policy="ifd", seed=0).teacher
    assert config.model is not None
    model = TeacherModel("teacher", StudentConfig(model=config.model, dtype="float32", threads=1))
    engine = ENGINES["transformers"].open(config, model)
    nothing = Reflection("", "", Pair("", "", ""), 1, "response", 0)  # this engine reads messages only
    answers: dict[str, str] = {}
    lock = threading.Lock()

    def reply(request: dict[str, Any], number: int) -> Reply:
        messages, seed = request["messages"], request.get("seed", 0)
        key = json.dumps([messages, seed])
        with lock:
            if key not in answers:
                engine.submit(Request(str(number), nothing, tuple(messages), None, seed))
                answers[key] = engine.next_answer().text
        return Reply(answers[key], delay=0.03)  # so that a kill finds some under way

    with serve_teacher(reply) as server:
        print(server.url, flush=True)
        for _ in sys.stdin:
            with server.lock:
                keys = [str(key).rpartition(" ")[2] for key in server.keys]
            print(json.dumps(Counter(keys)), flush=True)


# Runs


class Torture:
    """Undisturbed runs of every world, to hold the tortured ones against."""

    def __init__(self, folder: Path, teacher: Teacher) -> None:
        self.folder, self.teacher = folder, teacher
        self.kills: Counter[tuple[str, str, int]] = Counter()
        self.aimed: Counter[int] = Counter()
        self.uncommitted = self.runs = self.lives = 0
        self._calm: dict[int, tuple[Path, dict[Place, float]]] = {}

    def torture(self, seed: int, most_kills: int) -> None:
        """Kill and resume one run until it is done, with at most so many kills.

        Raises:
            TortureError: it is not what an undisturbed run is.
        """
        rng = random.Random(seed)
        world = seed % len(WORLDS)
        calm, seconds = self._undisturbed(world)
        folder = self.folder / f"seed-{seed}"
        config = self._write_config(folder, world)
        first = kills = 0
        left = most_kills
        while True:
            target = self._choose_place(rng, first) if left else len(PLACES)
            delay = rng.uniform(0, seconds[PLACES[target]]) if target < len(PLACES) else 0.0
            key = f"seed-{seed}-life-{kills}"
            stored = _count_calls(folder / "runs")
            life = self._live(folder, config, target, delay, key)
            self.count_lost(key, _count_calls(folder / "runs") - stored, CONCURRENCY if life.code else 0)
            if life.code != -signal.SIGKILL:
                break
            self.kills[life.where()] += 1
            kills, left = kills + 1, left - 1
            first = max(first, max((n for n, place in enumerate(PLACES) if place.has_come(life)), default=0))
        if life.code != 0:
            raise TortureError(f"exit code {life.code}: {life.text[-2000:]}")
        self.compare(calm, folder)
        self.runs += 1
        shutil.rmtree(folder)

    def _choose_place(self, rng: random.Random, first: int) -> int:
        """One of the next places, those that were aimed at least the most likely; after the last: the end."""
        choices = range(first, min(first + 6, len(PLACES) + 1))
        target = rng.choices(choices, [1 / (1 + self.aimed[place]) ** 2 for place in choices])[0]
        self.aimed[target] += 1
        return target

    def _live(self, folder: Path, config: Path, target: int, delay: float, key: str) -> Life:
        """Run or resume, to the end or until a moment after a place was come to."""
        runs = folder / "runs"
        is_there = (runs / NAME / "lineage.db").exists()
        words = ("resume", NAME) if is_there else ("run", str(config))
        life = self._start(folder, *words, "--runs", str(runs), key=key)
        due: float | None = None
        while life.code is None:
            life.look()
            now = time.monotonic()
            if due is None and any(place.has_come(life) for place in PLACES[target:]):
                due = now + delay
            if due is not None and now >= due:
                life.kill()
            if now - life.began > _LIFE_SECONDS:
                life.kill()
                raise TortureError(f"a life hangs: {life.text[-2000:]}")
            time.sleep(_SIGHT)
        life.look()
        os.close(life.err)
        return life

    def _start(self, folder: Path, *arguments: str, key: str = "") -> Life:
        """Fork a process that is the command."""
        runs = folder / "runs"
        checkpoints = _newest_checkpoint(runs)
        err, err_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            _be_the_command(folder, err_end, arguments, key)
        os.close(err_end)
        self.lives += 1
        return Life(pid, err, runs, checkpoints)

    def _undisturbed(self, world: int) -> tuple[Path, dict[Place, float]]:
        """An undisturbed run's folder, and how long such a run is in every place.

        Timed is a second one, which gets the same answers from a teacher that knows them by now.
        """
        if world not in self._calm:
            calm, again = self.folder / f"calm-{world}", self.folder / f"again-{world}"
            self._time_places(calm, world)
            self._calm[world] = calm, self._time_places(again, world)
            self.compare(calm, again)
        return self._calm[world]

    def _time_places(self, folder: Path, world: int) -> dict[Place, float]:
        """Let a run go from beginning to end, and note how long it is in every place."""
        config = self._write_config(folder, world)
        life = self._start(folder, "run", str(config), "--runs", str(folder / "runs"), key=folder.name)
        came: dict[Place, float] = {}
        while life.code is None:
            life.look()
            for place in PLACES:
                if place not in came and place.has_come(life):
                    came[place] = time.monotonic()
            time.sleep(_SIGHT)
        life.look()
        os.close(life.err)
        if life.code != 0:
            raise TortureError(f"undisturbed: exit code {life.code}: {life.text[-2000:]}")
        self.count_lost(folder.name, _count_calls(folder / "runs"), 0)
        if missing := [f"{place.node} {place.phase} {place.round}" for place in PLACES if place not in came]:
            raise TortureError(f"the undisturbed run never came to {', '.join(missing)}")
        lasting = [(place, when) for place, when in came.items() if place.seconds is None]
        ends = [when for _, when in lasting[1:]] + [time.monotonic()]
        seconds = {place: place.seconds or 0.0 for place in PLACES}
        return seconds | {place: end - when for (place, when), end in zip(lasting, ends, strict=True)}

    def count_lost(self, key: str, stored: int, most: int) -> None:
        """Compare what a life asked with what it committed; so many calls may have been under way."""
        lost = self.teacher.asked()[key] - stored
        if not 0 <= lost <= most:
            raise TortureError(f"{key}: {lost} calls were asked and not committed; at most {most} may be")
        self.uncommitted += lost

    def _write_config(self, folder: Path, world: int) -> Path:
        from reflectune.loop.demo.demo import FOLDER
        from reflectune.loop.demo.noise import write_dataset

        data = self.folder / "data.json"
        if not data.exists():
            write_dataset(data, SAMPLES + HOLDOUT, 0)
        values: dict[str, Any] = {
            "name": NAME,
            "rounds": ROUNDS,
            "data": {"path": str(data), "holdout": HOLDOUT},
            "teacher": {
                "engine": "openai",
                "model": "teacher",
                "base_url": self.teacher.url,
                "api_key_env": KEY,
                "prompts": str(FOLDER / "prompts.toml"),
                "temperature": 1.0,
                "max_tokens": 80,
                "concurrency": CONCURRENCY,
                "retries": 0,
            },
            "student": {
                "model": str(FOLDER / "models" / "student"),
                "template": str(FOLDER / "template.toml"),
                "max_length": 128,
                "dtype": "float32",
                "threads": 1,
            },
            "selection": {"keep": "all"},
            "refinetune": {"lr": 3e-3, "tokens": 2500, "batch_tokens": 256, "dropout": 0.1},
            "evaluate": {"checker": "reflectune.loop.demo.world:check", "max_tokens": 12},
        }
        for name, section in WORLDS[world].items():
            values[name] = values[name] | section
        import tomli_w

        folder.mkdir()
        path = folder / "config.toml"
        path.write_text(tomli_w.dumps(values))
        return path

    # What must be equal

    def compare(self, calm: Path, tortured: Path) -> None:
        expected, found = read_tables(calm / "runs" / NAME), read_tables(tortured / "runs" / NAME)
        if differing := [table for table in expected | found if expected.get(table) != found.get(table)]:
            told = [
                f"{table}: only undisturbed {_only(expected, found, table)}, "
                f"only tortured {_only(found, expected, table)}"
                for table in differing
            ]
            raise TortureError("tables differ; " + "; ".join(told))
        listed = [_list_files(folder / "runs") for folder in (calm, tortured)]
        if listed[0] != listed[1]:
            raise TortureError(f"files: undisturbed {listed[0]}, tortured {listed[1]}")
        for path in listed[0]:
            is_adapter = path.suffix == ".safetensors"
            one, other = ((folder / "runs" / path) for folder in (calm, tortured))
            if is_adapter and one.read_bytes() != other.read_bytes():
                raise TortureError(f"{path} differs from the undisturbed run's")
        for what in ("pool", "training", "preferences"):
            for round in range(1, ROUNDS + 1):
                one, other = (self._export(folder, what, round) for folder in (calm, tortured))
                if one != other or len(one) < 3:
                    raise TortureError(
                        f"the export of {what}, round {round}, differs from the undisturbed run's"
                    )

    def _export(self, folder: Path, what: str, round: int) -> bytes:
        out = folder / f"{what}-{round}.json"
        if not out.exists():
            arguments = (
                "--round",
                str(round),
                "--what",
                what,
                "-o",
                str(out),
                "--runs",
                str(folder / "runs"),
            )
            life = self._start(folder, "export", NAME, *arguments)
            code = os.waitstatus_to_exitcode(os.waitpid(life.pid, 0)[1])
            os.close(life.err)
            if code != 0:
                raise TortureError(f"export of {what}: exit code {code}")
        return out.read_bytes()


def _be_the_command(folder: Path, err: int, arguments: tuple[str, ...], key: str) -> None:
    """Become `reflectune` with these arguments, and end with it."""
    code: Any = 1
    try:
        os.dup2(err, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.chdir(folder)
        os.environ[KEY] = key
        sys.argv = ["reflectune", *arguments]
        from reflectune.loop.cli import main

        main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _import_everything() -> None:
    """All that a life will import, so that it need not; nothing is computed, or a fork of this would hang."""
    import peft  # noqa: F401
    import transformers.models.llama.modeling_llama
    import transformers.trainer  # noqa: F401

    import reflectune.agents.teacher.engines.openai_server
    import reflectune.loop.cli
    import reflectune.loop.demo.world
    import reflectune.loop.run  # noqa: F401


def read_tables(run: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table of a run's lineage, times left out, in an order of their own."""
    tables: dict[str, list[tuple[object, ...]]] = {}
    with sqlite3.connect(run / "lineage.db") as connection:
        connection.row_factory = sqlite3.Row
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in names:
            rows = connection.execute(f"SELECT * FROM [{table}]")
            tables[table] = sorted((_timeless(table, dict(row)) for row in rows), key=repr)
    connection.close()
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
    with sqlite3.connect(database) as connection:
        count = connection.execute("SELECT COUNT(*) FROM teacher_calls WHERE NOT cached").fetchone()[0]
    connection.close()
    return int(count)


def _list_files(runs: Path) -> list[Path]:
    """Everything below the runs folder, but for SQLite's files beside a database."""
    paths = (path.relative_to(runs) for path in runs.rglob("*"))
    return sorted(path for path in paths if not path.name.endswith(("-wal", "-shm")))


def _only(one: Mapping[str, Sequence[object]], other: Mapping[str, Sequence[object]], table: str) -> str:
    """The first rows of a table that another lacks, cut to what can be read."""
    rows = [row for row in one.get(table, ()) if row not in other.get(table, ())]
    return f"{len(rows)} rows {str(rows[:1])[:400]}"


def report(torture: Torture, seconds: float) -> str:
    """The kills by node, phase and round, as a table."""
    rounds = range(ROUNDS + 1)
    lines = [
        "node        phase                  " + "".join(f"{f'round {n}':>9}" for n in rounds) + "    all"
    ]
    for node, phase in dict.fromkeys((node, phase) for node, phase, _ in sorted(torture.kills)):
        kills = [torture.kills[node, phase, n] for n in rounds]
        lines.append(f"{node:<12}{phase:<23}" + "".join(f"{n:>9}" for n in kills) + f"{sum(kills):>7}")
    return "\n".join(
        [
            *lines,
            f"{torture.kills.total()} kills; {torture.runs} runs ended as undisturbed ones; "
            f"{torture.lives} processes",
            f"{torture.uncommitted} teacher calls were under way when a process was killed, and asked again; "
            f"{seconds:.0f} s",
        ]
    )


def main() -> int:
    """Torture runs until there were so many kills; 1 where any run was not what it must be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the first run; each has the next one")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return 0
    began = time.monotonic()
    failures: list[str] = []
    _import_everything()
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    with open_teacher() as teacher:
        torture = Torture(folder, teacher)
        seed = options.seed
        while torture.kills.total() < options.kills and len(failures) < _MOST_FAILURES:
            left = options.kills - torture.kills.total()
            try:
                torture.torture(seed, left)
            except TortureError as error:
                failures.append(f"--seed {seed} --kills {left}: {error}; see {folder / f'seed-{seed}'}")
                print(failures[-1], file=sys.stderr, flush=True)
            print(f"seed {seed}: {torture.kills.total()} kills so far", file=sys.stderr, flush=True)
            seed += 1
    print(report(torture, time.monotonic() - began))
    if failures:
        print(f"\n{len(failures)} runs failed:\n" + "\n".join(failures))
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    # Threads of a library would not live on in a fork.
    if os.environ.get("OMP_NUM_THREADS") != "1":
        os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        os.execv(sys.executable, [sys.executable, "-m", "tests.torture", *sys.argv[1:]])
    sys.exit(main())
