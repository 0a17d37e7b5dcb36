"""How two rounds, and two runs, look beside each other. Takes the documents that --json prints."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reflectune.loop.show.explanations import explain_comparable, list_ends
from reflectune.loop.show.journey import TEXTS
from reflectune.loop.show.numbers import (
    format_held_out,
    format_measure,
    format_number,
    format_setting,
    format_share,
    format_share_of,
    name_held_out,
)
from reflectune.loop.show.terminal.layout import Difference, Field, Framed, Sections, tabulate
from reflectune.state.lineage.documents import HeldOut, RoundsCompared, RunsCompared, SampleChange
from reflectune.state.records import PHASES
from reflectune.state.text import inert_document, one_line

__all__ = ["render_rounds_compared", "render_runs_compared"]

Run = Mapping[str, Any]  # a round of one of two runs

# Characters of what two texts have in common that stand around their differences, and of a whole diff.
_CONTEXT = 100
_MAX_SHOWN = 2_000
# Characters of a config value.
_VALUE = 200
_SIDES: tuple[Literal["before", "after"], ...] = ("before", "after")


# Two rounds


def render_rounds_compared(document: RoundsCompared) -> RenderableType:
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
        fit=True,
    )
    sections = Sections(
        (
            ("Pairs by what differs", _tabulate_pairs(pairs)),
            (f"Pools D[{a}] and D[{b}]; each IFD and r-IFD under one student", _tabulate_pools(document)),
            (
                "Held-out measures of both rounds' students, with 95 % intervals",
                _tabulate_held_out(document["held_out"]),
            ),
            ("Decisions that lie between", _tabulate_decisions(document)),
        )
    )
    if not samples:
        return Group(head, sections)
    return Group(
        head,
        sections,
        Text(f"\n{len(samples)} of the {changed} samples that differ", style="bold"),
        *map(_render_change, samples),
        Text(f"see one with `reflectune trace {name} {samples[0]['position']}`"),
    )


def _tabulate_pairs(pairs: Mapping[str, int]) -> Table:
    names = {"instruction": "instruction only", "response": "response only", "unchanged": "nothing"}
    rows = (
        (names.get(kind, kind), pairs[kind], format_share_of(pairs[kind], pairs["total"]))
        for kind in ("instruction", "response", "both", "unchanged")
    )
    return tabulate(("differs", "pairs", "share"), rows)


def _tabulate_pools(document: RoundsCompared) -> Table:
    heads = ("measure", f"round {document['before']}", f"round {document['after']}", "change", "known for")
    return tabulate((*heads, "changed"), _pool_rows(document))


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


def _tabulate_held_out(measures: Sequence[HeldOut]) -> Table:
    heads = ("measure", "student", "value", "from", "to", "pairs", "change", "intervals")
    return tabulate(heads, (row for measure in measures for row in _held_out_rows(measure)))


def _held_out_rows(measure: HeldOut) -> Iterator[tuple[object, ...]]:
    name, old, new = measure["name"], measure["before"], measure["after"]
    if old:
        yield name_held_out(name), old["student"], *_evaluation(name, old), "", ""
    if new:
        change = format_held_out(name, measure["difference"], "+")
        yield name_held_out(name), new["student"], *_evaluation(name, new), change, _say_overlap(old, new)


def _evaluation(name: str, known: Mapping[str, Any]) -> tuple[object, ...]:
    """A held-out measure with its interval and how many pairs it is of."""
    return *(format_held_out(name, known[key]) for key in ("value", "low", "high")), known["n"]


def _say_overlap(one: Mapping[str, Any] | None, other: Mapping[str, Any]) -> str:
    """Whether two intervals have a value in common: then their difference may be chance."""
    if one is None or None in (one["low"], one["high"], other["low"], other["high"]):
        return "-"
    return "overlap" if one["low"] <= other["high"] and other["low"] <= one["high"] else "apart"


def _tabulate_decisions(document: RoundsCompared) -> Table:
    rows = (
        (row["round"], row["phase"], row["decided"], row["accepted"], _share_accepted(row))
        for row in document["decisions"]
    )
    return tabulate(("round", "phase", "proposals", "accepted", "acceptance"), rows, texts=("phase",))


def _share_accepted(decisions: Mapping[str, Any]) -> str:
    return format_share_of(decisions["accepted"], decisions["decided"])


def _render_change(sample: SampleChange) -> RenderableType:
    """One sample's pair before and after."""
    old, new = sample["before"], sample["after"]
    parts = []
    for name in TEXTS:
        if old[name] != new[name]:
            parts.append(Field(name, Difference(old[name], new[name], _CONTEXT), _MAX_SHOWN))
        elif name == "instruction":
            parts.append(Field(name, _shorten(one_line(old[name]))))
    if r_ifd := sample["r_ifd"]:
        values = f"{format_measure(r_ifd['before'])} before, {format_measure(r_ifd['after'])} after"
        parts.append(Field("r-IFD", f"{values}, under {r_ifd['student']}"))
    if old["response"] != new["response"]:
        lengths = sample["characters"]
        told = f"of the response {lengths['before']} before, {lengths['after']} after"
        parts.append(Field("characters", told))
    places = (f"round {item['round']} {item['phase']}" for item in sample["accepted"])
    return Framed(f"sample {sample['position']}", *parts, Field("accepted in", ", ".join(places)))


