"""Graphs and the rest of the house: endpoints as nodes, graphs as endpoints and as models."""

import asyncio
import contextlib
import gc
import operator
import os
import sys
import threading
from typing import Annotated, TypedDict

import pytest

pytest.importorskip("langgraph.checkpoint.memory", reason="the extra langgraph is not installed")

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langgraph.checkpoint.memory import InMemorySaver

from dynamo._runtime import ResponseStream
from dynamo.errors import InvalidArgument, NotFound, RemoteError, RequestTimeout, Unavailable
from dynamo.graphs import ChatEndpoint, ChatFrontend, endpoint_node, serve_graph
from dynamo.langgraph.errors import NodeTimeoutError
from dynamo.langgraph.graph import END, START, MessagesState, StateGraph
from dynamo.langgraph.types import Command, RetryPolicy, interrupt
from dynamo.llm.affinity import home_of
from dynamo.runtime import DistributedRuntime

from ..frontend.stack import run

# As in the original: before Python 3.11 asyncio does not hand a context on, which interrupt() needs.
asks_in_a_loop = pytest.mark.skipif(sys.version_info < (3, 11), reason="interrupt() in an event loop needs Python 3.11")


@contextlib.asynccontextmanager
async def serving(*handlers, path="test.graphs.call"):
    """A client of an endpoint that these handlers serve, each a worker."""
    loop = asyncio.get_running_loop()
    runtimes = [DistributedRuntime(loop, "mem") for _ in handlers]
    tasks = [
        asyncio.ensure_future(runtime.endpoint(path).serve_endpoint(handler, graceful_shutdown=False))
        for runtime, handler in zip(runtimes, handlers, strict=True)
    ]
    mine = DistributedRuntime(loop, "mem")
    client = await mine.endpoint(path).client()
    while len(client.instance_ids()) < len(handlers):  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    try:
        yield client
    finally:
        for runtime in (*runtimes, mine):
            runtime.shutdown()
        await asyncio.gather(*tasks)


def one_node(state, node, name="answer", **options):
    graph = StateGraph(state).add_node(name, node, **options)
    return graph.add_edge(START, name).add_edge(name, END)


class Note(TypedDict, total=False):
    question: str
    answer: str
    steps: Annotated[list, operator.add]


async def words(request, context):
    for word in ("otters ", "hold ", "hands"):
        yield word


# ---------------------------------------------------------------- a node is an endpoint
def test_a_client_is_a_node_and_its_texts_are_streamed_as_one_message():
    async def main():
        heard = []

        async def handler(request, context):
            heard.append((request, dict(context.metadata)))
            async for word in words(request, context):
                yield word

        async with serving(handler) as client:
            graph = one_node(MessagesState, client).compile()
            given = {"messages": [SystemMessage("Be brief."), HumanMessage("What do otters do?")]}
            config = {"configurable": {"thread_id": "t1"}}
            chunks = [(c, m) async for c, m in graph.astream(given, config, stream_mode="messages")]
            assert [chunk.content for chunk, _ in chunks] == ["otters ", "hold ", "hands"]
            assert len({chunk.id for chunk, _ in chunks}) == 1
            assert chunks[0][1]["langgraph_node"] == "answer"
            result = await graph.ainvoke(given, config)
            assert result["messages"][-1] == AIMessage("otters hold hands", id=result["messages"][-1].id)
            assert heard[0][0]["messages"] == [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "What do otters do?"},
            ]
            assert heard[0] == heard[1] and heard[0][1] == {"thread_id": "t1"}

    run(main())


