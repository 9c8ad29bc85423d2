"""A compiled graph as a picture.

nodes       boxes; START and END are pills; a graph in a node is a box with its own picture in it
edges       full lines; those of path functions and Commands dashed, with their labels
marks       where a run stops to ask (before: above the box, after: below), tools by name, "waits" for deferred nodes
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dynamo.errors import InvalidArgument
from dynamo.graphs.layout import Layout, lay_out
from dynamo.graphs.svg import document, element, path, short, text, text_width
from dynamo.langgraph.constants import END, START

__all__ = ["Picture", "draw"]

_INK, _LINE, _SOFT, _PAPER = "#1f2933", "#7b8794", "#52606d", "#ffffff"
_STOP = "#d64545"
# kind of node -> fill, border
_COLOURS = {
    "function": ("#e8f1fd", "#5b8def"),
    "model": ("#e6f7f1", "#2fa37c"),
    "tools": ("#fff4e0", "#e0a030"),
    "graph": ("#f6f3fd", "#9b7fe0"),
    "end": ("#f1f3f5", "#a3adb8"),
}
_TITLE = 24.0  # height of the title of a graph in a node
_PAD = 14.0
MOST_NODES = 2000


class Picture:
    """A picture that notebooks show.

    Attributes
    ----------
    svg : the picture as a text
    """

    def __init__(self, svg: str, about: str) -> None:
        self.svg, self.about = svg, about

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.about}>"

    def save(self, place: "str | os.PathLike[str]") -> Path:
        """Write the picture into a file, which is to end in ``.svg``."""
        found = Path(place)
        if found.suffix.lower() != ".svg":
            raise InvalidArgument(f"{found.name!r} does not end in .svg: pictures are written as SVG only")
        found.write_text(self.svg, encoding="utf-8")
        return found


def draw(graph: Any, *, xray: int | bool = True) -> Picture:
    """Draw a compiled graph, without any service.

    Parameters
    ----------
    graph : what ``compile()`` gave
    xray : draw the graphs in nodes too; a number says how deep

    Examples
    --------
    >>> draw(graph).save("agent.svg")  # doctest: +SKIP
    """
    if not callable(getattr(graph, "get_graph", None)):
        raise InvalidArgument(f"{graph!r} is no compiled graph: draw what graph.compile() gives")
    inner = _Inner(graph, xray)
    margin = 12.0
    name = graph.get_name()
    parts = [
        _arrowheads(),
        element("rect", x=0.5, y=0.5, width=inner.width + 23, height=inner.height + 23, rx=12, fill=_PAPER,
                stroke="#e4e7eb"),
        element("g", "".join(inner.parts()), transform=f"translate({margin:g},{margin:g})"),
    ]  # fmt: skip
    count = inner.count
    label = f"graph {short(name, 80)}: {count} nodes"
    return Picture(document(inner.width + 24, inner.height + 24, parts, label), f"{name}, {count} nodes")


class _Box(NamedTuple):
    """One node as it will look."""

    width: float
    height: float
    draw: Callable[[float, float], list[str]]


class _Inner:
    """One graph, laid out; graphs in nodes are laid out first, as their boxes."""

    def __init__(self, graph: Any, xray: int | bool) -> None:
        drawing = graph.get_graph()
        if len(drawing.nodes) > MOST_NODES:
            raise InvalidArgument(f"the graph has {len(drawing.nodes)} nodes; pictures end at {MOST_NODES}")
        deeper = dict(graph.get_subgraphs()) if xray and hasattr(graph, "get_subgraphs") else {}
        below: int | bool = xray if isinstance(xray, bool) else xray - 1
        self.count = 0
        self.boxes: dict[str, _Box] = {}
        for id, node in drawing.nodes.items():
            self.boxes[id] = self._box(id, node, deeper.get(id), below)
        self.edges = drawing.edges
        pairs = [(edge.source, edge.target) for edge in self.edges]
        self.labels = [None if edge.data is None else short(str(edge.data), 30) for edge in self.edges]
        room = {i: text_width(label, 11) + 10 for i, label in enumerate(self.labels) if label}
        loops = {i: edge.source for i, edge in enumerate(self.edges) if edge.source == edge.target}
        self.layout: Layout = lay_out(
            {id: box[:2] for id, box in self.boxes.items()},
            pairs,
            layer_gap=30.0 if room.keys() - loops.keys() else 46.0,
            beside={name: 32 + room.get(i, 0.0) for i, name in loops.items()},
            labels={i: (width, 18.0) for i, width in room.items()},
        )
        # The labels of loops are the only ones that the layout has not made room for: they may need some at the right.
        routes = self.layout.routes
        beside = {
            i: (routes[i][1][0] + room[i] / 2, (routes[i][0][1] + routes[i][3][1]) / 2) for i in loops if i in room
        }
        self.spots = {**self.layout.spots, **beside}
        self.width = max([60.0, self.layout.width, *(x + room[i] / 2 for i, (x, _) in beside.items())])
        self.height = max(self.layout.height, 24.0)

    def _box(self, id: str, node: Any, subgraph: Any, xray: int | bool) -> _Box:
        about: Mapping[str, Any] = node.metadata or {}
        if id in (START, END):
            return _pill("start" if id == START else "end")
        self.count += 1
        if subgraph is not None:
            inner = _Inner(subgraph, xray)
            self.count += inner.count
            return _graph_box(short(node.name), inner, about)
        return _plain_box(short(node.name), _kind(node, about), about)

    def parts(self, paper: str = _PAPER) -> list[str]:
        """Lines first, boxes above them, labels on top; `paper` is what is behind."""
        lines, boxes, labels = [], [], []
        for edge, route in zip(self.edges, self.layout.routes, strict=True):
            loop = edge.source == edge.target
            lines.append(
                element(
                    "path",
                    d=_loop(route) if loop else path(route),
                    fill="none",
                    stroke=_LINE,
                    stroke_width=1.4,
                    stroke_dasharray="5 4" if edge.conditional else None,
                    marker_end="url(#dynamo-arrow)",
                )
            )
        for i, (x, y) in self.spots.items():
            label = self.labels[i] or ""
            width = text_width(label, 11) + 10
            labels.append(
                element("rect", x=x - width / 2, y=y - 8.5, width=width, height=17, rx=8, fill=paper, opacity=0.92)
            )
            labels.append(text(x, y + 3.8, label, 11, fill=_SOFT, text_anchor="middle"))
        for id, box in self.boxes.items():
            boxes += box.draw(*self.layout.places[id])
        return [*lines, *boxes, *labels]


def _kind(node: Any, about: Mapping[str, Any]) -> str:
    if "__tools" in about:
        return "tools"
    data = node.data
    made_of = f"{type(data).__module__} {getattr(getattr(data, 'func', None), '__module__', '')}"
    return "model" if "dynamo.graphs" in made_of or "chat_models" in made_of else "function"


def _pill(word: str) -> _Box:
    width, height = text_width(word, 11) + 24, 22.0

    def show(x: float, y: float) -> list[str]:
        fill, border = _COLOURS["end"]
        return [
            element("rect", x=x - width / 2, y=y - height / 2, width=width, height=height, rx=11, fill=fill,
                    stroke=border),
            text(x, y + 3.8, word, 11, fill=_SOFT, text_anchor="middle"),
        ]  # fmt: skip

    return _Box(width, height, show)


def _notes(about: Mapping[str, Any]) -> list[str]:
    """The small lines under a node's name."""
    found = []
    tools = about.get("__tools")
    if tools:
        found += [short(str(name), 26) for name in list(tools)[:5]]
        if len(tools) > 5:
            found.append(f"and {len(tools) - 5} more")
    if about.get("defer"):
        found.append("waits for all others")
    return found


