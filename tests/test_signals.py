"""Signals to real runs: what is in flight is finished, nothing is paid twice, and the end is the same."""

import hashlib
import json
import math
import multiprocessing
import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

import pytest

from reflectune.agents.listener import StoppedError
from reflectune.agents.student.adapters import hash_adapter
from reflectune.agents.teacher.engines import vllm_engine, vllm_process
from reflectune.agents.teacher.teacher import Teacher
from reflectune.loop.nodes.reflect import reflect
from reflectune.loop.signals import Interrupted, Interruption, catch_signals
from reflectune.loop.verify import verify_run
from reflectune.state.config import StudentConfig, TeacherConfig
from reflectune.state.errors import TeacherError
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import StudentRecord
from tests.lives import Halt, Life, started
from tests.teacher_server import Reply, TeacherServer, improve, serve_teacher
from tests.test_nodes import make_world
from tests.test_nodes import state as state_of
from tests.test_refinetune import PAIRS, configure, refinetune_student
from tests.tiny_models import save_tiny_llama
from tests.torture import read_tables
from tests.worlds import reflectune, write_world

pytestmark = pytest.mark.no_cover

NOTICE = "stopping after the batch in flight; once more leaves at once"
CONCURRENCY = 4
HANGS = 600.0  # seconds that a server may take to answer
TRAIN, HOLDOUT = 40, 70  # two batches of a selection, two of an evaluation


# The handlers


def test_a_signal_between_batches_is_noted(capfd: pytest.CaptureFixture[str]) -> None:
    with catch_signals() as interruption, interruption.finish_batches():
        assert not interruption.is_requested()
        signal.raise_signal(signal.SIGINT)
        assert interruption.is_requested()
        assert interruption.exit_code == 130
    assert capfd.readouterr().err == f"{NOTICE}\n"


@pytest.mark.parametrize("may_finish", [False, True])
def test_a_signal_is_raised_outside_of_batches_and_a_second_does_not_disturb_the_tidying_up(
    may_finish: bool,
) -> None:
    with catch_signals() as interruption:
        with interruption.finish_batches() if may_finish else pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert interruption.exit_code == 143


def test_a_second_signal_is_one_more_than_a_second_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((50.0, 50.9, 51.1))
    leave = mock.Mock(side_effect=SystemExit)
    monkeypatch.setattr("reflectune.loop.signals.time", mock.Mock(monotonic=lambda: next(times)))
    monkeypatch.setattr(os, "_exit", leave)
    numbers, end = os.pipe()
    os.write(end, bytes([signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGINT]))
    with pytest.raises(SystemExit):
        Interruption().watch(numbers)
    leave.assert_called_once_with(143)
    assert os.read(numbers, 4) == bytes([signal.SIGINT])  # it left at the third
    os.close(numbers)
    os.close(end)


@pytest.mark.alone
def test_signals_do_not_wait_for_a_long_computation() -> None:
    began = time.monotonic()
    process = os.fork()
    if process == 0:
        main = os.getpid()
        with catch_signals() as interruption, interruption.finish_batches():
            for delay in (0.1, 1.3, 2.6, 5.0, 10.0, 20.0, 40.0):  # the second, unless it is held up
                threading.Timer(delay, os.kill, (main, signal.SIGTERM)).start()
            # One instruction of ten minutes, which lets other threads run as torch's do.
            hashlib.pbkdf2_hmac("sha256", b"x", b"y", 2_000_000_000)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 143
    assert time.monotonic() - began < 60


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
            config, PAIRS, tmp_path / name, previous=None, round=1,
            on_step=lambda step, all_steps, loss: steps.append(step),
            is_stopping=lambda: bool(steps) and steps[-1] + 1 == stop_after,
        )  # fmt: skip
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


def test_the_process_of_vllm_leaves_signals_to_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In the place of vLLM: waits until there can be no more tasks.
    idle = mock.Mock(work=lambda tasks, words: tasks.recv())
    monkeypatch.setattr(vllm_process, "_Worker", lambda settings: idle)
    context = multiprocessing.get_context("fork")
    task_end, tasks = context.Pipe(duplex=False)
    words, word_end = context.Pipe(duplex=False)
    teacher, source = TeacherConfig(engine="vllm", model="m"), StudentConfig(model="m")
    settings = vllm_process.ModelSettings({}, source, None, tmp_path / "log", teacher)

    def serve() -> None:
        tasks.close()
        vllm_engine._serve_apart(vllm_process.serve, task_end, word_end, settings)

    process = context.Process(target=serve)
    process.start()
    assert isinstance(words.recv(), vllm_process.Ready)
    assert process.pid is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(process.pid, number)
    process.join(0.2)
    assert process.is_alive()
    tasks.close()
    process.join(300)
    assert process.exitcode == 0


