"""The child's side of `dynamo serve`: say how far it is, and never outlive the supervisor.

The supervisor passes one end of a socket pair by number in the environment. What the child writes there are JSON
lines ({"state": "loading", ...}); when it can read the end of it, the supervisor is gone.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from typing import Any

__all__ = ["VARIABLE", "Link"]

VARIABLE = "_DYN_SUPERVISED"  # "<descriptor>:<pid of the supervisor>"
PR_SET_PDEATHSIG = 1


class Link:
    """To the supervisor; does nothing in a process that has none."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        number, _, parent = os.environ.pop(VARIABLE, "").partition(":")  # not for grandchildren
        if not number:
            return
        self._socket = socket.socket(fileno=int(number))
        self._socket.set_inheritable(False)
        if sys.platform == "linux":
            # The kernel kills us when the supervisor dies, also when Python is blocked.
            import ctypes

            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != int(parent):
            os._exit(1)  # it died before we asked
        threading.Thread(target=self._watch, name="supervisor", daemon=True).start()

    @property
    def supervised(self) -> bool:
        return self._socket is not None

    def tell(self, state: str, **facts: Any) -> None:
        """Tell the supervisor where we are."""
        if self._socket is None:
            return
        with contextlib.suppress(OSError):  # it is gone: the watcher ends us
            self._socket.sendall(json.dumps({"state": state, **facts}).encode() + b"\n")

    def _watch(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(OSError):
            while self._socket.recv(64):
                pass
        os._exit(1)
