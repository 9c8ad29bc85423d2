"""Real models on llama.cpp, by the package `xllamacpp`: token ids in, token ids out, and truth about its cache.

    generate -> slot (mirror: longest prefix) -> POST /completion on loopback -> token ids -> items
                  |  admitted: what the slot loses is removed      |  first token: the prompt is stored
                  |  ended: prompt and answer are stored           |  cache_n is compared with the mirror

The server runs in a process of its own, so it never holds the worker's GIL; its port is on loopback, behind a key
that only this process knows, and its chat endpoint is never used: a request that passes by the mirror would make the
events a lie. Slots do not share their caches, so a prefix that two conversations have in common is copied from slot to
slot (saved and restored through memory) instead of being computed again.

llama.cpp streams text: a token that ends inside a character is held back until the character is whole, and then only
the last id is told. The ids between are found again from their bytes; where more than one choice has those bytes, the
mirror ends before them, so that nothing is announced that was not seen.
"""

import asyncio
import collections
import contextlib
import importlib.util
import json
import os
import pathlib
import random
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from dynamo.engines._loopback import Connection, fetch
from dynamo.engines.base import (
    Engine,
    EngineContext,
    EngineInfo,
    EngineStats,
    EventSink,
    GenerateRequest,
    Progress,
    reused,
    usage,
)
from dynamo.engines.slots import Choice, Slot, Slots, common_prefix
from dynamo.errors import DynamoError, EngineShutdown, InvalidArgument, NotFound, RemoteError, StreamBroken

if TYPE_CHECKING:
    from dynamo.llm.tokenizer import Tokenizer

__all__ = ["LlamaCppEngine"]

# What makes a mirror of the slots possible: the whole window is kept, nothing is shifted, shared or moved to the host.
_MIRRORED = {
    "swa_full": True,
    "kv_unified": False,
    "cache_ram_mib": 0,
    "cache_idle_slots": False,
    "n_cache_reuse": 0,
    "ctx_shift": False,
    "cont_batching": True,
    "cache_prompt": True,
}


