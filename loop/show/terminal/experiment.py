"""How an experiment looks on a terminal. Takes the document that --json prints."""

from rich.console import Group, RenderableType
from rich.text import Text

from reflectune.loop.experiments.figures import ExperimentDocument
from reflectune.loop.show.experiment import PAGE, explain_experiment, tabulate_experiment
from reflectune.loop.show.terminal.layout import BLANK, Sections
from reflectune.state.text import inert_document

__all__ = ["render_experiment"]


def render_experiment(document: ExperimentDocument) -> RenderableType:
    """Tables of all arms, what there is to know beside them, and where the rest is."""
    document = inert_document(document)
    first, runs = document["arms"][0]["runs"][0]["run"], document["runs"]
    return Group(
        Sections(tabulate_experiment(document)),
        BLANK,
        *map(Text, explain_experiment(document)),
        Text(
            f"all of it as a page: {runs}/{PAGE}; each is a run of its own: "
            f"`reflectune show {first} --runs {runs}`"
        ),
    )
