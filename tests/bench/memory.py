"""Memory while scoring datasets of 10,000 and of 100,000 short pairs, and the size of logits.

Each dataset is scored in a process of its own, as `reflectune score` does it, with a tiny random model;
resident memory is sampled all the while. One more process reads the same dataset and does nothing else.

    python -m tests.bench.memory --pairs 10000
"""

import collections
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

from reflectune.agents import models
from reflectune.agents.student.student import Student
from reflectune.agents.student.templates import open_template
from reflectune.loop.progress import LineDisplay
from reflectune.loop.score import score_dataset
from reflectune.state.config import DataConfig, StudentConfig
from reflectune.state.data.datasets import read_dataset
from reflectune.state.records import TERMS, Pair
from tests.bench.meter import Meter
from tests.bench.results import options, publish, table
from tests.tiny_models import save_tiny_llama

__all__ = ["measure_logits", "watch_memory"]

_EVERY = 0.02  # seconds between samples
_MIB = 2**20


class Watched:
    """Resident memory of this process in bytes, sampled."""

    def __init__(self) -> None:
        self.samples: list[int] = []

    @property
    def peak(self) -> int:
        """The most of all samples."""
        return max(self.samples)


@contextmanager
def watch_memory() -> Iterator[Watched]:
    """Sample resident memory while the block runs."""
    watched, done, process = Watched(), threading.Event(), psutil.Process()

    def sample() -> None:
        while not done.wait(_EVERY):
            watched.samples.append(process.memory_info().rss)

    watched.samples.append(process.memory_info().rss)
    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield watched
    finally:
        done.set()
        thread.join()
        watched.samples.append(process.memory_info().rss)


def main() -> None:
    parser = options(__doc__, pairs=10_000)
    parser.add_argument("--times", type=int, default=10, help="how many times more in the large one (10)")
    parser.add_argument("--child", choices=["score", "read"], help="measure one thing in this process")
    parser.add_argument("--folder", type=Path, help="for --child: where model and data are")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.child:
        print(json.dumps(_measure(arguments.child, arguments.folder, arguments.pairs, arguments.threads)))
        return
    small, large = arguments.pairs, arguments.pairs * arguments.times
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tiny_llama(folder / "student")
        found = {}
        for number in (small, large):
            _write_data(folder, number)
            for child in ("score", "read"):
                found[child, number] = _in_child(child, folder, number, arguments.threads)
        logits = measure_logits(folder / "student", arguments.threads)
    rows = [
        [
            f"{number:,} pairs",
            f"{found['score', number]['before'] / _MIB:.0f}",
            f"{found['score', number]['peak'] / _MIB:.0f}",
            f"{found['read', number]['grown'] / _MIB:.1f}",
            f"{number / found['score', number]['seconds']:,.0f}",
        ]
        for number in (small, large)
    ]
    ratio = found["score", large]["peak"] / found["score", small]["peak"]
    header = ["MiB resident", "before", "peak", "added by reading alone", "pairs/s"]
    body = [
        f"`reflectune score` over short pairs (about 90 bytes) with a random two-layer Llama, "
        f"{arguments.threads} threads, each dataset in a process of its own, sampled every "
        f"{_EVERY * 1000:.0f} ms. Before: 64 pairs have been scored.",
        "",
        *table(header, rows),
        f"The peak of {large:,} pairs is {ratio:.3f} times that of {small:,}.",
        "",
        "### Logits",
        "",
        "The largest logits of one call of the head while scoring 64 pairs with responses of 200 bytes:",
        "",
        *table(["responses", "batch_tokens", "rows of logits", "MiB", "MiB of all calls together"], logits),
    ]
    publish("Memory", body, arguments)


def measure_logits(model: Path, threads: int) -> list[list[str]]:
    """The largest logits of one call of the head, as lines of a table, for some texts and budgets."""
    kinds = {
        "differ": [Pair(f"Say {index} of it.", "", f"{index} is it. " * 24) for index in range(64)],
        "begin alike": [Pair("Say it.", "", "It is. " * 24 + str(index)) for index in range(64)],
    }
    lines = []
    for (kind, pairs), budget in itertools.product(kinds.items(), (256, 512, 4096)):
        config = _student(model, threads).model_copy(update={"batch_tokens": budget})
        tokenizer = models.open_tokenizer(config)
        opened = models.open_model(config)
        student = Student(opened, tokenizer, open_template(config.template, tokenizer), config)
        meter = Meter()
        meter.attach(opened)
        student.score([(pair, term) for pair in pairs for term in TERMS])
        row_bytes = opened.get_output_embeddings().weight.shape[0] * opened.dtype.itemsize
        lines.append(
            [
                kind,
                f"{budget:,}",
                f"{meter.most_logit_bytes // row_bytes:,}",
                f"{meter.most_logit_bytes / _MIB:.2f}",
                f"{meter.logit_rows * row_bytes / _MIB:.2f}",
            ]
        )
    return lines


def _measure(child: str, folder: Path, number: int, threads: int) -> dict[str, float]:
    """What a child process reports: bytes, and seconds."""
    data = DataConfig(path=str(_data_path(folder, number)))
    if child == "score":
        # Torch's own buffers and caches come with the first pass, whatever the data.
        _score(_student(folder / "student", threads), DataConfig(path=data.path, limit=64), folder)
    before = psutil.Process().memory_info().rss
    began = time.perf_counter()
    with watch_memory() as watched:
        if child == "read":
            collections.deque(read_dataset(data), maxlen=0)
        else:
            _score(_student(folder / "student", threads), data, folder)
    seconds = time.perf_counter() - began
    return {"before": before, "peak": watched.peak, "grown": watched.peak - before, "seconds": seconds}


def _score(student: StudentConfig, data: DataConfig, folder: Path) -> None:
    with (folder / "scores.jsonl").open("w", encoding="utf-8") as out:
        score_dataset(data, student, None, out, LineDisplay())


def _student(model: Path, threads: int) -> StudentConfig:
    return StudentConfig(
        model=str(model), template="plain", max_length=256, dtype="float32", device="cpu", threads=threads
    )


def _in_child(child: str, folder: Path, number: int, threads: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.memory", "--child", child, "--folder", str(folder)]
    command += ["--pairs", str(number), "--threads", str(threads)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ)
    found: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return found


def _write_data(folder: Path, number: int) -> None:
    with _data_path(folder, number).open("w", encoding="utf-8") as file:
        for index in range(number):
            record = {"instruction": f"Count to {index}.", "input": "", "output": f"One, two, {index}."}
            file.write(json.dumps(record) + "\n")


def _data_path(folder: Path, number: int) -> Path:
    return folder / f"data-{number}.jsonl"


if __name__ == "__main__":
    main()
