"""What a round with its students on a Ray cluster takes of the driver, in runs of more and more samples.

It is the round of `tests.bench.loop` over texts as long as Alpaca's, with groups that are decided by workers
on two nodes of this machine. Their models are made up: so the driver has more to do in a second than it would
beside real ones.

    python -m tests.bench.cluster
"""

import json
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from transformers import LlamaConfig

from reflectune.agents.listener import Listener
from reflectune.agents.pool import StudentPool
from reflectune.loop.estimate import estimate_run
from reflectune.state.config import RunConfig, parse_config
from tests.bench.loop import MAX_GROWTH, MAX_MIB, ask_made_up, measure_loop
from tests.bench.memory import MIB
from tests.bench.results import SHARED, options, publish, table
from tests.clusters import cluster
from tests.tiny_models import save_tiny_llama

__all__ = ["measure_cluster"]

_DATA = SHARED / "data" / "alpaca-2000.json"
_TOKENIZER = SHARED / "models" / "student-6m"
_GPUS = "8xH100"
_MAX_SHARE = 0.05  # of a round's time
_PHASES = ("create", "reflect", "select", "choose", "read", "evaluate", "all")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("samples", type=int, nargs="*", default=[10_000, 100_000], help="sizes of the runs")
    parser.add_argument("--folder", type=Path, help="where the runs are made, and removed again")
    arguments = parser.parse_args()
    found = [_measure_apart(number, arguments) for number in arguments.samples]
    costs, memory = [], []
    for number, one in zip(arguments.samples, found, strict=True):
        seconds = [*(one["phases"][phase][1] for phase in _PHASES), one["others"]]
        costs.append(f"{number:,} | {' | '.join(f'{1e6 * cpu / number:,.0f}' for cpu in seconds)}")
        sizes = (one["before"], one["peak"], one["file"])
        memory.append(f"{number:,} | {' | '.join(f'{size / MIB:,.0f}' for size in sizes)}")
    driver = [one["phases"]["all"][1] / number for number, one in zip(arguments.samples, found, strict=True)]
    peak = max(one["peak"] for one in found) / MIB
    body = [
        "Microseconds of CPU time a sample: the driver's by what it does (see The loop), and in the last "
        "column that of all other processes of the cluster, workers among them.",
        "",
        *table(f"samples | {' | '.join(_PHASES)} | cluster", costs),
        f"The driver's beside that of the smallest run: {', '.join(f'{it / driver[0]:.2f}' for it in driver)}"
        f" (bar: {1 + MAX_GROWTH:.2f}).",
        "",
        *table("samples | MiB before | most resident MiB of the driver | MiB of lineage.db", memory),
        f"Most resident memory of any driver: {peak:,.0f} MiB (bar: {MAX_MIB:,} MiB).",
        "",
        *_compare(driver[-1], found[-1]["phases"]["select"][1] / arguments.samples[-1]),
    ]
    publish("The cluster", body, arguments)


def _measure_apart(samples: int, arguments: Namespace) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory(dir=arguments.folder) as folder,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        return pool.submit(_measure, Path(folder), samples).result()


def _measure(folder: Path, samples: int) -> dict[str, Any]:
    records = [record for record in json.loads(_DATA.read_text()) if record["output"].strip()]

    def make_record(number: int) -> Mapping[str, str]:
        record = records[number % len(records)]
        return record | {"instruction": f"{record['instruction']} Number {number}."}

    with cluster() as nodes:
        return measure_cluster(folder, samples, nodes.address, make_record=make_record)


def measure_cluster(folder: Path, samples: int, address: str, **how: Any) -> dict[str, Any]:
    """Run a round over so many samples, with two workers of a cluster that this process has started.

    Returns:
        What `measure_loop` does; others: CPU seconds of all processes but the driver.
    """
    from reflectune.agents.cluster.machines import ClusterMachines

    model = save_tiny_llama(folder / "student")
    config = _config(model, folder, scale={"engine": "ray", "address": address, "students": 2})
    with ClusterMachines(config, Listener()) as machines:
        before = _others()
        found = measure_loop(
            folder, samples, open_students=lambda adapter: _MadeUpPool(machines.open_students(None)), **how
        )
        return found | {"others": _others() - before}


class _MadeUpPool(AbstractContextManager["_MadeUpPool"]):
    """Another pool, whose jobs ask made-up students in the place of its own."""

    def __init__(self, pool: StudentPool) -> None:
        self._pool, self.at_once, self.workers, self.close = pool, pool.at_once, pool.workers, pool.close

    def submit(self, job: Callable[[Any], Any], about: str = "", size: int = 1) -> "Future[Any]":
        return self._pool.submit(partial(ask_made_up, job), about, size)

    def __exit__(self, *error: object) -> None:
        self.close()


def _others() -> float:
    """CPU seconds by now of all processes that this one has started."""
    seconds = 0.0
    for process in psutil.Process().children(recursive=True):
        times = process.cpu_times()
        seconds += times.user + times.system
    return seconds


def _compare(round: float, selecting: float) -> list[str]:
    """What the driver's seconds a sample are beside the GPUs' time for a round, and for scoring alone."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "7b"
        LlamaConfig().save_pretrained(model)  # by default the shape of Llama's 7B
        for file in _TOKENIZER.glob("tokenizer*"):
            (model / file.name).write_bytes(file.read_bytes())
        (model / "model.safetensors").touch()  # none is opened
        estimate = estimate_run(_config(model, _DATA), on=_GPUS)
    plan = estimate["plan"]
    parts = {name: 3600 * hours / estimate["samples"] for name, hours in plan["hours_per_round"].items()}
    whole, scoring = sum(parts.values()), parts["scoring"]
    busy, gpus = selecting / scoring, plan["gpus"] * scoring / selecting
    told = ", ".join(f"{name} {1e6 * seconds:,.0f}" for name, seconds in parts.items())
    return [
        f"By `reflectune estimate --on {_GPUS}` a round with a teacher and a student of "
        f"{plan['student_parameters'] / 1e9:.1f}B takes {1e6 * whole:,.0f} microseconds a sample ({told}).",
        f"The driver is busy for {round / whole:.1%} of it (bar: {_MAX_SHARE:.0%}), and for {busy:.0%} of "
        f"the scoring. With {gpus:,.0f} such GPUs students wait for the driver: that breaks first.",
    ]


def _config(model: Path, data: Path, **sections: Any) -> RunConfig:
    return parse_config(
        {
            "name": "made-up",
            "data": {"path": str(data), "odd": {"invalid": "skip"}},
            "teacher": {"engine": "vllm", "model": str(model)},
            "student": {"model": str(model), "template": "plain", "threads": 1},
        }
        | sections,
        source="the benchmark",
    )


if __name__ == "__main__":
    main()
