"""How two rounds, and two runs, look beside each other. Takes the documents that --json prints."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.text import Text

from reflectune.loop.show.comparison import (
    Section,
    explain_comparable,
    share_accepted,
    tabulate_runs,
    tell_held_out,
)
from reflectune.loop.show.journey import TEXTS
from reflectune.loop.show.numbers import (
    format_held_out,
    format_measure,
    format_share,
    format_share_of,
    name_held_out,
)
from reflectune.loop.show.terminal.layout import Difference, Field, Framed, Sections
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.documents import HeldOut, RoundsCompared, RunsCompared, SampleChange
from reflectune.state.records import PHASES
from reflectune.state.text import inert_document, one_line

__all__ = ["render_rounds_compared", "render_runs_compared"]

# Characters of a whole diff.
_MAX_SHOWN = 2_000
# Characters of an instruction that did not change.
_MAX_UNCHANGED = 200
_SIDES: tuple[Literal["before", "after"], ...] = ("before", "after")


def render_rounds_compared(document: RoundsCompared, folder: RunFolder) -> RenderableType:
    """Two rounds of a run: pools, decisions, measures, training sets, and samples with word diffs."""
    document = inert_document(document)
    name, a, b = document["name"], document["before"], document["after"]
    pairs, training, samples = document["pairs"], document["training"], document["samples"]
    changed = pairs["total"] - pairs["unchanged"]
    head = Framed(
        None,
        Text(f"{name}: round {a} against round {b}", style="bold"),
        Text(f"{changed} of {pairs['total']} pairs differ"),
        Text(
            f"trained on in round {a}: {training['before']} pairs, in round {b}: {training['after']}, "
            f"in both: {training['both']}"
        ),
    )
    sections = Sections(
        (
            _compare_pairs(pairs),
            _compare_pools(document),
            _compare_held_out(document["held_out"]),
            _list_decisions(document),
        )
    )
    if not samples:
        return Group(head, sections)
    return Group(
        head,
        sections,
        Text(f"\n{len(samples)} of the {changed} samples that differ", style="bold"),
        *map(_render_change, samples),
        Text(f"see one with `{folder.command('trace', str(samples[0]['position']))}`"),
    )


def _compare_pairs(pairs: Mapping[str, int]) -> Section:
    names = {"instruction": "instruction only", "response": "response only", "unchanged": "nothing"}
    rows = [
        (names.get(kind, kind), pairs[kind], format_share_of(pairs[kind], pairs["total"]))
        for kind in ("instruction", "response", "both", "unchanged")
    ]
    return Section("Pairs by what differs", ("differs", "pairs", "share"), rows)


def _compare_pools(document: RoundsCompared) -> Section:
    a, b = document["before"], document["after"]
    title = f"Pools D[{a}] and D[{b}]; each IFD and r-IFD under one student"
    heads = ("measure", f"round {a}", f"round {b}", "change", "known for", "changed")
    return Section(title, heads, list(_pool_rows(document)))


def _pool_rows(document: RoundsCompared) -> Iterator[tuple[object, ...]]:
    """Lengths, scores and acceptance of both rounds."""
    total, unchanged = document["pairs"]["total"], document["pairs"]["unchanged"]
    characters: dict[Any, Any] = dict(document["response_characters"])
    lengths = {**characters, "known": total, "changed": total - unchanged}
    measures: list[tuple[str, Mapping[str, Any]]] = [("response characters", lengths)]
    for scores in document["scores"]:
        measures += [(f"IFD under {scores['student']}", scores["ifd"])]
        measures += [(f"r-IFD under {scores['student']}", scores["r_ifd"])]
    for name, measure in measures:
        for part in ("mean", "median") if measure is lengths or measure["changed"] else ():
            old, new = measure["before"][part], measure["after"][part]
            change = None if old is None or new is None else new - old
            numbers = (format_measure(old), format_measure(new), format_measure(change, "+"))
            yield f"{part} {name}", *numbers, f"{measure['known']} pairs", measure["changed"]
    for phase in PHASES:
        shares = (format_share(document["acceptance"][side].get(phase)) for side in _SIDES)
        yield f"acceptance, phase {phase}", *shares, "", "", ""


def _compare_held_out(measures: Sequence[HeldOut]) -> Section:
    heads = ("measure", "student", "value", "from", "to", "pairs", "change", "from", "to")
    rows = [row for measure in measures for row in _held_out_rows(measure)]
    return Section("Held-out measures of both rounds' students, with 95 % intervals", heads, rows)


def _held_out_rows(measure: HeldOut) -> Iterator[tuple[object, ...]]:
    name, old, new = measure["name"], measure["before"], measure["after"]
    if old:
        yield name_held_out(name), old["student"], *tell_held_out(name, old), "", "", ""
    if new:
        change = (measure["difference"], measure["difference_low"], measure["difference_high"])
        told = (format_held_out(name, value, "+") for value in change)
        yield name_held_out(name), new["student"], *tell_held_out(name, new), *told


def _list_decisions(document: RoundsCompared) -> Section:
    rows = [
        (row["round"], row["phase"], row["decided"], row["accepted"], share_accepted(row))
        for row in document["decisions"]
    ]
    heads = ("round", "phase", "proposals", "accepted", "acceptance")
    return Section("Decisions that lie between", heads, rows)


def _render_change(sample: SampleChange) -> RenderableType:
    """One sample's pair before and after."""
    old, new = sample["before"], sample["after"]
    parts = []
    for name in TEXTS:
        if old[name] != new[name]:
            parts.append(Field(name, Difference(old[name], new[name], is_folded=True), _MAX_SHOWN))
        elif name == "instruction":
            parts.append(Field(name, one_line(old[name]), _MAX_UNCHANGED))
    if r_ifd := sample["r_ifd"]:
        values = f"{format_measure(r_ifd['before'])} before, {format_measure(r_ifd['after'])} after"
        parts.append(Field("r-IFD", f"{values}, under {r_ifd['student']}"))
    if old["response"] != new["response"]:
        lengths = sample["characters"]
        told = f"of the response {lengths['before']} before, {lengths['after']} after"
        parts.append(Field("characters", told))
    places = (f"round {item['round']} {item['phase']}" for item in sample["accepted"])
    return Framed(f"sample {sample['position']}", *parts, Field("accepted in", ", ".join(places)))


def render_runs_compared(document: RunsCompared) -> RenderableType:
    """Two runs: what can be compared, settings, rounds, and what became of the samples of both."""
    document = inert_document(document)
    status = "; ".join(map(": ".join, zip(document["names"], document["status"], strict=True)))
    head = Framed(None, Text(status, style="bold"), *map(Text, explain_comparable(document)))
    return Group(head, Sections(tabulate_runs(document)))
