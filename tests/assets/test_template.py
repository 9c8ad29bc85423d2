"""Chat templates: what they write, and that neither they nor the messages can do harm."""

import json

import pytest

from dynamo.errors import InvalidArgument
from dynamo.llm.assets import ModelAssets
from dynamo.llm.gguf import read_gguf
from dynamo.llm.template import DEFAULT_TEMPLATE, ChatTemplate, find_template

HELLO = [{"role": "user", "content": "hello"}]


def render(source, messages=HELLO, **options):
    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}).render(messages, **options)


def test_the_default_is_chatml():
    system = [{"role": "system", "content": "be kind"}, *HELLO]
    assert render(DEFAULT_TEMPLATE, system) == (
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert not render(DEFAULT_TEMPLATE, HELLO, add_generation_prompt=False).endswith("assistant\n")


@pytest.mark.parametrize(
    "source, text",
    [
        ("{{ bos_token }}{{ messages[0]['content'] | trim }}{{ eos_token }}", "<s>hello</s>"),
        ("{% for m in messages %}\n    {% if loop.first %}\n{{ m.role }}\n    {% endif %}\n{% endfor %}", "user\n"),
        ("{{ {'b': '<é>', 'a': [1]} | tojson }}", '{"b": "<é>", "a": [1]}'),
        ("{{ tools is none }} {{ documents is none }}", "True True"),
        ("{% set n = namespace(x=0) %}{% for m in [1, 2, 3] %}{% if m == 2 %}{% continue %}{% endif %}"
         "{% set n.x = n.x + m %}{% endfor %}{{ n.x }}", "4"),
        ("{% generation %}hi{% endgeneration %}", "hi"),
        ("{{ '%s-%5d' % ('a', 3) }}{{ '{}/{}'.format(1, 2) }}{{ 'a'|center(3) }}", "a-    31/2 a "),
        ("{{ ['a', 'b'] | join(', ') }}{{ 'axb'.replace('x', '-') }}{{ 'axb' | replace('x', '+') }}", "a, ba-ba+b"),
        ("{{ strftime_now('%Y') | length }}", "4"),
    ],
)  # fmt: skip
def test_the_rules_of_hugging_face_hold(source, text):
    assert render(source) == text


def test_parts_are_given_to_templates_that_know_them_and_joined_for_others():
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    knows = "{% for m in messages %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endfor %}"
    assert render(knows, parts) == "[a][b]"
    assert render("{{ messages[0].content }}", parts) == "a\nb"
    assert render("{{ messages[0].content + '!' }}", parts) == "a\nb!"
    with pytest.raises(InvalidArgument, match="part of type 'image_url'"):
        render("{{ messages }}", [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])


def test_tool_calls_and_empty_contents_are_what_templates_expect():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    messages = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert render("{{ messages[1].tool_calls[0].function.arguments.x }}{{ messages[1].content }}", messages) == "1"
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert render("{{ tools[0].function.name }}", tools=tools) == "f"
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == '{"x": 1}'


def test_the_last_message_can_be_continued():
    messages = [*HELLO, {"role": "assistant", "content": "once upon "}]
    assert render(DEFAULT_TEMPLATE, messages, continue_final_message=True).endswith("assistant\nonce upon")


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 10**12 }}",
        "{{ 10 ** 10000000 }}",
        "{{ messages * 10**9 }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ '%999999999d' % 1 }}{{ '%*d' % (999999999, 1) }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ 'a'.center(10**10) }}",
        "{{ 'a' | center(10**10) }}",
        "{{ 'a' | indent(10**9) }}",
        "{{ ('x,' * 100000).split(',') | join('x' * 1000000) }}",
        "{{ ('x' * 1000000).join(('x,' * 100000).split(',')) }}",
        "{% set x = 'a' * 10**7 %}{{ x.replace('a', x) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(a=1) }}",
        "{{ raise_exception.__globals__.os }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ nothing.x }}",
        "{% if %}",
        "{{ '" + "(" * 100000 + "' ",
        "{% for m in messages %}",
    ],
)
def test_what_a_template_must_not_do_is_refused(source):
    with pytest.raises(InvalidArgument, match="chat template"):
        render(source)


def test_a_template_may_refuse_messages_in_its_own_words():
    with pytest.raises(InvalidArgument, match="refuses these messages: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "messages", [None, [], "hi", {}, [1], [{"content": "x"}], [{"role": "user", "content": 5}], [[]]]
)
def test_messages_that_are_none_are_refused(messages):
    with pytest.raises(InvalidArgument, match="message"):
        render("x", messages)


def test_templates_are_found_where_models_keep_them(tiny_gguf, tmp_path):
    assert find_template(None)["default"].source == DEFAULT_TEMPLATE
    assert "im_start" in find_template(read_gguf(tiny_gguf))["default"].source
    config = {"chat_template": [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": {"content": "<e>"}}))
    found = find_template(tmp_path)
    assert {name: template.source for name, template in found.items()} == {"default": "D", "tool_use": "T"}
    assert found["default"].tokens["eos_token"] == "<e>"
    (tmp_path / "chat_template.jinja").write_text("J")
    assert find_template(tmp_path)["default"].source == "J"
    (tmp_path / "own.jinja").write_text("O")
    assert find_template(tmp_path, custom=tmp_path / "own.jinja")["default"].source == "O"


def test_a_gguf_gives_text_and_ids_of_a_conversation(tiny_gguf):
    assets = ModelAssets("tiny", tiny_gguf)
    text, ids = assets.chat(HELLO)
    assert text.startswith("<|im_start|>user\nhello")
    assert ids[:2].tolist() == [1, assets.tokenizer.token_to_id("<|im_start|>")]
    assert assets.encode_chat("<s>" + text).tolist() == ids.tolist()
