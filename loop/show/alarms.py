"""Alarms in words and as a table, for the progress, a terminal and a page alike."""

from collections.abc import Sequence

from reflectune.loop.show.comparison import Section
from reflectune.loop.show.numbers import format_number
from reflectune.state.alarms import ALARMS
from reflectune.state.lineage.documents import AlarmDocument, RoundDocument

__all__ = ["explain_alarm", "explain_firing", "list_alarms", "tabulate_alarms"]

_TITLE = (
    "What tells a collapse (×: times round 0's; +: more than in round 0; half-widths: of the 95 % interval; "
    "!: alarm)"
)
_SHOWN = 3  # rounds in a table: the newest


def explain_alarm(alarm: AlarmDocument) -> str:
    """A figure beside its threshold."""
    name = alarm["name"]
    of = " of the 95 % interval" if ALARMS[name].unit == "halves" and alarm["threshold"] is not None else ""
    return f"{ALARMS[name].title} {_format(name, alarm['value'])} ({_explain_threshold(alarm)}{of})"


def explain_firing(round: int, alarms: Sequence[AlarmDocument]) -> str:
    """The alarms of a round that fire; empty where none does."""
    firing = [explain_alarm(alarm) for alarm in alarms if alarm["fires"]]
    return f"alarm in round {round}: {'; '.join(firing)}" if firing else ""


def list_alarms(rounds: Sequence[RoundDocument]) -> list[str]:
    """The alarms that fire, a line a round."""
    return [line for row in rounds if (line := explain_firing(row["round"], row["alarms"]))]


def tabulate_alarms(rounds: Sequence[RoundDocument]) -> Section:
    """A row an alarm, with its figures in the newest rounds; one that fires has an exclamation mark."""
    shown = [row for row in rounds if row["alarms"]][-_SHOWN:]
    known = {(row["round"], alarm["name"]): alarm for row in shown for alarm in row["alarms"]}
    newest = {name: alarm for (_, name), alarm in known.items()}
    heads = ("alarm", "fires", *(f"round {row['round']}" for row in shown))
    rows = [
        (
            ALARMS[name].title,
            _explain_threshold(newest[name]),
            *(_mark(known.get((row["round"], name))) for row in shown),
        )
        for name in ALARMS
        if name in newest
    ]
    return Section(_TITLE, heads, rows, texts=("fires",))


def _mark(alarm: AlarmDocument | None) -> str:
    return "-" if alarm is None else _format(alarm["name"], alarm["value"]) + "!" * alarm["fires"]


def _format(name: str, value: float) -> str:
    match ALARMS[name].unit:
        case "times":
            return f"×{format_number(value, '.2f')}"
        case "share":
            return format_number(value, ".1%")
        case "more":
            return format_number(value, "+.1%")
        case "halves":
            return format_number(value, ".2f")


def _explain_threshold(alarm: AlarmDocument) -> str:
    name, threshold = alarm["name"], alarm["threshold"]
    if threshold is None:
        return "off"
    written = _format(name, threshold)
    match ALARMS[name].way:
        case "beyond":
            return f"beyond {written} or {_format(name, 1 / threshold)}"
        case "near an end":
            return f"below {100 * threshold:g}% or above {100 * (1 - threshold):g}%"
        case way:
            unit = " half-widths" if ALARMS[name].unit == "halves" else ""
            return f"{way} {written}{unit}"
