"""How a router decides: `KvRouterConfig`, `RouterConfig`, `RouterMode` and their small companions.

Plain values, checked when they are made, that turn into the C router's configuration in `dynamo._router`.
"""

import enum
import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from dynamo.errors import InvalidArgument

__all__ = ["KvRouterConfig", "LoadThresholdConfig", "RouterConfig", "RouterMode", "RoutingConstraints"]


class RouterMode(enum.IntEnum):
    """Which rule picks the worker. Every mode uses one table, so each counts load."""

    RoundRobin = 0
    Random = 1
    PowerOfTwoChoices = 2
    KV = 3
    Direct = 4
    LeastLoaded = 5
    DeviceAwareWeighted = 6

    def __str__(self) -> str:
        return f"RouterMode.{self.name}"

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)  # the name, not the number

    @classmethod
    def parse(cls, text: "str | RouterMode") -> "RouterMode":
        """The mode of a name in any spelling: "kv", "round-robin", "RoundRobin", "least_loaded".

        Raises
        ------
        InvalidArgument : no mode has that name
        """
        if isinstance(text, RouterMode):
            return text
        plain = text.replace("-", "").replace("_", "").lower()
        for mode in cls:
            if mode.name.lower() == plain:
                return mode
        if plain in ("p2c", "twochoices"):
            return cls.PowerOfTwoChoices
        names = ", ".join(mode.name for mode in cls)
        raise InvalidArgument(f"router mode {text!r} is not known: one of {names}")


