"""`run_frontend`: what the command line and programs call."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamo.frontend.service import Frontend

__all__ = ["run_frontend"]


async def run_frontend(
    runtime: Any,
    host: str = "127.0.0.1",
    port: int = 8000,
    router: str | None = None,
    api_key: str | None = None,
    *,
    ready: "Callable[[Frontend], object] | None" = None,
    grace: float = 5.0,
    **settings: Any,
) -> None:
    """Serve the models of a runtime's discovery to OpenAI clients until the task is cancelled or the runtime stops.

    Parameters
    ----------
    runtime : DistributedRuntime
    host, port : where to listen; port 0 takes any free one
    router : "kv", "round-robin", "random", "least-loaded"
    api_key : clients must send ``Authorization: Bearer <key>``
    ready : called once it listens
    grace : seconds that running requests get at the end
    settings : further fields of `Settings`
    """
    from dynamo.frontend.service import Frontend
    from dynamo.frontend.settings import Settings

    front = Frontend(runtime, host, port, Settings.from_environment(router=router, api_key=api_key, **settings))
    await front.start()
    try:
        if ready is not None:
            ready(front)
        await runtime.child_token().cancelled()
    finally:
        await asyncio.shield(front.stop(grace))
