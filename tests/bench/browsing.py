"""Pages of `reflectune serve` over a run with a million versions, and what commands take on it.

The server is the real one, in a process of its own, asked over HTTP. Once it has read the run, each kind of
page is asked for once, with nothing of the run in memory but what that reading left there, as far as the
system lets go of files; then 21 times, every time another page of its kind, and the first does not count.

    python -m tests.bench.browsing
"""

import os
import random
import statistics
import subprocess
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import psutil  # type: ignore[import-untyped]

from reflectune.state.folder import RunFolder
from reflectune.state.lineage.connection import open_database
from reflectune.state.lineage.index import SampleIndex
from tests.bench.results import publish, table
from tests.browser import fetch, has_read, serve
from tests.large_run import make_large_run, vocabulary
from tests.worlds import ROOT, child_environment, command

__all__ = ["Timing", "ask", "kinds_of_pages", "time_pages"]

_TIMES = 20
_BAR = 0.2  # seconds
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Timing:
    """What one kind of page took, in seconds."""

    kind: str
    example: str
    cold: float
    warm: Sequence[float]
    size: int  # characters of the largest answer

    @property
    def worst(self) -> float:
        """The longest of the warm ones."""
        return max(self.warm)


def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=int, default=153_000, help="of the run (default 153000)")
    parser.add_argument("--record", action="store_true", help="put the section into RESULTS.md")
    parser.add_argument("--rounds", type=int, default=3, help="of the run (default 3)")
    parser.add_argument("--folder", type=Path, help="runs folder that keeps the large runs, or has them")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runs = {
            name: _large_run(folder, name, seed, arguments) for seed, name in enumerate(("large", "other"))
        }
        counts = _count(runs["large"])
        indexing = _build_index(runs["other"])
        _remove_index(runs["large"])
        _forget(runs.values())
        with serve(folder, "large", wait=False) as address:
            reading, meanwhile = _time_while_it_reads(address, counts["samples"])
        _forget(runs.values())
        with serve(folder, "large", patience=600.0) as address:
            timings = time_pages(address, kinds_of_pages(counts["samples"], arguments.rounds))
        commands = _time_commands(folder)
        lineage_size, index_size = _size(runs["large"].lineage), _size(runs["large"].index)
    over = [timing for timing in timings if timing.worst > _BAR]
    rows = [
        [
            timing.kind,
            f"`{timing.example}`",
            f"{statistics.median(timing.warm) * 1000:.0f}",
            f"{timing.worst * 1000:.0f}",
            f"{timing.cold * 1000:.0f}",
            f"{timing.size / 1024:.0f}",
        ]
        for timing in timings
    ]
    verdict = "none" if not over else ", ".join(f"{item.kind} ({item.worst * 1000:.0f} ms)" for item in over)
    body = [
        f"A made-up run of {counts['samples']:,} samples in {arguments.rounds} rounds: "
        f"{counts['versions']:,} versions, {counts['teacher_calls']:,} teacher calls, "
        f"{counts['scores']:,} scores, {counts['decisions']:,} decisions; lineage.db has "
        f"{lineage_size}. It is compared with a second one of that size. Milliseconds until "
        "the last byte of a page's HTML, from a process beside the server, one request at a time: "
        f"{_TIMES} answers, each to another question of its kind where there are several.",
        "",
        *table(["page", "for instance", "median", "worst", "first", "KiB at most"], rows),
        f"Bar: every page's worst under {_BAR * 1000:.0f} ms. Over it: {verdict}.",
        "",
        f"Indexing the samples took {indexing:.0f} s by itself; the index has {index_size}. "
        f"A server without an index had read everything, charts and all, after {reading:.0f} s. The "
        f"{len(meanwhile)} journeys and overviews that were asked for meanwhile took "
        f"{statistics.median(meanwhile) * 1000:.0f} ms at the median, "
        f"{max(meanwhile) * 1000:.0f} ms at most.",
        "",
        *table(["command", "seconds", "most resident MiB"], commands),
    ]
    publish("Browsing", body, arguments)


