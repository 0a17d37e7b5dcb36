"""How what a student's scores tell looks on a terminal. Takes the document that --json prints."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from reflectune.loop.evidence import Evidence, Share
from reflectune.loop.show.numbers import format_measure
from reflectune.loop.show.terminal.layout import tabulate
from reflectune.state.text import inert_document

__all__ = ["render_evidence"]

_TITLES = {"ifd": "IFD", "r_ifd": "r-IFD", "nll": "nll"}


def render_evidence(document: Evidence) -> RenderableType:
    """The conclusion, then what it rests on."""
    document = inert_document(document)
    parts: list[RenderableType] = [
        Text(f"{document['source']}: {document['pairs']} pairs under {document['student']}", style="bold"),
        Text(document["conclusion"]),
        tabulate(
            (
                "",
                "below another's (95 %)",
                "below 1",
                "another's below 1",
                "rank correlation with length",
            ),
            _rows_of_measures(document),
        ),
    ]
    if document["choices"]:
        said = "of which one is preferred" if document["labelled"] else "an incumbent and its proposal"
        head = ["policy", "keeps the longer (95 %)"]
        if document["labelled"]:
            head += ["the preferred", "the preferred, at like length", "of them"]
        parts += [
            Text(f"{document['choices']} choices between two responses, {said}", style="bold"),
            tabulate(tuple(head), _rows_of_policies(document)),
        ]
    return Group(*parts)


def _rows_of_measures(document: Evidence) -> Iterator[tuple[str, ...]]:
    for name, correlation in document["follows_length"].items():
        matched = document["matched"].get(name)
        yield (
            _TITLES[name],
            "" if matched is None else _tell(matched),
            _percent(document["below_one"].get(name)),
            _percent(document["below_one_shuffled"].get(name)),
            "-" if correlation is None else format_measure(correlation),
        )


def _rows_of_policies(document: Evidence) -> Iterator[tuple[str, ...]]:
    for item in document["policies"]:
        row = [item["policy"], _tell(item["longer"])]
        alike = item["right_at_like_length"]
        if item["right"] is not None and alike is not None:
            row += [_tell(item["right"]), _tell(alike), f"{alike['n']}"]
        yield tuple(row)


def _tell(share: Share) -> str:
    if share["value"] is None:
        return "-"
    return f"{share['value']:.0%} ({share['low']:.0%} to {share['high']:.0%})"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
