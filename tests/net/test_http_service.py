import asyncio
import json
import threading

import aiohttp
import pytest

from dynamo.llm import HttpAsyncEngine, HttpError, HttpService, PythonAsyncEngine
from dynamo.llm.openai_http import ChatAggregate, CompletionAggregate


def chunk(text, finish=None, index=0, model="m", **extra):
    delta = {"role": "assistant", "content": text, **extra}
    choices = [{"index": index, "delta": delta, "finish_reason": finish}]
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 7, "model": model, "choices": choices}


async def tokens(request, context=None):
    n = request.get("max_tokens") or 3
    for i in range(n):
        yield chunk(f"t{i} ", "stop" if i + 1 == n else None, model=request["model"])


def with_service(test, *, chat=tokens, text=None, loop=None, **options):
    """Run `test(client, url, service)` against a service with the model "m"."""

    async def main():
        service = HttpService(port=0, **options)
        engine_loop = loop or asyncio.get_running_loop()
        if chat is not None:
            service.add_chat_completions_model("m", "0", HttpAsyncEngine(chat, engine_loop))
        if text is not None:
            service.add_completions_model("m", "0", PythonAsyncEngine(text, engine_loop))
        task = asyncio.ensure_future(service.run())
        while service.port == 0 and not task.done():  # noqa: ASYNC110
            await asyncio.sleep(0)
        try:
            async with aiohttp.ClientSession() as client:
                await test(client, f"http://127.0.0.1:{service.port}", service)
        finally:
            service.shutdown()
            await task

    asyncio.run(asyncio.wait_for(main(), 20))


def body(**fields):
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}


