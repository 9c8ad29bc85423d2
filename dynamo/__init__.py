"""dynamo: the serving data plane for language models.

`dynamo.runtime` connects processes, `dynamo.llm` routes requests to the worker that holds their prefix,
`dynamo.frontend` answers OpenAI clients. Everything is imported on first use.
"""

from dynamo import _lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    {
        "errors": "dynamo.errors",
        "llm": "dynamo.llm",
        "runtime": "dynamo.runtime",
        "engines": "dynamo.engines",
        "frontend": "dynamo.frontend",
        "quill": "dynamo.quill",
        "DType": "dynamo._dtype",
        "Tensor": "dynamo._tensor",
        "Token": "dynamo._token",
        "TokenBatch": "dynamo._token_batch",
        "get_include": "dynamo._config",
        "get_library_dir": "dynamo._config",
        "show_config": "dynamo._config",
    },
)
