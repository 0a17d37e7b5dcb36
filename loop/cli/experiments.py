"""The command that runs several runs as one comparison."""

from pathlib import Path
from typing import Annotated

import typer

from reflectune.loop.cli.common import RUNS, Json, Runs, say, show_document, stoppable
from reflectune.loop.signals import Interrupted
from reflectune.state.folder import to_command

__all__ = ["experiment"]


def experiment(
    plan: Annotated[Path, typer.Argument(help="Plan file.", show_default=False)],
    jobs: Annotated[
        int, typer.Option(min=1, help="Most runs at once, each on a GPU of its own where there are several.")
    ] = 1,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Run arms with seeds, and compare them: means, intervals, differences. Again, it goes on."""
    from reflectune.loop.experiments.plan import load_experiment

    planned = load_experiment(plan)
    from reflectune.loop.experiments.figures import describe_experiment
    from reflectune.loop.experiments.running import open_experiment, run_experiment
    from reflectune.loop.show.experiment import PAGE, write_page
    from reflectune.loop.show.terminal.experiment import render_experiment

    with stoppable() as interruption, open_experiment(planned, runs) as folder:
        try:
            with interruption.finish_batches():
                failed = run_experiment(planned, folder, jobs, say, interruption.is_requested)
        except (Interrupted, KeyboardInterrupt):
            say(f"interrupted; go on with `{to_command(runs, 'experiment', str(plan))}`")
            raise
        document = describe_experiment(planned, folder, failed)
        write_page(document, folder / PAGE)
    show_document(document, render_experiment(document), as_json)
    if failed:
        raise typer.Exit(1)
