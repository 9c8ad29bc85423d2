"""The front end: an OpenAI client on one side, workers on the other.

    HTTP request --read, tokenise (prepare)--> pick a worker (SelectionCore) --call--> answer (C) --> SSE or JSON
                                                      |                            |
                                                what it promised            a call that broke: the rest goes elsewhere

Python runs a few times per request: here. Tokens do not pass through it.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from dynamo._http import Request, Server
from dynamo._metrics import Registry
from dynamo._runtime import encode
from dynamo._serve import Answer, RouterBooking
from dynamo._tokens import StopStrings
from dynamo.errors import DynamoError, InvalidArgument, NotFound, Overloaded, Unavailable
from dynamo.frontend.embeddings import embed
from dynamo.frontend.errors import ApiError, bad_request, not_found, overloaded, unavailable
from dynamo.frontend.metrics import Metrics
from dynamo.frontend.models import Model, Models, Worker
from dynamo.frontend.page import Page
from dynamo.frontend.prepare import (
    Prompt,
    Routing,
    annotation,
    max_tokens,
    payload,
    prepare_chat,
    prepare_completion,
    routing_of,
)
from dynamo.frontend.protocol import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    check_chat,
    check_completion,
    check_embedding,
    read,
    stop_strings,
)
from dynamo.frontend.records import Record, Records
from dynamo.frontend.settings import Settings
from dynamo.frontend.texts import pass_on

__all__ = ["Frontend"]

_log = logging.getLogger("dynamo.frontend")

# Ends of a call after which another worker may go on; by the name of the C code.
_MOVABLE = frozenset({"ECONN", "EBROKEN", "ESHUTDOWN", "EUNAVAIL", "ECLOSED", "ENOENT", "EOVERLOAD"})
_INHIBIT_SECONDS = 5.0
_PASSED_ON = ("traceparent", "tracestate")


class Frontend:
    """Serve the models of a runtime's discovery.

    Parameters
    ----------
    runtime : DistributedRuntime
        Its store is watched, its connections are used.
    host, port : where to listen; 0 takes any free port
    settings : what `Settings.from_environment` gives when left out
    """

    def __init__(
        self, runtime: Any, host: str = "127.0.0.1", port: int = 8000, settings: Settings | None = None
    ) -> None:
        self.settings = settings or Settings.from_environment()
        self.runtime = runtime
        self.registry = Registry()
        self.registry.add_process()
        self.metrics = Metrics(self.registry)
        self.records = Records()
        self.models = Models(runtime.store, self.settings, self._changed, self.registry, self.metrics.overhead)
        self.server = Server(
            host,
            port,
            api_key=self.settings.api_key,
            allow_origin=self.settings.allow_origin,
            max_body_bytes=self.settings.body_limit,
            tls=self.settings.tls(),
        )
        self.page = Page(self)
        self._paths = self.settings.paths or Settings.from_environment({}).paths
        self._ticker: asyncio.Task[None] | None = None
        self._moving: set[asyncio.Task[None]] = set()

    # ---- life --------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return str(self.server.url)

    async def start(self) -> int:
        """Listen, and follow discovery; returns the port."""
        paths = self._paths
        route = self.server.route
        route("POST", paths["chat"], self._chat)
        route("POST", paths["completions"], self._completions)
        route("POST", paths["embeddings"], self._embeddings)
        route("GET", paths["models"], self._list_models)
        route("GET", paths["models"] + "/", self._one_model, prefix=True)
        self.server.route_static(paths["live"], b'{"status":"live"}', open=True)
        self.server.route_metrics(paths["metrics"], self.registry, open=True)
        if self.settings.busy_threshold:
            route("GET", "/busy_threshold", self._busy_thresholds)
            route("POST", "/busy_threshold", self._set_busy_threshold)
        if self.settings.page:
            self.page.routes(self.server)
        await self.models.start()
        self._changed()
        port = self.server.start()
        self._ticker = asyncio.ensure_future(self._tick())
        return int(port)

    async def stop(self, grace: float = 5.0) -> None:
        """Take no more requests, let those that run end for `grace` seconds, then close."""
        if self._ticker is not None:
            self._ticker.cancel()
        self.page.close()
        await self.server.stop(grace)
        for task in list(self._moving):
            task.cancel()
        await self.models.close()

    async def _tick(self) -> None:
        while True:
            self._worker_gauges()
            await asyncio.sleep(1.0)

    def _changed(self) -> None:
        """Discovery changed: health, gauges, page."""
        ready = sorted(name for name, model in self.models.models.items() if model.ready)
        health: dict[str, Any] = {"status": "healthy" if ready else "unhealthy", "models": ready}
        if not ready:
            health["reason"] = "no worker is ready"
        # Answered in C: a blocked Python keeps no probe waiting.
        self.server.route_static(
            self._paths["health"], msgspec.json.encode(health), status=200 if ready else 503, open=True, replace=True
        )
        for name, model in self.models.models.items():
            limits = model.card.limits
            for gauge, value in (
                ("context_length", model.context_length),
                ("kv_cache_block_size", model.block_size),
                ("migration_limit", max(model.card.migration_limit, self.settings.migration_limit)),
                ("total_kv_blocks", limits.total_kv_blocks),
                ("max_num_seqs", limits.max_num_seqs),
                ("max_num_batched_tokens", limits.max_num_batched_tokens),
            ):
                if value is not None:
                    self.metrics.model[gauge].labels(name).set(value)
            self.metrics.workers.labels(name).set(len(model.ready))
        self.records.version += 1

    def _worker_gauges(self) -> None:
        for name, model in self.models.models.items():
            for load in model.core.loads():
                labels = (f"{load['worker_id']:x}", str(load["dp_rank"]), load["worker_type"])
                self.metrics.decode_blocks.labels(*labels).set(load["active_decode_blocks"])
                self.metrics.prefill_tokens.labels(*labels).set(load["active_prefill_tokens"])
            self.metrics.pending.labels(name).set(model.core.stats()["waiting"])

    # ---- small routes ------------------------------------------------------------------------------

    def _model_row(self, model: Model) -> dict[str, Any]:
        return {
            "id": model.name,
            "object": "model",
            "created": model.created,
            "owned_by": "dynamo",
            "context_window": model.context_length or None,
            "workers": len(model.ready),
        }

    async def _list_models(self, http: Request) -> Any:
        rows = [self._model_row(model) for _, model in sorted(self.models.models.items()) if model.ready]
        return {"object": "list", "data": rows}

    async def _one_model(self, http: Request) -> Any:
        from urllib.parse import unquote

        name = unquote(http.path[len(self._paths["models"]) + 1 :])
        model = self.models.get(name)
        if model is None:
            return self._error(http, self._unknown(name))
        return self._model_row(model)

    async def _busy_thresholds(self, http: Request) -> Any:
        rows = []
        for name, model in sorted(self.models.models.items()):
            found = getattr(model, "thresholds", None) or self.settings.thresholds
            row: dict[str, Any] = {"model": name}
            for field in _THRESHOLDS:
                row[field] = getattr(found, field, None)
            rows.append(row)
        return {"thresholds": rows}

    async def _set_busy_threshold(self, http: Request) -> Any:
        from dynamo.llm.router_config import LoadThresholdConfig

        try:
            asked = read(http.body, BusyThreshold)
            model = self.models.get(asked.model)
            if model is None:
                raise self._unknown(asked.model)
            given = {name: getattr(asked, name) for name in _THRESHOLDS}
            thresholds: Any = LoadThresholdConfig(**{k: v for k, v in given.items() if v is not None})
            model.core.configure(None, thresholds)
        except ApiError as error:
            return self._error(http, error)
        except (InvalidArgument, TypeError) as error:
            return self._error(http, bad_request(f"{error}"))
        model.thresholds = thresholds
        return {"model": asked.model, **given}

    # ---- errors ------------------------------------------------------------------------------------

    def _unknown(self, name: str) -> ApiError:
        if self.models.has_left(name):
            return unavailable(f"No worker serves the model {name!r} now; try again soon.", 2)
        there = ", ".join(sorted(self.models.models)) or "none yet"
        return not_found(f"The model {name!r} does not exist here; there are: {there}.", "model", "model_not_found")

    def _error(self, http: Request, error: ApiError) -> None:
        headers = {"retry-after": str(error.retry_after)} if error.retry_after else None
        http.fail(error.status, error.message, type=error.type, param=error.param, code=error.code, headers=headers)

    def busy(self, text: str) -> ApiError:
        return overloaded(f"{text.rstrip('.')}.", self.settings.overload_status)

    # ---- generation ----------------------------------------------------------------------------------

    async def _chat(self, http: Request) -> None:
        await self._guarded(http, "chat_completions", self._generate)

    async def _completions(self, http: Request) -> None:
        await self._guarded(http, "completions", self._generate)

    async def _embeddings(self, http: Request) -> None:
        await self._guarded(http, "embeddings", self._embed)

    async def _guarded(
        self, http: Request, endpoint: str, serve: "Callable[[Request, str, dict[str, str]], Awaitable[None]]"
    ) -> None:
        """Run a handler; what it raises becomes an error of the API, and is counted."""
        labels = {"model": "", "type": "unary"}
        try:
            await serve(http, endpoint, labels)
        except ApiError as error:
            if error.status == self.settings.overload_status and labels["model"]:
                self.metrics.rejections.labels(labels["model"], endpoint).inc()
            self._count(labels, endpoint, error.type if error.status < 500 else error.code or "internal")
            self._error(http, error)

    def _count(self, labels: dict[str, str], endpoint: str, error: str | None = None) -> None:
        status = "success" if error is None else "error"
        self.metrics.requests.labels(labels["model"], endpoint, labels["type"], status, error or "").inc()

    async def _read(self, http: Request, kind: type[Any], check: Callable[[Any], Any]) -> Any:
        body = http.body

        def parse() -> Any:
            request = read(body, kind, self.settings.template or None)
            check(request)
            return request

        return await asyncio.to_thread(parse) if len(body) >= self.settings.thread_bytes else parse()

    def _model(self, name: str, labels: dict[str, str]) -> Model:
        model = self.models.get(name)
        if model is None:
            raise self._unknown(name)
        labels["model"] = name
        if not model.ready:
            raise unavailable(f"No worker serves the model {name!r} now; try again soon.", 2)
        return model

    async def _generate(self, http: Request, endpoint: str, labels: dict[str, str]) -> None:
        chat = endpoint == "chat_completions"
        request = await self._read(
            http, ChatRequest if chat else CompletionRequest, check_chat if chat else check_completion
        )
        labels["type"] = "stream" if request.stream else "unary"
        model = self._model(request.model, labels)
        if not (model.type.supports_chat() if chat else model.type.supports_completions()):
            raise bad_request(
                f"The model {model.name!r} does not serve {endpoint.replace('_', ' ')}; it serves {model.type}.",
                "model",
            )
        routing = routing_of(request, http.header)
        if model.takes_text:
            if not chat:
                raise ApiError(501, f"The workers of {model.name!r} take texts themselves, and chat requests only.")
            self._count(labels, endpoint, await pass_on(self, http, model, request, routing))
            return
        before = time.perf_counter()
        await self._load(model)
        prepare = prepare_chat if chat else prepare_completion
        if len(memoryview(http)) >= self.settings.thread_bytes or _many(request):
            prompts: list[Prompt] = await asyncio.to_thread(prepare, model, request)
        else:
            prompts = prepare(model, request)
        self.metrics.tokenizer.labels("tokenize").observe((time.perf_counter() - before) * 1e3)
        if routing.only_ask:
            self._tell(http, model, request, routing, prompts[0], chat)
            return
        await Generation(self, http, model, request, routing, prompts, chat, endpoint, labels).run()

    async def _load(self, model: Model) -> None:
        try:
            await model.load()
        except NotFound:
            pass  # prompts of token ids are served; texts are refused where they are tokenised
        except (DynamoError, OSError, ImportError) as error:
            raise ApiError(500, f"The tokeniser of {model.name!r} cannot be used: {error}.", code="tokenizer") from None

    def _tell(self, http: Request, model: Model, request: Any, routing: Routing, prompt: Prompt, chat: bool) -> None:
        """``query_instance_id``: where it would go, and its tokens, without sending it there."""
        try:
            found = model.core.pick(prompt.tokens, book=False, worker_id=routing.worker_id, dp_rank=routing.dp_rank)
        except (DynamoError, TypeError) as error:
            raise self._not_chosen(model, routing, error) from None
        told = {
            "worker_instance_id": str(found.worker_id),
            "dp_rank": found.dp_rank,
            "overlap_blocks": found.overlap_blocks,
        }
        tokens = prompt.tokens.tolist()
        headers = {"x-dynamo-worker-instance-id": str(found.worker_id)}
        if request.stream:
            http.begin(200, headers=headers)
            http.write(annotation("worker_instance_id", str(found.worker_id)))
            http.write(annotation("token_data", tokens))
            http.write(b"data: [DONE]\n\n")
            http.end()
            return
        http.respond_json(
            {
                "id": http.id,
                "object": "chat.completion" if chat else "text_completion",
                "created": int(time.time()),
                "model": model.name,
                "choices": [],
                "nvext": {**told, "token_data": tokens},
            },
            headers=headers,
        )

    async def _embed(self, http: Request, endpoint: str, labels: dict[str, str]) -> None:
        inputs: list[Any] = []
        request = await self._read(http, EmbeddingRequest, lambda request: inputs.extend(check_embedding(request)))
        model = self._model(request.model, labels)
        if not model.type.supports_embedding():
            raise bad_request(f"The model {model.name!r} makes no embeddings; it serves {model.type}.", "model")
        await self._load(model)
        http.respond_json(await embed(self, http, model, request, inputs))
        self._count(labels, endpoint)

    async def unary(self, worker: Worker, request: dict[str, Any]) -> Any:
        """The one item of a call to a worker."""
        from dynamo._runtime import Caller

        caller = Caller(self.runtime.pool, worker.endpoint)
        assert worker.address is not None
        caller.put(worker.id, worker.address.decode())
        stream = caller.call(request, 2, worker.id, False, None)
        item = None
        async for one in stream:
            item = one
        return item

    # ---- choosing ------------------------------------------------------------------------------------

    async def pick(
        self, model: Model, tokens: Any, name: str, routing: Routing, avoid: "set[int] | None" = None
    ) -> "tuple[Any, Worker]":
        """Choose and book a worker for a prompt.

        Raises
        ------
        ApiError : 503 when nobody is there, 529 when all are busy, 400 when the wanted one is not there
        """
        how: dict[str, Any] = {"why": True}
        if routing.worker_id is not None:
            how["worker_id"] = routing.worker_id
        if routing.dp_rank is not None:
            how["dp_rank"] = routing.dp_rank
        if routing.override:
            how["override"] = routing.override
        if routing.constraints:
            how["constraints"] = routing.constraints
        if routing.expected_output:
            how["expected_output_tokens"] = routing.expected_output
        if routing.strict_priority:
            how["strict_priority"] = routing.strict_priority
        if routing.priority:
            how["priority_jump"] = routing.priority
        if routing.cache_namespace:
            how["cache_namespace"] = routing.cache_namespace
        now = time.monotonic()
        there = [worker for worker in model.ready if not avoid or worker.id not in avoid]
        well = [worker for worker in there if worker.inhibited_until <= now] or there
        if not well:
            raise unavailable(f"No worker serves the model {model.name!r} now; try again soon.", 2)
        if routing.worker_id is None and len(well) != model.core.stats()["workers"]:
            how["allowed_worker_ids"] = [worker.id for worker in well]
        try:
            chosen = model.core.submit(tokens, name, **how)
            if hasattr(chosen, "__await__"):
                chosen = await chosen
        except (DynamoError, TypeError) as error:
            raise self._not_chosen(model, routing, error) from None
        worker = model.workers.get(chosen.worker_id)
        if worker is None or worker.address is None:
            model.core.free(chosen.ticket)
            raise unavailable(f"The chosen worker of {model.name!r} has just gone; try again.", 1)
        return chosen, worker

    def _not_chosen(self, model: Model, routing: Routing, error: Exception) -> Exception:
        """What a client is told when the router gave nobody."""
        if isinstance(error, Unavailable):
            if routing.worker_id is not None:
                return bad_request(
                    f"The worker {routing.worker_id} that was asked for does not serve {model.name!r} now.", "nvext"
                )
            rank, limits = routing.dp_rank, [worker.card.limits for worker in model.ready]
            if rank is not None and not any(
                0 <= rank - at.data_parallel_start_rank < at.data_parallel_size for at in limits
            ):
                return bad_request(f"No worker of {model.name!r} has the rank {rank} that was asked for.", "nvext")
            return unavailable(f"No worker of {model.name!r} may serve this request: {error}.", 2)
        if isinstance(error, Overloaded):
            return self.busy(f"Every worker of {model.name!r} is busy: {error}")
        if isinstance(error, (InvalidArgument, TypeError)):
            return bad_request(f"{str(error).rstrip('.')}.", "nvext")
        return error


_THRESHOLDS = (
    "active_decode_blocks_threshold",
    "active_prefill_tokens_threshold",
    "active_prefill_tokens_threshold_frac",
)


class BusyThreshold(msgspec.Struct):
    model: str
    active_decode_blocks_threshold: float | None = None
    active_prefill_tokens_threshold: int | None = None
    active_prefill_tokens_threshold_frac: float | None = None


class Generation:
    """One request for text: its prompts times n choices, their workers, their answer."""

    def __init__(
        self,
        front: Frontend,
        http: Request,
        model: Model,
        request: Any,
        routing: Routing,
        prompts: list[Prompt],
        chat: bool,
        endpoint: str,
        labels: dict[str, str],
    ) -> None:
        self.front, self.http, self.model, self.request = front, http, model, request
        self.routing, self.prompts, self.chat, self.endpoint, self.labels = routing, prompts, chat, endpoint, labels
        self.n = request.n or 1
        self.id = ("chatcmpl-" if chat else "cmpl-") + uuid.uuid4().hex
        self.request_id = http.id
        self.eos = tuple(model.assets.tokenizer.eos_ids) if model.vocab is not None else ()
        self.records: list[Record] = []
        self.tried: dict[int, set[int]] = {}
        self.moves: dict[int, int] = {}
        self.headers: list[tuple[bytes, bytes]] = [(b"x-request-id", self.request_id.encode("latin-1", "replace"))]
        for name in _PASSED_ON:
            value = http.header(name)
            if value is not None:
                self.headers.append((name.encode(), value.encode("latin-1", "replace")))
        self.answer: Answer

    async def run(self) -> None:
        front, model = self.front, self.model
        if model.vocab is None and self.chat:
            raise bad_request(
                f"The model {model.name!r} has no tokeniser; it takes token ids through /v1/completions only.",
                "model",
                "tokenizer_missing",
            )
        picks: list[tuple[Any, Worker, RouterBooking]] = []
        for i in range(len(self.prompts) * self.n):
            if i % 16 == 15:
                await asyncio.sleep(0)  # a thousand choices are not to hold up the others
            prompt = self.prompts[i // self.n]
            chosen, worker = await front.pick(model, prompt.tokens, self._name(i), self.routing)
            picks.append((chosen, worker, RouterBooking(model.core, chosen.ticket)))
        self._make_answer()
        metrics = front.metrics
        inflight, queued = metrics.inflight.labels(model.name), metrics.queued.labels(model.name)
        inflight.inc()
        try:
            for i, (chosen, worker, booking) in enumerate(picks):
                self._record(i, chosen, worker)
                self._call(i, self.prompts[i // self.n].tokens, chosen, worker, booking)
            del picks
            summary = await asyncio.shield(self.answer.done)
        finally:
            inflight.dec()
            queued.set(sum(1 for record in front.records.running.values() if record.model == model.name))
        self._finish(summary)

    def _name(self, i: int) -> str:
        return f"{self.id}-{i}-{self.moves.get(i, 0)}"

    def _make_answer(self) -> None:
        request, model, metrics = self.request, self.model, self.front.metrics
        options = getattr(request, "stream_options", None)
        if isinstance(request, ChatRequest):
            logprobs = (request.top_logprobs or 0) if request.logprobs else -1
        else:
            logprobs = -1 if request.logprobs is None else request.logprobs
        choices = []
        for i in range(len(self.prompts) * self.n):
            prompt = self.prompts[i // self.n]
            limit = max_tokens(model, request, len(prompt.tokens))
            counted = len(prompt.tokens) if i % self.n == 0 else 0
            choices.append((prompt.echo, counted, limit or 0, request.min_tokens or 0))
        stops = stop_strings(request)
        stop_ids = set(request.stop_token_ids or ())
        if not request.ignore_eos:
            stop_ids.update(self.eos)
        preamble = b""
        extra: dict[str, Any] = {}
        for note in self.routing.annotations:
            if note == "formatted_prompt" and self.prompts[0].formatted is not None:
                preamble += annotation(note, self.prompts[0].formatted)
                extra[note] = self.prompts[0].formatted
            elif note == "token_ids":
                preamble += annotation(note, self.prompts[0].tokens.tolist())
                extra[note] = self.prompts[0].tokens.tolist()
        self.answer = Answer(
            self.http,
            chat=self.chat,
            stream=bool(request.stream),
            include_usage=bool(options is not None and options.include_usage),
            metrics="llm_metrics" in self.routing.annotations,
            id=self.id,
            model=request.model,
            created=int(time.time()),
            choices=choices,
            vocab=model.vocab,
            special=request.skip_special_tokens is False,
            stops=StopStrings(stops) if stops else None,
            include_stop=bool(request.include_stop_str_in_output),
            stop_ids=stop_ids,
            logprobs=logprobs,
            tokens_as_ids=bool(request.return_tokens_as_token_ids),
            preamble=preamble,
            extra=b'"nvext":' + msgspec.json.encode(extra) if extra else b"",
            first=metrics.ttft.labels(model.name),
            between=metrics.itl.labels(model.name),
            tokens=metrics.output_tokens.labels(model.name),
            on_broke=self._broke,
        )

    def _record(self, i: int, chosen: Any, worker: Worker) -> None:
        prompt = self.prompts[i // self.n]
        record = Record(
            id=self._name(i),
            model=self.model.name,
            kind=self.endpoint,
            at=time.time(),
            prompt_tokens=len(prompt.tokens),
            worker=worker.id,
            dp_rank=chosen.dp_rank,
            mode=self.model.core.mode.name,
            overlap_blocks=chosen.overlap_blocks,
            required_blocks=chosen.required_blocks,
            block_size=self.model.block_size,
            cost=chosen.cost,
            eligible=chosen.eligible,
            why=_why(chosen.reasons),
        )
        self.records.append(record)
        self.front.records.begin(record)
        metrics = self.front.metrics
        metrics.isl.labels(self.model.name).observe(record.prompt_tokens)
        if chosen.required_blocks:
            metrics.hit_rate.labels(self.model.name).observe(chosen.overlap_blocks / chosen.required_blocks)

    def _call(self, i: int, tokens: Any, chosen: Any, worker: Worker, booking: RouterBooking, have: int = 0) -> None:
        prompt = self.prompts[i // self.n]
        limit = max_tokens(self.model, self.request, len(prompt.tokens))
        body = payload(
            self.model, self.request, tokens, None if limit is None else max(1, limit - have), i % self.n, self.eos
        )
        if have and body["stop_conditions"].get("min_tokens"):
            body["stop_conditions"]["min_tokens"] = max(0, body["stop_conditions"]["min_tokens"] - have)
        body["estimated_prefix_hit_num_blocks"] = chosen.overlap_blocks
        body["routing"] = {
            "backend_instance_id": worker.id,
            "dp_rank": chosen.dp_rank,
            "cache_salt": self.routing.cache_namespace,
            "expected_output_tokens": self.routing.expected_output,
            "priority": self.routing.priority,
        }
        self.tried.setdefault(i, set()).add(worker.id)
        headers = [*self.headers, (b"x-dynamo-request-id", self._name(i).encode())]
        assert worker.address is not None
        quiet = round(1e3 * (self.front.settings.stream_timeout or 0))
        self.answer.call(i, self.front.runtime.pool, worker.address, encode(body), headers, worker.id, booking, quiet)

    # ---- when a call breaks -----------------------------------------------------------------------------

    def _broke(self, i: int, code: str, kind: str, text: str) -> None:
        front = self.front
        task = asyncio.ensure_future(self._carry_on(i, code, kind, text))
        front._moving.add(task)
        task.add_done_callback(front._moving.discard)

    async def _carry_on(self, i: int, code: str, kind: str, text: str) -> None:
        """Give the rest of a choice to another worker, or end the answer."""
        try:
            await self._move(i, code, kind, text)
        except ApiError as error:
            self._fail(error)
        except Exception:
            _log.exception("request %s could not be carried on", self.request_id)
            self._fail(ApiError(500, "The request could not be carried on.", code="internal"))

    def _fail(self, error: ApiError) -> None:
        self.answer.fail(
            error.status,
            error.message,
            type=error.type,
            param=error.param,
            code=error.code,
            retry_after=error.retry_after or 0,
        )

    async def _move(self, i: int, code: str, kind: str, text: str) -> None:
        front, model = self.front, self.model
        movable = code in _MOVABLE or kind in ("EngineShutdown", "EngineDeadError")
        if not movable:
            raise _told_by_worker(code, kind, text, front.settings.overload_status)
        lost = model.workers.get(self.records[i].worker)
        if lost is not None and code != "EOVERLOAD":
            lost.inhibited_until = time.monotonic() + _INHIBIT_SECONDS
        so_far = self.answer.tokens(i)
        limit = max(model.card.migration_limit, front.settings.migration_limit)
        moves = self.moves[i] = self.moves.get(i, 0) + 1
        if moves > limit:
            if code == "EOVERLOAD":
                raise front.busy(f"Every worker of {model.name!r} is busy")
            raise unavailable(f"The worker is gone ({text}), and the answer may go on elsewhere {limit} times only.", 2)
        if self.routing.worker_id is not None:
            raise unavailable(f"The worker {self.routing.worker_id} that was asked for is gone: {text}.", 2)
        prompt = self.prompts[i // self.n].tokens
        tokens = prompt
        if len(so_far):
            import numpy as np

            tokens = np.concatenate([prompt, so_far])
        try:
            chosen, worker = await front.pick(model, tokens, self._name(i), self.routing, self.tried[i])
        except ApiError as error:
            if code == "EOVERLOAD" and error.status == 503:
                raise front.busy(f"Every worker of {model.name!r} is busy") from None
            if error.status == 503:
                raise unavailable(
                    f"The worker is gone ({text}), and nobody else serves {model.name!r} now.", 2
                ) from None
            raise
        front.metrics.migrations.labels(model.name, "ongoing_request" if len(so_far) else "new_request").inc()
        _log.warning(
            "request %s goes on at worker %x after %d tokens: %s", self.request_id, worker.id, len(so_far), text
        )
        record = self.records[i]
        front.records.by_worker[worker.id] += 1
        record.worker, record.dp_rank, record.calls = worker.id, chosen.dp_rank, record.calls + 1
        front.records.version += 1
        self._call(i, tokens, chosen, worker, RouterBooking(model.core, chosen.ticket), len(so_far))

    # ---- the end -------------------------------------------------------------------------------------------

    def _finish(self, summary: Any) -> None:
        metrics, name = self.front.metrics, self.model.name
        for record, choice in zip(self.records, summary.choices, strict=True):
            record.completion_tokens = choice.completion_tokens
            record.cached_tokens, record.mirror_tokens = choice.cached_tokens, choice.mirror_tokens
            record.finish, record.calls = choice.finish, max(record.calls, choice.calls)
            record.state = "cancelled" if summary.cancelled else "error" if summary.failed else "done"
            if summary.first_ns:
                record.ttft = (summary.first_ns - summary.started_ns) / 1e9
                if choice.completion_tokens > 1:
                    record.itl = (summary.last_ns - summary.first_ns) / 1e9 / (choice.completion_tokens - 1)
            self.front.records.end(record, choice.cause)
            metrics.osl.labels(name).observe(choice.completion_tokens)
            if choice.cached_tokens >= 0:
                metrics.cached.labels(name).observe(choice.cached_tokens)
            if record.cause:
                metrics.cache_outcome.labels(name, record.cause).inc()
            worker = self.model.workers.get(record.worker)
            if worker is not None and record.ttft is not None:
                labels = (f"{record.worker:x}", str(record.dp_rank), str(worker.card.worker_type or "aggregated"))
                metrics.last_ttft.labels(*labels).set(record.ttft)
                metrics.last_isl.labels(*labels).set(record.prompt_tokens)
                if record.itl is not None:
                    metrics.last_itl.labels(*labels).set(record.itl)
        metrics.duration.labels(name).observe((summary.ended_ns - summary.started_ns) / 1e9)
        if summary.cancelled:
            metrics.disconnected.labels().inc()
            metrics.cancellations.labels(name, self.endpoint, self.labels["type"]).inc()
            self.front._count(self.labels, self.endpoint, "cancelled")
        else:
            self.front._count(self.labels, self.endpoint, _error_of(summary))


def _many(request: Any) -> bool:
    prompt = getattr(request, "prompt", "")
    return isinstance(prompt, list) and len(prompt) > 16 and not isinstance(prompt[0], int)


def _error_of(summary: Any) -> str | None:
    if not summary.failed:
        return None
    return {400: "validation", 404: "not_found", 503: "unavailable", 529: "overload"}.get(summary.status, "internal")


def _why(reasons: "list[dict[str, Any]] | None") -> list[dict[str, Any]]:
    return [{**row, "worker_id": f"{row['worker_id']:x}"} for row in reasons or ()]


def _told_by_worker(code: str, kind: str, text: str, busy_status: int) -> ApiError:
    """What the end of a call means to the client."""
    text = text.rstrip(".") + "."
    if code == "EINVAL" or kind in ("ValueError", "TypeError", "InvalidArgument"):
        return bad_request(text)
    if code == "ENOTSUP" or kind == "NotImplementedError":
        return ApiError(501, text)
    if code == "ETIMEDOUT":
        return ApiError(504, text, code="timeout")
    if code == "ECANCELED":
        return unavailable(f"The request was cancelled: {text}", 1)
    if code == "ELIMIT":
        return ApiError(busy_status, text, "overloaded_error", code="overloaded", retry_after=1)
    return ApiError(500, f"The worker failed: {kind + ': ' if kind else ''}{text}", code="worker_error")
