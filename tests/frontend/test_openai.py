"""The `openai` client against the front end."""

import asyncio
import json

import openai
import pytest

from .stack import EOS, run, says, stack, text_of

HI = [{"role": "user", "content": "hi"}]


async def collect(stream):
    """Texts by choice, finish reasons, usage of a stream."""
    texts, finish, usage = {}, {}, None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            piece = choice.delta.content if hasattr(choice, "delta") else choice.text
            texts[choice.index] = texts.get(choice.index, "") + (piece or "")
            finish[choice.index] = choice.finish_reason or finish.get(choice.index)
    return texts, finish, usage


def test_chat_completions_and_models(tmp_path):
    async def main():
        async with stack(tmp_path) as s:
            worker = await s.worker(says("Hello, wörld! 🌍"))
            models = [model.id async for model in s.client.models.list()]
            assert models == ["m"]
            assert (await s.client.models.retrieve("m")).id == "m"
            got = await s.client.chat.completions.with_raw_response.create(model="m", messages=HI)
            assert got.headers["x-dynamo-worker-instance-id"] == str(worker.id)
            assert got.headers["x-request-id"]
            chat = got.parse()
            assert chat.choices[0].message.content == "Hello, wörld! 🌍"
            assert chat.choices[0].finish_reason == "stop"
            assert chat.usage.completion_tokens == len("Hello, wörld! 🌍".encode()) + 1
            assert chat.usage.prompt_tokens > 0 and chat.usage.prompt_tokens_details.cached_tokens == 0
            text = await s.client.completions.create(model="m", prompt="abc", max_tokens=5, echo=True)
            assert text.choices[0].text == "abcHello"
            assert text.choices[0].finish_reason == "length"

    run(main())


def test_a_stream_gives_the_same_text_in_pieces(tmp_path):
    async def main():
        async with stack(tmp_path) as s:
            await s.worker(says("Grüße, 世界 👩‍👩‍👧", step=1))
            stream = await s.client.chat.completions.create(
                model="m", messages=HI, stream=True, stream_options={"include_usage": True}
            )
            texts, finish, usage = await collect(stream)
            assert (texts, finish) == ({0: "Grüße, 世界 👩‍👩‍👧"}, {0: "stop"})
            assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
            stream = await s.client.completions.create(model="m", prompt="x", stream=True, max_tokens=100, echo=True)
            assert (await collect(stream))[:2] == ({0: "xGrüße, 世界 👩‍👩‍👧"}, {0: "stop"})

    run(main())


def test_prompts_and_choices_keep_their_order(tmp_path):
    async def echo(request, context):
        await asyncio.sleep(0.02 * (request["token_ids"][0] % 3))
        yield {"token_ids": request["token_ids"], "finish_reason": "stop"}

    async def main():
        async with stack(tmp_path) as s:
            await s.worker(echo)
            await s.worker(echo)
            for prompt, want in (
                ("one", ["one"]),
                (["one", "two", "three"], ["one", "two", "three"]),
                ([111, 110, 101], ["one"]),
                ([[111], [110, 101]], ["o", "ne"]),
            ):
                got = await s.client.completions.create(model="m", prompt=prompt, n=2, max_tokens=9)
                assert [choice.index for choice in got.choices] == list(range(2 * len(want)))
                assert [choice.text for choice in got.choices] == [text for text in want for _ in range(2)]
                assert got.usage.prompt_tokens == sum(map(len, want))
                stream = await s.client.completions.create(model="m", prompt=prompt, n=2, max_tokens=9, stream=True)
                texts, _, _ = await collect(stream)
                assert [texts[i] for i in sorted(texts)] == [choice.text for choice in got.choices]

    run(main())


def test_stop_strings_end_the_worker_too(tmp_path):
    stopped = []

    async def main():
        async def endless(request, context):
            try:
                while not context.is_stopped():
                    for byte in b"tick tock ":
                        yield {"token_ids": [byte]}
                    await asyncio.sleep(0.001)
            finally:
                stopped.append(context.is_stopped())

        async with stack(tmp_path) as s:
            await s.worker(endless)
            chat = await s.client.chat.completions.create(model="m", messages=HI, stop=["tock tick", "zzz"])
            assert chat.choices[0].message.content == "tick "
            assert chat.choices[0].finish_reason == "stop"
            more = {"include_stop_str_in_output": True}
            stream = await s.client.chat.completions.create(
                model="m", messages=HI, stop="k t", extra_body=more, stream=True
            )
            assert (await collect(stream))[:2] == ({0: "tick t"}, {0: "stop"})
            chat = await s.client.chat.completions.create(
                model="m", messages=HI, extra_body={"stop_token_ids": [ord("o")]}
            )
            assert chat.choices[0].message.content == "tick t"
            chat = await s.client.chat.completions.create(model="m", messages=HI, max_completion_tokens=3)
            assert (chat.choices[0].message.content, chat.choices[0].finish_reason) == ("tic", "length")
            await s.until(lambda: len(stopped) == 4)
            assert stopped == [True] * 4

    run(main())


