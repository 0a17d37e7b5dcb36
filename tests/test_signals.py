"""Signals to real runs: what is in flight is finished, nothing is paid twice, and the end is the same."""

import hashlib
import json
import multiprocessing
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from reflectune.agents.student.adapters import hash_adapter
from reflectune.agents.student.trainer import StoppedError
from reflectune.agents.teacher.engines import vllm_process
from reflectune.agents.teacher.teacher import Teacher
from reflectune.loop.nodes.reflect import reflect
from reflectune.loop.signals import Interrupted, catch_signals
from reflectune.state.config import TeacherConfig
from reflectune.state.errors import TeacherError
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import StudentRecord
from tests.teacher_server import Reply, TeacherServer, improve, serve_teacher
from tests.test_nodes import make_world
from tests.test_nodes import state as state_of
from tests.test_refinetune import PAIRS, configure, refinetune_student
from tests.tiny_models import save_tiny_llama
from tests.torture import read_tables
from tests.worlds import child_environment, command, reflectune, write_world

NOTICE = "stopping after the batch in flight; once more leaves at once"
HINT = "interrupted; go on with `reflectune resume tiny`"
CONCURRENCY = 4
TRAIN, HOLDOUT = 70, 70  # three batches of a selection, two of an evaluation


# The handlers


def test_a_signal_outside_of_batches_is_raised_where_the_work_is() -> None:
    with catch_signals() as interruption:
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        assert interruption.exit_code == 143


def test_a_signal_between_batches_is_noted(capfd: pytest.CaptureFixture[str]) -> None:
    with catch_signals() as interruption, interruption.finish_batches():
        assert not interruption.is_requested()
        signal.raise_signal(signal.SIGINT)
        assert interruption.is_requested()
        assert interruption.exit_code == 130
    assert capfd.readouterr().err == f"{NOTICE}\n"


@pytest.mark.slow
def test_a_second_signal_ends_the_process_with_the_code_of_the_first() -> None:
    process = os.fork()
    if process == 0:
        with catch_signals() as interruption, interruption.finish_batches():
            signal.raise_signal(signal.SIGINT)
            time.sleep(1.2)
            signal.raise_signal(signal.SIGTERM)
            time.sleep(10)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 130


def test_two_signals_in_a_row_count_as_one(capfd: pytest.CaptureFixture[str]) -> None:
    process = os.fork()
    if process == 0:
        with catch_signals() as interruption, interruption.finish_batches():
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)  # or the system makes one of them
            time.sleep(0.3)
        os._exit(interruption.exit_code + 1)  # it came this far
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 144
    assert capfd.readouterr().err == f"{NOTICE}\n"


@pytest.mark.parametrize("may_finish", [False, True])
def test_a_signal_that_comes_twice_does_not_disturb_the_tidying_up(may_finish: bool) -> None:
    with catch_signals() as interruption:
        with (
            nullcontext() if may_finish else pytest.raises(Interrupted),
            interruption.finish_batches() if may_finish else nullcontext(),
        ):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert interruption.exit_code == 143


@pytest.mark.alone
def test_signals_do_not_wait_for_a_long_computation() -> None:
    began = time.monotonic()
    process = os.fork()
    if process == 0:
        main = os.getpid()
        with catch_signals() as interruption, interruption.finish_batches():
            for delay in (0.1, 1.3):
                threading.Timer(delay, os.kill, (main, signal.SIGTERM)).start()
            # One instruction of seconds, which lets other threads run as torch's do.
            hashlib.pbkdf2_hmac("sha256", b"x", b"y", 20_000_000)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 143
    assert time.monotonic() - began < 3.0


def test_handlers_are_put_back_and_what_was_ignored_stays_ignored() -> None:
    ours = signal.getsignal(signal.SIGINT)
    theirs = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with catch_signals() as interruption:
            assert signal.getsignal(signal.SIGINT) == interruption.handle
            signal.raise_signal(signal.SIGTERM)
            assert not interruption.is_requested()
        assert signal.getsignal(signal.SIGINT) == ours
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, theirs)


