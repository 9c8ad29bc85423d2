"""A small server of LangGraph's API over graphs of this process: what a RemoteGraph asks for, on real sockets.

with serve({"agent": graph}) as server:
    RemoteGraph("agent", url=server.url)
"""

import asyncio
import contextlib
import json
import threading
import uuid

from aiohttp import web

from dynamo.langgraph.errors import ParentCommand
from dynamo.langgraph.types import Command, Interrupt, Send

_HERE = {"messages-tuple": "messages"}


def _plain(thing):
    """JSON of what a state may hold."""
    if hasattr(thing, "model_dump"):
        return thing.model_dump()
    if isinstance(thing, Interrupt):
        return {"value": thing.value, "id": thing.id}
    if isinstance(thing, Send):
        return {"node": thing.node, "arg": thing.arg}
    if isinstance(thing, Command):
        said = {"graph": thing.graph, "update": thing.update, "resume": thing.resume, "goto": thing.goto}
        return {name: value for name, value in said.items() if value}
    if isinstance(thing, (set, frozenset)):
        return sorted(thing)
    return str(thing)


def _json(thing, status=200):
    return web.json_response(thing, status=status, dumps=lambda value: json.dumps(value, default=_plain))


def _config(thread_id, body):
    config = dict(body.get("config") or {})
    place = {**config.get("configurable", {}), **(body.get("checkpoint") or {})}
    if thread_id is not None:
        place["thread_id"] = thread_id
    return {**config, "configurable": place}


def _command(said):
    goto = said.get("goto") or ()
    goto = [Send(goal["node"], goal["input"]) if isinstance(goal, dict) else goal for goal in [*goto]]
    return Command(**{**said, "goto": goto})


def _checkpoint(config):
    names = ("thread_id", "checkpoint_ns", "checkpoint_id")
    return {name: config["configurable"].get(name) for name in names} if config else None


def _state(snapshot):
    def task(one):
        inner = one.state
        return {
            "id": one.id,
            "name": one.name,
            "error": str(one.error) if one.error else None,
            "interrupts": [_plain(interrupt) for interrupt in one.interrupts],
            "checkpoint": inner["configurable"] if isinstance(inner, dict) else None,
            "state": _state(inner) if inner is not None and not isinstance(inner, dict) else None,
            "result": one.result,
        }

    return {
        "values": snapshot.values,
        "next": list(snapshot.next),
        "checkpoint": _checkpoint(snapshot.config),
        "metadata": snapshot.metadata,
        "created_at": snapshot.created_at,
        "parent_checkpoint": _checkpoint(snapshot.parent_config),
        "tasks": [task(one) for one in snapshot.tasks],
    }