def _number(name: str, value: Any, least: float = 0.0, most: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not least <= value <= most:
        raise InvalidArgument(
            f"{name} is {value!r}: must be " + (f"{least:g} to {most:g}" if most < math.inf else f"{least:g} or more")
        )
    return float(value)


def _optional(name: str, value: Any, least: float = 0.0, most: float = math.inf) -> float | None:
    return None if value is None else _number(name, value, least, most)


def _integer(name: str, value: Any, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
    if value < least:
        raise InvalidArgument(f"{name} is {value!r}: must be {least} or more")
    return value


def _choice(name: str, value: Any, allowed: Iterable[str]) -> str:
    if value not in allowed:
        raise InvalidArgument(f"{name} is {value!r}: must be one of {', '.join(allowed)}")
    return str(value)


def mode_from_env(environ: Mapping[str, str], default: str) -> RouterMode:
    """The mode that ``DYN_ROUTER_MODE`` names.

    Raises
    ------
    InvalidArgument : no mode has that name
    """
    text = environ.get("DYN_ROUTER_MODE") or default
    try:
        return RouterMode.parse(text)
    except InvalidArgument:
        names = ", ".join(mode.name for mode in RouterMode)
        raise InvalidArgument(f"DYN_ROUTER_MODE is {text!r}: must be one of {names}; correct or unset it") from None


# The order of the positional arguments in Dynamo 0.8.
_ORDER_0_8 = (
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

# Options without a default that are no numbers.
_TEXTS = frozenset({"router_policy_config"})
_TRUE, _FALSE = ("1", "true", "on", "yes"), ("0", "false", "off", "no", "")


def _from_text(name: str, text: str) -> Any:
    """The value of an option that a variable gives; its default says of which kind it is."""
    like = _DEFAULTS[name]
    if isinstance(like, bool):
        if text.lower() not in _TRUE + _FALSE:
            raise InvalidArgument(f"{name} is {text!r}: must be true or false")
        return text.lower() in _TRUE
    try:
        if isinstance(like, int):
            return int(text)
        if isinstance(like, float) or (like is None and name not in _TEXTS):
            return float(text)
    except ValueError:
        kind = "a whole number" if isinstance(like, int) else "a number"
        raise InvalidArgument(f"{name} is {text!r}: must be {kind}") from None
    return text


class KvRouterConfig:
    """Weights, bookkeeping and bounds of a KV-aware router.

    The signature is that of Dynamo 1.6. The positional order of 0.8 is understood when it can be told apart: its third
    argument, `use_kv_events`, is a bool. The keywords of 0.8 are accepted too.

    Parameters
    ----------
    overlap_score_weight : older name of `prefill_load_scale`; 0 also sets `overlap_score_credit` to 0
    host_cache_hit_weight, disk_cache_hit_weight : credit for a block in host memory or on disk; 1 is a device block
    router_temperature : 0 takes the cheapest worker; more samples by softmax of the costs over their range
    use_kv_events : the index follows the workers' events; False: it believes its own decisions for `router_ttl_secs`
    router_track_active_blocks, router_track_output_blocks, router_track_prefill_tokens : what counts as load
    router_assume_kv_reuse : requests with the same blocks share them on a worker
    router_ttl_secs : how long a decision is believed without events
    router_queue_threshold : hold requests while every worker has more than this fraction of its max_num_batched_tokens
        to prefill; None: no queue
    router_queue_policy : "fcfs", "lcfs" or "wspt" (shortest uncached prompt first)
    router_predicted_ttl_secs : beside events, believe own decisions for so long; None: no
    overlap_score_credit : how much of a cached block is subtracted from the prefill
    overlap_score_credit_decay : how fast that credit fades on a worker with more to prefill than others
    prefill_load_scale : weight of the prefill part
    decode_active_request_weight : blocks that a running request costs beside those it holds
    router_cost_formula : "credit" (1.x), "weight" (0.x), "product" (1.x "lmetric") or what a plug-in has registered
    router_tie_break : "random", or "smallest_tree" as in 0.8
    router_max_active_requests, router_max_index_bytes : bounds of what the router remembers; at the first, requests
        are refused with `Overloaded`, at the second the least useful blocks are forgotten
    router_active_request_expiry_secs : a request without a sign of life for so long no longer counts as load
    router_silent_worker_secs : a worker that publishes no event for so long while it gets prompts is named in a warning
    router_seed : of the random choices; 0: another one each time

    Raises
    ------
    InvalidArgument (a ValueError) : a value that makes no sense, named
    TypeError : a value of a wrong type

    Examples
    --------
    >>> KvRouterConfig(router_temperature=0.5).router_temperature
    0.5
    >>> KvRouterConfig(2.0, 0.1, True).router_temperature  # the order of 0.8
    0.1
    >>> KvRouterConfig(overlap_score_weight=0).overlap_score_credit
    0.0
    """

    __slots__ = ("_given",)
    _given: dict[str, Any]

    def __init__(
        self,
        overlap_score_weight: float | None = None,
        host_cache_hit_weight: float = 0.75,
        disk_cache_hit_weight: float = 0.25,
        router_temperature: float = 0.0,
        use_kv_events: bool = True,
        *older: Any,
        router_replica_sync: bool = False,
        router_track_active_blocks: bool = True,
        router_track_output_blocks: bool = False,
        router_assume_kv_reuse: bool = True,
        router_track_prefill_tokens: bool = True,
        router_prefill_load_model: str = "none",
        router_ttl_secs: float = 120.0,
        router_approximate_cache_policy: str = "ttl",
        router_queue_threshold: float | None = None,
        router_event_threads: int = 4,
        router_queue_policy: str = "fcfs",
        use_remote_indexer: bool = False,
        serve_indexer: bool = False,
        enable_session_prefix_index: bool = False,
        shared_cache_multiplier: float | None = None,
        shared_cache_type: str = "none",
        router_predicted_ttl_secs: float | None = None,
        conditional_disagg_enabled: bool = False,
        conditional_disagg_policy: str = "isl_bounding",
        conditional_disagg_eff_isl_threshold: int = 2048,
        conditional_disagg_eff_isl_ratio_threshold: float = 0.7,
        conditional_disagg_prefill_busy_threshold: float | None = None,
        conditional_disagg_decode_busy_threshold: float | None = None,
        overlap_score_credit: float = 1.0,
        overlap_score_credit_decay: float = 0.0,
        prefill_load_scale: float = 1.0,
        decode_active_request_weight: float = 0.0,
        router_policy_config: str | None = None,
        router_prefill_policy: str | None = None,
        router_decode_policy: str | None = None,
        router_tracking_hash: str = "public-xxh3-v1",
        router_tracking_key_file: "str | os.PathLike[str] | None" = None,
        router_tracking_key_id: str | None = None,
        # Dynamo 0.8
        router_snapshot_threshold: int | None = 1_000_000,
        router_reset_states: bool = False,
        router_max_tree_size: int = 2**20,
        router_prune_target_ratio: float = 0.8,
        # ours
        router_cost_formula: str = "credit",
        router_tie_break: str = "random",
        router_max_active_requests: int = 100_000,
        router_max_index_bytes: int = 4 << 30,
        router_active_request_expiry_secs: float = 300.0,
        router_silent_worker_secs: float = 60.0,
        router_seed: int = 0,
    ) -> None:
        given = dict(locals())
        del given["self"], given["older"]
        if isinstance(disk_cache_hit_weight, bool):
            first = (
                overlap_score_weight,
                host_cache_hit_weight,
                disk_cache_hit_weight,
                router_temperature,
                use_kv_events,
            )
            # Beyond the third, an argument that kept its 1.6 default was not given.
            count = 5 if older or use_kv_events is not True else 4 if isinstance(router_temperature, bool) else 3
            values = (*first[:count], *older)
            if len(values) > len(_ORDER_0_8):
                raise TypeError(
                    f"KvRouterConfig takes at most {len(_ORDER_0_8)} positional arguments in the order of 0.8"
                )
            given.update(
                host_cache_hit_weight=0.75, disk_cache_hit_weight=0.25, router_temperature=0.0, use_kv_events=True
            )
            given.update(zip(_ORDER_0_8, values, strict=False))
        elif older:
            raise TypeError(
                "KvRouterConfig takes 5 positional arguments (11 in the order of 0.8, whose third is a bool)"
            )
        self._given = _checked(given)

    def __getattr__(self, name: str) -> Any:
        try:
            return object.__getattribute__(self, "_given")[name]
        except (KeyError, AttributeError):
            raise AttributeError(f"KvRouterConfig has no option {name!r}") from None

    @property
    def overlap_score_weight(self) -> float:
        """The older name of `prefill_load_scale`."""
        return float(self._given["prefill_load_scale"])

    @property
    def overlap_score_credit(self) -> float:
        """How much of a cached block is subtracted from the prefill."""
        return float(self._given["overlap_score_credit"])

    @property
    def overlap_score_credit_decay(self) -> float:
        """How fast the credit fades on a worker with more to prefill than others."""
        return float(self._given["overlap_score_credit_decay"])

    @property
    def prefill_load_scale(self) -> float:
        """Weight of the prefill part of the cost."""
        return float(self._given["prefill_load_scale"])

    @property
    def decode_active_request_weight(self) -> float:
        """Blocks that a running request costs beside those it holds."""
        return float(self._given["decode_active_request_weight"])

    @classmethod
    def from_json(cls, config_json: str) -> "KvRouterConfig":
        """A configuration from the text of a JSON object with some of the options.

        Raises
        ------
        InvalidArgument : no JSON object, an unknown option, or a value that makes no sense
        """
        try:
            values = json.loads(config_json)
        except ValueError as error:
            raise InvalidArgument(f"the router configuration is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise InvalidArgument(f"the router configuration must be a JSON object, not {type(values).__name__}")
        unknown = sorted(set(values) - set(_DEFAULTS))
        if unknown:
            raise InvalidArgument(f"the router configuration has unknown options: {', '.join(unknown)}")
        try:
            return cls(**values)
        except TypeError as error:
            raise InvalidArgument(f"the router configuration is wrong: {error}") from None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **options: Any) -> "KvRouterConfig":
        """A configuration from the ``DYN_ROUTER_*`` variables; `options` win over them."""
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for variable, name in _ENV.items():
            text = environ.get(variable)
            if not text:
                continue
            try:
                values[name] = _from_text(name, text)
                cls(**{name: values[name]})
            except (InvalidArgument, TypeError) as error:
                what = str(error).partition(": ")[2] or str(error)
                raise InvalidArgument(f"{variable} is {text!r}: {what}; correct or unset it") from None
        return cls(**{**values, **options})

    def to_json(self) -> str:
        """The text that `from_json` reads."""
        return json.dumps(dict(self._given))

    def copy(self) -> "KvRouterConfig":
        """An equal configuration."""
        return type(self)(**self._given)

    __copy__ = copy

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (dict(self._given),)

    def with_overrides(
        self,
        overlap_score_weight: float | None = None,
        *,
        overlap_score_credit: float | None = None,
        overlap_score_credit_decay: float | None = None,
        prefill_load_scale: float | None = None,
        decode_active_request_weight: float | None = None,
    ) -> "KvRouterConfig":
        """A copy with other weights; None keeps what is there."""
        values = dict(self._given)
        changes = {
            "overlap_score_credit": overlap_score_credit,
            "overlap_score_credit_decay": overlap_score_credit_decay,
            "prefill_load_scale": prefill_load_scale,
            "decode_active_request_weight": decode_active_request_weight,
            "overlap_score_weight": overlap_score_weight,
        }
        values.update({name: value for name, value in changes.items() if value is not None})
        return type(self)(**values)

    def __eq__(self, other: object) -> bool:
        return self._given == other._given if isinstance(other, KvRouterConfig) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._given})

    def __repr__(self) -> str:
        changed = (f"{name}={value!r}" for name, value in self._given.items() if value != _DEFAULTS[name])
        return f"KvRouterConfig({', '.join(changed)})"


def _remade(values: dict[str, Any]) -> KvRouterConfig:
    return KvRouterConfig(**values)


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    weight = given.pop("overlap_score_weight")
    if weight is not None:
        given["prefill_load_scale"] = _number("overlap_score_weight", weight)
        if weight == 0:
            given["overlap_score_credit"] = 0.0
    for name in (
        "host_cache_hit_weight",
        "disk_cache_hit_weight",
        "router_temperature",
        "router_ttl_secs",
        "overlap_score_credit",
        "overlap_score_credit_decay",
        "prefill_load_scale",
        "decode_active_request_weight",
        "conditional_disagg_eff_isl_ratio_threshold",
        "router_prune_target_ratio",
        "router_active_request_expiry_secs",
        "router_silent_worker_secs",
    ):
        given[name] = _number(name, given[name], most=1e9)
    for name in (
        "router_queue_threshold",
        "shared_cache_multiplier",
        "router_predicted_ttl_secs",
        "conditional_disagg_prefill_busy_threshold",
        "conditional_disagg_decode_busy_threshold",
    ):
        given[name] = _optional(name, given[name], most=1e9)
    for name, least in (
        ("router_event_threads", 1),
        ("conditional_disagg_eff_isl_threshold", 0),
        ("router_max_tree_size", 1),
        ("router_max_active_requests", 1),
        ("router_max_index_bytes", 1 << 20),
        ("router_seed", 0),
    ):
        given[name] = _integer(name, given[name], least)
    for name, value in given.items():
        if isinstance(_DEFAULTS.get(name), bool) and not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, not {value!r}")
    _choice("router_queue_policy", given["router_queue_policy"], ("fcfs", "lcfs", "wspt"))
    if given["router_cost_formula"] not in ("credit", "weight", "product"):
        from dynamo._plugin import cost_names

        _choice("router_cost_formula", given["router_cost_formula"], ("credit", "weight", "product", *cost_names()))
    _choice("router_tie_break", given["router_tie_break"], ("random", "smallest_tree"))
    _choice("router_approximate_cache_policy", given["router_approximate_cache_policy"], ("ttl", "lru"))
    _choice("router_tracking_hash", given["router_tracking_hash"], ("public-xxh3-v1", "keyed-xxh3-v1"))
    if given["router_ttl_secs"] == 0:
        raise InvalidArgument("router_ttl_secs is 0: must be more")
    if given["router_tracking_key_file"] is not None:
        given["router_tracking_key_file"] = os.fspath(given["router_tracking_key_file"])
    return given


_DEFAULTS: dict[str, Any] = {}
_DEFAULTS.update({"overlap_score_weight": None, **KvRouterConfig()._given})

_ENV = {
    "DYN_ROUTER_KV_OVERLAP_SCORE_WEIGHT": "overlap_score_weight",
    "DYN_ROUTER_KV_OVERLAP_SCORE_CREDIT": "overlap_score_credit",
    "DYN_ROUTER_KV_OVERLAP_SCORE_CREDIT_DECAY": "overlap_score_credit_decay",
    "DYN_ROUTER_PREFILL_LOAD_SCALE": "prefill_load_scale",
    "DYN_ROUTER_DECODE_ACTIVE_REQUEST_WEIGHT": "decode_active_request_weight",
    "DYN_ROUTER_HOST_CACHE_HIT_WEIGHT": "host_cache_hit_weight",
    "DYN_ROUTER_DISK_CACHE_HIT_WEIGHT": "disk_cache_hit_weight",
    "DYN_ROUTER_TEMPERATURE": "router_temperature",
    "DYN_ROUTER_USE_KV_EVENTS": "use_kv_events",
    "DYN_ROUTER_REPLICA_SYNC": "router_replica_sync",
    "DYN_ROUTER_TTL_SECS": "router_ttl_secs",
    "DYN_ROUTER_QUEUE_THRESHOLD": "router_queue_threshold",
    "DYN_ROUTER_QUEUE_POLICY": "router_queue_policy",
    "DYN_ROUTER_EVENT_THREADS": "router_event_threads",
    "DYN_ROUTER_PREDICTED_TTL_SECS": "router_predicted_ttl_secs",
    "DYN_ROUTER_ACTIVE_REQUEST_EXPIRY_SECS": "router_active_request_expiry_secs",
    "DYN_ROUTER_CONDITIONAL_DISAGG": "conditional_disagg_enabled",
    "DYN_ROUTER_POLICY_CONFIG": "router_policy_config",
}


class LoadThresholdConfig:
    """When a worker counts as busy and gets no request. A worker is busy when it is strictly over a bound.

    Parameters
    ----------
    active_decode_blocks_threshold : fraction of the worker's KV blocks, 0 to 1
    active_prefill_tokens_threshold : tokens that wait for their prefill
    active_prefill_tokens_threshold_frac : the same as a fraction of max_num_batched_tokens
    """

    __slots__ = (
        "active_decode_blocks_threshold",
        "active_prefill_tokens_threshold",
        "active_prefill_tokens_threshold_frac",
    )

    def __init__(
        self,
        *,
        active_decode_blocks_threshold: float | None = None,
        active_prefill_tokens_threshold: int | None = None,
        active_prefill_tokens_threshold_frac: float | None = None,
    ) -> None:
        self.active_decode_blocks_threshold = _optional(
            "active_decode_blocks_threshold", active_decode_blocks_threshold, most=1.0
        )
        self.active_prefill_tokens_threshold = (
            None
            if active_prefill_tokens_threshold is None
            else _integer("active_prefill_tokens_threshold", active_prefill_tokens_threshold)
        )
        self.active_prefill_tokens_threshold_frac = _optional(
            "active_prefill_tokens_threshold_frac", active_prefill_tokens_threshold_frac
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LoadThresholdConfig):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        given = (f"{name}={getattr(self, name)!r}" for name in self.__slots__ if getattr(self, name) is not None)
        return f"LoadThresholdConfig({', '.join(given)})"


class RouterConfig:
    """How a front end or a set of workers routes: the mode, the KV router's options, the busy bounds.

    Parameters
    ----------
    mode : a `RouterMode`, or its name
    config : options of the KV router; None: the defaults
    active_decode_blocks_threshold, active_prefill_tokens_threshold, active_prefill_tokens_threshold_frac :
        see `LoadThresholdConfig`
    enforce_disagg : refuse requests while no prefill worker is there, rather than prefill on a decode worker
    session_affinity_ttl_secs, session_affinity_mode : keep a session on its worker for so long; "hard" or "soft"
    """

    def __init__(
        self,
        mode: "RouterMode | str" = RouterMode.RoundRobin,
        config: KvRouterConfig | None = None,
        active_decode_blocks_threshold: float | None = None,
        active_prefill_tokens_threshold: int | None = None,
        active_prefill_tokens_threshold_frac: float | None = None,
        enforce_disagg: bool = False,
        session_affinity_ttl_secs: int | None = None,
        session_affinity_mode: str = "hard",
    ) -> None:
        self.router_mode = RouterMode.parse(mode)
        if config is not None and not isinstance(config, KvRouterConfig):
            raise TypeError(f"config must be a KvRouterConfig, not {type(config).__name__}")
        self.kv_router_config = config if config is not None else KvRouterConfig()
        self.load_threshold_config = LoadThresholdConfig(
            active_decode_blocks_threshold=active_decode_blocks_threshold,
            active_prefill_tokens_threshold=active_prefill_tokens_threshold,
            active_prefill_tokens_threshold_frac=active_prefill_tokens_threshold_frac,
        )
        self.enforce_disagg = enforce_disagg
        self.session_affinity_ttl_secs = session_affinity_ttl_secs
        self.session_affinity_mode = _choice("session_affinity_mode", session_affinity_mode, ("hard", "soft"))

    @property
    def active_decode_blocks_threshold(self) -> float | None:
        return self.load_threshold_config.active_decode_blocks_threshold

    @property
    def active_prefill_tokens_threshold(self) -> int | None:
        return self.load_threshold_config.active_prefill_tokens_threshold

    @property
    def active_prefill_tokens_threshold_frac(self) -> float | None:
        return self.load_threshold_config.active_prefill_tokens_threshold_frac

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str] | None = None, mode: "RouterMode | str | None" = None
    ) -> "RouterConfig":
        """From ``DYN_ROUTER_MODE`` and the other ``DYN_ROUTER_*`` variables; a `mode` given here wins."""
        environ = os.environ if environ is None else environ
        return cls(mode if mode is not None else mode_from_env(environ, "RoundRobin"), KvRouterConfig.from_env(environ))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RouterConfig) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"RouterConfig({self.router_mode!s}, {self.kv_router_config!r}, {self.load_threshold_config!r})"


