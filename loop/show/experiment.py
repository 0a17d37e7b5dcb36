"""An experiment as tables and sentences, which a terminal and a page only lay out; and its page."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from reflectune.loop.experiments.figures import ArmDocument, Estimate, ExperimentDocument, Group
from reflectune.loop.show.comparison import Section
from reflectune.loop.show.html.environment import STATIC, open_environment
from reflectune.loop.show.numbers import is_share, name_held_out
from reflectune.state.data.writing import put_into_place

__all__ = ["PAGE", "explain_experiment", "tabulate_experiment", "tell_estimate", "write_page"]

PAGE = "report.html"  # in the experiment's folder

_TITLES: Mapping[Group, str] = {
    "held_out": "Held-out measures of the final student",
    "data": "What the final student was trained on, and the pool it came from; IFD and r-IFD under s0",
    "own": "Figures of your own",
}
# How a number is written that is at least so large.
_FORMS = ((1000, ",.0f"), (10, ".1f"), (1e-3, ".3f"), (1e-300, ".1e"), (0, ".3f"))
_NAMES = {"pool_ifd": "pool IFD", "pool_r_ifd": "pool r-IFD"}


def tabulate_experiment(document: ExperimentDocument) -> list[Section]:
    """For each group of figures the means of all arms, then their differences to the baseline."""
    arms, baseline = document["arms"], document["baseline"]
    sections = []
    for group, title in _TITLES.items():
        names = list(dict.fromkeys(name for arm in arms for name in arm["figures"].get(group, {})))
        heads = ("arm", "seeds", *(_NAMES.get(name, name_held_out(name)) for name in names))
        means = [_row(arm, arm["figures"].get(group, {}), names, "") for arm in arms]
        less = [
            _row(arm, arm["differences"].get(group, {}), names, "+") for arm in arms if arm["arm"] != baseline
        ]
        if names:
            sections.append(Section(f"{title}: mean ± half its 95 % interval", heads, means))
            sections.append(Section(f"The same, less {baseline} with the same seed", heads, less))
    return [section for section in sections if section.rows]


def _row(
    arm: ArmDocument, figures: Mapping[str, Estimate], names: Sequence[str], sign: str
) -> tuple[str, ...]:
    known = max((each["n"] for each in figures.values()), default=0)
    cells = (_cell(name, figures.get(name), sign, known) for name in names)
    return arm["arm"], f"{known} of {len(arm['runs'])}", *cells


def _cell(name: str, figure: Estimate | None, sign: str, most: int) -> str:
    """A figure, and of how many seeds where these are fewer than the row's."""
    told = tell_estimate(name, figure, sign)
    return told if figure is None or figure["n"] in (0, most) else f"{told} ({figure['n']})"


def tell_estimate(name: str, known: Estimate | None, sign: str = "") -> str:
    """Mean and half its interval, with as many decimals."""
    if known is None or known["mean"] is None:
        return "-"
    mean, half = known["mean"], None if known["high"] is None else known["high"] - known["mean"]
    size = max(abs(mean), half or 0.0)
    form = next(form for least, form in _FORMS if size >= least)
    if is_share(name) or name == "acceptance":
        form = ".1%"
    return format(mean, sign + form) + ("" if half is None else f" ± {half:{form}}")


def explain_experiment(document: ExperimentDocument) -> Iterator[str]:
    """What there is to know beside the tables, in sentences."""
    if before := document["before"]:
        measures = (f"{name_held_out(name)} {tell_estimate(name, it)}" for name, it in before.items())
        yield f"Before any training: {', '.join(measures)}."
    if len(document["seeds"]) == 1:
        yield "One seed: how much is chance is not known, and no interval is given."
    if document["tokens"] is not None:
        yield f"Every training has about {document['tokens']:,} tokens."
    students = {arm["arm"]: arm["student"] for arm in document["arms"]}
    for arm in document["arms"]:
        if arm["student"] != students[document["baseline"]]:
            yield f"{arm['arm']} has another student: nll, IFD, r-IFD and tokens do not compare."
        if arm["same_held_out"] is False:
            yield (
                f"{arm['arm']} has other held-out pairs than {document['baseline']}: their measures differ "
                "for that as well."
            )
        if arm["other_answers"]:
            names = ", ".join(map(name_held_out, arm["other_answers"]))
            yield (
                f"{arm['arm']}: {names} over another number of held-out pairs than "
                f"{document['baseline']}'s with some seed: it has no difference."
            )
        if arm["rolls_back"]:
            yield f"{arm['arm']} ends with its best round by the held-out measures: they flatter it."
    for arm in document["arms"]:
        for run in arm["runs"]:
            if run["error"] is not None:
                yield f"{run['run']} failed: {run['error']}"
            elif run["status"] == "budget":
                yield f"{run['run']}: its teacher's budget was spent before its last round was over."


def write_page(document: ExperimentDocument, out: Path) -> None:
    """Write an experiment as one self-contained page: all of it, or what was there before."""
    page = open_environment(utc=True).get_template("experiment.html")
    with put_into_place(out) as part:
        text = page.render(
            document=document,
            sections=tabulate_experiment(document),
            notes=[*explain_experiment(document)],
            style="\n".join(
                (STATIC / name).read_text(encoding="utf-8") for name in ("base.css", "report.css")
            ),
        )
        part.write_text(text, encoding="utf-8", newline="\n")
