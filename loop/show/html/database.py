"""A run's lineage in Datasette: its tables, facets, SQL and JSON, read only, with our pages as a plugin."""

import asyncio
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any

from jinja2 import BaseLoader, Environment

from reflectune.loop.show.html.guard import Guard, csp_nonce
from reflectune.loop.show.html.site import Asked, Page, Site, View
from reflectune.loop.show.html.unplugged import (
    Base400,
    Database,
    Datasette,
    DatasetteError,
    QueryInterrupted,
    Response,
    hookimpl,
    pm,
)
from reflectune.loop.show.html.views import PAGES
from reflectune.state.errors import StoreError
from reflectune.state.lineage.writer import connect_read_only
from reflectune.state.text import one_line

__all__ = ["open_app"]

NAME = "lineage"
_SETTINGS = {
    "allow_download": False,  # the file alone may lack what is still in its write-ahead log
    "default_cache_ttl": 0,
    "default_page_size": 50,
    "num_sql_threads": 3,
    "suggest_facets": False,  # asks for every column of every page
    "truncate_cells_html": 500,
}
# Datasette counts rows for the heading of a page; what takes longer goes without.
_COUNTING = re.compile(r"select (count\(\*\) |\(select count\(\*\) )")
_COUNTING_MS = 40
# What the database may take until rows are there, and until their number and facets are, in seconds: rows are
# worth waiting for.
_ROWS_SECONDS, _REST_SECONDS = 1.0, 0.13
# What each of a page's questions has in any case: most only ask for what tables and columns there are.
_LEAST_MS = 20
_BEGAN: ContextVar[float] = ContextVar("began")  # when the request came
# Bytes of one value or row: no function of SQL makes larger ones, and the largest texts have half of it.
_MOST_BYTES = 20_000_000
_TAG = re.compile(r"<(script|style)\b")
# An editor that writes styles of its own into the page, which ours may not; a plain field does as well.
_LEFT_OUT = ("_codemirror.html", "_codemirror_foot.html")
_BETTER = {
    "<html>": '<html lang="en">',
    '<section class="content">': '<main><section class="content">',
    "</section>": "</section></main>",
    '<textarea id="sql-editor"': '<textarea id="sql-editor" aria-label="SQL" spellcheck="false"',
}
# A spreadsheet takes cells of CSV for formulas, and these are anybody's texts; JSON has the same rows.
_CSV = re.compile(
    r', <a href="{{ url_csv }}">CSV</a>( \(<a href="#export">advanced</a>\))?'
    r'|<form action="{{ url_csv_path }}".*?</form>',
    re.DOTALL,
)
_UNNAMED = re.compile(r'<(?:select|input type="text") name="(_[a-z_]+?)(?:_\{\{ loop.index \}\})?"')


class _Lineage(Database):  # type: ignore[misc] # no annotations
    """The lineage as Datasette reads it: a connection a thread, to the file that lies there now.

    None can write.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._opened = threading.local()

    def connect(self, write: bool = False) -> sqlite3.Connection:
        if write:
            raise StoreError("the lineage is only read here")
        connection = connect_read_only(self.ds.site.folder.lineage).conn
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_BYTES)
        return connection

    async def execute(self, sql: str, *args: Any, **options: Any) -> Any:
        is_count = _COUNTING.match(sql) is not None
        asked = _COUNTING_MS if is_count else options.get("custom_time_limit")  # facets ask for some
        seconds = _ROWS_SECONDS if asked is None else _REST_SECONDS
        left = max(_LEAST_MS, round(1000 * (_BEGAN.get() + seconds - time.monotonic())))
        options |= {"custom_time_limit": left if asked is None else min(asked, left), "log_sql_errors": False}
        return await super().execute(sql, *args, **options)

    async def execute_fn(self, fn: Callable[[sqlite3.Connection], Any]) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.ds.executor, lambda: fn(self._connection()))

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection; a new one where another file has taken the lineage's place."""
        stat, known = self.ds.site.folder.lineage.stat(), self._opened
        file = stat.st_dev, stat.st_ino
        if getattr(known, "file", None) != file:
            connection = self.connect()
            self.ds._prepare_connection(connection, self.name)
            if hasattr(known, "connection"):
                known.connection.close()
            known.connection, known.file = connection, file
        return known.connection  # type: ignore[no-any-return]


class Browser(Datasette):  # type: ignore[misc] # no annotations
    """Datasette over one run."""

    def __init__(self, site: Site) -> None:
        self.site = site
        if not pm.is_registered(_PLUGIN):
            pm.register(_PLUGIN)
        super().__init__(memory=False, files=[], settings=_SETTINGS, metadata=_describe(site))
        self.remove_database("_memory")
        self.add_database(_Lineage(self, str(site.folder.lineage)), name=NAME)


