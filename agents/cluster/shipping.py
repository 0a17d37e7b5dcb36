"""Models, adapters and templates on their way to nodes that share no disk with the driver.

They go by their content: what a node has under the same path, or has received before, is not sent. The
lineage never travels.
"""

import os
import shutil
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import ray
from filelock import FileLock
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from reflectune.agents.model_files import PROCESSORS, files_read, fingerprint
from reflectune.state.config import StudentConfig
from reflectune.state.errors import ConfigError

__all__ = ["Sender", "Shipment", "ShippedStudent"]

_CHUNK = 16 * 2**20  # bytes that one message carries
_AHEAD = 4  # messages under way to one receiver


@dataclass(frozen=True, slots=True)
class Shipment:
    """A folder or a file of the driver's machine, for any node."""

    path: Path  # on the driver's machine
    hash: str  # of its content
    root: Path  # the folder that the names of its files go from
    files: Sequence[tuple[str, int]]  # name and bytes of each
    reader: Any  # the actor that reads them

    def receive(self) -> Path:
        """Where it is on this node; fetched where it is not there, once for all that run on the node.

        Raises:
            ConfigError: it was changed since it was sent.
        """
        if _has_content(self.path, self.hash):
            return self.path
        received, place = _received_folder() / self.hash, self.path.relative_to(self.root)
        received.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(received.with_suffix(".lock")):
            if not received.exists():
                _make_room(received.parent, sum(size for _, size in self.files))
                partial = received.with_suffix(".partial")
                shutil.rmtree(partial, ignore_errors=True)
                for name, size in self.files:
                    self._fetch(name, size, partial / name)
                if not _has_content(partial / place, self.hash):
                    raise ConfigError(f"{self.path}: it was changed while the run used it; put it back")
                partial.rename(received)
            os.utime(received)  # it was used last
        return received / place

    def _fetch(self, name: str, size: int, to: Path) -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        under_way: deque[Any] = deque()
        with to.open("wb") as file:
            for start in range(0, size, _CHUNK):
                under_way.append(self.reader.read.remote(self.root / name, start))
                if len(under_way) == _AHEAD:
                    file.write(ray.get(under_way.popleft()))
            for chunk in under_way:
                file.write(ray.get(chunk))


@dataclass(frozen=True, slots=True)
class ShippedStudent:
    """What a student is opened from, for any node. A hub's name stays one: each node asks the hub."""

    config: StudentConfig
    model: Shipment | None
    template: Shipment | None
    adapter: Shipment | None

    def receive(self) -> tuple[StudentConfig, Path | None]:
        """Its config with the paths of this node, and the folder of its adapter if it has one."""
        parts = {"model": self.model, "template": self.template}
        paths = {key: str(part.receive()) for key, part in parts.items() if part is not None}
        adapter = None if self.adapter is None else self.adapter.receive()
        return self.config.model_copy(update=paths), adapter


class Sender:
    """The driver's end: what is shipped is read by an actor on its node, when a receiver asks for it."""

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # It keeps nothing, so that another may go on for it at any instant.
        reading = ray.remote(num_cpus=0, num_gpus=0, max_restarts=-1, max_task_retries=-1)(_Reader)
        self._reader = reading.options(scheduling_strategy=here).remote()

    def ship(self, path: Path) -> Shipment:
        """A model's or adapter's folder, or a file, as it is now."""
        path = path.absolute()  # the reader has another working directory
        root = path if path.is_dir() else path.parent
        processors = [path / name for name in PROCESSORS if (path / name).is_file()]  # for vLLM
        files = [*files_read(path), *processors] if path.is_dir() else [path]
        named = [(str(file.relative_to(root)), file.stat().st_size) for file in files]
        return Shipment(path, _hash(path), root, named, self._reader)

    def ship_student(self, config: StudentConfig, adapter: Path | None) -> ShippedStudent:
        """What a student of this machine is opened from."""
        model, template = Path(config.model), Path(config.template)
        return ShippedStudent(
            config,
            self.ship(model) if model.is_dir() else None,
            self.ship(template) if template.is_absolute() else None,
            self.ship(adapter) if adapter is not None else None,
        )


class _Reader:
    def read(self, path: Path, start: int) -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(_CHUNK)


def _hash(path: Path) -> str:
    return fingerprint(path) if path.is_dir() else sha256(path.read_bytes()).hexdigest()[:32]


def _has_content(path: Path, wanted: str) -> bool:
    return path.exists() and _hash(path) == wanted


def _make_room(folder: Path, size: int) -> None:
    """Remove what was used least recently, so that so many bytes more leave half of the disk to others."""
    most = shutil.disk_usage(folder).total // 2 - size
    kept = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    sizes = [sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) for path in kept]
    for at, path in enumerate(kept):
        if sum(sizes[at:]) <= most:
            return
        shutil.rmtree(path, ignore_errors=True)  # who has it open keeps it


def _received_folder() -> Path:
    """Where a node keeps what it received; whoever deletes it has it sent again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reflectune" / "received"
