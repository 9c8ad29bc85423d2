"""Talk to a running server in the terminal.

Answers appear as they are made; the whole conversation goes along with every turn, so that --router kv finds it in
the cache. Ctrl-C stops an answer, Ctrl-D (or /exit) leaves. Without a terminal, standard input is one question.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import time
from typing import Any

from dynamo.cli.client import Connection, HttpFailure, Server
from dynamo.cli.options import add_client_options

HELP = "talk to a running server"
EPILOG = """\
examples:
  dynamo chat                                       the model of the server on 127.0.0.1:8000
  dynamo chat --system "Answer in one sentence."    with a system prompt
  dynamo chat --once "Why is the sky blue?"         one question, one answer, and out
  dynamo chat < question.txt > answer.txt           the same through pipes
  dynamo chat --url https://api.example.org/v1      any server that speaks the OpenAI API

while you chat:
  /clear   forget the conversation        /system TEXT   set the system prompt and start again
  /retry   answer the last question anew  /stats         times, tokens and worker after each answer, on or off
  /exit    leave                          \\ at the end of a line: the next line belongs to it
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_client_options(parser)
    group = parser.add_argument_group("answers")
    group.add_argument("--system", metavar="TEXT", help="system prompt")
    group.add_argument("--once", metavar="TEXT", help="ask this, print the answer, leave")
    group.add_argument("--temperature", type=float, metavar="T", help="0: always the likeliest token")
    group.add_argument("--top-p", type=float, metavar="P")
    group.add_argument("--max-tokens", type=int, metavar="N", help="tokens of an answer at most")
    group.add_argument("--seed", type=int, metavar="N")
    group.add_argument("--stats", action="store_true", help="after each answer: times, tokens, worker")


class Chat:
    """One conversation."""

    def __init__(self, args: argparse.Namespace, server: Server, model: str) -> None:
        self.args, self.server, self.model = args, server, model
        self.connection = Connection(server)
        self.messages: list[dict[str, str]] = []
        self.stats = args.stats
        self.terminal = sys.stdout.isatty()
        self.system(args.system)

    def system(self, text: str | None) -> None:
        self.messages = [{"role": "system", "content": text}] if text else []

    async def ask(self, text: str) -> None:
        """One turn. An answer that was stopped or broken off stays in the conversation as far as it came."""
        self.messages.append({"role": "user", "content": text})
        answer: list[str] = []
        try:
            await self.stream(answer)
        finally:
            if answer:
                self.messages.append({"role": "assistant", "content": "".join(answer)})
            else:
                self.messages.pop()

    async def stream(self, answer: list[str]) -> None:
        wanted = {
            "temperature": self.args.temperature,
            "top_p": self.args.top_p,
            "max_tokens": self.args.max_tokens,
            "seed": self.args.seed,
        }
        body: dict[str, Any] = {
            "model": self.model,
            "messages": self.messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        body |= {name: value for name, value in wanted.items() if value is not None}
        start, first, usage, reason = time.perf_counter(), 0.0, None, None
        head = await self.connection.send("POST", "/v1/chat/completions", body)
        try:
            async for events in head.events():
                for data in events:
                    if data == b"[DONE]":
                        continue
                    event = json.loads(data)
                    if "error" in event:
                        raise HttpFailure(0, str(event["error"].get("message", event["error"])))
                    usage = event.get("usage") or usage
                    for choice in event.get("choices") or ():
                        reason = choice.get("finish_reason") or reason
                        piece = (choice.get("delta") or {}).get("content")
                        if piece:
                            first = first or time.perf_counter()
                            answer.append(piece)
                            sys.stdout.write(piece)
                            sys.stdout.flush()
        except BaseException:
            self.connection.close()  # the rest of the answer is not wanted: the server stops making it
            raise
        finally:
            print(flush=True)
        if self.stats:
            self.show(start, first, usage or {}, reason, head.worker)

    def show(self, start: float, first: float, usage: dict[str, Any], reason: str | None, worker: str | None) -> None:
        now = time.perf_counter()
        made = usage.get("completion_tokens") or 0
        parts = []
        if first:
            parts.append(f"first token after {(first - start) * 1e3:.0f} ms")
        if first and made > 1 and now > first:
            parts.append(f"{(made - 1) / (now - first):.1f} tokens/s")
        if usage:
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
            known = f" ({cached} cached)" if cached is not None else ""
            parts.append(f"{usage.get('prompt_tokens')} prompt tokens{known}, {made} made")
        if reason and reason != "stop":
            parts.append(f"ended by {reason}")
        if worker:
            parts.append(f"worker {worker}")
        self.note(", ".join(parts))

    def note(self, text: str) -> None:
        """Words of ours, apart from the answer."""
        print(f"\x1b[2m{text}\x1b[0m" if self.terminal else f"[{text}]", file=sys.stderr, flush=True)

    async def command(self, line: str) -> bool:
        """A line that begins with a slash. False: leave."""
        word, _, rest = line.partition(" ")
        if word in ("/exit", "/quit"):
            return False
        if word == "/clear":
            self.messages = [m for m in self.messages if m["role"] == "system"]
            self.note("the conversation is forgotten")
        elif word == "/system":
            self.system(rest.strip() or None)
            self.note("a new conversation with this system prompt" if rest.strip() else "no system prompt any more")
        elif word == "/stats":
            self.stats = not self.stats
            self.note(f"figures after each answer: {'on' if self.stats else 'off'}")
        elif word == "/retry":
            while self.messages and self.messages[-1]["role"] == "assistant":
                self.messages.pop()
            if self.messages and self.messages[-1]["role"] == "user":
                await self.turn(self.messages.pop()["content"])
            else:
                self.note("there is no question yet")
        else:
            self.note(EPILOG.partition("while you chat:\n")[2].rstrip())
        return True

    async def turn(self, text: str) -> bool:
        """Ask; Ctrl-C ends the answer only. False: it failed."""
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(self.ask(text))
        loop.add_signal_handler(signal.SIGINT, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            self.note("stopped")
        except HttpFailure as error:
            self.note(str(error))
            return False
        finally:
            loop.remove_signal_handler(signal.SIGINT)
        return True


def read_line() -> str | None:
    """A line from the person, with editing where readline is there; None at the end."""
    try:
        text = input("> ")
        while text.endswith("\\"):
            text = text[:-1] + "\n" + input("… ")
        return text
    except EOFError:
        print()
        return None


async def _run(args: argparse.Namespace) -> int:
    server = Server(args.url, args.api_key)
    chat = Chat(args, server, await server.model(args.model))
    if args.once is not None or not sys.stdin.isatty():
        text = args.once if args.once is not None else sys.stdin.read()
        return 0 if text.strip() and await chat.turn(text.strip()) else 1
    signal.signal(signal.SIGINT, signal.default_int_handler)  # between answers Ctrl-C drops the line
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    chat.note(f"{chat.model} on {server.url}; /help lists commands, Ctrl-D leaves")
    while True:
        try:
            line = read_line()  # nothing else runs meanwhile, so the loop may wait with it
        except KeyboardInterrupt:
            print()
            continue
        if line is None:
            return 0
        if line.startswith("/"):
            if not await chat.command(line.strip()):
                return 0
        elif line.strip():
            await chat.turn(line)


def run(args: argparse.Namespace) -> int:
    return asyncio.run(_run(args))