def test_the_cached_tokens_are_counted_whoever_ends_the_answer(tmp_path):
    async def main():
        async def worker(request, context):
            data = {"cached_tokens": 7, "mirror_tokens": 7, "cause": "copied"}
            for n, byte in enumerate(b"tick tock tick"):
                yield {"token_ids": [byte], **({} if n else {"engine_data": data})}

        async with stack(tmp_path) as s:
            await s.worker(worker)
            for more in ({"stop": "tock"}, {"max_tokens": 3}, {"extra_body": {"stop_token_ids": [ord("o")]}}, {}):
                chat = await s.client.chat.completions.create(model="m", messages=HI, **more)
                assert chat.usage.prompt_tokens_details.cached_tokens == 7, more
            await s.quiet()
            assert {record.engine_cause for record in s.front.records.recent} == {"copied"}

    run(main())


def test_log_probabilities(tmp_path):
    async def worker(request, context):
        count = request["output_options"]["logprobs"]
        for token in b"hi":
            tops = [
                {"rank": k, "token_id": token + k, "token": chr(token + k), "logprob": -0.5 - k} for k in range(count)
            ]
            yield {"token_ids": [token], "log_probs": [-0.5], "top_logprobs": [tops]}
        yield {"token_ids": [EOS], "finish_reason": "eos"}

    async def main():
        async with stack(tmp_path) as s:
            await s.worker(worker)
            chat = await s.client.chat.completions.create(model="m", messages=HI, logprobs=True, top_logprobs=2)
            content = chat.choices[0].logprobs.content
            assert [(t.token, t.logprob, t.bytes) for t in content] == [("h", -0.5, [104]), ("i", -0.5, [105])]
            assert [(t.token, t.logprob) for t in content[0].top_logprobs] == [("h", -0.5), ("i", -1.5)]
            text = await s.client.completions.create(model="m", prompt="x", logprobs=1, echo=False)
            got = text.choices[0].logprobs
            assert (got.tokens, got.token_logprobs, got.text_offset) == (["h", "i"], [-0.5, -0.5], [0, 1])
            assert got.top_logprobs == [{"h": -0.5}, {"i": -0.5}]
            stream = await s.client.chat.completions.create(model="m", messages=HI, logprobs=True, stream=True)
            tokens = [
                t.token async for chunk in stream for c in chunk.choices if c.logprobs for t in c.logprobs.content
            ]
            assert tokens == ["h", "i"]

    run(main())


def test_what_the_client_asks_for_reaches_the_worker(tmp_path):
    seen = []

    async def worker(request, context):
        seen.append((request, context.request_id, context.trace_id))
        yield {"token_ids": [65], "finish_reason": "length"}

    async def main():
        async with stack(tmp_path) as s:
            await s.worker(worker)
            trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            await s.client.chat.completions.create(
                model="m", messages=HI, temperature=0.5, top_p=0.9, seed=7, n=2, max_tokens=9, presence_penalty=1,
                extra_body={"top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": True},
                extra_headers={"x-request-id": "abc", "traceparent": trace},
            )  # fmt: skip
            (first, request_id, trace_id), (second, _, _) = sorted(
                seen, key=lambda row: row[0]["sampling_options"]["seed"]
            )
            assert (request_id, trace_id) == ("abc", "0af7651916cd43dd8448eb211c80319c")
            assert first["sampling_options"] == {
                "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "presence_penalty": 1.0,
                "repetition_penalty": 1.1, "seed": 7,
            }  # fmt: skip
            assert second["sampling_options"]["seed"] == 8
            assert first["stop_conditions"]["max_tokens"] == 9 and first["stop_conditions"]["ignore_eos"]
            assert text_of(first) == "user\nhi\nassistant\n"
            assert first["eos_token_ids"] == [EOS]

    run(main())


