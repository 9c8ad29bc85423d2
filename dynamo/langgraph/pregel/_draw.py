"""A graph as a drawing: which node can start which, found out by playing the supersteps without running a node.

In a played superstep every node writes all that it may write: to its channels always, and what its path functions and
Commands declare the first time. Whoever listens to these channels comes next. Barriers wait for all their names,
deferred nodes for nothing else being left, as in a run. The play ends when nobody comes next, or after `limit` rounds.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._script import ask
from dynamo.langgraph.channels.last_value import LastValueAfterFinish
from dynamo.langgraph.channels.named_barrier_value import NamedBarrierValue, NamedBarrierValueAfterFinish
from dynamo.langgraph.constants import END, START
from dynamo.langgraph.pregel._write import ChannelWrite, ChannelWriteEntry

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langchain_core.runnables.graph import Graph

    from dynamo.langgraph._internal._script import Script
    from dynamo.langgraph.pregel._read import PregelNode
    from dynamo.langgraph.pregel.main import Pregel

_AT_THE_END = (LastValueAfterFinish, NamedBarrierValueAfterFinish)  # channels of deferred nodes


class Edge(NamedTuple):
    """From one node to another; `data` is the label."""

    source: str
    target: str
    conditional: bool
    data: str | None


class TriggerEdge(NamedTuple):
    """From a node to a channel that starts others."""

    source: str
    conditional: bool
    data: str | None


class _Play:
    """The supersteps of a graph, played."""

    def __init__(
        self, nodes: "Mapping[str, PregelNode]", specs: Mapping[str, Any], triggers: Mapping[str, Sequence[str]]
    ) -> None:
        self.nodes, self.specs, self.triggers = nodes, specs, triggers
        self.edges: set[Edge] = set()
        self.writers: dict[str, set[TriggerEdge]] = {}  # by channel
        self.declared: set[int] = set()  # writers whose declarations have been played
        self.arrived: dict[str, set[Any]] = {}  # by barrier
        self.deferred: list[str] = []  # channels that are released when nothing else is left

    def run(self, inputs: Sequence[str], limit: int) -> tuple[list[str], list[str]]:
        """Play; returns the nodes that the input starts, and those of the last superstep."""
        first = now = self._started(inputs)
        for _ in range(limit):
            after = self._round(now)
            if not after:
                break
            now = after
        else:
            self._round(now)
        return first, now

    def _round(self, now: list[str]) -> list[str]:
        ripe: list[str] = []
        written: set[str] = set()
        for name in now:
            for channel, value, conditional, label in self._writes(name):
                if channel == END:
                    self.edges.add(Edge(name, END, True, label if label != END else None))
                    continue
                written.add(channel)
                self.writers.setdefault(channel, set()).add(TriggerEdge(name, conditional, label))
                if channel not in ripe and self._is_ripe(channel, value):
                    ripe.append(channel)
        after = self._started(ripe)
        if not after and self.deferred:
            released, self.deferred = self.deferred, []
            after = self._started(released)
            for node in after:
                if written.isdisjoint(self.nodes[node].triggers):  # it had to wait for these, whoever wrote
                    self.edges.update(Edge(name, node, True, None) for name in now)
        return after

    def _is_ripe(self, channel: str, value: Any) -> bool:
        """Whether this write starts who listens to the channel."""
        spec = self.specs.get(channel)
        deferred = isinstance(spec, (LastValueAfterFinish, NamedBarrierValueAfterFinish))
        if isinstance(spec, (NamedBarrierValue, NamedBarrierValueAfterFinish)):
            arrived = self.arrived.setdefault(channel, set())
            arrived.add(value)
            if arrived < spec.names:
                return False
            arrived.clear()
        if deferred and channel not in self.deferred:
            self.deferred.append(channel)
        return not deferred

    def _started(self, channels: Sequence[str]) -> list[str]:
        """The nodes that these channels start, in the order of the graph."""
        wanted: set[str] = set()
        for channel in channels:
            for node in self.triggers.get(channel, ()):
                wanted.add(node)
                for source, conditional, label in self.writers.get(channel, ()):
                    self.edges.add(Edge(source, node, conditional, label if label != node else None))
        return [name for name in self.nodes if name in wanted]

    def _writes(self, name: str) -> Iterator[tuple[str, Any, bool, str | None]]:
        """``(channel, value, conditional, label)`` of all that a node may write."""
        for writer in self.nodes[name].writers:
            if isinstance(writer, ChannelWrite):
                for entry in writer.writes:
                    if isinstance(entry, ChannelWriteEntry) and entry.channel != END:
                        yield entry.channel, entry.value, False, None
            if id(writer) not in self.declared:
                self.declared.add(id(writer))
                for channel, value, label in ChannelWrite.get_static_writes(writer) or ():
                    yield channel, value, True, label

    def ends(self, last: list[str]) -> list[Edge]:
        """How the graph ends where no node says so itself."""
        onward = {edge.source for edge in self.edges}
        final = {edge.target for edge in self.edges} - onward - {END}
        if final:
            return [Edge(name, END, False, None) for name in sorted(final)]
        if len(last) == 1 and not any(edge.target == END for edge in self.edges):
            return [Edge(last[0], END, True, None)]  # it goes round for ever, unless a node stops it
        return []


def script(graph: "Pregel[Any, Any, Any, Any]", config: "RunnableConfig | None", xray: int | bool) -> "Script":
    """The drawing of a graph, as a script (see ``_script.py``): graphs in nodes are asked for theirs."""
    inner = {}
    for name, one in graph.get_subgraphs() if xray else ():
        inner[name] = yield ask(one, "get_graph", config, xray=xray if xray is True else xray - 1)
    return _drawn(graph, inner)


def _drawn(graph: "Pregel[Any, Any, Any, Any]", subgraphs: "Mapping[str, Graph]", limit: int = 250) -> "Graph":
    """The drawing of a graph.

    Parameters
    ----------
    subgraphs
        Drawings to put in the place of nodes.
    limit
        How many supersteps to play; more if there are more nodes.
    """
    from langchain_core.runnables.graph import Graph

    nodes, given = graph.nodes, graph.input_channels
    play = _Play(nodes, graph.channels, graph.trigger_to_nodes)
    first, last = play.run([given] if isinstance(given, str) else given, max(limit, len(nodes)))
    started = START in nodes  # else the drawing begins with the input
    edges = sorted(play.edges, key=lambda edge: (edge.source, edge.target, edge.conditional, edge.data or ""))
    if not started:
        edges = [*(Edge(START, name, False, None) for name in first), *edges]
    edges += play.ends(last)

    drawing = Graph()
    into: dict[str, str] = {}  # where an edge to a node that is drawn as a graph ends
    out: dict[str, str] = {}
    for name in nodes:
        inner = subgraphs.get(name)
        if inner is None or not _unfold(drawing, inner, name, into, out):
            drawing.add_node(nodes[name].bound, name, metadata=_marks(graph, name) or None)
    if not started:
        drawing.add_node(None, START)
    if any(edge.target == END for edge in edges):
        drawing.add_node(None, END)
    # What was drawn in the place of a node comes behind the others.
    inside = {key: node for key, node in drawing.nodes.items() if ":" in key and key not in nodes}
    for key in inside:
        drawing.nodes[key] = drawing.nodes.pop(key)
    inner_edges, drawing.edges = drawing.edges, []
    met: set[tuple[str, str]] = set()
    for edge in edges:
        source, target = out.get(edge.source, edge.source), into.get(edge.target, edge.target)
        if (source, target) not in met:  # the first one between two counts
            met.add((source, target))
            drawing.add_edge(drawing.nodes[source], drawing.nodes[target], edge.data, edge.conditional)
    drawing.edges.extend(inner_edges)
    return drawing


def _marks(graph: "Pregel[Any, Any, Any, Any]", name: str) -> dict[str, Any]:
    """What a drawing says of a node beside its name."""
    node = graph.nodes[name]
    marks: dict[str, Any] = {**(node.metadata or {})}
    if any(isinstance(graph.channels.get(channel), _AT_THE_END) for channel in node.triggers):
        marks["defer"] = True
    tools: Any = getattr(node.bound, "tools_by_name", None)
    if isinstance(tools, Mapping):
        marks["__tools"] = list(tools)
    stops = {"before": graph.interrupt_before_nodes, "after": graph.interrupt_after_nodes}
    here = [word for word, names in stops.items() if names != "*" and name in names]
    return {**marks, "__interrupt": ",".join(here)} if here else marks


def _unfold(drawing: "Graph", inner: "Graph", name: str, into: dict[str, str], out: dict[str, str]) -> bool:
    """Put a graph in the place of a node; False when it has nothing to show."""
    inner.trim_first_node()
    inner.trim_last_node()
    if not inner.nodes:
        return False
    if len(inner.nodes) == 1:
        (only,) = inner.nodes.values()
        made = drawing.add_node(only.data, f"{name}:{only.id}", metadata=only.metadata)
        drawing.nodes[made.id] = made.copy(name=only.name)
        into[name] = out[name] = made.id
        return True
    first, last = drawing.extend(inner, prefix=name)
    for end, found, place in (("first", first, into), ("last", last, out)):
        if found is None:
            raise ValueError(f"The subgraph {name!r} cannot be drawn in its place: it has no single {end} node")
        place[name] = found.id
    return True


own(globals())