class RoutingConstraints:
    """Labels ("taints") that a worker must have, and such that make it more or less welcome, for one request.

    Parameters
    ----------
    required_taints : a worker that lacks one of these is not eligible
    preferred_taints : label -> weight; the cost is multiplied by exp(-tanh(sum of the weights that match))
    """

    __slots__ = ("preferred_taints", "required_taints")

    def __init__(
        self, required_taints: Iterable[str] | None = None, preferred_taints: Mapping[str, float] | None = None
    ) -> None:
        if isinstance(required_taints, str):
            raise TypeError("required_taints must be a set of labels, not one string")
        self.required_taints: set[str] = set(required_taints or ())
        self.preferred_taints: dict[str, float] = {
            label: _number(f"the weight of {label!r}", weight, least=-math.inf)
            for label, weight in dict(preferred_taints or {}).items()
        }

    @classmethod
    def of(cls, value: "RoutingConstraints | Mapping[str, Any] | None") -> "RoutingConstraints | None":
        """From the mapping in a request; None and constraints stay what they are."""
        if value is None or isinstance(value, RoutingConstraints):
            return value
        unknown = sorted(set(value) - {"required_taints", "preferred_taints"})
        if unknown:
            raise InvalidArgument(f"routing_constraints has unknown members: {', '.join(map(str, unknown))}")
        return cls(value.get("required_taints"), value.get("preferred_taints"))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RoutingConstraints):
            return NotImplemented
        return (self.required_taints, self.preferred_taints) == (other.required_taints, other.preferred_taints)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"RoutingConstraints({sorted(self.required_taints)!r}, {self.preferred_taints!r})"
