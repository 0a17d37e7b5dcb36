"""What pools and students measure: IFD and r-IFD, response lengths, held-out measures."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from reflectune.loop.show.charts import drawing
from reflectune.loop.show.comparison import tell_held_out
from reflectune.loop.show.documents import RunEvolution
from reflectune.loop.show.numbers import (
    as_sentence,
    format_held_out,
    format_with_interval,
    held_out_unit,
    is_share,
    name_held_out,
)
from reflectune.state.lineage.distributions import MEASURES, Measure
from reflectune.state.lineage.documents import EvaluationDocument, Panel
from reflectune.state.policies import TITLES

__all__ = ["draw_held_out", "draw_lengths", "draw_scores"]

_LEGEND_OF_BOXES = "Dots are medians, thick lines the middle half, thin lines the middle 90 %."
_BOUNDS: tuple[Literal["low", "high"], ...] = ("low", "high")
_SUMMARY = ("mean", "5 %", "25 %", "median", "75 %", "95 %")


def draw_scores(document: RunEvolution) -> drawing.Chart | None:
    """IFD and r-IFD of the pools of rounds, each panel under one student."""
    scores = document["scores"]
    widest = max(map(len, scores.values()))
    if not widest:
        return None
    columns = 2 if widest == 1 else min(widest, 5)
    places: list[tuple[Measure, Panel] | None] = []
    for name in MEASURES:
        places += [(name, panel) for panel in scores[name]]
        if widest > 1:  # the next measure begins a line of its own
            places += [None] * (-len(places) % columns)
    lines = -(-len(places) // columns)
    with drawing.open_figure(2.9 * lines) as (figure, finish):
        for number, (name, panel) in ((n, place) for n, place in enumerate(places, 1) if place):
            axes = figure.add_subplot(lines, columns, number)
            drawing.add_violins(axes, panel, form=".3g")
            axes.axhline(1.0, color=drawing.SOFT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
            axes.set_title(f"{TITLES[name]} under {panel['student']}")
            axes.set_xlabel(f"{panel['n']:,} of {panel['of']:,} samples")
            if number % columns == 1 or panel is scores[name][0]:
                axes.set_ylabel(f"{TITLES[name]}, no unit")
        svg = finish()
    return drawing.Chart(
        "scores",
        "IFD and r-IFD of the pool",
        svg,
        _describe_scores(scores),
        ("measure", "student", "samples", "round", *_SUMMARY),
        [
            (TITLES[name], panel["student"], panel["n"], row["round"], *_summary(row, ".3g"))
            for name in MEASURES
            for panel in scores[name]
            for row in panel["rounds"]
        ],
    )


def _describe_scores(scores: Mapping[Measure, Sequence[Panel]]) -> str:
    sentences = []
    for name in MEASURES:
        for panel in [*scores[name][:1], *scores[name][1:][-1:]]:
            first, last = panel["rounds"][0], panel["rounds"][-1]
            sentences.append(
                f"under {panel['student']} the median {TITLES[name]} is {first['median']:.3g} "
                f"{drawing.describe_when(first['round'])} and "
                f"{last['median']:.3g} {drawing.describe_when(last['round'])}, "
                f"over {panel['n']:,} of {panel['of']:,} samples"
            )
    if any(panel["drawn"] is None for panels in scores.values() for panel in panels):
        which = "Each panel has what its student happened to score on both sides, not samples drawn by lot."
    else:
        which = "The untrained student scores the same samples, drawn once by lot, in every round."
    said = as_sentence("; ".join(sentences))
    return f"{said} {which} {_LEGEND_OF_BOXES} At 1 the given text neither helps nor hinders."


def draw_lengths(document: RunEvolution) -> drawing.Chart | None:
    """Characters of the pool's responses by round."""
    rounds = document["lengths"]["rounds"]
    if not rounds:
        return None
    with drawing.open_figure(3.0) as (figure, finish):
        axes = figure.subplots()
        drawing.add_violins(axes, document["lengths"], form=",.4g")
        axes.set_ylabel("characters of a response")
        svg = finish()
    first, last = rounds[0], rounds[-1]
    return drawing.Chart(
        "length",
        "Length of the pool's responses",
        svg,
        f"The median response has {first['median']:,.4g} characters {drawing.describe_when(first['round'])}"
        + (f" and {last['median']:,.4g} {drawing.describe_when(last['round'])}" if len(rounds) > 1 else "")
        + f". {_LEGEND_OF_BOXES}",
        ("round", "samples", *(f"{name}, characters" for name in _SUMMARY)),
        [(row["round"], row["n"], *_summary(row, ",.1f")) for row in rounds],
    )


