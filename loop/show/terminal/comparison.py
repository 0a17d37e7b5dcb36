"""How two rounds, and two runs, look beside each other. Takes the documents that --json prints."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reflectune.loop.show.numbers import format_held_out, format_measure, format_number, format_share
from reflectune.loop.show.terminal.layout import Framed, Sections, new_table, render_diff, render_field
from reflectune.state.records import PHASES
from reflectune.state.text import inert_document, one_line

__all__ = ["render_rounds_compared", "render_runs_compared"]

Document = Mapping[str, Any]

# Characters of what two texts have in common that stand around their differences, and of a whole diff.
_CONTEXT = 100
_MOST_SHOWN = 2_000
# Characters of a config value.
_VALUE = 200


# Two rounds


def render_rounds_compared(document: Document, *, colour: bool) -> RenderableType:
    """Two rounds of a run: pools, decisions, measures, training sets, and samples with word diffs."""
    document = inert_document(document)
    pairs, training = document["pairs"], document["training"]
    a, b = document["before"], document["after"]
    changed = pairs["total"] - pairs["unchanged"]
    sections = [
        ("Pairs by what differs", _tabulate_pairs(pairs)),
        (f"Pools D[{a}] and D[{b}]; each IFD and r-IFD under one student", _tabulate_pools(document)),
        ("Held-out measures of both rounds' students, with 95 % intervals", _tabulate_held_out(document)),
        ("Decisions that lie between", _tabulate_decisions(document["decisions"])),
    ]
    head = Framed(
        None,
        Text(f"{document['name']}: round {a} against round {b}", style="bold"),
        Text(f"{changed} of {pairs['total']} pairs differ"),
        Text(
            f"trained on in round {a}: {training['before']} pairs, in round {b}: {training['after']}, "
            f"in both: {training['both']}"
        ),
        fit=True,
    )
    samples = [_render_change(sample, colour=colour) for sample in document["samples"]]
    shown = [Text(f"\n{len(samples)} of the {changed} samples that differ", style="bold")] if samples else []
    position = document["samples"][0]["position"] if samples else 0
    how = [Text(f"see one with `reflectune trace {document['name']} {position}`")] if samples else []
    return Group(head, Sections(part for part in sections if part[1].row_count), *shown, *samples, *how)


def _tabulate_pairs(pairs: Document) -> Table:
    table = new_table("differs", "pairs", "share")
    names = {"instruction": "instruction only", "response": "response only", "unchanged": "nothing"}
    for kind in ("instruction", "response", "both", "unchanged"):
        table.add_row(names.get(kind, kind), str(pairs[kind]), _share(pairs[kind], pairs["total"]))
    return table


def _tabulate_pools(document: Document) -> Table:
    """Lengths, scores and acceptance of both rounds."""
    total = document["pairs"]["total"]
    table = new_table(
        "measure",
        f"round {document['before']}",
        f"round {document['after']}",
        "change",
        "known for",
        "changed",
    )

    def add(name: str, sides: Document, known: int, changed: int) -> None:
        for part in ("mean", "median"):
            old, new = sides["before"][part], sides["after"][part]
            change = None if old is None or new is None else new - old
            numbers = (format_measure(old), format_measure(new), format_measure(change, "+"))
            table.add_row(f"{part} {name}", *numbers, f"{known} pairs", str(changed))

    add("response characters", document["response_characters"], total, total - document["pairs"]["unchanged"])
    for scores in document["scores"]:
        for key, name in (("ifd", "IFD"), ("r_ifd", "r-IFD")):
            if scores[key]["changed"]:
                add(
                    f"{name} under {scores['student']}",
                    scores[key],
                    scores[key]["known"],
                    scores[key]["changed"],
                )
    for phase in PHASES:
        shares = (document["acceptance"][side].get(phase) for side in ("before", "after"))
        table.add_row(f"acceptance, phase {phase}", *map(format_share, shares), "", "", "")
    return table


def _tabulate_held_out(document: Document) -> Table:
    table = new_table("measure", "student", "value", "from", "to", "pairs", "change", "intervals")
    for measure in document["held_out"]:
        for side in ("before", "after"):
            if (known := measure[side]) is None:
                continue
            is_last = side == "after"
            table.add_row(
                measure["name"].replace("_", " "),
                known["student"],
                *(format_held_out(measure["name"], known[key]) for key in ("value", "low", "high")),
                str(known["n"]),
                format_held_out(measure["name"], measure["difference"], "+") if is_last else "",
                _say_overlap(measure["before"], measure["after"]) if is_last else "",
            )
    return table


def _say_overlap(one: Document | None, other: Document | None) -> str:
    """Whether two intervals have a value in common: then their difference may be chance."""
    if one is None or other is None or None in (one["low"], one["high"], other["low"], other["high"]):
        return "-"
    return "overlap" if one["low"] <= other["high"] and other["low"] <= one["high"] else "apart"


def _tabulate_decisions(decisions: Sequence[Document]) -> Table:
    table = new_table("round", "phase", "proposals", "accepted", "acceptance", texts=("phase",))
    for row in decisions:
        share = _share(row["accepted"], row["decided"])
        table.add_row(str(row["round"]), row["phase"], str(row["decided"]), str(row["accepted"]), share)
    return table


def _render_change(sample: Document, *, colour: bool) -> RenderableType:
    """One sample's pair before and after."""
    old, new, lengths = sample["before"], sample["after"], sample["characters"]
    parts = []
    for name in ("instruction", "input", "response"):
        if old[name] != new[name]:
            parts.append(
                render_field(name, _render_differences(old[name], new[name], colour=colour), _MOST_SHOWN)
            )
        elif name == "instruction":
            line = one_line(old[name])
            parts.append(render_field(name, Text(line if len(line) <= _VALUE else f"{line[:_VALUE]}…")))
    if (r_ifd := sample["r_ifd"]) is not None:
        values = f"{format_measure(r_ifd['before'])} before, {format_measure(r_ifd['after'])} after"
        parts.append(render_field("r-IFD", Text(f"{values}, under {r_ifd['student']}")))
    if old["response"] != new["response"]:
        counts = f"{lengths['before']} before, {lengths['after']} after"
        parts.append(render_field("characters", Text(f"of the response {counts}")))
    places = ", ".join(f"round {item['round']} {item['phase']}" for item in sample["accepted"])
    parts.append(render_field("accepted in", Text(places)))
    return Framed(f"sample {sample['position']}", *parts)


