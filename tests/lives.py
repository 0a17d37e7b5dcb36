"""The command in processes of its own, that can be watched and killed, without waiting for its imports.

Each is forked from one server, which has imported everything and computed nothing: threads of a library
would not live on in a fork.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

from tests.worlds import child_environment

_SIGHT = 0.001  # seconds between two looks
_MOST_SECONDS = 900.0
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([
    "__main__",
    "peft",
    "transformers.models.llama.modeling_llama",
    "transformers.trainer",
    "reflectune.agents.teacher.engines.openai_server",
    "reflectune.agents.teacher.engines.recorded",
    "reflectune.loop.run",
    "tests.lives",
])  # fmt: skip


@dataclass(frozen=True)
class Halt:
    """Where a command stops, until it is told to go on: once so much is done of a stage that begins so."""

    title: str
    done: int


@dataclass
class Life:
    """One process that is the command."""

    process: BaseProcess
    said: Path  # what it has said on stderr
    halts: Path  # a file that is there while it halts

    @property
    def text(self) -> str:
        return self.said.read_text(encoding="utf-8", errors="replace")

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def is_alive(self) -> bool:
        return self.process.is_alive()

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def live_until(self, is_time: "Callable[[Life], bool]") -> bool:
        """Wait for a moment; False where it ends first."""
        deadline = time.monotonic() + _MOST_SECONDS
        while not is_time(self):
            if not self.is_alive():
                return False
            assert time.monotonic() < deadline, f"it hangs: {self.text[-2000:]}"
            time.sleep(_SIGHT)
        return True

    def live_until_halt(self) -> bool:
        """Wait for its halt; False where it ends first."""
        return self.live_until(lambda life: life.halts.exists())

    def go_on(self) -> None:
        """End its halt."""
        self.halts.unlink()

    def end(self, seconds: float = 300.0) -> int:
        """Its exit code, within as many seconds as say that it hangs; negative: the signal that ended it."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"it goes on: {self.text[-2000:]}"
        return self.process.exitcode


@contextmanager
def started(*arguments: object, folder: Path, halt: Halt | None = None, **environment: str) -> Iterator[Life]:
    """Run the command in a folder, as long as the block lasts at most."""
    folder.mkdir(parents=True, exist_ok=True)
    said = folder / f"said-{time.monotonic_ns()}"
    said.touch()
    halts = said.with_suffix(".halts")
    words = tuple(map(str, arguments))
    how = words, folder, said, environment, halt, halts
    process = _FORKS.Process(target=_be_the_command, args=how)
    with mock.patch.dict(os.environ, child_environment(OMP_NUM_THREADS="1")):
        process.start()
    try:
        yield Life(process, said, halts)
    finally:
        process.kill()
        process.join()


def _be_the_command(
    words: tuple[str, ...],
    folder: Path,
    said: Path,
    environment: dict[str, str],
    halt: Halt | None,
    halts: Path,
) -> None:
    code: Any = 1
    try:
        os.dup2(os.open(said, os.O_WRONLY | os.O_APPEND), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.chdir(folder)
        os.environ |= environment
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the server may have been started without
        sys.argv = ["reflectune", *words]
        if halt is not None:
            _prepare_halt(halt, halts)
        from reflectune.loop.cli import main

        main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _prepare_halt(halt: Halt, halts: Path) -> None:
    """Have this process halt, in the thread that works on the stage."""
    from reflectune.loop.progress import Stage

    update = Stage.update
    places = [halt]

    def update_and_halt(stage: Stage, done: int, total: int, **facts: str) -> None:
        update(stage, done, total, **facts)
        if places and stage.title.startswith(halt.title) and done >= halt.done:
            places.clear()
            halts.touch()
            deadline = time.monotonic() + _MOST_SECONDS
            while halts.exists() and time.monotonic() < deadline:
                time.sleep(_SIGHT)

    Stage.update = update_and_halt  # type: ignore[method-assign]
