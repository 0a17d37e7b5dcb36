"""The pages of the browser: each a function from what is asked to an answer."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from reflectune.loop.show.documents import open_history
from reflectune.loop.show.explanations import unit_of
from reflectune.loop.show.html.comparisons import Compared
from reflectune.loop.show.html.environment import PAGES as FOLDER
from reflectune.loop.show.html.finding import LABELS, TOO_MANY, Finding, address
from reflectune.loop.show.html.finding import PAGE as ROWS
from reflectune.loop.show.html.journey import FIELDS, tell_journey
from reflectune.loop.show.html.site import Asked, Missing, Page, Site, View
from reflectune.loop.show.html.watcher import Snapshot
from reflectune.state.errors import StoreError
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.index import SampleIndex
from reflectune.state.lineage.outcomes import OUTCOMES
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.records import PHASES

__all__ = ["PAGES"]

# Questions that people come with, and the lists that answer them.
_TELLING: Mapping[str, Mapping[str, str]] = {
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
_TEXT = "text/plain; charset=utf-8"
_STATIC = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


def _overview(site: Site, asked: Asked) -> Page:
    """What the run is, its rounds, charts, and where to look."""
    snapshot = site.watcher.snapshot
    return site.render(
        "overview.html",
        snapshot=snapshot,
        telling=_telling(snapshot),
        unknown=_unknown(snapshot),
        address=address,
        **_rounds(snapshot),
    )


def _telling(snapshot: Snapshot | None) -> list[tuple[str, str]]:
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
        for label, question in _TELLING.items()
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


def _all_rounds(site: Site, asked: Asked) -> Page:
    """Every round, with all its numbers."""
    snapshot = site.watcher.snapshot
    return site.render("rounds.html", snapshot=snapshot, address=address, **_rounds(snapshot))


def _round(site: Site, asked: Asked) -> Page:
    """One round: phases by outcome, teacher calls by status, held-out measures, training set, cost, time."""
    number = int(asked.path["round"])
    snapshot = site.watcher.snapshot
    if snapshot is None:
        return site.render("round.html", snapshot=None, number=number)
    round = next((row for row in snapshot.rounds if row["round"] == number), None)
    if round is None:
        last = snapshot.rounds[-1]["round"] if snapshot.rounds else 0
        raise Missing(f"This run has no round {number}; its rounds are 0, the given data, to {last}.")
    before = next((row for row in snapshot.rounds if row["round"] == number - 1), None)
    return site.render(
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


def _samples(site: Site, asked: Asked) -> Page:
    """The samples that the address asks for."""
    finding = Finding(asked.args)
    snapshot = site.watcher.snapshot
    rows: list[dict[str, Any]] = []
    count, is_cut = 0, False
    if snapshot is not None and not finding.problems:
        with SampleIndex.open(site.folder) as index:
            rows = index.find(finding.query)
            is_cut = index.is_cut(finding.query)
            if len(rows) == ROWS or (finding.page > 1 and not rows):
                count = index.count(finding.query, TOO_MANY + 1)
            else:  # the last page
                count = finding.query.offset + len(rows)
    return site.render(
        "samples.html",
        status=400 if finding.problems else 200,
        snapshot=snapshot,
        finding=finding,
        rows=rows,
        count=min(count, TOO_MANY),
        is_more=count > TOO_MANY,
        is_cut=is_cut,
        unknown=_unknown(snapshot).get(finding.change or ""),
        pages=max(1, -(-min(count, TOO_MANY) // ROWS)),
        phase_anchor="-response" if finding.query.phase == "response" else "",
        first=(finding.page - 1) * ROWS + 1,
        labels=LABELS,
        outcomes=OUTCOMES,
        rounds=[row["round"] for row in snapshot.rounds] if snapshot else [],
    )


def _sample(site: Site, asked: Asked) -> Page:
    """The journey of one sample."""
    side = asked.args.get("view") == "side"
    with open_history(site.folder) as history:
        sample = _find_sample(history, asked)
        trace, calls = history.trace(sample), history.calls(sample)
        snapshot = site.watcher.snapshot
        last = sum((snapshot.split if snapshot else history.samples()).values()) - 1
    position = trace["position"]
    return site.render(
        "sample.html",
        journey=tell_journey(trace, calls, side=side),
        side=side,
        query="?view=side" if side else "",
        previous=position - 1 if position else None,
        next=position + 1 if position < last else None,
    )


def _version_text(site: Site, asked: Asked) -> Page:
    """One text of a version, whole."""
    name = asked.path["field"]
    with open_history(site.folder) as history:
        sample = _find_sample(history, asked)
        trace = history.trace(sample)
    for version in trace["versions"]:
        if version["id"] == asked.path["version"]:
            text = version["critique"] if name == "criticism" else version[name]
            return _plain(text or "")
    raise Missing(f"Sample {trace['position']} has no version {asked.path['version']}.")


def _call_text(site: Site, asked: Asked) -> Page:
    """What the teacher answered, whole."""
    with open_history(site.folder) as history:
        sample = _find_sample(history, asked)
        calls = history.calls(sample)
    for call in calls:
        if call["id"] == asked.path["call"]:
            return _plain(call["text"])
    raise Missing(f"Sample {asked.path['position']} has no teacher call {asked.path['call']}.")


def _plain(text: str) -> Page:
    return Page(text.encode("utf-8", errors="replace"), kind=_TEXT)


def _find_sample(history: LineageReader, asked: Asked) -> str:
    """The id of the sample at the position that is asked for."""
    try:
        return history.find_sample(str(int(asked.path["position"])))
    except StoreError as error:
        raise Missing(f"There is {error}.") from error


def _chart(site: Site, asked: Asked) -> Page:
    """One chart."""
    snapshot = site.watcher.snapshot
    for chart in snapshot.charts if snapshot else ():
        if chart.name == asked.path["name"]:
            return Page(chart.svg, kind="image/svg+xml; charset=utf-8")
    raise Missing(f"There is no chart called {asked.path['name']}.")


def _runs(site: Site, asked: Asked) -> Page:
    """The runs of the folder."""
    return site.render("runs.html", runs=site.watcher.runs)


def _compare(site: Site, asked: Asked) -> Page:
    """This run against another."""
    other = unquote(asked.path["other"], errors="replace")
    try:
        folder = RunFolder.find(site.runs, other)
    except StoreError as error:
        raise Missing(f"{error}.") from error
    if folder.path.name == site.folder.path.name:
        raise Missing("A run cannot be compared with itself.")
    compared = site.comparisons.ask(folder)
    return site.render(
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


def _no_csv(site: Site, asked: Asked) -> Page:
    """What Datasette would write as CSV."""
    raise Missing("No CSV is written, whose cells a spreadsheet takes for formulas; .json has the same rows.")


def _static(site: Site, asked: Asked) -> Page:
    """A file of the pages' own."""
    path = FOLDER / "static" / asked.path["file"]
    kind = _STATIC.get(path.suffix[1:])
    if kind is None or not path.is_file():
        raise Missing("There is no such page.")
    return Page(path.read_bytes(), kind=kind, headers={"cache-control": "max-age=3600"})