def _render_differences(old: str, new: str, *, colour: bool) -> Text:
    """A word diff without most of what both texts begin and end with."""
    head = _count_common(old, new)
    start = old.rfind(" ", 0, head - _CONTEXT) + 1 if head > _CONTEXT else 0
    tail = _count_common(old[head:][::-1], new[head:][::-1])
    end = tail - _CONTEXT if tail > _CONTEXT else 0
    shown = render_diff(old[start : len(old) - end], new[start : len(new) - end], colour=colour)
    return Text.assemble("… " if start else "", shown, " …" if end else "")


def _count_common(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    differing = (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))


# Two runs


def render_runs_compared(document: Document) -> RenderableType:
    """Two runs: what can be compared, settings, rounds, and what became of the samples of both."""
    document = inert_document(document)
    names = document["names"]
    samples, rounds = document["samples"], document["rounds"]
    status = "; ".join(f"{name}: {status}" for name, status in zip(names, document["status"], strict=True))
    sections = [
        ("Settings that differ", _tabulate_settings(document)),
        ("Accepted of the proposals decided about, and pairs trained on", _tabulate_rounds(rounds, names)),
        ("Held-out measures, with 95 % intervals", _tabulate_measures(rounds, names)),
        ("What the teacher took, and the rounds' seconds", _tabulate_costs(rounds, names)),
    ]
    if samples["shared"]:
        ends = " and ".join(map(str, samples["rounds"]))
        sections += [
            (f"Training samples of both, by their pairs after rounds {ends}", _tabulate_ends(samples, names)),
            ("Decisions of both on the same pair and proposals", _tabulate_agreement(document["decisions"])),
        ]
    head = Framed(None, Text(status, style="bold"), *map(Text, _say_comparable(document)), fit=True)
    return Group(head, Sections(part for part in sections if part[1].row_count))


