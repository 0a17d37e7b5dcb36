"""Charts of a run, from the document that `report --json` prints: SVG that reads in print and without colour.

Every chart has a description that says in words what it shows, and a table of the numbers in it. The same
document gives the same bytes. Nothing here reads a lineage or writes HTML.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from loop.drawing import (
    BLUE,
    GREEN,
    GREY,
    ON_COLOUR,
    ORANGE,
    PAPER,
    PURPLE,
    RED,
    SKY,
    SOFT,
    YELLOW,
    add_bar,
    add_columns,
    add_intervals,
    add_legend,
    add_ribbon,
    add_text,
    add_violins,
    name_round,
    open_figure,
    shorten,
)
from loop.tables import format_number, format_share
from state.text import inert_document

__all__ = ["Chart", "draw_charts", "explain_missing", "format_measure"]

Document = Mapping[str, Any]

_OUTCOMES = {  # label, colour, hatch
    "accepted": ("accepted", GREEN, ""),
    "refused": ("refused", ORANGE, "///"),
    "unchanged": ("nothing to improve", SKY, "---"),
    "failed": ("failed", RED, "xxx"),
    "frozen": ("left alone", GREY, "+++"),
    "unasked": ("not asked", YELLOW, "|||"),
    "undecided": ("not decided yet", PAPER, ""),
}
_STATES = {
    "response improved": (GREEN, ""),
    "instruction improved": (SKY, "\\\\\\"),
    "original": (GREY, "---"),
    "refused": (ORANGE, "///"),
    "failed": (RED, "xxx"),
}
_STEPS = {
    "reflect": (BLUE, "\\\\\\"),
    "select": (ORANGE, "///"),
    "refinetune": (GREEN, ""),
    "evaluate": (GREY, "---"),
}
_MEASURES = {  # title, unit
    "accuracy": ("accuracy", "right answers"),
    "nll": ("nll (less is better)", "nats per token"),
    "response_tokens": ("answer length", "tokens"),
}
_NAMES = {"ifd": "IFD", "r_ifd": "r-IFD"}
_LEGEND_OF_BOXES = "Dots are medians, thick lines the middle half, thin lines the middle 90 %."


@dataclass(frozen=True, slots=True)
class Chart:
    """One drawing, with what it says for those who do not see it."""

    name: str  # a word for addresses and ids
    title: str
    svg: str
    description: str
    head: tuple[str, ...]  # of the table below
    rows: tuple[tuple[str, ...], ...]


def draw_charts(document: Document) -> list[Chart]:
    """The charts that a run has numbers for, in the order to read them."""
    document = inert_document(document)
    drawn = (draw(document) for draw in _CHARTS.values())
    return [chart for chart in drawn if chart is not None]


def explain_missing(charts: Sequence[Chart]) -> list[str]:
    """Why the other charts were not drawn, a sentence each."""
    drawn = {chart.name for chart in charts}
    return [reason for name, reason in _MISSING.items() if name not in drawn]


# What the charts show


def _acceptance(document: Document) -> Chart | None:
    places = document["acceptance"]
    if not places:
        return None
    shown = [name for name in _OUTCOMES if any(place[name] for place in places)]
    with open_figure(0.8 + 0.34 * len(places) + 0.12 * len(places) / 2) as (figure, finish):
        axes = figure.subplots()
        heights = [index + 0.45 * (index // 2) for index in range(len(places))]
        for height, place in zip(heights, places, strict=True):
            left = 0.0
            for name in shown:
                share = place[name] / place["pool"] if place["pool"] else 0.0
                _, colour, hatch = _OUTCOMES[name]
                add_bar(axes, left, height, share, 0.82, colour, hatch, dashed=name == "undecided")
                if share >= 0.055 and name != "undecided":
                    add_text(axes, left + share / 2, height, format_share(share), color=ON_COLOUR)
                left += share
        axes.set_yticks(heights, [f"round {place['round']} · {place['phase']}" for place in places])
        axes.set_ylim(max(heights) + 0.6, -0.6)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlabel(f"share of the pool ({places[0]['pool']:,} samples)")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        add_legend(figure, [_OUTCOMES[name] for name in shown])
        svg = finish()
    return Chart(
        "acceptance",
        "What each phase came to",
        svg,
        _say_acceptance(places),
        ("round", "phase", "pool", *(_OUTCOMES[name][0] for name in shown), "accepted of proposed"),
        tuple(
            (
                str(place["round"]),
                place["phase"],
                f"{place['pool']:,}",
                *(f"{place[name]:,}" for name in shown),
                format_share(_accepted(place)),
            )
            for place in places
        ),
    )


def _accepted(place: Document) -> float | None:
    proposed = place["accepted"] + place["refused"]
    return place["accepted"] / proposed if proposed else None


def _say_acceptance(places: Sequence[Document]) -> str:
    sentences = []
    for place in [*places[:2], *places[2:][-2:]]:
        proposed = place["accepted"] + place["refused"]
        if place["undecided"] == place["pool"]:
            came_to = "nothing decided yet"
        elif proposed:
            came_to = (
                f"{place['accepted']:,} of {proposed:,} proposals accepted ({format_share(_accepted(place))})"
            )
        else:
            came_to = "no proposal to accept"
        sentences.append(f"round {place['round']}, {place['phase']}: {came_to}")
    left_out = " The rounds between are in the table." if len(places) > 4 else ""
    return f"{_sentence('; '.join(sentences))}{left_out}"


def _flow(document: Document) -> Chart | None:
    columns, moves = document["flows"]["states"], document["flows"]["transitions"]
    pool = sum(columns[0]["counts"].values())
    if len(columns) < 2 or not pool:
        return None
    with open_figure(4.4) as (figure, finish):
        axes = figure.subplots()
        tops = [_stack(column["counts"], pool) for column in columns]
        width = min(0.06 * len(columns), 0.48)  # of the way from one column to the next
        ends: dict[tuple[int, str, str], float] = {}  # how much of a bar's side is taken
        order = list(_STATES)
        for move in sorted(
            moves, key=lambda m: (m["round"], order.index(m["before"]), order.index(m["after"]))
        ):
            where = [column["round"] for column in columns].index(move["round"])
            share = move["n"] / pool
            start = tops[where - 1][move["before"]] + ends.get((where - 1, move["before"], "out"), 0.0)
            end = tops[where][move["after"]] + ends.get((where, move["after"], "in"), 0.0)
            ends[where - 1, move["before"], "out"] = start - tops[where - 1][move["before"]] + share
            ends[where, move["after"], "in"] = end - tops[where][move["after"]] + share
            colour = _STATES[move["before"]][0]
            add_ribbon(axes, (where - 1 + width / 2, start), (where - width / 2, end), share, colour)
        for where, column in enumerate(columns):
            for state, (colour, hatch) in _STATES.items():
                if n := column["counts"][state]:
                    share = n / pool
                    middle = tops[where][state] + share / 2
                    add_bar(axes, where - width / 2, middle, width, share, colour, hatch)
                    if share >= 0.045 and where < len(columns) - 1:
                        add_text(
                            axes,
                            where,
                            middle,
                            shorten(n),
                            color=ON_COLOUR,
                            fontsize=8 if len(columns) < 9 else 7,
                        )
        _label_last(axes, columns[-1]["counts"], tops[-1], pool, len(columns) - 1 + width / 2)
        axes.set_xticks(range(len(columns)), [name_round(column["round"]) for column in columns])
        axes.set_xlim(-width, len(columns) - 1 + width / 2 + 0.28 * len(columns))
        axes.set_ylim(1 + 0.025 * len(_STATES), -0.01)
        axes.yaxis.set_visible(False)
        axes.tick_params(axis="x", length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        present = {state for column in columns for state, n in column["counts"].items() if n}
        add_legend(figure, [(state, *_STATES[state]) for state in _STATES if state in present])
        svg = finish()
    return Chart(
        "flow",
        "Where samples went",
        svg,
        _say_flow(columns, pool),
        ("round", "from", "to", "samples", "share of the pool"),
        tuple(
            (
                str(move["round"]),
                move["before"],
                move["after"],
                f"{move['n']:,}",
                format_share(move["n"] / pool),
            )
            for move in moves
        ),
    )


def _say_flow(columns: Sequence[Document], pool: int) -> str:
    last = columns[-1]
    counts = ", ".join(
        f"{n:,} {state} ({format_share(n / pool)})" for state, n in last["counts"].items() if n
    )
    kept = (
        f" {last['kept']:,} of them are where an earlier round left their pair, since nothing was proposed."
        if last["kept"]
        else ""
    )
    return (
        f"All {pool:,} samples begin as original. After round {last['round']}: {counts}.{kept} A sample is "
        "refused or failed in a round that took nothing of it; its pair stays as it was."
    )


def _scores(document: Document) -> Chart | None:
    panels = [(name, panel) for name in _NAMES for panel in document["scores"][name]]
    if not panels:
        return None
    widest = max(len(document["scores"][name]) for name in _NAMES)
    single = widest == 1
    columns = 2 if single else min(widest, 5)
    lines = 1 if single else sum(-(-len(document["scores"][name]) // columns) for name in _NAMES)
    with open_figure(2.9 * lines) as (figure, finish):
        grid = figure.add_gridspec(lines, columns)
        line = 0
        for column_of_name, name in enumerate(_NAMES):
            of_name = document["scores"][name]
            for index, panel in enumerate(of_name):
                place = (0, column_of_name) if single else (line + index // columns, index % columns)
                axes = figure.add_subplot(grid[place])
                add_violins(axes, panel["rounds"], panel["edges"], form=".3g")
                axes.axhline(1.0, color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
                axes.set_title(f"{_NAMES[name]} under {panel['student']}")
                axes.set_xlabel(f"{panel['n']:,} of {panel['of']:,} samples")
                if index % columns == 0:
                    axes.set_ylabel(f"{_NAMES[name]}, no unit")
            line += 0 if single else -(-len(of_name) // columns)
        svg = finish()
    return Chart(
        "scores",
        "IFD and r-IFD of the pool",
        svg,
        _say_scores(document["scores"]),
        ("measure", "student", "samples", "round", *_SUMMARY),
        tuple(
            (_NAMES[name], panel["student"], f"{panel['n']:,}", str(row["round"]), *_summary(row, ".3g"))
            for name, panel in panels
            for row in panel["rounds"]
        ),
    )


def _say_scores(scores: Mapping[str, Sequence[Document]]) -> str:
    sentences = []
    for name, title in _NAMES.items():
        for panel in [*scores[name][:1], *scores[name][1:][-1:]]:
            first, last = panel["rounds"][0], panel["rounds"][-1]
            sentences.append(
                f"under {panel['student']} the median {title} is {first['median']:.3g} "
                f"{_when(first['round'])} and {last['median']:.3g} {_when(last['round'])}, "
                f"over {panel['n']:,} of {panel['of']:,} samples"
            )
    if any(panel["drawn"] is None for panels in scores.values() for panel in panels):
        which = "Each panel has what its student happened to score on both sides, not samples drawn by lot."
    else:
        which = "The untrained student scores the same samples, drawn once by lot, in every round."
    said = _sentence("; ".join(sentences))
    return f"{said} {which} {_LEGEND_OF_BOXES} At 1 the given text neither helps nor hinders."


def _lengths(document: Document) -> Chart | None:
    rounds = document["lengths"]["rounds"]
    if not rounds:
        return None
    with open_figure(3.0) as (figure, finish):
        axes = figure.subplots()
        add_violins(axes, rounds, document["lengths"]["edges"], form=",.4g")
        axes.set_ylabel("characters of a response")
        svg = finish()
    first, last = rounds[0], rounds[-1]
    return Chart(
        "length",
        "Length of the pool's responses",
        svg,
        f"The median response has {first['median']:,.4g} characters {_when(first['round'])}"
        + (f" and {last['median']:,.4g} {_when(last['round'])}" if len(rounds) > 1 else "")
        + f". {_LEGEND_OF_BOXES}",
        ("round", "samples", *(f"{name}, characters" for name in _SUMMARY)),
        tuple((str(row["round"]), f"{row['n']:,}", *_summary(row, ",.1f")) for row in rounds),
    )


def _held_out(document: Document) -> Chart | None:
    evaluations = document["evaluations"]
    names = sorted({item["name"] for item in evaluations}, key=lambda name: [*_MEASURES, name].index(name))
    if not names:
        return None
    columns = min(len(names), 3)
    with open_figure(2.9 * -(-len(names) // columns)) as (figure, finish):
        for axes, name in zip(
            figure.subplots(-(-len(names) // columns), columns, squeeze=False).flat, names, strict=False
        ):
            add_intervals(
                axes,
                [item for item in evaluations if item["name"] == name],
                title=_measure(name)[0],
                unit=_measure(name)[1],
                form=partial(format_measure, name),
                percent=name == "accuracy",
            )
        svg = finish()
    return Chart(
        "held-out",
        "Measures on held-out pairs",
        svg,
        _say_held_out(evaluations, names),
        ("round", "student", "measure", "value", "95 % from", "to", "samples"),
        tuple(
            (
                str(item["round"]),
                item["student"],
                item["name"].replace("_", " "),
                *(format_measure(item["name"], item[key]) for key in ("value", "low", "high")),
                f"{item['n']:,}",
            )
            for item in evaluations
        ),
    )


def _say_held_out(evaluations: Sequence[Document], names: Sequence[str]) -> str:
    sentences = []
    for name in names:
        items = [item for item in evaluations if item["name"] == name]
        told = [
            f"{format_measure(name, item['value'])} with {item['student']}"
            + (
                ""
                if item["low"] is None
                else f" ({format_measure(name, item['low'])} to {format_measure(name, item['high'])})"
            )
            for item in (items[0], *items[1:][-1:])
        ]
        sentences.append(f"{name.replace('_', ' ')}: {', '.join(told)}")
    return f"{_sentence('; '.join(sentences))} In brackets and as lines: 95 % intervals."


def _cost(document: Document) -> Chart | None:
    rounds = document["rounds"]
    seconds = [row["seconds"] for row in rounds]
    if not any(sum(of_round.values()) for of_round in seconds):
        return None
    most = max(sum(of_round.values()) for of_round in seconds)
    unit, per = next((unit, per) for unit, per, least in _TIMES if most >= least)
    tokens = [(row["teacher"]["prompt_tokens"], row["teacher"]["completion_tokens"]) for row in rounds]
    costs = [row["teacher"]["cost_usd"] for row in rounds]
    panels = 1 + any(sum(map(_or_nothing, pair)) for pair in tokens) + any(costs)
    names = [str(row["round"]) for row in rounds]
    with open_figure(2.9 if panels > 1 else 2.6) as (figure, finish):
        all_axes = list(figure.subplots(1, panels, squeeze=False).flat)
        axes = all_axes.pop(0)
        add_columns(axes, names, {name: [s[name] / per for s in seconds] for name in _STEPS}, _STEPS, ".3g")
        axes.set_title("time by step")
        axes.set_ylabel(unit)
        if any(sum(map(_or_nothing, pair)) for pair in tokens):
            axes = all_axes.pop(0)
            looks = {"prompts": (SKY, "///"), "answers": (PURPLE, "")}
            heights = {name: [pair[place] for pair in tokens] for place, name in enumerate(looks)}
            add_columns(axes, names, heights, looks, "")
            axes.set_title("tokens paid for")
            axes.set_ylabel("tokens")
        if any(costs):
            axes = all_axes.pop(0)
            add_columns(axes, names, {"cost": costs}, {"cost": (ORANGE, "///")}, ".3g")
            axes.set_title("the teacher's cost")
            axes.set_ylabel("USD")
        svg = finish()
    return Chart(
        "cost",
        "Time and cost",
        svg,
        _say_cost(document),
        (
            "round", *(f"{name}, seconds" for name in _STEPS), "calls", "from the cache", "prompt tokens",
            "answer tokens", "USD",
        ),
        tuple(
            (
                str(row["round"]),
                *(f"{row['seconds'][name]:,.1f}" for name in _STEPS),
                f"{row['teacher']['calls']:,}",
                f"{row['teacher']['cached']:,}",
                format_number(row["teacher"]["prompt_tokens"], ",d"),
                format_number(row["teacher"]["completion_tokens"], ",d"),
                format_number(row["teacher"]["cost_usd"], ".4f"),
            )
            for row in rounds
        ),
    )  # fmt: skip


def _say_cost(document: Document) -> str:
    total = {name: sum(row["seconds"][name] for row in document["rounds"]) for name in _STEPS}
    longest = max(total, key=lambda name: total[name])
    teacher = document["teacher"]
    paid = (
        "tokens are not known"
        if teacher["prompt_tokens"] is None or teacher["completion_tokens"] is None
        else f"{teacher['prompt_tokens'] + teacher['completion_tokens']:,} tokens"
    )
    cost = "a cost that is not known" if teacher["cost_usd"] is None else f"{teacher['cost_usd']:.4f} USD"
    return (
        f"All steps took {_duration(sum(total.values()))}, most of it {longest} "
        f"({format_share(total[longest] / sum(total.values()))}). The teacher's {teacher['calls']:,} calls, "
        f"{teacher['cached']:,} of them answered from the cache, came to {paid} and {cost}."
    )


_CHARTS: Mapping[str, Callable[[Document], Chart | None]] = {
    "acceptance": _acceptance,
    "flow": _flow,
    "scores": _scores,
    "held-out": _held_out,
    "length": _lengths,
    "cost": _cost,
}


_MISSING = {
    "acceptance": "No round has begun, so nothing was accepted or refused.",
    "flow": "No round is complete, so no sample has moved.",
    "scores": "No student has scored the pool of two rounds, so there is no IFD or r-IFD to compare.",
    "held-out": "Nothing was measured on held-out pairs.",
    "length": "There is no pool, so responses have no lengths.",
    "cost": "No step has taken any time yet.",
}


# How they are drawn


def _stack(counts: Mapping[str, int], pool: int) -> dict[str, float]:
    """Where each state's bar begins, from the top, in shares of the pool."""
    tops, at = {}, 0.0
    for state in _STATES:
        tops[state] = at
        if counts[state]:
            at += counts[state] / pool + 0.025
    return tops


