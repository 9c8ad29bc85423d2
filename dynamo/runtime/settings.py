"""The environment variables of the runtime, in one place.

======================================================  ==================================================  =========
variable                                                meaning                                             default
======================================================  ==================================================  =========
DYN_DISCOVERY_BACKEND; DYN_STORE_KV as in 0.8           ``file`` (one machine) or ``mem`` (one process)     file
DYN_FILE_KV                                             folder of the file store                            see Store
DYN_REQUEST_PLANE                                       ``tcp``                                             tcp
DYN_TCP_RPC_HOST, DYN_TCP_RPC_PORT                      where a worker listens                              127.0.0.1, 0
DYN_TCP_CONNECT_TIMEOUT                                 seconds to wait for a connection                    3
DYN_NAMESPACE                                           namespace of programs that are given none           dynamo
DYN_LOG                                                 trace, debug, info, warn, error, off                warn
DYN_RUNTIME_INHIBITED_DURATION_SECS                     how long a failed instance is left out              5
DYN_GRACEFUL_SHUTDOWN_GRACE_PERIOD_SECS                 still serving after leaving discovery, seconds      0
DYN_RUNTIME_GRACEFUL_SHUTDOWN_TIMEOUT_SECS              how long running requests may take to end           900
DYN_SYSTEM_PORT, DYN_SYSTEM_HOST                        the status server; -1: none                         -1, loopback
DYN_SYSTEM_HEALTH_PATH, DYN_SYSTEM_LIVE_PATH            where it answers                                    as named
DYN_SYSTEM_STARTING_HEALTH_STATUS                       before anything is served: ready or notready        notready
DYN_CANARY_WAIT_TIME                                    seconds without requests before a health check      10
DYN_WORKER_GRACEFUL_SHUTDOWN_TIMEOUT                    how long the worker function may take to return     30
======================================================  ==================================================  =========
"""

import os

from dynamo import errors

_TRUE = frozenset({"1", "true", "on", "yes"})


def text(name: str, default: str) -> str:
    """A variable; an empty one counts as not set."""
    return os.environ.get(name) or default


def flag(name: str, default: bool = False) -> bool:
    value = os.environ.get(name)
    return default if not value else value.strip().lower() in _TRUE


def number(name: str, default: float) -> float:
    """A number that is not negative.

    Raises
    ------
    dynamo.errors.InvalidArgument
        When it is something else.
    """
    value = os.environ.get(name)
    if not value:
        return default
    try:
        result = float(value)
    except ValueError:
        result = -1.0
    if not 0 <= result < float("inf"):
        raise errors.InvalidArgument(f"{name}={value!r}: must be a number that is 0 or more")
    return result


def port(name: str, default: int) -> int:
    value = number(name, default)
    if value != int(value) or value > 65535:
        raise errors.InvalidArgument(f"{name}={os.environ.get(name)!r}: must be a port, 0 to 65535")
    return int(value)


def discovery_backend() -> str:
    """``DYN_DISCOVERY_BACKEND``, else what 0.8 called ``DYN_STORE_KV``, else ``file``."""
    return text("DYN_DISCOVERY_BACKEND", text("DYN_STORE_KV", "file"))


def namespace() -> str:
    """The namespace for programs that are told none."""
    return text("DYN_NAMESPACE", "dynamo")
