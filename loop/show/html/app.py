"""Everything that is served about a run as one application: addresses, and what goes wrong as a sentence."""

import sqlite3

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from reflectune.loop.show.html import pages
from reflectune.loop.show.html.environment import STATIC
from reflectune.loop.show.html.guard import Guard
from reflectune.loop.show.html.site import Site, site_of
from reflectune.state.errors import ReflectuneError

__all__ = ["open_app"]

_SAMPLE = "/samples/{position}"
_ROUTES = [
    Route("/", pages.overview),
    Route("/rounds", pages.all_rounds),
    Route("/rounds/{round}", pages.one_round),
    Route("/samples", pages.samples),
    Route(_SAMPLE, pages.sample),
    Route(_SAMPLE + "/versions/{version}/{field}.txt", pages.version_text),
    Route(_SAMPLE + "/calls/{call}.txt", pages.call_text),
    Route("/charts/{name}.svg", pages.chart),
    Route("/runs", pages.runs),
    Route("/compare/{other}", pages.compare),
    Route("/favicon.ico", pages.icon),
    Mount("/static", StaticFiles(directory=STATIC)),
]


def open_app(site: Site, port: int) -> Guard:
    """The application of a run's site, guarded for where it listens."""
    app = Starlette(
        routes=_ROUTES,
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
