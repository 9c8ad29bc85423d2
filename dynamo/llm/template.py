"""Chat templates: from messages to the text that a model was trained on, by Jinja in a sandbox.

The rules are those of Hugging Face: blocks trimmed, ``raise_exception``, ``strftime_now``, ``tojson``, loop controls
and ``{% generation %}``; the names of the special tokens, ``messages``, ``tools``, ``documents`` and
``add_generation_prompt`` are given. A template comes with the model, the messages from anyone: neither can reach
Python objects, change what it is given, or write more than `MAX_OUTPUT` characters.
"""

import datetime
import functools
import json
import os
import pathlib
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any, cast

from dynamo.errors import InvalidArgument
from dynamo.llm.gguf import GGUF

__all__ = ["DEFAULT_TEMPLATE", "ChatTemplate", "find_template"]

# ChatML: what a model without a template of its own gets (llama.cpp falls back to the same).
DEFAULT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MAX_SOURCE = 1 << 20
MAX_OUTPUT = 1 << 24
MAX_MESSAGES = 1 << 16

Message = Mapping[str, Any]


class ChatTemplate:
    """One template, compiled when it is first used; may be shared by threads.

    Parameters
    ----------
    source : the Jinja text
    tokens : names the template may use for special tokens: ``{"bos_token": "<s>", ...}``
    origin : where the text comes from, for messages
    """

    def __init__(self, source: str, tokens: Mapping[str, str] | None = None, origin: str = "the chat template") -> None:
        if len(source) > MAX_SOURCE:
            raise InvalidArgument(f"{origin} has {len(source)} characters, the bound is {MAX_SOURCE}")
        self.source, self.tokens, self.origin = source, dict(tokens or {}), origin
        self._compiled: Any = None
        self._takes_parts: bool | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<ChatTemplate {len(self.source)} characters, {self.origin}>"

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        """The text of a conversation.

        Parameters
        ----------
        messages : of the OpenAI API; ``content`` may be a text, null or a list of text parts
        continue_final_message : leave the last message open, so that the model goes on with it
        variables : what else the template may use (``chat_template_kwargs``)

        Raises
        ------
        InvalidArgument : the messages are not ones, the template refuses them, is broken, or writes too much
        """
        given = self._prepare(messages)
        final = given[-1].get("content") if continue_final_message else None
        if continue_final_message:
            if add_generation_prompt and "add_generation_prompt" in variables:
                raise InvalidArgument("continue_final_message and add_generation_prompt exclude each other")
            add_generation_prompt = False
            if not isinstance(final, str) or not final:
                raise InvalidArgument("continue_final_message needs a last message with text")
        text = self._run(
            {
                **variables,
                **self.tokens,
                "messages": given,
                "tools": [dict(tool) for tool in tools] if tools else None,
                "documents": [dict(document) for document in documents] if documents else None,
                "add_generation_prompt": add_generation_prompt,
            }
        )
        if final is not None:
            kept = final.strip()
            at = text.rfind(kept)
            if at < 0:
                raise InvalidArgument(f"{self.origin} does not write the last message, so it cannot be continued")
            text = text[: at + len(kept)]
        return text

    def _prepare(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence) or not messages:
            raise InvalidArgument("messages must be a list of at least one message")
        if len(messages) > MAX_MESSAGES:
            raise InvalidArgument(f"there are {len(messages)} messages, the bound is {MAX_MESSAGES}")
        prepared = []
        for n, message in enumerate(messages):
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise InvalidArgument(f"messages[{n}] must be an object with a role")
            one = dict(message)
            content = one.get("content")
            if content is None:
                one["content"] = ""
            elif isinstance(content, list):
                one["content"] = self._content(content, n)
            elif not isinstance(content, str):
                raise InvalidArgument(f"messages[{n}].content must be a text or a list of parts")
            if isinstance(one.get("tool_calls"), list):
                one["tool_calls"] = [_tool_call(call) for call in one["tool_calls"]]
            prepared.append(one)
        return prepared

    def _content(self, parts: list[Any], n: int) -> Any:
        """Parts as the template wants them: as they are, or their texts joined where it knows only texts."""
        texts = []
        for part in parts:
            if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
                texts.append(part["text"])
            elif isinstance(part, str):
                texts.append(part)
            else:
                kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
                raise InvalidArgument(f"messages[{n}].content has a part of type {kind!r}; only text is supported")
        if self._takes_parts is None:
            try:
                probe = [{"type": "text", "text": "\u2402probe\u2403"}]
                text = self._run({**self.tokens, "messages": [{"role": "user", "content": probe}], "tools": None})
                self._takes_parts = "\u2402probe\u2403" in text and "'text'" not in text and '"text"' not in text
            except InvalidArgument:
                self._takes_parts = False
        return [{"type": "text", "text": text} for text in texts] if self._takes_parts else "\n".join(texts)

    def _run(self, variables: dict[str, Any]) -> str:
        with self._lock:
            if self._compiled is None:
                self._compiled = _compile(self.source, self.origin)
        pieces, size = [], 0
        try:
            for piece in self._compiled.generate(**variables):
                size += len(piece)
                if size > MAX_OUTPUT:
                    raise InvalidArgument(f"{self.origin} writes more than {MAX_OUTPUT} characters")
                pieces.append(piece)
        except InvalidArgument:
            raise
        except _Refused as error:
            raise InvalidArgument(f"{self.origin} refuses these messages: {error}") from None
        except RecursionError:
            raise InvalidArgument(f"{self.origin}: the messages are nested too deeply") from None
        except Exception as error:
            raise InvalidArgument(f"{self.origin} fails on these messages: {type(error).__name__}: {error}") from error
        return "".join(pieces)


