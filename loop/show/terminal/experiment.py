"""How an experiment looks on a terminal. Takes the document that --json prints."""

from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from reflectune.loop.experiments.figures import ExperimentDocument
from reflectune.loop.show.experiment import PAGE, explain_experiment, tabulate_experiment
from reflectune.loop.show.terminal.layout import BLANK, Sections
from reflectune.state.folder import RunFolder
from reflectune.state.text import inert_document

__all__ = ["render_experiment"]


def render_experiment(document: ExperimentDocument) -> RenderableType:
    """Tables of all arms, what there is to know beside them, and where the rest is."""
    document = inert_document(document)
    runs = document["runs"]
    first = RunFolder(Path(runs, document["arms"][0]["runs"][0]["run"]))
    return Group(
        Sections(tabulate_experiment(document)),
        BLANK,
        *map(Text, explain_experiment(document)),
        Text(f"all of it as a page: {runs}/{PAGE}; each is a run of its own: `{first.command('show')}`"),
    )
