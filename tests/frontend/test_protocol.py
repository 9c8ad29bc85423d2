"""Every field of a request is checked, and a refusal names it."""

import pytest

from dynamo.frontend.errors import ApiError
from dynamo.frontend.protocol import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    check_chat,
    check_completion,
    check_embedding,
    prompts_of,
    read,
)

CHAT = '{"model":"m","messages":[{"role":"user","content":"hi"}]%s}'
TEXT = '{"model":"m","prompt":"hi"%s}'


def refused(kind, check, body):
    with pytest.raises(ApiError) as error:
        check(read(body.encode() if isinstance(body, str) else body, kind))
    assert error.value.status == 400 and error.value.type == "invalid_request_error"
    return error.value


@pytest.mark.parametrize(
    ("more", "param"),
    [
        (',"temperature":-0.1', "temperature"),
        (',"temperature":1e300', "temperature"),
        (',"temperature":"hot"', "temperature"),
        (',"temperature":true', "temperature"),
        (',"top_p":1.5', "top_p"),
        (',"min_p":-1', "min_p"),
        (',"top_k":-2', "top_k"),
        (',"n":0', "n"),
        (',"n":100000', "n"),
        (',"n":1.5', "n"),
        (',"presence_penalty":-3', "presence_penalty"),
        (',"frequency_penalty":2.5', "frequency_penalty"),
        (',"repetition_penalty":0', "repetition_penalty"),
        (',"max_tokens":0', "max_tokens"),
        (',"max_tokens":-5', "max_tokens"),
        (',"max_completion_tokens":0', "max_completion_tokens"),
        (',"max_tokens":3,"min_tokens":4', "min_tokens"),
        (',"stop":[""]', "stop"),
        (',"stop":5', "stop"),
        (',"stop":[' + ",".join('"x"' for _ in range(33)) + "]", "stop"),
        (',"stop_token_ids":[-1]', "stop_token_ids"),
        (',"logit_bias":{"5":1}', "logit_bias"),
        (',"stream_options":{"include_usage":true}', "stream_options"),
        (',"top_logprobs":2', "top_logprobs"),
        (',"logprobs":true,"top_logprobs":21', "top_logprobs"),
        (',"logprobs":3', "logprobs"),
        (',"response_format":{"type":"json_object"}', "response_format"),
        (',"tool_choice":"required"', "tool_choice"),
        (',"nvext":{"backend_instance_id":-1}', "nvext.backend_instance_id"),
        (',"nvext":{"dp_rank":-1}', "nvext.dp_rank"),
        (',"nvext":{"annotations":"x"}', "nvext.annotations"),
    ],
)
def test_a_chat_request_with_an_absurd_value_is_refused_by_name(more, param):
    assert refused(ChatRequest, check_chat, CHAT % more).param == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ('{"messages":[]}', "model"),
        ('{"model":"m"}', "messages"),
        ('{"model":"m","messages":[]}', "messages"),
        ('{"model":"m","messages":"hi"}', "messages"),
        ('{"model":"m","messages":[{"content":"x"}]}', "messages[0].role"),
        ('{"model":"m","messages":[{"role":"king","content":"x"}]}', "messages[0].role"),
        ('{"model":"m","messages":[{"role":"user"}]}', "messages[0].content"),
        ('{"model":"m","messages":[{"role":"user","content":7}]}', "messages[0].content"),
        ('{"model":"m","messages":[{"role":"user","content":[{"type":"image_url"}]}]}', "messages[0].content[0].type"),
        ('{"model":"","messages":[{"role":"user","content":"x"}]}', "model"),
    ],
)
def test_messages_are_checked_one_by_one(body, param):
    assert refused(ChatRequest, check_chat, body).param == param


@pytest.mark.parametrize(
    "body", [b"", b"  ", b"{", b"[1]", b"nul", b'{"model":"\xff"}', b"[" * 100000, b'{"model":"m",}']
)
def test_what_is_not_a_json_object_is_refused(body):
    refused(ChatRequest, check_chat, body)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        (',"suffix":"x"', "suffix"),
        (',"best_of":4', "best_of"),
        (',"logprobs":21', "logprobs"),
        (',"logprobs":true', "logprobs"),
        (',"echo":true,"logprobs":1', "logprobs"),
        (',"prompt":[]', "prompt"),
        (',"prompt":[1,-1]', "prompt"),
        (',"prompt":[1,"x"]', "prompt"),
        (',"prompt":[[1],"x"]', "prompt"),
        (',"prompt":[[]]', "prompt"),
        (',"prompt":[{}]', "prompt"),
        (',"prompt":{"a":1}', "prompt"),
        (',"prompt":["a","b","c","d","e","f","g","h","i"],"n":128', "n"),
    ],
)
def test_a_completion_request_is_checked(more, param):
    assert refused(CompletionRequest, check_completion, TEXT % more).param == param


def test_good_requests_pass_and_unknown_fields_are_ignored():
    chat = read(
        (CHAT % ',"temperature":0,"top_p":1,"n":2,"stop":"x","zzz":1,"max_completion_tokens":5').encode(), ChatRequest
    )
    check_chat(chat)
    assert (chat.n, chat.max_tokens) == (2, 5)
    for prompt, want in (('"a"', ["a"]), ("[1,2]", [[1, 2]]), ('["a","b"]', ["a", "b"]), ("[[1],[2]]", [[1], [2]])):
        request = read(f'{{"model":"m","prompt":{prompt}}}'.encode(), CompletionRequest)
        check_completion(request)
        assert prompts_of(request) == want


def test_defaults_fill_what_a_request_leaves_out():
    chat = read((CHAT % ',"temperature":null').encode(), ChatRequest, {"temperature": 0.5, "max_completion_tokens": 9})
    assert (chat.temperature, chat.max_completion_tokens) == (0.5, 9)


def test_embedding_inputs():
    good = read(b'{"model":"m","input":["a","b"]}', EmbeddingRequest)
    assert check_embedding(good) == ["a", "b"]
    for body, param in (
        (b'{"model":"m","input":""}', "input"),
        (b'{"model":"m","input":"a","encoding_format":"x"}', "encoding_format"),
    ):
        assert refused(EmbeddingRequest, check_embedding, body).param == param
