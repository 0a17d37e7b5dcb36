"""Starting a run and going on with one: the run folder, the open models, the machine."""

import importlib.metadata
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import cast

from langchain_core.runnables import RunnableConfig

from reflectune.agents.judge.judge import check_judge, open_judge
from reflectune.agents.listener import Listener, StoppedError
from reflectune.agents.machines import Machines, open_machines, say_one_of_each
from reflectune.agents.models import check_adapters_fit_vllm
from reflectune.agents.student.student import check_contexts
from reflectune.agents.student.templates import check_student
from reflectune.agents.teacher.engines import TeacherModel
from reflectune.agents.teacher.prompts import open_prompts
from reflectune.agents.teacher.teacher import Teacher, check_teacher, open_teacher
from reflectune.agents.tracking import check_trackers
from reflectune.loop.context import LoopContext, LoopState, find_adapter
from reflectune.loop.graph import build_graph, hash_graph
from reflectune.loop.live import LiveDisplay
from reflectune.loop.nodes.evaluate import evaluate_round, finish_round, measure_round, why_stop
from reflectune.loop.progress import Display, open_display
from reflectune.loop.resuming import hash_files, refuse_changed_config, refuse_changed_files, restore_config
from reflectune.loop.signals import Interrupted, leave_at_once
from reflectune.state.cache import AnswerCache, cache_path
from reflectune.state.config import SELF, EngineConfig, RunConfig, change_config, flatten, parse_config
from reflectune.state.data.datasets import Dataset, assign_samples, dataset_hash, read_dataset
from reflectune.state.errors import ConfigError, DatasetError, StoreError
from reflectune.state.folder import RunFolder
from reflectune.state.functions import load_function
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.policies import is_own
from reflectune.state.records import Sample, StudentRecord
from reflectune.state.storage import explain_storage_errors
from reflectune.state.text import one_line

__all__ = [
    "begin_lineage", "change_run", "check_run", "create_run", "listen", "next_state", "open_cache",
    "open_context", "run_loop",
]  # fmt: skip

_STEPS_PER_ROUND = 6  # two reflections, two selections, refinetune, evaluate
_ADAPTER = re.compile(r"\.?round-(\d+)(-half-\d)?(\.partial)?")
_LIBRARIES = ("reflectune", "torch", "transformers", "peft", "langgraph", "sqlite-utils")


def create_run(config: RunConfig, runs: Path, *, accept_few: bool = False) -> RunFolder:
    """Check everything a run needs and make its folder; on any error nothing stays behind.

    Data of which less than half can be used is refused unless `accept_few`.

    The config that is written has the student's threads, number format and separator settled, so that a
    resumed run computes the same bits. The lineage keeps hashes of the files that the config names and that
    are read again later: a resumed run refuses others under the same names.
    """
    with RunFolder.create(runs, config.name) as folder, explain_storage_errors(runs, "start the run again"):
        dataset = check_run(config, runs, accept_few=accept_few)
        samples = assign_samples(dataset, config.data.holdout, config.seed)
        with open_machines(config, listen(open_display())) as machines:
            config = config.model_copy(update={"student": machines.settle_student()})
            check_contexts(config.student, dataset.account.contexts)
            machines.check_refinetune(config)  # last: it opens the model
        folder.write_config(config.to_toml())
        with LineageWriter.create(folder.lineage) as lineage:
            versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
            versions |= {"graph": hash_graph(), "config": config.content_hash()} | hash_files(config)
            begin_lineage(lineage, config, samples, versions)
            lineage.add_skipped(dataset.account.skipped)
    return RunFolder(runs / config.name)


def check_run(config: RunConfig, runs: Path, *, accept_few: bool = False) -> Dataset:
    """Check what can be checked of a run while no model is open; returns its data."""
    check_teacher(config.teacher)
    if config.judge is not None:
        check_judge(config.judge)
    if cache_path(runs).exists() or any(each.cache == "only" for each in _asked(config)):
        with open_cache(config, runs):
            pass
    check_student(config.student)
    if config.teacher.engine == "vllm" and config.teacher.model == SELF and config.teacher.cache != "only":
        check_adapters_fit_vllm(config.student)
    check_trackers(config.track)
    if config.evaluate.checker:
        load_function("evaluate.checker", config.evaluate.checker)
    if is_own(config.selection.policy):
        load_function("selection.policy", config.selection.policy)
    dataset = read_dataset(config.data)
    _judge_data(dataset, accept_few)
    open_prompts(config.teacher.prompts).check(record.pair for record in dataset)
    return dataset