class _Refused(Exception):
    """What ``raise_exception`` in a template raises."""


def _tool_call(call: Any) -> Any:
    # The API carries arguments as a text of JSON; templates are written for objects.
    if not isinstance(call, Mapping) or not isinstance(function := call.get("function"), Mapping):
        return call
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except (ValueError, RecursionError):
            return call
        if isinstance(parsed, dict):
            return {**call, "function": {**function, "arguments": parsed}}
    return call


_environment: Any = None


def _compile(source: str, origin: str) -> Any:
    global _environment
    if _environment is None:
        _environment = _make_environment()
    try:
        return _environment.from_string(source)
    except Exception as error:  # TemplateSyntaxError, and RecursionError on absurd nesting
        line = getattr(error, "lineno", None)
        where = f" (line {line})" if line else ""
        raise InvalidArgument(f"{origin} is not a template that can be used{where}: {error}") from error


def _make_environment() -> Any:
    try:
        import jinja2.ext
        import jinja2.nodes
        import jinja2.sandbox
    except ImportError as error:
        raise InvalidArgument("chat templates need the package 'jinja2': pip install 'dynamo[serve]'") from error

    class Generation(jinja2.ext.Extension):
        """``{% generation %}...{% endgeneration %}`` marks the assistant's text for training; here it is just text."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body).set_lineno(line)

    class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
        # A short expression must not make a huge value: 'x' * 10**12, 10 ** 10**9, 'x'.center(10**9).
        intercepted_binops = frozenset(["*", "**", "%"])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "*":
                for some, count in ((left, right), (right, left)):
                    if isinstance(some, str | list | tuple) and isinstance(count, int):
                        _bound(len(some) * count)
            elif operator == "**" and (abs(left) > 1 << 64 or abs(right) > 64):
                raise _Refused("a power that is too large")
            elif operator == "%" and isinstance(left, str):
                _bound_format(left)
            return super().call_binop(context, operator, left, right)

        def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
            text = getattr(getattr(function, "__wrapped__", function), "__self__", None)
            if isinstance(text, str):
                _bound_method(text, getattr(function, "__name__", ""), args)
            return super().call(context, function, *args, **kwargs)

    def raise_exception(message: object) -> None:
        raise _Refused(str(message))

    def strftime_now(layout: str) -> str:
        return datetime.datetime.now().strftime(str(layout)[:256])

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        indent = min(int(indent), 16) if indent is not None else None
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, default=_plain
        )

    def bounded(name: str) -> Any:
        original = jinja2.filters.FILTERS[name]
        position = (
            2 if getattr(original, "jinja_pass_arg", None) else 1
        )  # after the text, and the context where there is one

        @functools.wraps(original)  # keeps the mark that says whether a context comes first
        def checked(*args: Any, **options: Any) -> Any:
            value = args[position - 1]
            given = (*args[position:], *options.values())
            if name == "join":
                value, given = (given[0] if given else ""), ([*value],)
                args = (*args[: position - 1], given[0], *args[position:])
            _bound_method(str(value), name, given)
            return original(*args, **options)

        return checked

    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, autoescape=False, extensions=[jinja2.ext.loopcontrols, Generation]
    )
    environment.globals.update(raise_exception=raise_exception, strftime_now=strftime_now)
    environment.globals.pop("lipsum", None)
    environment.filters["tojson"] = tojson
    for name in ("center", "indent", "format", "replace", "join", "wordwrap"):
        environment.filters[name] = bounded(name)
    return environment


def _bound(size: int) -> None:
    if size > MAX_OUTPUT:
        raise _Refused(f"a value of {size} characters, the bound is {MAX_OUTPUT}")


def _bound_format(layout: str) -> None:
    if re.search(r"\d{5}|[%][^a-zA-Z%]*[*]|\{[^{}]*\{", layout):
        raise _Refused(f"a format that may become too wide: {layout[:64]!r}")


def _bound_method(text: str, name: str, args: Sequence[Any]) -> None:
    """What a method or filter of this name would make of a text, before it does."""
    if name in ("center", "ljust", "rjust", "zfill", "expandtabs", "indent", "wordwrap"):
        for width in args:
            if isinstance(width, int):
                _bound(width * max(1, text.count("\t" if name == "expandtabs" else "\n")))
    elif name in ("format", "format_map"):
        _bound_format(text)
    elif name == "replace" and len(args) >= 2:
        _bound(text.count(str(args[0])) * len(str(args[1])))
    elif name == "join" and args and hasattr(args[0], "__len__"):
        _bound(len(text) * len(args[0]))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def find_template(
    place: "str | os.PathLike[str] | GGUF | None",
    *,
    custom: "str | os.PathLike[str] | None" = None,
    tokens: Mapping[str, str] | None = None,
) -> dict[str, ChatTemplate]:
    """The templates of a model, by name; "default" is always there.

    Parameters
    ----------
    place : a folder with tokenizer_config.json, chat_template.jinja or .json, the header of a GGUF, or None
    custom : a file that is used instead of the model's own
    """
    sources: dict[str, tuple[str, str]] = {}
    names = dict(tokens or {})
    if isinstance(place, GGUF):
        prefix = "tokenizer.chat_template"
        for key, value in place.metadata.items():
            if isinstance(value, str) and value and (key == prefix or key.startswith(prefix + ".")):
                sources[key[len(prefix) + 1 :] or "default"] = (value, f"the chat template in {place.path}")
    elif place is not None:
        folder = pathlib.Path(place)
        config = _json(folder / "tokenizer_config.json")
        for key, value in config.items():
            text = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(text, str):
                names.setdefault(key, text)
        for file, found in (
            ("tokenizer_config.json", config.get("chat_template")),
            ("chat_template.json", _json(folder / "chat_template.json").get("chat_template")),
        ):
            sources.update(_named(found, f"the chat template in {folder / file}"))
        if (folder / "chat_template.jinja").is_file():
            sources["default"] = (
                _read(folder / "chat_template.jinja"),
                f"the chat template {folder / 'chat_template.jinja'}",
            )
    if custom is not None:
        sources["default"] = (_read(pathlib.Path(custom)), f"the chat template {os.fspath(custom)}")
    sources.setdefault("default", (DEFAULT_TEMPLATE, "the default chat template (ChatML)"))
    return {name: ChatTemplate(source, names, origin) for name, (source, origin) in sources.items()}


def _named(found: Any, origin: str) -> dict[str, tuple[str, str]]:
    if isinstance(found, str):
        return {"default": (found, origin)}
    if isinstance(found, list):
        return {
            str(one["name"]): (one["template"], origin)
            for one in found
            if isinstance(one, dict) and isinstance(one.get("template"), str) and "name" in one
        }
    return {}


def _read(path: pathlib.Path) -> str:
    if path.stat().st_size > MAX_SOURCE:
        raise InvalidArgument(f"{path} has {path.stat().st_size} bytes, the bound for a chat template is {MAX_SOURCE}")
    return path.read_bytes().decode("utf-8", "replace")


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", value) if isinstance(value := json.loads(path.read_bytes()), dict) else {}
    except (OSError, ValueError):
        return {}
