"""Functions as steps of a node: what is filled in, what runs where, what becomes of writes."""

import asyncio

import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("langgraph.checkpoint")

from dynamo.langgraph._internal._langchain import child_config
from dynamo.langgraph._internal._runnable import RunnableCallable, RunnableSeq, coerce_to_runnable, is_async_callable
from dynamo.langgraph.errors import InvalidUpdateError
from dynamo.langgraph.pregel._read import PregelNode
from dynamo.langgraph.pregel._write import (
    PASSTHROUGH,
    SKIP_WRITE,
    ChannelWrite,
    ChannelWriteEntry,
    ChannelWriteTupleEntry,
)
from dynamo.langgraph.runtime import Runtime
from dynamo.langgraph.types import Send


def test_a_function_gets_what_it_names():
    def node(state, config, *, runtime, store, writer, previous):
        return state, config["tags"], runtime.context, store, previous, writer

    runtime = Runtime(context="c", store="s", previous="p")
    given = RunnableCallable(node).invoke(1, {"tags": ["t"], "configurable": {"__pregel_runtime": runtime}})
    assert given == (1, ["t"], "c", "s", "p", runtime.stream_writer)


def test_a_plain_function_is_known_by_its_code():
    assert RunnableCallable(lambda state: state).plain
    assert not RunnableCallable(lambda state, config: state).plain
    assert not RunnableCallable(lambda state: state, more=1).plain


@pytest.mark.parametrize("annotation", ["RunnableConfig", "RunnableConfig | None", "Optional[RunnableConfig]"])
def test_annotations_may_be_strings(annotation):
    def node(state, config):
        return bool(config)

    node.__annotations__["config"] = annotation
    assert RunnableCallable(node).invoke(1)


def test_what_is_missing_is_named_with_its_remedy():
    def node(state, runtime):
        return state

    with pytest.raises(ValueError, match=r"runtime.*'node'.*pass runtime="):
        RunnableCallable(node).invoke(1)


def test_only_the_first_step_of_a_sequence_has_the_configuration_around_it():
    seen = []

    def look(value):
        seen.append(child_config.get())
        return value

    steps = [RunnableCallable(look, trace=False), RunnableCallable(look, trace=False)]
    RunnableSeq(*steps).invoke(1, {"tags": ["t"], "configurable": {}})
    assert seen[0]["tags"] == ["t"]
    assert seen[1] is None


def test_a_sync_function_runs_on_a_thread_in_async_runs():
    import threading

    ran = coerce_to_runnable(lambda _: threading.current_thread(), name="n", trace=False)
    assert asyncio.run(ran.ainvoke(1)) is not threading.current_thread()


def test_a_callable_object_with_an_async_call_is_async():
    class Node:
        async def __call__(self, state):
            return state

    assert is_async_callable(Node())


def test_a_write_becomes_pairs_in_one_pass():
    write = ChannelWrite(
        [
            ChannelWriteTupleEntry(lambda result: [(key, value) for key, value in result.items()]),
            ChannelWriteEntry("branch:to:b", None),
            ChannelWriteEntry("all", PASSTHROUGH),
            ChannelWriteEntry("count", mapper=len),
            ChannelWriteEntry("left out", mapper=lambda _: SKIP_WRITE),
            ChannelWriteEntry("none", mapper=lambda _: None, skip_none=True),
            Send("c", 1),
        ]
    )
    result = {"x": 1}
    assert write.assemble(result) == [
        ("x", 1),
        ("branch:to:b", None),
        ("all", result),
        ("count", 1),
        ("__pregel_tasks", Send("c", 1)),
    ]
    sent = []
    assert write.invoke(result, {"configurable": {"__pregel_send": sent.extend}}) is result
    assert sent == write.assemble(result)


def test_the_channel_of_sends_is_not_written_by_hand():
    with pytest.raises(InvalidUpdateError, match="reserved channel"):
        ChannelWrite([ChannelWriteEntry("__pregel_tasks", 1)]).assemble(None)


def test_the_writes_at_the_end_of_a_node_are_one():
    node = PregelNode(
        channels="a",
        triggers=["a"],
        bound=RunnableCallable(lambda value: value, trace=False),
        writers=[ChannelWrite([ChannelWriteEntry(name)]) for name in "bcd"],
    )
    assert [len(getattr(step, "writes", ())) for step in node.node.steps] == [0, 3]
    assert node.copy({"writers": []}).node is node.bound
