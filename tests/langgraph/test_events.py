"""The parts of a run's events: channels, transformers and the mux between them."""

import asyncio
import logging

import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("langgraph.checkpoint")

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool

from dynamo.langgraph.config import get_stream_writer
from dynamo.langgraph.graph import START, MessagesState, StateGraph
from dynamo.langgraph.stream import LifecycleTransformer, StreamChannel, StreamTransformer, SubgraphTransformer
from dynamo.langgraph.stream._mux import StreamMux
from dynamo.langgraph.stream.transformers import MessagesTransformer, ValuesTransformer


def event(method, data, *ns, **params):
    return {"type": "event", "method": method, "params": {"namespace": [*ns], "timestamp": 0, "data": data, **params}}


def task(ns, name, **more):
    return event("tasks", {"id": "1", "name": name, "input": None, "triggers": [], **more}, *ns)


def bound(is_async=False, **options):
    channel = StreamChannel(**options)
    channel._bind(is_async=is_async)
    return channel


# ------------------------------------------------------------------ channels
def test_what_nobody_reads_is_not_kept():
    channel = bound()
    channel.push(1)
    items = iter(channel)
    channel.push(2)
    channel.close()
    assert list(items) == [2]
    with pytest.raises(RuntimeError, match="closed StreamChannel"):
        channel.push(3)


def test_what_came_before_a_failure_is_read_first():
    channel = bound()
    items = iter(channel)
    channel.push(1)
    channel.fail(ValueError("first"))
    channel.fail(ValueError("second"))
    assert next(items) == 1
    with pytest.raises(ValueError, match="first"):
        next(items)


def test_an_empty_channel_asks_for_more():
    channel = bound()
    left = [1, 2, 3]

    def step():
        channel.push(left.pop(0))
        return bool(left)

    channel._request_more = step
    assert list(channel) == [1, 2, 3]


def test_several_readers_of_one_channel():
    channel = bound()
    first, second = channel.tee()
    for item in "ab":
        channel.push(item)
    channel.close()
    assert list(first) == list(second) == ["a", "b"]
    with pytest.raises(RuntimeError, match=r"already has a subscriber; tee\(n\)"):
        iter(channel)


@pytest.mark.parametrize("fails", [False, True])
def test_several_asynchronous_readers_of_one_channel(fails):
    async def main():
        channel = bound(is_async=True)
        readers = channel.atee(3)
        left = ["a", "b", "c"]

        async def step():
            await asyncio.sleep(0)
            if left:
                channel.push(left.pop(0))
            elif fails:
                channel.fail(ValueError("late"))
            else:
                channel.close()
            return True

        channel._arequest_more = step

        async def read(reader):
            return [item async for item in reader]

        return await asyncio.gather(*map(read, readers), return_exceptions=True)

    got = asyncio.run(main())
    if fails:
        assert [str(one) for one in got] == ["late"] * 3
    else:
        assert got == [["a", "b", "c"]] * 3


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda: StreamChannel(maxlen=0), ValueError, "positive int or None"),
        (lambda: iter(StreamChannel()), TypeError, "not been bound"),
        (lambda: aiter(bound()), TypeError, "sync mode; read it with 'for'"),
        (lambda: iter(bound(is_async=True)), TypeError, "async mode; read it with 'async for'"),
        (lambda: bound()._bind(is_async=True), RuntimeError, "already bound; give each transformer"),
        (lambda: bound().tee(0), ValueError, r"tee\(0\)"),
        (lambda: bound(is_async=True).atee(0), ValueError, r"atee\(0\)"),
    ],
)
def test_what_a_channel_refuses(use, error, message):
    with pytest.raises(error, match=message):
        use()


# ------------------------------------------------------------------ the mux
class Hears(StreamTransformer):
    """Notes what it hears, in a list that all share."""

    heard: list

    def __init__(self, name, heard, *, objects=False):
        super().__init__()
        self.name, self.heard, self.objects = name, heard, objects

    def init(self):
        return {self.name: None}

    def process(self, event):
        self.heard.append((self.name, event["method"]))
        return not self.objects

    def finalize(self):
        self.heard.append((self.name, "end"))

    def fail(self, err):
        self.heard.append((self.name, str(err)))
        raise RuntimeError("not now")


class HearsFirst(Hears):
    before_builtins = True


def test_every_transformer_hears_every_event_those_before_the_others_first():
    heard = []
    mux = StreamMux([Hears("a", heard, objects=True), HearsFirst("b", heard)])
    log = iter(mux._events)
    mux.push(event("x", 1))
    mux.close()
    assert heard == [("b", "x"), ("a", "x"), ("b", "end"), ("a", "end")]
    assert list(log) == []  # one objected
    assert mux.transformer_by_key("a").name == "a"
    assert mux.transformer_by_key("c") is None


