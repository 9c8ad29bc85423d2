"""Models whose workers take requests as they come (`ModelInput.Text`), such as graphs: what they send is passed on.

    the body of the client --one call--> a worker --chunks of a chat answer--> SSE, or one JSON body out of them

Python sees every chunk here. A worker keeps its conversations itself, so all requests of a session go to the same one.
"""

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Any

import msgspec

from dynamo._http import Request
from dynamo._runtime import Caller, Context
from dynamo.errors import (
    Cancelled,
    ConnectionFailed,
    DynamoError,
    EngineShutdown,
    InvalidArgument,
    Overloaded,
    RequestTimeout,
    StreamBroken,
    Unavailable,
)
from dynamo.frontend.errors import ApiError, bad_request, unavailable
from dynamo.frontend.models import Model, Worker
from dynamo.frontend.prepare import Routing
from dynamo.frontend.records import Record
from dynamo.llm.affinity import home_of
from dynamo.llm.openai_http import ChatAggregate

if TYPE_CHECKING:
    from dynamo.frontend.service import Frontend

__all__ = ["pass_on"]

_GONE = (ConnectionFailed, StreamBroken, EngineShutdown, Unavailable)
_INHIBIT_SECONDS = 5.0
_PASSED_ON = ("traceparent", "tracestate", "x-request-id")
_encode = msgspec.json.Encoder().encode


async def pass_on(front: "Frontend", http: Request, model: Model, request: Any, routing: Routing) -> str | None:
    """Answer a chat request by a worker that takes it as it is; how it ended: None is well.

    Raises
    ------
    ApiError : nothing was sent yet
    """
    if (request.n or 1) != 1:
        raise bad_request(f"n is {request.n}: the model {model.name!r} gives one answer.", "n")
    if routing.only_ask:
        text = f"query_instance_id: the prompt of {model.name!r} is made by its worker, so nothing can be told of it."
        raise bad_request(text, "nvext.annotations")
    body = msgspec.json.decode(http.body)
    session = _session(body, routing)
    tried: set[int] = set()
    while True:
        worker = _choose(front, model, routing, session, tried)
        tried.add(worker.id)
        passing = _Passing(front, http, model, request, worker)
        try:
            return await passing.run(body, session)
        except _GONE as error:
            worker.inhibited_until = time.monotonic() + _INHIBIT_SECONDS
            if http.begun:
                return passing.broken(unavailable(f"The worker is gone: {error}.", 2))
        except (ApiError, DynamoError) as error:
            told = error if isinstance(error, ApiError) else _told(error, front)
            if not http.begun:
                raise told from None
            return passing.broken(told)


def _session(body: dict[str, Any], routing: Routing) -> str | None:
    about = body.get("metadata")
    thread = about.get("thread_id") if isinstance(about, dict) else None
    return thread if isinstance(thread, str) else routing.session


def _choose(front: "Frontend", model: Model, routing: Routing, session: str | None, tried: set[int]) -> Worker:
    """The session's worker; without a session the one with the least to do."""
    now = time.monotonic()
    there = {worker.id: worker for worker in model.ready if worker.id not in tried}
    well = {id: worker for id, worker in there.items() if worker.inhibited_until <= now} or there
    if not well:
        raise unavailable(f"No worker serves the model {model.name!r} now; try again soon.", 2)
    if routing.worker_id is not None:
        if routing.worker_id not in there:
            raise bad_request(
                f"The worker {routing.worker_id} that was asked for does not serve {model.name!r}.", "nvext"
            )
        return there[routing.worker_id]
    if session is not None:
        return well[home_of(session, well)]
    by_worker = front.records.by_worker
    return min(well.values(), key=lambda worker: (worker.passing, by_worker[worker.id]))


def _told(error: DynamoError, front: "Frontend") -> ApiError:
    """What an error of a worker means to the client."""
    text = f"{str(error).rstrip('.')}."
    if isinstance(error, (InvalidArgument, ValueError, TypeError)):
        return bad_request(text)
    if isinstance(error, RequestTimeout):
        return ApiError(504, text, code="timeout")
    if isinstance(error, NotImplementedError):
        return ApiError(501, text)
    if isinstance(error, Overloaded):
        return front.busy(text)
    if isinstance(error, Cancelled):
        return unavailable(f"The request was cancelled: {text}", 1)
    return ApiError(500, f"The worker failed: {text}", code="worker_error")


