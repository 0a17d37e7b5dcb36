"""What workers ask a cluster for, whether it could ever hold them, and what is said while they wait."""

import math
import time
from dataclasses import dataclass

import ray

from reflectune.agents.listener import Listener, StoppedError
from reflectune.state.config import EngineConfig, RunConfig, ScaleConfig
from reflectune.state.errors import ConfigError

__all__ = ["Asked", "Waiting", "ask_for_students", "ask_for_teachers", "refuse_lack"]

_SILENCE = 30.0  # seconds that workers may take to start before a line says so
_ROUNDING = 1e-9  # ten times 0.1 is not quite 1


@dataclass(frozen=True, slots=True)
class Asked:
    """So many workers of a kind, and what each has of a node while it lives."""

    key: str  # of the section scale
    number: int
    gpus: float
    cpus: float

    def __str__(self) -> str:
        return f"scale.{self.key} = {self.number} with {self.place} each"

    @property
    def place(self) -> str:
        """What each asks for, in words."""
        return " and ".join(f"{share:g} {name}" for name, share in self.each.items())

    @property
    def each(self) -> dict[str, float]:
        """What each asks for, by Ray's names."""
        return {name: share for name, share in (("GPU", self.gpus), ("CPU", self.cpus)) if share}


def ask_for_students(config: RunConfig, key: str) -> Asked:
    """What students or trainers ask the connected cluster for."""
    scale = config.scale
    gpus = _gpus_each(scale.gpus_per_student, unset=1)
    return Asked(key, getattr(scale, key), gpus, 1 if gpus else config.student.threads or 1)


def ask_for_teachers(scale: ScaleConfig, config: EngineConfig) -> Asked:
    """What replicas of a teacher ask the connected cluster for."""
    gpus = _gpus_each(scale.gpus_per_teacher, unset=config.tensor_parallel_size or 1)
    return Asked("teachers", scale.teachers, gpus, 1)


def _gpus_each(asked: float | None, unset: float) -> float:
    return asked if asked is not None else unset if ray.cluster_resources().get("GPU") else 0


def refuse_lack(*asked: Asked) -> None:
    """Raise a ConfigError where the cluster could not hold all of them at once, with nobody else there."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    free = [_Free(node.get("CPU", 0), [1.0] * int(node.get("GPU", 0))) for node in nodes]
    for kind in sorted(asked, key=lambda kind: -kind.gpus):
        placed = sum(any(node.take(kind) for node in free) for _ in range(kind.number))
        if placed < kind.number:
            there = " and ".join(f"{sum(node.get(name, 0) for node in nodes):g} {name}" for name in kind.each)
            raise ConfigError(
                f"{' beside '.join(map(str, asked))}: the cluster has {there} on {len(nodes)} nodes, room "
                f"for {placed} {kind.key}; lower scale.{kind.key} or what each asks for, or add nodes"
            )


@dataclass
class _Free:
    """What a node has left."""

    cpus: float
    gpus: list[float]  # of each GPU: a share of one is never of two

    def take(self, kind: Asked) -> bool:
        """Give one worker its place; False where there is none."""
        share = min(kind.gpus, 1.0)
        fit = [at for at, left in enumerate(self.gpus) if left + _ROUNDING >= share]
        wanted = math.ceil(kind.gpus)
        if len(fit) < wanted or self.cpus + _ROUNDING < kind.cpus:
            return False
        for at in fit[:wanted]:
            self.gpus[at] -= share
        self.cpus -= kind.cpus
        return True


class Waiting:
    """Workers that were asked for and have not all answered: that is said once.

    Who has not answered may wait for room, or open its model.
    """

    def __init__(self, asked: Asked, listener: Listener) -> None:
        self._asked, self._listener = asked, listener
        self._began = time.monotonic()
        self._is_said = False

    def look(self, there: int = 0) -> None:
        """Call it every now and then while so many have answered, fewer than were asked for.

        Raises:
            StoppedError: none has answered, and somebody asked to stop.
        """
        if not there and self._listener.stopping():
            raise StoppedError(f"stopped before {self._asked} answered")
        if not self._is_said and time.monotonic() - self._began > _SILENCE:
            self._is_said = True
            answered = f"{there} of them have answered" if there else "none has answered yet"
            self._listener.say(f"{self._asked}: {answered}; {_describe_room(self._asked)}; waiting for them")


def _describe_room(kind: Asked) -> str:
    has, free = ray.cluster_resources(), ray.available_resources()
    there = " and ".join(f"{has.get(name, 0):g} {name}, {free.get(name, 0):g} free" for name in kind.each)
    return f"the cluster has {there}"
