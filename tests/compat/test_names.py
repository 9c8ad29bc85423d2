"""Programs written for Dynamo 0.8 and 1.6 find every name, call it as they did, and miss nothing silently.

The tables are written as Dynamo documents its functions; `fits` says what it means to honour one of them.
"""

import copy
import inspect
import pickle

import pytest

import dynamo._core
import dynamo.llm
import dynamo.runtime
from dynamo.llm import exceptions

# name -> its parameters in Dynamo 1.6 ("" for methods' self is left out); names that only 0.x had, in theirs.
SIGNATURES = {
    "runtime.DistributedRuntime": "event_loop, discovery_backend, request_plane, enable_nats=None, *, "
    "event_plane=None, response_plane=None",
    "runtime.DistributedRuntime.endpoint": "path",
    "runtime.DistributedRuntime.namespace": "name",
    "runtime.DistributedRuntime.shutdown": "",
    "runtime.DistributedRuntime.set_health_status": "ready",
    "runtime.DistributedRuntime.register_engine_route": "route_name, callback",
    "runtime.DistributedRuntime.child_token": "",
    "runtime.Namespace.component": "name",
    "runtime.Component.endpoint": "name",
    "runtime.Component.create_service": "",
    "runtime.Endpoint.serve_endpoint": "handler, graceful_shutdown=True, metrics_labels=None, "
    "health_check_payload=None",
    "runtime.Endpoint.client": "router_mode=None",
    "runtime.Endpoint.connection_id": "",
    "runtime.Endpoint.lease_id": "",
    "runtime.Endpoint.register_endpoint_instance": "",
    "runtime.Endpoint.unregister_endpoint_instance": "",
    "runtime.Client.instance_ids": "",
    "runtime.Client.instances": "",
    "runtime.Client.wait_for_instances": "",
    "runtime.Client.random": "request, annotated=True, context=None",
    "runtime.Client.round_robin": "request, annotated=True, context=None",
    "runtime.Client.direct": "request, instance_id, annotated=True, context=None",
    "runtime.Client.generate": "request, annotated=True, context=None",
    "runtime.Client.static": "request, annotated=True, context=None",
    "runtime.Context": "id=None, metadata=None",
    "runtime.Context.id": "",
    "runtime.Context.is_stopped": "",
    "runtime.Context.is_killed": "",
    "runtime.Context.stop_generating": "",
    "runtime.Context.detached": "id",
    "runtime.Context.async_killed_or_stopped": "",
    "runtime.Context.trace_headers": "",
    "runtime.dynamo_worker": "enable_nats=None",
    "runtime.dynamo_endpoint": "request_model, response_model",
    "runtime.UnaryClient": "client",
    "runtime.UnaryClient.complete": "request, *, context=None",
    "runtime.serve_unary_endpoint": "endpoint, handler",
    "llm.compute_block_hash_for_seq": "tokens, kv_block_size, block_mm_infos=None, lora_name=None, is_eagle=None, "
    "cache_namespace=None",
    "llm.compute_block_hash_for_seq_py": "tokens, kv_block_size",
    "llm.RadixTree": "expiration_duration_secs=None",
    "llm.RadixTree.find_matches": "sequence, early_exit=False",
    "llm.RadixTree.apply_event": "worker_id, kv_cache_event_bytes",
    "llm.RadixTree.apply_stored": "worker_id, block_hashes, tokens_hashes, parent=None, dp_rank=0",
    "llm.RadixTree.apply_removed": "worker_id, block_hashes, dp_rank=0",
    "llm.RadixTree.remove_worker": "worker_id",
    "llm.RadixTree.clear_all_blocks": "worker_id",
    "llm.RadixTree.dump_tree_as_events": "",
    "llm.KvIndexer": "component, kv_block_size",
    "llm.KvIndexer.block_size": "",
    "llm.KvIndexer.find_matches": "hashes",
    "llm.KvIndexer.find_matches_for_request": "token_ids, lora_id",
    "llm.ApproxKvIndexer": "component, kv_block_size",
    "llm.ApproxKvIndexer.find_matches_for_request": "token_ids",
    "llm.ApproxKvIndexer.process_routing_decision_for_request": "tokens, worker_id",
    "llm.KvRouterConfig": "overlap_score_weight=None, host_cache_hit_weight=0.75, disk_cache_hit_weight=0.25, "
    "router_temperature=0.0, use_kv_events=True, *, router_replica_sync=False, router_track_active_blocks=True, "
    "router_track_output_blocks=False, router_assume_kv_reuse=True, router_track_prefill_tokens=True, "
    "router_prefill_load_model='none', router_ttl_secs=120.0, router_approximate_cache_policy='ttl', "
    "router_queue_threshold=None, router_event_threads=4, router_queue_policy='fcfs', use_remote_indexer=False, "
    "serve_indexer=False, enable_session_prefix_index=False, shared_cache_multiplier=None, shared_cache_type='none', "
    "router_predicted_ttl_secs=None, conditional_disagg_enabled=False, conditional_disagg_policy='isl_bounding', "
    "conditional_disagg_eff_isl_threshold=2048, conditional_disagg_eff_isl_ratio_threshold=0.7, "
    "overlap_score_credit=1.0, overlap_score_credit_decay=0.0, prefill_load_scale=1.0, "
    "decode_active_request_weight=0.0, router_policy_config=None",
    "llm.KvRouterConfig.from_json": "config_json",
    "llm.KvRouterConfig.copy": "",
    "llm.KvRouterConfig.with_overrides": "overlap_score_weight=None, *, overlap_score_credit=None, "
    "overlap_score_credit_decay=None, prefill_load_scale=None, decode_active_request_weight=None",
    "llm.RouterConfig": "mode, config=None, active_decode_blocks_threshold=None, active_prefill_tokens_threshold=None, "
    "active_prefill_tokens_threshold_frac=None, enforce_disagg=False, session_affinity_ttl_secs=None, "
    "session_affinity_mode='hard'",
    "llm.LoadThresholdConfig": "*, active_decode_blocks_threshold=None, active_prefill_tokens_threshold=None, "
    "active_prefill_tokens_threshold_frac=None",
    "llm.RoutingConstraints": "required_taints=None, preferred_taints=None",
    "llm.KvRouter": "endpoint, block_size, kv_router_config, ais_perf_config=None, session_affinity_ttl_secs=None, *, "
    "load_threshold_config=None, session_affinity_mode='hard'",
    "llm.KvRouter.generate": "token_ids, model, stop_conditions=None, sampling_options=None, output_options=None, "
    "router_config_override=None, worker_id=None, dp_rank=None, extra_args=None, block_mm_infos=None, "
    "multi_modal_data=None, mm_routing_info=None, routing_constraints=None, response_buffer_size=100",
    "llm.KvRouter.generate_from_request": "request, response_buffer_size=100",
    "llm.KvRouter.best_worker": "token_ids, router_config_override=None, request_id=None, update_indexer=False, "
    "block_mm_infos=None, lora_name=None, routing_constraints=None, strict_priority=0, policy_class=None, "
    "cache_namespace=None",
    "llm.KvRouter.best_worker_id": "token_ids, router_config_override=None, request_id=None",
    "llm.KvRouter.get_potential_loads": "token_ids, block_mm_infos=None, lora_name=None, cache_namespace=None",
    "llm.KvRouter.get_overlap_scores": "token_ids, router_config_override=None, block_mm_infos=None, lora_name=None, "
    "include_shared=True, cache_namespace=None",
    "llm.KvRouter.dump_events": "",
    "llm.KvRouter.mark_prefill_complete": "request_id",
    "llm.KvRouter.free": "request_id",
    "llm.KvEventPublisher": "endpoint, worker_id=None, kv_block_size=0, dp_rank=0, enable_local_indexer=False, "
    "zmq_endpoint=None, zmq_topic=None, batching_timeout_ms=None, image_token_id=None, kv_state_endpoint=None, "
    "video_token_id=None",
    "llm.KvEventPublisher.publish_stored": "token_ids, num_block_tokens, block_hashes, parent_hash=None, "
    "block_mm_infos=None, lora_name=None, is_eagle=None, cache_salt=None",
    "llm.KvEventPublisher.publish_removed": "block_hashes",
    "llm.KvEventPublisher.publish_batch": "events",
    "llm.KvEventPublisher.shutdown": "",
    "llm.ZmqKvEventPublisherConfig": "worker_id, kv_block_size, zmq_endpoint='tcp://127.0.0.1:5557', zmq_topic=''",
    "llm.ZmqKvEventPublisher": "component, config",
    "llm.ZmqKvEventPublisher.shutdown": "",
    "llm.ZmqKvEventListener": "zmq_endpoint, zmq_topic, kv_block_size, replay_endpoint=None",
    "llm.ZmqKvEventListener.get_events": "",
    "llm.WorkerMetricsPublisher": "",
    "llm.WorkerMetricsPublisher.create_endpoint": "endpoint",
    "llm.WorkerMetricsPublisher.publish": "dp_rank=None, active_decode_blocks=None, kv_used_blocks=None",
    "llm.ModelDeploymentCard.to_json_str": "",
    "llm.ModelDeploymentCard.name": "",
    "llm.ModelDeploymentCard.model_type": "",
    "llm.ModelDeploymentCard.source_path": "",
    "llm.ModelDeploymentCard.local_dir": "",
    "llm.ModelDeploymentCard.runtime_config": "",
    "llm.ModelRuntimeConfig": "",
    "llm.ModelRuntimeConfig.set_engine_specific": "key, value",
    "llm.ModelRuntimeConfig.get_engine_specific": "key",
    "llm.ModelRuntimeConfig.set_disaggregated_endpoint": "bootstrap_host=None, bootstrap_port=None",
    "llm.register_model": "model_input, model_type, endpoint, model_path, model_name=None, *, worker_type, "
    "kv_cache_block_size=None, router_config=None, runtime_config=None, tensor_model_config=None, user_data=None, "
    "custom_template_path=None, media_decoder=None, media_fetcher=None, lora_name=None, base_model_path=None, "
    "needs=None, self_host_metadata=None, ignore_weights=False, max_gpu_lora_count=None, model_aliases=None, "
    "skip_model_assets=False",
    "llm.unregister_model": "endpoint, lora_name=None",
    "llm.fetch_model": "remote_name, ignore_weights=False",
    "llm.PythonAsyncEngine": "generator, event_loop",
    "llm.HttpAsyncEngine": "generator, event_loop",
    "llm.HttpError": "code, message",
    "llm.HttpService": "port=None, *, wait_for_first_item=False",
    "llm.HttpService.run": "runtime",
    "llm.HttpService.shutdown": "",
    "llm.HttpService.add_chat_completions_model": "model, checksum, engine",
    "llm.HttpService.add_completions_model": "model, checksum, engine",
    "llm.HttpService.remove_chat_completions_model": "model",
    "llm.HttpService.list_chat_completions_models": "",
    "llm.HttpService.enable_endpoint": "endpoint_type, enabled",
}