def test_chunks_of_a_chat_answer_bring_calls_of_tools_and_usage():
    async def chat(request):
        call = {"index": 0, "id": "c1", "function": {"name": "add", "arguments": '{"a": 1,'}}
        yield {"choices": [{"delta": {"content": "let me see"}}]}
        yield {"choices": [{"delta": {"tool_calls": [call]}}]}
        yield {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": '"b": 2}'}}]}}]}
        usage = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}}
        yield {"model": "m", "choices": [{"delta": {}, "finish_reason": "tool_calls"}], "usage": usage}

    async def main():
        async with serving(chat) as client:
            graph = one_node(MessagesState, client).compile()
            message = (await graph.ainvoke({"messages": ["hi"]}))["messages"][-1]
            assert message.tool_calls == [{"name": "add", "args": {"a": 1, "b": 2}, "id": "c1", "type": "tool_call"}]
            assert message.usage_metadata["input_token_details"] == {"cache_read": 8}
            assert message.response_metadata["finish_reason"] == "tool_calls"

    run(main())


def test_mappings_are_updates_in_their_order():
    async def handler(request):
        yield {"steps": [f"heard {request['question']}"]}
        yield {"steps": ["thought"], "answer": "42"}

    async def main():
        async with serving(handler) as client:
            result = await one_node(Note, client).compile().ainvoke({"question": "why"})
            assert result == {"question": "why", "answer": "42", "steps": ["heard why", "thought"]}

    run(main())


def test_a_text_goes_to_the_key_that_is_named_and_is_asked_for_if_none_is():
    async def main():
        async with serving(words) as client:
            graph = one_node(Note, endpoint_node(client, output="answer")).compile()
            assert (await graph.ainvoke({"question": "q"}))["answer"] == "otters hold hands"
            shown = [c.content async for c, _ in graph.astream({"question": "q"}, stream_mode="messages")]
            assert shown == ["otters ", "hold ", "hands"]
            with pytest.raises(InvalidArgument, match=r"output=\.\.\."):
                await one_node(Note, client).compile().ainvoke({"question": "q"})

    run(main())


def test_request_and_result_are_what_the_functions_say():
    async def main():
        async with serving(words) as client:
            node = endpoint_node(
                client, request=lambda state: [state["question"]], result=lambda items: {"answer": str(len(items))}
            )
            assert (await one_node(Note, node).compile().ainvoke({"question": "q"}))["answer"] == "3"

    run(main())


def test_synchronous_runs_call_endpoints_too():
    async def main():
        async with serving(words) as client:
            graph = one_node(MessagesState, client).compile()

            def work():
                shown = [c.content for c, _ in graph.stream({"messages": ["hi"]}, stream_mode="messages")]
                return shown, [graph.invoke({"messages": ["hi"]})["messages"][-1].content for _ in range(20)]

            shown, said = await asyncio.to_thread(work)
            assert shown == ["otters ", "hold ", "hands"] and said == ["otters hold hands"] * 20
            model = ChatEndpoint(client=client)
            assert (await asyncio.to_thread(model.invoke, "hi")).content == "otters hold hands"
            assert [c.content for c in await asyncio.to_thread(lambda: list(model.stream("hi"))) if c.content] == shown

    run(main())


def test_cancelling_a_run_cancels_the_request():
    async def main():
        begun, ended = asyncio.Event(), asyncio.Event()

        async def handler(request, context):
            try:
                yield "one "
                begun.set()
                await asyncio.sleep(60)
                yield "two"
            finally:
                ended.set()

        async with serving(handler) as client:
            graph = one_node(MessagesState, client).compile()
            task = asyncio.ensure_future(graph.ainvoke({"messages": ["hi"]}))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(ended.wait(), 5)
            # A stream that its reader leaves ends it as well.
            begun.clear(), ended.clear()
            stream = graph.astream({"messages": ["hi"]}, stream_mode="messages")
            assert (await anext(stream))[0].content == "one "
            await stream.aclose()
            await asyncio.wait_for(ended.wait(), 5)

    run(main())