def kinds_of_pages(samples: int, rounds: int, seed: int = 0) -> dict[str, list[str]]:
    """Paths to ask for, 21 of each kind; what can differ among them does."""
    rng = random.Random(f"{seed}/pages")  # not what the run itself was drawn from
    words = vocabulary()
    positions = rng.sample(range(samples), _TIMES + 1)

    def find(**values: object) -> str:
        return f"/samples?{urlencode(values)}"

    def each(ranks: range, **values: object) -> list[str]:
        return [find(q=word, **values) for word in rng.sample(words[ranks.start : ranks.stop], _TIMES + 1)]

    def drawn(**choices: Sequence[object]) -> list[str]:
        return [
            find(**{name: rng.choice(values) for name, values in choices.items()}) for _ in range(_TIMES + 1)
        ]

    some_round, phases = range(1, rounds + 1), ("instruction", "response")
    outcomes = ("accepted", "refused", "unchanged", "failed", "frozen")
    measures = ("ifd_change", "r_ifd_change", "length_growth")
    return {
        "overview": ["/"] * (_TIMES + 1),
        "all rounds": ["/rounds"] * (_TIMES + 1),
        "one round": [f"/rounds/{rng.randrange(rounds + 1)}" for _ in range(_TIMES + 1)],
        "samples": ["/samples"] * (_TIMES + 1),
        "samples, deep page": [find(page=rng.randrange(100, 200)) for _ in range(_TIMES + 1)],
        "samples, filtered": drawn(round=some_round, phase=phases, outcome=outcomes),
        "samples, filtered, deep page": drawn(
            round=some_round, outcome=("accepted", "refused"), page=range(100, 200)
        ),
        "samples, nothing found": [find(outcome="unasked", round=n % rounds + 1) for n in range(_TIMES + 1)],
        "samples, sorted": drawn(sort=measures, order=("up", "down")),
        "samples, filtered and sorted": drawn(
            round=some_round, phase=phases, outcome=outcomes, sort=measures, order=("up", "down")
        ),
        "samples, change between bounds": [
            find(min_ifd_change=low, max_ifd_change=round(low + 0.01, 3), round=rng.choice(some_round))
            for low in (rng.randrange(-300, 300) / 1000 for _ in range(_TIMES + 1))
        ],
        "search, rare word": each(range(40_000, 50_000)),
        "search, medium word": each(range(150, 400)),
        "search, very common word": each(range(_TIMES + 1)),
        "search, very common word, deep page": each(range(_TIMES + 1), page=150),
        "search, two common words": [
            find(q=f"{one} {two}") for one, two in zip(words[:21], words[21:42], strict=True)
        ],
        "search, medium word, filtered and sorted": each(
            range(150, 400), outcome="refused", sort="ifd_change", order="down"
        ),
        "search, very common word, filtered and sorted": each(
            range(_TIMES + 1), outcome="refused", sort="r_ifd_change"
        ),
        "search, no such word": [find(q=f"quux{number}") for number in range(_TIMES + 1)],
        "journey": [f"/samples/{position}" for position in positions],
        "journey, side by side": [f"/samples/{position}?view=side" for position in reversed(positions)],
        "runs": ["/runs"] * (_TIMES + 1),
        "two runs compared": ["/compare/other"] * (_TIMES + 1),
    }


def time_pages(address: str, kinds: dict[str, list[str]]) -> list[Timing]:
    """Ask for every page; all the cold ones first."""
    cold = {kind: ask(address, paths[0])[0] for kind, paths in kinds.items()}
    timings = []
    for kind, paths in kinds.items():
        answers = [ask(address, path) for path in paths]
        warm = [seconds for seconds, _ in answers[1:]]
        timings.append(Timing(kind, paths[-1], cold[kind], warm, max(size for _, size in answers)))
    return timings


def ask(address: str, path: str) -> tuple[float, int]:
    """Seconds and characters of one answer.

    Raises:
        RuntimeError: it is no page.
    """
    began = time.perf_counter()
    status, text = fetch(address, path, timeout=600)
    seconds = time.perf_counter() - began
    if status != 200:
        raise RuntimeError(f"{path}: {status}: {text[:500]}")
    return seconds, len(text)


def _large_run(folder: Path, name: str, seed: int, arguments: Namespace) -> RunFolder:
    if (folder / name).exists():
        return RunFolder(folder / name)
    return make_large_run(folder, arguments.samples, arguments.rounds, seed, name)


def _build_index(run: RunFolder) -> float:
    """Seconds; of a new index, whatever was there."""
    _remove_index(run)
    began = time.perf_counter()
    with SampleIndex.open(run) as index:
        index.update()
    return time.perf_counter() - began


def _remove_index(run: RunFolder) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{run.index}{suffix}").unlink(missing_ok=True)


def _time_while_it_reads(address: str, samples: int) -> tuple[float, list[float]]:
    """Seconds until a server has read its run for the first time, and of each page that it gave meanwhile."""
    rng, began, meanwhile = random.Random("meanwhile"), time.perf_counter(), []
    while not has_read(address):
        for path in (f"/samples/{rng.randrange(samples)}", "/"):
            meanwhile.append(ask(address, path)[0])
            time.sleep(0.2)
    return time.perf_counter() - began, meanwhile


def _count(run: RunFolder) -> dict[str, int]:
    database = open_database(run.lineage, read_only=True)
    tables = ("samples", "versions", "teacher_calls", "scores", "decisions")
    try:
        return {name: database.table(name).count for name in tables}
    finally:
        database.close()


def _forget(runs: Iterable[RunFolder]) -> None:
    """Ask the system to keep nothing of the runs' files in memory."""
    for run in runs:
        for path in filter(Path.exists, (run.lineage, run.index)):
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _time_commands(folder: Path) -> list[list[str]]:
    with tempfile.NamedTemporaryFile(suffix=".html") as report:
        asked = [
            ["samples", "large", "--limit", "20"],
            ["samples", "large", vocabulary()[200], "--outcome", "refused", "--sort", "ifd-change"],
            ["show", "large"],
            ["trace", "large", "1234"],
            ["diff", "large", "1", "2"],
            ["compare", "large", "other"],
            ["report", "large", "-o", report.name],
        ]
        return [[f"`reflectune {' '.join(words)}`", *_time_command(words, folder)] for words in asked]


def _time_command(words: Sequence[str], folder: Path) -> list[str]:
    began = time.perf_counter()
    process = subprocess.Popen(
        command(*words, "--runs", folder),
        cwd=ROOT,
        env=child_environment(),
        stdout=subprocess.DEVNULL,
    )
    most = 0
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            most = max(most, psutil.Process(process.pid).memory_info().rss)
        time.sleep(0.02)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit code {process.returncode}")
    return [f"{seconds:.1f}", f"{most / _MIB:,.0f}"]


def _size(path: Path) -> str:
    return f"{path.stat().st_size / _MIB:,.0f} MiB"


if __name__ == "__main__":
    main()
