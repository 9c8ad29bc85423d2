"""A StateGraph as nodes and channels of the engine.

the state     one channel per key, and "__start__" for the input
a -> b        a writes to "branch:to:b", which starts b
[a, b] -> c   a and b write their names to the barrier "join:a+b:c", which starts c
a node's writers   its result -> the keys of the state and where Commands go; its edges; its path functions
"""

import typing
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dynamo.langgraph._internal._constants import INTERRUPT
from dynamo.langgraph._internal._names import own
from dynamo.langgraph.channels.ephemeral_value import EphemeralValue
from dynamo.langgraph.channels.last_value import LastValueAfterFinish
from dynamo.langgraph.channels.named_barrier_value import NamedBarrierValue, NamedBarrierValueAfterFinish
from dynamo.langgraph.constants import END, START, TAG_HIDDEN
from dynamo.langgraph.graph._branch import BranchSpec, Destinations
from dynamo.langgraph.graph._node import StateNodeSpec
from dynamo.langgraph.graph._schema import ROOT, json_schema_of, mapper_for
from dynamo.langgraph.graph._updates import control, control_static, keyed_update, root_update, trigger
from dynamo.langgraph.pregel._read import ChannelRead, PregelNode
from dynamo.langgraph.pregel._write import ChannelWrite, ChannelWriteEntry, ChannelWriteTupleEntry
from dynamo.langgraph.pregel.main import Pregel
from dynamo.langgraph.typing import ContextT, InputT, OutputT, StateT

if typing.TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import Checkpoint

    from dynamo.langgraph.graph.state import StateGraph


_AS_GIVEN = (
    *("metadata", "retry_policy", "cache_policy", "timeout", "trace_policy"),
    *("is_error_handler", "error_handler_node"),
)