def _label_last(
    axes: Axes, counts: Mapping[str, int], tops: Mapping[str, float], pool: int, right: float
) -> None:
    """Names, counts and shares beside the last bars, moved apart where bars are thin."""
    lowest = -1.0
    for state in _STATES:
        if n := counts[state]:
            lowest = max(tops[state] + n / pool / 2, lowest + 0.062)
            add_text(axes, right + 0.03, lowest, f"{state} · {n:,} ({format_share(n / pool)})", ha="left")


# How numbers are written

_SUMMARY = ("mean", "5 %", "25 %", "median", "75 %", "95 %")
_TIMES = (("hours", 3600.0, 2 * 3600.0), ("minutes", 60.0, 180.0), ("seconds", 1.0, 0.0))


def _summary(row: Document, form: str) -> tuple[str, ...]:
    return tuple(format(row[key], form) for key in ("mean", "low", "q1", "median", "q3", "high"))


def _measure(name: str) -> tuple[str, str]:
    return _MEASURES.get(name, (name.replace("_", " "), ""))


def format_measure(name: str, value: float | None) -> str:
    """A held-out measure as charts and the report write it; a dash for None."""
    if value is None:
        return "-"
    return f"{value:.1%}" if name == "accuracy" else f"{value:.3f}" if name == "nll" else f"{value:.4g}"


def _when(round: int) -> str:
    return f"after round {round}" if round else "in the given data"


def _duration(seconds: float) -> str:
    unit, per = next((unit, per) for unit, per, least in _TIMES if seconds >= least)
    return f"{seconds / per:,.1f} {unit}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _or_nothing(value: float | None) -> float:
    return value or 0.0