def _shorten(text: str) -> str:
    return text if len(text) <= _VALUE else f"{text[:_VALUE]}…"


# Two runs


def render_runs_compared(document: RunsCompared) -> RenderableType:
    """Two runs: what can be compared, settings, rounds, and what became of the samples of both."""
    document = inert_document(document)
    samples = document["samples"]
    names = [one_line(name) for name in document["names"]]
    rounds = [
        ((row["round"], Text(name)), run)
        for row in document["rounds"]
        for name, run in zip(names, row["runs"], strict=True)
        if run is not None
    ]
    status = "; ".join(map(": ".join, zip(document["names"], document["status"], strict=True)))
    sections = [
        ("Settings that differ", _tabulate_settings(document["config"], names)),
        ("Accepted of the proposals decided about, and pairs trained on", _tabulate_rounds(rounds)),
        ("Held-out measures, with 95 % intervals", _tabulate_measures(rounds)),
        ("What the teacher took, and the rounds' seconds", _tabulate_costs(rounds)),
    ]
    if samples["shared"]:
        ends = " and ".join(map(str, samples["rounds"]))
        sections += [
            (f"Training samples of both, by their pairs after rounds {ends}", _tabulate_ends(document)),
            ("Decisions of both on the same pair and proposals", _tabulate_agreement(document)),
        ]
    head = Framed(None, Text(status, style="bold"), *map(Text, explain_comparable(document)), fit=True)
    return Group(head, Sections(sections))


def _tabulate_settings(config: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    rows = (
        (row["key"], *(Text(_shorten(one_line(format_setting(value)))) for value in row["values"]))
        for row in config
    )
    return tabulate(("key", *names), rows, texts=names)


def _tabulate_rounds(rounds: Sequence[tuple[tuple[object, ...], Run]]) -> Table:
    rows = (
        (*place, *(_say_accepted(run[phase]) for phase in PHASES), run["training"])
        for place, run in rounds
        if run["instruction"] or run["response"]
    )
    return tabulate(("round", "run", *PHASES, "trained on"), rows, texts=("run",))


def _say_accepted(phase: Mapping[str, int] | None) -> str:
    if phase is None:
        return "-"
    return f"{phase['accepted']} of {phase['decided']} {_share_accepted(phase):>4}"


def _tabulate_measures(rounds: Sequence[tuple[tuple[object, ...], Run]]) -> Table:
    heads = ("measure", "round", "run", "value", "from", "to", "pairs")
    rows = (
        (name_held_out(name), *place, *_evaluation(name, known))
        for name in sorted({name for _, run in rounds for name in run["held_out"]})
        for place, run in rounds
        if (known := run["held_out"].get(name))
    )
    return tabulate(heads, rows, texts=("run",))


def _tabulate_costs(rounds: Sequence[tuple[tuple[object, ...], Run]]) -> Table:
    return tabulate(
        ("round", "run", "calls", "from\ncache", "tokens", "USD", "seconds"),
        ((*place, *_costs(run["teacher"]), f"{run['seconds']:.1f}") for place, run in rounds),
        texts=("run",),
    )


def _costs(teacher: Mapping[str, Any]) -> tuple[object, ...]:
    counts = [teacher[key] for key in ("prompt_tokens", "completion_tokens")]
    tokens = "-" if None in counts else sum(counts)
    return teacher["calls"], teacher["cached"], tokens, format_number(teacher["cost_usd"], ".4f")


def _tabulate_ends(document: RunsCompared) -> Table:
    shared = document["samples"]["shared"]
    rows = ((Text(what), number, format_share_of(number, shared)) for what, number in list_ends(document))
    return tabulate(("ended with", "samples", "share"), rows)


def _tabulate_agreement(document: RunsCompared) -> Table:
    rows = (
        (
            *(row[key] for key in ("round", "phase", "both", "alike", "agree")),
            format_share_of(row["agree"], row["alike"]),
        )
        for row in document["decisions"]
    )
    heads = ("round", "phase", "decided\nby both", "on the\nsame", "alike", "agreement")
    return tabulate(heads, rows, texts=("phase",))
