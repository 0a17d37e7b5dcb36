"""What became of samples: what each phase came to, and the flow from round to round."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from reflectune.loop.show.charts import drawing
from reflectune.loop.show.documents import RunEvolution
from reflectune.loop.show.explanations import name_outcome
from reflectune.loop.show.numbers import as_sentence, format_share, format_share_of, format_short

__all__ = ["draw_acceptance", "draw_flow"]

_OUTCOMES = {  # colour, hatch
    "accepted": (drawing.GREEN, ""),
    "refused": (drawing.ORANGE, "///"),
    "unchanged": (drawing.SKY, "---"),
    "failed": (drawing.RED, "xxx"),
    "frozen": (drawing.GREY, "+++"),
    "unasked": (drawing.YELLOW, "|||"),
    "undecided": (drawing.PAPER, ""),
}
_STATES = {
    "response improved": (drawing.GREEN, ""),
    "instruction improved": (drawing.SKY, "\\\\\\"),
    "original": (drawing.GREY, "---"),
    "refused": (drawing.ORANGE, "///"),
    "failed": (drawing.RED, "xxx"),
}


def draw_acceptance(document: RunEvolution) -> drawing.Chart | None:
    """How many samples of the pool came to what, by phase."""
    places = document["acceptance"]
    if not places:
        return None
    shown = [name for name in _OUTCOMES if any(place[name] for place in places)]
    with drawing.open_figure(0.8 + 0.34 * len(places) + 0.12 * len(places) / 2) as (figure, finish):
        axes = figure.subplots()
        heights = [index + 0.45 * (index // 2) for index in range(len(places))]
        for height, place in zip(heights, places, strict=True):
            left = 0.0
            for name in shown:
                share = place[name] / place["pool"] if place["pool"] else 0.0
                drawing.add_bar(axes, left, height, share, 0.82, _OUTCOMES[name])
                if share >= 0.055 and name != "undecided":
                    middle, text = left + share / 2, format_share(share)
                    drawing.add_text(axes, middle, height, text, color=drawing.ON_COLOUR)
                left += share
        axes.set_yticks(heights, [f"round {place['round']} · {place['phase']}" for place in places])
        axes.set_ylim(max(heights) + 0.6, -0.6)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlabel(f"share of the pool ({places[0]['pool']:,} samples)")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        drawing.add_legend(figure, {name_outcome(name): _OUTCOMES[name] for name in shown})
        svg = finish()
    return drawing.Chart(
        "acceptance",
        "What each phase came to",
        svg,
        _describe_acceptance(places),
        ("round", "phase", "pool", *map(name_outcome, shown), "accepted of proposed"),
        [
            (*(place[key] for key in ("round", "phase", "pool", *shown)), format_share_of(*_count(place)))
            for place in places
        ],
    )


def _count(place: Mapping[str, int]) -> tuple[int, int]:
    """Proposals that were accepted, and all that were decided about."""
    return place["accepted"], place["accepted"] + place["refused"]


def _describe_acceptance(places: Sequence[Mapping[str, Any]]) -> str:
    ends = [*places[:2], *places[2:][-2:]]
    told = "; ".join(f"round {place['round']}, {place['phase']}: {_tell_acceptance(place)}" for place in ends)
    return as_sentence(told) + (" The rounds between are in the table." if len(places) > 4 else "")


def _tell_acceptance(place: Mapping[str, Any]) -> str:
    accepted, proposed = _count(place)
    if place["undecided"] == place["pool"]:
        return "nothing decided yet"
    if not proposed:
        return "no proposal to accept"
    return f"{accepted:,} of {proposed:,} proposals accepted ({format_share_of(accepted, proposed)})"


def draw_flow(document: RunEvolution) -> drawing.Chart | None:
    """Samples by what became of them, from round to round."""
    columns, moves = document["flows"]["states"], document["flows"]["transitions"]
    pool = sum(columns[0]["counts"].values())
    if len(columns) < 2 or not pool:
        return None
    with drawing.open_figure(4.4) as (figure, finish):
        axes = figure.subplots()
        tops = [_stack(column["counts"], pool) for column in columns]
        width = min(0.06 * len(columns), 0.48)  # of the way from one column to the next
        _add_ribbons(axes, moves, columns[0]["round"], tops, pool, width)
        for where, column in enumerate(columns):
            for state, look in _STATES.items():
                share = column["counts"][state] / pool
                middle = tops[where][state] + share / 2
                drawing.add_bar(axes, where - width / 2, middle, width, share, look)
                if share >= 0.045 and where < len(columns) - 1:
                    size = 8 if len(columns) < 9 else 7
                    number = format_short(column["counts"][state])
                    drawing.add_text(axes, where, middle, number, color=drawing.ON_COLOUR, fontsize=size)
        _label_last(axes, columns[-1]["counts"], tops[-1], pool, len(columns) - 1 + width / 2)
        axes.set_xticks(range(len(columns)), [drawing.name_round(column["round"]) for column in columns])
        axes.set_xlim(-width, len(columns) - 1 + width / 2 + 0.28 * len(columns))
        axes.set_ylim(1 + 0.025 * len(_STATES), -0.01)
        axes.yaxis.set_visible(False)
        axes.tick_params(axis="x", length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        present = [state for state in _STATES if any(column["counts"][state] for column in columns)]
        drawing.add_legend(figure, {state: _STATES[state] for state in present})
        svg = finish()
    return drawing.Chart(
        "flow",
        "Where samples went",
        svg,
        _describe_flow(columns, pool),
        ("round", "from", "to", "samples", "share of the pool"),
        [
            (*(move[key] for key in ("round", "before", "after", "n")), format_share(move["n"] / pool))
            for move in moves
        ],
    )


def _add_ribbons(
    axes: Axes,
    moves: Sequence[Mapping[str, Any]],
    first: int,
    tops: Sequence[Mapping[str, float]],
    pool: int,
    width: float,
) -> None:
    """Bands from bar to bar, in the order of the states at both ends; `tops` are where bars begin."""
    order = list(_STATES)
    taken: Counter[tuple[int, str, str]] = Counter()  # of the sides of bars, in samples
    for move in sorted(moves, key=lambda m: (m["round"], order.index(m["before"]), order.index(m["after"]))):
        where = move["round"] - first
        out, into = (where - 1, move["before"], "out"), (where, move["after"], "in")
        start, end = (tops[at][state] + taken[at, state, side] / pool for at, state, side in (out, into))
        taken.update({out: move["n"], into: move["n"]})
        colour = _STATES[move["before"]][0]
        ends = (where - 1 + width / 2, start), (where - width / 2, end)
        drawing.add_ribbon(axes, *ends, move["n"] / pool, colour)


def _describe_flow(columns: Sequence[Mapping[str, Any]], pool: int) -> str:
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
            text = f"{state} · {n:,} ({format_share(n / pool)})"
            drawing.add_text(axes, right + 0.03, lowest, text, ha="left")
