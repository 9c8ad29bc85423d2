"""Graphs from a description in one call."""

import typing
from collections.abc import Iterable, Mapping
from typing import Any

from dynamo.langgraph.graph.state import StateGraph

if typing.TYPE_CHECKING:
    from dynamo.langgraph.graph._compiled import CompiledStateGraph


def create_state_graph(
    state_schema: Any,
    nodes: Mapping[str, Any] | Iterable[Any] = (),
    edges: Iterable[tuple[Any, ...]] = (),
    *,
    entry_point: str | None = None,
    finish_point: str | None = None,
    **schemas: Any,
) -> StateGraph[Any, Any, Any, Any]:
    """A StateGraph with its nodes and edges.

    Parameters
    ----------
    state_schema : the keys of the state
    nodes : name -> function, or functions with names of their own
    edges : (start, end) or (start, end, condition), as `StateGraph.add_edge` takes them; a function in
        the place of `end`, with a mapping or a list of names behind it if need be, makes a conditional edge
    entry_point, finish_point : where to start and to end
    schemas : `context_schema`, `input_schema`, `output_schema`
    """
    graph: StateGraph[Any, Any, Any, Any] = StateGraph(state_schema, **schemas)
    if isinstance(nodes, Mapping):
        for name, action in nodes.items():
            graph.add_node(name, action)
    else:
        for action in nodes:
            graph.add_node(typing.cast("Any", action))
    for edge in edges:
        if callable(edge[1]):
            graph.add_conditional_edges(*edge)
        else:
            graph.add_edge(*edge)
    if entry_point is not None:
        graph.set_entry_point(entry_point)
    return graph.set_finish_point(finish_point) if finish_point is not None else graph


def create_compiled_graph(
    state_schema: Any,
    nodes: Mapping[str, Any] | Iterable[Any] = (),
    edges: Iterable[tuple[Any, ...]] = (),
    *,
    entry_point: str | None = None,
    finish_point: str | None = None,
    context_schema: Any = None,
    input_schema: Any = None,
    output_schema: Any = None,
    **compile_options: Any,
) -> "CompiledStateGraph[Any, Any, Any, Any]":
    """The same, compiled; `compile_options` are those of `StateGraph.compile`."""
    ends: Any = {"entry_point": entry_point, "finish_point": finish_point}
    schemas = {"context_schema": context_schema, "input_schema": input_schema, "output_schema": output_schema}
    return create_state_graph(state_schema, nodes, edges, **ends, **schemas).compile(**compile_options)


for _function in (create_state_graph, create_compiled_graph):
    _function.__module__ = "dynamo.langgraph"
