"""Everything that is served about a run as one application, and what goes wrong as a sentence."""

import sqlite3

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from reflectune.loop.show.html.guard import Guard
from reflectune.loop.show.html.pages import ROUTES
from reflectune.loop.show.html.site import Site, site_of
from reflectune.state.errors import ReflectuneError

__all__ = ["open_app"]


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
    advice = f"reflectune verify {site.folder.path.name}"
    return site.refuse(request, 503, "The lineage cannot be read", str(error), advice)


def _explain_fault(request: Request, error: Exception) -> Response:
    """The page of what nobody expected; the guard prints it."""
    return site_of(request).refuse(
        request, 500, "This page could not be made", "The server's terminal says why."
    )