def draw_held_out(document: RunEvolution) -> drawing.Chart | None:
    """Held-out measures by round, with their 95 % intervals."""
    evaluations = document["evaluations"]
    names = sorted({item["name"] for item in evaluations})
    if not names:
        return None
    columns = min(len(names), 3)
    lines = -(-len(names) // columns)
    with drawing.open_figure(2.9 * lines) as (figure, finish):
        for number, name in enumerate(names, start=1):
            axes = figure.add_subplot(lines, columns, number)
            _draw_intervals(axes, name, [item for item in evaluations if item["name"] == name])
        svg = finish()
    return drawing.Chart(
        "held-out",
        "Measures on held-out pairs",
        svg,
        _describe_held_out(evaluations, names),
        ("round", "student", "measure", "value", "95 % from", "to", "samples"),
        [
            (item["round"], item["student"], name_held_out(name), *tell_held_out(name, item))
            for item in evaluations
            for name in [item["name"]]
        ],
    )


def _draw_intervals(axes: Axes, name: str, items: Sequence[EvaluationDocument]) -> None:
    """Values of a measure by round, with lines for their intervals."""
    rounds, values = [item["round"] for item in items], [item["value"] for item in items]
    lows, highs = (
        [item["value"] if (bound := item[side]) is None else bound for item in items] for side in _BOUNDS
    )
    axes.plot(rounds, values, color=drawing.SKY, linewidth=1.2, zorder=1)
    axes.vlines(rounds, lows, highs, color=drawing.BLUE, linewidth=2.2)
    edge: dict[str, Any] = {"markeredgecolor": drawing.BLUE, "markeredgewidth": 1.6}
    axes.plot(rounds, values, "o", color=drawing.PAPER, markersize=6, **edge)
    for place, (round, value, high) in enumerate(zip(rounds, values, highs, strict=True)):
        if len(rounds) <= 5 or place in (0, len(rounds) - 1):
            drawing.annotate(axes, format_held_out(name, value), (round, high), (0, 4), ha="center")
    span = max(highs) - min(lows) or abs(max(highs)) * 0.2 or 1.0
    axes.set_ylim(min(lows) - 0.12 * span, max(highs) + 0.22 * span)
    axes.set_xlim(min(rounds) - 0.5, max(rounds) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=11, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    if is_share(name):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_title(name_held_out(name) + (" (less is better)" if name == "nll" else ""))
    axes.set_xlabel("round")
    axes.set_ylabel(held_out_unit(name))
    axes.yaxis.grid(True)


def _describe_held_out(evaluations: Sequence[EvaluationDocument], names: Sequence[str]) -> str:
    sentences = []
    for name in names:
        items = [item for item in evaluations if item["name"] == name]
        ends = (items[0], *items[1:][-1:])
        told = ", ".join(f"{format_with_interval(item)} with {item['student']}" for item in ends)
        sentences.append(f"{name_held_out(name)}: {told}")
    return f"{as_sentence('; '.join(sentences))} In brackets and as lines: 95 % intervals."


def _summary(row: Mapping[str, Any], form: str) -> tuple[str, ...]:
    return tuple(format(row[key], form) for key in ("mean", "low", "q1", "median", "q3", "high"))