def _judge_data(dataset: Dataset, accept_few: bool) -> None:
    """Refuse data most of which is left out, and say which fields are not used though they may matter."""
    account = dataset.account
    if 2 * account.kept < account.rows and not accept_few:
        odd = ", ".join(f"{rows.number} {rows.kind}" for rows in dataset.account.skipped)
        raise DatasetError(
            f"only {account.kept} of {account.rows} rows give a pair, the others are skipped ({odd}); "
            "`reflectune run --yes` starts with these, `reflectune check` shows what ails the others"
        )
    if dataset.account.unused:
        fields = ", ".join(f"{name} ({number} rows)" for name, number in dataset.account.unused.items())
        line = (
            f"fields that may change what a pair means: {fields}; they are kept with the samples, but shown "
            "to neither teacher nor student. Map them with data.columns, or name them in data.ignore"
        )
        open_display().say(one_line(line))


def listen(
    display: Display, stopping: Callable[[], bool] = lambda: False, folder: RunFolder | None = None
) -> Listener:
    """Show what machines have to say, and leave with a line where they are lost."""
    go_on = "" if folder is None else f" (go on with `{folder.command('resume')}`)"
    return Listener(display.say, stopping, lambda why: leave_at_once(one_line(f"reflectune: {why}{go_on}")))


def begin_lineage(
    lineage: LineageWriter, config: RunConfig, samples: Iterable[Sample], versions: Mapping[str, str]
) -> None:
    """Write what a run begins with into an empty lineage, while its samples are read one after another."""
    lineage.add_samples(samples)
    data_hash = dataset_hash(lineage.sample_ids())
    lineage.add_run(config.model_dump(mode="json"), data_hash=data_hash, versions=versions)
    lineage.start_round(0)
    student = config.student
    lineage.add_student(StudentRecord("s0", 0, student.model, student.revision, None, None, None))


def change_run(folder: RunFolder, overrides: Sequence[str]) -> None:
    """Change keys of a run's config that do not alter its lineage, in config.toml and in the lineage.

    Killed in between, the same call again brings both to the same end.
    """
    written = restore_config(folder)
    change_config(written, overrides)  # what is impossible shall touch nothing
    with (
        explain_storage_errors(folder.path, f"`{folder.command('resume')}`"),
        folder.lock(),
        LineageWriter.open(folder.lineage) as lineage,
    ):
        before = parse_config(lineage.settings()["config"], source=str(folder.lineage))
        after = change_config(before, overrides)
        if written != after:
            refuse_changed_config(lineage, written, folder)
        old, new = (flatten(config.model_dump(mode="json")) for config in (before, after))
        changes = {key: (old[key], new[key]) for key in new if old[key] != new[key]}
        if not changes:
            return
        with lineage.transaction():
            lineage.change_config(changes)
            folder.write_config(after.to_toml())


def run_loop(folder: RunFolder, display: Display, stopping: Callable[[], bool] = lambda: False) -> str:
    """Go on with a run from where its lineage says it is, to its end; returns why the loop stopped.

    `stopping`, whether somebody asked to stop, is asked whenever nothing is in flight; then Interrupted is
    raised. Whatever ended the run early, it can be resumed.
    """
    with open_context(folder, display, stopping) as context, _status(context.lineage):
        if context.lineage.settings()["versions"]["graph"] != hash_graph():
            raise StoreError(
                "this run was begun by a version of Reflectune whose machine has other nodes; "
                "resume it with that version"
            )
        state = next_state(context)
        if state["stop_reason"] is None:
            steps: RunnableConfig = {"recursion_limit": _STEPS_PER_ROUND * context.config.rounds + 1}
            state = cast(LoopState, build_graph().invoke(state, steps, context=context))
        reason = state["stop_reason"]
        assert reason is not None
        context.lineage.set_run_status("budget" if reason == "budget" else "finished")
        return reason


