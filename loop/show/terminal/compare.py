"""How two rounds, and two runs, look beside each other. Takes the documents that --json prints."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reflectune.loop.show.numbers import format_held_out, format_measure, format_number, format_share
from reflectune.loop.show.terminal.layout import Difference, Field, Framed, Sections, tabulate
from reflectune.state.records import PHASES
from reflectune.state.text import inert_document, one_line

__all__ = ["render_rounds_compared", "render_runs_compared"]

Document = Mapping[str, Any]

# Characters of what two texts have in common that stand around their differences, and of a whole diff.
_CONTEXT = 100
_MAX_SHOWN = 2_000
# Characters of a config value.
_VALUE = 200


# Two rounds


def render_rounds_compared(document: Document) -> RenderableType:
    """Two rounds of a run: pools, decisions, measures, training sets, and samples with word diffs."""
    document = inert_document(document)
    pairs, training = document["pairs"], document["training"]
    a, b = document["before"], document["after"]
    changed = pairs["total"] - pairs["unchanged"]
    sections = (
        ("Pairs by what differs", _tabulate_pairs(pairs)),
        (f"Pools D[{a}] and D[{b}]; each IFD and r-IFD under one student", _tabulate_pools(document)),
        (
            "Held-out measures of both rounds' students, with 95 % intervals",
            _tabulate_held_out(document["held_out"]),
        ),
        ("Decisions that lie between", _tabulate_decisions(document["decisions"])),
    )
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
    if not (samples := document["samples"]):
        return Group(head, Sections(sections))
    return Group(
        head,
        Sections(sections),
        Text(f"\n{len(samples)} of the {changed} samples that differ", style="bold"),
        *map(_render_change, samples),
        Text(f"see one with `reflectune trace {document['name']} {samples[0]['position']}`"),
    )


def _tabulate_pairs(pairs: Document) -> Table:
    names = {"instruction": "instruction only", "response": "response only", "unchanged": "nothing"}
    return tabulate(
        ("differs", "pairs", "share"),
        (
            (names.get(kind, kind), str(pairs[kind]), _share(pairs[kind], pairs["total"]))
            for kind in ("instruction", "response", "both", "unchanged")
        ),
    )


def _tabulate_pools(document: Document) -> Table:
    heads = ("measure", f"round {document['before']}", f"round {document['after']}", "change", "known for")
    return tabulate((*heads, "changed"), _pool_rows(document))


def _pool_rows(document: Document) -> Iterator[tuple[str, ...]]:
    """Lengths, scores and acceptance of both rounds."""
    total, unchanged = document["pairs"]["total"], document["pairs"]["unchanged"]
    lengths = {**document["response_characters"], "known": total, "changed": total - unchanged}
    measures = [("response characters", lengths)]
    measures += [
        (f"{name} under {scores['student']}", scores[key])
        for scores in document["scores"]
        for key, name in (("ifd", "IFD"), ("r_ifd", "r-IFD"))
        if scores[key]["changed"]
    ]
    for name, measure in measures:
        for part in ("mean", "median"):
            old, new = measure["before"][part], measure["after"][part]
            change = None if old is None or new is None else new - old
            numbers = (format_measure(old), format_measure(new), format_measure(change, "+"))
            yield f"{part} {name}", *numbers, f"{measure['known']} pairs", str(measure["changed"])
    for phase in PHASES:
        shares = (document["acceptance"][side].get(phase) for side in ("before", "after"))
        yield f"acceptance, phase {phase}", *map(format_share, shares), "", "", ""


def _tabulate_held_out(measures: Sequence[Document]) -> Table:
    heads = ("measure", "student", "value", "from", "to", "pairs", "change", "intervals")
    return tabulate(
        heads,
        (
            (
                *_evaluation(measure["name"], known["student"], known),
                format_held_out(measure["name"], measure["difference"], "+") if side == "after" else "",
                _say_overlap(measure["before"], measure["after"]) if side == "after" else "",
            )
            for measure in measures
            for side in ("before", "after")
            if (known := measure[side]) is not None
        ),
    )


def _evaluation(name: str, student: str, known: Document) -> tuple[str, ...]:
    """A held-out measure with its interval and how many pairs it is of."""
    values = (format_held_out(name, known[key]) for key in ("value", "low", "high"))
    return name.replace("_", " "), student, *values, str(known["n"])


def _say_overlap(one: Document | None, other: Document | None) -> str:
    """Whether two intervals have a value in common: then their difference may be chance."""
    if one is None or other is None or None in (one["low"], one["high"], other["low"], other["high"]):
        return "-"
    return "overlap" if one["low"] <= other["high"] and other["low"] <= one["high"] else "apart"


def _tabulate_decisions(decisions: Sequence[Document]) -> Table:
    return tabulate(
        ("round", "phase", "proposals", "accepted", "acceptance"),
        (
            (
                str(row["round"]),
                row["phase"],
                str(row["decided"]),
                str(row["accepted"]),
                _share(row["accepted"], row["decided"]),
            )
            for row in decisions
        ),
        texts=("phase",),
    )


def _render_change(sample: Document) -> RenderableType:
    """One sample's pair before and after."""
    old, new = sample["before"], sample["after"]
    parts = []
    for name in ("instruction", "input", "response"):
        if old[name] != new[name]:
            parts.append(Field(name, Difference(old[name], new[name], _CONTEXT), _MAX_SHOWN))
        elif name == "instruction":
            parts.append(Field(name, _shorten(one_line(old[name]))))
    if r_ifd := sample["r_ifd"]:
        values = f"{format_measure(r_ifd['before'])} before, {format_measure(r_ifd['after'])} after"
        parts.append(Field("r-IFD", f"{values}, under {r_ifd['student']}"))
    if old["response"] != new["response"]:
        lengths = sample["characters"]
        parts.append(
            Field("characters", f"of the response {lengths['before']} before, {lengths['after']} after")
        )
    places = (f"round {item['round']} {item['phase']}" for item in sample["accepted"])
    return Framed(f"sample {sample['position']}", *parts, Field("accepted in", ", ".join(places)))