def test_errors_have_the_shape_and_the_class_that_the_client_knows(tmp_path):
    async def broken(request, context):
        kind = text_of(request)
        if "value" in kind:
            raise ValueError("no such value")
        if "late" in kind:
            yield {"token_ids": [72]}
        raise KeyError("boom")

    async def main():
        async with stack(tmp_path) as s:
            with pytest.raises(openai.NotFoundError) as error:
                await s.client.chat.completions.create(model="none", messages=HI)
            assert error.value.code == "model_not_found" and error.value.param == "model"
            await s.worker(broken)
            with pytest.raises(openai.NotFoundError):
                await s.client.models.retrieve("none")
            with pytest.raises(openai.BadRequestError) as error:
                await s.client.chat.completions.create(model="m", messages=HI, temperature=9)
            assert error.value.param == "temperature"
            with pytest.raises(openai.BadRequestError) as error:
                await s.client.completions.create(model="m", prompt="x" * 2048)
            assert error.value.code == "context_length_exceeded" and error.value.param == "prompt"
            with pytest.raises(openai.BadRequestError, match="no such value"):
                await s.client.completions.create(model="m", prompt="value")
            with pytest.raises(openai.InternalServerError, match="boom"):
                await s.client.completions.create(model="m", prompt="x")
            with pytest.raises(openai.InternalServerError, match="boom"):
                await s.client.completions.create(model="m", prompt="x", stream=True)
            stream = await s.client.completions.create(model="m", prompt="late", stream=True)
            with pytest.raises(openai.APIError, match="boom"):
                await collect(stream)
            with pytest.raises(openai.BadRequestError, match="not in the vocabulary"):
                await s.client.completions.create(model="m", prompt=[70000])
            with pytest.raises(openai.BadRequestError, match="makes no embeddings"):
                await s.client.embeddings.create(model="m", input="x")

    run(main())


def test_a_model_with_only_a_name_serves_token_ids(tmp_path):
    async def main():
        async with stack(tmp_path) as s:
            await s.worker(says("A"), name="bare", folder=None)
            for call in (
                s.client.chat.completions.create(model="bare", messages=HI),
                s.client.completions.create(model="bare", prompt="text"),
            ):
                with pytest.raises(openai.BadRequestError, match="tokeniser") as error:
                    await call
                assert error.value.code == "tokenizer_missing"

            async def with_text(request, context):
                yield {"token_ids": [5], "text": "five", "finish_reason": "stop"}

            await s.worker(with_text, name="texts", folder=None)
            got = await s.client.completions.create(model="texts", prompt=[1, 2, 3])
            assert got.choices[0].text == "five" and got.usage.prompt_tokens == 3

    run(main())


def test_embeddings(tmp_path):
    from dynamo.llm.model import ModelType

    async def worker(request, context):
        yield {"embeddings": [[float(len(ids)), 0.5] for ids in request["batch_token_ids"]]}

    async def main():
        async with stack(tmp_path) as s:
            await s.worker(worker, name="e", model_type=ModelType.Embedding)
            got = await s.client.embeddings.create(model="e", input=["a", "bcd"])
            assert [row.embedding for row in got.data] == [[1.0, 0.5], [3.0, 0.5]]
            assert got.usage.prompt_tokens == 4
            got = await s.client.embeddings.create(model="e", input=[1, 2], encoding_format="float")
            assert got.data[0].embedding == [2.0, 0.5]
            with pytest.raises(openai.BadRequestError):
                await s.client.chat.completions.create(model="e", messages=HI)

    run(main())


def test_llm_metrics_follow_the_chunks_of_a_stream_that_asks_for_them(tmp_path):
    async def main():
        async with stack(tmp_path) as s:
            await s.worker(says("ABCDE", step=2))
            body = {"model": "m", "prompt": "four", "stream": True, "nvext": {"annotations": ["llm_metrics"]}}
            for n in (1, 2):
                text = (await s.http.post("/v1/completions", json={**body, "n": n})).text
                told = [
                    json.loads(event.split("\n: ")[1])
                    for event in text.split("\n\n")
                    if event.startswith("event: llm_metrics\n: ")
                ]
                for index in range(n):
                    mine = [one for one in told if one["index"] == index]
                    assert [one["chunk_tokens"] for one in mine] == [2, 2, 1, 1]  # the last is the end of sequence
                    assert [one["output_tokens"] for one in mine] == [2, 4, 5, 6]
                    assert {one["input_tokens"] for one in mine} == {4}
                assert len(told) == 4 * n and text.endswith("data: [DONE]\n\n")
            del body["nvext"]
            assert "llm_metrics" not in (await s.http.post("/v1/completions", json=body)).text

    run(main())


