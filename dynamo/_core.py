"""The names of `dynamo.runtime` and `dynamo.llm` in one place, for programs that know `dynamo._core`. No code."""

from dynamo import _lazy
from dynamo.llm import _TABLE as _LLM
from dynamo.runtime import _TABLE as _RUNTIME

__getattr__, __dir__, __all__ = _lazy.attach(__name__, {**_RUNTIME, **_LLM, "_C_API": "dynamo._plugin"})
