"""A run as one page to send around: what it was, what it did, and twenty of its samples.

The page asks for nothing from anywhere and runs no script. What stands in data and answers is text in it, and
only the beginning of a long one.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from reflectune.loop.show.charts import draw_charts, explain_missing, format_measure
from reflectune.loop.show.diffs import Change, diff_words
from reflectune.loop.show.documents import open_history, read_status
from reflectune.loop.show.explanations import explain_call, explain_decision, explain_score, unit_of
from reflectune.loop.show.html.environment import STATIC, open_environment
from reflectune.loop.show.numbers import format_apart
from reflectune.state.config import flatten
from reflectune.state.data.exports import put_into_place
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.evolution import read_evolution
from reflectune.state.lineage.reader import LineageReader
from reflectune.state.text import inert_document

__all__ = ["describe_evolution", "write_report"]

Document = Mapping[str, Any]
Run = tuple[Change | Literal["left out"], str]

# Characters of each text that are compared, and that are shown; and of a stretch of it that stays or goes.
_COMPARED, _SHOWN, _FOLDED = 20_000, 1_600, 400
_KINDS: Mapping[str, tuple[str, str]] = {
    "gain": (
        "Largest gains",
        "Accepted proposals that gained most in what the policy compares, of each round and phase in turn.",
    ),
    "narrow": (
        "Narrow refusals",
        "Refused proposals that came closest to being better than the incumbent by more than the margin, of "
        "each round and phase in turn. A proposal that a cap refused is not among them.",
    ),
    "failure": ("Failures", "Reflections that brought no proposal; the incumbent stayed."),
    "journey": ("Longest journeys", "Samples with the most accepted proposals."),
}


def describe_evolution(folder: RunFolder) -> dict[str, Any]:
    """A run with what its samples went through, as `report --json` prints it and `draw_charts` takes it.

    Keys: name, status, stop_reason, created_at, settings (`LineageReader.settings`), samples, rounds (as in
    `show --json`), evaluations (with intervals), teacher (of all rounds), and those of
    `state.lineage.evolution.read_evolution`.
    """
    status = read_status(folder)
    with open_history(folder) as history:
        return _describe(folder, history, status)


def _describe(folder: RunFolder, history: LineageReader, status: str) -> dict[str, Any]:
    run = history.run()
    settings = history.settings()
    return {
        "name": folder.path.name,
        "status": status,
        "stop_reason": run["stop_reason"],
        "created_at": run["created_at"],
        "settings": settings | {"config": _without_credentials(settings["config"])},
        "samples": history.samples(),
        "rounds": history.rounds(),
        "evaluations": history.evaluations(),
        "teacher": history.teacher(),
        **read_evolution(history),
    }


def write_report(folder: RunFolder, out: Path) -> None:
    """Write a run's report: all of it, or what was there before.

    Raises:
        DatasetError: the file cannot be written.
    """
    status = read_status(folder)
    with put_into_place(out) as part:
        with open_history(folder) as history:
            document = _describe(folder, history, status)
            stories = {item["sample"]: history.trace(item["sample"]) for item in document["telling"]}
        part.write_text(_render(document, stories), encoding="utf-8", newline="\n")


def _render(document: Document, stories: Mapping[str, Document]) -> str:
    environment = open_environment()
    environment.filters |= {
        "utc": _utc,
        "image": _to_address,
        "format_measure": format_measure,
        "score": explain_score,
    }
    charts = draw_charts(document)
    document = inert_document(document)
    policy = document["settings"]["config"].get("selection", {}).get("policy", "")
    return environment.get_template("report.html").render(
        run=document,
        lead=_lead(document),
        seconds=sum(sum(row["seconds"].values()) for row in document["rounds"]),
        flat=_list_config(document["settings"]["config"]),
        charts=charts,
        missing=explain_missing(charts),
        kinds=[
            {
                "kind": kind,
                "title": _KINDS[kind][0],
                "about": _KINDS[kind][1],
                "samples": [
                    {"position": item["position"], "why": _say_why(item, policy)}
                    | _tell(stories[item["sample"]])
                    for item in items
                ],
            }
            for kind, items in groupby(document["telling"], key=lambda item: item["kind"])
        ],
        style=(STATIC / "report.css").read_text(encoding="utf-8"),
    )


# What the run was


def _lead(document: Document) -> list[str]:
    """The run in a few sentences."""
    accepted = sum(place["accepted"] for place in document["acceptance"])
    proposed = accepted + sum(place["refused"] for place in document["acceptance"])
    sentences = []
    if proposed:
        sentences.append(
            f"The student took {accepted:,} of {proposed:,} proposals ({accepted / proposed:.0%})."
        )
    else:
        sentences.append("No proposal has been decided about yet.")
    trained = sum(row["training"] > 0 for row in document["rounds"])
    if trained:
        last = [row for row in document["rounds"] if row["training"]][-1]
        sentences.append(
            f"It was refinetuned in {trained} round{'s' if trained > 1 else ''}, "
            f"the last time on {last['training']:,} pairs."
        )
    for name in ("accuracy", "nll"):
        items = [item for item in document["evaluations"] if item["name"] == name]
        if len(items) > 1:
            first, last = (
                f"{format_measure(name, item['value'])} ({format_measure(name, item['low'])} to "
                f"{format_measure(name, item['high'])})"
                for item in (items[0], items[-1])
            )
            sentences.append(f"Held-out {name} went from {first} to {last}; in brackets 95 % intervals.")
            break
    return sentences


def _list_config(config: Document) -> list[tuple[str, str]]:
    """Every key that is set, as the config file spells it."""
    return [
        (key, str(value).lower() if isinstance(value, bool) else str(value))
        for key, value in flatten(config).items()
        if value is not None
    ]


def _without_credentials(config: dict[str, Any]) -> dict[str, Any]:
    """The config without name and password in the server's address: a report is sent around."""
    teacher = config.get("teacher", {})
    address = urlsplit(teacher.get("base_url") or "")
    if "@" not in address.netloc:
        return config
    host = address.netloc.rpartition("@")[2]
    return config | {"teacher": teacher | {"base_url": urlunsplit(address._replace(netloc=host))}}


