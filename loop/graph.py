"""The machine: a LangGraph StateGraph of four kinds of node, and the routes between them."""

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from reflectune.loop.context import LoopContext, LoopState
from reflectune.loop.nodes.evaluate import evaluate
from reflectune.loop.nodes.refinetune import refinetune
from reflectune.loop.nodes.reflect import reflect
from reflectune.loop.nodes.select import select
from reflectune.state.records import content_hash

__all__ = ["build_graph", "draw_graph", "hash_graph"]


def build_graph() -> CompiledStateGraph[LoopState, LoopContext, LoopState, LoopState]:
    """The compiled machine: reflect and select for both phases, then refinetune and evaluate.

    It keeps no checkpoints: the lineage alone says where a run goes on.
    """
    graph = StateGraph(LoopState, context_schema=LoopContext)
    for node in (reflect, select, refinetune, evaluate):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "reflect")
    graph.add_edge("reflect", "select")
    graph.add_conditional_edges("select", after_select, ["reflect", "refinetune"])
    graph.add_edge("refinetune", "evaluate")
    graph.add_conditional_edges("evaluate", after_evaluate, ["reflect", END])
    return graph.compile()


def after_select(state: LoopState) -> str:
    """Reflect on the responses after the instructions; refinetune after both."""
    return "reflect" if state["phase"] == "response" else "refinetune"


def after_evaluate(state: LoopState) -> str:
    """End once there is a reason to stop; else begin the next round."""
    return END if state["stop_reason"] else "reflect"


def draw_graph() -> str:
    """The machine as a mermaid drawing."""
    return build_graph().get_graph().draw_mermaid(with_styles=False)


def hash_graph() -> str:
    """Hash of the machine's shape: a run can only be resumed by a machine of the same shape."""
    return content_hash(draw_graph())