def test_another_thread_handles_no_signals() -> None:
    ours = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with catch_signals() as interruption:
            seen.append((signal.getsignal(signal.SIGINT), interruption.is_requested()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(ours, False)]


# What is asked to stop


@pytest.mark.slow
def test_a_training_that_is_stopped_gives_the_same_bits(tmp_path: Path) -> None:
    config = configure(save_tiny_llama(tmp_path / "model"), epochs=3, dropout=0.1)
    steps: list[int] = []

    def train(name: str, stop_after: int | None = None) -> str:
        refinetune_student(
            config,
            PAIRS,
            tmp_path / name,
            previous=None,
            round=1,
            on_step=lambda step, all_steps, loss: steps.append(step),
            is_stopping=lambda: bool(steps) and steps[-1] + 1 == stop_after,
        )
        return hash_adapter(tmp_path / name)

    whole = train("whole")
    assert len(steps) > 4
    last = len(steps)
    steps.clear()
    with pytest.raises(StoppedError, match=f"after step 3 of {last}"):
        train("stopped", stop_after=3)
    assert (tmp_path / ".stopped.partial/checkpoint-3").is_dir()
    assert not (tmp_path / "stopped").exists()
    steps.append(3)
    with pytest.raises(StoppedError, match="before its first step"):
        train("stopped", stop_after=4)
    steps.clear()
    assert train("stopped") == whole
    assert steps == list(range(4, last + 1))
    steps.clear()
    train("late", stop_after=last)  # asked to stop in the last step, it is done
    assert (tmp_path / "late").is_dir()


@pytest.mark.parametrize(("asked", "error"), [(True, Interrupted), (False, TeacherError)])
def test_a_teacher_that_fails_while_stopping_is_no_failure(
    tmp_path: Path, asked: bool, error: type[BaseException]
) -> None:
    world = make_world(tmp_path)
    signals = []

    def open_teacher(student: StudentRecord) -> Teacher:
        signals.append(1)  # it comes while the teacher is opened
        raise TeacherError("its process was ended by SIGTERM")

    world.context = replace(
        world.context, open_teacher=open_teacher, stopping=lambda: asked and bool(signals)
    )
    with pytest.raises(error):
        reflect(state_of(), world.runtime())


class IdleWorker:
    """In the place of vLLM: waits until there can be no more tasks."""

    def __init__(self, settings: vllm_process.ModelSettings) -> None:
        pass

    def work(self, tasks: Connection, words: Connection) -> None:
        tasks.recv()


def test_the_process_of_vllm_leaves_signals_to_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_process, "_Worker", IdleWorker)
    context = multiprocessing.get_context("fork")
    task_end, tasks = context.Pipe(duplex=False)
    words, word_end = context.Pipe(duplex=False)
    settings = vllm_process.ModelSettings({}, None, tmp_path / "log", TeacherConfig(engine="vllm", model="m"))

    def serve() -> None:
        tasks.close()
        vllm_process.serve(task_end, word_end, settings)

    process = context.Process(target=serve)
    process.start()
    assert isinstance(words.recv(), vllm_process.Ready)
    assert process.pid is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(process.pid, number)
    process.join(0.2)
    assert process.is_alive()
    tasks.close()
    process.join(10)
    assert process.exitcode == 0


# Real runs


