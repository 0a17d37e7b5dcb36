"""What choices are worth, on a terminal: what scores tell, a replay. Takes the documents of --json."""

from collections.abc import Callable, Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from reflectune.loop.bias import Bias, Contrast
from reflectune.loop.evidence import Evidence
from reflectune.loop.replay import Replayed
from reflectune.loop.show.numbers import format_measure
from reflectune.loop.show.terminal.layout import tabulate
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.documents import Share
from reflectune.state.policies import TITLES
from reflectune.state.text import inert_document

__all__ = ["render_evidence", "render_replayed"]

_SHOWN = 20  # changes that are listed


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
    if (bias := document["bias"]) is not None:
        parts += [
            Text(
                f"Round {bias['round']}: pairs that {bias['student']} was trained on beside others",
                style="bold",
            ),
            Text(bias["conclusion"]),
            tabulate(
                ("policy", "phase", "unit", "gain (95 %)", "gain on the proposal", "proposals accepted"),
                _rows_of_bias(bias),
                texts=("phase", "unit"),
            ),
        ]
    return Group(*parts)


def _rows_of_bias(bias: Bias) -> Iterator[tuple[str, ...]]:
    for item in bias["policies"]:
        gains = (_tell_contrast(found, "{:+.3g}".format) for found in (item["incumbents"], item["leads"]))
        accepted = _tell_contrast(item["acceptance"], "{:+.0%}".format)
        yield (item["policy"], item["phase"], item["unit"], *gains, accepted)


def _tell_contrast(found: Contrast, write: Callable[[float], str]) -> str:
    value, low, high = found["value"], found["low"], found["high"]
    if value is None:
        return "-"
    if low is None or high is None:
        return write(value)
    return f"{write(value)} ({write(low)} to {write(high)})"


def _rows_of_measures(document: Evidence) -> Iterator[tuple[str, ...]]:
    for name, correlation in document["follows_length"].items():
        matched = document["matched"].get(name)
        yield (
            TITLES.get(name, name),
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


def render_replayed(document: Replayed, folder: RunFolder) -> RenderableType:
    """What would have been otherwise, and where the road forks."""
    document = inert_document(document)
    selection, changes = document["selection"], document["changes"]
    rows = (
        (
            f"{round['round']}",
            phase["phase"],
            *(
                f"{number:,}"
                for number in (phase["decisions"], phase["changed"], phase["lacking"], phase["forked"])
            ),
        )
        for round in document["rounds"]
        for phase in round["phases"]
    )
    trained = (
        f"round {each['round']}: trained on {each['trained_before']:,} pairs, now {each['trained']:,}, "
        f"{each['trained_both']:,} of them the same"
        for each in document["rounds"]
        if each["trained"] is not None
    )
    return Group(
        Text(
            f"{document['name']} by policy {selection['policy']}, margin {selection['margin']:g}",
            style="bold",
        ),
        tabulate(("round", "phase", "decisions", "otherwise", "lack scores", "not asked"), rows),
        *map(Text, trained),
        *map(Text, _tell_changes(document)),
        *(Text(f"and {len(changes) - _SHOWN:,} more; see --json") for _ in changes[_SHOWN : _SHOWN + 1]),
        *map(Text, _tell_end(document, folder)),
    )


def _tell_changes(document: Replayed) -> Iterator[str]:
    for change in document["changes"][:_SHOWN]:
        place = f"sample {change['position']}, round {change['round']}, {change['phase']}"
        yield f"{place}: {change['before']}, now {change['after']}"


def _tell_end(document: Replayed, folder: RunFolder) -> Iterator[str]:
    if document["forks_after"] is not None:
        yield (
            f"The road forks in round {document['forks_after']}: the next student would be another one. What "
            "the run did afterwards says nothing of this policy."
        )
    if document["replay"] is None:
        yield (
            "Decisions that lack scores were taken as they were, so nothing is kept. --score lets each "
            "round's student compute them."
        )
        return
    yield f"kept as {document['replay']}: {folder.command('compare', document['replay'])}"
