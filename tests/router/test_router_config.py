"""KvRouterConfig and its companions: both generations of signatures, JSON, environment, refusals."""

import copy
import pickle

import pytest

from dynamo import errors
from dynamo.llm import exceptions
from dynamo.llm.router_config import KvRouterConfig, LoadThresholdConfig, RouterConfig, RouterMode, RoutingConstraints


def test_the_defaults_are_those_of_1_6():
    config = KvRouterConfig()
    assert config.overlap_score_weight == 1.0
    assert config.overlap_score_credit == 1.0
    assert config.host_cache_hit_weight == 0.75
    assert config.disk_cache_hit_weight == 0.25
    assert config.router_temperature == 0.0
    assert config.use_kv_events is True
    assert config.router_ttl_secs == 120.0
    assert config.router_queue_threshold is None
    assert config.router_queue_policy == "fcfs"
    assert config.conditional_disagg_eff_isl_threshold == 2048


def test_the_first_five_are_positional_as_in_1_6():
    config = KvRouterConfig(2.0, 0.5, 0.125, 0.7, False)
    assert (config.prefill_load_scale, config.host_cache_hit_weight, config.disk_cache_hit_weight) == (2.0, 0.5, 0.125)
    assert (config.router_temperature, config.use_kv_events) == (0.7, False)


ORDER_0_8 = (
    "overlap_score_weight",
    "router_temperature",
    "use_kv_events",
    "router_replica_sync",
    "router_track_active_blocks",
    "router_assume_kv_reuse",
    "router_snapshot_threshold",
    "router_reset_states",
    "router_ttl_secs",
    "router_max_tree_size",
    "router_prune_target_ratio",
)


@pytest.mark.parametrize("count", range(3, 12))
def test_the_order_of_0_8_is_told_by_its_bools(count):
    given = (2.0, 0.1, False, True, False, False, 5, True, 60.0, 100, 0.5)[:count]
    names = [
        "overlap_score_weight",
        "router_temperature",
        "use_kv_events",
        "router_replica_sync",
        "router_track_active_blocks",
        "router_assume_kv_reuse",
        "router_snapshot_threshold",
        "router_reset_states",
        "router_ttl_secs",
        "router_max_tree_size",
        "router_prune_target_ratio",
    ]
    config = KvRouterConfig(*given)
    assert [getattr(config, name) for name in names[:count]] == list(given)
    default = KvRouterConfig()
    for name in (*names[count:], "host_cache_hit_weight", "disk_cache_hit_weight"):
        assert getattr(config, name) == getattr(default, name)
    assert config == KvRouterConfig(**dict(zip(names, given, strict=False)))


def test_a_weight_of_zero_takes_the_credit_away():
    config = KvRouterConfig(overlap_score_weight=0)
    assert (config.prefill_load_scale, config.overlap_score_credit, config.overlap_score_weight) == (0, 0, 0)
    assert config.copy() == config
    assert config.with_overrides(prefill_load_scale=2).overlap_score_credit == 0


def test_copies_overrides_json_and_pickle():
    config = KvRouterConfig(router_temperature=0.5, router_queue_threshold=2.0)
    assert config.copy() == copy.copy(config) == pickle.loads(pickle.dumps(config)) == config
    assert KvRouterConfig.from_json(config.to_json()) == config
    assert config.with_overrides(3.0, overlap_score_credit=0.5) == KvRouterConfig(
        3.0, router_temperature=0.5, router_queue_threshold=2.0, overlap_score_credit=0.5
    )
    assert repr(config) == "KvRouterConfig(router_temperature=0.5, router_queue_threshold=2.0)"
    assert eval(repr(config)) == config
    with pytest.raises(TypeError):
        hash(config)


@pytest.mark.parametrize(
    "text, says",
    [
        ("[1]", "object"),
        ("{", "not JSON"),
        ('{"nope": 1}', "nope"),
        ('{"router_temperature": "warm"}', "router_temperature"),
    ],
)
def test_bad_json_is_refused_by_name(text, says):
    with pytest.raises(ValueError, match=says):
        KvRouterConfig.from_json(text)


@pytest.mark.parametrize(
    "options",
    [
        {"router_temperature": -1},
        {"router_temperature": float("nan")},
        {"router_ttl_secs": 0},
        {"router_queue_policy": "lifo"},
        {"router_event_threads": 0},
        {"router_cost_formula": "magic"},
        {"overlap_score_weight": -0.5},
    ],
)
def test_values_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        KvRouterConfig(**options)


@pytest.mark.parametrize(
    "options", [{"use_kv_events": 1}, {"router_temperature": "1"}, {"router_ttl_secs": True}, {"nope": 1}]
)
def test_wrong_types_are_refused(options):
    with pytest.raises(TypeError, match=next(iter(options))):
        KvRouterConfig(**options)


