"""The environment variables of the runtime, in one place.

======================================================  ==================================================  =========
variable                                                meaning                                             default
======================================================  ==================================================  =========
DYN_DISCOVERY_BACKEND; DYN_STORE_KV as in 0.8           ``file`` (one machine) or ``mem`` (one process)     file
DYN_FILE_KV                                             folder of the file store                            see Store
DYN_REQUEST_PLANE                                       ``tcp``                                             tcp
DYN_TCP_RPC_HOST, DYN_TCP_RPC_PORT                      where a worker listens                              127.0.0.1, 0
DYN_TCP_CONNECT_TIMEOUT                                 seconds to wait for a connection                    3
DYN_TCP_REQUEST_TIMEOUT                                 a worker that gives no sign of life for so many     15
                                                        seconds is gone, and so are its requests
DYN_TCP_MAX_MESSAGE_SIZE                                bytes of the largest frame taken or sent            67108864
DYN_TCP_SHRINK_MESSAGE_SIZE                             larger buffers are given back when they are empty   1048576
DYN_TCP_MAX_REQUESTS (ours)                             requests that one endpoint of a worker runs at a    16384
                                                        time; more are refused as Overloaded
DYN_NAMESPACE                                           namespace of programs that are given none           dynamo
DYN_LOG, DYN_LOGGING_JSONL, DYN_LOG_USE_LOCAL_TZ,       see `dynamo.runtime.logging`                        warn
DYN_LOGGING_CONFIG_PATH
DYN_RUNTIME_INHIBITED_DURATION_SECS                     how long a failed instance is left out              5
DYN_GRACEFUL_SHUTDOWN_GRACE_PERIOD_SECS                 still serving after leaving discovery, seconds      0
DYN_RUNTIME_GRACEFUL_SHUTDOWN_TIMEOUT_SECS              how long running requests may take to end           900
DYN_SYSTEM_PORT, DYN_SYSTEM_HOST                        the status server; -1: none                         -1, loopback
DYN_SYSTEM_HEALTH_PATH, DYN_SYSTEM_LIVE_PATH            where it answers                                    as named
DYN_SYSTEM_STARTING_HEALTH_STATUS                       before anything is served: ready or notready        notready
DYN_CANARY_WAIT_TIME                                    seconds without requests before a health check      10
DYN_WORKER_GRACEFUL_SHUTDOWN_TIMEOUT                    how long the worker function may take to return     30
======================================================  ==================================================  =========

Variables of Dynamo that have nothing to act on here, and are passed over: ``DYN_TCP_POOL_SIZE`` (all calls to a worker
share one connection), ``DYN_TCP_CHANNEL_BUFFER`` (streams are bounded in bytes, by a window of 256 KiB each),
``DYN_TCP_RESPONSE_STREAM_HOST`` and ``_PORT`` (answers come back on the connection of the request), ``DYN_HTTP_RPC_*``,
``NATS_*``, ``DYN_ZMQ_BROKER_*`` (there is no such plane), ``DYN_RUNTIME_NUM_WORKER_THREADS`` and
``DYN_RUNTIME_MAX_BLOCKING_THREADS`` (one loop thread does it), ``DYN_SDK_DISABLE_ANSI_LOGGING`` (nothing is coloured).
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


def whole(name: str, default: int, least: int = 0, most: int = 2**32 - 1) -> int:
    """A whole number.

    Raises
    ------
    dynamo.errors.InvalidArgument
        When it is something else, or out of range.
    """
    value = os.environ.get(name)
    if not value:
        return default
    try:
        result = int(value)
    except ValueError:
        result = least - 1
    if not least <= result <= most:
        raise errors.InvalidArgument(f"{name}={value!r}: must be a whole number, {least} to {most}")
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
