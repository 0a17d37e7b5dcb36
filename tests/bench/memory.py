"""Memory while scoring datasets of 10,000 and of 100,000 short pairs, and the size of logits.

Each dataset is scored in a process of its own, as `reflectune score` does it, with a tiny random model;
resident memory is sampled all the while. One more process reads the same dataset and does nothing else.

    python -m tests.bench.memory --pairs 10000
"""

import collections
import itertools
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

from reflectune.agents.student.student import Student
from reflectune.loop.progress import LineDisplay
from reflectune.loop.score import open_data, score_dataset
from reflectune.state.config import DataConfig, StudentConfig
from reflectune.state.data.datasets import read_dataset
from reflectune.state.records import TERMS, Pair
from tests.bench.meter import Meter
from tests.bench.results import options, publish, table
from tests.tiny_models import save_tiny_llama

__all__ = ["MIB", "measure_logits", "watch_memory"]

_EVERY = 0.02  # seconds between samples
MIB = 2**20


@contextmanager
def watch_memory(pid: int | None = None) -> Iterator[list[int]]:
    """Sample the resident memory of a process, or of this one, in bytes while the block runs."""
    samples: list[int] = []
    done, process = threading.Event(), psutil.Process(pid)

    def sample() -> None:
        with suppress(psutil.NoSuchProcess):
            samples.append(process.memory_info().rss)

    def keep_sampling() -> None:
        while not done.wait(_EVERY):
            sample()

    sample()
    thread = threading.Thread(target=keep_sampling, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
        sample()


def main() -> None:
    parser = options(__doc__, pairs=10_000)
    parser.add_argument("--times", type=int, default=10, help="how many times more in the large one (10)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    small, large = arguments.pairs, arguments.pairs * arguments.times
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tiny_llama(folder / "student")
        found = {}
        for number in (small, large):
            _write_data(folder, number)
            for task in ("score", "read"):
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    measured = pool.submit(_measure, task, folder, number, arguments.threads)
                    found[task, number] = measured.result()
        logits = measure_logits(folder / "student", arguments.threads)
    rows = []
    for number in (small, large):
        score, read = found["score", number], found["read", number]
        rows.append(
            f"{number:,} pairs | {score['before'] / MIB:.0f} | {score['peak'] / MIB:.0f} | "
            f"{read['grown'] / MIB:.1f} | {number / score['seconds']:,.0f}"
        )
    ratio = found["score", large]["peak"] / found["score", small]["peak"]
    body = [
        f"`reflectune score` over short pairs (about 90 bytes) with a random two-layer Llama, "
        f"{arguments.threads} threads, each dataset in a process of its own, sampled every "
        f"{_EVERY * 1000:.0f} ms. Before: 64 pairs have been scored.",
        "",
        *table("MiB resident | before | peak | added by reading alone | pairs/s", rows),
        f"The peak of {large:,} pairs is {ratio:.3f} times that of {small:,}.",
        "",
        "### Logits",
        "",
        "The largest logits of one call of the head while scoring 64 pairs with responses of 200 bytes:",
        "",
        *table("responses | batch_tokens | rows of logits | MiB | MiB of all calls together", logits),
    ]
    publish("Memory", body, arguments)


def measure_logits(folder: Path, threads: int) -> list[str]:
    """The largest logits of one call of the head, as lines of a table, for some texts and budgets."""
    kinds = {
        "differ": [Pair(f"Say {index} of it.", "", f"{index} is it. " * 24) for index in range(64)],
        "begin alike": [Pair("Say it.", "", "It is. " * 24 + str(index)) for index in range(64)],
    }
    lines = []
    for (kind, pairs), budget in itertools.product(kinds.items(), (256, 512, 4096)):
        config = _student(folder, threads).model_copy(update={"batch_tokens": budget})
        meter = Meter()
        with Student.open(config) as student:
            model = meter.attach(student._model)
            student.score([(pair, term) for pair in pairs for term in TERMS])
        row_bytes = model.get_output_embeddings().weight.shape[0] * model.dtype.itemsize
        most, all_rows = meter.most_logit_bytes, meter.logit_rows * row_bytes
        lines.append(f"{kind} | {budget:,} | {most // row_bytes:,} | {most / MIB:.2f} | {all_rows / MIB:.2f}")
    return lines


def _measure(task: str, folder: Path, number: int, threads: int) -> dict[str, float]:
    """What a process that scores or reads a dataset takes: bytes, and seconds."""
    torch.set_num_threads(threads)
    data, student = DataConfig(path=str(_data_path(folder, number))), _student(folder / "student", threads)
    out = folder / "scores.jsonl"
    if task == "score":
        # Torch's own buffers and caches come with the first pass, whatever the data.
        _score(DataConfig(path=data.path, limit=64), student, out)
    began = time.perf_counter()
    with watch_memory() as samples:
        if task == "read":
            collections.deque(read_dataset(data), maxlen=0)
        else:
            _score(data, student, out)
    peak = max(samples)
    return {
        "before": samples[0],
        "peak": peak,
        "grown": peak - samples[0],
        "seconds": time.perf_counter() - began,
    }


def _score(data: DataConfig, student: StudentConfig, path: Path) -> None:
    with path.open("w", encoding="utf-8") as out:
        score_dataset(open_data(data), student, None, out, LineDisplay())


def _student(model: Path, threads: int) -> StudentConfig:
    return StudentConfig(
        model=str(model), template="plain", max_length=256, dtype="float32", device="cpu", threads=threads
    )


def _write_data(folder: Path, number: int) -> None:
    with _data_path(folder, number).open("w", encoding="utf-8") as file:
        for index in range(number):
            record = {"instruction": f"Count to {index}.", "input": "", "output": f"One, two, {index}."}
            file.write(json.dumps(record) + "\n")


def _data_path(folder: Path, number: int) -> Path:
    return folder / f"data-{number}.jsonl"


if __name__ == "__main__":
    main()
