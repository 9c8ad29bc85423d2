"""Endpoints with exactly one answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from dynamo._runtime import Context

if TYPE_CHECKING:
    from dynamo.runtime.client import Client
    from dynamo.runtime.distributed import Endpoint


class UnaryClient:
    """Calls that have exactly one answer."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def complete(self, request: Any, *, context: Context | None = None) -> Any:
        """The answer.

        Raises
        ------
        RuntimeError
            When the handler yields nothing, or more than one item.
        """
        answers = [item async for item in self._client.generate(request, annotated=False, context=context)]
        if len(answers) != 1:
            raise RuntimeError(f"{len(answers)} answers where exactly one was expected")
        return answers[0]


async def serve_unary_endpoint(endpoint: Endpoint, handler: Callable[..., Awaitable[Any]]) -> None:
    """Serve ``handler(request, *, context)``, which returns its one answer."""

    async def generate(request: Any, context: Context) -> AsyncIterator[Any]:
        yield await handler(request, context=context)

    await endpoint.serve_endpoint(generate)
