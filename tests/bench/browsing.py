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
from argparse import Namespace
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlencode

from reflectune.state.folder import RunFolder
from reflectune.state.lineage.connection import open_database
from reflectune.state.lineage.index import SampleIndex
from tests.bench.memory import MIB, watch_memory
from tests.bench.results import options, publish, table
from tests.browser import fetch, has_read, serve, wait_for_comparison
from tests.large_run import make_large_run, vocabulary
from tests.worlds import ROOT, child_environment, command

__all__ = ["kinds_of_pages"]

_TIMES = 20
_BAR = 200  # milliseconds


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--samples", type=int, default=153_000, help="of the run (default 153000)")
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
            rows, over = _time_pages(address, kinds_of_pages(counts["samples"], arguments.rounds))
        commands = _time_commands(folder)
        lineage_size, index_size = _size(runs["large"].lineage), _size(runs["large"].index)
    body = [
        f"A made-up run of {counts['samples']:,} samples in {arguments.rounds} rounds: "
        f"{counts['versions']:,} versions, {counts['teacher_calls']:,} teacher calls, "
        f"{counts['scores']:,} scores, {counts['decisions']:,} decisions; lineage.db has "
        f"{lineage_size}. It is compared with a second one of that size. Milliseconds until "
        "the last byte of a page's HTML, from a process beside the server, one request at a time: "
        f"{_TIMES} answers, each to another question of its kind where there are several.",
        "",
        *table("page | for instance | median | worst | first | KiB at most", rows),
        f"Bar: every page's worst under {_BAR} ms. Over it: {', '.join(over) or 'none'}.",
        "",
        f"Indexing the samples took {indexing:.0f} s by itself; the index has {index_size}. "
        f"A server without an index had read everything, charts and all, after {reading:.0f} s. The "
        f"{len(meanwhile)} journeys and overviews that were asked for meanwhile took "
        f"{statistics.median(meanwhile):.0f} ms at the median, {max(meanwhile):.0f} ms at most.",
        "",
        *table("command | seconds | most resident MiB", commands),
    ]
    publish("Browsing", body, arguments)


def kinds_of_pages(samples: int, rounds: int, seed: int = 0) -> dict[str, list[str]]:
    """Paths to ask for, 21 of each kind; what can differ among them does."""
    rng = random.Random(f"{seed}/pages")  # not what the run itself was drawn from
    words, times = vocabulary(), range(_TIMES + 1)
    positions = rng.sample(range(samples), len(times))

    def find(**values: object) -> str:
        return f"/samples?{urlencode(values)}"

    def same(path: str) -> list[str]:
        return [path for _ in times]

    def each(ranks: range, **values: object) -> list[str]:
        return [find(q=word, **values) for word in rng.sample(words[ranks.start : ranks.stop], len(times))]

    def drawn(**choices: Sequence[object]) -> list[str]:
        return [find(**{name: rng.choice(values) for name, values in choices.items()}) for _ in times]

    some, phases = range(1, rounds + 1), ("instruction", "response")
    outcomes = ("accepted", "refused", "unchanged", "failed", "frozen")
    order = {"sort": ("ifd_change", "r_ifd_change", "length_growth"), "order": ("up", "down")}
    deep, common, medium, rare = range(100, 200), range(len(times)), range(150, 400), range(40_000, 50_000)
    return {
        "overview": same("/"),
        "all rounds": same("/rounds"),
        "one round": [f"/rounds/{rng.randrange(rounds + 1)}" for _ in times],
        "samples": same("/samples"),
        "samples, deep page": drawn(page=deep),
        "samples, filtered": drawn(round=some, phase=phases, outcome=outcomes),
        "samples, filtered, deep page": drawn(round=some, outcome=("accepted", "refused"), page=deep),
        "samples, nothing found": [find(outcome="unasked", round=number % rounds + 1) for number in times],
        "samples, sorted": drawn(**order),
        "samples, filtered and sorted": drawn(round=some, phase=phases, outcome=outcomes, **order),
        "samples, change between bounds": [
            find(min_ifd_change=low, max_ifd_change=round(low + 0.01, 3), round=rng.choice(some))
            for low in (rng.randrange(-300, 300) / 1000 for _ in times)
        ],
        "search, rare word": each(rare),
        "search, medium word": each(medium),
        "search, very common word": each(common),
        "search, very common word, deep page": each(common, page=150),
        "search, two common words": [find(q=f"{words[n]} {words[n + len(times)]}") for n in times],
        "search, medium word, filtered and sorted": each(
            medium, outcome="refused", sort="ifd_change", order="down"
        ),
        "search, very common word, filtered and sorted": each(common, outcome="refused", sort="r_ifd_change"),
        "search, no such word": [find(q=f"quux{number}") for number in times],
        "journey": [f"/samples/{position}" for position in positions],
        "journey, side by side": [f"/samples/{position}?view=side" for position in reversed(positions)],
        "runs": same("/runs"),
        "two runs compared": same("/compare/other"),
    }


