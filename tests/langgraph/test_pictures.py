"""Graphs and runs as pictures: what is drawn, that nothing overlaps, that nothing gets out."""

import asyncio
import operator
import random
import re
import time
import xml.etree.ElementTree as ET
from typing import Annotated, Literal, TypedDict

import pytest

pytest.importorskip("langgraph.checkpoint.memory", reason="the extra langgraph is not installed")

from langgraph.checkpoint.memory import InMemorySaver

from dynamo.errors import InvalidArgument
from dynamo.graphs import Timeline, awatch, draw, watch
from dynamo.graphs.layout import lay_out
from dynamo.graphs.svg import short
from dynamo.langgraph.graph import END, START, StateGraph
from dynamo.langgraph.types import Send, interrupt

SVG = "{http://www.w3.org/2000/svg}"


class State(TypedDict, total=False):
    seen: Annotated[list, operator.add]


def node(state):
    return {"seen": [1]}


def route(state) -> Literal["left", "right"]:
    return "left"


def parsed(svg):
    return ET.fromstring(svg)


def words(svg):
    return [one.text for one in parsed(svg).iter(f"{SVG}text")]


def dashed(svg):
    return [one for one in parsed(svg).iter(f"{SVG}path") if one.get("stroke-dasharray")]


def branching(**options):
    graph = StateGraph(State).add_node("first", node).add_node("left", node).add_node("right", node)
    graph.add_edge(START, "first").add_conditional_edges("first", route)
    return graph.add_edge("left", END).add_edge("right", END).compile(**options)


# ---------------------------------------------------------------- layout
def a_graph(seed):
    rng = random.Random(seed)
    names = [f"n{i}" for i in range(rng.randint(1, 24))]
    sizes = {name: (rng.uniform(20, 160), rng.uniform(20, 300 if rng.random() < 0.1 else 60)) for name in names}
    edges = [(rng.choice(names), rng.choice(names)) for _ in range(rng.randint(0, 2 * len(names)))]
    return sizes, edges


@pytest.mark.parametrize("seed", range(60))
def test_boxes_of_any_graph_keep_their_distance_and_lines_reach_their_boxes(seed):
    sizes, edges = a_graph(seed)
    gap = 30.0
    layout = lay_out(sizes, edges, gap=gap, layer_gap=40.0)
    assert layout == lay_out(sizes, edges, gap=gap, layer_gap=40.0)
    spots = [(layout.places[name], sizes[name]) for name in sizes]
    for i, ((x, y), (w, h)) in enumerate(spots):
        assert x - w / 2 >= -1e-6 and x + w / 2 <= layout.width + 1e-6
        assert y - h / 2 >= -1e-6 and y + h / 2 <= layout.height + 1e-6
        for (x2, y2), (w2, h2) in spots[:i]:
            beside = abs(x - x2) >= (w + w2) / 2 + gap - 1e-6
            assert beside if y == y2 else abs(y - y2) >= (h + h2) / 2 + 40 - 1e-6
    for (source, target), route in zip(edges, layout.routes, strict=True):
        for name, (x, y) in ((source, route[0]), (target, route[-1])):
            (at_x, at_y), (w, h) = layout.places[name], sizes[name]
            assert abs(x - at_x) <= w / 2 + 1e-6 and abs(y - at_y) <= h / 2 + 1e-6


@pytest.mark.parametrize("seed", range(30))
def test_labels_have_places_of_their_own(seed):
    sizes, edges = a_graph(seed)
    rng = random.Random(seed)
    labels = {i: (rng.uniform(20, 150), 18.0) for i in range(len(edges)) if rng.random() < 0.5}
    layout = lay_out(sizes, edges, gap=10.0, labels=labels)
    assert layout.spots.keys() == {i for i in labels if edges[i][0] != edges[i][1]}
    taken = [(layout.places[name], sizes[name]) for name in sizes]
    taken += [(spot, labels[i]) for i, spot in layout.spots.items()]
    for i, ((x, y), (w, h)) in enumerate(taken):
        assert x - w / 2 >= -1e-6 and x + w / 2 <= layout.width + 1e-6
        for (x2, y2), (w2, h2) in taken[:i]:
            assert abs(x - x2) >= (w + w2) / 2 + 9.99 or abs(y - y2) >= (h + h2) / 2
    for i, spot in layout.spots.items():
        assert spot[0] in {x for x, _ in layout.routes[i]}, "a label is on its line"


