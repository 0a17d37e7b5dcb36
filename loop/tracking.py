"""The figures of a round for experiment trackers."""

from collections.abc import Iterator

from reflectune.agents.tracking import log_round
from reflectune.loop.context import LoopContext
from reflectune.state.functions import describe_error
from reflectune.state.lineage.documents import RoundDocument
from reflectune.state.records import PHASES

__all__ = ["round_figures", "track_round"]


def track_round(context: LoopContext, round: int) -> None:
    """Tell the trackers of a finished round; one that fails is said, and stops nothing."""
    track = context.config.track
    if not track.to:
        return
    figures = dict(round_figures(context.lineage.round(round)))
    for name in track.to:
        try:
            log_round(name, track.project, context.config.name, context.folder.path, round, figures)
        except Exception as error:  # noqa: BLE001 (whatever a tracker's library or server does)
            context.display.say(
                f"round {round} · track: {name}: {describe_error(error)}; the run goes on without it"
            )


def round_figures(document: RoundDocument) -> Iterator[tuple[str, float]]:
    """What of a round is told, as (name, number), as far as it is known."""
    values: dict[str, float | None] = {
        "training_pairs": document["training"],
        "ifd/median": document["ifd"]["median"],
        "r_ifd/median": document["r_ifd"]["median"],
        "response_tokens": document["response_tokens"],
        "teacher/prompt_tokens": document["teacher"]["prompt_tokens"],
        "teacher/completion_tokens": document["teacher"]["completion_tokens"],
        "teacher/cost_usd": document["teacher"]["cost_usd"],
    }
    for phase in PHASES:
        found = document[phase]
        asked = found["reflected"]
        values[f"acceptance/{phase}"] = found["accepted"] / asked if asked else None
    values |= {f"held_out/{name}": value for name, value in document["evaluations"].items()}
    values |= {f"seconds/{node}": seconds for node, seconds in document["seconds"].items()}
    yield from ((name, float(value)) for name, value in values.items() if value is not None)
