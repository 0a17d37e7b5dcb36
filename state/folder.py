"""The folder of one run: where its files lie, how it comes to be, and who may write in it."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from state.errors import ConfigError, StoreError

__all__ = ["RunFolder"]


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
    def checkpoints(self) -> Path:
        """LangGraph's own database."""
        return self.path / "checkpoints.db"

    def adapter(self, round: int) -> Path:
        """The adapter folder of a round."""
        return self.path / "adapters" / f"round-{round:02d}"

    @classmethod
    @contextmanager
    def create(cls, runs: Path, name: str) -> Iterator[Self]:
        """Make a run folder that appears under its name only when the block ends without an error.

        Raises:
            ConfigError: a run of that name exists, or the runs folder cannot be written.
        """
        final = runs / name
        if final.exists():
            raise ConfigError(
                f"a run called {name} exists in {runs}; go on with `reflectune resume {name}`, "
                "or give this one another name with --name"
            )
        partial = runs / f".{name}.{os.getpid()}.partial"
        try:
            partial.mkdir(parents=True)
        except OSError as error:
            raise ConfigError(f"{runs}: cannot make a run there: {error}") from error
        try:
            yield cls(partial)
            partial.rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @classmethod
    def find(cls, runs: Path, name: str) -> Self:
        """The folder of an existing run.

        Raises:
            StoreError: no run of that name.
        """
        folders = {folder.path.name: folder for folder in cls.all(runs)}
        if name not in folders:
            listed = f"known: {', '.join(folders)}" if folders else "there are no runs yet"
            raise StoreError(f"no run called {name} in {runs}; {listed}")
        return folders[name]

    @classmethod
    def all(cls, runs: Path) -> list[Self]:
        """The folders of all runs, by name."""
        return [
            cls(lineage.parent)
            for lineage in sorted(runs.glob("*/lineage.db"))
            if not lineage.parent.name.startswith(".")
        ]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only process that works on this run. The lock goes with the process that holds it.

        Raises:
            StoreError: another process works on it.
        """
        with self._lock_path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = file.read().strip() or "unknown"
                raise StoreError(f"{self.path.name}: process {owner} is working on this run") from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def is_locked(self) -> bool:
        """Whether a live process works on this run."""
        if not self._lock_path.exists():
            return False
        with self._lock_path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @property
    def _lock_path(self) -> Path:
        return self.path / ".lock"
