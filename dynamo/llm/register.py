"""Publish and withdraw model cards, and find a model's files.

    v1/mdc/<namespace>/<component>/<endpoint>/<instance hex>[/<slug of an adapter>]

Cards live on the lease of their process: they go when it goes.
"""

import asyncio
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dynamo.errors import InvalidArgument, Unavailable
from dynamo.llm.model import (
    ModelDeploymentCard,
    ModelInput,
    ModelRuntimeConfig,
    ModelType,
    WorkerType,
    slug,
)

if TYPE_CHECKING:
    from dynamo.llm.router_config import RouterConfig, RouterMode
    from dynamo.runtime import Endpoint

__all__ = [
    "card_key",
    "fetch_llm",
    "fetch_model",
    "publish_card",
    "register_llm",
    "register_model",
    "unregister_llm",
    "unregister_model",
]


async def register_model(
    model_input: ModelInput,
    model_type: ModelType,
    endpoint: "Endpoint",
    model_path: "str | os.PathLike[str] | None" = None,
    model_name: str | None = None,
    context_length: int | None = None,
    kv_cache_block_size: int | None = None,
    router_mode: "RouterMode | None" = None,
    migration_limit: int = 0,
    runtime_config: ModelRuntimeConfig | None = None,
    user_data: Mapping[str, Any] | None = None,
    custom_template_path: "str | os.PathLike[str] | None" = None,
    lora_name: str | None = None,
    base_model_path: str | None = None,
    *,
    block_size: int | None = None,
    worker_type: WorkerType | None = None,
    router_config: "RouterConfig | None" = None,
    tensor_model_config: Mapping[str, Any] | None = None,
    needs: Sequence[Sequence[WorkerType]] | None = None,
    self_host_metadata: bool | None = None,
    ignore_weights: bool = False,
    max_gpu_lora_count: int | None = None,
    model_aliases: Sequence[str] | None = None,
    skip_model_assets: bool = False,
    media_decoder: None = None,
    media_fetcher: None = None,
) -> None:
    """Publish the card of a model that `endpoint` serves, so that front ends route requests to it.

    The positional order is that of Dynamo 0.8, the keywords those of 0.8 and 1.6; `register_llm` is the same function.

    Parameters
    ----------
    model_path : a folder or GGUF file here, or a name that `fetch_model` finds here; None makes a card with only a
        name: routable by token ids, and a request with text is told that the tokeniser is missing
    model_name : what clients ask for; by default the last part of `model_path`
    context_length : tokens of prompt and answer together; by default what the model's files say
    kv_cache_block_size, block_size : tokens of a block of the worker's cache; two names for one number
    migration_limit : how many times a broken answer may go on at another worker
    custom_template_path : a chat template that is used instead of the model's own
    worker_type : Aggregated by default; Prefill when `model_type` has that flag
    skip_model_assets : name no files even where there are some
    media_decoder, media_fetcher : None: images and videos are not decoded here
    self_host_metadata, ignore_weights : accepted; files are not copied anywhere by registering

    Raises
    ------
    InvalidArgument : two values contradict each other, or a file of the model is not usable
    """
    if block_size is not None and kv_cache_block_size is not None and block_size != kv_cache_block_size:
        raise InvalidArgument(f"block_size is {block_size} and kv_cache_block_size is {kv_cache_block_size}: give one")
    if media_decoder is not None or media_fetcher is not None:
        raise InvalidArgument("media_decoder and media_fetcher are not available here: leave them None")
    if worker_type is None:
        worker_type = WorkerType.Prefill if model_type.supports_prefill() else WorkerType.Aggregated
    path: str | os.PathLike[str] | None = model_path if model_path is not None else base_model_path
    if path is not None and not skip_model_assets:
        path = await fetch_model(os.fspath(path), ignore_weights)
    if model_name is None and model_path is not None and path is not None and os.fspath(path) != os.fspath(model_path):
        model_name = os.fspath(model_path)  # a name of a hub stays the name
    card = await asyncio.to_thread(
        ModelDeploymentCard.load,
        path,
        lora_name or model_name,
        model_type=model_type,
        model_input=model_input,
        worker_type=worker_type,
        context_length=context_length,
        kv_cache_block_size=kv_cache_block_size or block_size,
        migration_limit=migration_limit,
        custom_template_path=custom_template_path,
        user_data=user_data,
        runtime_config=runtime_config,
        skip_model_assets=skip_model_assets,
        lora=None if lora_name is None else {"name": lora_name, "max_gpu_lora_count": max_gpu_lora_count},
        needs=None if needs is None else [[str(one) for one in some] for some in needs],
        tensor_model_config=None if tensor_model_config is None else dict(tensor_model_config),
        model_aliases=list(model_aliases) if model_aliases else None,
        router_config=_router_fields(router_config, router_mode),
    )
    publish_card(endpoint, card, lora_name)


