"""Two runs beside each other, as sentences and tables that a terminal and a page only lay out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reflectune.loop.show.numbers import (
    format_held_out,
    format_number,
    format_setting,
    format_share_of,
    name_held_out,
)
from reflectune.state.lineage.documents import RunsCompared
from reflectune.state.records import PHASES
from reflectune.state.text import one_line

__all__ = [
    "Section",
    "explain_comparable",
    "share_accepted",
    "tabulate_runs",
    "tell_held_out",
]

# Characters of a config value.
_VALUE = 200
_Rounds = Sequence[tuple[tuple[int, str], Mapping[str, Any]]]  # number, run's name, what `RunsCompared` holds


@dataclass(frozen=True, slots=True)
class Section:
    """A table; the first column and those named in `texts` hold texts, the others numbers."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[object]]
    texts: Sequence[str] = ("run", "phase")


def explain_comparable(document: RunsCompared) -> Iterator[str]:
    """What of two runs can be compared, and what cannot."""
    same, shared = document["same"], document["samples"]["shared"]
    yield "the same data" if same["data"] else f"other data: {shared or 'no'} training samples in common"
    if same["held_out"]:
        yield "the same held-out pairs"
    else:
        yield "other held-out pairs: their measures cannot be compared"
    if same["base_model"]:
        yield "base models of the same name"
    else:
        models = " and ".join(one_line(str(model["model"])) for model in document["base_models"])
        yield f"other base models ({models}): IFD, r-IFD and held-out nll cannot be compared"


def tabulate_runs(document: RunsCompared) -> list[Section]:
    """Settings, rounds and, over the samples of both runs, pairs and decisions; no empty table."""
    names = [one_line(name) for name in document["names"]]
    rounds = [
        ((row["round"], name), run)
        for row in document["rounds"]
        for name, run in zip(names, row["runs"], strict=True)
        if run is not None
    ]
    sections = [_compare_settings(document, names), _compare_rounds(rounds), _compare_measures(rounds)]
    sections.append(_compare_costs(rounds))
    if document["samples"]["shared"]:
        sections += [_compare_ends(document, names), _compare_decisions(document)]
    return [section for section in sections if section.rows]


def _compare_settings(document: RunsCompared, names: Sequence[str]) -> Section:
    rows = [(row["key"], *map(_shorten_setting, row["values"])) for row in document["config"]]
    return Section("Settings that differ", ("key", *names), rows, texts=names)


def _shorten_setting(value: object) -> str:
    text = one_line(format_setting(value))
    return text if len(text) <= _VALUE else f"{text[:_VALUE]}…"


def _compare_rounds(rounds: _Rounds) -> Section:
    rows = [
        (*place, *(_tell_accepted(run[phase]) for phase in PHASES), run["training"])
        for place, run in rounds
        if run["instruction"] or run["response"]
    ]
    title = "Accepted of the proposals decided about, and pairs trained on"
    return Section(title, ("round", "run", *PHASES, "trained on"), rows)


def _tell_accepted(phase: Mapping[str, int] | None) -> str:
    return "-" if phase is None else f"{phase['accepted']} of {phase['decided']} {share_accepted(phase):>4}"


def share_accepted(decisions: Mapping[str, Any]) -> str:
    """The accepted among the proposals that were decided about."""
    return format_share_of(decisions["accepted"], decisions["decided"])


def _compare_measures(rounds: _Rounds) -> Section:
    rows = [
        (name_held_out(name), *place, *tell_held_out(name, known))
        for name in sorted({name for _, run in rounds for name in run["held_out"]})
        for place, run in rounds
        if (known := run["held_out"].get(name))
    ]
    heads = ("measure", "round", "run", "value", "from", "to", "pairs")
    return Section("Held-out measures, with 95 % intervals", heads, rows)


def tell_held_out(name: str, known: Mapping[str, Any]) -> tuple[object, ...]:
    """A held-out measure with its interval and how many pairs it is of."""
    return *(format_held_out(name, known[key]) for key in ("value", "low", "high")), known["n"]


def _compare_costs(rounds: _Rounds) -> Section:
    heads = ("round", "run", "calls", "from\ncache", "tokens", "USD", "seconds")
    rows = [(*place, *_tell_costs(run["teacher"]), f"{run['seconds']:.1f}") for place, run in rounds]
    return Section("What the teacher took, and the rounds' seconds", heads, rows)


def _tell_costs(teacher: Mapping[str, Any]) -> tuple[object, ...]:
    counts = [teacher[key] for key in ("prompt_tokens", "completion_tokens")]
    tokens = "-" if None in counts else sum(counts)
    return teacher["calls"], teacher["cached"], tokens, format_number(teacher["cost_usd"], ".4f")


def _compare_ends(document: RunsCompared, names: Sequence[str]) -> Section:
    samples = document["samples"]
    counts = {
        "the given pair in both": samples["both_given"],
        "the same new pair in both": samples["same"] - samples["both_given"],
        f"a new pair in {names[0]} only": samples["only_first"],
        f"a new pair in {names[1]} only": samples["only_second"],
        "two different new pairs": samples["differently"],
    }
    rows = [(what, number, format_share_of(number, samples["shared"])) for what, number in counts.items()]
    title = "Training samples of both, by their pairs after rounds {} and {}".format(*samples["rounds"])
    return Section(title, ("ended with", "samples", "share"), rows)


def _compare_decisions(document: RunsCompared) -> Section:
    rows = [
        (
            *(row[key] for key in ("round", "phase", "both", "alike", "agree")),
            format_share_of(row["agree"], row["alike"]),
        )
        for row in document["decisions"]
    ]
    heads = ("round", "phase", "decided\nby both", "on the\nsame", "alike", "agreement")
    return Section("Decisions of both on the same pair and proposals", heads, rows)
