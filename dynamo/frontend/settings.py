"""What a front end can be told, by arguments or by the environment (the names of Dynamo)."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from dynamo._tls import TlsContext
from dynamo.errors import InvalidArgument
from dynamo.llm.router_config import KvRouterConfig, mode_from_env

__all__ = ["Settings"]


def _number(env: Mapping[str, str], name: str, default: float, low: float = 0) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not value >= low:
        raise InvalidArgument(f"{name} is {text!r}: it must be a number of {low:g} or more")
    return value


@dataclass
class Settings:
    """Everything but the address.

    Attributes
    ----------
    router : "kv", "round-robin", "random", "least-loaded", ...
    router_config : a `KvRouterConfig`; None: the defaults. `from_environment` reads it from ``DYN_ROUTER_*``
    thresholds : a `LoadThresholdConfig` or None: no worker is ever too busy
    api_key : clients must send ``Authorization: Bearer <key>``; None: nobody is asked
    allow_origin : CORS; None: off
    tls_cert_path, tls_key_path : PEM files of a certificate with its chain and of its key: serve https
    tls_client_ca_cert_path : clients must show a certificate that this PEM file vouches for
    migration_limit : how often an answer may go on elsewhere when its worker breaks (a model card may say more)
    overload_status : what "everybody is busy" is answered with
    stream_timeout : seconds that a worker may be silent in the middle of a call; None: for ever
    template : defaults for requests that lack a field
    busy_threshold : the route /busy_threshold is there
    thread_bytes : bodies of at least so many bytes are read and tokenised on a thread
    page : the live page at /
    """

    router: str = "kv"
    router_config: Any = None
    thresholds: Any = None
    api_key: str | None = None
    allow_origin: str | None = None
    tls_cert_path: str | None = None
    tls_key_path: str | None = None
    tls_client_ca_cert_path: str | None = None
    namespace: str | None = None
    migration_limit: int = 3
    overload_status: int = 529
    body_limit: int = 45 << 20
    stream_timeout: float | None = None
    template: dict[str, Any] = field(default_factory=dict)
    busy_threshold: bool = True
    thread_bytes: int = 16 << 10
    page: bool = True
    paths: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_environment(cls, env: Mapping[str, str] | None = None, **given: Any) -> "Settings":
        """Settings from ``DYN_*`` variables; what is given (and not None) wins."""
        env = os.environ if env is None else env
        known: dict[str, Any] = {
            "overload_status": int(_number(env, "DYN_HTTP_OVERLOAD_STATUS_CODE", 529, 400)),
            "body_limit": int(_number(env, "DYN_HTTP_BODY_LIMIT_MB", 45) * (1 << 20)),
            "migration_limit": int(_number(env, "DYN_MIGRATION_LIMIT", 3)),
            "stream_timeout": _number(env, "DYN_HTTP_BACKEND_STREAM_TIMEOUT_SECS", 0) or None,
            "router": given.get("router") or mode_from_env(env, "kv").name,
            "router_config": KvRouterConfig.from_env(env),
            "namespace": env.get("DYN_NAMESPACE") or None,
            "tls_cert_path": env.get("DYN_TLS_CERT_PATH") or None,
            "tls_key_path": env.get("DYN_TLS_KEY_PATH") or None,
            "paths": {
                name: env.get(f"DYN_HTTP_SVC_{short}_PATH") or path
                for name, short, path in (
                    ("chat", "CHAT", "/v1/chat/completions"),
                    ("completions", "CMP", "/v1/completions"),
                    ("embeddings", "EMB", "/v1/embeddings"),
                    ("models", "MODELS", "/v1/models"),
                    ("health", "HEALTH", "/health"),
                    ("live", "LIVE", "/live"),
                    ("metrics", "METRICS", "/metrics"),
                )
            },
        }
        template = env.get("DYN_REQUEST_TEMPLATE")
        if template:
            with open(template, "rb") as file:
                known["template"] = msgspec.json.decode(file.read(), type=dict[str, Any])
        known.update({name: value for name, value in given.items() if value is not None})
        unknown = set(known) - set(cls.__dataclass_fields__)
        if unknown:
            raise TypeError(f"a front end has no setting {', '.join(sorted(unknown))}")
        return cls(**known)

    def tls(self) -> "TlsContext | None":
        """What a server needs for https; None: it speaks plain HTTP."""
        if self.tls_cert_path is None and self.tls_key_path is None and self.tls_client_ca_cert_path is None:
            return None
        if self.tls_cert_path is None or self.tls_key_path is None:
            raise InvalidArgument("https needs a certificate and its key: give --tls-cert-path and --tls-key-path")
        return TlsContext(
            server=True,
            certificate=self.tls_cert_path,
            key=self.tls_key_path,
            ca_file=self.tls_client_ca_cert_path,
            need_client_certificate=self.tls_client_ca_cert_path is not None,
        )