class LlamaCppEngine(Engine):
    """A GGUF model on llama.cpp.

    Parameters
    ----------
    model : the GGUF file
    model_name : what the card says; the name of the file when left out
    slots : requests that are computed at a time; further ones wait in the order they came
    context_length : tokens of prompt and answer together, of each slot; by default the model's own, at most 4096
    block_size : tokens of a block in the events
    threads : for computing; by default the cores this process may use
    gpu_layers : layers on an accelerator, -1 for as many as fit
    embeddings : start a second server for `embed`; vectors are the mean over an input's tokens, of length 1
    options : further settings of ``xllamacpp.CommonParams`` by name ("n_ubatch": 256, "cpuparams.poll": 0); those that
        the mirror depends on cannot be changed
    """

    def __init__(
        self,
        model: "str | os.PathLike[str]",
        *,
        model_name: str | None = None,
        slots: int = 4,
        context_length: int | None = None,
        block_size: int = 16,
        threads: int | None = None,
        gpu_layers: int | None = None,
        embeddings: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if slots < 1 or slots > 256:
            raise InvalidArgument(f"slots is {slots}: it must be from 1 to 256")
        if block_size < 2:
            raise InvalidArgument(f"block_size is {block_size}: it must be at least 2")
        for name in options or {}:
            if name in _MIRRORED or name in ("model.path", "n_parallel", "n_ctx", "port", "hostnames", "api_keys"):
                raise InvalidArgument(f"the setting {name!r} is the engine's own: it cannot be changed")
        self._model = pathlib.Path(model)
        self._name = model_name or self._model.stem
        self._count, self._context, self._block_size = slots, context_length, block_size
        self._threads, self._gpu_layers, self._embeds = threads, gpu_layers, embeddings
        self._options = dict(options or {})
        self._server: _Server | None = None
        self._embedder: _Server | None = None
        self._tokenizer: Tokenizer | None = None
        self._by_bytes: dict[bytes, list[int]] = {}
        self._longest = 0
        self._queue: collections.deque[tuple[asyncio.Future[Choice], list[int]]] = collections.deque()
        self._settling: set[asyncio.Task[None]] = set()
        self._death = asyncio.Event()
        self._slots = Slots(slots, block_size)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._prompt_tokens = self._cached_tokens = 0
        # Seconds a token, as measured so far; the first guesses favour trying.
        self._prefill_cost, self._copy_cost, self._copies_failed = 2e-3, 3e-5, 0
        self.counts: collections.Counter[str] = collections.Counter()

    async def start(self, events: EventSink | None = None, progress: Progress | None = None) -> EngineInfo:
        from dynamo.llm.gguf import read_gguf
        from dynamo.llm.tokenizer import gguf_tokenizer

        tell = progress or (lambda what, part: None)
        if importlib.util.find_spec("xllamacpp") is None:
            raise InvalidArgument("the llamacpp engine needs the package 'xllamacpp': pip install 'dynamo[llamacpp]'")
        if not self._model.is_file():
            raise NotFound(f"{self._model}: there is no such model file")
        tell("reading the header", None)
        gguf = await asyncio.to_thread(read_gguf, self._model)
        longest = gguf.context_length or 4096
        context = self._context or min(longest, 4096)
        if context > longest:
            raise InvalidArgument(f"context_length is {context}: {self._name!r} was made for at most {longest} tokens")
        self._folder = tempfile.TemporaryDirectory(prefix="dynamo-slots-", dir=_memory_folder())
        params = {
            **self._shared(),
            **_MIRRORED,
            "n_parallel": self._count,
            "n_ctx": context * self._count,
            "n_threads_http": self._count + 4,
            "slot_save_path": self._folder.name + "/",
        }
        tokenizer = asyncio.create_task(asyncio.to_thread(gguf_tokenizer, gguf))
        try:
            self._server = await _Server.start(params, self._model, tell)
            if self._embeds:
                tell("loading the model for embeddings", None)
                self._context = context
                more = {**self._shared(), "embedding": True, "pooling_type": 1, "n_parallel": 1, "n_ctx": context}
                more["n_batch"] = more["n_ubatch"] = self._embed_room()  # an input is computed in one step
                self._embedder = await _Server.start(more, self._model, lambda what, part: None)
            tell("reading the vocabulary", None)
            self._tokenizer = await tokenizer
        except BaseException:
            tokenizer.cancel()
            await self.shutdown()
            raise
        self._server.on_exit(self._died)
        for i, piece in enumerate(self._tokenizer.tokens):
            if piece and i not in self._tokenizer.special_ids:
                self._by_bytes.setdefault(piece, []).append(i)
        for several in self._by_bytes.values():
            several.reverse()  # pieces come after the single bytes, and are the likelier ones
        self._longest = max(map(len, self._by_bytes), default=0)
        self._slots = Slots(self._count, self._block_size, events)
        # The engine rounds the context of a slot up; what is promised stays what was asked for.
        self.info = EngineInfo(
            self._name,
            context,
            self._block_size,
            total_kv_blocks=self._count * (context // self._block_size),
            max_num_seqs=self._count,
            max_num_batched_tokens=int(self._options.get("n_batch", 2048)),
            eos_token_ids=self._tokenizer.eos_ids,
            assets={"model": str(self._model.resolve())},
            embeds=self._embeds,
        )
        return self.info

    def _shared(self) -> dict[str, Any]:
        threads = self._threads or _cores()
        params: dict[str, Any] = {
            "model.path": str(self._model),
            "port": 0,
            "hostnames": ["127.0.0.1"],
            "cpuparams.n_threads": threads,
            "cpuparams_batch.n_threads": threads,
            "verbosity": -1,
            "ui": False,
            "endpoint_slots": True,
            "endpoint_props": False,
            "timeout_read": 86400,
            "timeout_write": 86400,
        }
        if self._gpu_layers is not None:
            params["n_gpu_layers"] = self._gpu_layers
        return {**params, **self._options}

    # ---- requests -------------------------------------------------------------------------------------------

    async def generate(self, request: Mapping[str, Any], context: EngineContext) -> AsyncIterator[dict[str, Any]]:
        self._ready()
        asked = GenerateRequest.parse(request, self.info)
        vocabulary = len(self._tokenizer.tokens) if self._tokenizer is not None else 0
        if max(asked.token_ids) >= vocabulary:
            raise InvalidArgument(f"token_ids has {max(asked.token_ids)}: the vocabulary has {vocabulary} tokens")
        sampling = _sampling(asked)
        prompt = asked.token_ids
        if asked.max_tokens < 1:
            yield {"token_ids": [], "finish_reason": "length", "completion_usage": usage(len(prompt), 0, 0)}
            return
        stop = asyncio.ensure_future(_stopped(context))
        try:
            chosen = await self._admit(prompt, stop)
            if chosen is None:
                yield {"token_ids": [], "finish_reason": "cancelled", "completion_usage": usage(len(prompt), 0, 0)}
                return
            answer = _Answer(self, asked, sampling, chosen.slot, stop)
            answer.cause = self._cause(chosen, prompt, request.get("estimated_prefix_hit_num_blocks"))
            try:
                if chosen.donor is not None and not await self._copy(chosen.donor, chosen.slot):
                    answer.cause = "copy-failed"
                async for item in answer.items():
                    if "finish_reason" in item:  # first, so that a slow reader does not keep the slot
                        self._release(answer)
                    yield item
            finally:
                self._release(answer)
        finally:
            stop.cancel()

    def _cause(self, chosen: Choice, prompt: list[int], expected: object) -> str:
        """Why the cache has not what the router expected when it sent the prompt here; "" where nothing is special."""
        if chosen.cause == "slot-busy" or type(expected) is not int:
            return chosen.cause
        most = max(common_prefix(slot.tokens, prompt) for slot in self._slots.slots)
        held = min(most, len(prompt) - 1) // self._block_size
        promised = min(expected, (len(prompt) - 1) // self._block_size)
        if promised != held:
            return "slot-taken" if promised > held else "stored-since"
        return chosen.cause

    async def _admit(self, prompt: list[int], stop: "asyncio.Future[None]") -> Choice | None:
        """A slot, as soon as it is this request's turn; none when it is stopped before."""
        if not self._queue and (chosen := self._slots.choose(prompt, self._copy_pays)) is not None:
            return chosen
        turn: asyncio.Future[Choice] = asyncio.get_running_loop().create_future()
        self._queue.append((turn, prompt))
        try:
            either: list[asyncio.Future[Any]] = [turn, stop]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._give_up(turn)
            raise
        if turn.done() and not turn.cancelled():
            return turn.result()
        self._give_up(turn)
        return None

    def _give_up(self, turn: "asyncio.Future[Choice]") -> None:
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            turn.result().slot.busy = False
            self._next()
        turn.cancel()

    def _next(self) -> None:
        """Give free slots to those who wait, first come first served."""
        while self._queue:
            turn, prompt = self._queue[0]
            if turn.done():
                self._queue.popleft()
                continue
            chosen = self._slots.choose(prompt, self._copy_pays)
            if chosen is None:
                return
            self._queue.popleft()
            turn.set_result(chosen)

    def _release(self, answer: "_Answer") -> None:
        """The slot of an answer is free again; when the engine may still work on it, once it has stopped."""
        if answer.released:
            return
        answer.released = True
        answer.hang_up()
        if answer.settled:
            answer.slot.busy = False
            self._next()
            return
        answer.slot.soon = True
        task = asyncio.get_running_loop().create_task(self._settle(answer))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle(self, answer: "_Answer") -> None:
        """After hanging up: wait until the engine has noticed, and take from it how much of the slot is filled."""
        slot, known = answer.slot, answer.asked.token_ids + answer.made
        try:
            pause = 0.002
            while True:
                state = await self._slot_state(slot.id)
                if not state.get("is_processing"):
                    break
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, 0.1)
            filled = int(state.get("n_prompt_tokens", 0))
            self._slots.set(slot, known[: min(filled, answer.certain)], exact=filled <= answer.certain)
        except Exception:
            self._slots.forget(slot)
        finally:
            slot.busy = slot.soon = False
            self._next()

    async def _slot_state(self, slot: int) -> dict[str, Any]:
        states = json.loads(await (await self._ready().fetch("GET", "/slots")).whole())
        return next((state for state in states if state.get("id") == slot), {})

    def _copy_pays(self, reused: int, held: int) -> bool:
        """Whether copying `held` tokens is faster than computing `reused` tokens, by what both took so far."""
        pays = self._copies_failed < 3 and reused * self._prefill_cost > held * self._copy_cost
        self.counts["copies_too_dear"] += not pays
        return pays

    def _learn(self, computed: int, took_ms: float) -> None:
        if computed >= 32:  # fewer say more about the machine's mood than about its speed
            self._prefill_cost += (took_ms / 1e3 / computed - self._prefill_cost) / 4

    async def _copy(self, donor: Slot, slot: Slot) -> bool:
        """Give a slot what another one holds. The file is in memory where the system has such a place."""
        server, name = self._ready(), f"{secrets.token_hex(8)}.kv"
        donor.busy = donor.soon = True  # what is copied must not change meanwhile
        began = time.perf_counter()
        try:
            body = json.dumps({"filename": name}).encode()
            for which, action in ((donor, "save"), (slot, "restore")):
                connection = await server.fetch("POST", f"/slots/{which.id}?action={action}", body)
                answer = await connection.whole()
                if connection.status != 200:
                    raise RemoteError(f"slot {which.id} could not {action}: {answer.decode('utf-8', 'replace')[:200]}")
            tokens = json.loads(answer).get("n_restored")
            self._slots.set(slot, donor.tokens[:tokens], exact=tokens == len(donor.tokens))
            self.counts["copied_prefixes"] += 1
            self._copies_failed = 0
            took = time.perf_counter() - began
            self._copy_cost += (took / max(1, len(donor.tokens)) - self._copy_cost) / 4
            return True
        except (RemoteError, ValueError):
            self.counts["copies_failed"] += 1
            self._copies_failed += 1
            self._slots.forget(slot)
            return False
        finally:
            donor.busy = donor.soon = False
            if self._folder is not None:
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(self._folder.name, name))
            self._next()

    def _hidden(self, count: int, ids: list[int], content: str, raw: list[int] | None) -> tuple[list[int], bool]:
        """The ids that the engine made before `ids` and did not tell, and whether they are sure.

        Parameters
        ----------
        content : the text of all of them; bytes that are not UTF-8 are lost in it
        raw : their bytes, where the engine told
        """
        tokenizer = self._tokenizer
        assert tokenizer is not None
        whole = bytes(raw) if raw is not None else content.encode() if "\ufffd" not in content else None
        tail = b"".join(tokenizer.tokens[i] for i in ids if i not in tokenizer.special_ids)
        if whole is not None and whole.endswith(tail) and count <= 64 and len(whole) <= 512:
            found = _spellings(whole[: len(whole) - len(tail)], count, self._by_bytes, self._longest)
            if found:
                return found[0], len(found) == 1
        text = content.removesuffix(tail.decode("utf-8", "replace"))
        return tokenizer.encode(text, add_special=False, parse_special=False).tolist()[:count], False

    # ---- the rest of the protocol ---------------------------------------------------------------------------

    async def embed(self, request: Mapping[str, Any], context: EngineContext) -> list[list[float]]:
        if self._embedder is None:
            raise InvalidArgument(f"{self._name!r} was started without embeddings (embeddings=True)")
        batch = request.get("batch_token_ids") or ([request["token_ids"]] if request.get("token_ids") else [])
        prompts = [GenerateRequest.parse({"token_ids": ids}, self.info).token_ids for ids in batch]
        if not prompts:
            raise InvalidArgument("batch_token_ids is empty: there is nothing to embed")
        if len(longest := max(prompts, key=len)) > self._embed_room():
            raise InvalidArgument(f"an input has {len(longest)} tokens; {self._embed_room()} can be embedded at a time")
        vectors = []
        for prompt in prompts:
            connection = await self._embedder.fetch("POST", "/embeddings", json.dumps({"content": prompt}).encode())
            answer = json.loads(await connection.whole())
            if connection.status != 200:
                raise RemoteError(f"the engine made no embedding: {answer}")
            vector = answer[0]["embedding"]
            vectors.append(vector[0] if vector and isinstance(vector[0], list) else vector)
        return vectors

    def _embed_room(self) -> int:
        return min(self._context or 2048, 2048)

    def stats(self) -> EngineStats:
        busy = [slot for slot in self._slots.slots if slot.busy]
        return EngineStats(
            running=len(busy),
            waiting=sum(not turn.done() for turn, _ in self._queue),
            max_num_seqs=self._count,
            active_blocks=sum(-(-len(slot.tokens) // self._block_size) for slot in busy),
            total_blocks=self.info.total_kv_blocks or 0,
            cached_tokens=self._cached_tokens,
            prompt_tokens=self._prompt_tokens,
            counts={"held_blocks": self._slots.held_blocks, **self.counts},
        )

    def _ready(self) -> "_Server":
        server = self._server
        if server is None:
            raise EngineShutdown(f"the engine of {self._name!r} is not running: start it first")
        if server.exited is not None:
            raise EngineShutdown(f"the engine of {self._name!r} died: {server.exited}")
        return server

    async def failed(self) -> DynamoError:
        await self._death.wait()
        return EngineShutdown(
            f"the engine of {self._name!r} died: {self._server.exited if self._server else 'unknown'}"
        )

    def _died(self) -> None:
        """The server's process is gone: whatever it held is, too."""
        self._death.set()
        self._slots.clear()
        for turn, _ in self._queue:
            if not turn.done():
                turn.set_exception(EngineShutdown(f"the engine of {self._name!r} died"))
        self._queue.clear()

    async def shutdown(self) -> None:
        for task in list(self._settling):
            task.cancel()
        servers, self._server, self._embedder = (self._server, self._embedder), None, None
        for server in servers:
            if server is not None:
                await server.stop()
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.cleanup()


class _Answer:
    """One request in one slot: the engine's events, turned into items."""

    def __init__(
        self,
        engine: LlamaCppEngine,
        asked: GenerateRequest,
        sampling: dict[str, Any],
        slot: Slot,
        stop: "asyncio.Future[None]",
    ) -> None:
        self.engine, self.asked, self.sampling, self.slot, self.stop = engine, asked, sampling, slot, stop
        self.made: list[int] = []  # ids of the answer, as the client gets them
        self.unsure: int | None = None  # from this token of prompt and answer on, ids are a guess
        self.settled = True  # the engine does not work for this any more
        self.cached: int | None = None  # tokens of the prompt that the engine reused, once it has said so
        self.mirror = 0  # tokens of the prompt that the slot held at admission, by its mirror
        self.cause = ""
        self.released = False
        self._told = False  # the first item went out
        self._connection: Connection | None = None
        self.may_hold_more = False  # the engine may reuse more than was foretold
        self._stored = False  # the prompt is announced
        self._stream = True

    @property
    def certain(self) -> int:
        """Tokens of prompt and answer that are known for sure."""
        known = len(self.asked.token_ids) + len(self.made)
        return known if self.unsure is None else min(self.unsure, known)

    async def items(self) -> AsyncIterator[dict[str, Any]]:
        asked, slots, slot = self.asked, self.engine._slots, self.slot
        self.mirror = slots.foretell(slot, asked.token_ids)
        foretold: int | None = self.mirror
        # What the slot holds beyond the common prefix is lost as soon as the engine begins.
        self.may_hold_more = not slot.exact and foretold == len(slot.tokens)
        slots.set(slot, slot.tokens[:foretold], exact=not self.may_hold_more)
        while True:
            left = asked.max_tokens - len(self.made)
            early = asked.min_tokens - len(self.made)
            body: dict[str, Any] = {"n_predict": left, "ignore_eos": asked.ignore_eos}
            if early > 0 and not asked.ignore_eos:  # a first part in which nothing can end the answer
                body = {"n_predict": min(early, left), "ignore_eos": True}
                if asked.stop_token_ids:
                    body["logit_bias"] = [[i, False] for i in sorted(asked.stop_token_ids)]
            async for item in self._part(body, foretold):
                if not self._told and self.cached is not None:
                    self._told = True
                    item["engine_data"] = reused(self.cached, self.mirror, self.cause)
                yield item
                if "finish_reason" in item:
                    return
            foretold = None

    async def _part(self, more: dict[str, Any], foretold: int | None) -> AsyncIterator[dict[str, Any]]:
        """One request to the engine. The last item has a finish reason, unless the answer must go on."""
        asked, slots, slot = self.asked, self.engine._slots, self.slot
        seed = random.randrange(0xFFFFFFFF) if asked.seed is None else (asked.seed + len(self.made)) % 0xFFFFFFFF
        body = {**self.sampling, **more, "prompt": asked.token_ids + self.made, "id_slot": slot.id, "seed": seed}
        body["stream"] = body["return_progress"] = self._stream
        connection = await self.engine._ready().fetch("POST", "/completion", msgspec.json.encode(body))
        self.settled, self._connection = False, connection
        self.stop.add_done_callback(self.hang_up)
        try:
            item: dict[str, Any] = {"token_ids": []}
            seen, last = 0, None
            if not body["stream"]:
                try:
                    last = self._whole(await connection.whole(), connection, item)
                except StreamBroken:
                    if not self.stop.done():
                        raise self._failure(connection) from None
                    yield self._end(item, "cancelled")
                    return
                seen = len(item["token_ids"])
            while last is None:
                await connection.wait()
                if self.stop.done():
                    yield self._end({"token_ids": []}, "cancelled")
                    return
                if not connection.events:
                    raise self._failure(connection)
                events, connection.events = connection.events, []
                item = {"token_ids": []}
                for raw in events:
                    event = msgspec.json.decode(raw)
                    if "error" in event:
                        raise self._failure(connection, event)
                    if event.get("stop"):
                        last = event
                        break
                    if (progress := event.get("prompt_progress")) is not None:  # its "tokens" mean nothing
                        if foretold is not None and self.cached is None:
                            self._check(foretold, int(progress.get("cache", 0)))
                        continue
                    seen += self._take(event, seen, item)
                    if self._cut(item):
                        yield self._end(item, "stop", item["token_ids"][-1])
                        return
                if item["token_ids"] and not self._stored:
                    self._stored = True
                    slots.set(slot, list(asked.token_ids))
                if item["token_ids"] and last is None:
                    yield item
            self.settled = True
            if foretold is not None:
                timings = last.get("timings") or {}
                if self.cached is None:
                    self._check(foretold, int(timings.get("cache_n", 0)))
                self.engine._learn(int(timings.get("prompt_n", 0)), float(timings.get("prompt_ms", 0.0)))
            # Tokens that never came to light, because the end fell into a character: a stream does not tell them, an
            # answer in one piece does. So what is left is asked for again, that way.
            missing = int(last.get("tokens_predicted", seen)) - seen
            self._stream = missing <= 0
            filled = int(last.get("tokens_cached", 0))
            everything = asked.token_ids + self.made
            slots.set(slot, everything[: min(filled, self.certain)], exact=filled <= self.certain)
            if last.get("stop_type") == "eos":
                if missing > 0:
                    self._add(item, list(self.engine.info.eos_token_ids[:1]), sure=False)
                yield self._end(item, "eos", self.made[-1] if self.made else None)
            elif self._cut(item):
                yield self._end(item, "stop", item["token_ids"][-1])
            elif len(self.made) >= asked.max_tokens or last.get("truncated"):
                yield self._end(item, "length")
            elif item["token_ids"]:
                yield item
        finally:
            self.stop.remove_done_callback(self.hang_up)
            connection.close()

    def hang_up(self, _: object = None) -> None:
        """The engine notices, and stops, when nobody listens."""
        if self._connection is not None:
            self._connection.close()

    def _take(self, event: dict[str, Any], seen: int, item: dict[str, Any]) -> int:
        """Add the tokens of one event to an item; how many the engine made for it."""
        ids = event.get("tokens") or []
        chosen = (event.get("completion_probabilities") or [{}])[-1]
        count = int(event.get("tokens_predicted", seen + len(ids))) - seen
        hidden: list[int] = []
        if count > len(ids):
            hidden, sure = self.engine._hidden(count - len(ids), ids, event.get("content", ""), chosen.get("bytes"))
            self._add(item, hidden, sure)
            self.engine.counts["tokens_hidden"] += count - len(ids)
            self.engine.counts["tokens_guessed"] += 0 if sure else count - len(ids)
        self._add(item, ids, sure=True)
        if (wanted := self.asked.logprobs) is not None:
            item.setdefault("log_probs", []).extend([*[None] * len(hidden), *[chosen.get("logprob")] * len(ids)])
            top = [
                {
                    "rank": rank,
                    "token_id": one["id"],
                    "token": one.get("token", ""),
                    "logprob": one.get("logprob"),
                    "bytes": one.get("bytes"),
                }
                for rank, one in enumerate((chosen.get("top_logprobs") or [])[:wanted], 1)
            ]
            item.setdefault("top_logprobs", []).extend([*([] for _ in hidden), *(top for _ in ids)])
        return count

    def _whole(self, raw: bytes, connection: Connection, item: dict[str, Any]) -> dict[str, Any]:
        """An answer in one piece: all its tokens are told, but not the probabilities of all."""
        if connection.status != 200:
            raise self._failure(connection)
        last: dict[str, Any] = msgspec.json.decode(raw)
        ids = last.get("tokens") or []
        self._add(item, ids, sure=True)
        if self.asked.logprobs is not None:
            item["log_probs"], item["top_logprobs"] = [None] * len(ids), [[] for _ in ids]
        return last

    def _add(self, item: dict[str, Any], ids: list[int], sure: bool) -> None:
        if not sure and self.unsure is None:
            self.unsure = len(self.asked.token_ids) + len(self.made)
        self.made += ids
        item["token_ids"] += ids

    def _cut(self, item: dict[str, Any]) -> bool:
        """End an item after the first stop token in it; whether there is one."""
        stops, ids = self.asked.stop_token_ids, item["token_ids"]
        if stops and not self.asked.ignore_eos:
            before = len(self.made) - len(ids)
            for n, token in enumerate(ids, 1):
                if token in stops and before + n > self.asked.min_tokens:
                    del self.made[before + n :]
                    for name in ("token_ids", "log_probs", "top_logprobs"):
                        if name in item:
                            del item[name][n:]
                    return True
        return False

    def _end(self, item: dict[str, Any], reason: str, stopped_by: int | None = None) -> dict[str, Any]:
        prompt = len(self.asked.token_ids)
        item["finish_reason"] = reason
        if stopped_by is not None:
            item["stop_reason"] = stopped_by
        item["completion_usage"] = usage(prompt, len(self.made), self.cached or 0)
        self.engine._prompt_tokens += prompt
        self.engine._cached_tokens += self.cached or 0
        return item

    def _check(self, foretold: int, cached: int) -> None:
        """Compare what the engine reused with what the mirror foretold."""
        counts = self.engine.counts
        self.cached = cached
        counts["requests"] += 1
        if cached == foretold:
            counts["mirror_agreed"] += 1
        elif cached > foretold and self.may_hold_more:
            counts["mirror_knew_less"] += 1  # a part of the slot that had not been seen turned out to be the same
            self.cause = "mirror-knew-less"
        else:
            counts["mirror_wrong_more" if cached > foretold else "mirror_wrong_less"] += 1
            self.cause = "mirror-wrong"
            self.engine._slots.forget(self.slot)

    def _failure(self, connection: Connection, event: dict[str, Any] | None = None) -> DynamoError:
        if event is None and connection.status not in (0, 200):
            with contextlib.suppress(ValueError):
                event = json.loads(bytes(connection.body))
        if event is not None:
            error = event.get("error")
            message = error.get("message", str(error)) if isinstance(error, dict) else str(error)
            kind = error.get("type") if isinstance(error, dict) else None
            if kind in ("invalid_request_error", "exceed_context_size_error"):
                return InvalidArgument(f"the engine refuses the request: {message}")
            return RemoteError(f"the engine failed: {message}")
        self.engine._ready()
        return EngineShutdown(connection.broken or f"the engine answered with status {connection.status}")


def _sampling(asked: GenerateRequest) -> dict[str, Any]:
    """A request's sampling in the words of llama.cpp; nothing is left to its defaults."""
    body: dict[str, Any] = {
        "return_tokens": True,
        "cache_prompt": True,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": asked.top_k,
        "min_p": asked.min_p,
        "presence_penalty": asked.presence_penalty,
        "frequency_penalty": asked.frequency_penalty,
        "repeat_penalty": asked.repetition_penalty,
    }
    if asked.presence_penalty or asked.frequency_penalty or asked.repetition_penalty != 1.0:
        body["repeat_last_n"] = len(asked.token_ids) + asked.max_tokens  # penalties look at all of it
    if asked.logprobs is not None:
        body["n_probs"] = max(1, asked.logprobs)
    for kind, value in asked.guided.items():
        if kind == "json":
            body["json_schema"] = json.loads(value) if isinstance(value, str) else value
        elif kind == "grammar" and isinstance(value, str):
            body["grammar"] = value
        elif kind == "choice" and isinstance(value, list) and value and all(isinstance(v, str) for v in value):
            body["grammar"] = "root ::= " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in value)
        elif kind not in ("backend", "whitespace_pattern"):
            raise InvalidArgument(f"guided_decoding.{kind} is not supported by llama.cpp: json, grammar and choice are")
    return body


async def _stopped(context: EngineContext) -> None:
    """Until the request is stopped or killed."""
    wait = getattr(context, "async_killed_or_stopped", None)
    if wait is not None:
        await wait()
    while not context.is_stopped():  # noqa: ASYNC110 -- a context has nothing to wait on
        await asyncio.sleep(0.02)


class _Server:
    """The process of a server: starting it, reaching it, noticing its end."""

    def __init__(self, process: asyncio.subprocess.Process, key: str) -> None:
        self._process, self._key = process, key
        self._address = ("127.0.0.1", 0)
        self._errors = bytearray()
        self._watch: list[asyncio.Task[None]] = []
        self._tell_exit: Callable[[], None] | None = None
        self.exited: str | None = None

    @classmethod
    async def start(cls, params: dict[str, Any], model: pathlib.Path, tell: Progress) -> "_Server":
        key = secrets.token_urlsafe(24)
        program = pathlib.Path(__file__).with_name("_llamacpp_process.py")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(program)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        server = cls(process, key)
        server._watch.append(asyncio.create_task(server._read_errors()))
        assert process.stdin is not None and process.stdout is not None
        settings = {"parent": os.getpid(), "params": {**params, "api_keys": [key]}}
        loading = asyncio.create_task(_report(process.pid, model, tell))
        try:
            process.stdin.write(json.dumps(settings).encode() + b"\n")
            with contextlib.suppress(ConnectionError):
                await process.stdin.drain()
            line = await process.stdout.readline()
            answer = json.loads(line) if line else {}
            if "address" not in answer:
                await process.wait()
                await server._watch[0]
                said = answer.get("error") or f"its process ended with status {process.returncode}"
                raise RemoteError(f"{model}: llama.cpp cannot load the model: {said}{server._last_words()}")
        except BaseException:
            await server.stop()
            raise
        finally:
            loading.cancel()
        host, _, port = answer["address"].rpartition("://")[2].rpartition(":")
        server._address = (host, int(port))
        server._watch.append(asyncio.create_task(server._wait()))
        return server

    async def fetch(self, method: str, path: str, body: bytes = b"") -> Connection:
        return await fetch(self._address, method, path, self._key, body)

    def on_exit(self, tell: "Callable[[], None]") -> None:
        self._tell_exit = tell

    async def _read_errors(self) -> None:
        assert self._process.stderr is not None
        while piece := await self._process.stderr.read(4096):
            self._errors = (self._errors + piece)[-4096:]

    def _last_words(self) -> str:
        text = bytes(self._errors).decode("utf-8", "replace").strip()
        return f"; its last words: {text[-500:]}" if text else ""

    async def _wait(self) -> None:
        status = await self._process.wait()
        self.exited = f"its process ended with status {status}{self._last_words()}"
        if self._tell_exit is not None:
            self._tell_exit()

    async def stop(self) -> None:
        self._tell_exit = None
        process = self._process
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 1.0)
        except asyncio.TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        for task in self._watch:
            task.cancel()
        await asyncio.gather(*self._watch, return_exceptions=True)


async def _report(pid: int, model: pathlib.Path, tell: Progress) -> None:
    """While a model loads: how much of its file the process has touched, where the system tells."""
    while True:
        tell("loading the model", _touched(pid, model))
        await asyncio.sleep(0.1)


def _touched(pid: int, model: pathlib.Path) -> float | None:
    try:
        with open(f"/proc/{pid}/statm") as file:
            shared = int(file.read().split()[2]) * os.sysconf("SC_PAGE_SIZE")
        return min(0.99, shared / max(1, model.stat().st_size))
    except (OSError, ValueError, IndexError):
        return None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_folder() -> str | None:
    """A folder in memory with room for copies of slots; None for the system's temporary folder."""
    with contextlib.suppress(OSError):
        room = os.statvfs("/dev/shm")
        if os.access("/dev/shm", os.W_OK) and room.f_bavail * room.f_frsize >= 1 << 29:
            return "/dev/shm"
    return None


def _spellings(raw: bytes, count: int, pieces: Mapping[bytes, list[int]], longest: int) -> list[list[int]]:
    """At most two ways to write bytes with exactly `count` tokens."""
    found: list[list[int]] = []
    dead: set[tuple[int, int]] = set()  # (place, tokens left) from where there is no way

    def walk(at: int, left: int, path: list[int]) -> bool:
        if left == 0:
            if at == len(raw):
                found.append(list(path))
                return True
            return False
        if (at, left) in dead:
            return False
        some = False
        for end in range(min(len(raw) - left + 1, at + longest), at, -1):
            for i in pieces.get(raw[at:end], ()):
                path.append(i)
                some = walk(end, left - 1, path) or some
                path.pop()
                if len(found) >= 2:
                    return True
        if not some:
            dead.add((at, left))
        return some

    walk(0, count, [])
    return found
