"""One experiment as a LangGraph graph: this file only wires the nodes."""

from collections.abc import Callable
from typing import Any, Protocol

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from nightlab.agents.nodes import Nodes
from nightlab.agents.round import Round

Graph = CompiledStateGraph[Round, Nodes, Round, Round]


class Node(Protocol):
    """A node as LangGraph calls it."""

    def __call__(self, state: Round, *, runtime: Runtime[Nodes]) -> Round: ...


ORDER = (
    "decide",
    "propose",
    "vet",
    "screen",
    "judge",
    "confirm",
    "diagnose",
    "record",
    "reflect",
)


def build(saver: BaseCheckpointSaver[Any] | None = None) -> Graph:
    """The graph that one experiment runs through; ``thread_id`` is ``campaign:experiment``."""
    graph = StateGraph(Round, context_schema=Nodes)
    for name in ORDER:
        graph.add_node(name, _node(name))
    graph.add_edge(START, "decide")
    graph.add_edge("decide", "propose")
    graph.add_conditional_edges("propose", _or_record("vet"), ["vet", "record"])
    graph.add_conditional_edges("vet", _or_record("screen"), ["screen", "record"])
    graph.add_conditional_edges("screen", _or_record("judge"), ["judge", "record"])
    graph.add_conditional_edges("judge", _after_judge, ["screen", "confirm", "diagnose"])
    graph.add_edge("confirm", "judge")
    graph.add_edge("diagnose", "record")
    graph.add_edge("record", "reflect")
    graph.add_edge("reflect", END)
    return graph.compile(checkpointer=saver)


def _node(name: str) -> Node:
    def run(state: Round, *, runtime: Runtime[Nodes]) -> Round:
        result: Round = getattr(runtime.context, name)(state)
        return result

    run.__name__ = name
    return run


def _or_record(onward: str) -> Callable[[Round], str]:
    def route(state: Round) -> str:
        return "record" if state.get("verdict") else onward

    return route


def _after_judge(state: Round) -> str:
    if state.get("verdict"):
        return "diagnose"
    return "confirm" if state["confirmation"] else "screen"
