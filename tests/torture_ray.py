"""Runs on a Ray cluster of two nodes; workers, nodes, heads and drivers are killed at random moments.

    python -m tests.torture_ray --kills 30 --seed 0

A driver outlives its workers and a node. One whose head is gone ends with a line that says resume. It is
resumed, like one that was killed, and on a cluster that was started anew. In the end all is as undisturbed.
"""

import random
import signal
import sys
from collections import Counter
from pathlib import Path

from tests.clusters import Nodes, cluster
from tests.lives import Life
from tests.teacher_server import TeacherServer
from tests.torture import NAME, Torture, torture_until

__all__ = ["RayTorture"]

# Where there is no worker to kill, the driver is.
FAULTS = ("worker", "worker", "worker", "node", "head", "driver")


class RayTorture(Torture):
    """Strikes parts of a cluster, drawn from the seed."""

    def __init__(self, folder: Path, teacher: TeacherServer, nodes: Nodes, seed: int) -> None:
        self._nodes, self._random = nodes, random.Random(seed)
        self.struck: Counter[str] = Counter()
        scale = {"engine": "ray", "address": nodes.address, "students": 2, "trainers": 2}
        super().__init__(folder, teacher, **scale)

    def strike(self, life: Life) -> bool:
        """Kill a part; the driver ends by some of them."""
        fault = self._random.choice(FAULTS)
        workers = self._nodes.workers()
        if fault == "worker" and not workers:
            fault = "driver"
        self.struck[fault] += 1
        print(f"  {fault}, in {life.text.splitlines()[-1:]}", file=sys.stderr, flush=True)
        match fault:
            case "worker":
                self._random.choice(workers).kill()
            case "node":
                self._nodes.replace_a_node()
            case "head":
                self._nodes.start_anew()
            case "driver":
                life.send(signal.SIGKILL)
        return fault in ("head", "driver")

    def is_due(self, life: Life, code: int) -> bool:
        """Whether it was killed or came to its end, or says in its last line to resume it.

        One whose head goes in the moment in which it connects is ended by Ray itself, with a stack trace.
        """
        is_told = f"(go on with `reflectune resume {NAME}" in life.text.splitlines()[-1]
        return super().is_due(life, code) or is_told or "Failed to announce driver's port" in life.text


if __name__ == "__main__":
    with cluster() as started:
        torture_until(lambda *given: RayTorture(*given[:2], started, given[2]), __doc__, kills=30)