def test_annotations_and_routing_headers(tmp_path):
    async def main():
        async with stack(tmp_path) as s:
            workers = [await s.worker(says("A")) for _ in range(3)]
            for worker in workers:
                for _ in range(2):
                    got = await s.client.completions.with_raw_response.create(
                        model="m", prompt="x", extra_headers={"x-dynamo-worker-instance-id": str(worker.id)}
                    )
                    assert got.headers["x-dynamo-worker-instance-id"] == str(worker.id)
            body = {"nvext": {"backend_instance_id": workers[1].id, "annotations": ["formatted_prompt", "token_ids"]}}
            got = await s.client.chat.completions.create(model="m", messages=HI, extra_body=body)
            assert got.model_extra["nvext"]["formatted_prompt"].startswith("<|im_start|>user")
            raw = (
                await s.http.post("/v1/completions", json={"model": "m", "prompt": "ab", "stream": True, **body})
            ).text
            assert "event: token_ids\n: [97,98]\n\n" in raw and raw.endswith("data: [DONE]\n\n")
            ask = {"nvext": {"annotations": ["query_instance_id"], "backend_instance_id": workers[2].id}}
            got = (await s.http.post("/v1/completions", json={"model": "m", "prompt": "ab", **ask})).json()
            assert got["nvext"]["worker_instance_id"] == str(workers[2].id) and got["nvext"]["token_data"] == [97, 98]
            raw = (
                await s.http.post("/v1/completions", json={"model": "m", "prompt": "ab", "stream": True, **ask})
            ).text
            assert f'event: worker_instance_id\n: "{workers[2].id}"' in raw
            with pytest.raises(openai.BadRequestError, match="does not serve"):
                await s.client.completions.create(
                    model="m", prompt="x", extra_body={"nvext": {"backend_instance_id": 5}}
                )
            with pytest.raises(openai.BadRequestError, match="x-dynamo-dp-rank"):
                await s.client.completions.create(
                    model="m", prompt="x", extra_headers={"x-dynamo-dp-rank": "minus one"}
                )
            token_data = {"nvext": {"token_data": [1, 2, 3]}}
            got = await s.client.chat.completions.create(model="m", messages=HI, extra_body=token_data)
            assert got.usage.prompt_tokens == 3

    run(main())


def test_a_long_text_does_not_hold_up_the_others(tmp_path):
    async def main():
        async with stack(tmp_path, thread_bytes=1000) as s:
            await s.worker(says("A"), context_length=1 << 20)
            long = asyncio.ensure_future(s.client.completions.create(model="m", prompt="word " * 60000))
            short = await s.client.completions.create(model="m", prompt="x")
            assert short.choices[0].text == "A"
            assert (await long).usage.prompt_tokens == 300000

    run(main())


def test_the_request_template_fills_what_is_left_out(tmp_path):
    async def main():
        async with stack(tmp_path, template={"model": "m", "max_completion_tokens": 2, "temperature": 0.25}) as s:
            await s.worker(says("ABCDEF"))
            got = (await s.http.post("/v1/chat/completions", json={"messages": HI})).json()
            assert got["choices"][0]["message"]["content"] == "AB"

    run(main())


def test_health_models_and_metrics_follow_the_workers(tmp_path):
    async def main():
        async with stack(tmp_path) as s:
            assert (await s.http.get("/live")).status_code == 200
            assert (await s.http.get("/health")).status_code == 503
            assert (await s.http.get("/v1/models")).json() == {"object": "list", "data": []}
            worker = await s.worker(says("Hello"))
            health = await s.http.get("/health")
            assert health.status_code == 200 and health.json()["models"] == ["m"]
            await s.client.chat.completions.create(model="m", messages=HI)
            with pytest.raises(openai.BadRequestError):
                await s.client.chat.completions.create(model="m", messages=HI, top_p=7)
            await s.quiet()
            text = (await s.http.get("/metrics")).text
            for line in (
                'dynamo_frontend_requests_total{model="m",endpoint="chat_completions",request_type="unary",'
                'status="success",error_type=""} 1',
                'dynamo_frontend_output_tokens_total{model="m"} 6',
                'dynamo_frontend_time_to_first_token_seconds_count{model="m"} 1',
                'dynamo_frontend_inter_token_latency_seconds_count{model="m"} 5',
                'dynamo_frontend_input_sequence_tokens_count{model="m"} 1',
                'dynamo_frontend_inflight_requests{model="m"} 0',
                'dynamo_frontend_model_context_length{model="m"} 2048',
                'dynamo_frontend_model_kv_cache_block_size{model="m"} 16',
                *(
                    f"dynamo_router_overhead_{stage}_ms_count 1"
                    for stage in ("block_hashing", "seq_hashing", "indexer_find_matches", "scheduling", "total")
                ),
            ):
                assert line in text, line
            assert 'status="error"' in text
            await worker.die()
            await s.until(lambda: not s.front.models.models)
            assert (await s.http.get("/health")).status_code == 503
            with pytest.raises(openai.InternalServerError, match="try again") as told:
                await s.client.chat.completions.create(model="m", messages=HI)
            assert told.value.status_code == 503 and told.value.response.headers["retry-after"]

    run(main())