register_llm = register_model


def publish_card(endpoint: "Endpoint", card: ModelDeploymentCard, lora_name: str | None = None) -> None:
    """Put a card into discovery, on the lease of this process."""
    suffix = slug(lora_name) if lora_name else None
    value: dict[str, Any] = {
        "type": "Model",
        "namespace": endpoint.namespace,
        "component": endpoint.component,
        "endpoint": endpoint.name,
        "instance_id": endpoint.runtime.instance_id(),
        "card_json": card.to_dict(),
    }
    if suffix is not None:
        value["model_suffix"] = suffix
    raw = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    endpoint.runtime.store.put(card_key(endpoint, lora_name), raw, endpoint.runtime.lease)


def card_key(endpoint: "Endpoint", lora_name: str | None = None) -> str:
    """Where in discovery the card of this process for an endpoint is."""
    key = f"v1/mdc/{endpoint.namespace}/{endpoint.component}/{endpoint.name}/{endpoint.runtime.instance_id():x}"
    return f"{key}/{slug(lora_name)}" if lora_name else key


async def unregister_model(endpoint: "Endpoint", lora_name: str | None = None) -> None:
    """Withdraw the card of a model, or of an adapter. None there: nothing happens."""
    if not endpoint.runtime.is_shut_down:
        endpoint.runtime.store.delete(card_key(endpoint, lora_name))


unregister_llm = unregister_model


async def fetch_model(remote_name: str, ignore_weights: bool = False) -> str:
    """The path of a model on this machine.

    Parameters
    ----------
    remote_name : a folder or GGUF file; a name ("org/model") that the Hugging Face cache of this machine has; or
        ``dyn://namespace.component.endpoint`` of a worker that gives its model's files away (`serve_engine`)
    ignore_weights : from a worker take only what a front end needs (of a GGUF its header)

    Raises
    ------
    Unavailable : it is not here. Nothing is downloaded from the internet by dynamo itself
    """
    if remote_name.startswith("dyn://"):
        from dynamo.llm.transfer import fetch_from_worker

        return await fetch_from_worker(remote_name, ignore_weights)
    found = await asyncio.to_thread(_local, remote_name)
    if found is None:
        raise Unavailable(
            f"the model {remote_name!r} is not on this machine: no such path, and not in the Hugging Face cache "
            f"{_cache_root()}. dynamo does not download models: give a folder or GGUF file, or "
            f"'dyn://namespace.component.endpoint' of a worker that has it"
        )
    return found


fetch_llm = fetch_model


def _cache_root() -> pathlib.Path:
    root = os.environ.get("HF_HUB_CACHE") or os.path.join(
        os.environ.get("HF_HOME") or os.path.join(pathlib.Path.home(), ".cache", "huggingface"), "hub"
    )
    return pathlib.Path(root)


def _local(name: str) -> str | None:
    """A path that is there; else a model in the cache of huggingface_hub: its main revision, else the newest."""
    place = pathlib.Path(name).expanduser()
    if place.exists():
        return str(place)
    if not all(part and part not in (".", "..") for part in name.split("/")) or name.count("/") > 1:
        return None
    folder = _cache_root() / ("models--" + name.replace("/", "--"))
    snapshots = folder / "snapshots"
    if not snapshots.is_dir():
        return None
    main = folder / "refs" / "main"
    if main.is_file() and (wanted := snapshots / main.read_text().strip()).is_dir():
        return str(wanted)
    found = sorted((one for one in snapshots.iterdir() if one.is_dir()), key=lambda one: one.stat().st_mtime)
    return str(found[-1]) if found else None


def _router_fields(config: "RouterConfig | None", mode: "RouterMode | None") -> dict[str, Any] | None:
    """A router's settings in a card: the mode, and of the others those that are plain values."""
    if config is None and mode is None:
        return None
    chosen: Any = getattr(config, "router_mode", mode)
    fields: dict[str, Any] = {"router_mode": chosen.name if hasattr(chosen, "name") else str(chosen)}
    kv = getattr(config, "kv_router_config", None)
    if kv is not None and callable(getattr(kv, "to_dict", None)):
        fields["kv_router_config"] = kv.to_dict()
    for name in ("active_decode_blocks_threshold", "active_prefill_tokens_threshold"):
        value = getattr(config, name, None)
        if value is not None:
            fields[name] = value
    return fields
