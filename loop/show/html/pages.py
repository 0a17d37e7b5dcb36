"""The pages of the browser: each a function from a request to an answer."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from reflectune.loop.show.documents import open_lineage
from reflectune.loop.show.explanations import unit_of
from reflectune.loop.show.html.comparisons import Compared
from reflectune.loop.show.html.environment import STATIC
from reflectune.loop.show.html.sample_search import LABELS, MAX_COUNTED, PAGE_ROWS, SampleSearch, address
from reflectune.loop.show.html.site import missing, site_of
from reflectune.loop.show.html.texts import cut_text, cut_texts
from reflectune.loop.show.html.watcher import Snapshot
from reflectune.loop.show.journey import TEXTS, build_journey
from reflectune.state.errors import StoreError
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.documents import FoundSample
from reflectune.state.lineage.index import SampleIndex
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import OUTCOMES, PHASES

__all__ = [
    "all_rounds",
    "call_text",
    "chart",
    "compare",
    "icon",
    "one_round",
    "overview",
    "runs",
    "sample",
    "samples",
    "version_text",
]

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


def overview(request: Request) -> Response:
    """What the run is, its rounds, charts, and where to look."""
    site = site_of(request)
    snapshot = site.snapshot
    return site.render(
        request,
        "overview.html",
        snapshot=snapshot,
        questions=_questions(snapshot),
        unknown=_unknown(snapshot),
        address=address,
    )


def _questions(snapshot: Snapshot | None) -> list[tuple[str, str]]:
    """The questions whose lists can have rows, with their addresses."""
    if snapshot is None:
        return []
    margin = snapshot.settings["config"].get("selection", {}).get("margin", 0.0)
    came = {
        place
        for (_, phase), counts in snapshot.outcomes.items()
        for outcome in counts
        for place in ((phase, outcome), (None, outcome))
    }
    return [
        (
            label,
            address(
                **{
                    name: value.format(margin=margin, minus=-margin or 0.0)
                    for name, value in question.items()
                }
            ),
        )
        for label, question in _QUESTIONS.items()
        if ("outcome" not in question or (question.get("phase"), question["outcome"]) in came)
        and question.get("sort", "position") in ("position", *snapshot.known)
    ]


def _unknown(snapshot: Snapshot | None) -> Mapping[str, str]:
    """Why no row has a change of IFD or of r-IFD, where none has."""
    if snapshot is None:
        return {}
    policy = snapshot.settings["config"].get("selection", {}).get("policy", "ifd+r-ifd")
    changes = (("ifd_change", "instruction", "IFD"), ("r_ifd_change", "response", "r-IFD"))
    return {
        name: f"no two values of {measure} have been compared yet"
        if unit_of(policy, phase) == measure
        else f"policy {policy} compares no {measure} in phase {phase}"
        for name, phase, measure in changes
        if name not in snapshot.known
    }


def all_rounds(request: Request) -> Response:
    """Every round, with all its numbers."""
    site = site_of(request)
    snapshot = site.snapshot
    return site.render(request, "rounds.html", snapshot=snapshot, address=address)


def one_round(request: Request) -> Response:
    """One round: phases by outcome, teacher calls by status, held-out measures, training set, cost, time."""
    site, number = site_of(request), _number(request, "round")
    snapshot = site.snapshot
    if snapshot is None:
        return site.render(request, "round.html", snapshot=None, number=number)
    round = next((row for row in snapshot.rounds if row["round"] == number), None)
    if round is None:
        last = snapshot.rounds[-1]["round"] if snapshot.rounds else 0
        raise missing(f"This run has no round {number}; its rounds are 0, the given data, to {last}.")
    before = next((row for row in snapshot.rounds if row["round"] == number - 1), None)
    return site.render(
        request,
        "round.html",
        snapshot=snapshot,
        number=number,
        round=round,
        before=before,
        last=snapshot.rounds[-1]["round"],
        evaluations=[row for row in snapshot.evaluations if row["round"] == number],
        outcomes={phase: snapshot.outcomes.get((number, phase), {}) for phase in PHASES},
        address=address,
    )


def samples(request: Request) -> Response:
    """The samples that the address asks for."""
    site, search = site_of(request), SampleSearch(request.query_params)
    snapshot = site.snapshot
    rows: list[FoundSample] = []
    count, is_cut = 0, False
    if snapshot is not None and not search.problems:
        with SampleIndex.open(site.folder) as index:
            rows = index.find(search.query)
            is_cut = index.is_cut(search.query)
            is_last = len(rows) < PAGE_ROWS and (rows or search.page == 1)
            count = search.query.offset + len(rows) if is_last else index.count(search.query, MAX_COUNTED + 1)
    return site.render(
        request,
        "samples.html",
        status=400 if search.problems else 200,
        snapshot=snapshot,
        search=search,
        rows=rows,
        count=min(count, MAX_COUNTED),
        is_more=count > MAX_COUNTED,
        is_cut=is_cut,
        unknown=_unknown(snapshot).get(search.change or ""),
        pages=max(1, -(-min(count, MAX_COUNTED) // PAGE_ROWS)),
        phase_anchor="-response" if search.query.phase == "response" else "",
        first=search.query.offset + 1,
        labels=LABELS,
        outcomes=OUTCOMES,
        rounds=[row["round"] for row in snapshot.rounds] if snapshot else [],
    )


def sample(request: Request) -> Response:
    """The journey of one sample."""
    site, side = site_of(request), request.query_params.get("view") == "side"
    with open_lineage(site.folder) as lineage:
        sample = _find_sample(lineage, request)
        trace, calls = lineage.trace(sample), lineage.calls(sample)
        snapshot = site.snapshot
        last = sum((snapshot.split if snapshot else lineage.samples()).values()) - 1
    position = trace["position"]
    return site.render(
        request,
        "sample.html",
        journey=build_journey(trace, calls),
        texts=cut_texts,
        shorten=cut_text,
        sample_address=f"/samples/{position}",
        side=side,
        query="?view=side" if side else "",
        previous=position - 1 if position else None,
        next=position + 1 if position < last else None,
    )


def version_text(request: Request) -> Response:
    """One text of a version, whole."""
    wanted, name = request.path_params["version"], request.path_params["field"]
    with open_lineage(site_of(request).folder) as lineage:
        trace = lineage.trace(_find_sample(lineage, request))
    version = next((version for version in trace["versions"] if version["id"] == wanted), None)
    if version is None or name not in (*TEXTS, "criticism"):
        raise missing(f"Sample {trace['position']} has no {name} of a version {wanted}.")
    return _plain(str(dict(version)["critique" if name == "criticism" else name] or ""))


def call_text(request: Request) -> Response:
    """What the teacher answered, whole."""
    wanted = request.path_params["call"]
    with open_lineage(site_of(request).folder) as lineage:
        calls = lineage.calls(_find_sample(lineage, request))
    call = next((call for call in calls if call["id"] == wanted), None)
    if call is None:
        raise missing(f"Sample {request.path_params['position']} has no teacher call {wanted}.")
    return _plain(call["text"])


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


def chart(request: Request) -> Response:
    """One chart."""
    name, snapshot = request.path_params["name"], site_of(request).snapshot
    for chart in snapshot.charts if snapshot else ():
        if chart.name == name:
            return Response(chart.svg, media_type="image/svg+xml")
    raise missing(f"There is no chart called {name}.")


def runs(request: Request) -> Response:
    """The runs of the folder."""
    site = site_of(request)
    return site.render(request, "runs.html", runs=site.watcher.runs)


def compare(request: Request) -> Response:
    """This run against another."""
    site = site_of(request)
    try:
        folder = RunFolder.find(site.runs, request.path_params["other"])
    except StoreError as error:
        raise missing(f"{error}.") from error
    if folder.path.name == site.folder.path.name:
        raise missing("A run cannot be compared with itself.")
    compared = site.comparisons.ask(folder)
    return site.render(
        request,
        "compare.html",
        other=folder.path.name,
        compared=compared,
        measures=_held_out_names(compared),
        as_of=compared and compared.as_of,
    )


def _held_out_names(compared: Compared | None) -> list[str]:
    if compared is None or compared.document is None:
        return []
    runs = [run for row in compared.document["rounds"] for run in row["runs"] if run is not None]
    return sorted({name for run in runs for name in run["held_out"]})


def icon(request: Request) -> Response:
    """What browsers show on a tab."""
    return FileResponse(STATIC / "icon.svg")
