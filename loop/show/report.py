"""A run as one page to send around: what it was, what it did, and twenty of its samples.

The page asks for nothing from anywhere and runs no script. What stands in data and answers is text in it, and
only the beginning of a long one.
"""

import base64
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from reflectune.loop.show.alarms import list_alarms, tabulate_alarms
from reflectune.loop.show.charts import draw_charts, explain_missing
from reflectune.loop.show.documents import RunEvolution, describe_whole, open_run
from reflectune.loop.show.explanations import explain_best, explain_untrained, policy_of, sum_seconds, unit_of
from reflectune.loop.show.html.environment import STATIC, open_environment
from reflectune.loop.show.html.texts import fold_text, fold_texts, shorten_turns
from reflectune.loop.show.journey import Journey, build_journey
from reflectune.loop.show.numbers import as_sentence, format_apart, format_with_interval
from reflectune.state.data.writing import put_into_place
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.documents import Highlight, RunHead
from reflectune.state.lineage.evolution import read_evolution
from reflectune.state.lineage.reader import LineageReader

__all__ = ["describe_evolution", "write_report"]

# Turns of a context that a sample is shown with, and characters of each.
_TURNS, _OF_TURN = 8, 400


def describe_evolution(folder: RunFolder) -> RunEvolution:
    """A run with what its samples went through, as `report --json` prints it and `draw_charts` takes it."""
    with open_run(folder) as (lineage, run):
        return _describe(lineage, run)


def _describe(lineage: LineageReader, run: RunHead) -> RunEvolution:
    document: RunEvolution = {**describe_whole(lineage, run, lineage.rounds()), **read_evolution(lineage)}
    settings = document["settings"]
    settings["config"] = _without_credentials(settings["config"])
    return document


def write_report(folder: RunFolder, out: Path) -> None:
    """Write a run's report: all of it, or what was there before."""
    with put_into_place(out) as part:
        with open_run(folder) as (lineage, run):
            document = _describe(lineage, run)
            chosen = [item["sample"] for item in document["telling"]]
            journeys = {sample: build_journey(lineage.trace(sample)) for sample in chosen}
        part.write_text(_render(document, journeys), encoding="utf-8", newline="\n")


def _render(document: RunEvolution, journeys: Mapping[str, Journey]) -> str:
    environment = open_environment(utc=True)
    environment.filters["image"] = _to_address
    charts = draw_charts(document)
    accepted, proposed = _count_proposals(document)
    policy = policy_of(document["settings"])
    return environment.get_template("report.html").render(
        run=document,
        lead=_lead(document, accepted, proposed),
        acceptance=accepted / proposed if proposed else None,
        seconds=sum(map(sum_seconds, document["rounds"])),
        outcomes={(place["round"], place["phase"]): place for place in document["acceptance"]},
        charts=charts,
        missing=explain_missing(charts),
        firing=list_alarms(document["rounds"]),
        alarms=tabulate_alarms(document["rounds"]),
        kinds=[
            (kind, [(_explain_choice(item, policy), journeys[item["sample"]]) for item in items])
            for kind, items in groupby(document["telling"], key=lambda item: item["kind"])
        ],
        texts=fold_texts,
        turns=partial(shorten_turns, most=_TURNS, of_each=_OF_TURN),
        shorten=fold_text,
        side=False,
        sample_address=None,
        style="\n".join((STATIC / name).read_text(encoding="utf-8") for name in ("base.css", "report.css")),
    )


def _lead(document: RunEvolution, accepted: int, proposed: int) -> Iterator[str]:
    """The run in a few sentences."""
    if proposed:
        yield f"The student took {accepted:,} of {proposed:,} proposals ({accepted / proposed:.0%})."
    else:
        yield "No proposal has been decided about yet."
    if trained := [row["training"] for row in document["rounds"] if row["training"]]:
        rounds = f"{len(trained)} round{'s' if len(trained) > 1 else ''}"
        yield f"It was refinetuned in {rounds}, the last time on {trained[-1]:,} pairs."
    elif untrained := explain_untrained(document["stop_reason"], document["rounds"]):
        yield f"{untrained.capitalize()}."
    for name in ("accuracy", "nll"):
        items = [item for item in document["evaluations"] if item["name"] == name]
        if len(items) > 1:
            first, last = format_with_interval(items[0]), format_with_interval(items[-1])
            yield f"Held-out {name} went from {first} to {last}; in brackets 95 % intervals."
            break
    if best := explain_best(document["best"]):
        yield as_sentence(best)


def _count_proposals(document: RunEvolution) -> tuple[int, int]:
    """Samples whose proposal was accepted, and all that had one decided."""
    accepted = sum(place["accepted"] for place in document["acceptance"])
    return accepted, accepted + sum(place["refused"] for place in document["acceptance"])


def _without_credentials(config: dict[str, Any]) -> dict[str, Any]:
    """The config without name and password in the servers' addresses: a report is sent around."""
    for name in ("teacher", "judge"):
        section = config.get(name) or {}
        urls = section.get("base_url") or []
        hosts = [_without_user(url) for url in ([urls] if isinstance(urls, str) else urls)]
        if hosts:
            config = config | {name: section | {"base_url": hosts[0] if isinstance(urls, str) else hosts}}
    return config


def _without_user(url: str) -> str:
    address = urlsplit(url)
    return urlunsplit(address._replace(netloc=address.netloc.rpartition("@")[2]))


def _explain_choice(item: Highlight, policy: str) -> str:
    """Why a sample is among the telling ones."""
    place = f"round {item['round']}, phase {item['phase']}"
    unit = unit_of(policy, item["phase"] or "response")
    before, after = format_apart(item["before"], item["after"])
    match item["kind"]:
        case "gain":
            return f"{unit} from {before} to {after} in {place}"
        case "narrow":
            return f"{unit} {after} against the incumbent's {before} in {place}"
        case "failure":
            return f"no proposal, {item['status']}, in {place}"
        case "journey":
            return f"{item['accepted']} accepted proposals"


def _to_address(svg: str) -> str:
    """An image as an address that holds it."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
