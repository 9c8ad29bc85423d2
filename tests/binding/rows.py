"""Every public extension type of the project, and what the rules of the border need to know about it.

A type that is not in ROWS fails the tests. What a row may say:

make      makes one; None for a type that only the library makes
wrong     calls with one object of a wrong type: TypeError, and the message names that type
refused   calls with values that are refused, through the table of errors
value     it is a value: it pickles, and comes back equal. Else pickling is refused with TypeError
sealed    final in Python although Cython derives from it
inside    it serves other extensions: nobody looks at it, so it may have Python's repr
cycle     makes one that is part of a cycle with the object it is given: the collector must find it
view      a view of its memory; the memory stays while the view lives
long      work of 20 ms or more on it, during which other threads must run
"""

import asyncio
import importlib
import inspect
import pathlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import dynamo
from dynamo import errors

PACKAGE = pathlib.Path(dynamo.__file__).parent
HEAP_TYPE = 1 << 9


@dataclass
class Row:
    make: Callable[[], Any] | None = None
    wrong: tuple[Callable[[Any], Any], ...] = ()
    refused: tuple[Callable[[], Any], ...] = ()
    value: bool = False
    inside: bool = False
    sealed: bool = False
    cycle: Callable[[Any], Any] | None = None
    view: Callable[[Any], Any] | None = None
    long: Callable[[], Callable[[], Any]] | None = None


def modules() -> list[str]:
    return sorted({path.name.split(".")[0] for path in PACKAGE.glob("_*.so")})


def extension_types() -> dict[str, type]:
    """ "_module.Name" of every public class that an extension module defines in C."""
    found = {}
    for name in modules():
        module = importlib.import_module(f"dynamo.{name}")
        for attribute, value in vars(module).items():
            if (
                inspect.isclass(value)
                and value.__module__ == module.__name__
                and not attribute.startswith("_")
                and not value.__flags__ & HEAP_TYPE
            ):
                found[f"{name}.{attribute}"] = value
    return found


def final_types() -> set[str]:
    """Those whose stub says @final."""
    found = set()
    for stub in PACKAGE.glob("_*.pyi"):
        for name in re.findall(r"@final\n(?:@\w+\n)*class (\w+)", stub.read_text()):
            found.add(f"{stub.stem}.{name}")
    return found


def of(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"dynamo.{module}"), name)


def in_loop(make: Callable[[], Any]) -> Any:
    async def run() -> Any:
        return make()

    return asyncio.run(run())


def some_tree() -> Any:
    tree = of("_index", "RadixTree")()
    tree.apply_stored(1, [10, 11], [20, 21])
    return tree


def core() -> Any:
    return of("_router", "SelectionCore")(16)


def core_with_worker() -> Any:
    made = core()
    made.put_worker(1)
    return made


def vocab() -> Any:
    return of("_tokens", "Vocab")([b"a", b"b"])


def tensor(count: int = 4) -> Any:
    return of("_tensor", "Tensor").from_numpy(np.ones(count, np.float32))


def tensor_on(holder: Any) -> Any:
    # A tensor that shows memory of an array, which knows the holder, which gets the tensor.
    class Array(np.ndarray):
        pass

    array = np.ones(4, np.float32).view(Array)
    array.holder = holder
    return of("_tensor", "Tensor").from_numpy(array, copy=False)


def batch() -> Any:
    token = of("_token", "Token")
    return of("_token_batch", "TokenBatch").from_tokens([token(5, 0, "a", -0.5), token(6, 1)], 1)


def caller(pool_arguments: tuple[Any, ...] = ()) -> Any:
    return of("_runtime", "Caller")(of("_runtime", "Pool")(*pool_arguments), "a/b/c")


def watch() -> Any:
    return in_loop(lambda: of("_discovery", "Store")("mem").watch("v1/instances/"))


def source() -> Any:
    return of("_events", "EventSubscriber")().add(1, "tcp://127.0.0.1:1", some_tree())


