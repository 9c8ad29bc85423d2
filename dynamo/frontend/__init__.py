"""The OpenAI-compatible front end: `run_frontend` serves what discovery knows, until it is cancelled."""

from dynamo import _lazy

_TABLE: dict[str, str] = {
    "ApiError": "dynamo.frontend.errors",
    "Frontend": "dynamo.frontend.service",
    "Settings": "dynamo.frontend.settings",
    "run_frontend": "dynamo.frontend.run",
}

__getattr__, __dir__, __all__ = _lazy.attach(__name__, _TABLE)
