"""Charts of a run, from the document that `report --json` prints: SVG that reads in print and without colour.

Every chart has a description that says in words what it shows, and a table of the numbers in it. The same
document gives the same bytes. Nothing here reads a lineage or writes HTML.
"""

from collections.abc import Callable, Mapping, Sequence

from reflectune.loop.show.charts.cost import draw_cost
from reflectune.loop.show.charts.drawing import Chart
from reflectune.loop.show.charts.measures import draw_held_out, draw_lengths, draw_scores
from reflectune.loop.show.charts.samples import draw_acceptance, draw_flow
from reflectune.loop.show.documents import RunEvolution
from reflectune.state.text import inert_document

__all__ = ["Chart", "draw_charts", "explain_missing"]

# What draws each, and why it may not be drawn.
_CHARTS: Mapping[str, tuple[Callable[[RunEvolution], Chart | None], str]] = {
    "acceptance": (draw_acceptance, "No round has begun, so nothing was accepted or refused."),
    "flow": (draw_flow, "No round is complete, so no sample has moved."),
    "scores": (
        draw_scores,
        "No student has scored the pool of two rounds, so there is no IFD or r-IFD to compare.",
    ),
    "held-out": (draw_held_out, "Nothing was measured on held-out pairs."),
    "length": (draw_lengths, "There is no pool, so responses have no lengths."),
    "cost": (draw_cost, "No step has taken any time yet."),
}


def draw_charts(document: RunEvolution) -> list[Chart]:
    """The charts that a run has numbers for, in the order to read them."""
    document = inert_document(document)
    drawn = (draw(document) for draw, _ in _CHARTS.values())
    return [chart for chart in drawn if chart is not None]


def explain_missing(charts: Sequence[Chart]) -> list[str]:
    """Why the other charts were not drawn, a sentence each."""
    drawn = {chart.name for chart in charts}
    return [reason for name, (_, reason) in _CHARTS.items() if name not in drawn]
