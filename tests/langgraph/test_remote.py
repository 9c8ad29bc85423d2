"""RemoteGraph against a real HTTP server on loopback that runs real graphs: the graph itself is the oracle."""

import asyncio
import operator
import re
import subprocess
import sys
import threading
from typing import Annotated

import pytest
from typing_extensions import TypedDict

pytest.importorskip("langgraph_sdk")
pytest.importorskip("langgraph.checkpoint")
pytest.importorskip("aiohttp")

import httpx
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph_sdk.client import SyncLangGraphClient

from dynamo.langgraph import CheckpointError, PregelError
from dynamo.langgraph.config import get_stream_writer
from dynamo.langgraph.graph import END, START, StateGraph
from dynamo.langgraph.pregel.remote import RemoteException, RemoteGraph
from dynamo.langgraph.types import Command, Send, StreamWriter, interrupt

from .api_server import serve

WAIT = 20  # seconds; a bound, not a pause


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    text: str


def _agent():
    """A graph with a subgraph, custom output, tokens and a fan-out."""

    def inner(state):
        get_stream_writer()({"inner": len(state["log"])})
        return {"log": ["inner"]}

    async def speak(state):
        model = GenericFakeChatModel(messages=iter(["many small words"]))
        return {"text": (await model.ainvoke("say")).content}

    sub = StateGraph(State).add_node("inner", inner).add_edge(START, "inner").compile()
    return (
        StateGraph(State)
        .add_node("sub", sub)
        .add_node("speak", speak)
        .add_node("leaf", lambda state: {"log": [f"leaf {state['log'][0]}"]})
        .add_edge(START, "sub")
        .add_edge("sub", "speak")
        .add_conditional_edges("speak", lambda _: [Send("leaf", {"log": [name]}) for name in "ab"], ["leaf"])
        .add_edge("leaf", END)
        .compile(checkpointer=InMemorySaver())
    )


def _asking():
    def ask(state):
        return {"log": [f"answer {interrupt({'question': 'ok?'})}"]}

    return StateGraph(State).add_node("ask", ask).add_edge(START, "ask").compile(checkpointer=InMemorySaver())


def _failing():
    def fail(state):
        raise ZeroDivisionError("by nought")

    return StateGraph(State).add_node("fail", fail).add_edge(START, "fail").compile()


def _endless():
    async def wait(state, writer: StreamWriter):
        writer("begun")
        await asyncio.Event().wait()

    return StateGraph(State).add_node("wait", wait).add_edge(START, "wait").compile()


def _deserter():
    def leave(state):
        return Command(graph=Command.PARENT, goto=[Send("after", {"log": ["sent"]})], update={"log": ["left"]})

    return StateGraph(State).add_node("leave", leave).add_edge(START, "leave").compile()


def _contextual():
    class Context(TypedDict):
        user: str

    def tell(state, runtime):
        return {"text": str(runtime.context)}

    return StateGraph(State, context_schema=Context).add_node("tell", tell).add_edge(START, "tell").compile()


GRAPHS = {
    "agent": _agent,
    "asking": _asking,
    "failing": _failing,
    "endless": _endless,
    "deserter": _deserter,
    "contextual": _contextual,
}


@pytest.fixture
def server():
    with serve({name: make() for name, make in GRAPHS.items()}) as running:
        yield running


def remote(server, name="agent", **options):
    return RemoteGraph(name, url=server.url, **options)


def thread(name):
    return {"configurable": {"thread_id": name}}


def masked(namespace):
    """A namespace without what differs from run to run."""
    return tuple(re.sub(r":.*", "", part) for part in namespace)


def bare(chunk):
    """What is shown, messages as dicts, without what differs from run to run."""
    if isinstance(chunk, tuple):
        return tuple(bare(part) for part in chunk)
    if hasattr(chunk, "model_dump"):
        chunk = chunk.model_dump()
    if isinstance(chunk, dict) and "content" in chunk:
        return chunk["content"]
    if isinstance(chunk, dict) and "langgraph_node" in chunk:
        return chunk["langgraph_node"]
    return chunk


async def all_of(stream):
    return [part async for part in stream]


# ------------------------------------------------------------------ runs
def test_a_call_gives_what_the_graph_gives(server):
    given = {"log": ["in"]}
    expected = {"log": ["in", "in", "inner", "leaf a", "leaf b"], "text": "many small words"}
    assert remote(server).invoke(given) == asyncio.run(remote(server).ainvoke(given)) == expected