def test_an_error_keeps_its_class_and_may_be_tried_again():
    async def main():
        calls = []

        async def handler(request):
            calls.append(request)
            if len(calls) < 3:
                raise KeyError("not yet")
            yield "at last"

        async with serving(handler) as client:
            policy = RetryPolicy(initial_interval=0.001, retry_on=KeyError)
            graph = one_node(MessagesState, client, retry_policy=policy).compile()
            assert (await graph.ainvoke({"messages": ["hi"]}))["messages"][-1].content == "at last"
            calls.clear()
            with pytest.raises(RemoteError, match="not yet") as caught:
                await one_node(MessagesState, client).compile().ainvoke({"messages": ["hi"]})
            assert isinstance(caught.value, KeyError)

    run(main())


@pytest.mark.parametrize("texts", [0, 2])
def test_a_deadline_ends_the_request(texts):
    async def main():
        ended = asyncio.Event()

        async def handler(request, context):
            try:
                for _ in range(texts):
                    yield "a"
                await asyncio.sleep(60)
                yield "b"
            finally:
                ended.set()

        async with serving(handler) as client:
            graph = one_node(MessagesState, endpoint_node(client, deadline=0.05)).compile()
            with pytest.raises(RequestTimeout, match=r"0\.05 s"):
                await graph.ainvoke({"messages": ["hi"]})
            await asyncio.wait_for(ended.wait(), 5)

    run(main())


def test_a_thread_stays_with_its_worker_and_leaves_it_only_when_it_is_gone():
    async def main():
        def worker(name):
            async def handler(request):
                yield name

            return handler

        async with serving(*map(worker, "abc")) as client:
            graph = one_node(MessagesState, client).compile()

            async def ask(thread):
                config = {"configurable": {"thread_id": thread}}
                return (await graph.ainvoke({"messages": ["hi"]}, config))["messages"][-1].content

            homes = {}
            for thread in map(str, range(12)):
                homes[thread] = {await ask(thread) for _ in range(4)}
            assert all(len(home) == 1 for home in homes.values())
            assert len(set().union(*homes.values())) > 1

    run(main())


def test_only_the_keys_of_a_worker_that_goes_move():
    keys, workers = [f"thread {i}" for i in range(300)], [7, 1 << 62, 12345]
    before = {key: home_of(key, workers) for key in keys}
    assert all(sum(home == worker for home in before.values()) > 60 for worker in workers)
    for key in keys:
        if before[key] != 7:
            assert home_of(key, workers[1:]) == before[key]


def test_what_cannot_be_sent_is_named():
    async def main():
        async with serving(words) as client:
            with pytest.raises(InvalidArgument, match=r"the state\['question'\] is a lock"):
                await one_node(Note, client).compile().ainvoke({"question": threading.Lock()})
        with pytest.raises(InvalidArgument, match="kind is 'tree'"):
            endpoint_node(client, kind="tree")
        with pytest.raises(InvalidArgument, match="deadline"):
            endpoint_node(client, deadline=0)

    run(main())


def test_the_time_limit_of_a_node_cancels_the_request():
    async def main():
        ended = asyncio.Event()

        async def handler(request, context):
            try:
                yield "a"
                await asyncio.sleep(60)
                yield "b"
            finally:
                ended.set()

        async with serving(handler) as client:
            graph = one_node(MessagesState, client, timeout=0.1).compile()
            with pytest.raises(NodeTimeoutError):
                await graph.ainvoke({"messages": ["hi"]})
            await asyncio.wait_for(ended.wait(), 5)

    run(main())


