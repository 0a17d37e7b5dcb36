"""Serving a run to this machine's browser; what goes wrong is a sentence on a page."""

import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from reflectune.loop.show.html.guard import Guard
from reflectune.loop.show.html.pages import ROUTES
from reflectune.loop.show.html.site import Site, site_of
from reflectune.loop.signals import exit_on_signals
from reflectune.state.errors import ConfigError, ReflectuneError
from reflectune.state.folder import RunFolder

__all__ = ["open_app", "serve"]

_HOST = "127.0.0.1"


def serve(runs: Path, folder: RunFolder, port: int, announce: Callable[[str], None]) -> None:
    """Serve the pages of a run on loopback, until a signal ends it.

    The run can be compared with the others in `runs`. Port 0 takes any that is free, and `announce` is told
    the address once it answers. A port that is taken is a ConfigError.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener, exit_on_signals():
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
            open_app(site, port), log_level="error", access_log=False, server_header=False, date_header=False,
            timeout_graceful_shutdown=1, ws="none",
        )  # fmt: skip
        site.watcher.start()
        announce(f"http://{_HOST}:{port}/")
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            site.watcher.stop()


def open_app(site: Site, port: int) -> Guard:
    """The application of a run's site, guarded for where it listens."""
    app = Starlette(
        routes=ROUTES,
        exception_handlers={
            HTTPException: _explain_refusal,
            **dict.fromkeys((ReflectuneError, sqlite3.Error, OSError), _explain_unreadable),
            Exception: _explain_fault,
        },
    )
    app.router.redirect_slashes = False
    app.state.site = site
    return Guard(app, port)


def _explain_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = "There is no such page." if error.detail == "Not Found" else error.detail
    return site_of(request).refuse(request, error.status_code, "Not found", sentence)


def _explain_unreadable(request: Request, error: Exception) -> Response:
    site = site_of(request)
    advice = site.folder.command("verify")
    return site.refuse(request, 503, "The lineage cannot be read", str(error), advice)


def _explain_fault(request: Request, error: Exception) -> Response:
    """The page of what nobody expected; the guard prints it."""
    sentence = "The server's terminal says why."
    return site_of(request).refuse(request, 500, "This page could not be made", sentence)