@pytest.mark.parametrize("mode", ["values", "updates", "custom", "messages"])
def test_a_stream_shows_what_the_graph_shows(server, mode):
    async def both():
        given = {"log": ["in"]}
        theirs = await all_of(remote(server).astream(given, stream_mode=mode))
        ours = await all_of(_agent().astream(given, thread("t"), stream_mode=mode))
        return theirs, ours

    theirs, ours = asyncio.run(both())
    if mode in ("values", "messages"):
        assert [bare(chunk) for chunk in theirs] == [bare(chunk) for chunk in ours]
    else:
        assert theirs == ours


def test_plain_and_asynchronous_streams_are_the_same(server):
    graph, given = remote(server), {"log": ["in"]}
    plain = list(graph.stream(given, stream_mode=["updates", "custom"], subgraphs=True))
    awaited = asyncio.run(all_of(graph.astream(given, stream_mode=["updates", "custom"], subgraphs=True)))
    # In any order: the leaves run at the same time.
    plain, awaited = (
        sorted(((masked(ns), mode, data) for ns, mode, data in some), key=repr) for some in (plain, awaited)
    )
    assert plain == awaited
    assert (("sub",), "custom", {"inner": 1}) in plain


def test_typed_parts_say_where_and_what(server):
    parts = list(
        remote(server).stream({"log": ["in"]}, stream_mode=["values", "updates"], version="v2", subgraphs=True)
    )
    assert {part["type"] for part in parts} == {"values", "updates"}
    assert {masked(part["ns"]) for part in parts} == {(), ("sub",)}
    assert parts[-1]["data"]["text"] == "many small words"
    assert remote(server).invoke({"log": ["in"]}, version="v2").value == parts[-1]["data"]


def test_context_headers_and_the_key_reach_the_server(server):
    graph = RemoteGraph("contextual", url=server.url, api_key="secret", headers={"x-house": "here"})
    assert graph.invoke({}, context={"user": "u"}, headers={"x-call": "1"}) == {"log": [], "text": "{'user': 'u'}"}
    seen = {name.lower(): value for name, value in server.headers[-1].items()}
    assert (seen["x-api-key"], seen["x-house"], seen["x-call"]) == ("secret", "here", "1")


def test_of_a_configuration_only_what_is_the_servers_business_is_sent(server):
    config = {
        "tags": ["t", 1],
        "metadata": {"m": {"deep": [1, print]}},
        "configurable": {"thread_id": "t1", "user": "u", "checkpoint_ns": "", "tool": print},
        "callbacks": [],
    }
    list(remote(server, config={"recursion_limit": 50}).stream({"log": ["in"]}, config))
    path, body = server.seen[-1]
    assert path == "/threads/t1/runs/stream"
    assert body["config"] == {
        "recursion_limit": 50,
        "tags": ["t"],
        "metadata": {"m": {"deep": [1]}},
        "configurable": {"user": "u"},
    }


def test_runs_of_many_threads_and_tasks_do_not_mix(server):
    graph, results = remote(server), {}

    def plain(name):
        results[name] = graph.invoke({"log": [name]}, thread(name))["log"][0]

    async def awaited():
        made = await asyncio.gather(*(graph.ainvoke({"log": [f"task {n}"]}, thread(f"task {n}")) for n in range(4)))
        results.update({f"task {n}": result["log"][0] for n, result in enumerate(made)})

    workers = [threading.Thread(target=plain, args=(f"thread {n}",)) for n in range(4)]
    for worker in workers:
        worker.start()
    asyncio.run(awaited())
    for worker in workers:
        worker.join(WAIT)
    assert results == {name: name for name in results}
    assert len(results) == 8


# ------------------------------------------------------------------ state
def test_the_state_of_a_thread_is_that_of_the_graph(server):
    graph, here = remote(server), thread("t1")
    graph.invoke({"log": ["in"]}, here)
    mine = server.graphs["agent"].get_state(here)
    theirs = graph.get_state(here)
    assert theirs.values == mine.values and theirs.next == () and theirs.metadata == mine.metadata
    assert theirs.config["configurable"]["checkpoint_id"] == mine.config["configurable"]["checkpoint_id"]
    assert asyncio.run(remote(server).aget_state(here)) == theirs
    history = list(graph.get_state_history(here, limit=3))
    assert [state.metadata["step"] for state in history] == [3, 2, 1]
    assert asyncio.run(all_of(remote(server).aget_state_history(here, limit=3))) == history
    earlier = list(graph.get_state_history(here, before=history[1].config, limit=1))
    assert earlier == [history[2]]
    assert graph.get_state(history[2].config) == history[2]