def test_of_three_hundred_runs_that_end_in_every_way_nothing_is_left():
    async def main():
        running = 0

        async def handler(request, context):
            nonlocal running
            running += 1
            try:
                number = int(request["messages"][-1]["content"])
                yield "one "
                if number % 4 == 1:
                    raise ValueError(number)
                if number % 4 == 2:
                    await asyncio.sleep(60)
                yield "two"
            finally:
                running -= 1

        async with serving(handler, handler) as client:
            graph = one_node(MessagesState, endpoint_node(client, deadline=20)).compile()
            others = asyncio.all_tasks()

            async def one(number):
                given = {"messages": [str(number)]}
                config = {"configurable": {"thread_id": str(number)}}
                if number % 4 == 3:  # a reader that leaves
                    stream = graph.astream(given, config, stream_mode="messages")
                    await anext(stream)
                    await stream.aclose()
                    return "left"
                async with contextlib.AsyncExitStack() as stack:
                    if number % 4 == 2:
                        task = asyncio.current_task()
                        timer = asyncio.get_running_loop().call_later(0.05 + number % 7 / 100, task.cancel)
                        stack.callback(timer.cancel)
                    return (await graph.ainvoke(given, config))["messages"][-1].content

            for _ in range(3):
                tasks = [asyncio.ensure_future(one(number)) for number in range(100)]
                done = await asyncio.gather(*tasks, return_exceptions=True)
                assert done[0::4] == ["one two"] * 25 and done[3::4] == ["left"] * 25
                assert all(isinstance(error, ValueError) for error in done[1::4])
                assert all(isinstance(error, asyncio.CancelledError) for error in done[2::4])

            async def quiet():
                while running or asyncio.all_tasks() - others - {asyncio.current_task()}:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

            await asyncio.wait_for(quiet(), 10)
            del tasks, done  # errors hold the frames that they went through
            gc.collect()
            assert not [one for one in gc.get_objects() if type(one) is ResponseStream]

    run(main())


def test_synchronous_calls_leave_no_descriptors():
    async def main():
        async with serving(words) as client:
            graph = one_node(MessagesState, client).compile()

            def work(times):
                for _ in range(times):
                    graph.invoke({"messages": ["hi"]})
                gc.collect()
                return len(os.listdir("/proc/self/fd"))

            before = await asyncio.to_thread(work, 5)
            assert await asyncio.to_thread(work, 60) <= before + 2

    if sys.platform == "linux":
        run(main())


# ---------------------------------------------------------------- a graph is an endpoint
def talker(saver=None, ask=False):
    """Says how many messages it has; with `ask` it asks for a name first."""

    def count(state):
        name = interrupt("What is your name?") if ask and len(state["messages"]) < 2 else "you"
        return {"messages": [AIMessage(f"{name} sent {len(state['messages'])}")]}

    return one_node(MessagesState, count, "count").compile(checkpointer=saver, name="talker")