# What 0.x had in another order.
OLDER = {
    "llm.register_llm": "model_input, model_type, endpoint, model_path, model_name=None, context_length=None, "
    "kv_cache_block_size=None, router_mode=None, migration_limit=0, runtime_config=None, user_data=None, "
    "custom_template_path=None, lora_name=None, base_model_path=None",
    "llm.fetch_llm": "remote_name",
    "llm.KvPushRouter": "endpoint, block_size, kv_router_config",
}

ALIASES = [
    ("KvRouter", "KvPushRouter"),
    ("register_model", "register_llm"),
    ("unregister_model", "unregister_llm"),
    ("fetch_model", "fetch_llm"),
    ("compute_block_hash_for_seq", "compute_block_hash_for_seq_py"),
]

# In Dynamo, not here: absent, so that `hasattr` tells the truth.
ABSENT = [
    "AisPerfConfig",
    "Backend",
    "Block",
    "BlockList",
    "BlockManager",
    "DisaggregatedRouter",
    "EngineType",
    "EntrypointArgs",
    "FirstTokenSource",
    "FpmDirectPublisher",
    "FpmEventRelay",
    "FpmEventSubscriber",
    "KserveGrpcService",
    "KvDcRelay",
    "KvRecorder",
    "KvStateAgentHost",
    "KvbmRequest",
    "Layer",
    "LoRADownloader",
    "MediaDecoder",
    "MediaFetcher",
    "OAIChatPreprocessor",
    "PlannerDecision",
    "SelectionCacheConfig",
    "SelectionService",
    "SpanProxy",
    "VirtualConnectorClient",
    "VirtualConnectorCoordinator",
    "lora_name_to_id",
    "make_engine",
    "run_input",
    "run_kv_indexer",
    "run_mocker_trace_replay",
    "run_select_service",
    "run_slot_tracker",
    "update_model_taints",
]