def _say_comparable(document: Document) -> Iterator[str]:
    """What of two runs can be compared, and what cannot."""
    same, shared = document["same"], document["samples"]["shared"]
    if same["data"]:
        yield "the same data"
    else:
        yield f"other data: {shared or 'no'} training samples in common"
    if same["held_out"]:
        yield "the same held-out pairs"
    else:
        yield "other held-out pairs: their measures cannot be compared"
    if same["base_model"]:
        yield "base models of the same name"
    else:
        models = " and ".join(one_line(str(model["model"])) for model in document["base_models"])
        yield f"other base models ({models}): IFD, r-IFD and held-out nll cannot be compared"


def _tabulate_settings(document: Document) -> Table:
    names = [one_line(name) for name in document["names"]]
    table = new_table("key", *names, texts=names)
    for row in document["config"]:
        table.add_row(row["key"], *(Text(_say_value(value)) for value in row["values"]))
    return table


def _say_value(value: object) -> str:
    text = "-" if value is None else one_line(value if isinstance(value, str) else json.dumps(value))
    return text if len(text) <= _VALUE else f"{text[:_VALUE]}…"


def _each(rounds: Sequence[Document], names: Sequence[str]) -> Iterator[tuple[str, Text, Document]]:
    """Every round of every run that has it: its number, the run's name, its document."""
    for row in rounds:
        for name, run in zip(names, row["runs"], strict=True):
            if run is not None:
                yield str(row["round"]), Text(one_line(name)), run


def _tabulate_rounds(rounds: Sequence[Document], names: Sequence[str]) -> Table:
    table = new_table("round", "run", *PHASES, "trained on", texts=("run",))
    for number, name, run in _each(rounds, names):
        if run["instruction"] or run["response"]:
            table.add_row(
                number, name, *(_say_accepted(run[phase]) for phase in PHASES), str(run["training"])
            )
    return table


def _say_accepted(phase: Document | None) -> str:
    if phase is None:
        return "-"
    return f"{phase['accepted']} of {phase['decided']} {_share(phase['accepted'], phase['decided']):>4}"


def _tabulate_measures(rounds: Sequence[Document], names: Sequence[str]) -> Table:
    table = new_table("measure", "round", "run", "value", "from", "to", "pairs", texts=("run",))
    measures = sorted({measure for _, _, run in _each(rounds, names) for measure in run["held_out"]})
    for measure in measures:
        for number, name, run in _each(rounds, names):
            if known := run["held_out"].get(measure):
                values = (format_held_out(measure, known[key]) for key in ("value", "low", "high"))
                table.add_row(measure.replace("_", " "), number, name, *values, str(known["n"]))
    return table


def _tabulate_costs(rounds: Sequence[Document], names: Sequence[str]) -> Table:
    table = new_table("round", "run", "calls", "from\ncache", "tokens", "USD", "seconds", texts=("run",))
    for number, name, run in _each(rounds, names):
        teacher = run["teacher"]
        counts = (teacher["prompt_tokens"], teacher["completion_tokens"])
        table.add_row(
            number,
            name,
            str(teacher["calls"]),
            str(teacher["cached"]),
            "-" if None in counts else str(sum(counts)),
            format_number(teacher["cost_usd"], ".4f"),
            f"{run['seconds']:.1f}",
        )
    return table


def _tabulate_ends(samples: Document, names: Sequence[str]) -> Table:
    first, second = map(one_line, names)
    table = new_table("ended with", "samples", "share")
    said = {
        "both_given": "the given pair in both",
        "alike": "the same new pair in both",
        "only_first": f"a new pair in {first} only",
        "only_second": f"a new pair in {second} only",
        "differently": "two different new pairs",
    }
    counts = {**samples, "alike": samples["same"] - samples["both_given"]}
    for key, what in said.items():
        table.add_row(Text(what), str(counts[key]), _share(counts[key], samples["shared"]))
    return table


def _tabulate_agreement(decisions: Sequence[Document]) -> Table:
    table = new_table(
        "round", "phase", "decided\nby both", "on the\nsame", "alike", "agreement", texts=("phase",)
    )
    for row in decisions:
        counts = (str(row[key]) for key in ("both", "alike", "agree"))
        table.add_row(str(row["round"]), row["phase"], *counts, _share(row["agree"], row["alike"]))
    return table


def _share(number: int, total: int) -> str:
    return format_share(number / total if total else None)