def _plain_box(name: str, kind: str, about: Mapping[str, Any]) -> _Box:
    notes = _notes(about)
    width = max([52.0, text_width(name, 13) + 28, *(text_width(note, 10.5) + 26 for note in notes)])
    height = 34.0 + 14 * len(notes) + (2 if notes else 0)

    def show(x: float, y: float) -> list[str]:
        fill, border = _COLOURS[kind]
        top = y - height / 2
        parts = [
            element("rect", x=x - width / 2, y=top, width=width, height=height, rx=8, fill=fill, stroke=border,
                    stroke_width=1.3),
            text(x, top + 21.5, name, 13, fill=_INK, text_anchor="middle", font_weight=600 if notes else 500),
        ]  # fmt: skip
        for i, note in enumerate(notes):
            parts.append(text(x, top + 37 + 14 * i, note, 10.5, fill=_SOFT, text_anchor="middle"))
        return parts + _stops(x, y, width, height, about)

    return _Box(width, height, show)


def _graph_box(name: str, inner: _Inner, about: Mapping[str, Any]) -> _Box:
    width = max(inner.width + 2 * _PAD, text_width(name, 12) + 2 * _PAD)
    height = inner.height + _TITLE + 2 * _PAD - 4

    def show(x: float, y: float) -> list[str]:
        fill, border = _COLOURS["graph"]
        left, top = x - width / 2, y - height / 2
        at = f"translate({x - inner.width / 2:g},{top + _TITLE + _PAD - 4:g})"
        return [
            element("rect", x=left, y=top, width=width, height=height, rx=10, fill=fill, stroke=border,
                    stroke_width=1.3),
            text(left + _PAD, top + 18, name, 12, fill=_INK, font_weight=600),
            element("g", "".join(inner.parts(fill)), transform=at),
            *_stops(x, y, width, height, about),
        ]  # fmt: skip

    return _Box(width, height, show)


def _stops(x: float, y: float, width: float, height: float, about: Mapping[str, Any]) -> list[str]:
    """A bar where a run stops, with a sign of two beams at its end."""
    parts = []
    for word in str(about.get("__interrupt") or "").split(","):
        if word not in ("before", "after"):
            continue
        at = y - height / 2 - 5 if word == "before" else y + height / 2 + 5
        right = x + width / 2
        parts += [
            element("path", d=f"M{x - width / 2 + 4:g},{at:g}H{right - 12:g}", stroke=_STOP, stroke_width=2.2,
                    stroke_linecap="round"),
            element("path", d=f"M{right - 6:g},{at - 4:g}v8m4,-8v8", stroke=_STOP, stroke_width=2,
                    stroke_linecap="round"),
        ]  # fmt: skip
    return parts


def _loop(route: list[tuple[float, float]]) -> str:
    first, one, two, last = route
    return f"M{first[0]:g},{first[1]:g}C{one[0]:g},{one[1]:g} {two[0]:g},{two[1]:g} {last[0]:g},{last[1]:g}"


def _arrowheads() -> str:
    tip = element("path", d="M0,0.6L7,4L0,7.4L1.6,4Z", fill=_LINE)
    return element(
        "defs",
        element("marker", tip, id="dynamo-arrow", viewBox="0 0 8 8", refX="6.6", refY="4", markerWidth="7",
                markerHeight="7", orient="auto"),
    )  # fmt: skip
