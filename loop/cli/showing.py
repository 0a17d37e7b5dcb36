"""Commands that show runs and find samples in them; none of them writes a lineage."""

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from reflectune.loop.cli.common import (
    RUNS,
    Json,
    Name,
    RoundOption,
    Runs,
    find_round,
    read_run,
    say,
    show_document,
    show_rounds,
)
from reflectune.loop.show.terminal.layout import open_console
from reflectune.state.errors import ConfigError
from reflectune.state.folder import RunFolder
from reflectune.state.records import Phase

if TYPE_CHECKING:
    from reflectune.loop.show.documents import Found
    from reflectune.state.lineage.documents import RoundsCompared
    from reflectune.state.lineage.index import SampleQuery, SortKey

__all__ = ["compare", "diff", "list_runs", "report", "search", "serve", "show", "trace", "verify"]

# Without a default to show.
_argument, _option = (partial(kind, show_default=False) for kind in (typer.Argument, typer.Option))

Round = Annotated[
    str | None, RoundOption(help="Only this round; 0 is the given data.", show_default="every one")
]
Limit = Annotated[int, typer.Option(min=0, help="Of two rounds: most changed samples to show.")]
Sort = Annotated[
    Literal["r-ifd-change", "length-change", "position"],
    typer.Option(
        help="Of two rounds: which samples come first, those whose r-IFD fell most, those whose response's "
        "length changed most, or as in the data."
    ),
]


def list_runs(runs: Runs = RUNS, as_json: Json = False) -> None:
    """List all runs."""
    from reflectune.loop.show.documents import readable_overview
    from reflectune.loop.show.terminal.runs import render_runs

    documents = [readable_overview(folder) for folder in RunFolder.all(runs)]
    show_document(documents, render_runs(documents), as_json)