class CompiledStateGraph(Pregel[StateT, ContextT, InputT, OutputT]):
    """What `StateGraph.compile` makes.

    Attributes
    ----------
    builder : the graph it was made of
    schema_to_mapper : how the values of channels become instances of a schema, by schema
    """

    builder: "StateGraph[StateT, ContextT, InputT, OutputT]"
    schema_to_mapper: dict[type[Any], Callable[[Any], Any] | None]

    def __init__(
        self,
        *,
        builder: "StateGraph[StateT, ContextT, InputT, OutputT]",
        schema_to_mapper: dict[type[Any], Callable[[Any], Any] | None],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.builder, self.schema_to_mapper = builder, schema_to_mapper
        self._output_mapper = self._mapper(builder.output_schema)
        self._state_mapper = self._mapper(builder.state_schema)
        self._destinations = Destinations(trigger)

    def _mapper(self, schema: Any) -> Callable[[Any], Any] | None:
        if schema not in self.schema_to_mapper:
            self.schema_to_mapper[schema] = mapper_for(list(self.builder.schemas[schema]), schema)
        return self.schema_to_mapper[schema]

    def get_input_jsonschema(self, config: "RunnableConfig | None" = None) -> dict[str, Any]:
        """The JSON schema of the input."""
        return self._json_schema(self.builder.input_schema, "Input")

    def get_output_jsonschema(self, config: "RunnableConfig | None" = None) -> dict[str, Any]:
        """The JSON schema of the output."""
        return self._json_schema(self.builder.output_schema, "Output")

    def _json_schema(self, schema: Any, suffix: str) -> dict[str, Any]:
        builder = self.builder
        return json_schema_of(schema, builder.schemas[schema], builder.channels, self.get_name(suffix))

    # ---------------------------------------------------------------- putting it together
    def _update_writer(self, keys: Sequence[str], ends: Any = None) -> ChannelWrite:
        """The writer of a node's result; `ends` is where its Commands may go, None for the input of the graph."""
        giver = "The input is" if ends is None else "A node returns"
        updates = root_update if list(keys) == [ROOT] else keyed_update(keys, giver)
        static = None if ends is None else control_static(ends)
        return ChannelWrite([ChannelWriteTupleEntry(updates), ChannelWriteTupleEntry(control, static=static)])

    def attach_node(self, key: str, node: "StateNodeSpec[Any, ContextT] | None") -> None:
        """Add a node with the channel that starts it; START has no spec."""
        builder = self.builder
        if node is None:
            first = self._update_writer(list(builder.schemas[builder.input_schema]))
            self.nodes[key] = PregelNode(channels=START, triggers=(START,), tags=[TAG_HIDDEN], writers=[first])
            return
        read = list(builder.schemas[node.input_schema])
        keys = [*builder.channels, *builder.managed]
        start = trigger(key)
        self.channels[start] = LastValueAfterFinish(Any) if node.defer else EphemeralValue(Any, guard=False)
        how: Any = {"bound": node.runnable, **{name: getattr(node, name) for name in _AS_GIVEN}}
        made = PregelNode(
            channels=ROOT if read == [ROOT] else read,
            triggers=[start],
            mapper=self._mapper(node.input_schema),
            writers=[self._update_writer(keys, node.ends or ())],
            **how,
        )
        self.nodes[key] = made

    def attach_edge(self, starts: str | Sequence[str], end: str) -> None:
        """Let one node start another, or several nodes together."""
        if end == END:
            return
        if isinstance(starts, str):
            self.nodes[starts].writers.append(ChannelWrite([ChannelWriteEntry(trigger(end), None)]))
            return
        join = f"join:{'+'.join(starts)}:{end}"
        deferred = isinstance(self.channels[trigger(end)], LastValueAfterFinish)
        barrier = NamedBarrierValueAfterFinish if deferred else NamedBarrierValue
        self.channels[join] = barrier(str, set(starts))
        self.nodes[end].triggers.append(join)
        for one in starts:
            self.nodes[one].writers.append(ChannelWrite([ChannelWriteEntry(join, one)]))

    def attach_branch(self, start: str, name: str, branch: BranchSpec, *, with_reader: bool = True) -> None:
        """Let a path function choose which nodes follow."""
        reader = None
        if with_reader:
            spec = self.builder.nodes.get(start)
            schema = branch.input_schema or (self.builder.state_schema if spec is None else spec.input_schema)
            keys = list(self.builder.schemas[schema])
            reader = partial(
                ChannelRead.do_read,
                select=ROOT if keys == [ROOT] else keys,
                fresh=True,
                mapper=self._mapper(schema),
            )
        self.nodes[start].writers.append(branch.run(self._destinations, reader))

    # ---------------------------------------------------------------- checkpoints of older versions
    def _migrate_checkpoint(self, checkpoint: "Checkpoint") -> None:
        """Rename the channels of a checkpoint from before version 3 in place.

        Then the channel that started a node was called after the edge: ``start:b``, ``branch:a:condition:b``, or ``a``
        for all edges from a.
        """
        Pregel._migrate_checkpoint(self, checkpoint)
        if checkpoint["v"] > 2:
            return
        versions, values = checkpoint["channel_versions"], checkpoint["channel_values"]
        nodes_saw = checkpoint["versions_seen"]
        followers: dict[str, list[str]] = {}
        for start, end in sorted(self.builder.edges):
            if end in self.nodes:
                followers.setdefault(start, []).append(end)
        for old in list(versions):
            started = self._started_by(old, followers)
            if started is None:
                continue
            version: Any = versions.pop(old)
            held, value = old in values, values.pop(old, None)
            for node in started:
                new = trigger(node)
                versions[new] = max(versions[new], version) if new in versions else version
                if held:
                    values.setdefault(new, value)
                _rename_seen(nodes_saw.get(node), old, [new])
            _rename_seen(
                nodes_saw.get(INTERRUPT), old, [trigger(node) for node in started]
            )  # it has seen every channel

    def _started_by(self, channel: str, followers: dict[str, list[str]]) -> list[str] | None:
        """The nodes that a channel of an older version started; None for any other channel."""
        kind, *parts = channel.split(":")
        if kind == "start" and len(parts) == 1:
            return parts if parts[0] in self.nodes else None
        if kind == "branch" and len(parts) == 3:
            return parts[2:] if parts[2] in self.nodes else None
        if channel in self.nodes and channel != START:
            return followers.get(channel, [])
        return None


def _rename_seen(seen: Any, old: str, new: list[str]) -> None:
    if seen and old in seen:
        last = seen.pop(old)
        for name in new:
            seen[name] = max(seen[name], last) if name in seen else last


own(globals(), module="langgraph.graph.state")