def test_a_tree_has_no_crossings_and_a_chain_is_straight():
    sizes = {f"n{i}": (60.0, 30.0) for i in range(15)}
    tree = [(f"n{(i - 1) // 2}", f"n{i}") for i in range(1, 15)]
    random.Random(1).shuffle(tree)
    places = lay_out(sizes, tree).places
    for depth in range(1, 4):
        row = sorted(range(2**depth - 1, 2 ** (depth + 1) - 1), key=lambda i: places[f"n{i}"][0])
        parents = [places[f"n{(i - 1) // 2}"][0] for i in row]
        assert parents == sorted(parents)
    chain = lay_out(sizes, [(f"n{i}", f"n{i + 1}") for i in range(14)]).places
    assert len({round(x, 6) for x, _ in chain.values()}) == 1


def test_a_cycle_is_cut_where_it_is_entered():
    sizes = dict.fromkeys("abc", (40.0, 20.0))
    places = lay_out(sizes, [("a", "b"), ("b", "c"), ("c", "a"), ("b", "b")]).places
    assert places["a"][1] < places["b"][1] < places["c"][1]
    assert lay_out({}, []) == ({}, [], 0.0, 0.0, {})


def test_three_hundred_nodes_take_less_than_two_seconds():
    rng = random.Random(3)
    sizes = {f"n{i}": (60.0, 30.0) for i in range(300)}
    edges = [(f"n{rng.randrange(max(0, i - 20), i)}", f"n{i}") for i in range(1, 300) for _ in range(2)]
    before = time.process_time()
    lay_out(sizes, edges)
    assert time.process_time() - before < 2


# ---------------------------------------------------------------- graphs
def test_a_graph_draws_itself_with_conditional_edges_dashed():
    svg = branching()._repr_mimebundle_()["image/svg+xml"]
    assert set(words(svg)) == {"start", "end", "first", "left", "right"}
    assert len(dashed(svg)) == 2
    assert svg == branching()._repr_svg_()


def test_labels_tools_stops_and_deferred_nodes_are_shown():
    pytest.importorskip("langchain_core")
    graph = StateGraph(State).add_node("first", node).add_node("last", node, defer=True)
    graph.add_edge(START, "first").add_conditional_edges("first", lambda s: "more", {"go on": "first", "stop": END})
    graph.add_edge("first", "last")
    graph.add_edge("last", END)
    svg = draw(graph.compile(interrupt_before=["last"], checkpointer=InMemorySaver())).svg
    assert {"go on", "stop", "waits for all others"} <= set(words(svg))
    assert "#d64545" in svg
    assert "#d64545" not in draw(graph.compile()).svg


def test_a_graph_in_a_node_is_drawn_inside_it():
    inner = branching(name="inner")
    middle = StateGraph(State).add_node("deep", inner).add_edge(START, "deep").compile()
    outer = StateGraph(State).add_node("sub", middle).add_edge(START, "sub").add_edge("sub", END).compile()
    assert {"sub", "deep", "left"} <= set(words(draw(outer).svg))
    assert "left" not in words(draw(outer, xray=1).svg) and "deep" in words(draw(outer, xray=1).svg)
    assert "deep" not in words(draw(outer, xray=False).svg)
    assert repr(draw(outer)) == "<Picture of LangGraph, 5 nodes>"


