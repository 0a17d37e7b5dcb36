"""What busy neighbours do to a refinetune: alone, and beside other processes of torch on the same CPUs.

Threads that spin while they wait for each other take the CPUs from those they wait for. The command has them
spin briefly (GOMP_SPINCOUNT); each training here is a process of its own that is started either way.

    python -m tests.bench.crowd --pairs 24
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from reflectune.agents.student.refinetune import refinetune_student
from tests.bench.results import options, publish, table
from tests.bench.scoring import STUDENT, TEMPLATE, read_pairs, run_config

_BUSY = "import torch\nmatrix = torch.ones(1024, 1024)\nwhile True: matrix @ matrix"
_CROWDS = (0, 1, 4)  # processes beside it, each with as many threads as torch takes
_WAYS: Mapping[str, Mapping[str, str]] = {
    "spinning briefly, as the command has it": {"GOMP_SPINCOUNT": "2500"},
    "spinning, as OpenMP has it": {},
}


def main() -> None:
    parser = options(__doc__, pairs=24)
    parser.add_argument("--train", action="store_true", help="train once and print the seconds")
    arguments = parser.parse_args()
    if arguments.train:
        print(_train(arguments.pairs, arguments.threads))
        return
    rows = []
    for way, setting in _WAYS.items():
        seconds = []
        for others in _CROWDS:
            with _crowd(others):
                seconds.append(_train_apart(arguments.pairs, arguments.threads, setting))
        cells = " | ".join(f"{taken:.1f} s, {taken / seconds[0]:.1f} times" for taken in seconds)
        rows.append(f"{way} | {cells}")
    body = [
        f"A refinetune of student-6m on {arguments.pairs} real pairs in float32, one epoch, "
        f"{arguments.threads} threads. Each neighbour multiplies matrices.",
        "",
        *table(f"threads that wait | {' | '.join(f'beside {others}' for others in _CROWDS)}", rows),
    ]
    publish("Crowd", body, arguments)


def _train(pairs: int, threads: int) -> float:
    config = run_config(STUDENT, TEMPLATE, "float32", threads)
    config = config.model_copy(update={"refinetune": config.refinetune.model_copy(update={"epochs": 1})})
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "adapter"
        metrics = refinetune_student(
            config, read_pairs(pairs), out, previous=None, round=1, on_step=lambda *step: None
        )
    return metrics["seconds"]


def _train_apart(pairs: int, threads: int, setting: Mapping[str, str]) -> float:
    command = [sys.executable, "-m", __spec__.name, "--train", f"--pairs={pairs}", f"--threads={threads}"]
    own = ("OMP_", "GOMP_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(own)}
    done = subprocess.run(command, env=environment | setting, capture_output=True, text=True, check=True)
    return float(done.stdout)


@contextmanager
def _crowd(others: int) -> Iterator[None]:
    """So many busy processes, for a while."""
    processes = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(others)]
    try:
        time.sleep(5.0 if processes else 0.0)  # torch takes a while to load
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