def events(text):
    """(event, data) of a text of server-sent events."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        found.append((fields.get("event"), fields.get("data")))
    return found


def test_a_stream_and_a_whole_answer():
    async def test(client, url, service):
        async with client.post(f"{url}/v1/chat/completions", json=body(stream=True)) as answer:
            assert answer.content_type == "text/event-stream" and answer.headers["x-request-id"]
            got = events(await answer.text())
            assert [json.loads(data)["choices"][0]["delta"]["content"] for _, data in got[:-1]] == ["t0 ", "t1 ", "t2 "]
            assert got[-1] == (None, "[DONE]")
        async with client.post(f"{url}/v1/chat/completions", json=body(max_tokens=2)) as answer:
            message = {"role": "assistant", "content": "t0 t1 "}
            assert await answer.json() == {
                "id": "c-1",
                "object": "chat.completion",
                "created": 7,
                "model": "m",
                "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            }

    with_service(test)


def test_models_health_live_and_metrics():
    async def test(client, url, service):
        async with client.get(f"{url}/v1/models") as answer:
            assert [model["id"] for model in (await answer.json())["data"]] == ["m"]
        async with client.get(f"{url}/health") as answer:
            assert answer.status == 200 and (await answer.json())["models"] == ["m"]
        await (await client.post(f"{url}/v1/chat/completions", json=body())).read()
        async with client.get(f"{url}/metrics") as answer:
            text = await answer.text()
            assert 'dynamo_frontend_requests_total{model="m",endpoint="chat_completions",request_type="unary"' in text
            assert 'dynamo_frontend_inflight_requests{model="m"} 0' in text
            assert "dynamo_frontend_time_to_first_token_seconds_count" in text
        assert service.list_chat_completions_models() == ["m"] and service.list_completions_models() == []
        with pytest.raises(ValueError, match="already"):
            service.add_chat_completions_model("m", "0", HttpAsyncEngine(tokens, None))
        service.remove_chat_completions_model("m")
        with pytest.raises(ValueError, match="not there"):
            service.remove_chat_completions_model("m")
        async with client.get(f"{url}/health") as answer:
            assert answer.status == 503
        async with client.get(f"{url}/live") as answer:
            assert answer.status == 200

    with_service(test)


@pytest.mark.parametrize(
    "sent, status, param",
    [
        (b"{", 400, None),
        (b"[]", 400, None),
        (b"\xff", 400, None),
        (b"[" * 100_000, 400, None),
        (json.dumps({"messages": []}).encode(), 400, "model"),
        (json.dumps(body(model=3)).encode(), 400, "model"),
        (json.dumps(body(model="other")).encode(), 404, "model"),
        (json.dumps({"model": "m", "messages": []}).encode(), 400, "messages"),
        (json.dumps({"model": "m", "messages": "hi"}).encode(), 400, "messages"),
        (json.dumps(body(stream="yes")).encode(), 400, "stream"),
    ],
)
def test_a_bad_request_names_what_is_wrong(sent, status, param):
    async def test(client, url, service):
        async with client.post(f"{url}/v1/chat/completions", data=sent) as answer:
            error = (await answer.json())["error"]
            assert (answer.status, error["param"]) == (status, param) and error["message"]
            assert set(error) == {"message", "type", "param", "code"}

    with_service(test)


def test_an_http_error_becomes_the_status_when_nothing_was_sent():
    async def engine(request):
        if request["messages"][0]["content"] != "hi":
            yield chunk("a")
        raise HttpError(418, "teapot")

    async def test(client, url, service):
        for stream in (True, False):
            async with client.post(f"{url}/v1/chat/completions", json=body(stream=stream)) as answer:
                assert answer.status == 418 and (await answer.json())["error"]["message"] == "teapot"
        late = body(stream=True, messages=[{"role": "user", "content": "late"}])
        async with client.post(f"{url}/v1/chat/completions", json=late) as answer:
            got = events(await answer.text())
            assert answer.status == 200 and len(got) == 2
            assert got[1][0] == "error" and json.loads(got[1][1])["error"]["message"] == "teapot"

    with_service(test, chat=engine)


def test_a_slow_first_item_does_not_hold_the_header_unless_asked():
    async def engine(request):
        await asyncio.sleep(0.3)
        raise HttpError(429, "busy")
        yield

    async def at_once(client, url, service):
        async with client.post(f"{url}/v1/chat/completions", json=body(stream=True)) as answer:
            assert answer.status == 200 and events(await answer.text())[0][0] == "error"

    async def waits(client, url, service):
        async with client.post(f"{url}/v1/chat/completions", json=body(stream=True)) as answer:
            assert answer.status == 429

    with_service(at_once, chat=engine)
    with_service(waits, chat=engine, wait_for_first_item=True)


def test_annotated_items():
    async def engine(request):
        yield {"event": "formatted_prompt", "comment": ['"p\nq"']}
        yield {"data": chunk("a", "stop")}
        if request.get("fail"):
            yield {"event": "error", "comment": ["it broke", "twice"]}

    async def test(client, url, service):
        async with client.post(f"{url}/v1/chat/completions", json=body(stream=True)) as answer:
            text = await answer.text()
            assert text.startswith('event: formatted_prompt\n: "p q"\n\ndata: {"id":"c-1"')
        async with client.post(f"{url}/v1/chat/completions", json=body()) as answer:
            assert (await answer.json())["choices"][0]["message"]["content"] == "a"
        async with client.post(f"{url}/v1/chat/completions", json=body(fail=1)) as answer:
            assert answer.status == 500 and (await answer.json())["error"]["message"] == "it broke, twice"

    with_service(test, chat=engine)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_the_generator(stream):
    stopped = asyncio.Event()

    async def engine(request, context):
        yield chunk("a")
        await context.async_killed_or_stopped()
        assert context.is_stopped()
        stopped.set()

    async def test(client, url, service):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        data = json.dumps(body(stream=stream)).encode()
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        if stream:
            await reader.readuntil(b"data: ")
        else:
            await asyncio.sleep(0.05)
        writer.transport.abort()
        await stopped.wait()

    with_service(test, chat=engine)


def test_the_context_carries_the_request_id():
    async def engine(request, context):
        yield chunk(context.id(), "stop")

    async def test(client, url, service):
        headers = {"x-request-id": "r-1"}
        async with client.post(f"{url}/v1/chat/completions", json=body(), headers=headers) as answer:
            assert (await answer.json())["choices"][0]["message"]["content"] == "r-1"

    with_service(test, chat=engine)


def test_completions_and_switching_off():
    async def engine(request):
        for i in (0, 1):
            yield {
                "id": "t",
                "object": "text_completion",
                "created": 1,
                "model": "m",
                "choices": [
                    {"index": i, "text": "a", "logprobs": {"tokens": ["a"]}},
                    {"index": i, "text": "b", "logprobs": {"tokens": ["b"]}, "finish_reason": "stop"},
                ],
                "usage": {"total_tokens": 2 + i},
            }

    async def test(client, url, service):
        async with client.post(f"{url}/v1/completions", json={"model": "m", "prompt": "x", "n": 2}) as answer:
            got = await answer.json()
            assert [choice["text"] for choice in got["choices"]] == ["ab", "ab"]
            assert got["choices"][0]["logprobs"] == {"tokens": ["a", "b"]} and got["usage"] == {"total_tokens": 3}
        service.enable_endpoint("completions", False)
        async with client.post(f"{url}/v1/completions", json={"model": "m", "prompt": "x"}) as answer:
            assert answer.status == 404
        with pytest.raises(ValueError, match="endpoint type"):
            service.enable_endpoint("images", True)

    with_service(test, chat=None, text=engine)


def test_an_engine_on_another_loop():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def test(client, url, service):
        async with client.post(f"{url}/v1/chat/completions", json=body()) as answer:
            assert (await answer.json())["choices"][0]["message"]["content"] == "t0 t1 t2 "

    try:
        with_service(test, loop=loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_slow_reader_does_not_keep_others_waiting():
    async def test(client, url, service):
        _, writer = await asyncio.open_connection("127.0.0.1", service.port)
        data = json.dumps(body(stream=True, max_tokens=100_000)).encode()
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        for _ in range(20):
            async with client.post(f"{url}/v1/chat/completions", json=body()) as answer:
                assert answer.status == 200
        writer.transport.abort()

    with_service(test)


def test_an_error_code_and_message_are_checked():
    error = HttpError(404, "x" * 9000)
    assert (error.code, len(error.message)) == (404, 8192) and error.message.endswith("...")
    for code in (600, -1, "404", True):
        with pytest.raises(ValueError):
            HttpError(code, "x")
    with pytest.raises(ValueError):
        HttpError(404, 5)
    with pytest.raises(TypeError):
        HttpService().add_chat_completions_model("m", "0", tokens)


def test_chunks_become_one_answer():
    whole = ChatAggregate()
    call = {"index": 0, "id": "f", "type": "function", "function": {"name": "go", "arguments": ""}}
    whole.add(chunk(None, tool_calls=[call]))
    whole.add(chunk(None, tool_calls=[{"index": 0, "function": {"arguments": '{"a"'}}]))
    whole.add(chunk(None, "tool_calls", tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}]))
    whole.add(chunk("b", "stop", index=1, reasoning_content="think"))
    whole.add({"choices": [], "usage": {"total_tokens": 5}})
    answer = whole.result()
    assert answer["choices"][0]["message"]["tool_calls"] == [
        {"id": "f", "type": "function", "function": {"name": "go", "arguments": '{"a":1}'}}
    ]
    assert answer["choices"][1]["message"] == {"role": "assistant", "content": "b", "reasoning_content": "think"}
    assert answer["usage"] == {"total_tokens": 5}
    with pytest.raises(ValueError, match="without an answer"):
        CompletionAggregate().result()


def test_the_openai_client_reads_it():
    openai = pytest.importorskip("openai")

    async def test(client, url, service):
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as api:
            assert [model.id async for model in api.models.list()] == ["m"]
            messages = [{"role": "user", "content": "hi"}]
            answer = await api.chat.completions.create(model="m", messages=messages)
            assert answer.choices[0].message.content == "t0 t1 t2 "
            stream = await api.chat.completions.create(model="m", messages=messages, stream=True)
            assert "".join([part.choices[0].delta.content async for part in stream]) == "t0 t1 t2 "
            with pytest.raises(openai.NotFoundError, match="does not exist"):
                await api.chat.completions.create(model="no", messages=messages)

    with_service(test)