class _Passing:
    """One request at one worker."""

    def __init__(self, front: "Frontend", http: Request, model: Model, request: Any, worker: Worker) -> None:
        self.front, self.http, self.model, self.request, self.worker = front, http, model, request, worker
        options = request.stream_options
        self.wants_usage = bool(options is not None and options.include_usage)
        self.record = Record(
            id=f"chatcmpl-{uuid.uuid4().hex}-0-0",
            model=model.name,
            kind="chat_completions",
            at=time.time(),
            prompt_tokens=0,
            worker=worker.id,
            mode="Text",
        )
        self.quiet: asyncio.TimerHandle | None = None
        self.too_quiet = False

    async def run(self, body: dict[str, Any], session: str | None) -> str | None:
        front, http, worker = self.front, self.http, self.worker
        headers = {"x-request-id": http.id}
        for name in _PASSED_ON:
            value = http.header(name)
            if value is not None:
                headers[name] = value
        metadata = None if session is None else {"thread_id": session}
        caller = Caller(front.runtime.pool, worker.endpoint)
        assert worker.address is not None
        caller.put(worker.id, worker.address.decode())
        stream = caller.call(body, 2, worker.id, False, Context(http.id, metadata, headers=headers))
        http.on_closed(stream.kill)
        answer = ChatAggregate()
        inflight = front.metrics.inflight.labels(self.model.name)
        worker.passing += 1
        inflight.inc()
        front.records.begin(self.record)
        try:
            self._listen(stream)
            async for item in stream:
                if self.quiet is not None:
                    self.quiet.cancel()  # what the client takes to read does not count
                self._heard(item)
                if self.request.stream:
                    await self._send(item)
                else:
                    answer.add(item)
                self._listen(stream)
            if http.closed:
                return self._end("cancelled")
            if self.too_quiet:
                raise RequestTimeout(self._quiet_text())
            if self.request.stream:
                self._begin()
                http.event(b"[DONE]")
                http.end()
            else:
                try:
                    whole = answer.result()
                except ValueError as error:
                    raise ApiError(500, f"The worker failed: {error}.", code="worker_error") from None
                http.respond_json(whole, headers=self._headers())
            return self._end(None)
        except BaseException as error:
            if http.closed and isinstance(error, Exception):
                return self._end("cancelled")
            self._end("error")
            if self.too_quiet and isinstance(error, DynamoError):
                raise RequestTimeout(self._quiet_text()) from error
            raise
        finally:
            if self.quiet is not None:
                self.quiet.cancel()
            stream.kill()
            worker.passing -= 1
            inflight.dec()

    def _listen(self, stream: Any) -> None:
        """Give the worker its time for the next item, if that is bounded."""
        seconds = self.front.settings.stream_timeout
        if not seconds:
            return

        def end() -> None:
            self.too_quiet = True
            stream.kill()

        self.quiet = asyncio.get_running_loop().call_later(seconds, end)

    def _quiet_text(self) -> str:
        return f"The worker was silent for {self.front.settings.stream_timeout:g} s"

    def _headers(self) -> dict[str, str]:
        return {"x-dynamo-worker-instance-id": str(self.worker.id)}

    def _begin(self) -> None:
        if not self.http.begun:
            self.http.begin(200, headers=self._headers())

    def _heard(self, item: Any) -> None:
        if not isinstance(item, dict) or not isinstance(item.get("choices"), list):
            raise ApiError(500, "The worker failed: it sent no chunk of a chat answer.", code="worker_error")
        now = time.monotonic_ns()
        metrics, name = self.front.metrics, self.model.name
        if self.record.ttft is None:
            self.record.ttft = (now - self.http.started_ns) / 1e9
            metrics.ttft.labels(name).observe(self.record.ttft)
        for choice in item["choices"]:
            self.record.finish = choice.get("finish_reason") or self.record.finish
        usage = item.get("usage")
        if usage:
            self.record.prompt_tokens = int(usage.get("prompt_tokens") or 0)
            self.record.completion_tokens = int(usage.get("completion_tokens") or 0)

    async def _send(self, item: dict[str, Any]) -> None:
        """A chunk as it came; its usage in a chunk of its own, to who asked for it."""
        usage = item.pop("usage", None)
        self._begin()
        ok = self.http.event(_encode(item)) if item["choices"] else True
        if usage and self.wants_usage:
            ok = self.http.event(_encode({**item, "choices": [], "usage": usage}))
        if not ok:
            await self.http.drain()

    def _end(self, state: str | None) -> str | None:
        front, name = self.front, self.model.name
        self.record.state = state or "done"
        front.records.end(self.record)
        front.metrics.duration.labels(name).observe((time.monotonic_ns() - self.http.started_ns) / 1e9)
        if state == "cancelled":
            front.metrics.disconnected.labels().inc()
        return state

    def broken(self, error: ApiError) -> str:
        """An error after the header: an event that says so, and no [DONE]."""
        if not self.http.closed:
            self.http.event(error.body(), "error")
            self.http.end()
        return "internal"