def test_the_environment_is_read_where_one_asks():
    env = {
        "DYN_ROUTER_MODE": "kv",
        "DYN_ROUTER_TEMPERATURE": "0.5",
        "DYN_ROUTER_USE_KV_EVENTS": "off",
        "DYN_ROUTER_QUEUE_THRESHOLD": "2",
        "DYN_ROUTER_EVENT_THREADS": "2",
        "DYN_ROUTER_QUEUE_POLICY": "wspt",
    }
    config = KvRouterConfig.from_env(env)
    assert config == KvRouterConfig(
        router_temperature=0.5,
        use_kv_events=False,
        router_queue_threshold=2.0,
        router_event_threads=2,
        router_queue_policy="wspt",
    )
    assert KvRouterConfig.from_env(env, router_temperature=0.0).router_temperature == 0.0
    assert RouterConfig.from_env(env).router_mode == RouterMode.KV
    assert RouterConfig.from_env({}, mode="random").router_mode == RouterMode.Random
    with pytest.raises(ValueError, match="DYN_ROUTER_TEMPERATURE"):
        KvRouterConfig.from_env({"DYN_ROUTER_TEMPERATURE": "warm"})
    for variable, value, remedy in (
        ("DYN_ROUTER_USE_KV_EVENTS", "maybe", "must be true or false"),
        ("DYN_ROUTER_TTL_SECS", "-1", "must be 0 to"),
        ("DYN_ROUTER_TTL_SECS", "0", "must be more"),
        ("DYN_ROUTER_TEMPERATURE", "nan", "must be 0 to"),
        ("DYN_ROUTER_EVENT_THREADS", "2.5", "must be a whole number"),
        ("DYN_ROUTER_EVENT_THREADS", "0", "must be 1 or more"),
        ("DYN_ROUTER_QUEUE_POLICY", "lifo", "must be one of fcfs, lcfs, wspt"),
    ):
        with pytest.raises(ValueError, match=f"^{variable} is '{value}': {remedy}.*; correct or unset it$"):
            KvRouterConfig.from_env({variable: value})
    with pytest.raises(
        ValueError, match=r"^DYN_ROUTER_MODE is 'best': must be one of RoundRobin, .*; correct or unset"
    ):
        RouterConfig.from_env({"DYN_ROUTER_MODE": "best"})
    assert KvRouterConfig.from_env({"DYN_ROUTER_TTL_SECS": ""}) == KvRouterConfig()  # empty: not set
    assert KvRouterConfig.from_env({"DYN_ROUTER_POLICY_CONFIG": "/p.yaml"}).router_policy_config == "/p.yaml"


@pytest.mark.parametrize(
    "text", ["kv", "KV", "round-robin", "round_robin", "RoundRobin", "least-loaded", "p2c", "power-of-two-choices"]
)
def test_modes_are_known_in_any_spelling(text):
    assert isinstance(RouterMode.parse(text), RouterMode)


def test_modes_compare_and_convert():
    assert RouterMode.KV == RouterMode.KV != RouterMode.Random
    assert int(RouterMode.RoundRobin) == 0
    with pytest.raises(ValueError, match="RoundRobin"):
        RouterMode.parse("best")


def test_router_config_and_thresholds():
    config = RouterConfig(RouterMode.KV, KvRouterConfig(router_temperature=1.0), 0.9, 10_000, 0.5)
    assert config.router_mode == RouterMode.KV
    assert config.kv_router_config.router_temperature == 1.0
    assert config.active_decode_blocks_threshold == 0.9
    assert config.load_threshold_config == LoadThresholdConfig(
        active_decode_blocks_threshold=0.9,
        active_prefill_tokens_threshold=10_000,
        active_prefill_tokens_threshold_frac=0.5,
    )
    assert RouterConfig().router_mode == RouterMode.RoundRobin
    with pytest.raises(ValueError, match="active_decode_blocks_threshold"):
        LoadThresholdConfig(active_decode_blocks_threshold=1.5)
    with pytest.raises(ValueError, match="session_affinity_mode"):
        RouterConfig(RouterMode.KV, session_affinity_mode="firm")


def test_constraints():
    constraints = RoutingConstraints({"gpu=h100"}, {"zone=a": 0.5})
    assert constraints.required_taints == {"gpu=h100"}
    assert constraints.preferred_taints == {"zone=a": 0.5}
    assert RoutingConstraints.of({"required_taints": ["gpu=h100"], "preferred_taints": {"zone=a": 0.5}}) == constraints
    assert RoutingConstraints.of(None) is None
    with pytest.raises(TypeError):
        RoutingConstraints("gpu")
    with pytest.raises(ValueError, match="nope"):
        RoutingConstraints.of({"nope": 1})


def test_exceptions_are_aliases_of_one_tree():
    for name in exceptions.__all__:
        assert issubclass(getattr(exceptions, name), errors.DynamoError)
    assert exceptions.Cancelled is errors.Cancelled
    assert exceptions.CannotConnect is errors.ConnectionFailed
    error = exceptions.RouterQueueLimitExceeded(policy_class="default", limit_kind="requests", current=2, limit=1)
    assert isinstance(error, errors.Overloaded) and error.limit == 1
    assert exceptions.SelectionServiceError("x", "overloaded", 529).status_code == 529