class Server:
    """The server of some graphs, and what it has seen."""

    def __init__(self, graphs):
        self.graphs, self.seen, self.headers = graphs, [], []
        self.left = threading.Event()  # a streamed run was cancelled because its reader had gone
        self.cancelled = []  # runs that somebody asked to stop
        self.threads = {}  # which graph a thread is of
        self.events = {}  # of a thread, for version 3
        self.news = asyncio.Condition()
        self.runs = {}

    def app(self):
        app = web.Application()
        app.add_routes(
            [
                web.get("/assistants/{graph}/graph", self.drawing),
                web.post("/runs/stream", self.run),
                web.post("/threads/{thread}/runs/stream", self.run),
                web.get("/threads/{thread}/state", self.state),
                web.post("/threads/{thread}/state/checkpoint", self.state),
                web.post("/threads/{thread}/state", self.update),
                web.post("/threads/{thread}/history", self.history),
                web.post("/threads/{thread}/commands", self.start),
                web.post("/threads/{thread}/stream/events", self.stream_events),
                web.post("/threads/{thread}/runs/{run}/cancel", self.cancel),
            ]
        )
        return app

    async def body(self, request):
        body = await request.json() if request.can_read_body else {}
        self.seen.append((request.path, body))
        self.headers.append(dict(request.headers))
        return body

    def graph(self, name):
        if name not in self.graphs:
            raise web.HTTPNotFound(text=json.dumps({"detail": f"no assistant {name}"}), content_type="application/json")
        return self.graphs[name]

    async def drawing(self, request):
        await self.body(request)
        xray = request.query.get("xray", "").lower() == "true"
        return _json((await self.graph(request.match_info["graph"]).aget_graph(xray=xray)).to_json())

    async def state(self, request):
        body = await self.body(request)
        thread = request.match_info["thread"]
        graph = self.threads.get(thread)
        if graph is None:
            return _json({"detail": f"no thread {thread}"}, 404)
        return _json(_state(await graph.aget_state(_config(thread, body), subgraphs=body.get("subgraphs", False))))

    async def update(self, request):
        body = await self.body(request)
        thread = request.match_info["thread"]
        made = await self.threads[thread].aupdate_state(_config(thread, body), body["values"], body.get("as_node"))
        return _json({"checkpoint": _checkpoint(made)})

    async def history(self, request):
        body = await self.body(request)
        thread = request.match_info["thread"]
        before = {"configurable": body["before"]} if body.get("before") else None
        found = self.threads[thread].aget_state_history(
            _config(thread, {}), filter=body.get("metadata"), before=before, limit=body["limit"]
        )
        return _json([_state(snapshot) async for snapshot in found])

    async def run(self, request):
        body = await self.body(request)
        graph, thread = self.graph(body["assistant_id"]), request.match_info.get("thread")
        if thread is not None:
            self.threads[thread] = graph
        config = _config(thread or str(uuid.uuid4()), {"config": body.get("config")})
        modes = [_HERE.get(mode, mode) for mode in body["stream_mode"]]
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)

        async def send(event, data):
            await answer.write(f"event: {event}\r\ndata: {json.dumps(data, default=_plain)}\r\n\r\n".encode())

        await send("metadata", {"run_id": "1"})
        given = _command(body["command"]) if body.get("command") else body.get("input")
        stops = {name: body[name] for name in ("interrupt_before", "interrupt_after") if name in body}
        deep = bool(body.get("stream_subgraphs"))
        try:
            async for chunk in graph.astream(
                given, config, stream_mode=modes, subgraphs=deep, context=body.get("context"), **stops
            ):
                ns, mode, data = chunk if deep else ((), *chunk)
                await send("|".join((mode, *ns)), data)
        except ParentCommand as bubbling:
            await send("command", {**_plain(bubbling.args[0]), "graph": Command.PARENT})
        except asyncio.CancelledError:
            self.left.set()
            raise
        except Exception as error:
            await send("error", {"error": type(error).__name__, "message": str(error)})
        await answer.write_eof()
        return answer

    # ------------------------------------------------------------ version 3
    async def start(self, request):
        body = await self.body(request)
        thread, asked = request.match_info["thread"], body["params"]
        graph = self.threads[thread] = self.graph(asked["assistant_id"])
        config, run = _config(thread, {"config": asked.get("config")}), str(uuid.uuid4())
        given = asked.get("input")
        if thread in self.graphs and graph.get_state(config).interrupts:
            given = Command(resume=given)

        async def tell(method, data, ns=()):
            async with self.news:
                known = self.events.setdefault(thread, [])
                number = len(known)
                known.append(
                    {
                        "type": "event",
                        "method": method,
                        "params": {"namespace": list(ns), "data": data},
                        "seq": number,
                        "event_id": f"{thread}-{number}",
                    }
                )
                self.news.notify_all()

        async def play():
            await tell("lifecycle", {"event": "started"})
            try:
                async for ns, mode, data in graph.astream(
                    given, config, stream_mode=["values", "updates", "custom"], subgraphs=True
                ):
                    await tell(mode, data, ns)
            except Exception as error:
                await tell("lifecycle", {"event": "failed", "error": str(error)})
            else:
                await tell("lifecycle", {"event": "completed"})

        self.runs[run] = asyncio.ensure_future(play())
        return _json({"type": "success", "id": body["id"], "result": {"run_id": run}})

    async def stream_events(self, request):
        body = await self.body(request)
        thread, sent = request.match_info["thread"], 0
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        while True:
            async with self.news:
                while not (fresh := self.events.get(thread, [])[sent:]):
                    await self.news.wait()
            for event in fresh:
                if event["method"] in body["channels"] or event["method"] == "lifecycle":
                    await answer.write(f"data: {json.dumps(event, default=_plain)}\n\n".encode())
            sent += len(fresh)
            if fresh[-1]["method"] == "lifecycle" and fresh[-1]["params"]["data"]["event"] != "started":
                await answer.write_eof()
                return answer

    async def cancel(self, request):
        await self.body(request)
        run = request.match_info["run"]
        self.cancelled.append(run)
        self.runs[run].cancel()
        return _json({})


@contextlib.contextmanager
def serve(graphs):
    """Serve graphs from a thread with a loop of its own."""
    loop, ready, made = asyncio.new_event_loop(), threading.Event(), []

    async def begin():
        server = Server(graphs)
        runner = web.AppRunner(server.app(), handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        made.extend((server, runner))
        ready.set()

    async def end():
        for run in made[0].runs.values():
            run.cancel()
        await made[1].cleanup()

    def live():
        asyncio.set_event_loop(loop)
        loop.run_until_complete(begin())
        loop.run_forever()
        loop.run_until_complete(end())
        loop.close()

    thread = threading.Thread(target=live, name="api-server")
    thread.start()
    try:
        assert ready.wait(20)
        yield made[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        assert not thread.is_alive()
