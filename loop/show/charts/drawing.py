"""How charts are drawn: figures as SVG, with bars, bands, distributions and intervals.

Colours are those of Okabe and Ito, and hatches or places tell apart what they do. Texts become paths: an
image cannot rely on fonts. The same calls give the same bytes. Nothing here knows what a chart is about.
"""

import io
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from reflectune.loop.show.numbers import format_short
from reflectune.state.lineage.documents import Distribution

__all__ = [
    "BLUE", "GREEN", "GREY", "ON_COLOUR", "ORANGE", "PAPER", "PURPLE", "RED", "SKY", "SOFT", "YELLOW",
    "Chart", "add_bar", "add_columns", "add_legend", "add_ribbon", "add_text", "add_violins", "annotate",
    "describe_when", "name_round", "open_figure",
]  # fmt: skip

_WIDTH = 9.0  # inches of a figure, of 72 SVG points each
_INK, SOFT, _LINE, PAPER = "#1c1e21", "#59606a", "#c9ced6", "#ffffff"
ON_COLOUR = "#111111"
BLUE, SKY, GREEN, ORANGE, RED, PURPLE, YELLOW, GREY = (
    "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7", "#f0e442", "#9aa0a6",
)  # fmt: skip
# What some become where the reader's screen is dark.
_DARK = {_INK: "#e8eaed", SOFT: "#a9b0ba", _LINE: "#454b54", PAPER: "#16181c", BLUE: "#6cb6e6"}
_HATCH = (0.0, 0.0, 0.0, 0.22)
_STYLE = {
    "font.family": "DejaVu Sans", "font.size": 9, "text.color": _INK, "text.parse_math": False,
    "axes.titlelocation": "left", "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlecolor": _INK,
    "axes.labelsize": 9, "axes.labelcolor": SOFT, "xtick.labelcolor": _INK, "ytick.labelcolor": _INK,
    "axes.edgecolor": _LINE, "xtick.color": _LINE, "ytick.color": _LINE, "grid.color": _LINE,
    "axes.spines.right": False, "axes.spines.top": False, "axes.axisbelow": True, "grid.linewidth": 0.6,
    "hatch.linewidth": 0.8, "legend.fontsize": 9, "legend.frameon": False, "legend.labelcolor": _INK,
    "svg.fonttype": "path", "svg.hashsalt": "reflectune",
}  # fmt: skip
_COMMENT = re.compile(r"\s*<!--.*?-->", re.DOTALL)
# matplotlib's settings are the process's.
_DRAWING = threading.RLock()


@dataclass(frozen=True, slots=True)
class Chart:
    """One drawing, with what it says for those who do not see it."""

    name: str  # a word for addresses and ids
    title: str
    svg: str
    description: str
    head: Sequence[str]  # of the table below
    rows: Sequence[Sequence[object]]


@contextmanager
def open_figure(height: float) -> Iterator[tuple[Figure, Callable[[], str]]]:
    """A figure of a height in inches, and what makes it SVG."""
    with _DRAWING, style.context(["default", _STYLE]):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        yield figure, lambda: _to_svg(figure)


def _to_svg(figure: Figure) -> str:
    buffer = io.StringIO()
    unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=unsaid)
    svg = _COMMENT.sub("", buffer.getvalue())
    svg = svg[svg.index("<svg ") :]
    rules = "".join(
        f'[style*="{what}: {light}"]{{{what}:{dark}!important}}'
        for light, dark in _DARK.items()
        for what in ("fill", "stroke")
    )
    sheet = f"<style>@media (prefers-color-scheme:dark){{{rules}}}</style>"
    opening = svg.index(">") + 1
    return svg[:opening] + sheet + svg[opening:]


def add_bar(
    axes: Axes, left: float, middle: float, width: float, height: float, look: tuple[str, str]
) -> None:
    """A rectangle of a colour and a hatch, dashed where it is as white as paper; nothing without a size."""
    if width > 0 and height > 0:
        axes.add_patch(Rectangle((left, middle - height / 2), width, height, **_fill(*look)))


def _fill(colour: str, hatch: str) -> dict[str, Any]:
    edge, line = (SOFT, (0, (3, 3))) if colour == PAPER else (PAPER, "solid")
    return {
        "facecolor": colour, "hatch": hatch, "hatchcolor": _HATCH, "edgecolor": edge, "linewidth": 0.7,
        "linestyle": line,
    }  # fmt: skip


def add_ribbon(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], share: float, colour: str
) -> None:
    """A band of constant height that bends from one bar to the next."""
    (x0, y0), (x1, y1) = start, end
    bend = (x0 + x1) / 2
    path = Path(
        [
            (x0, y0), (bend, y0), (bend, y1), (x1, y1),
            (x1, y1 + share), (bend, y1 + share), (bend, y0 + share), (x0, y0 + share), (x0, y0),
        ],
        [
            Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4,
            Path.LINETO, Path.CURVE4, Path.CURVE4, Path.CURVE4, Path.CLOSEPOLY,
        ],
    )  # fmt: skip
    axes.add_patch(PathPatch(path, facecolor=colour, alpha=0.38, linewidth=0, zorder=0.5))


