"""The command that shows a run in a browser."""

from typing import Annotated

import typer

from reflectune.loop.cli.terms import RUNS, Name, Runs, say

__all__ = ["serve"]


def serve(
    name: Name,
    port: Annotated[int, typer.Option(help="Where to listen on 127.0.0.1; 0 takes any free port.")] = 8321,
    runs: Runs = RUNS,
) -> None:
    """Browse a run in a local web page, also while it goes on."""
    from reflectune.state.folder import RunFolder

    folder = RunFolder.find(runs, name)
    from reflectune.loop.show.documents import open_history

    with open_history(folder):  # what cannot be read is said here, before anything is served
        pass
    from reflectune.loop.show.html.server import serve as serve_pages

    ended_by = serve_pages(
        runs, folder, port, lambda address: say(f"serving {folder.path.name} at {address} (Ctrl-C ends it)")
    )
    raise typer.Exit(128 + ended_by if ended_by else 1)
