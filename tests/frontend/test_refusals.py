"""Bad input over plain sockets: an OpenAI-shaped error with the right status, and other streams go on."""

import asyncio
import json

import pytest

from .stack import run, says, stack


async def raw(port, data, *, half_close=False, wait=5):
    """Everything that comes back for these bytes: status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    if half_close:
        writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), wait)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, body


def post(body, path="/v1/chat/completions", extra=b""):
    if isinstance(body, str):
        body = body.encode()
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n"
    return head % (path.encode(), extra, len(body)) + body


GOOD = '{"model":"m","messages":[{"role":"user","content":"hi"}]%s}'


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (post("{"), 400),
        (post(""), 400),
        (post("[]"), 400),
        (post(b'{"model":"\xff\xfe","messages":[]}'), 400),
        (post(b'{"model":"m","messages":[{"role":"user","content":"\xc3\x28"}]}'), 400),
        (post('{"model":"m","messages":"x"}'), 400),
        (post('{"model":"nope","messages":[{"role":"user","content":"x"}]}'), 404),
        (post(GOOD % ',"temperature":1e308'), 400),
        (post(GOOD % ',"temperature":NaN'), 400),
        (post(GOOD % ',"max_tokens":99999999999999999999999'), 400),
        (post(GOOD % ',"n":-1'), 400),
        (post(GOOD % ',"top_p":[]'), 400),
        (post("[" * 200_000), 400),
        (post('{"model":"m","messages":[{"role":"user","content":"' + "x" * 5000 + '"}]}'), 400),
        (post("x" * 3_000_000), 413),
        (b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"z" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"BREW /pot HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", (400, 404, 405, 501)),
        (b"not http at all\r\n\r\n", 400),
        (b"DELETE /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", (404, 405)),
        (b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (post(GOOD % "", extra=b"x-dynamo-worker-instance-id: \xff\xff\r\n"), 400),
    ],
)
def test_each_is_answered_with_an_error_of_the_api(tmp_path, data, status):
    async def main():
        async with stack(tmp_path, body_limit=2 << 20) as s:
            await s.worker(says("fine"))
            got, body = await raw(s.front.server.port, data)
            assert got in (status if isinstance(status, tuple) else (status,)), body
            error = json.loads(body)["error"]
            assert set(error) == {"message", "type", "param", "code"} and error["message"]
            got, body = await raw(s.front.server.port, post(GOOD % ""))
            assert got == 200 and json.loads(body)["choices"][0]["message"]["content"] == "fine"

    run(main())


def test_other_streams_go_on_while_bad_ones_come(tmp_path):
    async def main():
        async with stack(tmp_path, body_limit=1 << 20) as s:
            await s.worker(says("0123456789" * 20, delay=0.002))
            port = s.front.server.port

            async def bad():
                for data in (post("{"), post("x" * 2_000_000), b"\x16\x03\x01 TLS?", post(GOOD % ',"n":0')):
                    await raw(port, data)
                # one that never ends its header, one that never sends its body, one that says nothing
                for data in (b"POST /v1/chat/completions HTTP/1.1\r\nHo", post("xxxx")[:-2], b""):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(data)
                    held.append(writer)

            held = []
            streams = [asyncio.ensure_future(raw(port, post(GOOD % ',"stream":true'), wait=20)) for _ in range(4)]
            await asyncio.gather(*(bad() for _ in range(5)))
            for got, body in await asyncio.gather(*streams):
                assert got == 200 and body.rstrip().endswith(b"0") and b"data: [DONE]" in body
                text = "".join(
                    json.loads(line[6:])["choices"][0]["delta"].get("content", "")
                    for line in body.decode().replace("\r\n", "\n").split("\n")
                    if line.startswith("data: {")
                )
                assert text == "0123456789" * 20
            for writer in held:
                writer.close()

    run(main())


def test_a_half_closed_socket_is_told_that_it_left(tmp_path):
    async def main():
        async with stack(tmp_path) as s:
            await s.worker(says("late", delay=0.01))
            got, body = await raw(s.front.server.port, post(GOOD % ""), half_close=True)
            assert got == 499 and json.loads(body)["error"]["type"] == "cancelled"
            await s.quiet()
            assert s.front.models["m"].core.stats()["booked"] == 0

    run(main())