def add_violins(axes: Axes, distribution: Distribution, *, form: str) -> None:
    """Distributions side by side on a logarithmic axis, from the 5 % to the 95 % quantiles and a bit more."""
    rounds, edges = distribution["rounds"], distribution["edges"]
    positive = [value for row in rounds for value in (row["low"], row["high"]) if value > 0]
    if positive:
        low, high = min(positive), max(positive)
        room = max((high / low) ** 0.12, 1.15)
        axes.set_yscale("log")
        axes.set_ylim(low / room, high * room)
        axes.yaxis.set_major_locator(
            LogLocator(subs=(1.0,) if high / low > 300 else (1.0, 2.0, 5.0), numticks=7)
        )
    for place, row in enumerate(rounds):
        if row["n"] >= 20 and edges:
            _add_violin(axes, place, row["counts"], edges, half=0.38 * min(1.0, len(rounds) / 2))
        if len(rounds) <= 6 or place == len(rounds) - 1:
            annotate(axes, format(row["median"], form), (place, row["median"]), (7, 0), va="center")
    places = range(len(rounds))
    lows, firsts, medians, thirds, highs = (
        [row[name] for row in rounds] for name in ("low", "q1", "median", "q3", "high")
    )
    axes.vlines(places, lows, highs, color=BLUE, linewidth=1.0)
    axes.vlines(places, firsts, thirds, color=BLUE, linewidth=5.0)
    axes.plot(places, medians, "o", color=PAPER, markeredgecolor=_INK, markersize=5.5)
    axes.set_xticks(places, [name_round(row["round"], few=len(rounds) <= 5) for row in rounds])
    axes.set_xlim(-0.6, len(rounds) - 0.4)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.grid(True)
    axes.tick_params(axis="x", length=0)


def _add_violin(
    axes: Axes, place: int, counts: Sequence[int], edges: Sequence[float], *, half: float
) -> None:
    padded = [0, 0, *counts, 0, 0]
    smooth = [
        sum(weight * n for weight, n in zip((1, 4, 6, 4, 1), padded[start:], strict=False))
        for start in range(len(counts))
    ]
    widths = [half * value / (max(smooth) or 1) for value in smooth]
    middles = [(low * high) ** 0.5 for low, high in pairwise(edges)]
    left, right = ([place + sign * width for width in widths] for sign in (-1, 1))
    axes.fill_betweenx(middles, left, right, facecolor=SKY, alpha=0.45, linewidth=0)


def annotate(axes: Axes, text: str, where: tuple[float, float], away: tuple[int, int], **align: Any) -> None:
    """A bold number so many points away from its place."""
    axes.annotate(text, where, away, textcoords="offset points", fontsize=8, fontweight="bold", **align)


def add_columns(
    axes: Axes,
    names: Sequence[str],
    heights: Mapping[str, Sequence[float | None]],
    looks: Mapping[str, tuple[str, str]],
    form: str,
) -> None:
    """Stacked columns, the sum above each; a sum that is not known is said, not drawn."""
    shown = [name for name in looks if any(heights[name])]
    totals: list[float | None] = []
    for place, parts in enumerate(zip(*(heights[name] for name in shown), strict=True)):
        known = [part for part in parts if part is not None]
        totals.append(sum(known) if len(known) == len(parts) else None)
        for index, part in enumerate(known if totals[-1] else ()):
            middle = sum(known[:index]) + part / 2
            add_bar(axes, place - 0.34, middle, 0.68, part, looks[shown[index]])
    most = max([total for total in totals if total] or [1.0])
    axes.set_ylim(0, most * 1.12)
    axes.set_xlim(-0.6, len(names) - 0.4)
    for place, total in enumerate(totals):
        if total is None or total:
            text = "not\nknown" if total is None else format(total, form) if form else format_short(total)
            size = 8 if len(names) <= 6 else 6.5
            add_text(axes, place, (total or 0) + 0.02 * most, text, va="bottom", fontsize=size)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("round")
    axes.tick_params(axis="x", length=0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_short(value)))
    axes.yaxis.grid(True)
    if len(looks) > 1:
        axes.legend(
            handles=[_patch(name, looks[name]) for name in shown],
            loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=8, borderpad=0,
        )  # fmt: skip


def add_legend(figure: Figure, looks: Mapping[str, tuple[str, str]]) -> None:
    """What labels stand for, above everything: colour and hatch of each."""
    patches = [_patch(label, look) for label, look in looks.items()]
    figure.legend(handles=patches, loc="outside upper left", ncols=7, handlelength=1.6, columnspacing=1.4)


def _patch(label: str, look: tuple[str, str]) -> Patch:
    colour, hatch = look
    return Patch(label=label, **_fill(colour, hatch * 2))


def add_text(axes: Axes, x: float, y: float, text: str, **look: Any) -> None:
    """A small text, in the middle of the place unless `look` says otherwise."""
    centred: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8.5}
    axes.text(x, y, text, **(centred | look))


def name_round(round: int, *, few: bool = True) -> str:
    """A round on an axis; where there are many, by its number alone."""
    if round == 0:
        return "given" if few else "0"
    return f"round {round}" if few else str(round)


def describe_when(round: int) -> str:
    """When a round's numbers were so."""
    return f"after round {round}" if round else "in the given data"
