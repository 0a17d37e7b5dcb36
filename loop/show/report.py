"""A run as one page to send around: what it was, what it did, and twenty of its samples.

The page asks for nothing from anywhere and runs no script. What stands in data and answers is text in it, and
only the beginning of a long one.
"""

import base64
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from reflectune.loop.show.charts import draw_charts, explain_missing
from reflectune.loop.show.documents import open_lineage, read_status
from reflectune.loop.show.explanations import unit_of
from reflectune.loop.show.html.environment import STATIC, open_environment
from reflectune.loop.show.html.texts import fold_text, fold_texts
from reflectune.loop.show.journey import Journey, build_journey
from reflectune.loop.show.numbers import format_apart, format_with_interval
from reflectune.state.data.exports import put_into_place
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.evolution import read_evolution
from reflectune.state.lineage.reader import LineageReader

__all__ = ["describe_evolution", "write_report"]

Document = Mapping[str, Any]
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
    with open_lineage(folder) as lineage:
        return _describe(folder, lineage, status)


def _describe(folder: RunFolder, lineage: LineageReader, status: str) -> dict[str, Any]:
    run = lineage.run()
    settings = lineage.settings()
    return {
        "name": folder.path.name,
        "status": status,
        "stop_reason": run["stop_reason"],
        "created_at": run["created_at"],
        "settings": settings | {"config": _without_credentials(settings["config"])},
        "samples": lineage.samples(),
        "rounds": lineage.rounds(),
        "evaluations": lineage.evaluations(),
        "teacher": lineage.teacher(),
        **read_evolution(lineage),
    }


def write_report(folder: RunFolder, out: Path) -> None:
    """Write a run's report: all of it, or what was there before.

    Raises:
        DatasetError: the file cannot be written.
    """
    status = read_status(folder)
    with put_into_place(out) as part:
        with open_lineage(folder) as lineage:
            document = _describe(folder, lineage, status)
            chosen = [item["sample"] for item in document["telling"]]
            journeys = {sample: build_journey(lineage.trace(sample)) for sample in chosen}
        part.write_text(_render(document, journeys), encoding="utf-8", newline="\n")


def _render(document: Document, journeys: Mapping[str, Journey]) -> str:
    environment = open_environment(utc=True)
    environment.filters["image"] = _to_address
    charts = draw_charts(document)
    policy = document["settings"]["config"].get("selection", {}).get("policy", "ifd+r-ifd")
    accepted, proposed = _count_proposals(document)
    return environment.get_template("report.html").render(
        run=document,
        lead=_lead(document),
        acceptance=accepted / proposed if proposed else None,
        seconds=sum(sum(row["seconds"].values()) for row in document["rounds"]),
        outcomes={(place["round"], place["phase"]): place for place in document["acceptance"]},
        charts=charts,
        missing=explain_missing(charts),
        kinds=[
            {
                "kind": kind,
                "title": _KINDS[kind][0],
                "about": _KINDS[kind][1],
                "samples": [
                    {"why": _explain_choice(item, policy), "journey": journeys[item["sample"]]}
                    for item in items
                ],
            }
            for kind, items in groupby(document["telling"], key=lambda item: item["kind"])
        ],
        texts=fold_texts,
        shorten=fold_text,
        side=False,
        style="\n".join((STATIC / name).read_text(encoding="utf-8") for name in ("base.css", "report.css")),
    )


def _lead(document: Document) -> list[str]:
    """The run in a few sentences."""
    accepted, proposed = _count_proposals(document)
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
            first, last = format_with_interval(items[0]), format_with_interval(items[-1])
            sentences.append(f"Held-out {name} went from {first} to {last}; in brackets 95 % intervals.")
            break
    return sentences


def _count_proposals(document: Document) -> tuple[int, int]:
    """Samples whose proposal was accepted, and all that had one decided."""
    accepted = sum(place["accepted"] for place in document["acceptance"])
    return accepted, accepted + sum(place["refused"] for place in document["acceptance"])


def _without_credentials(config: dict[str, Any]) -> dict[str, Any]:
    """The config without name and password in the server's address: a report is sent around."""
    teacher = config.get("teacher", {})
    address = urlsplit(teacher.get("base_url") or "")
    if "@" not in address.netloc:
        return config
    host = address.netloc.rpartition("@")[2]
    return config | {"teacher": teacher | {"base_url": urlunsplit(address._replace(netloc=host))}}


def _explain_choice(item: Document, policy: str) -> str:
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


def _to_address(svg: str) -> str:
    """An image as an address that holds it."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