def _icon(site: Site, asked: Asked) -> Page:
    """What browsers show on a tab."""
    return _static(site, Asked({"file": "icon.svg"}, {}))


def _rounds(snapshot: Snapshot | None) -> dict[str, Any]:
    """What tables of rounds are made from."""
    if snapshot is None:
        return {"measures": [], "evaluations": {}}
    return {
        "measures": sorted({row["name"] for row in snapshot.evaluations}),
        "evaluations": {(row["round"], row["name"]): row for row in snapshot.evaluations},
    }


_FIELDS = "|".join((*FIELDS, "criticism"))
_POSITION = r"/samples/(?P<position>\d{1,9})"
PAGES: Mapping[str, View] = {
    r"/$": _overview,
    r"/rounds$": _all_rounds,
    r"/rounds/(?P<round>\d{1,6})$": _round,
    r"/samples$": _samples,
    _POSITION + r"$": _sample,
    _POSITION + rf"/versions/(?P<version>\w{{1,64}})/(?P<field>{_FIELDS})\.txt$": _version_text,
    _POSITION + r"/calls/(?P<call>\w{1,64})\.txt$": _call_text,
    r"/charts/(?P<name>[\w-]{1,64})\.svg$": _chart,
    r"/runs$": _runs,
    r"/compare/(?P<other>[^/]{1,500})$": _compare,
    r"/static/(?P<file>\w{1,32}\.\w{2,3})$": _static,
    r"/lineage.*\.csv$": _no_csv,
    r"/favicon\.ico$": _icon,
}
