"""What is served about one run: its pages are asked for here, and what goes wrong becomes a sentence."""

import hashlib
import os
import sqlite3
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reflectune.loop.show.html.comparisons import Comparisons
from reflectune.loop.show.html.environment import PAGES as FOLDER
from reflectune.loop.show.html.environment import open_environment
from reflectune.loop.show.html.guard import csp_nonce
from reflectune.loop.show.html.watcher import Watcher
from reflectune.state.errors import ReflectuneError
from reflectune.state.folder import RunFolder
from reflectune.state.text import one_line

__all__ = ["Asked", "Missing", "Page", "Refused", "Site", "View"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks of a page."""

    path: Mapping[str, str]  # the parts of the path that vary
    args: Mapping[str, str]  # of several values under one name, the last


@dataclass(frozen=True, slots=True)
class Page:
    """An answer."""

    body: str | bytes
    status: int = 200
    kind: str = "text/html; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """A request that cannot be answered as it is asked; its message is a sentence for the page."""

    status = 400
    title = "Not as asked"


class Missing(Refused):
    """What was asked for is not there."""

    status = 404
    title = "Not found"


class Site:
    """The pages of one run, and what they are made from."""

    def __init__(self, runs: Path, folder: RunFolder) -> None:
        """Prepare the pages of a run among others of a folder; `watcher.start()` brings their numbers."""
        self.runs = runs
        self.folder = folder
        self.watcher = Watcher(runs, folder)
        self.comparisons = Comparisons(folder)
        self._environment = open_environment()
        self._environment.globals |= {
            "csp_nonce": csp_nonce,
            "name": folder.path.name,
            "style": f"/static/style.css?{_hash(FOLDER / 'static' / 'style.css')}",
            "script": f"/static/page.js?{_hash(FOLDER / 'static' / 'page.js')}",
        }

    def answer(self, view: "View", asked: Asked) -> Page:
        """The page that a view makes, or one that says in a sentence why there is none."""
        try:
            return view(self, asked)
        except Refused as refusal:
            return self.refuse(refusal.status, refusal.title, str(refusal))
        except (ReflectuneError, sqlite3.Error, OSError) as error:
            return self.refuse(
                503, "The lineage cannot be read", str(error), f"reflectune verify {self.folder.path.name}"
            )
        except Exception as error:  # noqa: BLE001 (the last resort: one sentence instead of a traceback)
            print(one_line(f"reflectune: {view.__name__}: {type(error).__name__}: {error}"), file=sys.stderr)  # noqa: T201
            if os.environ.get("REFLECTUNE_DEBUG"):
                traceback.print_exc()
            return self.refuse(500, "This page could not be made", "The server's terminal says why.")

    def render(self, template: str, status: int = 200, **context: Any) -> Page:
        """A page from a template."""
        snapshot = self.watcher.snapshot
        context = {"as_of": snapshot and snapshot.as_of, "problem": self.watcher.problem} | context
        return Page(self._environment.get_template(template).render(context), status)

    def refuse(self, status: int, title: str, sentence: str, advice: str = "") -> Page:
        """A page that says why there is no other."""
        return self.render(
            "message.html", status, title=title, sentence=sentence, advice=advice, problem=None, as_of=None
        )


View = Callable[[Site, Asked], Page]


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]
