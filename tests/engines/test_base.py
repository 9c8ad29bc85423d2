"""Requests are checked once, in one place; echo is an engine like any other."""

import asyncio

import numpy as np
import pytest

from dynamo.engines.base import EngineInfo, GenerateRequest
from dynamo.engines.echo import EchoEngine
from dynamo.errors import InvalidArgument

INFO = EngineInfo("m", 100)


class Context:
    def __init__(self, after=None):
        self.asked, self.after = 0, after

    def id(self):
        return "1"

    def is_stopped(self):
        self.asked += 1
        return self.after is not None and self.asked > self.after

    is_killed = is_stopped


def parse(**sections):
    return GenerateRequest.parse({"token_ids": [1, 2, 3], **sections}, INFO)


def test_a_request_may_leave_everything_out():
    asked = parse()
    assert (asked.token_ids, asked.max_tokens, asked.temperature, asked.top_k) == ([1, 2, 3], 97, 1.0, 0)
    assert GenerateRequest.parse({"token_ids": np.array([5, 6], np.uint32)}, INFO).token_ids == [5, 6]
    assert parse(stop_conditions=None, sampling_options={"temperature": None}).temperature == 1.0


def test_limits_and_stops_are_read():
    asked = parse(
        stop_conditions={"max_tokens": 1000, "stop_token_ids": [7], "stop_token_ids_hidden": [8], "min_tokens": 2},
        sampling_options={"top_k": -1, "seed": -5, "n": 1},
        output_options={"logprobs": 0},
    )
    assert asked.max_tokens == 97 and asked.stop_token_ids == {7, 8} and asked.min_tokens == 2
    assert (asked.top_k, asked.seed, asked.logprobs) == (0, -5, 0)


@pytest.mark.parametrize(
    "sections, reason",
    [
        ({"token_ids": []}, "empty"),
        ({"token_ids": "hi"}, "token ids"),
        ({"token_ids": 5}, "list"),
        ({"token_ids": [1.5]}, "1.5"),
        ({"token_ids": [True]}, "True"),
        ({"token_ids": [-1]}, "-1"),
        ({"token_ids": [1 << 32]}, "4294967296"),
        ({"token_ids": [1] * 100}, "context of 'm' is 100"),
        ({"stop_conditions": []}, "stop_conditions"),
        ({"stop_conditions": {"max_tokens": -1}}, "max_tokens"),
        ({"stop_conditions": {"max_tokens": "5"}}, "max_tokens"),
        ({"sampling_options": {"temperature": -0.1}}, "temperature"),
        ({"sampling_options": {"temperature": float("nan")}}, "temperature"),
        ({"sampling_options": {"top_p": 1.1}}, "top_p"),
        ({"sampling_options": {"top_p": "x"}}, "top_p"),
        ({"sampling_options": {"top_k": 1.5}}, "top_k"),
        ({"sampling_options": {"presence_penalty": 3}}, "presence_penalty"),
        ({"sampling_options": {"repetition_penalty": 0}}, "repetition_penalty"),
        ({"sampling_options": {"n": 2}}, "n is 2"),
        ({"sampling_options": {"use_beam_search": True}}, "beam"),
        ({"output_options": {"logprobs": -1}}, "logprobs"),
    ],
)
def test_absurd_values_are_refused_by_name(sections, reason):
    with pytest.raises(InvalidArgument, match=reason):
        parse(**sections)


def collect(engine, request, context=None):
    async def run():
        await engine.start()
        return [item async for item in engine.generate(request, context or Context())]

    return asyncio.run(run())


def test_echo_gives_the_prompt_back():
    items = collect(EchoEngine(), {"token_ids": [4, 5, 6]})
    assert [item["token_ids"] for item in items] == [[4], [5], [6], []]
    assert items[-1]["finish_reason"] == "stop" and items[-1]["completion_usage"]["completion_tokens"] == 3
    items = collect(EchoEngine(tokens_per_item=2), {"token_ids": [4, 5, 6], "stop_conditions": {"max_tokens": 2}})
    assert [item["token_ids"] for item in items] == [[4, 5], []] and items[-1]["finish_reason"] == "length"


def test_echo_stops_when_it_is_told_to():
    items = collect(EchoEngine(delay=0.001), {"token_ids": list(range(50))}, Context(after=3))
    assert len(items) == 4 and items[-1]["finish_reason"] == "cancelled"


def test_an_engine_without_embeddings_says_so():
    with pytest.raises(InvalidArgument, match="no embeddings"):
        asyncio.run(EchoEngine().embed({}, Context()))
