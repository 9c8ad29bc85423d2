"""Cards in discovery: published, found, withdrawn; and where a model's files come from."""

import asyncio
import inspect
import json

import pytest

from dynamo.errors import InvalidArgument, NotFound, Unavailable
from dynamo.llm import (
    ModelDeploymentCard,
    ModelInput,
    ModelType,
    RouterConfig,
    RouterMode,
    WorkerType,
    fetch_llm,
    fetch_model,
    register_llm,
    register_model,
    unregister_model,
)
from dynamo.llm.assets import load_assets
from dynamo.runtime import DistributedRuntime

TOKENS, CHAT = ModelInput.Tokens, ModelType.Chat | ModelType.Completions


def registered(*args, **kwargs):
    """What is in discovery after registering with these arguments."""

    async def work():
        runtime = DistributedRuntime(asyncio.get_running_loop(), "mem")
        endpoint = runtime.endpoint("ns.comp.ep")
        await register_llm(TOKENS, CHAT, endpoint, *args, **kwargs)
        found = runtime.store.list("v1/mdc")
        await unregister_model(endpoint, kwargs.get("lora_name"))
        assert runtime.store.list("v1/mdc") == {}
        runtime.shutdown()
        return {key: json.loads(value) for key, value in found.items()}, runtime

    found, _ = asyncio.run(work())
    ((key, value),) = found.items()
    assert key.startswith(f"v1/mdc/ns/comp/ep/{value['instance_id']:x}")
    return key, value, ModelDeploymentCard.from_json_str(json.dumps(value["card_json"]))


def test_old_and_new_names_are_one_function():
    assert register_llm is register_model and fetch_llm is fetch_model
    order = list(inspect.signature(register_llm).parameters)
    assert order[:12] == [
        *("model_input", "model_type", "endpoint", "model_path", "model_name", "context_length", "kv_cache_block_size"),
        *("router_mode", "migration_limit", "runtime_config", "user_data", "custom_template_path"),
    ]


def test_a_card_with_only_a_name_is_registered_and_names_its_missing_tokeniser():
    _, value, card = registered(model_name="Qwen/Qwen3-0.6B", block_size=64)
    assert (value["type"], value["namespace"], value["component"], value["endpoint"]) == ("Model", "ns", "comp", "ep")
    assert (card.display_name, card.kv_cache_block_size, card.model_input) == ("Qwen/Qwen3-0.6B", 64, TOKENS)
    assert card.model_type() == CHAT and card.worker_type == WorkerType.Aggregated
    with pytest.raises(NotFound, match="no tokeniser"):
        load_assets(card).encode("hi")


def test_a_model_file_is_registered_with_its_assets(tiny_gguf):
    _, _, card = registered(str(tiny_gguf), "tiny", 4096, 16, RouterMode.KV, 3, user_data={"a": 1})
    assert (card.context_length, card.kv_cache_block_size, card.migration_limit) == (4096, 16, 3)
    assert card.user_data == {"a": 1} and card.to_dict()["router_config"]["router_mode"] == "KV"
    assert len(load_assets(card).encode("hi")) > 1
    _, _, card = registered(str(tiny_gguf), skip_model_assets=True, router_config=RouterConfig(RouterMode.Random))
    assert card.file("tokenizer") is None and card.display_name == "tiny"


def test_an_adapter_has_a_card_of_its_own():
    key, value, card = registered(model_name="base", lora_name="My LoRA", max_gpu_lora_count=2)
    assert key.endswith("/my_lora") and value["model_suffix"] == "my_lora"
    assert card.display_name == "My LoRA" and card.lora == {"name": "My LoRA", "max_gpu_lora_count": 2}


def test_two_block_sizes_must_be_one():
    assert registered(model_name="m", block_size=16, kv_cache_block_size=16)[2].kv_cache_block_size == 16
    with pytest.raises(ValueError, match="block_size is 16 and kv_cache_block_size is 32"):
        registered(model_name="m", block_size=16, kv_cache_block_size=32)


def test_models_are_found_on_this_machine_or_not_at_all(tmp_path, monkeypatch, tiny_gguf):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # from here "../../etc" is no folder, wherever the checkout lies
    assert asyncio.run(fetch_model(str(tiny_gguf))) == str(tiny_gguf)
    with pytest.raises(Unavailable, match="does not download"):
        asyncio.run(fetch_model("org/model"))
    with pytest.raises(Unavailable, match="does not download"):
        asyncio.run(fetch_model("../../no-such-folder"))
    snapshot = tmp_path / "models--org--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    assert asyncio.run(fetch_model("org/model")) == str(snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("abc\n")
    (snapshot.parent / "newer").mkdir()
    assert asyncio.run(fetch_model("org/model")) == str(snapshot)
    (snapshot / "config.json").write_text("{}")
    assert registered("org/model")[2].display_name == "org/model"
    with pytest.raises(InvalidArgument, match="a model is a folder"):
        (tmp_path / "x.txt").write_text("no model")
        registered(str(tmp_path / "x.txt"))