def test_all_are_told_of_a_failure_whatever_they_do(caplog):
    heard = []
    mux = StreamMux([Hears("a", heard), Hears("b", heard)])
    log = iter(mux._events)
    with caplog.at_level(logging.ERROR):
        mux.fail(ValueError("broken"))
    assert heard == [("a", "broken"), ("b", "broken")]
    assert "Hears.fail() failed itself" in caplog.text
    with pytest.raises(ValueError, match="broken"):
        next(log)


class Works(StreamTransformer):
    """Does something beside the run for each event."""

    requires_async = True

    def init(self):
        self.done, self.how = [], "raise"
        return {}

    def process(self, event):
        self.schedule(self.work(event["params"]["data"]), on_error=self.how)
        return True

    async def work(self, data):
        await asyncio.sleep(0)
        if data == "bad":
            raise ValueError("work failed")
        self.done.append(data)


def test_a_run_waits_for_scheduled_work():
    async def main():
        works = Works()
        mux = StreamMux([works], is_async=True)
        await mux.apush(event("x", 1))
        await mux.aclose()
        return works.done

    assert asyncio.run(main()) == [1]


@pytest.mark.parametrize("how", ["raise", "log"])
def test_scheduled_work_that_fails_is_raised_or_logged(how, caplog):
    async def main():
        works = Works()
        mux = StreamMux([works], is_async=True)
        works.how = how
        await mux.apush(event("x", "bad"))
        await mux.aclose()

    if how == "raise":
        with pytest.raises(ValueError, match="work failed"):
            asyncio.run(main())
    else:
        asyncio.run(main())
        assert "scheduled work of a stream transformer failed" in caplog.text


def test_scheduled_work_is_cancelled_when_the_run_breaks():
    async def main():
        works = Works()
        mux = StreamMux([works], is_async=True)
        await mux.apush(event("x", 1))
        await mux.afail(ValueError("broken"))
        return works.done

    assert asyncio.run(main()) == []


def test_work_needs_a_loop():
    works = Works()
    job = works.work(1)
    with pytest.raises(RuntimeError, match="requires a running event loop"):
        works.schedule(job)
    job.close()
    with pytest.raises(RuntimeError, match="Works requires an async run"):
        StreamMux([Works()])


def test_a_transformer_gives_a_dict_and_says_what_it_does():
    class Wrong(StreamTransformer):
        def init(self):
            return None

    with pytest.raises(TypeError, match=r"Wrong.init\(\) must return a dict of projections, not NoneType"):
        StreamMux([Wrong()])
    with pytest.raises(NotImplementedError, match=r"no process\(\) and no aprocess\(\)"):
        Wrong().process(event("x", 1))
    with pytest.raises(RuntimeError, match="factories="):
        StreamMux([])._make_child(("a",))


# ------------------------------------------------------------------ transformers of the package
def read(*events, kind=LifecycleTransformer):
    """What a transformer's channel has after some events and the end."""
    mux = StreamMux(factories=[kind])
    (channel,) = mux.extensions.values()
    items = iter(channel)
    for one in events:
        mux.push(one)
    mux.close()
    return list(items)


def test_a_tool_call_is_the_cause_of_an_agent_that_runs_in_its_task():
    called = task((), "tools", id="t", input=[{"id": "call", "name": "ask"}])
    told = read(called, task(("tools:t",), "model", metadata={"lc_agent_name": "helper"}))
    started, ended = told
    assert started == {
        **{"event": "started", "namespace": ["tools:t"], "graph_name": "helper", "trigger_call_id": "t"},
        "cause": {"type": "toolCall", "tool_call_id": "call"},
    }
    assert ended == {"event": "completed", "namespace": ["tools:t"]}


@pytest.mark.parametrize(
    ("result", "status"),
    [
        ({"error": "boom", "interrupts": []}, {"event": "failed", "error": "boom"}),
        ({"error": None, "interrupts": [1]}, {"event": "interrupted"}),
        ({"error": None, "interrupts": []}, {"event": "completed"}),
    ],
)
def test_a_subgraph_ends_as_its_task_does_and_once(result, status):
    told = read(
        *(task(("a:1",), "x"), task(("a:1",), "y")),
        *(task((), "a", result={}, **result), task((), "a", result={}, **result)),
    )
    assert [one.pop("namespace") for one in told] == [["a:1"], ["a:1"]]
    assert told[1] == status


def test_subgraphs_of_subgraphs_end_with_the_run():
    told = read(task(("a:1",), "x"), task(("a:1", "x:2"), "y"))
    assert [(one["event"], len(one["namespace"])) for one in told] == [
        *(("started", 1), ("started", 2)),
        *(("completed", 1), ("completed", 2)),
    ]


def test_only_direct_children_have_handles():
    (child,) = read(task(("a:1",), "x"), task(("a:1", "x:2"), "y"), kind=SubgraphTransformer)
    assert (child.path, child.status) == (("a:1",), "completed")