def find(path):
    found = dynamo
    for part in path.split("."):
        found = getattr(found, part)
    return found


def parameters(function, is_method):
    listed = list(inspect.signature(function).parameters.values())
    return listed[1:] if is_method else listed


def fits(path, theirs):
    """Positions, names and defaults of `theirs` hold for ours; ours may take more, and may need less."""
    ours = find(path)
    parts = path.split(".")
    is_method = len(parts) == 3 and not inspect.ismethod(ours) and "self" in inspect.signature(ours).parameters
    have = parameters(ours, is_method)
    by_name = {p.name: p for p in have}
    for i, wanted in enumerate(parameters(eval(f"lambda {theirs}: None"), False)):
        assert wanted.name in by_name, f"{path} does not take {wanted.name}"
        one = by_name[wanted.name]
        if wanted.kind is wanted.KEYWORD_ONLY:
            assert one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)
        else:
            assert have[i].name == wanted.name, f"{path}: argument {i} is {have[i].name}, not {wanted.name}"
            assert one.kind is one.POSITIONAL_OR_KEYWORD
        if wanted.default is not wanted.empty:
            assert one.default == wanted.default, f"{path}({wanted.name}=)"
    wanted = {p.name for p in parameters(eval(f"lambda {theirs}: None"), False)}
    for one in have:
        if one.name not in wanted and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL):
            assert one.default is not one.empty, f"{path} needs {one.name}, which Dynamo does not know"