def test_a_state_can_be_changed(server):
    graph, here = remote(server), thread("t1")
    graph.invoke({"log": ["in"]}, here)
    made = graph.update_state(here, {"text": "changed"}, as_node="speak")
    assert graph.get_state(here).values["text"] == "changed"
    assert graph.get_state(here).config == made
    assert asyncio.run(remote(server).aupdate_state(here, {"log": ["more"]}))["configurable"]["thread_id"] == "t1"
    assert server.graphs["agent"].get_state(here).values["log"][-1] == "more"


def test_what_is_about_a_thread_needs_one(server):
    with pytest.raises(CheckpointError, match=r"get_state .*'agent'.*thread_id"):
        remote(server).get_state({})


def test_updates_go_one_by_one(server):
    with pytest.raises(NotImplementedError, match="update_state for each of the 2"):
        remote(server).bulk_update_state(thread("t"), [1, 2])
    with pytest.raises(NotImplementedError, match="one update at a time"):
        asyncio.run(remote(server).abulk_update_state(thread("t"), [1]))


def test_the_drawing_is_that_of_the_graph(server):
    mine = server.graphs["agent"].get_graph(xray=True)
    theirs = remote(server).get_graph(xray=True)
    assert list(theirs.nodes) == list(mine.nodes)
    assert {(edge.source, edge.target, edge.conditional) for edge in theirs.edges} == {
        (edge.source, edge.target, edge.conditional) for edge in mine.edges
    }
    assert asyncio.run(remote(server).aget_graph(xray=True)) == theirs


# ------------------------------------------------------------------ as a node
def _around(node, saver=None):
    graph = StateGraph(State).add_node("before", lambda _: {"log": ["before"]}).add_node("far", node)
    graph.add_edge(START, "before").add_edge("before", "far")
    return graph.compile(checkpointer=saver)


def test_a_remote_graph_is_a_node(server):
    graph = _around(remote(server, "contextual"))
    assert graph.invoke({}) == asyncio.run(graph.ainvoke({})) == {"log": ["before", "before"], "text": "None"}


def test_what_a_remote_node_shows_appears_below_its_place(server):
    graph = _around(remote(server))
    plain = [(masked(ns), mode) for ns, mode, _ in graph.stream({}, stream_mode=["custom", "updates"], subgraphs=True)]
    parts = asyncio.run(all_of(graph.astream({}, stream_mode=["custom", "updates"], subgraphs=True)))
    assert [(masked(ns), mode) for ns, mode, _ in parts] == plain
    assert (("far", "sub"), "custom") in plain and (("far",), "updates") in plain and plain[-1] == ((), "updates")


def test_an_interrupt_on_the_server_interrupts_the_graph_around_it(server):
    graph = _around(remote(server, "asking"), InMemorySaver())
    stopped = graph.invoke({}, thread("outer"), version="v2")
    assert [waiting.value for waiting in stopped.interrupts] == [{"question": "ok?"}]
    assert graph.get_state(thread("outer")).next == ("far",)
    assert remote(server, "asking").get_state(thread("outer")).interrupts == stopped.interrupts


def test_an_interrupt_is_answered_with_a_command(server):
    graph = remote(server, "asking")
    stopped = graph.invoke({"log": []}, thread("t"), version="v2")
    assert [waiting.value for waiting in stopped.interrupts] == [{"question": "ok?"}]
    assert stopped.value == {"log": []} and graph.get_state(thread("t")).interrupts == stopped.interrupts
    assert graph.invoke(Command(resume="yes"), thread("t")) == {"log": ["answer yes"]}


def test_a_remote_node_gives_commands_for_the_parent_of_its_graph_as_other_nodes_do(server):
    def after(state):
        return {"log": [f"after {state['log'][-1]}"]}

    def around(node):
        inside = StateGraph(State).add_node("far", node).add_edge(START, "far").compile()
        graph = StateGraph(State).add_node("inside", inside, destinations=("after",))
        return graph.add_node("after", after).add_edge(START, "inside").compile()

    compiled = around(remote(server, "deserter"))
    local = around(
        lambda _: Command(graph=Command.PARENT, goto=Send("after", {"log": ["sent"]}), update={"log": ["left"]})
    )
    assert (
        compiled.invoke({}) == asyncio.run(compiled.ainvoke({})) == local.invoke({}) == {"log": ["left", "after sent"]}
    )


# ------------------------------------------------------------------ errors and leaving
def test_a_failure_on_the_server_says_type_and_text(server):
    for call in (lambda g: g.invoke({}), lambda g: asyncio.run(g.ainvoke({}))):
        with pytest.raises(RemoteException) as caught:
            call(remote(server, "failing"))
        assert caught.value.args[0] == {"error": "ZeroDivisionError", "message": "by nought"}
        assert isinstance(caught.value, PregelError)


