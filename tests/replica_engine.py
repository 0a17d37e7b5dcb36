"""An engine with the real interface for replicas in tests, of a module that workers can import."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from reflectune.agents.teacher.engines import Request
from reflectune.state.config import StudentConfig
from reflectune.state.errors import TeacherError
from reflectune.state.records import Answer

__all__ = ["NoModel", "open_echo"]


class EchoEngine:
    """Says what it is asked, of how many, and which process says it, in 50 ms.

    Dies or fails where it is asked to.
    """

    name, model, structured, capacity = "transformers", "echo", False, 8
    parameters, waiting, workers = (), "", tuple

    def __init__(self) -> None:
        self._requests: list[Request] = []

    def submit(self, request: Request) -> None:
        self._requests.append(request)

    def next_answer(self) -> Answer:
        number = len(self._requests)
        request = self._requests.pop(0)
        text = request.messages[0]["content"]
        word, _, path = text.partition(" ")
        if word == "die" or (word == "once" and not Path(path).exists()):
            Path(path).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "fail":
            raise TeacherError("teacher echo: it has no voice")
        time.sleep(0.05)
        return Answer(request.id, text=f"{text}|{number}|{os.getpid()}", prompt_tokens=1, completion_tokens=1)

    def has_answer(self) -> bool:
        return False

    def close(self) -> None:
        pass


def open_echo(hold: Path, *settings: Any) -> EchoEngine:
    """Open one, once a file is gone."""
    while hold.exists():
        time.sleep(0.02)
    return EchoEngine()


class NoModel:
    """In the place of a model that is sent to replicas."""

    def receive(self) -> tuple[StudentConfig, None]:
        return StudentConfig(model="none"), None