# What happened to a sample


def _say_why(item: Document, policy: str) -> str:
    """Why a sample is among the telling ones."""
    place = f"round {item['round']}, phase {item['phase']}"
    before, after = format_apart(item["before"], item["after"])
    match item["kind"]:
        case "gain":
            return f"{unit_of(policy, item['phase'])} from {before} to {after} in {place}"
        case "narrow":
            return f"{unit_of(policy, item['phase'])} {after} against the incumbent's {before} in {place}"
        case "failure":
            return f"no proposal, {item['status']}, in {place}"
        case _:
            return f"{item['accepted']} accepted proposals"


def _tell(trace: Document) -> dict[str, Any]:
    """One sample's story as the template takes it."""
    versions = {version["id"]: version for version in trace["versions"]}
    given = trace["versions"][0]
    current = next(version for version in trace["versions"] if version["current"])
    return {
        "sample": trace["sample"],
        "trained_in": trace["trained_in"],
        "given": _texts(given),
        "scores": given["scores"],
        "current": None if current is given else _texts(current),
        "current_round": current["round"],
        "steps": list(_steps(trace, versions)),
    }


def _texts(version: Document) -> list[dict[str, Any]]:
    return [
        {"name": name, "runs": _shorten_text(version[name])}
        for name in ("instruction", "input", "response")
        if version[name]
    ]


def _steps(trace: Document, versions: Mapping[str, Document]) -> Iterator[dict[str, Any]]:
    """Round by round and phase by phase: proposals, what failed, and what was decided."""
    kinds = ("versions", "failures", "decisions")
    places = {(item["round"], item["phase"]) for kind in kinds for item in trace[kind]} - {(0, "original")}
    for place in sorted(places):
        here = {
            kind: [item for item in trace[kind] if (item["round"], item["phase"]) == place] for kind in kinds
        }
        decision = here["decisions"][0] if here["decisions"] else None
        yield {
            "round": place[0],
            "phase": place[1],
            "proposals": [
                {
                    "number": version["candidate"] + 1 if len(here["versions"]) > 1 else None,
                    "accepted": decision is not None and decision["winner"] == version["id"],
                    "critique": _shorten_text(version["critique"] or ""),
                    "texts": _changes(versions[version["parent"]], version),
                    "scores": [
                        score
                        for score in version["scores"]
                        if decision is None or decision["student"] in (None, score["student"])
                    ],
                }
                for version in here["versions"]
            ],
            "failures": [
                explain_call(failure | {"error": (failure["error"] or "")[:300]})
                for failure in here["failures"]
            ],
            "decision": None if decision is None else explain_decision(decision),
            "reason": None if decision is None else decision["reason"],
        }


def _changes(parent: Document, version: Document) -> list[dict[str, Any]]:
    """Word diffs of the texts that a proposal changes."""
    return [
        {"name": name, "runs": _compare(parent[name], version[name])}
        for name in ("instruction", "input", "response")
        if parent[name] != version[name]
    ]


def _compare(old: str, new: str) -> list[Run]:
    changes = diff_words(old[:_COMPARED], new[:_COMPARED])
    if all(change != "same" for change, _ in changes):
        gone = max(len(old) - _COMPARED, 0)
    else:
        gone = 0  # what is beyond may be in both
        while max(len(old), len(new)) > _COMPARED and changes[-1][0] != "same":
            changes.pop()  # where texts were cut they seem to end differently
    come = len(new) - sum(len(text) for change, text in changes if change != "removed")
    return _shorten(changes, come, gone)


def _shorten_text(text: str) -> list[Run]:
    return _shorten([("same", text)], 0)


def _shorten(changes: Sequence[tuple[Change, str]], left: int, removed: int = 0) -> list[Run]:
    """Long unchanged and removed stretches folded, and what comes after `_SHOWN` characters only counted.

    `left` and `removed` are characters beyond the changes that are known to be there, or to be removed.
    """
    runs: list[Run] = []
    room = _SHOWN
    for place, (change, text) in enumerate(changes):
        if change == "removed":
            shown = text[:_FOLDED] if room > 0 else ""
            removed += len(text) - len(shown)
            runs.append((change, shown))
        elif change == "same" and len(changes) > 1 and len(text) > _FOLDED and room > 0:
            head = text[: _FOLDED // 4] if place > 0 else ""
            tail = text[-_FOLDED // 4 :] if place < len(changes) - 1 else ""
            between = f"{len(text) - len(head) - len(tail):,} characters as before"
            runs += [("same", head), ("left out", between), ("same", tail)]
            room -= len(head) + len(tail)
        else:
            shown = text[: max(room, 0)]
            room -= len(shown)
            left += len(text) - len(shown)
            runs.append((change, shown))
    notes = {"more characters": left, "more characters removed": removed}
    runs += [("left out", f"{n:,} {what}") for what, n in notes.items() if n]
    return [run for run in runs if run[1]]


# How the page writes it


def _utc(moment: str | None) -> str:
    """A stored time to the minute: a report is read in any zone."""
    return "-" if moment is None else f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _to_address(svg: str) -> str:
    """An image as an address that holds it."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