def test_a_key_is_asked_for_where_one_is_set(tmp_path):
    async def main():
        async with stack(tmp_path, api_key="s3cret") as s:
            await s.worker(says("A"))
            assert (await s.client.completions.create(model="m", prompt="x")).choices[0].text == "A"
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic s3cret"}):
                got = await s.http.post("/v1/completions", json={"model": "m", "prompt": "x"}, headers=headers)
                assert got.status_code == 401 and got.json()["error"]["type"]
                assert (await s.http.get("/dashboard/state", headers=headers)).status_code == 401
            assert (await s.http.get("/health")).status_code == 200
            assert (await s.http.get("/")).status_code == 200
            assert "access-control-allow-origin" not in (await s.http.get("/health")).headers

    run(main())


def test_a_worker_that_takes_no_more_requests_sends_them_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("DYN_TCP_MAX_REQUESTS", "1")

    async def main():
        async with stack(tmp_path) as s:
            held = asyncio.Event()
            holding = 0

            async def handler(request, context):
                nonlocal holding
                if text_of(request).endswith("hold"):
                    holding += 1
                    await held.wait()
                yield {"token_ids": [65]}
                yield {"token_ids": [EOS], "finish_reason": "eos"}

            await s.worker(handler)
            await s.worker(handler)
            body = {"model": "m", "prompt": "hold"}
            first = asyncio.ensure_future(s.http.post("/v1/completions", json=body))
            await s.until(lambda: holding == 1)
            for _ in range(4):  # round robin: every second one meets the worker that has enough, and moves
                got = await s.http.post("/v1/completions", json={"model": "m", "prompt": "x"})
                assert got.status_code == 200 and got.json()["choices"][0]["text"] == "A"
            second = asyncio.ensure_future(s.http.post("/v1/completions", json=body))
            await s.until(lambda: holding == 2)
            got = await s.http.post("/v1/completions", json={"model": "m", "prompt": "x"})
            assert got.status_code == 529 and got.json()["error"]["code"] == "overloaded" and got.headers["retry-after"]
            held.set()
            assert {(await first).status_code, (await second).status_code} == {200}
            assert (await s.http.post("/v1/completions", json=body)).status_code == 200

    run(main())


def test_busy_workers_are_not_chosen_and_all_busy_is_said(tmp_path):
    release = None

    async def slow(request, context):
        await release.wait()
        yield {"token_ids": [65], "finish_reason": "stop"}

    async def main():
        nonlocal release
        release = asyncio.Event()
        async with stack(tmp_path, router="least-loaded") as s:
            await s.worker(slow)
            got = await s.http.post("/busy_threshold", json={"model": "m", "active_prefill_tokens_threshold": 10})
            assert got.status_code == 200
            assert (await s.http.get("/busy_threshold")).json()["thresholds"][0][
                "active_prefill_tokens_threshold"
            ] == 10
            assert (await s.http.post("/busy_threshold", json={"model": "none"})).status_code == 404
            assert (
                await s.http.post("/busy_threshold", json={"model": "m", "active_prefill_tokens_threshold": -1})
            ).status_code == 400
            first = asyncio.ensure_future(s.client.completions.create(model="m", prompt="x" * 50))
            await s.until(lambda: s.front.models["m"].core.stats()["booked"] == 1)
            got = await s.http.post("/v1/completions", json={"model": "m", "prompt": "y"})
            assert got.status_code == 529 and got.json()["error"]["code"] == "overloaded" and got.headers["retry-after"]
            release.set()
            assert (await first).choices[0].text == "A"
            await s.until(lambda: s.front.models["m"].core.stats()["booked"] == 0)
            assert json.loads((await s.http.post("/v1/completions", json={"model": "m", "prompt": "y"})).text)[
                "choices"
            ]

    run(main())