def test_names_cannot_break_out_and_nothing_is_loaded():
    evil = "</text><script>alert(1)</script>&\"'\x07"
    graph = StateGraph(State).add_node(evil, node).add_edge(START, evil)
    graph.add_conditional_edges(evil, lambda s: END, {'<b>"&': END, "x": evil})
    svg = draw(graph.compile(name="<i>" + "n" * 300)).svg
    tags = {one.tag.removeprefix(SVG) for one in parsed(svg).iter()}
    assert tags <= {"svg", "title", "defs", "marker", "path", "rect", "g", "text"}
    assert "http" not in svg.replace('xmlns="http://www.w3.org/2000/svg"', "") and "href" not in svg
    timeline = watch(graph.compile(name="<i>"), {"seen": []})
    assert {one.tag.removeprefix(SVG) for one in parsed(timeline._repr_svg_()).iter()} <= tags
    assert short("a" * 99, 30) == "a" * 19 + "…" + "a" * 10


def test_a_picture_is_saved_as_svg_only(tmp_path):
    place = draw(branching()).save(tmp_path / "graph.svg")
    assert parsed(place.read_text())
    with pytest.raises(InvalidArgument, match=r"end in \.svg"):
        draw(branching()).save(tmp_path / "graph.png")
    with pytest.raises(InvalidArgument, match="compiled graph"):
        draw(StateGraph(State))


# ---------------------------------------------------------------- runs
def test_a_timeline_has_the_nodes_of_each_superstep_and_the_output():
    def slow(state):
        time.sleep(0.02)
        return {"seen": [2]}

    inner = StateGraph(State).add_node("inner", slow).add_edge(START, "inner").compile()
    graph = StateGraph(State).add_node("a", node).add_node("b", inner).add_node("c", node)
    graph.add_edge(START, "a").add_edge("a", "b").add_edge("a", "c")
    timeline = watch(graph.compile(name="two steps"), {"seen": []})
    assert timeline.output["seen"] == [1, 1, 2, 1] and timeline.error is None
    assert [(row.task.name, row.task.step, row.depth) for row in timeline.rows()] == [
        ("a", 1, 0),
        ("b", 2, 0),
        ("inner", 1, 1),
        ("c", 2, 0),
    ] or [row.task.name for row in timeline.rows()] == ["a", "c", "b", "inner"]
    assert timeline.steps == 2
    spent = {task.name: task.seconds for task in timeline.tasks}
    assert 0.02 <= spent["inner"] <= spent["b"] <= timeline.seconds and spent["a"] < 0.02
    assert {"a", "b", "c", "inner", "two steps"} <= set(words(timeline._repr_svg_()))
    assert "inner" in str(timeline) and "2 supersteps" in repr(timeline)


def test_a_timeline_shows_where_a_run_stopped_to_ask_and_what_ended_it():
    def ask(state):
        return {"seen": [interrupt("go on?")]}

    graph = StateGraph(State).add_node("ask", ask).add_edge(START, "ask").compile(checkpointer=InMemorySaver())
    timeline = watch(graph, {"seen": []}, {"configurable": {"thread_id": "1"}})
    assert [one.value for one in timeline.interrupts] == ["go on?"]
    assert "waits for an answer" in words(timeline._repr_svg_()) and "asks go on?" in str(timeline)

    def fail(state):
        raise KeyError("gone")

    graph = StateGraph(State).add_node("fail", fail).add_edge(START, "fail").compile()
    timeline = watch(graph, {"seen": []})
    assert "failed" in words(timeline._repr_svg_()) and "failed" in repr(timeline)
    with pytest.raises(KeyError):
        _ = timeline.output


def test_a_fan_out_is_shown_up_to_a_bound():
    graph = StateGraph(State).add_node("spread", node).add_node("work", node)
    graph.add_edge(START, "spread").add_conditional_edges("spread", lambda s: [Send("work", i) for i in range(200)])
    timeline = asyncio.run(awatch(graph.compile(), {"seen": []}))
    assert len(timeline.tasks) == 201 and timeline.output["seen"] == [1] * 201
    shown = words(timeline._repr_svg_())
    assert "and 81 more tasks" in shown and len(re.findall("work", " ".join(shown))) == 119


def test_a_timeline_without_tasks_can_be_shown():
    assert parsed(Timeline("nothing")._repr_svg_())
