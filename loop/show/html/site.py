"""The run that is served: what pages are made from, and how they are rendered."""

import shlex
import threading
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.templating import Jinja2Templates

from reflectune.loop.show.documents import describe_comparison
from reflectune.loop.show.html.environment import open_environment
from reflectune.loop.show.html.sample_search import address
from reflectune.loop.show.html.watcher import Mark, Snapshot, Watcher, mark_folder
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.documents import RunsCompared

__all__ = ["Site", "missing", "site_of"]


class Site:
    """One run among others of a folder; `watcher.start()` brings its numbers."""

    def __init__(self, runs: Path, folder: RunFolder) -> None:
        self.runs = runs
        self.folder = folder
        self.watcher = Watcher(runs, folder)
        self._compared: dict[str, tuple[Mark, RunsCompared]] = {}
        self._comparing = threading.Lock()
        environment = open_environment()
        environment.globals |= {
            "name": folder.path.name,
            "datasette": shlex.join(["datasette", str(folder.lineage)]),
            "address": address,
        }
        self._templates = Jinja2Templates(env=environment)

    @property
    def snapshot(self) -> Snapshot | None:
        """The run as of the last look at it; None before the first."""
        return self.watcher.snapshot

    def compare(self, other: RunFolder) -> RunsCompared:
        """This run against another, compared anew where either has gone on since."""
        mark = (*mark_folder(self.folder), *mark_folder(other))
        with self._comparing:  # it takes a processor whole
            known = self._compared.get(other.path.name)
            if known is None or known[0] != mark:
                known = mark, describe_comparison(self.folder, other)
                self._compared[other.path.name] = known
            return known[1]

    def render(self, request: Request, template: str, status: int = 200, **context: Any) -> Response:
        """A page from a template."""
        snapshot = self.snapshot
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