def show(
    name: Name,
    watch: Annotated[
        bool, typer.Option("--watch", help="Redraw every few seconds while the run goes on; Ctrl-C leaves.")
    ] = False,
    round: Round = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Show the rounds of one run."""
    folder = RunFolder.find(runs, name)
    if not watch:
        show_rounds(folder, as_json, None if round is None else _find_begun(folder, round))
        return
    if round is not None:
        raise ConfigError("--watch shows the newest rounds; leave it or --round out")
    from reflectune.loop.show.terminal.runs import render_rounds
    from reflectune.loop.show.terminal.watch import watch_rounds

    run = watch_rounds(folder, open_console(), as_json)
    show_document(run, render_rounds(run), as_json)


def _find_begun(folder: RunFolder, round: str) -> int:
    """The round of a run that an option names; ConfigError where it has not begun."""
    with read_run(folder) as lineage:
        found, newest = find_round(lineage, round), lineage.newest_round()
    if found > newest:
        raise ConfigError(f"{folder.path.name}: there is no round {found}; the last one is {newest}")
    return found


def trace(
    name: Name,
    sample: Annotated[
        str,
        _argument(
            help="Position in the given data, id, start of an id or of its hash, or what its given record "
            "had: an id, or FIELD=VALUE."
        ),
    ],
    context: Annotated[
        bool, typer.Option("--context", help="Show the turns before it whole, not only how they begin.")
    ] = False,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Follow one sample through all rounds."""
    from reflectune.loop.show.terminal.trace import render_trace

    with read_run(RunFolder.find(runs, name)) as lineage:
        document = lineage.trace(sample)
    show_document(document, render_trace(document, whole_context=context), as_json)


def compare(
    first: Annotated[
        str, _argument(metavar="A[@R]", help="A run, or a round of one: alpaca@2, alpaca@best.")
    ],
    second: Annotated[str, _argument(metavar="B[@R]", help="Another run, or another round of it.")],
    limit: Limit = 5,
    sort: Sort = "r-ifd-change",
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Compare two runs, or two rounds of one run: pools, decisions, measures, training sets."""
    (one, before), (other, after) = map(_parse_place, (first, second))
    if one == other and before is not None and after is not None:
        diff(one, before, after, limit, sort, runs, as_json)
        return
    if one == other or before is not None or after is not None:
        raise ConfigError(
            f"{first} and {second} do not compare; give the names of two runs, or two rounds of one run, "
            f"as {one}@0 {one}@1"
        )
    from reflectune.loop.show.documents import describe_comparison
    from reflectune.loop.show.terminal.compare import render_runs_compared

    document = describe_comparison(RunFolder.find(runs, one), RunFolder.find(runs, other))
    show_document(document, render_runs_compared(document), as_json)


def _parse_place(text: str) -> tuple[str, str | None]:
    """A run, and its round if one is named; no run's name has an @ in it."""
    name, at, round = text.partition("@")
    return name, round if at else None


def diff(
    name: Name,
    before: Annotated[str, _argument(metavar="A", help="A round; 0 is the given data, or best.")],
    after: Annotated[str, _argument(metavar="B", help="Another round.")],
    limit: Limit = 5,
    sort: Sort = "r-ifd-change",
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Compare two rounds of a run: the same as `compare NAME@A NAME@B`."""
    from reflectune.loop.show.terminal.compare import render_rounds_compared
    from reflectune.state.lineage.round_comparison import compare_rounds

    folder = RunFolder.find(runs, name)
    with read_run(folder) as lineage:
        rounds = (find_round(lineage, round) for round in (before, after))
        compared = compare_rounds(lineage, *rounds, order=sort, limit=limit)
    document: RoundsCompared = {"name": name, **compared}
    show_document(document, render_rounds_compared(document, folder), as_json)


def report(
    name: Name,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="File to write.", show_default="report.html in the run's folder"),
    ] = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page about a run; with --json print its numbers instead."""
    from reflectune.loop.show.report import describe_evolution, write_report

    folder = RunFolder.find(runs, name)
    if as_json and out is None:
        show_document(describe_evolution(folder), "", as_json)
        return
    target = folder.path / "report.html" if out is None else out
    write_report(folder, target)
    size = target.stat().st_size
    line = f"wrote {target} ({size / 1e6:.1f} MB); open it in a browser, or send it around"
    show_document({"name": name, "out": str(target), "bytes": size}, line, as_json)


def serve(
    name: Name,
    port: Annotated[int, typer.Option(help="Where to listen on 127.0.0.1; 0 takes any free port.")] = 8321,
    runs: Runs = RUNS,
) -> None:
    """Browse a run in a local web page, also while it goes on."""
    folder = RunFolder.find(runs, name)
    with read_run(folder):  # what cannot be read is said here, before anything is served
        pass
    from reflectune.loop.show.html.server import serve as serve_pages

    serve_pages(runs, folder, port, lambda address: say(f"serving {name} at {address} (Ctrl-C ends it)"))
    raise typer.Exit(1)  # it ended by itself


def verify(name: Name, runs: Runs = RUNS, as_json: Json = False) -> None:
    """Check every row, adapter and file of a run against what it was derived from; exit 1 on any fault."""
    from reflectune.loop.verify import describe, verify_run
    from reflectune.state.storage import explain_storage_errors

    folder = RunFolder.find(runs, name)
    with explain_storage_errors(folder.path, "try again"):
        document = verify_run(folder)
    if as_json:
        show_document(document, "", as_json)
    else:
        typer.echo("\n".join(describe(document)))  # a line a fault, however long
    if document["faults"]:
        raise typer.Exit(1)


# Finding samples

# More rows than any run has.
_UNCOUNTED = 2**62

Words = Annotated[
    list[str] | None,
    _argument(
        help="Words that one version of the sample holds; the given one has its context, and the ids of its "
        "record, too. Words of three letters and more are found by "
        "their beginning, shorter ones as they are; a text without spaces between words (Chinese, "
        "Japanese) by the beginning of a run of characters only."
    ),
]
InPhase = Annotated[Phase | None, typer.Option(help="Where the outcome was.", show_default="either")]
WithOutcome = Annotated[
    Literal["accepted", "refused", "unchanged", "failed", "frozen", "unasked"] | None,
    _option(help="What the phase came to."),
]
LeastIfdChange = Annotated[float | None, _option(help="Proposal's IFD minus the incumbent's, at least.")]
LeastRIfdChange = Annotated[float | None, _option(help="Proposal's r-IFD minus the incumbent's, at least.")]
LeastGrowth = Annotated[
    float | None, _option(help="Characters of the response for each given one, at least.")
]
Most = Annotated[float | None, _option(help="The same, at most.")]
Trained = Annotated[
    bool | None, _option("--trained/--not-trained", help="Whether in the round's training set.")
]
SearchOrder = Annotated[
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
    sort: SearchOrder = "position",
    descending: Annotated[bool, typer.Option("--descending", help="Highest first.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Most rows to show.")] = 50,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Find samples by words, outcome and change; a row is a sample in a round."""
    from reflectune.loop.show.terminal.search import render_found
    from reflectune.state.lineage.index import SampleQuery

    folder = RunFolder.find(runs, name)
    key: SortKey = sort.replace("-", "_")  # type: ignore[assignment]
    query = SampleQuery(
        text=" ".join(text or []),
        round=None if round is None else _find_begun(folder, round),
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
    document = _find(folder, query)
    show_document(document, render_found(document, folder), as_json)


def _find(folder: RunFolder, query: "SampleQuery") -> "Found":
    from reflectune.loop.show.explanations import policy_of
    from reflectune.loop.show.terminal.search import note_on
    from reflectune.state.lineage.index import SampleIndex
    from reflectune.state.storage import explain_storage_errors

    name = folder.path.name
    with explain_storage_errors(folder.path, "try again"), SampleIndex.open(folder) as index:
        index.update()
        rows = index.find(query)
        found = len(rows) if len(rows) < query.limit else index.count(query, at_most=_UNCOUNTED)
        known = index.known()
    with read_run(folder) as lineage:
        notes = note_on(query, policy_of(lineage.settings()), known)
    return {"name": name, "found": found, "shown": len(rows), "notes": notes, "samples": rows}


def _refuse_bounds(query: "SampleQuery") -> None:
    for option in ("ifd-change", "r-ifd-change", "length-growth"):
        least, most = (getattr(query, f"{side}_{option.replace('-', '_')}") for side in ("min", "max"))
        for side, bound in (("min", least), ("max", most)):
            if bound is not None and not math.isfinite(bound):
                raise ConfigError(f"--{side}-{option} is {bound}; give a finite number")
        if None not in (least, most) and least > most:
            raise ConfigError(f"--min-{option} {least} is above --max-{option} {most}; nothing lies between")