@contextmanager
def open_context(
    folder: RunFolder, display: Display, stopping: Callable[[], bool] = lambda: False
) -> Iterator[LoopContext]:
    """What the nodes of a run work with, checked and locked; for the graph here or one of your own.

    `stopping` is that of `run_loop`. Models are opened by the nodes that need them.
    """
    config = restore_config(folder)
    checker = load_function("evaluate.checker", config.evaluate.checker) if config.evaluate.checker else None
    with (
        explain_storage_errors(folder.path, f"`{folder.command('resume')}`"),
        folder.lock(),
        LineageWriter.open(folder.lineage) as lineage,
        open_cache(config, folder.path.parent) as cache,
        open_machines(config, listen(display, stopping, folder)) as machines,
        LiveDisplay(display, folder) as live,
    ):
        say_one_of_each(config.scale, live.say)
        if replayed := lineage.settings()["versions"].get("replay_of"):
            raise ConfigError(
                f"{folder.path.name} is a replay of {replayed}: nothing goes on in it; start a run with its "
                "config.toml, under another name"
            )
        refuse_changed_config(lineage, config, folder)
        refuse_changed_files(lineage, config)
        yield LoopContext(
            config=config,
            folder=folder,
            lineage=lineage,
            display=live,
            checker=checker,
            open_teacher=lambda student: _open_teacher(config, folder, student, cache, machines, stopping),
            open_students=machines.open_students,
            open_judge=lambda judge: open_judge(judge, config.student, cache, stopping, machines.open_engine),
            refinetune_student=machines.refinetune,
            trainers=machines.trainers,
            open_writers=machines.open_writers,
            stopping=stopping,
        )


def next_state(context: LoopContext) -> LoopState:
    """Where a run goes on: before the first reflection of a round, unless there is a reason to stop.

    The untrained student is measured first, where it is not yet.
    """
    os.environ["LANGSMITH_TRACING"] = "false"  # whatever the environment says
    lineage = context.lineage
    if not lineage.is_round_finished(0):
        evaluate_round(context, 0)
        finish_round(context, 0, None)
    round, reason = lineage.newest_round(), None
    _remove_adapters_after(context.folder, round)
    if lineage.is_round_finished(round):
        reason = _end_again(context, round) if round > 0 else None
        round += 1
    return LoopState(
        run=context.config.name,
        round=round,
        phase="instruction",
        student=context.round_student(round - 1).id,
        stop_reason=reason,
    )


def _open_teacher(
    config: RunConfig,
    folder: RunFolder,
    student: StudentRecord,
    cache: AnswerCache | None,
    machines: Machines,
    stopping: Callable[[], bool],
) -> Teacher:
    # Only a teacher that is the student itself opens the adapter.
    adapter = find_adapter(folder, student) if config.teacher.model == SELF else None
    itself = TeacherModel(f"self:{student.id}", config.student, adapter, student.adapter_hash)
    return open_teacher(config.teacher, config.seed, itself, cache, stopping, machines.open_engine)


def open_cache(config: RunConfig, runs: Path) -> AbstractContextManager[AnswerCache | None]:
    """The cache that a run's teacher and judge use; None where neither does."""
    cached = [each for each in _asked(config) if each.is_cached]
    if not cached:
        return nullcontext()
    only = next((each for each in cached if each.cache == "only"), None)
    if only is not None and not cache_path(runs).exists():
        key = f"{only.section}.cache"
        raise ConfigError(f'{key} = "only": there is no {cache_path(runs)}; runs with {key} = "on" make it')
    return AnswerCache.open(runs)


def _asked(config: RunConfig) -> Iterator[EngineConfig]:
    """The models that are asked."""
    yield config.teacher
    if config.judge is not None:
        yield config.judge


def _end_again(context: LoopContext, round: int) -> str | None:
    """Why the loop stops after a finished round by what the config says now; None where it goes on."""
    lineage = context.lineage
    reason = why_stop(lineage, context.config, round, lineage.held_out_measures())
    if reason is not None and lineage.run()["stop_reason"] is None:
        # It was not the last, and may not have been measured.
        measure_round(context, round)
        reason = why_stop(lineage, context.config, round, lineage.held_out_measures())
    finish_round(context, round, reason)
    return reason


def _remove_adapters_after(folder: RunFolder, newest: int) -> None:
    """Remove the adapters of rounds that a lineage put back from a copy has not seen."""
    for adapter in (folder.path / "adapters").glob("*"):
        if (number := _ADAPTER.fullmatch(adapter.name)) and int(number[1]) > newest:
            shutil.rmtree(adapter)


@contextmanager
def _status(lineage: LineageWriter) -> Iterator[None]:
    lineage.set_run_status("running")
    try:
        yield
    except BaseException as error:
        is_asked = isinstance(error, (KeyboardInterrupt, Interrupted, StoppedError))
        lineage.set_run_status("interrupted" if is_asked else "failed")
        if isinstance(error, StoppedError):
            raise Interrupted from error
        raise
