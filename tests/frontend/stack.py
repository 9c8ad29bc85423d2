"""A front end and its workers in one process, for tests: mem discovery, a byte tokeniser, scripted workers."""

import asyncio
import contextlib
import json
import pathlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from dynamo.frontend import Frontend, Settings
from dynamo.runtime import DistributedRuntime

BLOCK = 16
EOS = 256
SPECIAL = ["<eos>", "<|im_start|>", "<|im_end|>"]


def make_tokenizer(folder: pathlib.Path) -> pathlib.Path:
    """A tokenizer.json whose ids 0 to 255 are the bytes, and three special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    codes = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    letters = {byte: chr(byte) for byte in codes}
    for extra, byte in enumerate(byte for byte in range(256) if byte not in letters):
        letters[byte] = chr(256 + extra)
    vocab = {letters[byte]: byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))
    return folder


def card(name: str, folder: "pathlib.Path | None", **more: Any) -> Any:
    from dynamo.llm.model import ModelDeploymentCard, ModelInput, ModelType

    more.setdefault("model_type", ModelType.Chat | ModelType.Completions)
    more.setdefault("context_length", 2048)
    more.setdefault("kv_cache_block_size", BLOCK)
    return ModelDeploymentCard.load(folder, name, model_input=ModelInput.Tokens, **more)


class Worker:
    """One worker: its own runtime, an endpoint, a card."""

    def __init__(self, stack: "Stack", handler: Callable[..., Any], name: str, made: Any) -> None:
        self.runtime = DistributedRuntime(asyncio.get_running_loop(), "mem")
        self.endpoint = self.runtime.endpoint("test.worker.generate")
        self.id = self.runtime.instance_id()
        self.task = asyncio.ensure_future(self.endpoint.serve_endpoint(handler, graceful_shutdown=False))
        key = f"v1/mdc/test/worker/generate/{self.id:x}"
        place = {"namespace": "test", "component": "worker", "endpoint": "generate", "instance_id": self.id}
        entry = {"type": "Model", **place, "card_json": made.to_dict()}
        self.runtime.store.put(key, json.dumps(entry).encode(), self.runtime.lease)

    async def die(self) -> None:
        """Gone as after a kill: connections break, discovery forgets."""
        if self.runtime.is_shut_down:
            return
        self.runtime.server.close()
        self.runtime.shutdown()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.task, 5)


class Stack:
    """What a test talks to: `front`, `client` (openai), `http` (httpx)."""

    def __init__(self, tmp_path: pathlib.Path) -> None:
        self.folder = make_tokenizer(tmp_path / "model")
        self.workers: list[Worker] = []

    async def worker(self, handler: Callable[..., Any], name: str = "m", folder: Any = "own", **more: Any) -> Worker:
        made = card(name, self.folder if folder == "own" else folder, **more)
        worker = Worker(self, handler, name, made)
        self.workers.append(worker)
        models = self.front.models.models
        await self.until(lambda: any(w.id == worker.id for model in models.values() for w in model.ready))
        return worker

    async def until(self, true: Callable[[], bool], seconds: float = 10) -> None:
        async def wait() -> None:
            while not true():  # noqa: ASYNC110 -- many things are waited for, few of them tell
                await asyncio.sleep(0.005)

        await asyncio.wait_for(wait(), seconds)

    async def quiet(self) -> None:
        """Until every request is counted: that happens after its client has the answer."""
        await self.until(lambda: not self.front.records.running)

    @property
    def url(self) -> str:
        return self.front.url


@contextlib.asynccontextmanager
async def stack(tmp_path: pathlib.Path, **settings: Any) -> AsyncIterator[Stack]:
    import httpx
    import openai

    made = Stack(tmp_path)
    runtime = DistributedRuntime(asyncio.get_running_loop(), "mem")
    settings.setdefault("router", "round-robin")
    made.front = Frontend(runtime, port=0, settings=Settings.from_environment({}, **settings))
    await made.front.start()
    key = settings.get("api_key") or "none"
    made.client = openai.AsyncOpenAI(base_url=made.url + "/v1", api_key=key, max_retries=0, timeout=20)
    made.http = httpx.AsyncClient(base_url=made.url, timeout=20)
    try:
        yield made
    finally:
        await made.client.close()
        await made.http.aclose()
        await made.front.stop(0.5)
        for worker in made.workers:
            await worker.die()
        runtime.shutdown()


def run(main: Any, seconds: float = 60) -> Any:
    """asyncio.run with a deadline."""

    async def bounded() -> Any:
        return await asyncio.wait_for(main, seconds)

    return asyncio.run(bounded())


def text_of(request: dict[str, Any]) -> str:
    return bytes(i for i in request["token_ids"] if i < 256).decode("utf-8", "replace")


def says(text: str, step: int = 1, delay: float = 0.0, finish: str = "eos") -> Callable[..., Any]:
    """A worker that always says the same, `step` bytes an item."""

    async def handler(request: dict[str, Any], context: Any) -> Any:
        ids = list(text.encode())
        limit = request["stop_conditions"].get("max_tokens") or len(ids) + 1
        for i in range(0, len(ids), step):
            if delay:
                await asyncio.sleep(delay)
            if context.is_stopped():
                return
            piece = ids[i : i + step][: max(0, limit - i)]
            if not piece:
                break
            yield {"token_ids": piece}
        usage = {"prompt_tokens_details": {"cached_tokens": 0}}
        yield {"token_ids": [EOS], "finish_reason": finish, "completion_usage": usage}

    return handler
