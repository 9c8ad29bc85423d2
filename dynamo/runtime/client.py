"""Client: calls to the live instances of an endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import json
import weakref
from typing import TYPE_CHECKING, Any

from dynamo import errors
from dynamo._html import html_table
from dynamo._runtime import Caller, Context, ResponseStream
from dynamo.runtime import settings

if TYPE_CHECKING:
    from dynamo.runtime.distributed import Endpoint

_ROUND_ROBIN, _RANDOM, _DIRECT = 0, 1, 2
_MODES = {"roundrobin": _ROUND_ROBIN, "random": _RANDOM}


class TransportType:
    """How an instance is reached."""

    __slots__ = ("address", "kind")

    def __init__(self, kind: str, address: str) -> None:
        self.kind = kind
        self.address = address

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TransportType) and (self.kind, self.address) == (other.kind, other.address)

    def __hash__(self) -> int:
        return hash((self.kind, self.address))

    def __repr__(self) -> str:
        return f'TransportType(kind="{self.kind}", address="{self.address}")'


class Instance:
    """One registered instance, as it was when it was asked for."""

    __slots__ = ("component", "device_type", "endpoint", "instance_id", "namespace", "transport")

    def __init__(self, record: dict[str, Any]) -> None:
        self.instance_id = int(record["instance_id"]) % 2**64
        self.namespace = str(record["namespace"])
        self.component = str(record["component"])
        self.endpoint = str(record["endpoint"])
        ((kind, address),) = record["transport"].items()
        self.transport = TransportType(kind, str(address))
        self.device_type = record.get("device_type")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Instance) and all(getattr(self, n) == getattr(other, n) for n in self.__slots__)

    def __hash__(self) -> int:
        return hash(self.instance_id)

    def __repr__(self) -> str:
        return f"<Instance {self.instance_id:x} of {self.namespace}.{self.component}.{self.endpoint}>"


def _mode(router_mode: Any) -> int:
    """RouterMode, its name or its value; other modes than random are round robin here."""
    name = getattr(router_mode, "name", router_mode)
    return _MODES.get(str(name).lower().replace("_", "").replace("-", ""), _ROUND_ROBIN)


class Client:
    """Calls the instances of one endpoint; made by `Endpoint.client`.

    The calling methods start the request at once and return its stream. ``async for item in client.random(r)`` and
    ``async for item in await client.random(r)`` are the same.
    """

    def __init__(self, endpoint: Endpoint, router_mode: Any = None, *, arrays: bool = False) -> None:
        self.endpoint = endpoint
        self._mode = _mode(router_mode)
        runtime = endpoint.runtime
        self.caller = Caller(
            runtime.pool,
            endpoint.path,
            inhibit_secs=settings.number("DYN_RUNTIME_INHIBITED_DURATION_SECS", 5.0),
            arrays=arrays,
        )
        self._watching: asyncio.Task[None] | None = None
        self._changed: list[asyncio.Future[None]] = []
        self._synced = False
        self._failed: BaseException | None = None

    # ---- who is there ------------------------------------------------------------------------------------------------
    async def _start_watching(self) -> None:
        runtime = self.endpoint.runtime
        if runtime.is_shut_down:
            raise errors.EngineShutdown("the runtime is shut down")
        watch = runtime.store.watch(self.endpoint.prefix)
        self._watching = asyncio.ensure_future(_keep_up(weakref.ref(self), watch))
        runtime._watchers.add(self)
        while not self._synced and self._failed is None:
            await self._change()
        if self._failed is not None:
            raise self._failed

    def _stop_watching(self) -> None:
        task = self._watching
        if task is not None and not task.done():
            with contextlib.suppress(RuntimeError):  # its loop is closed
                task.get_loop().call_soon_threadsafe(task.cancel)

    def __del__(self) -> None:
        self._stop_watching()

    async def _change(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._changed.append(future)
        await future

    def _tell(self) -> None:
        waiters, self._changed = self._changed, []
        for future in waiters:
            if not future.done():
                future.set_result(None)

    def _put(self, value: bytes | None) -> None:
        try:
            record = json.loads(value or b"")
            instance = Instance(record)
            if record.get("type", "Endpoint") == "Endpoint" and instance.transport.kind == "tcp":
                self.caller.put(instance.instance_id, instance.transport.address, instance)
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # someone else's entry: not ours to judge

    def instance_ids(self) -> list[int]:
        """Ids of the instances that are there now, sorted."""
        return self.caller.ids()

    def instances(self) -> list[Instance]:
        """The instances that are there now."""
        return self.caller.records()

    async def wait_for_instances(self) -> list[int]:
        """Wait until there is at least one; their ids."""
        while not (ids := self.instance_ids()):
            if self._failed is not None:
                raise self._failed
            if self.endpoint.runtime.is_shut_down:
                raise errors.EngineShutdown("the runtime is shut down")
            await self._change()
        return ids

    # ---- calls -------------------------------------------------------------------------------------------------------
    def generate(self, request: Any, annotated: bool | None = True, context: Context | None = None) -> ResponseStream:
        """Call an instance by the client's router mode.

        Parameters
        ----------
        request : what msgpack can carry
            None, bool, numbers, texts, bytes, lists, dicts, arrays.
        annotated : bool
            Items come as `Annotated` (``item.data()``); otherwise as they were yielded.
        context : Context, optional
            Its id, metadata and trace travel along; stopping or killing it stops or kills this call.

        Returns
        -------
        ResponseStream
            An asynchronous iterator; awaiting it first is allowed.

        Raises
        ------
        dynamo.errors.Unavailable
            No instance is there.
        dynamo.errors.RemoteError
            While iterating: the handler raised. A builtin exception can be caught by its own class, too.
        dynamo.errors.StreamBroken
            While iterating: the worker went away after its first item. Before it, another one is asked.
        """
        return self.caller.call(request, self._mode, None, bool(annotated), context)

    def random(self, request: Any, annotated: bool | None = True, context: Context | None = None) -> ResponseStream:
        """Call any instance. Parameters and errors as of `generate`."""
        return self.caller.call(request, _RANDOM, None, bool(annotated), context)

    def round_robin(
        self, request: Any, annotated: bool | None = True, context: Context | None = None
    ) -> ResponseStream:
        """Call the next instance. Parameters and errors as of `generate`."""
        return self.caller.call(request, _ROUND_ROBIN, None, bool(annotated), context)

    def direct(
        self,
        request: Any,
        instance_id: int,
        annotated: bool | None = True,
        context: Context | None = None,
    ) -> ResponseStream:
        """Call this instance and no other. Parameters and errors as of `generate`."""
        return self.caller.call(request, _DIRECT, instance_id % 2**64, bool(annotated), context)

    def static(self, request: Any, annotated: bool | None = True, context: Context | None = None) -> ResponseStream:
        """Call the one instance of a deployment that does not change. Parameters and errors as of `generate`."""
        return self.caller.call(request, _ROUND_ROBIN, None, bool(annotated), context)

    def __repr__(self) -> str:
        return f"<Client of {self.endpoint.path}, {len(self.instance_ids())} instances>"

    def _repr_html_(self) -> str:
        rows = [[f"{one.instance_id:x}", one.transport.address] for one in self.instances()]
        return html_table(f"Client of {self.endpoint.path}: {len(rows)} instances", rows, ("instance", "address"))


async def _keep_up(reference: Any, watch: Any) -> None:
    """Follow discovery for as long as the client lives. Holds it only while it works."""
    try:
        async for kind, key, value in watch:
            client: Client | None = reference()
            if client is None:
                return
            if kind == "put":
                client._put(value)
            elif kind == "delete":
                client.caller.remove(int(key.rsplit("/", 1)[-1], 16))
            else:
                client._synced = True
            client._tell()
            del client
        error: BaseException = errors.EngineShutdown("discovery was closed")
    except asyncio.CancelledError:
        error = errors.EngineShutdown("the runtime is shut down")
    except Exception as caught:
        error = caught
    finally:
        watch.close()
    client = reference()
    if client is not None:
        client._failed = error
        client._tell()