@pytest.mark.parametrize(("path", "theirs"), [*SIGNATURES.items(), *OLDER.items()])
def test_it_is_called_as_dynamo_documents_it(path, theirs):
    fits(path, theirs)


@pytest.mark.parametrize("module", [dynamo.llm, dynamo.runtime])
def test_core_has_every_name_and_each_is_described(module):
    for name in module.__all__:
        one = getattr(module, name)
        assert getattr(dynamo._core, name) is one
        assert inspect.getdoc(one), name
        assert name in dir(module) and name in dir(dynamo._core)
        if not inspect.isclass(one):
            continue
        for member, value in vars(one).items():
            if not member.startswith("_") and inspect.isroutine(value):
                assert inspect.getdoc(getattr(one, member)), f"{name}.{member} has no docstring"


@pytest.mark.parametrize(("new", "old"), ALIASES)
def test_old_and_new_names_are_one_object(new, old):
    assert getattr(dynamo.llm, new) is getattr(dynamo.llm, old)


@pytest.mark.parametrize("name", ABSENT)
def test_what_is_not_here_is_absent(name):
    assert not any(hasattr(module, name) for module in (dynamo._core, dynamo.llm, dynamo.runtime))


def test_what_methods_are_not_here_is_absent():
    assert not hasattr(dynamo.runtime.Endpoint, "serve_bidirectional_endpoint")
    assert not hasattr(dynamo.runtime.Context, "start_span")


EXCEPTIONS = [
    "DynamoException",
    "RouterQueueLimitExceeded",
    "Unknown",
    "InvalidArgument",
    "CannotConnect",
    "Disconnected",
    "ConnectionTimeout",
    "Cancelled",
    "EngineShutdown",
    "StreamIncomplete",
    "WorkerUnavailable",
    "SelectionServiceError",
]


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_exceptions_have_one_base(name):
    assert issubclass(getattr(exceptions, name), exceptions.DynamoException)


def test_enums_compare_count_and_print_as_dynamos():
    from dynamo.llm import ModelInput, ModelType, RouterMode, WorkerType

    assert [int(one) for one in (RouterMode.RoundRobin, RouterMode.Random, RouterMode.KV)] == [0, 1, 3]
    assert RouterMode.KV == 3 and str(RouterMode.KV) == repr(RouterMode.KV) == f"{RouterMode.KV}" == "RouterMode.KV"
    assert ModelInput.Tokens == ModelInput.Tokens != ModelInput.Text and str(ModelInput.Tokens) == "ModelInput.Tokens"
    assert f"{ModelInput.Text:>17}" == " ModelInput.Text".rjust(17)
    assert [int(one) for one in WorkerType] == [0, 1, 2, 3]
    assert str(ModelType.Chat | ModelType.Completions) == "chat,completions"
    assert ModelType.Chat | ModelType.Completions == ModelType.Completions | ModelType.Chat
    with pytest.raises(TypeError):
        int(ModelType.Chat)
    for one in (RouterMode.KV, ModelInput.Text, WorkerType.Decode, ModelType.Chat | ModelType.Prefill):
        assert pickle.loads(pickle.dumps(one)) is one is copy.deepcopy(one)


