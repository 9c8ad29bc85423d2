"""The process that holds a llama.cpp server. Settings come on stdin as a line of JSON; it imports nothing of dynamo.

It is a process of its own because loading a model holds the GIL for seconds, and because a failed assertion in
llama.cpp ends the process it happens in. It lives as long as its stdin is open, so it cannot outlive its worker.
"""

import json
import os
import sys
from typing import Any


def main() -> None:
    settings = json.loads(sys.stdin.readline())
    # What others print must not get between the lines that the worker reads.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**fields: Any) -> None:
        out.write(json.dumps(fields) + "\n")
        out.flush()

    _die_with_parent(int(settings["parent"]))
    try:
        import xllamacpp  # type: ignore[import-not-found,import-untyped,unused-ignore]

        params = xllamacpp.CommonParams()
        for name, value in settings["params"].items():
            owner: Any = params
            *path, last = name.split(".")
            for part in path:
                owner = getattr(owner, part)
            if name == "pooling_type":
                value = xllamacpp.llama_pooling_type(value)
            setattr(owner, last, value)
        server = xllamacpp.Server(params)
    except BaseException as error:
        say(error=f"{type(error).__name__}: {error}")
        raise SystemExit(1) from None
    say(address=server.listening_address, version=getattr(xllamacpp, "__version__", ""))
    sys.stdin.read()
    os._exit(0)  # the server's threads may be in a long computation: nothing of theirs is worth waiting for


def _die_with_parent(parent: int) -> None:
    """On Linux the kernel ends this process with its parent, even in the middle of a load."""
    if sys.platform == "linux":
        import ctypes
        import signal

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)


if __name__ == "__main__":
    import signal

    del sys.path[0]  # this folder: its modules are no top-level modules
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the worker decides
    main()
