import re
from pathlib import Path

import pytest
from langgraph.graph import END

from reflectune.loop.context import LoopState
from reflectune.loop.graph import after_evaluate, after_select, draw_graph, hash_graph

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_graph_is_the_one_that_the_readme_draws() -> None:
    drawing = re.search(r"```mermaid\n(.*?)```", README, re.DOTALL)
    assert drawing is not None
    assert drawing[1].strip() == draw_graph().strip()
    assert len(hash_graph()) == 32


@pytest.mark.parametrize(
    ("phase", "stop_reason", "selected", "evaluated"),
    [
        ("response", None, "reflect", "reflect"),
        ("instruction", None, "refinetune", "reflect"),
        ("instruction", "rounds", "refinetune", END),
    ],
)
def test_routes_follow_the_phase_and_the_stop_reason(
    phase: str, stop_reason: str | None, selected: str, evaluated: str
) -> None:
    state = LoopState(run="r", round=1, phase=phase, student="s0", stop_reason=stop_reason)
    assert after_select(state) == selected
    assert after_evaluate(state) == evaluated
