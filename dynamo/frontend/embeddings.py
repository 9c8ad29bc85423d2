"""POST /v1/embeddings: texts or token ids to vectors, through one call to a worker."""

import base64
from typing import TYPE_CHECKING, Any

from dynamo.errors import DynamoError, InvalidArgument, NotFound, Overloaded, Unavailable
from dynamo.frontend.errors import ApiError, bad_request, unavailable
from dynamo.frontend.prepare import Routing
from dynamo.frontend.protocol import EmbeddingRequest

if TYPE_CHECKING:
    from dynamo._http import Request
    from dynamo.frontend.models import Model
    from dynamo.frontend.service import Frontend

__all__ = ["embed"]


async def embed(
    front: "Frontend", http: "Request", model: "Model", request: EmbeddingRequest, inputs: list[Any]
) -> dict[str, Any]:
    """The answer of the API.

    The worker gets ``batch_token_ids`` and yields one item with ``embeddings``: a list of vectors in the order of
    the inputs.
    """
    import numpy as np

    batches: list[list[int]] = []
    for i, one in enumerate(inputs):
        try:
            ids = model.assets.tokenizer.encode(one).tolist() if isinstance(one, str) else list(one)
        except NotFound as error:
            raise bad_request(f"{str(error).rstrip('.')}.", "model", "tokenizer_missing") from None
        if model.context_length and len(ids) > model.context_length:
            raise bad_request(
                f"This model's maximum context length is {model.context_length} tokens, and input {i} has {len(ids)}.",
                "input",
                "context_length_exceeded",
            )
        batches.append(ids)
    longest = max(batches, key=len)
    chosen, worker = await front.pick(model, np.array(longest, np.uint32), f"embd-{http.id}-{id(batches)}", Routing())
    try:
        item = await front.unary(
            worker,
            {
                "model": model.name,
                "batch_token_ids": batches,
                "token_ids": [],
                "dimensions": request.dimensions,
                "mdc_sum": model.sum,
                "annotations": [],
            },
        )
    except InvalidArgument as error:
        raise bad_request(f"{str(error).rstrip('.')}.", "input") from None
    except Overloaded as error:
        raise front.busy(str(error)) from None
    except (Unavailable, ConnectionError) as error:
        raise unavailable(f"The worker is gone: {error}.", 1) from None
    except DynamoError as error:
        raise ApiError(500, f"The worker failed: {error}.", code="worker_error") from None
    finally:
        model.core.free(chosen.ticket)
    vectors = item.get("embeddings") if isinstance(item, dict) else None
    if not isinstance(vectors, list) or len(vectors) != len(batches):
        raise ApiError(500, "The worker answered without embeddings.", code="worker_error")
    data = []
    for i, vector in enumerate(vectors):
        values = np.asarray(vector, np.float32)
        if request.dimensions is not None and request.dimensions != values.shape[0]:
            raise bad_request(
                f"dimensions is {request.dimensions}, the vectors of {model.name!r} have {values.shape[0]}.",
                "dimensions",
            )
        coded: Any = (
            base64.b64encode(values.tobytes()).decode() if request.encoding_format == "base64" else values.tolist()
        )
        data.append({"object": "embedding", "index": i, "embedding": coded})
    count = sum(map(len, batches))
    usage = {"prompt_tokens": count, "total_tokens": count}
    return {"object": "list", "data": data, "model": request.model, "usage": usage}