def test_a_failure_on_the_server_fails_the_graph_around_it(server):
    with pytest.raises(RemoteException, match="by nought"):
        _around(remote(server, "failing")).invoke({})


def test_a_graph_that_the_server_does_not_know_is_named(server):
    with pytest.raises(httpx.HTTPStatusError, match="no assistant nobody"):
        remote(server, "nobody").invoke({})


def test_a_server_that_is_not_there_is_an_error():
    with httpx.Client(base_url="http://127.0.0.1:1") as client, pytest.raises(httpx.ConnectError):
        RemoteGraph("agent", sync_client=SyncLangGraphClient(client)).invoke({})


def test_without_a_client_of_its_kind_a_call_says_what_to_give():
    with pytest.raises(ValueError, match="`url` or a `sync_client`"):
        RemoteGraph("agent").invoke({})
    with pytest.raises(ValueError, match="`url` or a `client`"):
        asyncio.run(RemoteGraph("agent").ainvoke({}))


def test_leaving_a_stream_early_closes_the_connection(server):
    stream = remote(server, "endless").stream({}, stream_mode="custom")
    assert next(stream) == "begun"
    assert not server.left.is_set()
    stream.close()
    assert server.left.wait(WAIT)


def test_a_cancelled_task_closes_the_connection(server):
    async def program():
        begun = asyncio.Event()

        async def read():
            async for _ in remote(server, "endless").astream({}, stream_mode="custom"):
                begun.set()

        reading = asyncio.create_task(read())
        await asyncio.wait_for(begun.wait(), WAIT)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await asyncio.to_thread(server.left.wait, WAIT)

    asyncio.run(program())


def test_a_step_that_times_out_leaves_the_remote_node(server):
    graph = _around(remote(server, "endless"))
    graph.step_timeout = 0.3

    async def program():
        with pytest.raises(asyncio.TimeoutError):
            await graph.ainvoke({})
        assert await asyncio.to_thread(server.left.wait, WAIT)

    asyncio.run(program())


# ------------------------------------------------------------------ events, version 3
def test_a_run_as_events(server):
    with remote(server).stream_events({"log": ["in"]}, thread("t"), version="v3") as run:
        methods = [event["method"] for event in run]
        assert run.output["text"] == "many small words" and not run.interrupted
    assert methods[0] == "lifecycle" and {"values", "updates", "custom"} <= set(methods)


def test_a_projection_gives_the_payloads_of_its_channel(server):
    with remote(server).stream_events({"log": ["in"]}, thread("t"), version="v3") as run:
        assert list(run.extensions["custom"]) == [{"inner": 1}]

    async def program():
        async with await remote(server).astream_events({"log": ["in"]}, thread("u"), version="v3") as run:
            updates = await all_of(run.extensions["updates"])
            assert await run.output() == remote(server).get_state(thread("u")).values
            return updates

    assert {"speak": {"text": "many small words"}} in asyncio.run(program())


def test_a_run_that_failed_says_so_when_its_output_is_asked_for(server):
    with (
        remote(server, "failing").stream_events({}, version="v3") as run,
        pytest.raises(RuntimeError, match="by nought"),
    ):
        _ = run.output


def test_an_aborted_run_is_cancelled_on_the_server(server):
    with remote(server, "endless").stream_events({}, version="v3") as run:
        started = run._run_id
        run.abort()
        run.abort()
    assert server.cancelled == [started]

    async def program():
        async with await remote(server, "endless").astream_events({}, version="v3") as run:
            await run.abort()
            return run._run_id

    assert asyncio.run(program()) == server.cancelled[-1]


def test_what_a_server_cannot_do_for_events_is_refused_before_it_is_asked(server):
    with pytest.raises(NotImplementedError, match=r"`control=`, context"):
        remote(server).stream_events({}, version="v3", control=object(), context={})
    assert server.seen == []


# ------------------------------------------------------------------ cost
def test_the_sdk_is_loaded_when_a_graph_needs_clients():
    code = (
        "import sys\n"
        "from dynamo.langgraph.pregel.remote import RemoteGraph\n"
        "RemoteGraph('agent', sync_client=object())\n"
        "assert not {'langgraph_sdk', 'httpx', 'langchain_core', 'langsmith'} & set(sys.modules), 'loaded early'\n"
        "RemoteGraph('agent', url='http://127.0.0.1:1')\n"
        "assert 'langgraph_sdk' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