# Real runs


@dataclass
class Scene:
    """A world whose teacher is a server that can be told to hang, or to wait for a reader."""

    folder: Path
    server: TeacherServer
    delay: float = 0.02  # seconds
    turn: threading.Lock = field(default_factory=threading.Lock)
    looks: float = math.inf  # that a reader has taken; without one they need not be waited for

    def reply(self, request: dict[str, object], number: int) -> Reply:
        with self.turn:  # whoever comes meanwhile waits too
            if number % 10 == 0:
                self.wait_for_a_look()
        return replace(improve(request, number), delay=self.delay)

    def wait_for_a_look(self) -> None:
        """Wait until the reader has looked from beginning to end."""
        whole = self.looks + 2  # the next to end may have begun before
        while self.looks < whole:
            time.sleep(0.001)

    def command(self, *words: object) -> str:
        """What a command prints that succeeds in the world."""
        result = reflectune(*words, cwd=self.folder)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def status(self, runs: Path) -> str:
        return str(json.loads(self.command("show", "tiny", "--runs", runs, "--json"))["status"])

    def assert_ends_calmly(self, runs: Path) -> None:
        """Resuming brings the run to the very end of the undisturbed one."""
        assert self.status(runs) == "interrupted"
        self.command("resume", "tiny", "--runs", runs)
        assert read_tables(runs / "tiny") == read_tables(self.folder / "calm/tiny")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A world, and in its runs folder "calm" the undisturbed run."""
    scene = Scene(tmp_path_factory.mktemp("scene"), TeacherServer(""))
    with serve_teacher(lambda request, number: scene.reply(request, number)) as scene.server:
        teacher = {"engine": "openai", "path": None, "model": "fake", "base_url": scene.server.url}
        config = write_world(
            scene.folder,
            samples=TRAIN + HOLDOUT,
            data={"holdout": HOLDOUT},
            teacher=teacher | {"concurrency": CONCURRENCY, "retries": 0, "cache": "off"},
            refinetune={"epochs": 3, "batch_tokens": 256},
        )
        config.write_text(config.read_text().replace("rounds = 2", "rounds = 1"))
        scene.command("run", "config.toml", "--runs", "calm")
        yield scene


def count(run: Path, query: str) -> int:
    """A count from a database that may not be there yet."""
    if not (run / "lineage.db").exists():
        return 0
    with closing(sqlite3.connect(run / "lineage.db")) as connection:
        return int(connection.execute(f"SELECT COUNT(*) FROM {query}").fetchone()[0])


def has_saved_its_last_step(run: Path) -> bool:
    partial = run / "adapters/.round-01.partial"
    newest = max(partial.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    state = json.loads((newest / "trainer_state.json").read_text())
    return bool(state["log_history"][-1]["step"] == state["global_step"] < state["max_steps"])


# Where each node is stopped, and whether it has finished what was in flight, after so many requests.
STOPS: tuple[tuple[Halt, Callable[[Path, int], bool]], ...] = (
    (
        Halt("round 1 · reflect · response", 4),
        lambda run, asked: count(run, "teacher_calls") == asked < 2 * TRAIN,
    ),
    (
        Halt("round 1 · select · response", 1),
        lambda run, asked: count(run, "decisions WHERE phase = 'response'") in (32, TRAIN),
    ),
    (
        Halt("round 1 · refinetune", 4),  # steps: a checkpoint is there, and no other is due
        lambda run, asked: has_saved_its_last_step(run),
    ),
    (
        Halt("round 1 · evaluate · s1", 1),
        lambda run, asked: (count(run, "evaluations WHERE round = 1"), count(run, "students")) == (0, 2),
    ),
)


@pytest.mark.slow
def test_a_run_stopped_in_every_node_ends_like_an_undisturbed_one(scene: Scene, tmp_path: Path) -> None:
    run, before = tmp_path / "tiny", len(scene.server.requests)
    arguments: tuple[str, ...] = ("run", "config.toml")
    signals = (signal.SIGINT, signal.SIGTERM) * 2
    for (halt, has_finished), how in zip(STOPS, signals, strict=True):
        with started(*arguments, "--runs", tmp_path, folder=scene.folder, halt=halt) as life:
            assert life.live_until_halt(), life.text
            for _ in range(2):  # whatever forwards a signal may deliver it twice
                life.send(how)
                time.sleep(0.01)
            assert life.live_until(lambda life: NOTICE in life.text), life.text
            life.go_on()
            assert life.end() == 128 + how, life.text
            lines = life.text.splitlines()
        assert lines.count(NOTICE) == 1
        assert lines[-1] == f"interrupted; go on with `reflectune resume tiny --runs {tmp_path}`"
        assert "Traceback" not in life.text
        assert count(run, "runs WHERE status = 'interrupted'") == 1
        assert has_finished(run, len(scene.server.requests) - before), halt.title
        arguments = ("resume", "tiny")
    scene.assert_ends_calmly(tmp_path)
    assert len(scene.server.requests) - before == count(run, "teacher_calls")
    assert [path.name for path in (run / "adapters").iterdir()] == ["round-01"]


@pytest.mark.slow
def test_a_run_has_one_owner_which_a_second_signal_ends_at_once_while_a_server_hangs(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def insist(life: Life) -> bool:
        with suppress(ProcessLookupError):  # it has ended
            life.send(signal.SIGINT)  # the second one is heard more than a second after the first
        return False

    asked = len(scene.server.requests)
    monkeypatch.setattr(scene, "delay", HANGS)
    with started("run", "config.toml", "--runs", tmp_path, folder=scene.folder) as life:
        assert life.live_until(lambda life: len(scene.server.requests) >= asked + CONCURRENCY), life.text
        before = (tmp_path / "tiny/config.toml").read_text()
        for change in ((), ("--set", "rounds=3")):
            began = time.monotonic()
            refused = reflectune("resume", "tiny", *change, "--runs", tmp_path, cwd=scene.folder)
            assert time.monotonic() - began < 5.0
            assert refused.returncode == 2
            named = f"process {life.pid} is working on this run (on {socket.gethostname()}, since 20"
            assert named in refused.stderr
            assert refused.stderr.count("\n") == 1
        assert (tmp_path / "tiny/config.toml").read_text() == before
        assert scene.status(tmp_path) == "running"
        life.send(signal.SIGTERM)
        assert life.live_until(lambda life: NOTICE in life.text)
        time.sleep(1.3)
        assert life.is_alive()  # the batch is in flight
        began = time.monotonic()
        assert not life.live_until(insist)
        assert time.monotonic() - began < HANGS / 10
        assert life.end() == 143
        assert life.text.splitlines()[-1] == NOTICE
    monkeypatch.undo()
    scene.assert_ends_calmly(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM"])
def test_a_run_stopped_while_it_is_made_leaves_nothing(
    scene: Scene, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"raises_{how}.py").write_text(f"import signal; signal.raise_signal(signal.{how})")
    monkeypatch.syspath_prepend(tmp_path)
    checker = f"evaluate.checker=raises_{how}:check"  # imported while the run is made
    words = ("run", "config.toml", "--runs", tmp_path / "runs", "--set", checker)
    stopped = reflectune(*words, cwd=scene.folder)
    assert stopped.returncode == 128 + signal.Signals[how]
    assert "Traceback" not in stopped.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_readers_beside_a_writer_see_one_moment_and_do_not_block_it(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "tiny")
    monkeypatch.setattr(scene, "looks", 0)
    seen: set[tuple[int, ...]] = set()
    with started("run", "config.toml", "--runs", tmp_path, folder=scene.folder) as life:
        assert life.live_until(lambda life: run.lineage.exists()), life.text
        while life.is_alive():
            assert verify_run(run)["faults"] == []
            with LineageReader.open(run.lineage) as history:
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
            phases = [document[phase] for document in rounds[1:] for phase in ("instruction", "response")]
            seen.add((whole, *(phase["accepted"] for phase in phases)))
            scene.looks += 1
        assert life.end() == 0, life.text
        assert "locked" not in life.text
    assert len(seen) > 5
    assert verify_run(run)["faults"] == []
    assert read_tables(run.path) == read_tables(scene.folder / "calm/tiny")
