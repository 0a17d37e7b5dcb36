import re
from pathlib import Path

from langgraph.graph import END

from reflectune.loop.context import LoopState
from reflectune.loop.graph import after_evaluate, after_select, draw_graph, hash_graph

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def state(**changes: object) -> LoopState:
    base = {"run": "r", "round": 1, "phase": "instruction", "student": "s0", "stop_reason": None}
    return base | changes  # type: ignore[return-value]


def test_graph_is_drawn_in_the_readme() -> None:
    drawing = re.search(r"```mermaid\n(.*?)```", README, re.DOTALL)
    assert drawing is not None
    assert drawing[1].strip() == draw_graph().strip()


def test_graph_is_the_documented_one() -> None:
    edges = {tuple(re.split(r" -\.?->? ", line.strip(" \t;"))) for line in draw_graph().splitlines()[1:]}
    assert edges == {
        ("__start__", "reflect"),
        ("reflect", "select"),
        ("select", "reflect"),
        ("select", "refinetune"),
        ("refinetune", "evaluate"),
        ("evaluate", "reflect"),
        ("evaluate", "__end__"),
    }
    assert len(hash_graph()) == 32


def test_route_after_select_follows_the_phase() -> None:
    assert after_select(state(phase="response")) == "reflect"
    assert after_select(state(phase="instruction")) == "refinetune"


def test_route_after_evaluate_follows_the_stop_reason() -> None:
    assert after_evaluate(state()) == "reflect"
    assert after_evaluate(state(stop_reason="rounds")) == END
