"""Commands that say what choices are worth: what scores tell, what another policy would have chosen."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from reflectune.loop.cli.common import (
    RUNS,
    Json,
    Name,
    RoundOption,
    Runs,
    Settings,
    find_round,
    read_run,
    show_document,
    stoppable,
)
from reflectune.loop.cli.data import read_columns
from reflectune.state.errors import ConfigError
from reflectune.state.folder import RunFolder
from reflectune.state.records import DataFormat

__all__ = ["replay", "signal"]


def signal(
    source: Annotated[str, typer.Argument(help="A dataset, or the name of a run.", show_default=False)],
    student: Annotated[
        str, typer.Option(help="Folder or hub name of the model; a run has its own.", show_default=False)
    ] = "",
    template: Annotated[str, typer.Option(help="chat, plain, vicuna, or a template file.")] = "chat",
    pairs: Annotated[int, typer.Option(min=2, help="Pairs to measure, and choices of two responses.")] = 200,
    round: Annotated[str, RoundOption(help="Of a run: whose proposals, and who decided; from 1.")] = "1",
    seed: Annotated[int, typer.Option(min=0, help="Of which pairs are drawn.")] = 0,
    format: Annotated[DataFormat, typer.Option(help="How a record holds its pair.")] = "auto",
    columns: Annotated[
        str, typer.Option(metavar="NAME=FIELD,...", help="Fields of other names, as instruction=query.")
    ] = "",
    device: Annotated[str, typer.Option(help="torch device.")] = "auto",
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Measure what a student's scores tell about data or a run, before you trust its choices."""
    from reflectune.loop.measuring import measure_data, measure_run
    from reflectune.loop.progress import open_display
    from reflectune.loop.show.terminal.evidence import render_evidence

    with stoppable():
        if source not in {folder.path.name for folder in RunFolder.all(runs)} and Path(source).exists():
            if not student:
                raise ConfigError(f"{source} is data: say with --student MODEL who scores it")
            from reflectune.state.config import DataConfig, StudentConfig, resolve_paths

            settings: dict[str, Any] = {"model": student, "template": template, "device": device}
            resolve_paths({"student": settings}, Path(), {})
            data = DataConfig(path=source, format=format, columns=read_columns(columns))
            evidence = measure_data(data, StudentConfig(**settings), pairs, seed, open_display())
        else:
            folder = RunFolder.find(runs, source)
            with read_run(folder) as lineage:
                chosen = find_round(lineage, round)
            evidence = measure_run(folder, chosen, pairs, seed, open_display())
    show_document(evidence, render_evidence(evidence), as_json)


def replay(
    name: Name,
    policy: Annotated[
        str, typer.Option(help="Another policy; see selection.policy.", show_default="the run's")
    ] = "",
    margin: Annotated[
        float | None, typer.Option(min=0, help="Another selection.margin.", show_default="the run's")
    ] = None,
    settings: Settings = None,
    score: Annotated[
        bool, typer.Option("--score", help="Let each round's student compute scores that are lacking.")
    ] = False,
    keep_as: Annotated[
        str, typer.Option("--as", metavar="NAME", help="Name to keep it under.", show_default="NAME.POLICY")
    ] = "",
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Take a run's decisions anew by another policy, from its stored scores, and keep that beside it."""
    from reflectune.loop.progress import open_display
    from reflectune.loop.replay import replay_run
    from reflectune.loop.resuming import restore_config
    from reflectune.loop.show.terminal.evidence import render_replayed

    folder = RunFolder.find(runs, name)
    changes = [*(settings or [])]
    if foreign := next((item for item in changes if not item.startswith("selection.")), None):
        raise ConfigError(f"--set {foreign}: a replay changes keys of the section selection alone")
    if named := next(
        (item for item in changes if item.partition("=")[0].strip() == "selection.policy"), None
    ):
        raise ConfigError(f"--set {named}: a replay is named by its policy; give it as --policy")
    changes += [f"selection.policy={policy!r}"] * bool(policy)
    changes += [f"selection.margin={margin}"] * (margin is not None)
    config = restore_config(folder)
    kept = keep_as or f"{name}.{re.sub('[^A-Za-z0-9.-]', '-', policy or config.selection.policy)}"
    with stoppable():
        document = replay_run(folder, config, kept, changes, score=score, display=open_display())
    show_document(document, render_replayed(document, folder), as_json)