@dataclass
class Scene:
    """A world whose teacher is a server that can be told to hang."""

    folder: Path
    server: TeacherServer
    is_hanging: threading.Event = field(default_factory=threading.Event)

    def reply(self, request: dict[str, object], number: int) -> Reply:
        answer = improve(request, number)
        return replace(answer, delay=60.0 if self.is_hanging.is_set() else 0.02)

    def resume(self, runs: Path) -> None:
        result = reflectune("resume", "tiny", "--runs", runs, cwd=self.folder)
        assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A world, and in its runs folder "calm" the undisturbed run."""
    scene = Scene(tmp_path_factory.mktemp("scene"), TeacherServer(""))
    with serve_teacher(lambda request, number: scene.reply(request, number)) as scene.server:
        write_world(
            scene.folder,
            samples=TRAIN + HOLDOUT,
            data={"holdout": HOLDOUT},
            teacher={
                "engine": "openai",
                "path": None,
                "model": "fake",
                "base_url": scene.server.url,
                "concurrency": CONCURRENCY,
                "retries": 0,
                "cache": "off",
            },
            student={"threads": 1},
            refinetune={"epochs": 3, "batch_tokens": 256},
        )
        calm = reflectune("run", "config.toml", "--runs", "calm", cwd=scene.folder)
        assert calm.returncode == 0, calm.stderr
        yield scene


class Child:
    """A command under way, and what it has said on stderr."""

    def __init__(self, process: "subprocess.Popen[str]", run: Path) -> None:
        self.process, self.run = process, run
        self.lines: list[str] = []
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def wait_until(self, is_time: Callable[["Child"], bool]) -> None:
        deadline = time.monotonic() + 120
        while not is_time(self):
            assert self.process.poll() is None, f"it ended first: {self.lines}"
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.0005)

    def end(self, seconds: float = 60.0) -> int:
        """Its exit code, within so many seconds."""
        code = self.process.wait(seconds)
        self._listener.join()
        return code

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))


@contextmanager
def started(scene: Scene, runs: Path, *arguments: str) -> Iterator[Child]:
    with subprocess.Popen(
        command(*arguments, "--runs", runs),
        cwd=scene.folder,
        env=child_environment(OMP_NUM_THREADS="1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        child = Child(process, runs / "tiny")
        try:
            yield child
        finally:
            process.kill()


def count(run: Path, query: str) -> int:
    """A count from a database that may not be there yet."""
    if not (run / "lineage.db").exists():
        return 0
    with sqlite3.connect(run / "lineage.db") as connection:
        number = connection.execute(f"SELECT COUNT(*) FROM {query}").fetchone()[0]
    connection.close()
    return int(number)


def status(scene: Scene, runs: Path) -> str:
    shown = reflectune("show", "tiny", "--runs", runs, "--json", cwd=scene.folder)
    assert shown.returncode == 0, shown.stderr
    return str(json.loads(shown.stdout)["status"])


def is_reflecting(child: Child) -> bool:
    return count(child.run, "teacher_calls WHERE phase = 'response'") > 3


def is_selecting(child: Child) -> bool:
    return count(child.run, "decisions WHERE phase = 'response'") > 0


def is_training(child: Child) -> bool:
    return any((child.run / "adapters").glob(".round-01.partial/checkpoint-*"))


def is_evaluating(child: Child) -> bool:
    return any(line.startswith("round 1 · evaluate") for line in child.lines)


def has_left_no_call_behind(scene: Scene, run: Path, asked: int) -> bool:
    calls = count(run, "teacher_calls")
    return calls == asked and calls < 2 * TRAIN


def has_decided_whole_batches(scene: Scene, run: Path, asked: int) -> bool:
    return count(run, "decisions WHERE phase = 'response'") in (32, 64)


def has_saved_its_last_step(scene: Scene, run: Path, asked: int) -> bool:
    partial = run / "adapters/.round-01.partial"
    newest = max(partial.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    state = json.loads((newest / "trainer_state.json").read_text())
    return bool(state["log_history"][-1]["step"] == state["global_step"] < state["max_steps"])


def has_stored_no_half_of_an_evaluation(scene: Scene, run: Path, asked: int) -> bool:
    return count(run, "evaluations WHERE round = 1") == 0 and count(run, "students") == 2


STOPS = (
    (is_reflecting, has_left_no_call_behind),
    (is_selecting, has_decided_whole_batches),
    (is_training, has_saved_its_last_step),
    (is_evaluating, has_stored_no_half_of_an_evaluation),
)


@pytest.mark.slow
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_in_every_node_ends_like_an_undisturbed_one(
    scene: Scene, tmp_path: Path, first: signal.Signals
) -> None:
    other = signal.SIGTERM if first == signal.SIGINT else signal.SIGINT
    before = len(scene.server.requests)
    arguments: tuple[str, ...] = ("run", "config.toml")
    for (is_time, has_finished), how in zip(STOPS, (first, other) * 2, strict=True):
        with started(scene, tmp_path, *arguments) as child:
            child.wait_until(is_time)
            child.process.send_signal(how)
            assert child.end() == 128 + how, child.lines
        assert child.lines.count(NOTICE) == 1
        assert child.lines[-1] == HINT
        assert "Traceback" not in "".join(child.lines)
        assert count(child.run, "runs WHERE status = 'interrupted'") == 1
        assert has_finished(scene, child.run, len(scene.server.requests) - before), is_time.__name__
        arguments = ("resume", "tiny")
    assert status(scene, tmp_path) == "interrupted"
    scene.resume(tmp_path)
    calm = scene.folder / "calm/tiny"
    assert read_tables(tmp_path / "tiny") == read_tables(calm)
    assert len(scene.server.requests) - before == count(calm, "teacher_calls")
    assert [path.name for path in sorted((tmp_path / "tiny/adapters").iterdir())] == ["round-01", "round-02"]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_leaves_at_once_while_a_server_hangs(
    scene: Scene, tmp_path: Path, how: signal.Signals
) -> None:
    scene.is_hanging.set()
    asked = len(scene.server.requests)
    with started(scene, tmp_path, "run", "config.toml") as child:
        child.wait_until(lambda child: len(scene.server.requests) >= asked + CONCURRENCY)
        child.process.send_signal(how)
        child.wait_until(lambda child: NOTICE in child.lines)
        time.sleep(1.3)
        assert child.process.poll() is None  # the batch is in flight
        child.process.send_signal(how)
        assert child.end(seconds=2.0) == 128 + how
    scene.is_hanging.clear()
    assert child.lines[-1] == NOTICE
    assert status(scene, tmp_path) == "interrupted"
    scene.resume(tmp_path)
    assert read_tables(tmp_path / "tiny") == read_tables(scene.folder / "calm/tiny")


@pytest.mark.slow
def test_a_signal_that_is_delivered_twice_stops_a_run_as_one_does(scene: Scene, tmp_path: Path) -> None:
    before = len(scene.server.requests)
    with started(scene, tmp_path, "run", "config.toml") as child:
        child.wait_until(is_reflecting)
        for _ in range(2):
            os.kill(child.process.pid, signal.SIGTERM)
            time.sleep(0.01)
        assert child.end() == 143, child.lines
    assert child.lines.count(NOTICE) == 1
    assert child.lines[-1] == HINT
    assert count(child.run, "runs WHERE status = 'interrupted'") == 1
    assert has_left_no_call_behind(scene, child.run, len(scene.server.requests) - before)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_while_it_is_made_leaves_nothing(
    scene: Scene, tmp_path: Path, how: signal.Signals
) -> None:
    for attempt in range(10):  # on a crowded machine the signal may come when the run is made
        runs = tmp_path / f"runs-{attempt}"
        with started(scene, runs, "run", "config.toml") as child:
            child.wait_until(lambda child: any(child.run.parent.glob(".tiny.*.partial")))
            child.process.send_signal(how)
            assert child.end(seconds=10.0) == 128 + how
        assert "Traceback" not in "".join(child.lines)
        if not (runs / "tiny").exists():
            break
    else:
        pytest.fail("stopped too late, ten times, to prove anything")
    assert not runs.exists()


# One owner


@pytest.mark.slow
def test_a_run_has_one_owner_until_that_process_has_died(scene: Scene, tmp_path: Path) -> None:
    scene.is_hanging.set()
    asked = len(scene.server.requests)
    with started(scene, tmp_path, "run", "config.toml") as child:
        child.wait_until(lambda child: len(scene.server.requests) >= asked + CONCURRENCY)
        before = (tmp_path / "tiny/config.toml").read_text()
        for change in ((), ("--set", "rounds=3")):
            began = time.monotonic()
            refused = reflectune("resume", "tiny", *change, "--runs", tmp_path, cwd=scene.folder)
            assert refused.returncode == 2
            named = f"process {child.process.pid} is working on this run (on {socket.gethostname()}, since 20"
            assert named in refused.stderr
            assert refused.stderr.count("\n") == 1
            assert time.monotonic() - began < 5.0
        assert (tmp_path / "tiny/config.toml").read_text() == before
        assert status(scene, tmp_path) == "running"
        child.process.send_signal(signal.SIGKILL)
        assert child.end() == -signal.SIGKILL
    scene.is_hanging.clear()
    assert status(scene, tmp_path) == "interrupted"
    scene.resume(tmp_path)
    assert read_tables(tmp_path / "tiny") == read_tables(scene.folder / "calm/tiny")


@pytest.mark.slow
def test_readers_beside_a_writer_see_one_moment_and_do_not_block_it(scene: Scene, tmp_path: Path) -> None:
    run = tmp_path / "tiny"
    seen: set[int] = set()
    with started(scene, tmp_path, "run", "config.toml") as child:
        child.wait_until(lambda child: child.run.exists())
        while child.process.poll() is None:
            with LineageReader.open(run / "lineage.db") as history:
                whole = history.teacher()["calls"]
                rounds = history.rounds()
                assert sum(document["teacher"]["calls"] for document in rounds) == whole
            for document in rounds[1:]:
                for phase in (document["instruction"], document["response"]):
                    calls = phase["teacher"]["calls"]
                    # One candidate and one attempt: every call has settled a sample.
                    assert phase["reflected"] + phase["unchanged"] + phase["failed"] == calls
                    assert sum(phase["statuses"].values()) == calls
                    assert phase["accepted"] <= phase["reflected"]
            seen.add(whole)
        assert child.end() == 0, child.lines
    assert len(seen) > 20
    assert not any("locked" in line for line in child.lines)
    assert read_tables(run) == read_tables(scene.folder / "calm/tiny")
