"""StateGraph: nodes that read and write a shared state, put together step by step and then compiled."""

import typing
from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, Literal, Union, get_args, get_origin, overload
from warnings import warn

from dynamo.langgraph._internal import _serde
from dynamo.langgraph._internal._constants import NS_END, NS_SEP
from dynamo.langgraph._internal._errors import StateGraphError
from dynamo.langgraph._internal._langchain import is_runnable
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._old_names import renamed
from dynamo.langgraph._internal._runnable import coerce_to_runnable
from dynamo.langgraph._internal._typing import EMPTY_SEQ
from dynamo.langgraph.constants import END, START
from dynamo.langgraph.graph._branch import BranchSpec, described, schema_of_input
from dynamo.langgraph.graph._node import StateNodeSpec
from dynamo.langgraph.graph._schema import ROOT, channel_for, channels_of, named_channel, warn_invalid
from dynamo.langgraph.types import CachePolicy, Command, RetryPolicy, TimeoutPolicy, TracePolicy
from dynamo.langgraph.typing import ContextT, InputT, NodeInputT, OutputT, StateT, WithDefaults
from dynamo.langgraph.warnings import LangGraphDeprecatedSinceV05, LangGraphDeprecatedSinceV10

if typing.TYPE_CHECKING:
    from datetime import timedelta

    from langchain_core.runnables import Runnable
    from langgraph.cache.base import BaseCache
    from langgraph.store.base import BaseStore
    from typing_extensions import Self, Unpack

    from dynamo.langgraph.channels.base import BaseChannel
    from dynamo.langgraph.graph._compiled import CompiledStateGraph
    from dynamo.langgraph.graph._node import NodeOptions, StateNode
    from dynamo.langgraph.managed.base import ManagedValueSpec
    from dynamo.langgraph.types import All, Checkpointer

__all__ = ("CompiledStateGraph", "StateGraph")

_DEFAULT_ERROR_HANDLER_NODE: Final = "__default_error_handler__"
# Under these names the suite of langgraph and other packages know the functions of the modules beside this one.
_get_channel = channel_for
_is_field_channel = named_channel
_warn_invalid_state_schema = warn_invalid


def __getattr__(name: str) -> Any:
    if name != "CompiledStateGraph":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dynamo.langgraph.graph import _compiled

    globals()[name] = _compiled.CompiledStateGraph
    return _compiled.CompiledStateGraph


@dataclass(slots=True)
class _NodeDefaults:
    """What holds for nodes that say nothing else."""

    retry_policy: RetryPolicy | Sequence[RetryPolicy] | None = None
    cache_policy: CachePolicy[Any] | None = None
    error_handler: "StateNode[Any, Any] | None" = None
    timeout: TimeoutPolicy | None = None


def _get_node_name(node: Any) -> str:
    """The name under which a node is added when nobody gives it one."""
    if is_runnable(node):
        return node.get_name()  # type: ignore[no-any-return]
    return getattr(node, "__name__", None) or type(node).__name__


def _refuse_unknown(kwargs: dict[str, Any], where: str) -> None:
    if kwargs:
        warn(f"{where} knows no argument {', '.join(map(repr, kwargs))}; it has no effect", stacklevel=3)


def _command_ends(returned: Any) -> tuple[str, ...]:
    """The nodes that a return annotation such as ``Command[Literal["a", "b"]] | None`` names."""
    arms = get_args(returned) if get_origin(returned) is Union or hasattr(returned, "__or__") else ()
    for arm in (returned, *(arms if get_origin(returned) is not Command else ())):
        if get_origin(arm) is Command:
            targets = get_args(arm)[0]
            if get_origin(targets) is Literal:
                return get_args(targets)
    return ()