def test_values_know_what_a_run_waits_for():
    values = ValuesTransformer()
    mux = StreamMux([values])
    mux.push(event("values", {"n": 1}, interrupts=("q",)))
    assert values._interrupted and values._interrupts == ["q"] and values.error is None
    mux.fail(error := ValueError("x"))
    assert values.error is error


def steps(*kinds, run="r", **more):
    about = {"langgraph_node": "ask", "run_id": run}
    return [event("messages", ({"event": kind, "message_id": "m", **more}, about)) for kind in kinds]


def test_a_message_is_a_stream_from_its_first_token_on():
    text = {"content_block": {"type": "text", "text": "hi"}, "index": 0}
    begin, end = steps("message-start"), steps("message-finish")
    (message,) = read(*begin, *steps("content-block-finish", **text), *end, kind=MessagesTransformer)
    assert (message.node, message.message_id, str(message.text)) == ("ask", "m", "hi")


def test_whole_messages_are_played_and_others_passed_over():
    about = {"langgraph_node": "ask"}
    given = [AIMessage("whole", id="1"), AIMessageChunk("piece"), ToolMessage("t", tool_call_id="1")]
    tools = steps("message-start", run="tool", role="tool") + steps("message-finish", run="tool")
    (message,) = read(*(event("messages", (one, about)) for one in given), *tools, kind=MessagesTransformer)
    assert str(message.text) == "whole"


def test_a_message_that_is_cut_off_fails():
    mux = StreamMux(factories=[MessagesTransformer])
    items = iter(mux.extensions["messages"])
    mux.push(steps("message-start")[0])
    message = next(items)
    mux.fail(ValueError("cut"))
    with pytest.raises(ValueError, match="cut"):
        _ = str(message.text)


# ------------------------------------------------------------------ whole runs
def chat(*nodes):
    graph = StateGraph(MessagesState)
    before = START
    for node in nodes:
        graph.add_node(node).add_edge(before, node.__name__)
        before = node.__name__
    return graph.compile()


def ask(state, config: RunnableConfig):
    model = GenericFakeChatModel(messages=iter([AIMessage("one two")]))
    return {"messages": model.invoke(state["messages"], config)}  # Python 3.10: tasks do not hand the config on


def test_the_messages_of_a_run_are_read_as_text():
    run = chat(ask).stream_events({"messages": [HumanMessage("?")]}, version="v3")
    assert [str(message.text) for message in run.messages] == ["one two"]


def test_the_messages_of_an_asynchronous_run_are_read_as_text():
    async def later(state):
        model = GenericFakeChatModel(messages=iter([AIMessage("one two")]))
        return {"messages": await model.ainvoke(state["messages"])}

    async def main():
        run = await chat(later).astream_events({"messages": [HumanMessage("?")]}, version="v3")
        return [await message.text async for message in run.messages]

    assert asyncio.run(main()) == ["one two"]


def test_two_readers_share_the_steps_of_an_asynchronous_run():
    async def main():
        run = await chat(ask).astream_events({"messages": [HumanMessage("?")]}, version="v3")

        async def values():
            return [len(value["messages"]) async for value in run.values]

        async def events():
            return len([event async for event in run])

        return await asyncio.gather(values(), events())

    values, events = asyncio.run(main())
    assert values == [1, 2]
    assert events > 4


def test_an_aborted_asynchronous_run_stops_in_the_middle_of_a_node():
    async def main():
        begun = asyncio.Event()
        stopped = []

        async def wait(state):
            begun.set()
            try:
                await asyncio.sleep(60)
            finally:
                stopped.append(True)

        run = await chat(wait).astream_events({"messages": []}, version="v3")
        reader = asyncio.create_task(run.output())
        await begun.wait()
        await run.abort()
        await run.abort()
        await reader
        return stopped

    assert asyncio.run(main()) == [True]


def test_tools_say_when_they_start_and_what_they_give():
    @tool
    def shout(text: str) -> str:
        """Say it louder."""
        get_stream_writer()("shouting")
        return text.upper()

    def work(state):
        shout.invoke({"text": "hi"})

    shown = list(chat(work).stream({"messages": []}, stream_mode=["tools", "custom"]))
    assert [part[1]["event"] if part[0] == "tools" else part[1] for part in shown] == [
        *("tool-started", "shouting", "tool-finished")
    ]
    started, _, ended = shown
    assert started[1]["tool_name"] == "shout" and started[1]["input"] == {"text": "hi"}
    assert ended[1]["output"] == "HI" and ended[1]["tool_call_id"] == started[1]["tool_call_id"]


def test_a_tool_that_fails_is_told():
    @tool
    def fail(text: str) -> str:
        """Fail."""
        raise ValueError(f"no {text}")

    def work(state):
        with pytest.raises(ValueError, match="no hi"):
            fail.invoke({"text": "hi"})

    shown = list(chat(work).stream({"messages": []}, stream_mode="tools"))
    assert [(part["event"], part.get("message")) for part in shown] == [
        *(("tool-started", None), ("tool-error", "no hi"))
    ]
