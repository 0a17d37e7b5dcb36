"""The pages of the browser: each a function from a request to an answer."""

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from reflectune.loop.show.alarms import list_alarms, tabulate_alarms
from reflectune.loop.show.comparison import explain_comparable, tabulate_runs
from reflectune.loop.show.documents import open_lineage
from reflectune.loop.show.explanations import (
    explain_best,
    explain_rule,
    explain_unknown,
    policy_of,
    sum_seconds,
)
from reflectune.loop.show.html.environment import STATIC
from reflectune.loop.show.html.sample_search import LABELS, MAX_COUNTED, PAGE_ROWS, SampleSearch, address
from reflectune.loop.show.html.site import missing, site_of
from reflectune.loop.show.html.texts import cut_text, cut_texts, shorten_turns
from reflectune.loop.show.html.watcher import Snapshot
from reflectune.loop.show.journey import TEXTS, build_journey
from reflectune.loop.show.workers import tabulate_stages, tabulate_workers
from reflectune.state.errors import StoreError
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.index import SampleIndex
from reflectune.state.lineage.reader import LineageReader, deciding_round
from reflectune.state.records import OUTCOMES, PHASES
from reflectune.state.text import to_json

__all__ = ["ROUTES"]

# Questions that people come with, and the lists that answer them.
_QUESTIONS: Mapping[str, Mapping[str, str]] = {
    "Proposals taken with the largest rise of IFD": {
        "phase": "instruction", "outcome": "accepted", "sort": "ifd_change", "order": "down",
    },
    "Proposals taken with the deepest fall of r-IFD": {
        "phase": "response", "outcome": "accepted", "sort": "r_ifd_change", "order": "up",
    },
    "Narrow refusals in phase instruction: IFD better by no more than the margin, or a little worse": {
        "phase": "instruction", "outcome": "refused", "max_ifd_change": "{margin:g}",
        "sort": "ifd_change", "order": "down",
    },
    "Narrow refusals in phase response: r-IFD better by no more than the margin, or a little worse": {
        "phase": "response", "outcome": "refused", "min_r_ifd_change": "{minus:g}",
        "sort": "r_ifd_change", "order": "up",
    },
    "Reflections that failed": {"outcome": "failed"},
    "Responses that grew most": {"sort": "length_growth", "order": "down"},
}  # fmt: skip


def _once_read(page: Callable[[Request, Snapshot], Response]) -> Callable[[Request], Response]:
    """A page that shows a run as of the last look at it; before the first, another says to wait."""

    def answer(request: Request) -> Response:
        site = site_of(request)
        snapshot = site.watcher.snapshot
        return page(request, snapshot) if snapshot else site.render(request, "preparing.html")

    return answer


def _overview(request: Request, snapshot: Snapshot) -> Response:
    """What the run is, its rounds, charts, and where to look."""
    margin = snapshot.run["settings"]["config"].get("selection", {}).get("margin", 0.0)
    came = {
        place
        for (_, phase), counts in snapshot.outcomes.items()
        for outcome in counts
        for place in ((phase, outcome), (None, outcome))
    }
    live = snapshot.live
    questions = {
        label: address(
            **{name: text.format(margin=margin, minus=-margin or 0.0) for name, text in asked.items()}
        )
        for label, asked in _QUESTIONS.items()
        if ("outcome" not in asked or (asked.get("phase"), asked["outcome"]) in came)
        and asked.get("sort", "position") in ("position", *snapshot.known)
    }
    return site_of(request).render(
        request,
        "overview.html",
        snapshot=snapshot,
        at_work=[] if live is None else [tabulate_stages(live["stages"]), tabulate_workers(live["workers"])],
        best=explain_best(snapshot.run["best"]),
        firing=list_alarms(snapshot.run["rounds"]),
        alarms=tabulate_alarms(snapshot.run["rounds"]),
        questions=questions,
        unknown=_explain_unknown(snapshot).values(),
        seconds=sum(map(sum_seconds, snapshot.run["rounds"])),
    )


def _explain_unknown(snapshot: Snapshot) -> dict[str, str]:
    return explain_unknown(policy_of(snapshot.run["settings"]), snapshot.known)


def _rounds(request: Request, snapshot: Snapshot) -> Response:
    """Every round, with all its numbers."""
    return site_of(request).render(request, "rounds.html", snapshot=snapshot)


def _round(request: Request, snapshot: Snapshot) -> Response:
    """One round: phases by outcome, teacher calls by status, held-out measures, training set, cost, time."""
    number = _number(request, "round")
    rounds = {row["round"]: row for row in snapshot.run["rounds"]}
    last = max(rounds, default=0)
    if number not in rounds:
        raise missing(f"This run has no round {number}; its rounds are 0, the given data, to {last}.")
    return site_of(request).render(
        request,
        "round.html",
        snapshot=snapshot,
        number=number,
        round=rounds[number],
        deciding=rounds.get(deciding_round(snapshot.run["settings"], number)),
        last=last,
        evaluations=[row for row in snapshot.run["evaluations"] if row["round"] == number],
        outcomes={phase: snapshot.outcomes.get((number, phase), {}) for phase in PHASES},
        rules={phase: explain_rule(snapshot.run["settings"], phase) for phase in PHASES},
    )


