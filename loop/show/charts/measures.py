"""What pools and students measure: IFD and r-IFD, response lengths, held-out measures."""

from collections.abc import Mapping, Sequence
from functools import partial

from reflectune.loop.show.charts.chart import Chart, Document, as_sentence, describe_when
from reflectune.loop.show.charts.drawing import (
    SOFT,
    add_intervals,
    add_violins,
    open_figure,
)
from reflectune.loop.show.numbers import format_held_out, format_with_interval, held_out_unit

__all__ = ["draw_held_out", "draw_lengths", "draw_scores"]

_NAMES = {"ifd": "IFD", "r_ifd": "r-IFD"}
_LEGEND_OF_BOXES = "Dots are medians, thick lines the middle half, thin lines the middle 90 %."
_SUMMARY = ("mean", "5 %", "25 %", "median", "75 %", "95 %")


def draw_scores(document: Document) -> Chart | None:
    """IFD and r-IFD of the pools of rounds, each panel under one student."""
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
        _describe_scores(document["scores"]),
        ("measure", "student", "samples", "round", *_SUMMARY),
        tuple(
            (_NAMES[name], panel["student"], f"{panel['n']:,}", str(row["round"]), *_summary(row, ".3g"))
            for name, panel in panels
            for row in panel["rounds"]
        ),
    )


def _describe_scores(scores: Mapping[str, Sequence[Document]]) -> str:
    sentences = []
    for name, title in _NAMES.items():
        for panel in [*scores[name][:1], *scores[name][1:][-1:]]:
            first, last = panel["rounds"][0], panel["rounds"][-1]
            sentences.append(
                f"under {panel['student']} the median {title} is {first['median']:.3g} "
                f"{describe_when(first['round'])} and {last['median']:.3g} {describe_when(last['round'])}, "
                f"over {panel['n']:,} of {panel['of']:,} samples"
            )
    if any(panel["drawn"] is None for panels in scores.values() for panel in panels):
        which = "Each panel has what its student happened to score on both sides, not samples drawn by lot."
    else:
        which = "The untrained student scores the same samples, drawn once by lot, in every round."
    said = as_sentence("; ".join(sentences))
    return f"{said} {which} {_LEGEND_OF_BOXES} At 1 the given text neither helps nor hinders."


def draw_lengths(document: Document) -> Chart | None:
    """Characters of the pool's responses by round."""
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
        f"The median response has {first['median']:,.4g} characters {describe_when(first['round'])}"
        + (f" and {last['median']:,.4g} {describe_when(last['round'])}" if len(rounds) > 1 else "")
        + f". {_LEGEND_OF_BOXES}",
        ("round", "samples", *(f"{name}, characters" for name in _SUMMARY)),
        tuple((str(row["round"]), f"{row['n']:,}", *_summary(row, ",.1f")) for row in rounds),
    )


def draw_held_out(document: Document) -> Chart | None:
    """Held-out measures by round, with their 95 % intervals."""
    evaluations = document["evaluations"]
    names = sorted({item["name"] for item in evaluations})
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
                title=name.replace("_", " ") + (" (less is better)" if name == "nll" else ""),
                unit=held_out_unit(name),
                form=partial(format_held_out, name),
                percent=name == "accuracy",
            )
        svg = finish()
    return Chart(
        "held-out",
        "Measures on held-out pairs",
        svg,
        _describe_held_out(evaluations, names),
        ("round", "student", "measure", "value", "95 % from", "to", "samples"),
        tuple(
            (
                str(item["round"]),
                item["student"],
                item["name"].replace("_", " "),
                *(format_held_out(item["name"], item[key]) for key in ("value", "low", "high")),
                f"{item['n']:,}",
            )
            for item in evaluations
        ),
    )


def _describe_held_out(evaluations: Sequence[Document], names: Sequence[str]) -> str:
    sentences = []
    for name in names:
        items = [item for item in evaluations if item["name"] == name]
        told = [
            f"{format_with_interval(item)} with {item['student']}" for item in (items[0], *items[1:][-1:])
        ]
        sentences.append(f"{name.replace('_', ' ')}: {', '.join(told)}")
    return f"{as_sentence('; '.join(sentences))} In brackets and as lines: 95 % intervals."


def _summary(row: Document, form: str) -> tuple[str, ...]:
    return tuple(format(row[key], form) for key in ("mean", "low", "q1", "median", "q3", "high"))
