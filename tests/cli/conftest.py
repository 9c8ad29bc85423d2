import contextlib
import os
import pty
import re
import select
import signal
import sys
import time

import pytest

from ..conftest import ROOT


@pytest.fixture
def dynamo(run_python):
    """Run `dynamo ARGS`; returns (exit code, output)."""

    def run(*args, timeout=60, **kwargs):
        process = run_python("-m", "dynamo", *map(str, args), **kwargs)
        out, _ = process.communicate(timeout=timeout)
        return process.returncode, out

    return run


@pytest.fixture
def parrot(run_python):
    """The address of the example's OpenAI server."""
    process = run_python(str(ROOT / "examples/openai_service/server.py"), "--port", "0")
    line = process.stdout.readline()
    assert line.startswith("listening on "), line + process.stdout.read()
    return line.split()[-1]


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, args, cwd):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.environ.update(PYTHONPATH=str(ROOT), TERM="xterm", COLUMNS="100")
            os.execv(sys.executable, [sys.executable, "-m", "dynamo", *args])
        self.text, self.ended = "", False

    def until(self, wanted, seconds=20):
        end = time.monotonic() + seconds
        while not re.search(wanted, self.text):
            assert time.monotonic() < end, f"no {wanted!r} in {self.text!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self.fd, 65536).decode("utf-8", "replace")
                except OSError:
                    raise AssertionError(f"it ended without {wanted!r}: {self.text!r}") from None
        found, self.text = self.text, ""
        return found

    def type(self, text):
        os.write(self.fd, text.encode())

    def end(self):
        """Its exit code."""
        end = time.monotonic() + 20
        while True:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                os.close(self.fd)
                self.ended = True
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
            if select.select([self.fd], [], [], 0.05)[0]:
                with contextlib.suppress(OSError):
                    self.text += os.read(self.fd, 65536).decode("utf-8", "replace")


@pytest.fixture
def terminal(tmp_path):
    """Run `dynamo ARGS` on a terminal of its own."""
    started = []

    def start(*args):
        started.append(Terminal([str(arg) for arg in args], tmp_path))
        return started[-1]

    yield start
    for one in started:
        if not one.ended:
            os.kill(one.pid, signal.SIGKILL)
            one.end()