def _samples(request: Request, snapshot: Snapshot) -> Response:
    """The samples that the address asks for."""
    site, search = site_of(request), SampleSearch(request.query_params)
    found = {"rows": [], "count": 0, "is_cut": False} if search.problems else _find(site.folder, search)
    return site.render(
        request,
        "samples.html",
        status=400 if search.problems else 200,
        snapshot=snapshot,
        search=search,
        most=MAX_COUNTED,
        page_rows=PAGE_ROWS,
        unknown=_explain_unknown(snapshot).get(search.change or ""),
        labels=LABELS,
        outcomes=OUTCOMES,
        **found,
    )


def _find(folder: RunFolder, search: SampleSearch) -> dict[str, Any]:
    with SampleIndex.open(folder) as index:
        rows = index.find(search.query)
        is_last = len(rows) < PAGE_ROWS and (rows or search.page == 1)
        count = search.query.offset + len(rows) if is_last else index.count(search.query, MAX_COUNTED + 1)
        return {"rows": rows, "count": count, "is_cut": index.is_cut(search.query)}


def _sample(request: Request) -> Response:
    """The journey of one sample."""
    site, side = site_of(request), request.query_params.get("view") == "side"
    with open_lineage(site.folder) as lineage:
        sample = _find_sample(lineage, request)
        trace, calls = lineage.trace(sample), lineage.calls(sample)
        snapshot = site.watcher.snapshot
        last = sum((snapshot.run["samples"] if snapshot else lineage.samples()).values()) - 1
    return site.render(
        request,
        "sample.html",
        journey=build_journey(trace, calls),
        last=last,
        texts=cut_texts,
        turns=shorten_turns,
        shorten=cut_text,
        sample_address=f"/samples/{trace['position']}",
        side=side,
    )


def _version_text(request: Request) -> Response:
    """One text of a version, whole."""
    wanted, name = request.path_params["version"], request.path_params["field"]
    with open_lineage(site_of(request).folder) as lineage:
        trace = lineage.trace(_find_sample(lineage, request))
    for version in trace["versions"]:
        if version["id"] == wanted and name in (*TEXTS, "criticism"):
            return _plain(str(dict(version)["critique" if name == "criticism" else name] or ""))
    raise missing(f"Sample {trace['position']} has no {name} of a version {wanted}.")


def _context_text(request: Request) -> Response:
    """The turns before a sample's exchange, whole."""
    with open_lineage(site_of(request).folder) as lineage:
        return _plain(to_json(lineage.trace(_find_sample(lineage, request))["context"], indent=1))


def _call_text(request: Request) -> Response:
    """What the teacher answered, whole."""
    wanted = request.path_params["call"]
    with open_lineage(site_of(request).folder) as lineage:
        calls = {call["id"]: call for call in lineage.calls(_find_sample(lineage, request))}
    if wanted in calls:
        return _plain(calls[wanted]["text"])
    raise missing(f"Sample {request.path_params['position']} has no teacher call {wanted}.")


def _plain(text: str) -> Response:
    return Response(text.encode("utf-8", errors="replace"), media_type="text/plain")


def _find_sample(lineage: LineageReader, request: Request) -> str:
    """The id of the sample at the position that is asked for."""
    try:
        return lineage.find_sample(str(_number(request, "position")))
    except StoreError as error:
        raise missing(f"There is {error}.") from error


def _number(request: Request, name: str) -> int:
    """A whole number in the path."""
    text: str = request.path_params[name]
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return int(text)
    raise missing(f"There is no {name} {text[:40]}.")


def _chart(request: Request) -> Response:
    """One chart."""
    name, snapshot = request.path_params["name"], site_of(request).watcher.snapshot
    for chart in snapshot.charts or () if snapshot else ():
        if chart.name == name:
            return Response(chart.svg, media_type="image/svg+xml")
    raise missing(f"There is no chart called {name}.")


def _runs(request: Request) -> Response:
    """The runs of the folder."""
    return site_of(request).render(request, "runs.html", runs=site_of(request).watcher.runs)


def _compare(request: Request) -> Response:
    """This run against another."""
    site = site_of(request)
    try:
        other = RunFolder.find(site.runs, request.path_params["other"])
    except StoreError as error:
        raise missing(f"{error}.") from error
    if other.path.name == site.folder.path.name:
        raise missing("A run cannot be compared with itself.")
    as_of, document = site.compare(other)
    if document is None:
        return site.render(request, "preparing.html", other=other.path.name)
    if isinstance(document, str):
        return site.refuse(request, 503, "They cannot be compared", document)
    sections, comparable = tabulate_runs(document), explain_comparable(document)
    return site.render(
        request, "compare.html", other=other.path.name, document=document, sections=sections,
        comparable=comparable, as_of=as_of,
    )  # fmt: skip


_ANY_SAMPLE = "/samples/{position}"
ROUTES = [
    Route("/", _once_read(_overview)),
    Route("/rounds", _once_read(_rounds)),
    Route("/rounds/{round}", _once_read(_round)),
    Route("/samples", _once_read(_samples)),
    Route(_ANY_SAMPLE, _sample),
    Route(_ANY_SAMPLE + "/versions/{version}/{field}.txt", _version_text),
    Route(_ANY_SAMPLE + "/context.txt", _context_text),
    Route(_ANY_SAMPLE + "/calls/{call}.txt", _call_text),
    Route("/charts/{name}.svg", _chart),
    Route("/runs", _runs),
    Route("/compare/{other}", _compare),
    Mount("/static", StaticFiles(directory=STATIC)),
]