@contextlib.asynccontextmanager
async def served(graph, path="test.graphs.served", **options):
    loop = asyncio.get_running_loop()
    runtime = DistributedRuntime(loop, "mem")
    ready = asyncio.Event()
    task = asyncio.ensure_future(serve_graph(runtime.endpoint(path), graph, on_ready=ready.set, **options))
    waits = asyncio.ensure_future(ready.wait())
    await asyncio.wait([task, waits], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        waits.cancel()
        task.result()
    client = await runtime.endpoint(path).client()
    await client.wait_for_instances()
    try:
        yield client
    finally:
        runtime.shutdown()
        await asyncio.wait_for(task, 10)


def test_a_graph_answers_requests_for_its_output_and_its_stream():
    async def main():
        graph = one_node(Note, lambda state: {"answer": state["question"].upper()}, "shout").compile()
        async with served(graph) as client:
            items = [item async for item in client.generate({"input": {"question": "a"}}, annotated=False)]
            assert items == [{"output": {"question": "a", "answer": "A", "steps": []}, "interrupts": []}]
            asked = {"input": {"question": "a"}, "stream_mode": "updates"}
            items = [item async for item in client.generate(asked, annotated=False)]
            assert items == [{"mode": "updates", "ns": [], "data": {"shout": {"answer": "A"}}}]
            # and it is a node of another graph
            outer = one_node(Note, endpoint_node(client, kind="graph")).compile()
            assert (await outer.ainvoke({"question": "b"}))["answer"] == "B"

    run(main())


def test_a_graph_remembers_its_threads_and_is_resumed():
    async def main():
        saver = InMemorySaver()
        async with served(talker(saver, ask=True)) as client:

            async def ask(**request):
                return [item async for item in client.generate(request, annotated=False)][-1]

            first = await ask(input={"messages": ["hi"]}, thread_id="t")
            assert [one["value"] for one in first["interrupts"]] == ["What is your name?"]
            second = await ask(resume="Ada", thread_id="t")
            assert second["output"]["messages"][-1]["content"] == "Ada sent 1"
            third = await ask(input={"messages": ["again"]}, thread_id="t")
            assert len(third["output"]["messages"]) == 4
            # Without a thread id nothing stays.
            await ask(input={"messages": ["hi", "ho"]})
            assert {key[0] if isinstance(key, tuple) else key for key in saver.storage} == {"t"}

    run(main())


def test_from_outside_come_plain_values_only():
    async def main():
        async with served(talker()) as client:

            async def refused(request, why):
                with pytest.raises(InvalidArgument, match=why):
                    async for _ in client.generate(request, annotated=False):
                        pass

            await refused([], "a request is a dict")
            await refused({}, "neither 'messages'")
            await refused({"messages": []}, "neither 'messages'")
            await refused({"input": {}, "config": {"callbacks": []}}, "callbacks")
            await refused({"input": {}, "config": {"configurable": {"__pregel_send": 1}}}, "__pregel_send")
            await refused({"input": {}, "config": {"recursion_limit": 0}}, "recursion_limit")
            await refused({"input": {}, "thread_id": 7}, "thread_id is 7")
            await refused({"input": {}, "stream_mode": "everything"}, "everything")

    run(main())


def test_a_graph_that_cannot_be_a_model_is_refused():
    async def main():
        runtime = DistributedRuntime(asyncio.get_running_loop(), "mem")
        endpoint = runtime.endpoint("test.graphs.refused")
        graph = one_node(Note, lambda state: {}, "n")
        with pytest.raises(InvalidArgument, match="no key 'messages'"):
            await serve_graph(endpoint, graph.compile(), "m")
        with pytest.raises(InvalidArgument, match="compiled graph"):
            await serve_graph(endpoint, graph)
        with pytest.raises(InvalidArgument, match="'other'"):
            await serve_graph(endpoint, graph.compile(), nodes=["other"])
        runtime.shutdown()

    run(main())


# ---------------------------------------------------------------- a graph is a model
@contextlib.asynccontextmanager
async def offered(*graphs, stream_timeout=None, **options):
    """An openai client of a front end with these graphs as the model "agent", each a worker."""
    import openai

    from dynamo.frontend import Frontend, Settings

    loop = asyncio.get_running_loop()
    runtime = DistributedRuntime(loop, "mem")
    front = Frontend(runtime, port=0, settings=Settings.from_environment({}, stream_timeout=stream_timeout))
    await front.start()
    async with contextlib.AsyncExitStack() as stack:
        for graph in graphs:
            await stack.enter_async_context(served(graph, "test.agents.generate", model_name="agent", **options))
        models = front.models.models
        while "agent" not in models or len(models["agent"].ready) < len(graphs):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        client = openai.AsyncOpenAI(base_url=front.url + "/v1", api_key="none", max_retries=0, timeout=20)
        client.front = front
        try:
            yield client
        finally:
            await client.close()
            await front.stop(0.5)
            runtime.shutdown()


def ask(text, **more):
    return {"model": "agent", "messages": [{"role": "user", "content": text}], **more}


def test_openai_clients_talk_to_a_graph():
    async def main():
        async with serving(words) as model:
            graph = one_node(MessagesState, model, "talk").compile()
            async with offered(graph) as client:
                assert [m.id for m in (await client.models.list()).data] == ["agent"]
                answer = await client.chat.completions.create(**ask("hi"))
                assert answer.choices[0].message.content == "otters hold hands"
                assert answer.choices[0].finish_reason == "stop" and answer.usage.total_tokens == 0
                more = {"include_usage": True}
                stream = await client.chat.completions.create(**ask("hi"), stream=True, stream_options=more)
                chunks = [chunk async for chunk in stream]
                texts = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
                assert texts == ["otters ", "hold ", "hands"]
                assert chunks[0].choices[0].delta.role == "assistant"
                assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 0
                assert client.front.records.sums()["requests"] == 2

    run(main())


def test_texts_of_graphs_in_nodes_are_streamed_once():
    async def main():
        async with serving(words) as model:
            inner = one_node(MessagesState, model, "inside").compile()
            graph = StateGraph(MessagesState).add_node("sub", inner).add_node("last", model)
            graph = graph.add_edge(START, "sub").add_edge("sub", "last").compile()
            for nodes, want in ((None, "otters hold hands\n\notters hold hands"), (["sub"], "otters hold hands")):
                async with offered(graph, nodes=nodes) as client:
                    stream = await client.chat.completions.create(**ask("hi"), stream=True)
                    texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
                    assert "".join(texts) == want and "hold " in texts
                    assert (await client.chat.completions.create(**ask("hi"))).choices[0].message.content == want

    run(main())


def test_calls_of_tools_that_the_graph_leaves_open_are_the_clients():
    async def main():
        def node(state):
            if state["messages"][-1].type == "tool":
                return {"messages": [AIMessage(f"it is {state['messages'][-1].content}")]}
            call = {"name": "clock", "args": {"zone": "UTC"}, "id": "c1"}
            return {"messages": [AIMessage("", tool_calls=[call])]}

        async with offered(one_node(MessagesState, node, "n").compile(checkpointer=InMemorySaver())) as client:
            thread = {"metadata": {"thread_id": "t"}}
            answer = (await client.chat.completions.create(**ask("time?"), extra_body=thread)).choices[0]
            assert answer.finish_reason == "tool_calls"
            (call,) = answer.message.tool_calls
            assert (call.id, call.function.name, call.function.arguments) == ("c1", "clock", '{"zone": "UTC"}')
            told = [
                {"role": "user", "content": "time?"},
                answer.message.model_dump(exclude_none=True),
                {"role": "tool", "tool_call_id": "c1", "content": "noon"},
            ]
            again = await client.chat.completions.create(model="agent", messages=told, extra_body=thread)
            assert again.choices[0].message.content == "it is noon"

    run(main())


def test_a_graph_is_on_the_live_page():
    import httpx

    async def main():
        async with offered(talker()) as client, httpx.AsyncClient(base_url=client.front.url) as http:
            await client.chat.completions.create(**ask("hi"))
            state = (await http.get("/dashboard/state")).json()
            (model,) = state["models"]
            assert model["name"] == "agent" and [worker["state"] for worker in model["workers"]] == ["ready"]
            (request,) = state["requests"]
            assert request["state"] == "done" and request["finish"] == "stop" and request["ttft"] > 0
            metrics = (await http.get("/metrics")).text
            assert 'requests_total{model="agent",endpoint="chat_completions"' in metrics

    run(main())


def test_a_thread_is_a_conversation_whatever_the_client_sends_again():
    async def main():
        graphs = [talker(InMemorySaver()), talker(InMemorySaver())]
        async with offered(*graphs) as client:
            history = []
            for turn in range(4):
                history.append({"role": "user", "content": f"turn {turn}"})
                new = history if turn % 2 else history[-1:]
                answer = await client.chat.completions.create(
                    model="agent", messages=new, extra_body={"metadata": {"thread_id": "t"}}
                )
                said = answer.choices[0].message.content
                assert said == f"you sent {2 * turn + 1}"
                history.append({"role": "assistant", "content": said})
            answer = await client.chat.completions.create(model="agent", messages=history[:3])
            assert answer.choices[0].message.content == "you sent 3"
            by_header = {"x-dynamo-session-id": "t"}
            answer = await client.chat.completions.create(**ask("more"), extra_headers=by_header)
            assert answer.choices[0].message.content == "you sent 9"
            # All of a thread is at one worker.
            assert sorted(len(graph.checkpointer.storage) for graph in graphs) == [0, 1]

    run(main())


def test_what_was_said_elsewhere_is_new_to_a_thread():
    async def main():
        async with offered(talker(InMemorySaver())) as client:
            thread = {"metadata": {"thread_id": "t"}}

            async def say(*messages):
                roles = [{"role": "user" if i % 2 == 0 else "assistant", "content": m} for i, m in enumerate(messages)]
                answer = await client.chat.completions.create(model="agent", messages=roles, extra_body=thread)
                return answer.choices[0].message.content

            assert await say("one") == "you sent 1"
            # A turn that another worker had, while this one was away: its question and its answer come along.
            assert await say("one", "you sent 1", "two", "from elsewhere", "three") == "you sent 5"
            # An answer that the graph gave in several messages is known by its end.
            assert await say("three", "let me see\n\nyou sent 5", "four") == "you sent 7"
            # One that it has never given is believed all the same.
            assert await say("x", "y", "five") == "you sent 9"

    run(main())


def test_requests_of_one_thread_run_one_after_another():
    async def main():
        async def slow(state):
            await asyncio.sleep(0.02)
            return {"messages": [AIMessage(f"you sent {len(state['messages'])}")]}

        graph = one_node(MessagesState, slow, "slow").compile(checkpointer=InMemorySaver())
        async with offered(graph) as client:
            thread = {"metadata": {"thread_id": "t"}}
            every = [client.chat.completions.create(**ask(str(i)), extra_body=thread) for i in range(6)]
            said = sorted(answer.choices[0].message.content for answer in await asyncio.gather(*every))
            assert said == sorted(f"you sent {2 * i + 1}" for i in range(6))

    run(main())


@asks_in_a_loop
def test_a_graph_that_asks_is_answered_by_the_next_message():
    async def main():
        async with offered(talker(InMemorySaver(), ask=True)) as client:
            thread = {"metadata": {"thread_id": "t"}}
            answer = await client.chat.completions.create(**ask("hi"), extra_body=thread)
            assert answer.choices[0].message.content == "What is your name?"
            assert answer.model_extra["nvext"]["interrupts"][0]["value"] == "What is your name?"
            answer = await client.chat.completions.create(**ask("Ada"), extra_body=thread)
            assert answer.choices[0].message.content == "Ada sent 1"

    run(main())


def test_errors_of_a_graph_are_told_in_the_shape_of_the_api():
    import openai

    async def main():
        def node(state):
            text = state["messages"][-1].content
            if text == "value":
                raise ValueError("this is not good")
            raise RuntimeError("the lights went out")

        async with offered(one_node(MessagesState, node, "n").compile()) as client:
            with pytest.raises(openai.BadRequestError, match="not good"):
                await client.chat.completions.create(**ask("value"))
            with pytest.raises(openai.InternalServerError, match="lights went out"):
                await client.chat.completions.create(**ask("x"))
            with pytest.raises(openai.BadRequestError, match="one answer"):
                await client.chat.completions.create(**ask("x", n=2))
            with pytest.raises(openai.BadRequestError, match="serves chat"):
                await client.completions.create(model="agent", prompt="x")

    run(main())


def test_a_client_that_leaves_cancels_the_run():
    async def main():
        begun, ended = asyncio.Event(), asyncio.Event()

        async def slow(request, context):
            try:
                yield "one "
                begun.set()
                await asyncio.sleep(60)
                yield "two"
            finally:
                ended.set()

        async with serving(slow) as model, offered(one_node(MessagesState, model).compile()) as client:
            stream = await client.chat.completions.create(**ask("hi"), stream=True)
            assert (await anext(aiter(stream))).choices[0].delta.content == "one "
            await begun.wait()
            await stream.close()
            await asyncio.wait_for(ended.wait(), 5)

    run(main())


def test_a_worker_that_is_silent_for_too_long_is_given_up():
    import openai

    async def main():
        async def silent(request, context):
            if request["messages"][-1]["content"] == "begin":
                yield "one "
            await asyncio.sleep(60)
            yield "two"

        async with (
            serving(silent) as model,
            offered(one_node(MessagesState, model).compile(), stream_timeout=0.2) as client,
        ):
            with pytest.raises(openai.APIStatusError, match=r"silent for 0\.2 s") as caught:
                await client.chat.completions.create(**ask("hi"))
            assert caught.value.status_code == 504
            stream = await client.chat.completions.create(**ask("begin"), stream=True)
            with pytest.raises(openai.APIError, match="silent"):
                async for _ in stream:
                    pass
            with pytest.raises(openai.BadRequestError, match="query_instance_id"):
                asked = {"nvext": {"annotations": ["query_instance_id:"]}}
                await client.chat.completions.create(**ask("hi"), extra_body=asked)

    run(main())


def test_a_thread_goes_on_at_another_worker_when_its_own_is_gone():
    async def main():
        async with offered(talker(InMemorySaver()), talker(InMemorySaver())) as client:
            workers = client.front.models["agent"].workers
            worker = workers[home_of("0", workers)]
            worker.address = b"127.0.0.1:9/" + worker.address.split(b"/", 1)[1]  # nobody listens there
            answer = await client.chat.completions.create(**ask("hi"), extra_body={"metadata": {"thread_id": "0"}})
            assert answer.choices[0].message.content == "you sent 1"

    run(main())


def test_a_chat_model_of_langchain_speaks_to_a_front_end():
    async def main():
        async with offered(talker()) as client:
            model = ChatFrontend(url=client.front.url, model="agent")
            assert (await model.ainvoke("hi")).content == "you sent 1"
            assert (await asyncio.to_thread(model.invoke, "hi")).content == "you sent 1"
            graph = one_node(MessagesState, lambda state: {"messages": model.invoke(state["messages"])}, "m").compile()
            shown = await asyncio.to_thread(lambda: list(graph.stream({"messages": ["hi"]}, stream_mode="messages")))
            assert "".join(chunk.content for chunk, _ in shown) == "you sent 1"
            with pytest.raises(NotFound, match="'nobody' does not exist"):
                await ChatFrontend(url=client.front.url, model="nobody").ainvoke("hi")
        with pytest.raises(Unavailable, match="nobody listens"):
            await ChatFrontend(url="http://127.0.0.1:9", model="agent").ainvoke("hi")

    run(main())


def test_the_deadline_of_a_front_end_is_kept():
    async def main():
        async def slow(request, context):
            yield "one "
            await asyncio.sleep(60)

        async with serving(slow) as model, offered(one_node(MessagesState, model).compile()) as client:
            with pytest.raises(RequestTimeout, match="deadline"):
                await ChatFrontend(url=client.front.url, model="agent", deadline=0.2).ainvoke("hi")

    run(main())


@asks_in_a_loop
def test_a_graph_behind_a_node_has_a_thread_of_the_same_name():
    async def main():
        async with served(talker(InMemorySaver(), ask=True)) as client:
            outer = one_node(MessagesState, client).compile(checkpointer=InMemorySaver())
            config = {"configurable": {"thread_id": "t"}}
            assert (await outer.ainvoke({"messages": ["hi"]}, config))["messages"][-1].content == "What is your name?"
            result = await outer.ainvoke(Command(update={"messages": ["Ada"]}, goto="answer"), config)
            assert result["messages"][-1].content == "Ada sent 1"

    run(main())