def open_app(site: Site, port: int) -> Guard:
    """Everything that is served about a run, as one ASGI application."""
    app = Browser(site).app()

    async def answer_in_time(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        _BEGAN.set(time.monotonic())
        await app(scope, receive, send)

    return Guard(answer_in_time, port, lenient=f"/{NAME}")


def _describe(site: Site) -> dict[str, Any]:
    title = f"{site.folder.path.name}: the lineage"
    described = {
        "runs": "The run: its configuration and status.",
        "rounds": "Rounds with their students; round 0 is the given data. metrics has seconds by step.",
        "samples": "The given samples by position, in the pool (train) or held out.",
        "versions": "Every pair that a sample had or was offered, with its parent.",
        "teacher_calls": "What the teacher was asked and wrote; seconds, and cost in US dollars.",
        "students": "The base student and what each round's refinetune made of it.",
        "scores": "Sums of log-probabilities in nats, by version, student and term.",
        "decisions": "What was decided about each sample in each phase, and why.",
        "training_sets": "The versions that each round trained on.",
        "evaluations": "Held-out measures with their 95 % intervals.",
        "config_changes": "Keys of the configuration that were changed after the run began.",
        "evolution": "Every version of every sample, with scores and outcome; by position, or by sample_id.",
        "pair_scores": "IFD, r-IFD and mean negative log-likelihoods, nats per token, a version and student.",
        "round_summary": "Decisions by reason, one row a round and phase. On a large run it takes longer "
        "than is allowed here; /rounds has its numbers at once.",
    }
    tables: dict[str, dict[str, Any]] = {name: {"description": text} for name, text in described.items()}
    tables["_sqlite_migrations"] = {"hidden": True}
    return {"title": title, "databases": {NAME: {"title": title, "tables": tables}}}


class _Plugin:
    """Our pages among Datasette's; its hooks leave any other Datasette in this process alone."""

    __name__ = "reflectune-pages"  # no module's: Datasette would look for templates and files in it

    @hookimpl  # type: ignore[untyped-decorator]
    def register_routes(self, datasette: Any) -> list[tuple[str, Callable[..., Awaitable[Any]]]]:
        if not isinstance(datasette, Browser):
            return []
        return [(pattern, _route(view)) for pattern, view in PAGES.items()]

    @hookimpl  # type: ignore[untyped-decorator]
    def prepare_jinja2_environment(self, env: Environment, datasette: Any) -> None:
        if isinstance(datasette, Browser) and env.loader is not None:
            env.loader = _Marked(env.loader)
            env.globals["csp_nonce"] = csp_nonce

    @hookimpl  # type: ignore[untyped-decorator]
    def extra_css_urls(self, datasette: Any) -> list[str]:
        return ["/static/database.css"] if isinstance(datasette, Browser) else []

    @hookimpl(wrapper=True)  # type: ignore[untyped-decorator]
    def handle_exception(self, datasette: Any, request: Any, exception: Exception) -> Any:
        # Datasette's own handler prints the whole stack with all its variables.
        responses = yield
        if not isinstance(datasette, Browser):
            return responses
        status, title, sentence = _explain(exception, datasette.site)
        if request.path.partition("?")[0].endswith(".json"):
            return [Response.json({"ok": False, "status": status, "error": sentence}, status=status)]
        return [_respond(datasette.site.refuse(status, title, sentence))]


_PLUGIN = _Plugin()


class _Marked(BaseLoader):
    """Datasette's templates with their own scripts and styles marked as theirs, and their fields named.

    Only the sources of templates are touched, never what is put into them.
    """

    def __init__(self, inner: BaseLoader) -> None:
        self._inner = inner

    def get_source(
        self, environment: Environment, template: str
    ) -> tuple[str, str | None, Callable[[], bool] | None]:
        source, filename, is_current = self._inner.get_source(environment, template)
        if template in _LEFT_OUT:
            return "", filename, is_current
        source = _TAG.sub(r'<\1 nonce="{{ csp_nonce() }}"', source)
        for plain, better in _BETTER.items():
            source = source.replace(plain, better)
        source = _CSV.sub("", source)
        return _UNNAMED.sub(_name_field, source), filename, is_current

    def list_templates(self) -> list[str]:
        return self._inner.list_templates()


def _name_field(match: re.Match[str]) -> str:
    words = match[1].strip("_").replace("_", " ").replace("op", "comparison")
    return f'{match[0]} aria-label="{words}"'


def _route(view: View) -> Callable[..., Awaitable[Any]]:
    async def answer(request: Any, datasette: Browser) -> Any:
        asked = Asked(request.url_vars, _last_values(request.args))
        return _respond(await asyncio.to_thread(datasette.site.answer, view, asked))

    return answer


def _last_values(args: Any) -> Mapping[str, str]:
    return {key: args.getlist(key)[-1] for key in args}


def _respond(page: Page) -> Any:
    return Response(page.body, page.status, dict(page.headers), page.kind)


def _explain(exception: Exception, site: Site) -> tuple[int, str, str]:
    """Status, heading and one sentence for whatever went wrong in Datasette's own pages."""
    lineage = site.folder.lineage
    if not lineage.exists():
        return 503, "The lineage is gone", f"{lineage} is not there any more."
    if isinstance(exception, QueryInterrupted) or getattr(exception, "title", "") == "SQL Interrupted":
        return (
            400,
            "This takes too long",
            f"The database has {_ROWS_SECONDS:g} s for rows: ask for fewer, by a round or a sample, or put "
            "the question to the sqlite3 shell, which has no limit. /rounds and /samples know at once what "
            "became of the samples.",
        )
    text = one_line(str(getattr(exception, "message", None) or exception))
    if isinstance(exception, sqlite3.DataError):
        return (
            400,
            "This is too large",
            f"{text[:1].upper()}{text[1:]}: more than {_MOST_BYTES:,d} bytes. The page of a sample links to "
            "its texts, whatever their length.",
        )
    if isinstance(exception, DatasetteError | ValueError):  # of what was asked, whatever status it has
        return 400, getattr(exception, "title", None) or "Not as asked", text
    if isinstance(exception, Base400):
        return exception.status, "There is no such page", f"Nothing is found here: {text}."
    if isinstance(exception, sqlite3.Error | OSError | StoreError):
        return 503, "The lineage cannot be read", f"{lineage}: {text}"
    print(one_line(f"reflectune: {type(exception).__name__}: {exception}"), file=sys.stderr)  # noqa: T201
    return 500, "This page could not be made", "The server's terminal says why."
