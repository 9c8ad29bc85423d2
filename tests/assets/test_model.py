"""Model cards: Dynamo's JSON in and out, what they are made from, what is refused."""

import json

import pytest

from dynamo.errors import DynamoError, InvalidArgument, NotFound
from dynamo.llm.assets import load_assets
from dynamo.llm.model import ModelDeploymentCard, ModelInput, ModelRuntimeConfig, ModelType, WorkerType, slug
from tests.conftest import DATA


def test_flags_join_and_say_what_they_support():
    both = ModelType.Chat | ModelType.Completions
    assert (str(both), str(ModelType.Empty), str(ModelType.TensorBased)) == ("chat,completions", "", "tensor")
    assert both.supports_chat() and not both.supports_embedding() and not ModelType.Empty.supports_chat()
    assert ModelType.parse("Chat | Completions") == ModelType.parse("chat,completions") == ModelType.parse(3) == both
    assert int(ModelInput.Tokens) == 2 and str(ModelInput.Tokens) == "ModelInput.Tokens"
    assert str(WorkerType.Aggregated) == "aggregated" and repr(WorkerType.Prefill) == "WorkerType.Prefill"
    with pytest.raises(InvalidArgument, match="'Poetry' is not a model type"):
        ModelType.parse("Chat | Poetry")


def test_a_card_of_dynamo_is_read_and_written_back():
    document = json.loads((DATA / "dynamo_model_card.json").read_text())["card_json"]
    card = ModelDeploymentCard.from_json_str(json.dumps(document))
    assert (card.name(), card.slug, card.source_path()) == ("my-model", "my-model", "/models/m")
    assert card.model_type() == ModelType.Chat | ModelType.Completions
    assert (card.model_input, card.worker_type) == (ModelInput.Tokens, WorkerType.Aggregated)
    assert (card.context_length, card.kv_cache_block_size, card.user_data) == (2048, 16, {"k": 1})
    assert (
        card.limits.total_kv_blocks == 7 and card.limits.get_engine_specific("a") == "v" and card.limits.taints == {"x"}
    )
    assert card.file("tokenizer") == ("hf_tokenizer_json", "/models/m/tokenizer.json")
    assert json.loads(card.to_json_str()) == document


def test_a_gguf_makes_a_card_with_its_context_and_tokeniser(tiny_gguf):
    card = ModelDeploymentCard.load(tiny_gguf, "tiny", model_type=ModelType.Chat, kv_cache_block_size=16)
    assert card.context_length == 8192 and card.file("tokenizer") == ("gguf", str(tiny_gguf))
    again = ModelDeploymentCard.from_json_str(card.to_json_str())
    assert again.mdcsum() == card.mdcsum() and again.to_dict() == card.to_dict()
    assert load_assets(again).chat([{"role": "user", "content": "hi"}])[0].startswith("<|im_start|>user")
    other = ModelDeploymentCard.load(tiny_gguf, "tiny", model_type=ModelType.Chat, kv_cache_block_size=32)
    assert other.mdcsum() != card.mdcsum()


def test_a_folder_makes_a_card(tmp_path):
    folder = tmp_path / "Org Model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 4096}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("x")
    card = ModelDeploymentCard.load(folder)
    assert (card.display_name, card.slug, card.context_length) == ("Org Model", "org_model", 4096)
    assert card.file("tokenizer") == ("hf_tokenizer_json", str(folder / "tokenizer.json"))
    assert card.file("chat_template_file") == ("hf_chat_template", str(folder / "chat_template.jinja"))
    assert ModelDeploymentCard.load(folder, "a/B", context_length=100).context_length == 100
    assert slug("a/B c.d-e_f") == "a_b_c_d-e_f"


def test_a_card_with_only_a_name_names_the_missing_tokeniser():
    card = ModelDeploymentCard.load(None, "Qwen/Qwen3-0.6B", model_type=ModelType.Chat, kv_cache_block_size=64)
    assert card.file("tokenizer") is None and card.kv_cache_block_size == 64
    with pytest.raises(NotFound, match=r"'Qwen/Qwen3-0\.6B' has no tokeniser.*takes token ids only"):
        load_assets(card).encode("hello")
    with pytest.raises(InvalidArgument, match="model_name or a model_path"):
        ModelDeploymentCard.load(None)
    with pytest.raises(NotFound, match="downloads nothing"):
        ModelDeploymentCard.load("Qwen/Qwen3-0.6B")


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "not JSON"),
        ("[]", "must be an object"),
        ("[" * 100000, "not JSON"),
        ("{}", "display_name"),
        ('{"display_name": 5}', "display_name"),
        ('{"display_name": "m", "context_length": -1}', "context_length"),
        ('{"display_name": "m", "kv_cache_block_size": "16"}', "kv_cache_block_size"),
        ('{"display_name": "m", "model_type": "Poetry"}', "Poetry"),
        ('{"display_name": "m", "model_input": "Smoke"}', "model_input"),
        ('{"display_name": "m", "worker_type": "Boss"}', "worker_type"),
        ('{"display_name": "m", "runtime_config": []}', ""),
        ('{"display_name": "m", "runtime_config": [1]}', "runtime_config"),
        ('{"display_name": "m", "runtime_config": {"taints": 3}}', "taints"),
        ('{"display_name": "' + "m" * (1 << 20) + '"}', "bound"),
    ],
)
def test_what_is_not_a_card_is_refused(text, reason):
    try:
        ModelDeploymentCard.from_json_str(text)
        assert reason == ""
    except DynamoError as error:
        assert isinstance(error, InvalidArgument) and reason in str(error)


def test_runtime_config_keeps_what_it_does_not_know():
    config = ModelRuntimeConfig(total_kv_blocks=10)
    config.set_engine_specific("slots", [1, 2])
    config.set_disaggregated_endpoint("h", 5)
    again = ModelRuntimeConfig.from_dict({**config.to_dict(), "from_the_future": 1})
    assert again.get_engine_specific("slots") == [1, 2] and again.bootstrap_port == 5
    assert again.to_dict()["from_the_future"] == 1 and again.to_dict()["total_kv_blocks"] == 10
    with pytest.raises(TypeError, match="no attribute 'typo'"):
        ModelRuntimeConfig(typo=1)
