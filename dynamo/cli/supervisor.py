"""Keep child processes running: progress, restarts with growing pauses, an orderly end.

Each child has a session of its own, so that Ctrl-C in the terminal reaches the supervisor only, which then decides the
order in which the children end.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from dynamo.cli.screen import Screen
from dynamo.cli.supervised import VARIABLE

__all__ = ["Child", "describe_exit"]

QUICK = 30.0  # a child that lived shorter than this after it was ready died quickly
MAX_QUICK = 5  # deaths in a row after which the supervisor gives up
MAX_PAUSE = 30.0
MAX_LINE = 16 << 10


def describe_exit(code: int) -> str:
    """What an exit code of subprocess means."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


class Child:
    """One program that is to run until `stop`.

    Parameters
    ----------
    name : what a person calls it ("worker 1")
    command : arguments of the program
    env : added to the environment
    on_ready : called with what it said about itself, after each start
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        screen: Screen,
        *,
        env: dict[str, str] | None = None,
        on_ready: Callable[["Child", dict[str, Any]], None] | None = None,
    ) -> None:
        self.name, self.command, self.screen = name, list(command), screen
        self.env, self.on_ready = dict(env or {}), on_ready
        self.process: subprocess.Popen[bytes] | None = None
        self.facts: dict[str, Any] = {}  # what it said when it became ready
        self.is_ready = False
        self.starts = 0
        self.failure: str | None = None  # why there will be no further start
        self.was_ready = asyncio.Event()
        self.stopping = False
        self.last_lines: deque[str] = deque(maxlen=20)
        self._stop = asyncio.Event()
        self._quick = 0

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None else None

    async def run(self) -> None:
        """Start it, again and again, until it is stopped or not worth another attempt (then `failure` says why)."""
        while not self.stopping:
            started = time.monotonic()
            code = await self._live()
            if self.stopping:
                return
            lived = time.monotonic() - started
            how = describe_exit(code)
            if not self.was_ready.is_set() and code > 0:
                self.failure = f"{self.name} {how} before it was ready"
                return
            self._quick = self._quick + 1 if lived < QUICK or not self.is_ready else 1
            if self._quick >= MAX_QUICK:
                self.failure = f"{self.name} {how}, for the {self._quick}th time in a row"
                return
            pause = min(MAX_PAUSE, 2.0 ** (self._quick - 1))
            self.screen.line(f"{self.name} (pid {self.pid}) {how}; it is started again in {pause:.0f} s")
            self.is_ready = False
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause)

    async def _live(self) -> int:
        ours, theirs = socket.socketpair()
        env = os.environ | self.env | {VARIABLE: f"{theirs.fileno()}:{os.getpid()}", "PYTHONUNBUFFERED": "1"}
        self.is_ready = False
        self.starts += 1
        try:
            self.process = process = subprocess.Popen(  # noqa: ASYNC220 (a fork takes a millisecond)
                self.command,
                env=env,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        finally:
            theirs.close()
        assert process.stdout is not None
        status = asyncio.ensure_future(self._read_status(ours))
        output = asyncio.ensure_future(self._read_output(process.stdout))
        try:
            code = await _exit_of(process)
            # Its children may still hold its standard output: do not wait for them.
            await asyncio.wait([status, output], timeout=0.5)
            return code
        finally:
            for task in (status, output):
                task.cancel()
            self.screen.progress(self.name, None, None)
            process.stdout.close()

    async def _read_status(self, ours: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE)
        try:
            while line := await reader.readline():
                facts = json.loads(line)
                state = facts.pop("state")
                if state == "ready":
                    self.screen.progress(self.name, None, None)
                    self.facts, self.is_ready = facts, True
                    self.was_ready.set()
                    if self.on_ready is not None:
                        self.on_ready(self, facts)
                elif not self.is_ready and not self.stopping:
                    self.screen.progress(self.name, facts.get("text", state), facts.get("fraction"))
        except (OSError, ValueError):
            pass  # it ended in the middle of a line
        finally:
            writer.close()

    async def _read_output(self, pipe: Any) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=MAX_LINE)
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(pipe.fileno()), "rb")
        )
        try:
            while True:
                try:
                    line = await reader.readuntil(b"\n")
                except asyncio.IncompleteReadError as rest:
                    line = rest.partial
                    if not line:
                        return
                except asyncio.LimitOverrunError as over:
                    line = await reader.readexactly(over.consumed)
                text = line.decode("utf-8", "replace").rstrip()
                if text:
                    self.last_lines.append(text)
                    self.screen.line(f"{self.name} | {text}")
        finally:
            transport.close()

    def no_more(self) -> None:
        """When it ends now, it is not started again."""
        self.stopping = True
        self._stop.set()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; SIGKILL goes to everything that it started in its session, too."""
        self.no_more()
        if self.process is None or self.process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _exit_of(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process without a thread: by its descriptor where the system has one, else by looking often."""
    loop = asyncio.get_running_loop()
    if sys.platform == "linux" and hasattr(os, "pidfd_open"):
        try:
            fd = os.pidfd_open(process.pid)
        except OSError:
            pass
        else:
            ended = loop.create_future()
            loop.add_reader(fd, _set, ended)
            try:
                await ended
            finally:
                loop.remove_reader(fd)
                os.close(fd)
            # It is not reaped yet, so the number of its session is still its own: what it started goes with it.
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            return process.wait()
    while process.poll() is None:  # noqa: ASYNC110 (there is no event to wait for)
        await asyncio.sleep(0.05)
    return process.returncode
