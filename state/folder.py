"""The folder of one run: where its files lie, how it comes to be, and who may write in it."""

import fcntl
import os
import secrets
import shlex
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Self

from reflectune.state.errors import ConfigError, StoreError
from reflectune.state.records import Half
from reflectune.state.text import inert

__all__ = ["PLAN", "RUNS", "RunFolder", "to_command"]

RUNS = Path("runs")  # where runs are unless --runs or REFLECTUNE_RUNS says otherwise
PLAN = "plan.toml"  # in the folder of an experiment's runs


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths inside runs/<name>; the folder is whole and can be moved."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.toml"

    @property
    def lineage(self) -> Path:
        """The lineage database."""
        return self.path / "lineage.db"

    @property
    def index(self) -> Path:
        """What the lineage's samples are found by; derived from it."""
        return self.path / "index.db"

    @property
    def live(self) -> Path:
        """What a process that works on the run does now; there only while it does."""
        return self.path / "live.json"

    def adapter(self, round: int, half: Half | None = None) -> Path:
        """The adapter folder of a round, or of its student that was trained on one half alone."""
        name = f"round-{round:02d}" if half is None else f"round-{round:02d}-half-{half}"
        return self.path / "adapters" / name

    def command(self, name: str, *words: str) -> str:
        """A command about this run, to be typed where this process was started."""
        return to_command(self.path.parent, name, self.path.name, *words)

    def write_config(self, text: str) -> None:
        """Put config.toml into place: all of it, on disk, or what was there before."""
        part = self.config.with_name(f".{self.config.name}.partial")
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.config)

    @classmethod
    @contextmanager
    def create(cls, runs: Path, name: str) -> Iterator[Self]:
        """Make a run folder that appears under its name only when the block ends without an error."""
        taken = ConfigError(
            f"a run called {name} exists in {runs}; go on with `{cls(runs / name).command('resume')}`, "
            "or give this one another name with --name"
        )
        if (runs / name).exists():
            raise taken
        new = runs / f".{name}.{secrets.token_hex(8)}.new"
        partial = new.with_suffix(".partial")
        new_runs = not runs.exists()
        try:
            with ExitStack() as stack:
                try:
                    _sweep(runs)
                    new.mkdir(parents=True)
                    stack.enter_context(cls(new).lock())
                    new.rename(partial)  # from here on others may see it: it is locked
                except OSError as error:
                    raise ConfigError(f"{runs}: cannot make a run there: {error}") from error
                yield cls(partial)
                try:
                    partial.rename(runs / name)
                except OSError:  # another process was faster
                    raise taken from None
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            shutil.rmtree(partial, ignore_errors=True)
            if new_runs:
                with suppress(OSError):
                    runs.rmdir()
            raise

    @classmethod
    def find(cls, runs: Path, name: str) -> Self:
        """The folder of an existing run. What lies elsewhere, behind a link, is no run of this folder."""
        folders = {folder.path.name: folder for folder in cls.all(runs)}
        if name not in folders:
            listed = f"known: {', '.join(folders)}" if folders else "there are no runs yet"
            if name in (path.name for path in runs.glob("*") if path.is_symlink()):
                listed = "that is a link to elsewhere; move the run here, or give its folder with --runs"
            raise StoreError(f"no run called {name} in {runs}; {listed}")
        return folders[name]

    @classmethod
    def all(cls, runs: Path) -> list[Self]:
        """The folders of all runs, by name."""
        return [
            cls(lineage.parent)
            for lineage in sorted(runs.glob("*/lineage.db"))
            if not lineage.parent.name.startswith(".") and not lineage.parent.is_symlink()
        ]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only process that works on this run. The lock goes with the process that holds it."""
        with (self.path / ".lock").open("a+") as file:
            if not _try_lock(file):
                file.seek(0)
                owner, *where = file.read().split("\n")
                place = f" (on {where[0]}, since {where[1]})" if len(where) > 1 else ""
                raise StoreError(
                    f"{self.path.name}: process {owner or 'unknown'} is working on this run{place}; "
                    "let it end, or stop it, which loses nothing"
                )
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            file.truncate(0)
            file.write(f"{os.getpid()}\n{socket.gethostname()}\n{now}\n")
            file.flush()
            yield

    def is_locked(self) -> bool:
        """Whether a live process works on this run."""
        with suppress(FileNotFoundError), (self.path / ".lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


def to_command(runs: Path, *words: str) -> str:
    """A command to be typed where this process was started; it names the folder of runs where it has to."""
    default = Path(os.environ.get("REFLECTUNE_RUNS") or RUNS)
    elsewhere = [] if runs.absolute() == default.absolute() else ["--runs", str(runs)]
    return inert(shlex.join(["reflectune", *words, *elsewhere]))


def _try_lock(file: IO[str]) -> bool:
    """Take the exclusive lock; wait a moment, for `is_locked` of another process holds it an instant."""
    for _ in range(10):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False


def _sweep(runs: Path) -> None:
    """Remove what processes that were killed while making a run left behind: nobody holds its lock.

    Process ids would not tell: they are given again, and each container has its own.
    """
    for partial in runs.glob(".*.*.partial"):
        with suppress(OSError):  # whole by now, or somebody else's
            if not RunFolder(partial).is_locked():
                shutil.rmtree(partial, ignore_errors=True)
