"""The run that is served: what pages are made from, and how they are rendered."""

import shlex
import sqlite3
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.templating import Jinja2Templates

from reflectune.loop.show.documents import describe_comparison
from reflectune.loop.show.html.environment import open_environment
from reflectune.loop.show.html.sample_search import address
from reflectune.loop.show.html.watcher import Mark, Watcher, mark_folder
from reflectune.state.errors import ReflectuneError
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.documents import RunsCompared
from reflectune.state.text import one_line

__all__ = ["Site", "missing", "site_of"]

_PATIENCE = 0.1  # seconds that a page waits for a comparison
# When two runs were compared, and what came of it: the document, or why there is none.
Compared = tuple[datetime | None, RunsCompared | str | None]


class Site:
    """One run among others of a folder; `watcher.start()` brings its numbers."""

    def __init__(self, runs: Path, folder: RunFolder) -> None:
        self.runs = runs
        self.folder = folder
        self.watcher = Watcher(runs, folder)
        self._asking, self._busy = threading.Lock(), threading.Lock()
        self._comparing: dict[str, tuple[Mark, threading.Thread]] = {}
        self._compared: dict[str, Compared] = {}
        environment = open_environment()
        environment.globals |= {
            "name": folder.path.name,
            "datasette": shlex.join(["datasette", str(folder.lineage)]),
            "address": address,
        }
        self._templates = Jinja2Templates(env=environment)

    def compare(self, other: RunFolder) -> Compared:
        """This run against another as last compared, or why it cannot be; None before the first time.

        Where either has gone on since, they are compared anew beside the pages.
        """
        name, mark = other.path.name, (*mark_folder(self.folder), *mark_folder(other))
        with self._asking:
            last, work = self._comparing.get(name, (None, None))
            if work is None or (not work.is_alive() and last != mark):
                work = threading.Thread(target=self._compare, args=(other,), name="comparison", daemon=True)
                work.start()
                self._comparing[name] = mark, work
        work.join(_PATIENCE)
        return self._compared.get(name, (None, None))

    def _compare(self, other: RunFolder) -> None:
        with self._busy:  # a comparison takes a processor whole
            as_of = datetime.now().astimezone()
            try:
                found: RunsCompared | str = describe_comparison(self.folder, other)
            except Exception as error:  # noqa: BLE001 (its page says so, and the thread ends)
                is_known = isinstance(error, (ReflectuneError, sqlite3.Error, OSError))
                found = one_line(str(error) if is_known else f"unexpected {type(error).__name__}: {error}")
            self._compared[other.path.name] = as_of, found

    def render(self, request: Request, template: str, status: int = 200, **context: Any) -> Response:
        """A page from a template."""
        snapshot = self.watcher.snapshot
        context = {"as_of": snapshot and snapshot.as_of, "problem": self.watcher.problem} | context
        return self._templates.TemplateResponse(request, template, context, status)

    def refuse(self, request: Request, status: int, title: str, sentence: str, advice: str = "") -> Response:
        """A page that says why there is no other."""
        said = {"title": title, "sentence": sentence, "advice": advice, "problem": None, "as_of": None}
        return self.render(request, "message.html", status, **said)


def site_of(request: Request) -> Site:
    """The site that a request is made to."""
    site: Site = request.app.state.site
    return site


def missing(sentence: str) -> HTTPException:
    """What is raised where there is nothing to show; its sentence is for the page."""
    return HTTPException(404, sentence)
