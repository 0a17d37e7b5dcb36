"""An experiment's runs, one after another or side by side, each in a process of its own.

What is finished is not run again, and what was interrupted goes on: the same call twice ends as one does.
"""

import gc
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from reflectune.agents.hardware import visible_gpus
from reflectune.loop.experiments.plan import Experiment, PlannedRun, note_arms
from reflectune.loop.progress import LineDisplay, Stage
from reflectune.loop.run import check_run, create_run, run_loop
from reflectune.loop.signals import Interrupted, catch_signals
from reflectune.state.errors import ConfigError, ReflectuneError
from reflectune.state.folder import PLAN, RunFolder
from reflectune.state.functions import describe_error, load_function
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import content_hash
from reflectune.state.storage import explain_storage_errors

__all__ = ["ENDED", "open_experiment", "run_experiment"]

# The states of a run that has nothing left to do.
ENDED = ("finished", "budget")
_LOOK_EVERY = 0.5  # seconds, for a signal


@contextmanager
def open_experiment(experiment: Experiment, runs: Path) -> Iterator[Path]:
    """The folder of an experiment's runs, for this process alone, once all of the plan has been checked.

    Raises:
        ReflectuneError: anything that cannot be run as planned; nothing has been run then.
    """
    folder = runs / experiment.name
    if RunFolder(folder).lineage.exists():
        raise ConfigError(f"{folder} is a run; give the plan's file another name")
    if folder.exists() and not (folder / PLAN).exists():
        raise ConfigError(
            f"{folder} is no experiment's folder; move it, or give the plan's file another name"
        )
    if experiment.figures is not None:
        load_function("figures", experiment.figures)
    seen = set()
    for run in experiment.runs:
        alike = content_hash(run.config.model_dump(mode="json", exclude={"name", "seed"}))
        if alike not in seen and not (folder / run.name).exists():
            seen.add(alike)
            check_run(run.config, runs)
    with explain_storage_errors(runs, "start the experiment again"):
        folder.mkdir(parents=True, exist_ok=True)
        with RunFolder(folder).lock():
            note_arms(experiment, folder / PLAN)
            yield folder


def run_experiment(
    experiment: Experiment,
    folder: Path,
    jobs: int,
    say: Callable[[str], None],
    stopping: Callable[[], bool],
) -> dict[str, str]:
    """Bring all runs to their ends, some at once; returns why runs failed, by name.

    A run that fails keeps no other from going on. Runs of the same seed, which ask a teacher the same, are
    side by side only where no others are left.

    Args:
        experiment: what is run.
        folder: of its runs, from `open_experiment`.
        jobs: most runs at once; of several each has one of the machine's GPUs.
        say: told what begins and ends.
        stopping: whether somebody asked to stop, as `run_loop` takes it.

    Raises:
        Interrupted: somebody did, and all runs have come to rest.
    """
    waiting = [run for run in experiment.runs if _status(folder, run.name) not in ENDED]
    if waiting:
        _load_libraries()
        say(f"{experiment.name}: {len(waiting)} of {len(experiment.runs)} runs to go")
    devices = visible_gpus() if jobs > 1 else []
    under_way: dict[int, _Job] = {}  # by slot
    failed: dict[str, str] = {}
    asked = False
    while waiting or under_way:
        while len(under_way) < jobs and not stopping() and (run := _next(waiting, under_way.values())):
            waiting.remove(run)
            try:
                run = _take_rate(folder, run)
            except ReflectuneError as refusal:
                failed[run.name] = str(refusal)
                continue
            say(f"{run.name}: {'goes on' if (folder / run.name).exists() else 'begins'}")
            slot = min({*range(jobs)} - under_way.keys())
            under_way[slot] = _start(run, folder, devices[slot % len(devices)] if devices else None)
        wait([job.process.sentinel for job in under_way.values()], timeout=_LOOK_EVERY)
        if stopping():
            waiting.clear()
            for job in under_way.values() if not asked else ():
                job.process.terminate()
            asked = True
        for slot, job in [*under_way.items()]:
            if not job.process.is_alive():
                del under_way[slot]
                if (error := _end(job)) is not None:
                    failed[job.run.name] = error
                status = _status(folder, job.run.name) or "interrupted"
                say(f"{job.run.name}: {status if asked or error is None else error}")
    if asked:
        raise Interrupted
    return failed