class StateGraph(WithDefaults, Generic[StateT, ContextT, InputT, OutputT]):
    """A graph whose nodes read the state and return what changes in it.

    Add nodes and edges, then `compile`. ``graph[name]`` is the runnable of a node, ``graph[name] = function`` adds one
    or replaces it.

    Parameters
    ----------
    state_schema : the keys of the state: a TypedDict, a dataclass or a pydantic model. ``Annotated[T, f]`` folds the
        writes of a key with ``f(old, new)``; ``Annotated[T, channel]`` uses that channel; otherwise the last write
        counts, and there may be one in a step
    context_schema : what a run is given beside the state, for ``runtime.context``
    input_schema, output_schema : which keys go in and come out, if not all

    Examples
    --------
    >>> from typing import TypedDict
    >>> class State(TypedDict):
    ...     n: int
    >>> graph = StateGraph(State).add_node("inc", lambda state: {"n": state["n"] + 1})
    >>> graph.add_edge(START, "inc").add_edge("inc", END).compile().invoke({"n": 1})
    {'n': 2}
    """

    edges: set[tuple[str, str]]
    nodes: "dict[str, StateNodeSpec[Any, ContextT]]"
    branches: defaultdict[str, dict[str, BranchSpec]]
    channels: "dict[str, BaseChannel[Any, Any, Any]]"
    managed: "dict[str, ManagedValueSpec]"
    schemas: "dict[type[Any], dict[str, BaseChannel[Any, Any, Any] | ManagedValueSpec]]"
    waiting_edges: set[tuple[tuple[str, ...], str]]
    compiled: bool
    state_schema: type[StateT]
    context_schema: type[ContextT] | None
    input_schema: type[InputT]
    output_schema: type[OutputT]

    def __init__(
        self,
        state_schema: type[StateT],
        context_schema: type[ContextT] | None = None,
        *,
        input_schema: type[InputT] | None = None,
        output_schema: type[OutputT] | None = None,
        **kwargs: Any,
    ) -> None:
        context_schema = renamed(kwargs, "config_schema", "context_schema", context_schema, LangGraphDeprecatedSinceV10)
        input_schema = renamed(kwargs, "input", "input_schema", input_schema, LangGraphDeprecatedSinceV05)
        output_schema = renamed(kwargs, "output", "output_schema", output_schema, LangGraphDeprecatedSinceV05)
        _refuse_unknown(kwargs, "StateGraph")
        self.nodes, self.branches = {}, defaultdict(dict)
        self.edges, self.waiting_edges = set(), set()
        self.channels, self.managed, self.schemas = {}, {}, {}
        self.compiled, self._defaults = False, _NodeDefaults()
        self.state_schema, self.context_schema = state_schema, context_schema
        self.input_schema = state_schema if input_schema is None else input_schema  # type: ignore[assignment]
        self.output_schema = state_schema if output_schema is None else output_schema  # type: ignore[assignment]
        for schema in (self.state_schema, self.input_schema, self.output_schema):
            self._add_schema(schema, allow_managed=schema is self.state_schema)

    # ---------------------------------------------------------------- looking at it
    @property
    def _all_edges(self) -> set[tuple[str, str]]:
        return self.edges | {(start, end) for starts, end in self.waiting_edges for start in starts}

    def __repr__(self) -> str:
        name = getattr(self.state_schema, "__name__", str(self.state_schema))
        branches = sum(map(len, self.branches.values()))
        routed = f", {branches} conditional" if branches else ""
        return f"<{type(self).__name__} of {name}: {len(self.nodes)} nodes, {len(self._all_edges)} edges{routed}>"

    def __getitem__(self, name: str) -> Any:
        if name not in self.nodes:
            raise KeyError(f"no node {name!r}; there are {list(self.nodes)}")
        return self.nodes[name].runnable

    def __setitem__(self, name: str, action: Any) -> None:
        before = self.nodes.pop(name, None)
        try:
            self.add_node(name, action)
        except BaseException:
            if before is not None:
                self.nodes[name] = before
            raise
        if before is not None:  # its policies and its place stay
            self.nodes[name] = replace(
                before,
                runnable=self.nodes[name].runnable,
                input_schema=self.nodes[name].input_schema,
                ends=self.nodes[name].ends or before.ends,
            )

    def __contains__(self, name: object) -> bool:
        return name in self.nodes

    def __iter__(self) -> Iterator[str]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def __bool__(self) -> bool:
        return True

    # ---------------------------------------------------------------- building
    def set_node_defaults(
        self,
        *,
        retry_policy: RetryPolicy | Sequence[RetryPolicy] | None = None,
        cache_policy: CachePolicy[Any] | None = None,
        error_handler: "StateNode[Any, ContextT] | None" = None,
        timeout: "float | timedelta | TimeoutPolicy | None" = None,
    ) -> "Self":
        """What holds for every node that says nothing else, also for those added later; None leaves one as it was.

        Error handlers take the retry policy and the timeout, but are neither cached nor handled themselves.
        """
        given: dict[str, Any] = {
            "retry_policy": retry_policy,
            "cache_policy": cache_policy,
            "error_handler": error_handler,
            "timeout": TimeoutPolicy.coerce(timeout),
        }
        self._defaults = replace(self._defaults, **{k: v for k, v in given.items() if v is not None})
        return self

    def _add_schema(self, schema: type[Any], /, allow_managed: bool = True) -> None:
        if isinstance(schema, dict):
            raise TypeError(
                f"A schema is a class, and this is a dict: {schema!r}. Write `class State(TypedDict)` with the keys as "
                "its annotations"
            )
        if schema in self.schemas:
            return
        warn_invalid(schema)
        channels, managed, _ = channels_of(schema)
        if managed and not allow_managed:
            name = getattr(schema, "__name__", "")
            raise StateGraphError(
                f"Invalid managed channels detected in {name}: {', '.join(managed)}. Managed channels are not "
                "permitted in Input/Output schema."
            )
        from dynamo.langgraph.channels.last_value import LastValue

        for key in channels:
            channel = channels[key]
            there = self.channels.setdefault(key, channel)
            # A plain annotation only names the key.
            if there is not channel and there != channel and not isinstance(channel, LastValue):
                raise StateGraphError(
                    f"Channel {key!r} already exists with a different type: {there!r} here, {channel!r} in "
                    f"{getattr(schema, '__name__', schema)}. Give the key the same annotation in both schemas"
                )
        for key, value in managed.items():
            if self.managed.setdefault(key, value) is not value:
                raise StateGraphError(f"Managed value {key!r} already exists with a different type")
        self.schemas[schema] = channels | managed

    def _note_change(self, what: str) -> None:
        if self.compiled:
            import logging

            logging.getLogger("langgraph.graph.state").warning(
                "Adding %s to a graph that has already been compiled. This will not be reflected in the compiled "
                "graph.",
                what,
            )

    @overload
    def add_node(
        self,
        node: "StateNode[StateT, ContextT]",
        action: None = None,
        *,
        input_schema: None = None,
        **options: "Unpack[NodeOptions]",
    ) -> "Self": ...

    @overload
    def add_node(
        self,
        node: "StateNode[NodeInputT, ContextT]",
        action: None = None,
        *,
        input_schema: type[NodeInputT] | None = None,
        **options: "Unpack[NodeOptions]",
    ) -> "Self": ...

    @overload
    def add_node(
        self,
        node: str,
        action: "StateNode[StateT, ContextT]",
        *,
        input_schema: None = None,
        **options: "Unpack[NodeOptions]",
    ) -> "Self": ...

    @overload
    def add_node(
        self,
        node: str,
        action: "StateNode[NodeInputT, ContextT]",
        *,
        input_schema: type[NodeInputT] | None = None,
        **options: "Unpack[NodeOptions]",
    ) -> "Self": ...

    def add_node(
        self,
        node: "str | StateNode[NodeInputT, ContextT]",
        action: "StateNode[NodeInputT, ContextT] | None" = None,
        *,
        defer: bool = False,
        metadata: dict[str, Any] | None = None,
        input_schema: type[NodeInputT] | None = None,
        retry_policy: RetryPolicy | Sequence[RetryPolicy] | None = None,
        cache_policy: CachePolicy[Any] | None = None,
        error_handler: "StateNode[Any, ContextT] | None" = None,
        destinations: dict[str, str] | tuple[str, ...] | None = None,
        timeout: "float | timedelta | TimeoutPolicy | None" = None,
        trace_policy: TracePolicy | None = None,
        **kwargs: Any,
    ) -> "Self":
        """Add a node.

        Parameters
        ----------
        node : its name, or what runs; then the name is that of the function
        action : what runs: a function, a coroutine function, a Runnable or a compiled graph. It gets the state and
            returns what changes in it, a Command, or several of these
        defer : run it only when no other node is left to run
        metadata : for traces
        input_schema : which keys it gets; otherwise what the annotation of its first parameter says, or the whole state
        retry_policy : when to try again; of several, the first that fits the error
        cache_policy : reuse its result for equal inputs
        error_handler : runs in its place when it has failed for good
        destinations : where its Commands may go, for drawings, with labels if it is a mapping; otherwise what its
            return annotation ``Command[Literal[...]]`` says
        timeout : how long an attempt may take (async nodes)
        trace_policy : what traces show of it
        """
        retry_policy = renamed(kwargs, "retry", "retry_policy", retry_policy, LangGraphDeprecatedSinceV05)
        input_schema = renamed(kwargs, "input", "input_schema", input_schema, LangGraphDeprecatedSinceV05)
        _refuse_unknown(kwargs, "add_node")
        if isinstance(node, str):
            name = node
            if action is None:
                raise RuntimeError(f"Node {name!r} has nothing to run: add_node({name!r}, function)")
        else:
            name, action = _get_node_name(node), node
        self._note_change("a node")
        self._check_name(name)
        limit = TimeoutPolicy.coerce(timeout)
        runnable = coerce_to_runnable(action, name=name, trace=False)
        handler = f"__error_handler__{name}" if error_handler is not None else None
        if handler is not None:
            self._check_name(handler)
            handler_spec = self._handler_spec(handler, error_handler)
        schema = self._known_schema(input_schema or schema_of_input(action))
        if destinations is None:
            destinations = _command_ends(described(action).get("return")) or EMPTY_SEQ
        if handler is not None:
            self.nodes[handler] = handler_spec
        policies: Any = {"cache_policy": cache_policy, "retry_policy": retry_policy, "trace_policy": trace_policy}
        place: Any = {"defer": defer, "ends": destinations, "error_handler_node": handler}
        self.nodes[name] = StateNodeSpec(runnable, metadata, schema, timeout=limit, **policies, **place)
        return self

    def _known_schema(self, schema: Any) -> Any:
        """A schema whose keys the graph has now; the state's where there is none."""
        if schema is None:
            return self.state_schema
        self._add_schema(schema)
        return schema

    def _check_name(self, name: str) -> None:
        if name in (START, END):
            raise StateGraphError(f"Node `{name}` is reserved: it is an end of the graph")
        if name in self:
            raise StateGraphError(f"Node `{name}` already present; graph[{name!r}] = ... replaces it")
        for mark in (NS_SEP, NS_END):
            if mark in name:
                raise StateGraphError(f"'{mark}' is a reserved character, not for the names of nodes such as {name!r}")

    def _handler_spec(self, name: str, handler: Any) -> StateNodeSpec[Any, ContextT]:
        runnable = coerce_to_runnable(handler, name=name, trace=False)
        schema = self._known_schema(schema_of_input(handler))
        ends = _command_ends(described(handler).get("return")) or EMPTY_SEQ
        role: Any = {"is_error_handler": True, "ends": ends}
        return StateNodeSpec(runnable, None, schema, None, None, **role)

    def add_edge(
        self, start_key: str | list[str], end_key: str, condition: Callable[[Any], Any] | None = None
    ) -> "Self":
        """After one node run another.

        Parameters
        ----------
        start_key : a node or START; of several nodes, all must have run
        end_key : a node or END
        condition : take the edge only if this function of the state says so; else the graph ends here unless other
            edges lead on
        """
        if condition is not None:
            if not isinstance(start_key, str):
                raise StateGraphError(f"An edge with a condition starts at one node, not at {start_key}")
            return self._add_condition(start_key, end_key, condition)
        self._note_change("an edge")
        together = not isinstance(start_key, str)
        starts: tuple[str, ...] = tuple(start_key) if together else (start_key,)  # type: ignore[assignment]
        if END in starts:
            raise StateGraphError(f"END cannot be a start node of an edge to {end_key!r}")
        if end_key == START:
            raise StateGraphError(f"START cannot be an end node of an edge from {start_key!r}")
        if not together:
            self.edges |= {(starts[0], end_key)}
            return self
        for name in (*starts, end_key):
            if name != END:
                self._need(name)
        self.waiting_edges |= {(starts, end_key)}
        return self

    def _need(self, name: str) -> None:
        if name not in self.nodes:
            raise StateGraphError(f"Need to add_node `{name}` first; there are {list(self.nodes)}")

    def _add_condition(self, start: str, end: str, condition: Callable[[Any], Any]) -> "Self":
        taken = self.branches[start]
        name = f"{getattr(condition, '__name__', 'condition')}->{end}"
        number = 2
        while name in taken:
            name, number = f"{getattr(condition, '__name__', 'condition')}->{end} ({number})", number + 1
        from dynamo.langgraph._internal._runnable import is_async_callable

        if is_async_callable(condition):

            async def path(state: Any) -> str:
                return end if await condition(state) else END

        else:

            def path(state: Any) -> str:  # type: ignore[misc]
                return end if condition(state) else END

        runnable = coerce_to_runnable(path, name=name, trace=True)
        branch = BranchSpec.from_path(runnable, [end, END])
        self._note_change("an edge")
        taken[name] = branch._replace(input_schema=self._input_of(condition))
        return self

    def _input_of(self, path: Any) -> type[Any] | None:
        schema = schema_of_input(path)
        return None if schema is None else self._known_schema(schema)

    def add_conditional_edges(
        self,
        source: str,
        path: "Callable[..., Hashable | Sequence[Hashable]] | Callable[..., Awaitable[Hashable | Sequence[Hashable]]] | Runnable[Any, Hashable | Sequence[Hashable]]",  # noqa: E501
        path_map: dict[Hashable, str] | list[str] | None = None,
    ) -> "Self":
        """After a node ask a function where to go.

        Parameters
        ----------
        source : a node or START
        path : gets the state, with what the node wrote; returns a node name, END, a Send, or several of them
        path_map : what it may return -> the node that is meant, or a list of node names; without it drawings show edges
            to every node, unless its return annotation is a Literal
        """
        self._note_change("an edge")
        runnable = coerce_to_runnable(path, name=None, trace=True)
        name = runnable.name or "condition"
        there = self.branches[source]
        if name in there:
            raise StateGraphError(
                f"Branch with name `{name}` already exists for node `{source}`; give the function another name"
            )
        there[name] = branch = BranchSpec.from_path(runnable, path_map, True)
        self._known_schema(branch.input_schema)
        return self

    def add_sequence(
        self, nodes: "Sequence[StateNode[NodeInputT, ContextT] | tuple[str, StateNode[NodeInputT, ContextT]]]"
    ) -> "Self":
        """Add nodes that run one after the other, as they are or as (name, function)."""
        if not nodes:
            raise StateGraphError("Sequence requires at least one node, and got none")
        before: str | None = None
        for one in nodes:
            name, action = one if isinstance(one, tuple) else (_get_node_name(one), one)
            if name in self:
                raise StateGraphError(
                    f"Node names must be unique, and there is a node {name!r}; functions of the same name, such as "
                    "lambdas, can be given as (name, function)"
                )
            self.add_node(name, action)
            if before is not None:
                self.add_edge(before, name)
            before = name
        return self

    def set_entry_point(self, key: str) -> "Self":
        """Start with this node: an edge from START."""
        self.add_edge(START, end_key=key)
        return self

    def set_conditional_entry_point(
        self,
        path: "Callable[..., Hashable | Sequence[Hashable]] | Callable[..., Awaitable[Hashable | Sequence[Hashable]]] | Runnable[Any, Hashable | Sequence[Hashable]]",  # noqa: E501
        path_map: dict[Hashable, str] | list[str] | None = None,
    ) -> "Self":
        """Let a function of the input choose where to start."""
        return self.add_conditional_edges(START, path=path, path_map=path_map)

    def set_finish_point(self, key: str) -> "Self":
        """End after this node: an edge to END."""
        return self.add_edge(key, end_key=END)

    # ---------------------------------------------------------------- checking and compiling
    def validate(self, interrupt: Sequence[str] | None = None) -> "Self":
        """Refuse a graph that could not run: edges from or to nodes that are not there, or nowhere to start.

        Parameters
        ----------
        interrupt : names of nodes at which runs are to stop
        """
        there = f"; the nodes are {list(self.nodes)}"
        starts = {start for start, _ in self._all_edges} | {start for start, named in self.branches.items() if named}
        for start in sorted(starts):
            if start not in self.nodes and start != START:
                raise StateGraphError(f"Found edge starting at unknown node '{start}'{there}")
        if START not in starts:
            raise StateGraphError(
                f"Graph must have an entrypoint: add at least one edge from START to another node{there}"
            )
        for start, named in self.branches.items():
            for name, branch in named.items():
                for end in (branch.ends or {}).values():
                    if end not in (END, *self.nodes):
                        raise StateGraphError(f"At '{start}' node, '{name}' branch found unknown target '{end}'{there}")
        ends = {end for _, end in self._all_edges}
        ends.update(*(spec.ends or () for spec in self.nodes.values()))
        for end in sorted(ends - {END}):
            if end not in self:
                raise StateGraphError(f"Found edge ending at unknown node `{end}`{there}")
        for name in interrupt or ():
            if name not in self.nodes:
                raise StateGraphError(f"Interrupt node `{name}` not found{there}")
        self.compiled = True
        return self

    def _effective_nodes(self) -> "dict[str, StateNodeSpec[Any, ContextT]]":
        """The nodes with the defaults in their places, and the default error handler if one is needed."""
        defaults = self._defaults
        nodes = dict(self.nodes)
        fallback: str | None = None
        if defaults.error_handler is not None and any(
            not spec.is_error_handler and spec.error_handler_node is None for spec in nodes.values()
        ):
            fallback = _DEFAULT_ERROR_HANDLER_NODE
            if fallback in nodes:
                raise StateGraphError(
                    f"Auto-generated default error handler node `{fallback}` already exists. Rename the node"
                )
            nodes[fallback] = self._handler_spec(fallback, defaults.error_handler)
        for name, spec in nodes.items():
            nodes[name] = replace(
                spec,
                retry_policy=spec.retry_policy if spec.retry_policy is not None else defaults.retry_policy,
                timeout=spec.timeout if spec.timeout is not None else defaults.timeout,
                cache_policy=spec.cache_policy
                if spec.is_error_handler or spec.cache_policy is not None
                else defaults.cache_policy,
                error_handler_node=None if spec.is_error_handler else spec.error_handler_node or fallback,
            )
        return nodes

    def compile(
        self,
        checkpointer: "Checkpointer" = None,
        *,
        cache: "BaseCache[Any] | None" = None,
        store: "BaseStore | None" = None,
        interrupt_before: "All | list[str] | None" = None,
        interrupt_after: "All | list[str] | None" = None,
        debug: bool = False,
        name: str | None = None,
        transformers: Sequence[Callable[[tuple[str, ...]], Any]] | None = None,
    ) -> "CompiledStateGraph[StateT, ContextT, InputT, OutputT]":
        """A graph that can be run.

        Parameters
        ----------
        checkpointer : saves the state after each step, so that threads can be resumed. As a subgraph: None takes that
            of the graph around it, False saves nothing, True keeps a state of its own between its calls
        cache : for nodes with a cache policy
        store : for nodes that ask for it
        interrupt_before, interrupt_after : nodes at which a run stops, or "*"
        debug : print what happens
        name : shown in traces, and as a subgraph
        transformers : makers of stream transformers, for `stream_events(version="v3")`
        """
        from dynamo.langgraph.channels.ephemeral_value import EphemeralValue
        from dynamo.langgraph.graph._compiled import CompiledStateGraph
        from dynamo.langgraph.types import ensure_valid_checkpointer

        saver = ensure_valid_checkpointer(checkpointer)
        before, after = interrupt_before or [], interrupt_after or []
        self.validate(interrupt=[node for nodes in (before, after) if nodes != "*" for node in nodes])
        nodes = self._effective_nodes()
        allowed = _serde.strict_allowlist((*self.schemas, self.context_schema), self.channels)
        saver = _serde.apply_checkpointer_allowlist(saver, allowed)
        shown = self.schemas[self.output_schema]
        handlers = {key: spec.error_handler_node for key, spec in nodes.items() if spec.error_handler_node}
        compiled: CompiledStateGraph[StateT, ContextT, InputT, OutputT] = CompiledStateGraph(
            builder=self,
            schema_to_mapper={},
            context_schema=self.context_schema,
            nodes={},
            channels={**self.channels, **self.managed, START: EphemeralValue(self.input_schema)},
            input_channels=START,
            stream_mode="updates",
            output_channels=_selection([key for key in shown if key not in self.managed]),
            stream_channels=_selection(list(self.channels)),
            checkpointer=saver,
            interrupt_before_nodes=before,
            interrupt_after_nodes=after,
            auto_validate=False,
            debug=debug,
            store=store,
            cache=cache,
            name=name or "LangGraph",
            node_error_handler_map=handlers,
            stream_transformers=transformers or (),
        )
        compiled._serde_allowlist = allowed
        every: dict[str, Any] = {START: None, **nodes}
        for key in every:
            compiled.attach_node(key, every[key])
        for edge in (*sorted(self.edges), *sorted(self.waiting_edges)):
            compiled.attach_edge(*edge)
        for start, named in self.branches.items():
            for branch_name, branch in named.items():
                compiled.attach_branch(start, branch_name, branch)
        return compiled.validate()


def _selection(keys: list[str]) -> str | list[str]:
    return ROOT if keys == [ROOT] else keys


own(globals())
