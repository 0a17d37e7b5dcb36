import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends import backend_svg
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from reflectune.loop.show.charts import Chart, draw_charts, explain_missing
from reflectune.loop.show.charts.measures import draw_held_out
from reflectune.loop.show.report import describe_evolution
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.evolution import STATES
from reflectune.state.records import OUTCOMES
from tests.lineages import make_store

pytestmark = [pytest.mark.slow, pytest.mark.no_cover]

ALL = ["acceptance", "flow", "scores", "held-out", "length", "cost"]


def distribution(rounds: Sequence[int], scale: float = 1.0) -> dict[str, Any]:
    edges = [0.05 * scale * 1.12**step for step in range(41)]
    counts = [step % 7 + 1 for step in range(40)]
    shape = {"mean": 0.5, "low": 0.1, "q1": 0.3, "median": 0.4, "q3": 0.6, "high": 2.0}
    summary = {name: value * scale for name, value in shape.items()}
    return {
        "edges": edges,
        "rounds": [{"round": round, "n": 1000, "counts": counts, **summary} for round in rounds],
    }


def run_of(rounds: int, *, pool: int = 150_000, one_scorer: bool = True) -> dict[str, Any]:
    """The document of a made-up run with everything a report can hold."""
    fifth = pool // 5
    counts = dict.fromkeys(STATES, fifth)
    panel = {"student": "s0", "n": 998, "of": pool, "drawn": 1000, **distribution(range(rounds + 1))}
    pairs = [
        {"student": f"s{round - 1}", "n": 998, "of": pool, "drawn": None, **distribution([round - 1, round])}
        for round in range(1, rounds + 1)
    ]
    teacher = {"calls": 2 * pool, "cached": 5, "prompt_tokens": 40_000_000, "completion_tokens": 20_000_000,
               "cost_usd": 123.456}  # fmt: skip
    seconds = {"reflect": 5000.0, "select": 900.0, "refinetune": 7000.0, "evaluate": 400.0}
    return {
        "acceptance": [
            {"round": round, "phase": phase, "pool": pool, "accepted": fifth, "refused": 2 * fifth}
            | dict.fromkeys(OUTCOMES[2:6], fifth // 2)
            | {"undecided": 0}
            for round in range(1, rounds + 1)
            for phase in ("instruction", "response")
        ],
        "flows": {
            "states": [
                {"round": 0, "counts": dict.fromkeys(STATES, 0) | {"original": pool}, "kept": pool},
                *({"round": round, "counts": counts, "kept": 7} for round in range(1, rounds + 1)),
            ],
            "transitions": [
                {"round": round, "before": before, "after": after, "n": fifth if round == 1 else fifth // 5}
                for round in range(1, rounds + 1)
                for before in (("original",) if round == 1 else STATES)
                for after in STATES
            ],
        },
        "scores": {name: [panel] if one_scorer else pairs for name in ("ifd", "r_ifd")},
        "lengths": distribution(range(rounds + 1), scale=1000.0),
        "evaluations": [
            {"round": round, "student": f"s{round}", "name": name, "value": value, "n": 300,
             "low": value * 0.9, "high": value * 1.1}
            for round in range(rounds + 1)
            for name, value in (("accuracy", 0.2), ("nll", 2.5), ("response_tokens", 123.4))
        ],
        "rounds": [
            {"round": round, "teacher": teacher, "seconds": seconds}
            for round in range(rounds + 1)
        ],
        "teacher": teacher,
    }  # fmt: skip


def by_name(document: dict[str, Any]) -> dict[str, Chart]:
    return {chart.name: chart for chart in draw_charts(document)}


def test_charts_say_and_list_their_numbers() -> None:
    charts = by_name(run_of(1, pool=100))
    acceptance = charts["acceptance"]
    assert acceptance.description == (
        "Round 1, instruction: 20 of 60 proposals accepted (33%); "
        "round 1, response: 20 of 60 proposals accepted (33%)."
    )
    assert acceptance.head == (
        "round", "phase", "pool", "accepted", "refused", "unchanged", "failed", "left alone",
        "not asked", "accepted of proposed",
    )  # fmt: skip
    assert acceptance.rows[0] == (1, "instruction", 100, 20, 40, 10, 10, 10, 10, "33%")
    assert charts["flow"].rows[0] == (1, "original", "original", 20, "20%")
    assert "20 refused (20%)" in charts["flow"].description
    assert "7 of them are where an earlier round left their pair" in charts["flow"].description
    assert "over 998 of 100 samples" in charts["scores"].description
    assert "drawn once by lot" in charts["scores"].description
    assert charts["scores"].rows[0] == (
        "IFD", "s0", 998, 0, "0.5", "0.1", "0.3", "0.4", "0.6", "2",
    )  # fmt: skip
    assert "Accuracy: 20.0% (18.0% to 22.0%) with s0" in charts["held-out"].description
    assert "response tokens" in [row[2] for row in charts["held-out"].rows]
    # Twice 13,300 seconds; 7,000 of each are refinetune.
    assert "All steps took 7 h 23 min, most of it refinetune (53%)" in charts["cost"].description
    assert "60,000,000 tokens and 123.4560 USD" in charts["cost"].description


def test_charts_never_put_two_students_into_one_panel() -> None:
    scores = by_name(run_of(2, one_scorer=False))["scores"]
    assert [row[1:4:2] for row in scores.rows[:4]] == [("s0", 0), ("s0", 1), ("s1", 1), ("s1", 2)]
    assert "not samples drawn by lot" in scores.description


def test_charts_tell_what_is_not_known_from_nothing() -> None:
    document = run_of(1)
    unknown = {"prompt_tokens": None, "completion_tokens": None, "cost_usd": None}
    document["teacher"] |= unknown
    for row in document["rounds"]:
        row["teacher"] = row["teacher"] | unknown
    for item in document["evaluations"]:
        item |= {"low": None, "high": None}
    for place in document["acceptance"]:
        place |= dict.fromkeys((*OUTCOMES, "undecided"), 0) | {"failed": place["pool"]}
    charts = by_name(document)
    assert "tokens are not known and a cost that is not known" in charts["cost"].description
    assert charts["cost"].rows[0][-3:] == ("-", "-", "-")
    assert charts["held-out"].rows[0][3:6] == ("20.0%", "-", "-")
    assert charts["acceptance"].description.startswith("Round 1, instruction: no proposal to accept;")
    assert charts["acceptance"].rows[0][-1] == "-"


def test_charts_that_cannot_be_drawn_yet_are_explained(tmp_path: Path) -> None:
    with make_store(tmp_path / "lineage.db") as store:
        store.start_round(1)
    charts = by_name(describe_evolution(RunFolder(tmp_path)))
    assert list(charts) == ["acceptance", "length"]
    assert charts["acceptance"].description == (
        "Round 1, instruction: nothing decided yet; round 1, response: nothing decided yet."
    )
    assert len(explain_missing(list(charts.values()))) == 4
    with make_store(tmp_path / "empty.db", train=0, holdout=0):
        pass
    (tmp_path / "empty.db").replace(tmp_path / "lineage.db")
    assert draw_charts(describe_evolution(RunFolder(tmp_path))) == []
    assert len(explain_missing([])) == len(ALL)


def test_charts_take_names_of_any_kind_for_text() -> None:
    document = run_of(1)
    for item in document["evaluations"]:
        item |= {"name": "$\\frac{<script>\u202e\ud800--&", "student": "<s0>"}
    for chart in draw_charts(document):
        ElementTree.fromstring(chart.svg)
        assert "<script" not in chart.svg
        chart.description.encode()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[Figure, list[tuple[str, Bbox]]]:
    """Every text that is drawn, with its place, by figure."""
    texts: dict[Figure, list[tuple[str, Bbox]]] = {}

    class Watched(RendererSVG):
        def draw_text(self, *args: Any, mtext: Text | None = None, **options: Any) -> None:
            assert mtext is not None
            assert isinstance(mtext.figure, Figure)
            box = mtext.get_window_extent(self)
            texts.setdefault(mtext.figure, []).append((mtext.get_text(), box))
            super().draw_text(*args, mtext=mtext, **options)

    monkeypatch.setattr(backend_svg, "RendererSVG", Watched)
    return texts


@pytest.mark.parametrize(("rounds", "one_scorer"), [(1, True), (3, False), (10, True), (10, False)])
def test_charts_are_small_and_no_text_in_them_is_over_another_or_outside(
    rounds: int, one_scorer: bool, drawn: dict[Figure, list[tuple[str, Bbox]]]
) -> None:
    charts = draw_charts(run_of(rounds, one_scorer=one_scorer))
    for chart in charts:
        ElementTree.fromstring(chart.svg)
        # Names of XML's own languages are no addresses.
        svg = re.sub(r'xmlns(:\w+)?="[^"]*"', "", chart.svg)
        assert not re.search("http|<script", svg), chart.name
        assert set(re.findall(r'href="(.)', svg)) <= {"#"}
        assert len(chart.svg) < 400_000, chart.name
    assert len(drawn) == len(charts)
    assert [chart.name for chart in charts] == ALL
    assert {"response tokens", "tokens"} <= {text for texts in drawn.values() for text, _ in texts}
    for figure, texts in drawn.items():
        width, height = (72 * inches for inches in figure.get_size_inches())
        for text, box in texts:
            assert -2 < box.x0 < box.x1 < width + 2, text
            assert -2 < box.y0 < box.y1 < height + 2, text
        for (text, box), (other, other_box) in combinations(texts, 2):
            across = min(box.x1, other_box.x1) - max(box.x0, other_box.x0)
            along = min(box.y1, other_box.y1) - max(box.y0, other_box.y0)
            assert across < 1 or along < 2, (text, other)  # points; a box has room around its letters


@pytest.mark.parametrize("number", [1, 2, 4, 5])
def test_every_measure_has_a_panel_and_no_panel_is_empty(
    number: int, drawn: dict[Figure, list[tuple[str, Bbox]]]
) -> None:
    document = run_of(1)
    known = [item for item in document["evaluations"] if item["name"] == "nll"]
    document["evaluations"] = [item | {"name": f"m{n}"} for n in range(number) for item in known]
    assert draw_held_out(document)
    (figure,) = drawn
    assert len(figure.axes) == number


def test_chart_of_one_round_has_no_other_on_its_axis(drawn: dict[Figure, list[tuple[str, Bbox]]]) -> None:
    assert draw_held_out(run_of(0))
    (texts,) = drawn.values()
    assert not [text for text, _ in texts if text.startswith("\N{MINUS SIGN}")]  # a fraction of a round