def _time_pages(address: str, kinds: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    """Rows of the table, and the kinds over the bar; all the cold answers come first."""
    cold = {kind: _ask(address, paths[0])[0] for kind, paths in kinds.items()}
    wait_for_comparison(address, "/compare/other")
    rows, over = [], []
    for kind, paths in kinds.items():
        taken, sizes = zip(*(_ask(address, path) for path in paths), strict=True)
        middle, worst = statistics.median(taken[1:]), max(taken[1:])
        times = f"{middle:.0f} | {worst:.0f} | {cold[kind]:.0f}"
        rows.append(f"{kind} | `{paths[-1]}` | {times} | {max(sizes) / 1024:.0f}")
        if worst > _BAR:
            over.append(f"{kind} ({worst:.0f} ms)")
    return rows, over


def _ask(address: str, path: str) -> tuple[float, int]:
    """Milliseconds and characters of one answer.

    Raises:
        RuntimeError: it is no page.
    """
    began = time.perf_counter()
    status, text = fetch(address, path, timeout=600)
    seconds = time.perf_counter() - began
    if status != 200:
        raise RuntimeError(f"{path}: {status}: {text[:500]}")
    return 1000 * seconds, len(text)


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
    """Seconds until a server has read its run for the first time, and milliseconds of each page meanwhile."""
    rng, began, meanwhile = random.Random("meanwhile"), time.perf_counter(), []
    while not has_read(address):
        for path in (f"/samples/{rng.randrange(samples)}", "/"):
            meanwhile.append(_ask(address, path)[0])
            time.sleep(0.2)
    return time.perf_counter() - began, meanwhile


def _count(run: RunFolder) -> dict[str, int]:
    tables = ("samples", "versions", "teacher_calls", "scores", "decisions")
    with closing(open_database(run.lineage, read_only=True)) as database:
        return {name: database.table(name).count for name in tables}


def _forget(runs: Iterable[RunFolder]) -> None:
    """Ask the system to keep nothing of the runs' files in memory."""
    for run in runs:
        for path in filter(Path.exists, (run.lineage, run.index)):
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _time_commands(folder: Path) -> list[str]:
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
        return [_time_command(words, folder) for words in asked]


def _time_command(words: Sequence[str], folder: Path) -> str:
    began = time.perf_counter()
    process = subprocess.Popen(
        command(*words, "--runs", folder),
        cwd=ROOT,
        env=child_environment(),
        stdout=subprocess.DEVNULL,
    )
    with watch_memory(process.pid) as samples:
        code = process.wait()
    if code:
        raise RuntimeError(f"{' '.join(words)}: exit code {code}")
    seconds = time.perf_counter() - began
    return f"`reflectune {' '.join(words)}` | {seconds:.1f} | {max(samples) / MIB:,.0f}"


def _size(path: Path) -> str:
    return f"{path.stat().st_size / MIB:,.0f} MiB"


if __name__ == "__main__":
    main()