def _shorten(text: str) -> str:
    return text if len(text) <= _VALUE else f"{text[:_VALUE]}…"


# Two runs


def render_runs_compared(document: Document) -> RenderableType:
    """Two runs: what can be compared, settings, rounds, and what became of the samples of both."""
    document = inert_document(document)
    names = [one_line(name) for name in document["names"]]
    samples, rounds = document["samples"], list(_each(document["rounds"], names))
    ends = " and ".join(map(str, samples["rounds"]))
    status = "; ".join(
        f"{name}: {status}" for name, status in zip(document["names"], document["status"], strict=True)
    )
    sections = [
        ("Settings that differ", _tabulate_settings(document["config"], names)),
        ("Accepted of the proposals decided about, and pairs trained on", _tabulate_rounds(rounds)),
        ("Held-out measures, with 95 % intervals", _tabulate_measures(rounds)),
        ("What the teacher took, and the rounds' seconds", _tabulate_costs(rounds)),
    ]
    if samples["shared"]:
        sections += [
            (f"Training samples of both, by their pairs after rounds {ends}", _tabulate_ends(samples, names)),
            ("Decisions of both on the same pair and proposals", _tabulate_agreement(document["decisions"])),
        ]
    head = Framed(None, Text(status, style="bold"), *map(Text, _say_comparable(document)), fit=True)
    return Group(head, Sections(sections))


def _each(rounds: Sequence[Document], names: Sequence[str]) -> Iterator[tuple[str, Text, Document]]:
    """Every round of every run that has it: its number, the run's name, its document."""
    for row in rounds:
        for name, run in zip(names, row["runs"], strict=True):
            if run is not None:
                yield str(row["round"]), Text(name), run


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


def _tabulate_settings(config: Sequence[Document], names: Sequence[str]) -> Table:
    rows = ((row["key"], *(Text(_say_value(value)) for value in row["values"])) for row in config)
    return tabulate(("key", *names), rows, texts=names)


def _say_value(value: object) -> str:
    if value is None:
        return "-"
    return _shorten(one_line(value if isinstance(value, str) else json.dumps(value)))


def _tabulate_rounds(rounds: Sequence[tuple[str, Text, Document]]) -> Table:
    return tabulate(
        ("round", "run", *PHASES, "trained on"),
        (
            (number, name, *(_say_accepted(run[phase]) for phase in PHASES), str(run["training"]))
            for number, name, run in rounds
            if run["instruction"] or run["response"]
        ),
        texts=("run",),
    )


def _say_accepted(phase: Document | None) -> str:
    if phase is None:
        return "-"
    return f"{phase['accepted']} of {phase['decided']} {_share(phase['accepted'], phase['decided']):>4}"


def _tabulate_measures(rounds: Sequence[tuple[str, Text, Document]]) -> Table:
    measures = sorted({measure for _, _, run in rounds for measure in run["held_out"]})
    return tabulate(
        ("measure", "round", "run", "value", "from", "to", "pairs"),
        (
            (measure.replace("_", " "), number, name, *_evaluation(measure, "", known)[2:])
            for measure in measures
            for number, name, run in rounds
            if (known := run["held_out"].get(measure))
        ),
        texts=("run",),
    )


def _tabulate_costs(rounds: Sequence[tuple[str, Text, Document]]) -> Table:
    return tabulate(
        ("round", "run", "calls", "from\ncache", "tokens", "USD", "seconds"),
        (
            (
                number,
                name,
                str(run["teacher"]["calls"]),
                str(run["teacher"]["cached"]),
                "-" if None in counts else str(sum(counts)),
                format_number(run["teacher"]["cost_usd"], ".4f"),
                f"{run['seconds']:.1f}",
            )
            for number, name, run in rounds
            for counts in [[run["teacher"][key] for key in ("prompt_tokens", "completion_tokens")]]
        ),
        texts=("run",),
    )


def _tabulate_ends(samples: Document, names: Sequence[str]) -> Table:
    counts = {**samples, "alike": samples["same"] - samples["both_given"]}
    ends = {
        "both_given": "the given pair in both",
        "alike": "the same new pair in both",
        "only_first": f"a new pair in {names[0]} only",
        "only_second": f"a new pair in {names[1]} only",
        "differently": "two different new pairs",
    }
    return tabulate(
        ("ended with", "samples", "share"),
        (
            (Text(what), str(counts[key]), _share(counts[key], samples["shared"]))
            for key, what in ends.items()
        ),
    )


def _tabulate_agreement(decisions: Sequence[Document]) -> Table:
    return tabulate(
        ("round", "phase", "decided\nby both", "on the\nsame", "alike", "agreement"),
        (
            (
                str(row["round"]),
                row["phase"],
                *(str(row[key]) for key in ("both", "alike", "agree")),
                _share(row["agree"], row["alike"]),
            )
            for row in decisions
        ),
        texts=("phase",),
    )


def _share(number: int, total: int) -> str:
    return format_share(number / total if total else None)
