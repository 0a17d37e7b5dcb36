"""What rounds took: seconds, tokens, money."""

from reflectune.loop.show.charts.chart import Chart, Document, choose_unit, format_duration, or_nothing
from reflectune.loop.show.charts.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    add_columns,
    open_figure,
)
from reflectune.loop.show.numbers import format_number, format_share

__all__ = ["draw_cost"]

_STEPS = {
    "reflect": (BLUE, "\\\\\\"),
    "select": (ORANGE, "///"),
    "refinetune": (GREEN, ""),
    "evaluate": (GREY, "---"),
}


def draw_cost(document: Document) -> Chart | None:
    """Seconds by node, tokens and money by round."""
    rounds = document["rounds"]
    seconds = [row["seconds"] for row in rounds]
    if not any(sum(of_round.values()) for of_round in seconds):
        return None
    most = max(sum(of_round.values()) for of_round in seconds)
    unit, per = choose_unit(most)
    tokens = [(row["teacher"]["prompt_tokens"], row["teacher"]["completion_tokens"]) for row in rounds]
    costs = [row["teacher"]["cost_usd"] for row in rounds]
    panels = 1 + any(sum(map(or_nothing, pair)) for pair in tokens) + any(costs)
    names = [str(row["round"]) for row in rounds]
    with open_figure(2.9 if panels > 1 else 2.6) as (figure, finish):
        all_axes = list(figure.subplots(1, panels, squeeze=False).flat)
        axes = all_axes.pop(0)
        add_columns(axes, names, {name: [s[name] / per for s in seconds] for name in _STEPS}, _STEPS, ".3g")
        axes.set_title("time by step")
        axes.set_ylabel(unit)
        if any(sum(map(or_nothing, pair)) for pair in tokens):
            axes = all_axes.pop(0)
            looks = {"prompts": (SKY, "///"), "answers": (PURPLE, "")}
            heights = {name: [pair[place] for pair in tokens] for place, name in enumerate(looks)}
            add_columns(axes, names, heights, looks, "")
            axes.set_title("tokens paid for")
            axes.set_ylabel("tokens")
        if any(costs):
            axes = all_axes.pop(0)
            add_columns(axes, names, {"cost": costs}, {"cost": (ORANGE, "///")}, ".3g")
            axes.set_title("the teacher's cost")
            axes.set_ylabel("USD")
        svg = finish()
    return Chart(
        "cost",
        "Time and cost",
        svg,
        _describe_cost(document),
        (
            "round", *(f"{name}, seconds" for name in _STEPS), "calls", "from the cache", "prompt tokens",
            "answer tokens", "USD",
        ),
        tuple(
            (
                str(row["round"]),
                *(f"{row['seconds'][name]:,.1f}" for name in _STEPS),
                f"{row['teacher']['calls']:,}",
                f"{row['teacher']['cached']:,}",
                format_number(row["teacher"]["prompt_tokens"], ",d"),
                format_number(row["teacher"]["completion_tokens"], ",d"),
                format_number(row["teacher"]["cost_usd"], ".4f"),
            )
            for row in rounds
        ),
    )  # fmt: skip


def _describe_cost(document: Document) -> str:
    total = {name: sum(row["seconds"][name] for row in document["rounds"]) for name in _STEPS}
    longest = max(total, key=lambda name: total[name])
    teacher = document["teacher"]
    paid = (
        "tokens are not known"
        if teacher["prompt_tokens"] is None or teacher["completion_tokens"] is None
        else f"{teacher['prompt_tokens'] + teacher['completion_tokens']:,} tokens"
    )
    cost = "a cost that is not known" if teacher["cost_usd"] is None else f"{teacher['cost_usd']:.4f} USD"
    return (
        f"All steps took {format_duration(sum(total.values()))}, most of it {longest} "
        f"({format_share(total[longest] / sum(total.values()))}). The teacher's {teacher['calls']:,} calls, "
        f"{teacher['cached']:,} of them answered from the cache, came to {paid} and {cost}."
    )
