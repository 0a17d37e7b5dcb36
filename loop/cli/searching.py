"""The command that finds samples of a run; it writes no lineage."""

import math
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from reflectune.loop.cli.common import RUNS, Json, Name, Runs, read_run, show_document
from reflectune.state.errors import ConfigError
from reflectune.state.folder import RunFolder

if TYPE_CHECKING:
    from reflectune.loop.show.documents import Found
    from reflectune.state.lineage.index import SampleIndex, SampleQuery, SortKey

__all__ = ["search"]

# More rows than any run has.
_UNCOUNTED = 2**62
_CHANGES: tuple[Literal["ifd_change", "r_ifd_change"], ...] = ("ifd_change", "r_ifd_change")


def search(
    name: Name,
    text: Annotated[
        list[str] | None,
        typer.Argument(
            help="Words that one version of the sample holds. Words of three letters and more are found by "
            "their beginning, shorter ones as they are; a text without spaces between words (Chinese, "
            "Japanese) by the beginning of a run of characters only.",
            show_default=False,
        ),
    ] = None,
    round: Annotated[
        int | None,
        typer.Option(min=0, help="Only this round; 0 is the given data.", show_default="every one"),
    ] = None,
    phase: Annotated[
        Literal["instruction", "response"] | None,
        typer.Option(help="Where the outcome was.", show_default="either"),
    ] = None,
    outcome: Annotated[
        Literal["accepted", "refused", "unchanged", "failed", "frozen", "unasked"] | None,
        typer.Option(help="What the phase came to.", show_default=False),
    ] = None,
    min_ifd_change: Annotated[
        float | None, typer.Option(help="Proposal's IFD minus the incumbent's, at least.", show_default=False)
    ] = None,
    max_ifd_change: Annotated[
        float | None, typer.Option(help="The same, at most.", show_default=False)
    ] = None,
    min_r_ifd_change: Annotated[
        float | None,
        typer.Option(help="Proposal's r-IFD minus the incumbent's, at least.", show_default=False),
    ] = None,
    max_r_ifd_change: Annotated[
        float | None, typer.Option(help="The same, at most.", show_default=False)
    ] = None,
    min_length_growth: Annotated[
        float | None,
        typer.Option(help="Characters of the response for each given one, at least.", show_default=False),
    ] = None,
    max_length_growth: Annotated[
        float | None, typer.Option(help="The same, at most.", show_default=False)
    ] = None,
    trained: Annotated[
        bool | None,
        typer.Option(
            "--trained/--not-trained", help="Whether in the round's training set.", show_default=False
        ),
    ] = None,
    sort: Annotated[
        Literal["position", "ifd-change", "r-ifd-change", "length-growth"],
        typer.Option(help="What orders them; what has no such value is left out."),
    ] = "position",
    descending: Annotated[bool, typer.Option("--descending", help="Highest first.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Most rows to show.")] = 50,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Find samples by words, outcome and change; a row is a sample in a round."""
    from reflectune.loop.show.explanations import policy_of
    from reflectune.loop.show.terminal.search import note_on, render_found
    from reflectune.state.lineage.index import SampleIndex, SampleQuery
    from reflectune.state.storage import explain_storage_errors

    key: SortKey = sort.replace("-", "_")  # type: ignore[assignment]
    query = SampleQuery(
        text=" ".join(text or []),
        round=round,
        phase=phase,
        outcome=outcome,
        min_ifd_change=min_ifd_change,
        max_ifd_change=max_ifd_change,
        min_r_ifd_change=min_r_ifd_change,
        max_r_ifd_change=max_r_ifd_change,
        min_length_growth=min_length_growth,
        max_length_growth=max_length_growth,
        trained=trained,
        sort=key,
        descending=descending,
        limit=limit,
    )
    _refuse_bounds(query)
    folder = RunFolder.find(runs, name)
    with explain_storage_errors(folder.path, "try again"), SampleIndex.open(folder) as index:
        index.update()
        _refuse_round(name, round, index)
        rows = index.find(query)
        found = len(rows) if len(rows) < limit else index.count(query, at_most=_UNCOUNTED)
        known = [name for name in _CHANGES if index.knows(name)]
    with read_run(runs, name) as lineage:
        policy = policy_of(lineage.settings())
    notes = note_on(query, policy, known)
    document: Found = {"name": name, "found": found, "shown": len(rows), "notes": notes, "samples": rows}
    show_document(document, render_found(document), as_json)


def _refuse_bounds(query: "SampleQuery") -> None:
    for name in ("ifd_change", "r_ifd_change", "length_growth"):
        option = name.replace("_", "-")
        least, most = getattr(query, f"min_{name}"), getattr(query, f"max_{name}")
        for side, bound in (("min", least), ("max", most)):
            if bound is not None and not math.isfinite(bound):
                raise ConfigError(f"--{side}-{option} is {bound}; give a finite number")
        if None not in (least, most) and least > most:
            raise ConfigError(f"--min-{option} {least} is above --max-{option} {most}; nothing lies between")


def _refuse_round(name: str, round: int | None, index: "SampleIndex") -> None:
    last = max((row["round"] for row in index.rounds()), default=0)
    if round is not None and round > last:
        raise ConfigError(f"{name}: there is no round {round}; the last one is {last}")
