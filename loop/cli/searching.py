"""The command that finds samples of a run; it writes no lineage."""

import math
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from reflectune.loop.cli.common import RUNS, Json, Name, Runs, read_run, show_document
from reflectune.state.errors import ConfigError
from reflectune.state.folder import RunFolder
from reflectune.state.records import Phase

if TYPE_CHECKING:
    from reflectune.state.lineage.index import SampleQuery, SortKey

__all__ = ["search"]

# More rows than any run has.
_UNCOUNTED = 2**62
_CHANGES: tuple[Literal["ifd_change", "r_ifd_change"], ...] = ("ifd_change", "r_ifd_change")

Words = Annotated[
    list[str] | None,
    typer.Argument(
        help="Words that one version of the sample holds. Words of three letters and more are found by "
        "their beginning, shorter ones as they are; a text without spaces between words (Chinese, "
        "Japanese) by the beginning of a run of characters only.",
        show_default=False,
    ),
]
Round = Annotated[
    int | None, typer.Option(min=0, help="Only this round; 0 is the given data.", show_default="every one")
]
InPhase = Annotated[Phase | None, typer.Option(help="Where the outcome was.", show_default="either")]
WithOutcome = Annotated[
    Literal["accepted", "refused", "unchanged", "failed", "frozen", "unasked"] | None,
    typer.Option(help="What the phase came to.", show_default=False),
]
LeastIfdChange = Annotated[
    float | None, typer.Option(help="Proposal's IFD minus the incumbent's, at least.", show_default=False)
]
LeastRIfdChange = Annotated[
    float | None, typer.Option(help="Proposal's r-IFD minus the incumbent's, at least.", show_default=False)
]
LeastGrowth = Annotated[
    float | None,
    typer.Option(help="Characters of the response for each given one, at least.", show_default=False),
]
Most = Annotated[float | None, typer.Option(help="The same, at most.", show_default=False)]
Trained = Annotated[
    bool | None,
    typer.Option("--trained/--not-trained", help="Whether in the round's training set.", show_default=False),
]
Sort = Annotated[
    Literal["position", "ifd-change", "r-ifd-change", "length-growth"],
    typer.Option(help="What orders them; what has no such value is left out."),
]


def search(
    name: Name,
    text: Words = None,
    round: Round = None,
    phase: InPhase = None,
    outcome: WithOutcome = None,
    min_ifd_change: LeastIfdChange = None,
    max_ifd_change: Most = None,
    min_r_ifd_change: LeastRIfdChange = None,
    max_r_ifd_change: Most = None,
    min_length_growth: LeastGrowth = None,
    max_length_growth: Most = None,
    trained: Trained = None,
    sort: Sort = "position",
    descending: Annotated[bool, typer.Option("--descending", help="Highest first.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Most rows to show.")] = 50,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Find samples by words, outcome and change; a row is a sample in a round."""
    from reflectune.loop.show.terminal.search import render_found
    from reflectune.state.lineage.index import SampleQuery

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
    document = _find(RunFolder.find(runs, name), query)
    show_document(document, render_found(document), as_json)


def _find(folder: RunFolder, query: "SampleQuery") -> dict[str, object]:
    from reflectune.loop.show.terminal.search import note_on
    from reflectune.state.lineage.index import SampleIndex
    from reflectune.state.storage import explain_storage_errors

    name = folder.path.name
    with explain_storage_errors(folder.path, "try again"), SampleIndex.open(folder) as index:
        index.update()
        last = max((row["round"] for row in index.rounds()), default=0)
        if query.round is not None and query.round > last:
            raise ConfigError(f"{name}: there is no round {query.round}; the last one is {last}")
        rows = index.find(query)
        found = len(rows) if len(rows) < query.limit else index.count(query, at_most=_UNCOUNTED)
        unknown = [change for change in _CHANGES if not index.knows(change)]
    with read_run(folder.path.parent, name) as lineage:
        policy = lineage.settings()["config"].get("selection", {}).get("policy", "")
    notes = note_on(query, policy, unknown)
    return {"name": name, "found": found, "shown": len(rows), "notes": notes, "samples": rows}


def _refuse_bounds(query: "SampleQuery") -> None:
    for name in (*_CHANGES, "length_growth"):
        option = name.replace("_", "-")
        least, most = (getattr(query, f"{side}_{name}") for side in ("min", "max"))
        for side, bound in (("min", least), ("max", most)):
            if bound is not None and not math.isfinite(bound):
                raise ConfigError(f"--{side}-{option} is {bound}; give a finite number")
        if None not in (least, most) and least > most:
            raise ConfigError(f"--min-{option} {least} is above --max-{option} {most}; nothing lies between")
