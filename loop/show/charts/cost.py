"""What rounds took: seconds, tokens, money."""

from collections.abc import Mapping, Sequence
from typing import Any

from reflectune.loop.show.charts import drawing
from reflectune.loop.show.documents import RunEvolution
from reflectune.loop.show.numbers import format_count, format_number, format_seconds, format_share

__all__ = ["draw_cost"]

_STEPS = {
    "reflect": (drawing.BLUE, "\\\\\\"),
    "select": (drawing.ORANGE, "///"),
    "refinetune": (drawing.GREEN, ""),
    "evaluate": (drawing.GREY, "---"),
}
_TOKENS = {"prompts": (drawing.SKY, "///"), "answers": (drawing.PURPLE, "")}
_UNITS = (("hours", 3600.0, 2 * 3600.0), ("minutes", 60.0, 180.0), ("seconds", 1.0, 0.0))
_CALLS = ("calls", "cached", "prompt_tokens", "completion_tokens")
# Title, unit, heights by round, looks, how sums are written.
_Panel = tuple[str, str, Mapping[str, Sequence[float | None]], Mapping[str, tuple[str, str]], str]


def draw_cost(document: RunEvolution) -> drawing.Chart | None:
    """Seconds by node, tokens and money by round."""
    rounds: Sequence[Mapping[str, Any]] = document["rounds"]
    most = max((sum(row["seconds"].values()) for row in rounds), default=0.0)
    if not most:
        return None
    unit, per = next((unit, per) for unit, per, least in _UNITS if most >= least)
    teachers = [row["teacher"] for row in rounds]
    tokens = {
        "prompts": [teacher["prompt_tokens"] for teacher in teachers],
        "answers": [teacher["completion_tokens"] for teacher in teachers],
    }
    costs = {"cost": [teacher["cost_usd"] for teacher in teachers]}
    seconds = {name: [row["seconds"][name] / per for row in rounds] for name in _STEPS}
    panels: list[_Panel] = [("time by step", unit, seconds, _STEPS, ".3g")]
    if any(map(any, tokens.values())):
        panels.append(("tokens paid for", "tokens", tokens, _TOKENS, ""))
    if any(costs["cost"]):
        panels.append(("the teacher's cost", "USD", costs, {"cost": (drawing.ORANGE, "///")}, ".3g"))
    with drawing.open_figure(2.9 if len(panels) > 1 else 2.6) as (figure, finish):
        all_axes = figure.subplots(1, len(panels), squeeze=False).flat
        for axes, (title, label, heights, looks, form) in zip(all_axes, panels, strict=True):
            drawing.add_columns(axes, [str(row["round"]) for row in rounds], heights, looks, form)
            axes.set_title(title)
            axes.set_ylabel(label)
        svg = finish()
    return drawing.Chart(
        "cost",
        "Time and cost",
        svg,
        _describe_cost(document),
        (
            "round", *(f"{name}, seconds" for name in _STEPS), "calls", "from the cache", "prompt tokens",
            "answer tokens", "USD",
        ),
        [
            (
                row["round"],
                *(f"{row['seconds'][name]:,.1f}" for name in _STEPS),
                *(format_count(row["teacher"][key]) for key in _CALLS),
                format_number(row["teacher"]["cost_usd"], ".4f"),
            )
            for row in rounds
        ],
    )  # fmt: skip


def _describe_cost(document: RunEvolution) -> str:
    total = {name: sum(row["seconds"][name] for row in document["rounds"]) for name in _STEPS}
    longest = max(total, key=lambda name: total[name])
    teacher = document["teacher"]
    asked, answered, usd = teacher["prompt_tokens"], teacher["completion_tokens"], teacher["cost_usd"]
    paid = "tokens are not known" if asked is None or answered is None else f"{asked + answered:,} tokens"
    cost = "a cost that is not known" if usd is None else f"{usd:.4f} USD"
    return (
        f"All steps took {format_seconds(sum(total.values()))}, most of it {longest} "
        f"({format_share(total[longest] / sum(total.values()))}). The teacher's {teacher['calls']:,} calls, "
        f"{teacher['cached']:,} of them answered from the cache, came to {paid} and {cost}."
    )