def values():
    from dynamo import llm, runtime

    tree = llm.RadixTree()
    for worker in range(12):
        tree.apply_stored(worker, [1, 2, 3][: 1 + worker % 3], [11, 12, 13][: 1 + worker % 3])
    limits = llm.ModelRuntimeConfig()
    limits.total_kv_blocks = 7
    record = {"instance_id": 5, "namespace": "a", "component": "b", "endpoint": "c", "transport": {"tcp": "h:1/5/c"}}
    return {
        "scores": tree.find_matches([11, 12, 13]),
        "few scores": tree.find_matches([11, 12, 13], early_exit=True),
        "no scores": tree.find_matches([99]),
        "router config": llm.KvRouterConfig(router_temperature=0.5),
        "front end's router": llm.RouterConfig(llm.RouterMode.KV, active_decode_blocks_threshold=0.5),
        "thresholds": llm.LoadThresholdConfig(active_prefill_tokens_threshold=3),
        "constraints": llm.RoutingConstraints({"gpu"}, {"near": 2.0}),
        "limits": limits,
        "card": llm.ModelDeploymentCard.load(
            None, "Qwen/Qwen3-0.6B", model_type=llm.ModelType.Chat, runtime_config=limits
        ),
        "relay": llm.ZmqKvEventPublisherConfig(3, 64),
        "load": llm.ForwardPassMetrics(llm.WorkerStats(1, 2, 3), llm.KvStats(1, 2, 0.5, 0.5)),
        "instance": runtime.Instance(record),
        "transport": runtime.TransportType("tcp", "h:1/5/c"),
        "item": runtime.Annotated({"text": "x"}),
    }


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("name", list(values()))
def test_values_survive_pickling(name, protocol):
    value = values()[name]
    again = pickle.loads(pickle.dumps(value, protocol))
    assert type(again) is type(value) and repr(again) == repr(value)
    if name.endswith("scores"):
        assert (again.scores, again.tree_sizes) == (value.scores, value.tree_sizes)
    else:
        assert again == value


def test_errors_survive_pickling_with_what_they_say():
    from dynamo import errors
    from dynamo.llm import HttpError

    for error in (errors.Unavailable("nobody"), errors.InvalidArgument("x is 3"), HttpError(404, "gone")):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and str(again) == str(error)
        assert getattr(again, "code", None) == getattr(error, "code", None)


def test_what_belongs_to_this_process_refuses_to_be_pickled():
    for one, remedy in ((dynamo.llm.RadixTree(), "dump_tree_as_events"), (dynamo.runtime.Context("x"), "metadata")):
        with pytest.raises(TypeError, match=remedy):
            pickle.dumps(one)


def test_notebooks_show_tables_and_escape_them():
    from dynamo.llm import ModelDeploymentCard, RadixTree

    tree = RadixTree()
    for worker in range(30):
        tree.apply_stored(worker, [1, 2], [11, 12])
    page = tree._repr_html_()
    assert page.count("<tr>") == 21 and "and 10 more" in page
    assert "leading blocks" in tree.find_matches([11])._repr_html_()
    assert "&lt;b&gt;" in ModelDeploymentCard.load(None, "<b>")._repr_html_()


def test_arguments_of_annotated_are_checked():
    # They were swallowed: the item was None, whatever was given.
    assert dynamo.runtime.Annotated({"a": 1}).data() == {"a": 1}
    with pytest.raises(TypeError):
        dynamo.runtime.Annotated(1, 2)


def test_kv_router_config_in_the_order_of_0_8():
    from dynamo.llm import KvRouterConfig

    config = KvRouterConfig(2.0, 0.5, False, False, True)
    assert (config.overlap_score_weight, config.router_temperature, config.use_kv_events) == (2.0, 0.5, False)
    assert KvRouterConfig(overlap_score_weight=1.0, router_snapshot_threshold=10, router_reset_states=True)


def test_what_the_environment_says(monkeypatch):
    from dynamo.frontend.settings import Settings
    from dynamo.llm import KvRouterConfig
    from dynamo.runtime import settings

    for name, text in (
        ("DYN_ROUTER_TEMPERATURE", "0.25"),
        ("DYN_ROUTER_USE_KV_EVENTS", "false"),
        ("DYN_ROUTER_KV_OVERLAP_SCORE_CREDIT", "0.5"),
        ("DYN_ROUTER_TTL_SECS", "7"),
        ("DYN_MIGRATION_LIMIT", "5"),
    ):
        monkeypatch.setenv(name, text)
    config = KvRouterConfig.from_env()
    assert (config.router_temperature, config.use_kv_events, config.overlap_score_credit) == (0.25, False, 0.5)
    given = Settings.from_environment()
    assert given.router_config == config and given.migration_limit == 5  # a front end did not look at DYN_ROUTER_*
    monkeypatch.setenv("DYN_ROUTER_TEMPERATURE", "warm")
    with pytest.raises(ValueError, match="DYN_ROUTER_TEMPERATURE is 'warm'"):
        Settings.from_environment()
    assert settings.discovery_backend() == "file"
    monkeypatch.setenv("DYN_STORE_KV", "mem")
    assert settings.discovery_backend() == "mem"
    monkeypatch.setenv("DYN_DISCOVERY_BACKEND", "etcd")
    with pytest.raises(ValueError, match="'etcd': must be one of file, mem"):
        dynamo.runtime.DistributedRuntime(None)