@dataclass(frozen=True, slots=True)
class _Job:
    """A run and the process that works on it."""

    run: PlannedRun
    process: BaseProcess
    told: Connection  # why it failed


def _next(waiting: list[PlannedRun], under_way: Iterable[_Job]) -> PlannedRun | None:
    """The first run that waits for no other, of those of a seed that none under way has if there are any."""
    seeds, names = set(), {run.name for run in waiting}
    for job in under_way:
        seeds.add(job.run.seed)
        names.add(job.run.name)
    ready = [run for run in waiting if run.acceptance_of not in names]
    return min(ready, key=lambda run: run.seed in seeds, default=None)


def _take_rate(folder: Path, run: PlannedRun) -> PlannedRun:
    """A run by lot with the acceptance, phase by phase, of the run that it is to match."""
    if run.acceptance_of is None:
        return run
    if _status(folder, run.acceptance_of) not in ENDED:
        raise ConfigError(f"{run.acceptance_of}, whose acceptance it takes, has not come to its end")
    with LineageReader.open(RunFolder(folder / run.acceptance_of).lineage) as lineage:
        counts = lineage.count_by_phase()
    rates = [count["accepted"] / max(count["decided"], 1) for count in counts]
    selection = run.config.selection.model_copy(update={"random_rate": rates})
    config = run.config.model_copy(update={"selection": selection})
    return PlannedRun(run.arm, run.seed, config, run.acceptance_of)


def _status(folder: Path, name: str) -> str | None:
    """How far a run is, as it says itself; None before it has begun."""
    lineage = RunFolder(folder / name).lineage
    if not lineage.exists():
        return None
    with LineageReader.open(lineage) as reader:
        return reader.run()["status"]


_PROCESSES = multiprocessing.get_context("forkserver")


def _load_libraries() -> None:
    """Have a process load all libraries, from which those of the runs are forked.

    Ctrl-C, which reaches all of them too, is for the parent to pass on: it must not end one that loads.
    """
    # peft imports bitsandbytes where it is installed, and that opens CUDA, which no fork could use then.
    _PROCESSES.set_forkserver_preload([] if find_spec("bitsandbytes") else ["reflectune.loop.run"])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)


def _start(run: PlannedRun, folder: Path, device: str | None) -> _Job:
    """Begin a run or go on with it, in a process of its own."""
    told, telling = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_work, args=(run, folder, device, telling), name=run.name)
    process.start()
    telling.close()
    return _Job(run, process, told)


def _end(job: _Job) -> str | None:
    """Why a job failed whose process has ended; None where it did not."""
    job.process.join()
    with job.told:
        said: str | None = job.told.recv() if job.told.poll() and not job.process.exitcode else None
    if job.process.exitcode:
        return f"its process died ({job.process.exitcode}); is there memory enough for {job.run.name}?"
    return said


def _work(run: PlannedRun, folder: Path, device: str | None, telling: Connection) -> None:
    """One run to its end; tells why it failed, if it did."""
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    gc.freeze()  # no collection need walk through the libraries
    os.dup2(2, 1)  # the parent's output is one document
    parent = multiprocessing.parent_process()
    assert parent is not None
    with catch_signals() as interruption:
        try:
            with interruption.finish_batches():
                if not (folder / run.name).exists():
                    create_run(run.config, folder)
                run_loop(
                    RunFolder(folder / run.name),
                    _NamedLines(run.name),
                    lambda: interruption.is_requested() or not parent.is_alive(),
                )
        except (Interrupted, KeyboardInterrupt):
            telling.send("interrupted")
        except ReflectuneError as error:
            telling.send(str(error))
        except Exception as error:  # noqa: BLE001 (the others go on)
            telling.send(f"unexpected {describe_error(error)}")
        else:
            telling.send(None)


class _NamedLines(LineDisplay):
    """Lines that say which run they are of."""

    def __init__(self, name: str) -> None:
        self.name = name

    @contextmanager
    def stage(self, title: str, *, total: int, done: int = 0) -> Iterator[Stage]:
        """Show one stage of a round while the block runs."""
        with super().stage(f"{self.name} · {title}", total=total, done=done) as stage:
            yield stage

    def say(self, text: str) -> None:
        """Show one line that stays."""
        super().say(f"{self.name} · {text}")
