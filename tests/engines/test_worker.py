"""An engine behind an endpoint: found, called, failing, and giving its files away."""

import asyncio
import contextlib
import json
import os
import pathlib
import signal

import pytest

from dynamo.engines.base import Engine
from dynamo.engines.echo import EchoEngine
from dynamo.engines.worker import serve_engine
from dynamo.errors import EngineShutdown, InvalidArgument, RemoteError, Unavailable
from dynamo.llm.assets import ModelAssets, load_assets
from dynamo.llm.model import ModelDeploymentCard, ModelType
from dynamo.llm.transfer import _checked_list, fetch_from_worker
from dynamo.runtime import DistributedRuntime


@contextlib.asynccontextmanager
async def serving(engine, **options):
    """A runtime, and the task that serves the engine; the worker is ready inside."""
    runtime, ready = DistributedRuntime(asyncio.get_running_loop(), "mem"), asyncio.Event()
    options.setdefault("kv_events", False)
    task = asyncio.create_task(
        serve_engine(runtime, engine, namespace="ns", on_ready=lambda info: ready.set(), **options)
    )
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([task, waiting], timeout=30, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        if task.done():
            await task
        yield runtime, task
    finally:
        runtime.shutdown()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(task, 30)


async def ask(runtime, request):
    client = await runtime.endpoint("ns.backend.generate").client()
    await asyncio.wait_for(client.wait_for_instances(), 10)
    items = []
    async for item in await client.round_robin(request):
        items.append(item.data() if hasattr(item, "data") else item)
    return items


def cards(runtime):
    found = [json.loads(value)["card_json"] for value in runtime.store.list("v1/mdc").values()]
    return [ModelDeploymentCard.from_json_str(json.dumps(card)) for card in found]


def read(path):
    return pathlib.Path(path).read_bytes()


def run(work):
    asyncio.run(asyncio.wait_for(work, 60))


def test_a_worker_is_found_by_its_card_and_answers(tiny_gguf):
    async def work():
        engine = EchoEngine("echo", assets={"tokenizer": str(tiny_gguf)}, context_length=100)
        async with serving(engine, model_name="my/echo", migration_limit=2) as (runtime, _):
            (card,) = cards(runtime)
            assert (card.display_name, card.context_length, card.kv_cache_block_size) == ("my/echo", 100, 16)
            assert card.model_type() == ModelType.Chat | ModelType.Completions and card.migration_limit == 2
            assert load_assets(card).encode("hello").tolist()[0] == 1
            items = await ask(runtime, {"token_ids": [1, 2, 3]})
            assert [i for item in items for i in item["token_ids"]] == [1, 2, 3]
            assert items[-1]["finish_reason"] == "stop"
            with pytest.raises((InvalidArgument, RemoteError), match="empty"):
                await ask(runtime, {"token_ids": []})
            with pytest.raises((InvalidArgument, RemoteError), match="no embeddings"):
                await ask(runtime, {"batch_token_ids": [[1]]})
            with pytest.raises((InvalidArgument, RemoteError), match="must be an object"):
                await ask(runtime, "hello")
        assert runtime.is_shut_down

    run(work())


def test_an_engine_without_files_is_registered_by_name_only():
    async def work():
        async with serving(EchoEngine("bare")) as (runtime, _):
            (card,) = cards(runtime)
            assert card.file("tokenizer") is None and card.model_type() == ModelType.Completions

    run(work())


def test_the_real_engine_serves_many_at_once_and_shuts_down(tiny_gguf):
    pytest.importorskip("xllamacpp")
    from dynamo.engines.llamacpp import LlamaCppEngine

    async def work():
        progress = []
        engine = LlamaCppEngine(tiny_gguf, slots=2, context_length=256, threads=1)
        async with serving(engine, progress=lambda what, part: progress.append(what)) as (runtime, _):
            (card,) = cards(runtime)
            assert card.limits.total_kv_blocks == 32 and card.limits.max_num_seqs == 2
            ids = load_assets(card).chat([{"role": "user", "content": "hello"}])[1].tolist()
            request = {"token_ids": ids, "stop_conditions": {"max_tokens": 10}}
            answers = await asyncio.gather(*(ask(runtime, request) for _ in range(6)))
            for items in answers:
                assert sum(len(item["token_ids"]) for item in items) == 10
                assert items[-1]["completion_usage"]["prompt_tokens"] == len(ids)
            assert "loading the model" in progress
            assert engine.counts["mirror_wrong_more"] == engine.counts["mirror_wrong_less"] == 0
        assert engine._server is None

    run(work())


def test_an_engine_that_dies_takes_its_worker_out_of_discovery(tiny_gguf):
    pytest.importorskip("xllamacpp")
    from dynamo.engines.llamacpp import LlamaCppEngine

    async def work():
        engine = LlamaCppEngine(tiny_gguf, slots=2, context_length=256, threads=1)
        async with serving(engine) as (runtime, task):
            os.kill(engine._server._process.pid, signal.SIGKILL)
            with pytest.raises(EngineShutdown, match="died"):
                await asyncio.wait_for(asyncio.shield(task), 10)
            assert cards(runtime) == [] and runtime.store.list("v1/instances") == {}

    run(work())


def test_an_engine_that_cannot_start_leaves_nothing_behind():
    class Broken(Engine):
        closed = False

        async def start(self, events=None, progress=None):
            raise InvalidArgument("no such thing")

        async def generate(self, request, context):
            yield {}

        async def shutdown(self):
            self.closed = True

    async def work():
        engine = Broken()
        with pytest.raises(InvalidArgument, match="no such thing"):
            async with serving(engine):
                pass
        assert engine.closed

    run(work())


def test_cache_events_reach_an_index(tiny_gguf):
    pytest.importorskip("xllamacpp")
    publisher = pytest.importorskip("dynamo.llm.publisher")
    from dynamo.engines.llamacpp import LlamaCppEngine
    from dynamo.llm import RadixTree, compute_block_hashes

    async def work():
        engine = LlamaCppEngine(tiny_gguf, slots=2, context_length=256, threads=1)
        async with serving(engine, kv_events=True) as (runtime, _):
            tree = RadixTree()
            follower = publisher.EventFollower(runtime.store, "ns", "backend", tree)
            await asyncio.wait_for(follower.synced(), 10)
            prompt = [1, *range(300, 363)]
            await ask(runtime, {"token_ids": prompt, "stop_conditions": {"max_tokens": 4}})
            wanted = compute_block_hashes(prompt, 16)
            for _ in range(500):
                found = tree.find_matches(wanted).scores
                if found:
                    break
                await asyncio.sleep(0.01)
            assert list(found.values()) == [4]
            follower.close()

    run(work())


def test_files_go_from_worker_to_worker_whole_or_as_much_as_a_front_end_needs(tiny_gguf, tmp_path):
    async def work():
        engine = EchoEngine("echo", assets={"model": str(tiny_gguf)})
        async with serving(engine, share_files=True):
            whole = await fetch_from_worker("dyn://ns.backend.generate", folder=str(tmp_path / "whole"))
            assert read(whole) == tiny_gguf.read_bytes()
            again = await fetch_from_worker("dyn://ns.backend.generate", folder=str(tmp_path / "whole"))
            assert again == whole and [one.name for one in (tmp_path / "whole").iterdir()] == ["tiny.gguf"]
            part = await fetch_from_worker("dyn://ns.backend.generate", True, str(tmp_path / "part"))
            assert read(whole).startswith(read(part)) and read(part) != read(whole) != b""
            assert (
                ModelAssets("m", part).encode("hello").tolist() == ModelAssets("m", tiny_gguf).encode("hello").tolist()
            )
            with pytest.raises(Unavailable, match="no worker gives"):
                await fetch_from_worker("dyn://ns.backend.other", patience=0.1)

    run(work())


@pytest.mark.parametrize(
    "listed",
    [
        [],
        [5],
        [{"name": "../x", "size": 1, "sum": ""}],
        [{"name": ".hidden", "size": 1, "sum": ""}],
        [{"name": "x", "size": -1, "sum": ""}],
        [{"name": "x", "size": 1 << 50, "sum": ""}],
        [{"name": "x", "size": 1}],
        [{"name": "x", "size": 1, "sum": ""}] * 100,
    ],
)
def test_a_listing_that_cannot_be_trusted_is_refused(listed):
    with pytest.raises(RemoteError):
        _checked_list("dyn://a.b.c", listed, False)