def request_seen() -> Any:
    """A Request that a handler was given, and kept."""

    async def main() -> Any:
        seen = []

        async def handler(request: Any) -> None:
            seen.append(request)
            request.respond(b"x", 200, "text/plain")

        server = of("_http", "Server")()
        server.route("GET", "/", handler)
        server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /?a=1 HTTP/1.1\r\nHost: x\r\nX-A: b\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b"x")
        writer.close()
        await server.stop(1.0)
        return seen[0]

    return asyncio.run(main())


def stream() -> Any:
    """The ResponseStream of a call that nobody could take."""

    async def main() -> Any:
        made = caller()
        made.put(1, "127.0.0.1:1/a/b/c")
        out = made.call({}, 0, None, False, None)
        try:
            async for _ in out:
                pass
        except Exception:
            return out

    return asyncio.run(main())


def serves(holder: Any) -> Any:
    async def handler(request: Any, holder: Any = holder) -> None: ...

    async def main() -> Any:
        made = of("_http", "Server")()
        made.route("GET", "/", handler)
        await made.stop()  # until then C may call the handler
        return made

    return asyncio.run(main())


def simulates(holder: Any) -> Any:
    def make() -> Any:
        made = of("_mocker", "MockerEngine")(asyncio.get_running_loop(), on_stored=lambda *_, h=holder: None)
        made.shutdown()
        return made

    return in_loop(make)


def knows(holder: Any) -> Any:
    made = caller()
    made.put(1, "127.0.0.1:1", holder)
    return made


def loop_core(holder: Any) -> Any:
    made = of("_superstep", "LoopCore")()
    made.config = holder
    return made


def scratchpad(holder: Any = None) -> Any:
    def call(*_: Any, holder: Any = holder) -> int:
        return 0

    return of("_pregel", "PregelScratchpad")(
        step=0,
        stop=1,
        call_counter=call,
        interrupt_counter=call,
        get_null_resume=call,
        resume=[holder],
        subgraph_counter=call,
    )


def annotated(data: Any) -> Any:
    return of("_runtime", "Annotated")(data)


def sum_of_many() -> Callable[[], Any]:
    made = tensor(1 << 27)  # 512 MiB: long enough to see whether others run
    return made.tobytes


def hash_of_many() -> Callable[[], Any]:
    hashes = of("_hash", "compute_block_hashes")
    ids = np.arange(1 << 26, dtype=np.uint32)
    return lambda: hashes(ids, 16)


