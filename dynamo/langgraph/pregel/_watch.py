"""Who looks on at a run.

    handlers of langchain    are told of the run by a manager, and hand themselves down to the runs inside
    ours, for the streams "messages" and "tools"    only for what happens inside
    graph callbacks          are told of interrupts and resumes, between supersteps

Most runs have nobody who looks on, and no manager.

I1  Whoever was told that the run starts is told how it ends.
I2  A handler that shows one graph only is not handed to the runs of others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from dynamo.langgraph._internal._config import (
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
)
from dynamo.langgraph._internal._constants import CONF, CONFIG_KEY_STREAM_MESSAGES_V2
from dynamo.langgraph._internal._langchain import loaded, tracing
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._script import Script, done

# Handlers of streams, by the module that has them: nobody is one of them before it is imported.
_SHOWING = {
    "dynamo.langgraph.pregel._message_stream": "StreamMessagesHandler",
    "dynamo.langgraph.pregel._tools": "StreamToolCallHandler",
}
_PIECES, _EVENTS = "StreamMessagesHandler", "StreamMessagesHandlerV2"


def _handlers(callbacks: Any) -> Sequence[Any]:
    if callbacks is None or isinstance(callbacks, (list, tuple)):
        return callbacks or ()
    return (*callbacks.handlers, *callbacks.inheritable_handlers)


def _shows_one_graph(handler: Any) -> bool:
    """Whether a handler is there for the stream of another run, and only for the graph of that."""
    kinds: Any = tuple(kind for kind in map(loaded, _SHOWING.keys(), _SHOWING.values()) if kind is not None)
    return isinstance(handler, kinds) and not handler.subgraphs


class Watch:
    """The spectators of one run.

    Attributes
    ----------
    ours : list
        The handlers of the run's streams.
    manager
        Tells handlers; None when nobody looks on.
    """

    def __init__(self, config: Any, in_loop: bool) -> None:
        self.config, self.in_loop = config, in_loop
        self.ours: list[Any] = []
        self.manager: Any = None
        self.teller: Any = None

    def add_streams(self, modes: set[str], push: Callable[[Any], None], subgraphs: bool) -> None:
        """Look on for the streams that show what happens in models and tools."""
        if "messages" in modes:
            from dynamo.langgraph.pregel import _messages

            events = self.config[CONF].pop(CONFIG_KEY_STREAM_MESSAGES_V2, False)
            self.ours.append(getattr(_messages, _EVENTS if events else _PIECES)(push, subgraphs))
        if "tools" in modes:
            from dynamo.langgraph.pregel import _tools

            self.ours.append(_tools.StreamToolCallHandler(push, subgraphs))

    def looks_on(self) -> bool:
        """Whether somebody has to be told that the run starts, or must not hear of it."""
        return bool(self.ours) or bool(self.config.get("callbacks")) or tracing()

    def begin(self, name: str, input: Any) -> Script:
        """Tell handlers that the run starts."""
        callbacks = self.config.get("callbacks")
        asked = _handlers(callbacks)
        # A model streams events as soon as one handler wants them, and then no pieces of messages.
        unwanted = {_EVENTS} if any(type(one).__name__ == _PIECES for one in self.ours) else set()

        def foreign(handler: Any) -> bool:
            return _shows_one_graph(handler) or type(handler).__name__ in unwanted

        theirs = [one for one in asked if foreign(one)]
        if len(theirs) == len(asked) and not self.ours and not tracing():
            if theirs:
                self.config["callbacks"] = None
            return
        make = get_async_callback_manager_for_config if self.in_loop else get_callback_manager_for_config
        manager: Any = make(self.config)
        if theirs:
            manager = manager.copy()
            for kept in ("handlers", "inheritable_handlers"):
                setattr(manager, kept, [one for one in getattr(manager, kept) if not foreign(one)])
        if "ls_integration" not in manager.metadata:
            manager.add_metadata({"ls_integration": "langgraph"})
        told = {"name": self.config.get("run_name") or name, "run_id": self.config.get("run_id")}
        self.manager = yield done(manager.on_chain_start(None, input, **told))
        self.manager.inheritable_handlers = [*self.manager.inheritable_handlers, *self.ours]

    def end(self, output: Any) -> Script:
        """Tell the manager, which there is, that the run has ended."""
        yield done(self.manager.on_chain_end(output))

    def fail(self, error: BaseException) -> Script:
        """Tell handlers that the run has failed."""
        if self.manager is not None:
            yield done(self.manager.on_chain_error(error))

    def taps(self) -> bool:
        """Whether a handler listens to what nodes stream, as that of ``astream_events`` does."""
        kind = loaded("langchain_core.tracers._streaming", "_StreamingCallbackHandler")
        if None in (kind, self.manager):
            return False
        ours = tuple(map(type, self.ours))
        return any(isinstance(one, kind) and type(one) not in ours for one in self.manager.handlers)

    def tells(self) -> bool:
        """Whether somebody wants to know of interrupts and resumes."""
        kind = loaded("dynamo.langgraph.callbacks", "GraphCallbackHandler")
        return kind is not None and any(isinstance(one, kind) for one in _handlers(self.config.get("callbacks")))

    def tell(self, loop: Any) -> Script:
        """Tell them what has happened since."""
        run_id = getattr(self.manager, "run_id", None)
        if self.teller is None:
            from dynamo.langgraph import callbacks as known

            kinds = known.get_sync_graph_callback_manager_for_config, known.get_async_graph_callback_manager_for_config
            self.teller = kinds[self.in_loop](self.config, run_id=run_id)
        while (event := loop._pop_lifecycle_event()) is not None:
            how = self.teller.on_interrupt if hasattr(event, "interrupts") else self.teller.on_resume
            yield done(how(replace(event, run_id=run_id)))


own(globals())
