"""Serving a run to this machine's browser, until somebody ends it."""

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from reflectune.loop.show.html.app import open_app
from reflectune.loop.show.html.site import Site
from reflectune.state.errors import ConfigError
from reflectune.state.folder import RunFolder

__all__ = ["serve"]

_HOST = "127.0.0.1"


def serve(runs: Path, folder: RunFolder, port: int, announce: Callable[[str], None]) -> int:
    """Serve the pages of a run on loopback; the number of the signal that ended it, or 0.

    Args:
        runs: the folder that holds the run, whose other runs it can be compared with.
        folder: the run.
        port: where to listen; 0 takes any that is free.
        announce: is told the address once it answers.

    Raises:
        ConfigError: the port is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_HOST, port))
            listener.listen()
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"port {port} of {_HOST} cannot be used: {error}; give another by --port, 0 takes any"
            ) from error
        port = listener.getsockname()[1]
        site = Site(runs, folder)
        config = uvicorn.Config(
            open_app(site, port),
            log_level="error",
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=1,
            ws="none",
        )
        server = _Server(config)
        site.watcher.start()
        announce(f"http://{_HOST}:{port}/")
        try:
            server.run(sockets=[listener])
        finally:
            site.watcher.stop()
    return server.ended_by


class _Server(uvicorn.Server):
    """A server that remembers which signal ended it, instead of dying of it."""

    ended_by = 0

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self.ended_by = self.ended_by or sig
