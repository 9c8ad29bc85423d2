"""A language model behind Quill: unary, streamed as JSON, and streamed as token batches.

python server.py                          a simulated engine; --model FILE.gguf gives it that model's words
python server.py --engine llamacpp --model FILE.gguf
"""

import argparse
import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import numpy as np

from dynamo import quill
from dynamo.engines.base import Engine
from dynamo.llm.tokenizer import Tokenizer, load_tokenizer
from dynamo.runtime import Context

SERVICE = "inference.v1.LLMService"


class Generate(msgspec.Struct):
    """What a client asks for: a text, or an embedding, whose strongest dimensions are then the prompt's token ids."""

    prompt: str | None = None
    embedding: list[float] | None = None
    max_tokens: int = 50


class Model:
    def __init__(self, engine: Engine, tokenizer: Tokenizer | None) -> None:
        self.engine = engine
        self.tokenizer = tokenizer

    def ids(self, asked: Generate) -> list[int]:
        if asked.embedding:
            vocabulary = len(self.tokenizer) if self.tokenizer else 32000
            order = np.argsort(-np.asarray(asked.embedding, np.float32), kind="stable")[:16]
            return [int(i) % vocabulary for i in order]
        text = asked.prompt or "Hello"
        return list(text.encode()) if self.tokenizer is None else self.tokenizer.encode(text).tolist()

    async def tokens(self, asked: Generate, context: Context) -> AsyncIterator[list[quill.Token]]:
        """The answer, a list of tokens for each step of the engine."""
        request = {
            "token_ids": self.ids(asked),
            "stop_conditions": {"max_tokens": asked.max_tokens},
            "sampling_options": {"temperature": 0.0},
        }
        position, text = 0, None
        if self.tokenizer is not None:
            from dynamo._tokens import Detokenizer, Vocab

            table = self.tokenizer.table()
            text = Detokenizer(Vocab.from_table(*table), skip_special_tokens=True)
        async for item in self.engine.generate(request, context):
            step = []
            for id in item["token_ids"]:
                word = f" t{id}" if text is None else text.push([id])
                step.append(quill.Token(id, position, text=word))
                position += 1
            if step:
                yield step


def serve(model: Model) -> quill.QuillServer:
    server = quill.QuillServer(timeout_ms=120_000)

    @server.method(SERVICE, "Generate", request=Generate)
    async def generate(asked: Generate, context: Context) -> dict[str, Any]:
        """All at once: {"tokens": [{"id", "text", ...}], "text"}."""
        tokens = [token.to_dict() async for step in model.tokens(asked, context) for token in step]
        return {"tokens": tokens, "text": "".join(token["text"] or "" for token in tokens)}

    @server.method(SERVICE, "Stream", request=Generate)
    async def stream(asked: Generate, context: Context) -> AsyncIterator[dict[str, Any]]:
        """A JSON message for each step."""
        async for step in model.tokens(asked, context):
            yield {"tokens": [token.to_dict() for token in step]}

    @server.method(SERVICE, "Batches", request=Generate)
    async def batches(asked: Generate, context: Context) -> AsyncIterator[quill.TokenBatch]:
        """A TokenBatch for each step: a few bytes a token."""
        async for step in model.tokens(asked, context):
            yield quill.TokenBatch.from_tokens(step)

    return server


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=["mocker", "llamacpp"], default="mocker")
    parser.add_argument("--model", help="a GGUF file")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--speedup", type=float, default=1.0, help="of the simulated engine; 0: waits for nothing")
    args = parser.parse_args()

    if args.engine == "llamacpp":
        from dynamo.engines.llamacpp import LlamaCppEngine

        if args.model is None:
            parser.error("--engine llamacpp needs --model FILE.gguf")
        engine: Engine = LlamaCppEngine(args.model)
    else:
        from dynamo.engines.mocker import MockerEngine

        engine = MockerEngine(speedup=args.speedup, assets={"model": args.model} if args.model else None)
    tokenizer = None
    if args.model:
        tokenizer = load_tokenizer(args.model)
    await engine.start()
    server = serve(Model(engine, tokenizer))
    try:
        running = asyncio.ensure_future(server.serve(port=args.port))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, running.cancel)
        await asyncio.sleep(0)
        print(f"listening on {server.address}", flush=True)
        await asyncio.gather(running, return_exceptions=True)
    finally:
        await engine.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