ROWS: dict[str, Row] = {
    "_channels.Barrier": Row(inside=True, cycle=lambda holder: of("_channels", "NamedBarrierValue")(holder, {"a"})),
    "_channels.Guarded": Row(inside=True, cycle=lambda holder: of("_channels", "EphemeralValue")(holder)),
    "_channels.Held": Row(inside=True, cycle=lambda holder: of("_channels", "LastValue")(holder)),
    "_channels.Native": Row(inside=True),
    "_discovery.Lease": Row(lambda: of("_discovery", "Store")("mem").lease()),
    "_discovery.Store": Row(
        lambda: of("_discovery", "Store")("mem"),
        wrong=(
            lambda w: of("_discovery", "Store")(w),
            lambda w: of("_discovery", "Store")("mem").put("a", w),
            lambda w: of("_discovery", "Store")("mem").get(w),
            lambda w: of("_discovery", "Store")("mem").list(w),
        ),
        refused=(lambda: of("_discovery", "Store")("nowhere"),),
    ),
    "_discovery.Watch": Row(
        watch,
        wrong=(
            lambda w: of("_discovery", "Watch")(w, ""),
            lambda w: in_loop(lambda: of("_discovery", "Store")("mem").watch(w)),
        ),
        refused=(lambda: in_loop(lambda: of("_discovery", "Store")("mem").watch("a/")),),
    ),
    "_dtype.DType": Row(
        lambda: of("_dtype", "DType").bfloat16(),
        value=True,
        wrong=(lambda w: of("_dtype", "DType").from_name(w), lambda w: of("_dtype", "DType").from_numpy(w)),
    ),
    "_events.EventChannel": Row(
        lambda: of("_events", "EventChannel")(7),
        wrong=(
            lambda w: of("_events", "EventChannel")(w),
            lambda w: of("_events", "EventChannel")(7).publish_removed(w),
        ),
        refused=(lambda: of("_events", "EventChannel")(7, endpoint="tcp://nowhere:x"),),
    ),
    "_events.EventQueue": Row(
        lambda: of("_events", "EventQueue")(4), wrong=(lambda w: of("_events", "EventQueue")(w),)
    ),
    "_events.EventSource": Row(source),
    "_events.EventSubscriber": Row(
        lambda: of("_events", "EventSubscriber")(),
        wrong=(
            lambda w: of("_events", "EventSubscriber")(w),
            lambda w: of("_events", "EventSubscriber")().add(w, "tcp://127.0.0.1:1"),
            lambda w: of("_events", "EventSubscriber")().add(1, w),
        ),
    ),
    "_events.KvSink": Row(inside=True),
    "_events.LoadTable": Row(
        lambda: of("_events", "LoadTable")(), wrong=(lambda w: of("_events", "LoadTable")().remove(w),)
    ),
    "_frames.ByteCredits": Row(
        lambda: of("_frames", "ByteCredits")(),
        wrong=(
            lambda w: of("_frames", "ByteCredits")(w),
            lambda w: of("_frames", "ByteCredits").preset(w),
            lambda w: of("_frames", "ByteCredits")().consume(w),
        ),
        refused=(lambda: of("_frames", "ByteCredits")(0, 5, 5), lambda: of("_frames", "ByteCredits")().grant(-1)),
    ),
    "_frames.FrameReader": Row(
        lambda: of("_frames", "FrameReader")(),
        wrong=(lambda w: of("_frames", "FrameReader")().feed(w),),
        refused=(lambda: of("_frames", "FrameReader")().feed(b"\xff" * 10),),
    ),
    "_frames.MessageCredits": Row(
        lambda: of("_frames", "MessageCredits")(),
        wrong=(lambda w: of("_frames", "MessageCredits")(w), lambda w: of("_frames", "MessageCredits")().grant(w)),
        refused=(lambda: of("_frames", "MessageCredits")(16, 0),),
    ),
    "_hash.Tokens": Row(inside=True, long=hash_of_many),
    "_http.Request": Row(
        request_seen,
        wrong=(lambda w: request_seen().header(w), lambda w: request_seen().respond(w, 200)),
    ),
    "_http.Route": Row(inside=True),
    "_http.Server": Row(
        lambda: of("_http", "Server")(),
        wrong=(
            lambda w: of("_http", "Server")(w),
            lambda w: of("_http", "Server")(port=w),
            lambda w: of("_http", "Server")(max_headers=w),
            lambda w: of("_http", "Server")().route(w, "/", print),
            lambda w: of("_http", "Server")().route_static("/", w),
            lambda w: of("_http", "Server")().route_metrics("/", w),
        ),
        refused=(lambda: of("_http", "Server")(port=70000),),
        cycle=serves,
    ),
    "_index.ApproxTree": Row(
        lambda: of("_index", "ApproxTree")(),
        wrong=(
            lambda w: of("_index", "ApproxTree")(w),
            lambda w: of("_index", "ApproxTree")().routed(w, [1]),
            lambda w: of("_index", "ApproxTree")().find_matches(w),
        ),
        refused=(lambda: of("_index", "ApproxTree")(-1.0),),
    ),
    "_index.OverlapScores": Row(
        lambda: some_tree().find_matches([20, 21]), value=True, view=lambda scores: scores.counts
    ),
    "_index.RadixTree": Row(
        some_tree,
        wrong=(
            lambda w: of("_index", "RadixTree")(w),
            lambda w: of("_index", "RadixTree")(max_bytes=w),
            lambda w: some_tree().find_matches(w),
            lambda w: some_tree().apply_event(1, w),
            lambda w: some_tree().apply_stored(w, [1], [2]),
            lambda w: some_tree().apply_stored(1, w, [2]),
            lambda w: some_tree().remove_worker(w),
        ),
        refused=(
            lambda: of("_index", "RadixTree")(-1.0),
            lambda: some_tree().apply_event(1, b"{"),
            lambda: some_tree().apply_stored(1, [1], [2], parent=99),
        ),
    ),
    "_loop.Loop": Row(lambda: of("_loop", "default_loop")(), inside=True),
    "_mailbox.Mailbox": Row(inside=True),
    "_mailbox.Receiver": Row(inside=True),
    "_metrics.Counter": Row(
        lambda: of("_metrics", "Registry")().counter("a_total"),
        wrong=(lambda w: of("_metrics", "Registry")().counter("a_total").inc(w),),
        refused=(lambda: of("_metrics", "Registry")().counter("a_total").inc(-1.0),),
    ),
    "_metrics.Gauge": Row(
        lambda: of("_metrics", "Registry")().gauge("a"),
        wrong=(lambda w: of("_metrics", "Registry")().gauge("a").set(w),),
        refused=(lambda: of("_metrics", "Registry")().gauge("a", "", ["0"]),),
    ),
    "_metrics.Histogram": Row(
        lambda: of("_metrics", "Registry")().histogram("a"),
        wrong=(lambda w: of("_metrics", "Registry")().histogram("a").observe(w),),
        refused=(lambda: of("_metrics", "Registry")().histogram("a", "", buckets=[2.0, 1.0]),),
    ),
    "_metrics.Metric": Row(),  # what the three above have in common
    "_metrics.Registry": Row(
        lambda: of("_metrics", "Registry")(),
        wrong=(
            lambda w: of("_metrics", "Registry")(w),
            lambda w: of("_metrics", "Registry")().counter(w),
        ),
        refused=(lambda: of("_metrics", "Registry")().counter("no name"),),
    ),
    "_mocker.MockerEngine": Row(
        lambda: in_loop(lambda: of("_mocker", "MockerEngine")(asyncio.get_running_loop())),
        wrong=(
            lambda w: in_loop(lambda: of("_mocker", "MockerEngine")(asyncio.get_running_loop(), blocks=w)),
            lambda w: in_loop(lambda: of("_mocker", "MockerEngine")(asyncio.get_running_loop()).submit(w, 1)),
        ),
        refused=(lambda: in_loop(lambda: of("_mocker", "MockerEngine")(asyncio.get_running_loop(), blocks=0)),),
        cycle=simulates,
    ),
    "_mocker.MockerStream": Row(inside=True),
    "_pregel.ChannelMap": Row(inside=True, cycle=lambda holder: of("_pregel", "ChannelMap")(a=holder)),
    "_pregel.Counter": Row(inside=True),
    "_pregel.LocalRead": Row(inside=True),
    "_pregel.NodePlan": Row(inside=True),
    "_pregel.NullResume": Row(inside=True),
    "_pregel.PregelScratchpad": Row(scratchpad, inside=True, cycle=scratchpad),
    "_pregel.Preparer": Row(inside=True),
    "_pregel.Round": Row(inside=True),
    "_pregel.Shape": Row(inside=True),
    "_pregel.View": Row(inside=True),
    "_pieces.Pieces": Row(inside=True),
    "_quill.Call": Row(inside=True, sealed=True),
    "_quill.Channel": Row(
        lambda: of("_quill", "Channel")("http://127.0.0.1:1", print),
        inside=True,
        wrong=(lambda w: of("_quill", "Channel")(w, print),),
        refused=(lambda: of("_quill", "Channel")("nowhere", print),),
        cycle=lambda holder: of("_quill", "Channel")("http://127.0.0.1:1", lambda *_: holder),
    ),
    "_quill.Hub": Row(inside=True),
    "_quill.Stream": Row(inside=True, sealed=True),
    "_quill_stream.Budget": Row(inside=True),
    "_quill_stream.RequestStream": Row(inside=True),
    "_router.Decision": Row(lambda: core_with_worker().pick([1] * 16)),
    "_router.SelectionCore": Row(
        core,
        wrong=(
            lambda w: of("_router", "SelectionCore")(w),
            lambda w: of("_router", "SelectionCore")(16, w),
            lambda w: core().put_worker(w),
            lambda w: core_with_worker().pick(w),
            lambda w: core_with_worker().remove_worker(w),
        ),
        refused=(lambda: core().pick([1]), lambda: of("_router", "SelectionCore")(0)),
    ),
    "_router.Turn": Row(inside=True),
    "_runtime.Annotated": Row(lambda: annotated({"a": 1}), value=True, cycle=annotated),
    "_runtime.Caller": Row(
        caller,
        inside=True,
        wrong=(lambda w: of("_runtime", "Caller")(w, ""), lambda w: caller().put(w, "x")),
        cycle=knows,
    ),
    "_runtime.Context": Row(
        lambda: of("_runtime", "Context")("id"),
        wrong=(lambda w: of("_runtime", "Context")(w), lambda w: of("_runtime", "Context")("a", w)),
    ),
    "_runtime.Handling": Row(inside=True),
    "_runtime.Pool": Row(lambda: of("_runtime", "Pool")(), inside=True, wrong=(lambda w: of("_runtime", "Pool")(w),)),
    "_runtime.Port": Row(inside=True),
    "_runtime.ResponseStream": Row(stream),
    "_runtime.Server": Row(
        lambda: of("_runtime", "Server")(),
        inside=True,
        wrong=(lambda w: of("_runtime", "Server")(w), lambda w: of("_runtime", "Server")(port=w)),
    ),
    "_runtime.Serving": Row(inside=True, wrong=(lambda w: of("_runtime", "Serving")(w, "a", print),)),
    "_serve.Answer": Row(inside=True),
    "_serve.Booking": Row(inside=True),
    "_serve.RouterBooking": Row(inside=True, wrong=(lambda w: of("_serve", "RouterBooking")(w, 1),)),
    "_shared_channel.SharedChannel": Row(inside=True),
    "_superstep.Band": Row(inside=True),
    "_superstep.Door": Row(inside=True),
    "_superstep.Gang": Row(inside=True),
    "_superstep.Hop": Row(inside=True),
    "_superstep.Inside": Row(inside=True),
    "_superstep.Inner": Row(inside=True, cycle=lambda holder: of("_superstep", "Inner")(holder)),
    "_superstep.Loose": Row(inside=True),
    "_superstep.LoopCore": Row(inside=True, cycle=loop_core),
    "_superstep.LoopGang": Row(inside=True),
    "_superstep.Member": Row(inside=True),
    "_superstep.Step": Row(inside=True, cycle=lambda holder: of("_superstep", "Step")(0, holder)),
    "_tensor.Tensor": Row(
        tensor,
        value=True,
        wrong=(
            lambda w: of("_tensor", "Tensor")(w),
            lambda w: of("_tensor", "Tensor").zeros(w),
            lambda w: of("_tensor", "Tensor").zeros([1], w),
            lambda w: of("_tensor", "Tensor").from_bytes(w, [1], "uint8"),
        ),
        refused=(lambda: of("_tensor", "Tensor").from_bytes(b"123", [1], "float32"),),
        cycle=tensor_on,
        view=memoryview,
        long=sum_of_many,
    ),
    "_tensor.TensorMeta": Row(
        lambda: of("_tensor", "TensorMeta")([2, 3], "float32", "w"),
        value=True,
        wrong=(
            lambda w: of("_tensor", "TensorMeta")(w, "float32"),
            lambda w: of("_tensor", "TensorMeta")([1], w),
            lambda w: of("_tensor", "TensorMeta")([1], "float32", w),
        ),
        refused=(lambda: of("_tensor", "TensorMeta")([2**62, 8], "float32"),),
    ),
    "_tensor.TensorReader": Row(
        lambda: of("_tensor", "TensorReader")(),
        wrong=(lambda w: of("_tensor", "TensorReader")(w), lambda w: of("_tensor", "TensorReader")().feed(w)),
        refused=(lambda: of("_tensor", "TensorReader")().feed(b"\xff" * 16),),
    ),
    "_token.Token": Row(
        lambda: of("_token", "Token")(1, 2, "x", -0.5),
        value=True,
        wrong=(
            lambda w: of("_token", "Token")(w, 0),
            lambda w: of("_token", "Token")(0, 0, w),
            lambda w: of("_token", "Token")(0, 0, None, w),
            lambda w: of("_token", "Token")(0, 0, None, None, w),
            lambda w: of("_token", "Token").decode(w),
        ),
        refused=(lambda: of("_token", "Token").decode(b""), lambda: of("_token", "Token")(0, 0, "x" * 65536).encode()),
    ),
    "_token_batch.TokenBatch": Row(
        batch,
        value=True,
        wrong=(
            lambda w: of("_token_batch", "TokenBatch")(w),
            lambda w: batch().add(w),
            lambda w: batch().extend(w),
            lambda w: batch().append(w),
            lambda w: batch()[w],
            lambda w: of("_token_batch", "TokenBatch").decode(w),
        ),
        refused=(lambda: of("_token_batch", "TokenBatch").decode(b"\1"),),
        view=lambda made: made.ids,
    ),
    "_tls.TlsContext": Row(
        lambda: of("_tls", "TlsContext")(trust_anyone=True),
        inside=True,
        wrong=(lambda w: of("_tls", "TlsContext")(ca_file=w),),
        refused=(lambda: of("_tls", "TlsContext")(key="k.pem"), lambda: of("_tls", "TlsContext")(server=True)),
    ),
    "_tokens.Detokenizer": Row(
        lambda: of("_tokens", "Detokenizer")(vocab()),
        wrong=(
            lambda w: of("_tokens", "Detokenizer")(w),
            lambda w: of("_tokens", "Detokenizer")(vocab()).push(w),
        ),
    ),
    "_tokens.StopMatcher": Row(
        lambda: of("_tokens", "StopMatcher")(["a"]),
        wrong=(lambda w: of("_tokens", "StopMatcher")(w), lambda w: of("_tokens", "StopMatcher")(["a"]).push(w)),
    ),
    "_tokens.StopStrings": Row(
        lambda: of("_tokens", "StopStrings")(["a"]),
        wrong=(lambda w: of("_tokens", "StopStrings")(w), lambda w: of("_tokens", "StopStrings")([w])),
        refused=(lambda: of("_tokens", "StopStrings")([""]),),
    ),
    "_tokens.Vocab": Row(
        vocab,
        wrong=(
            lambda w: of("_tokens", "Vocab")(w),
            lambda w: of("_tokens", "Vocab")([w]),
            lambda w: vocab()[w],
            lambda w: vocab().is_special(w),
        ),
        refused=(lambda: of("_tokens", "Vocab")([b"a"], special=[5]),),
    ),
    "_topology.Topology": Row(
        lambda: of("_topology", "Topology")(),
        wrong=(lambda w: of("_topology", "Topology")().pin(w), lambda w: of("_topology", "Topology")().node_of(w)),
    ),
    "_workers.Bell": Row(inside=True),
    "_workers.Crew": Row(
        lambda: of("_workers", "Crew")(1),
        inside=True,
        wrong=(lambda w: of("_workers", "Crew")(w),),
        refused=(lambda: of("_workers", "Crew")(0),),
    ),
    "_workers.Errand": Row(inside=True),
    "_workers.Job": Row(inside=True),
    "_workers.Keeper": Row(lambda: of("_workers", "Keeper")(), inside=True),
    "_workers.Worker": Row(inside=True),
}

# What the C library says, and what the border says itself before it asks the library.
TABLE = (*{row[3] for row in of("_errors", "table")()}, errors.DynamoError, ValueError)
