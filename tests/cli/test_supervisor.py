"""The supervisor with small programs as children."""

import asyncio
import io
import json
import os
import signal
import sys
import time

import pytest

from dynamo.cli import supervisor
from dynamo.cli.screen import Screen
from dynamo.cli.supervisor import Child, describe_exit

from ..conftest import ROOT

READY = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
from dynamo.cli.supervised import Link
link = Link()
assert link.supervised
"""
STAY = "link.tell('loading', text='step', fraction=0.5)\nlink.tell('ready', number=7)\ntime.sleep(60)\n"


def child(code, screen=None, **kwargs):
    return Child(
        "worker 1",
        [sys.executable, "-c", READY.format(root=str(ROOT)) + code],
        screen or Screen(io.StringIO()),
        **kwargs,
    )


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 30))


async def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen in 20 s"
        await asyncio.sleep(0.02)


async def ended(task, one, number=signal.SIGKILL):
    one.signal(number)
    await asyncio.wait_for(task, 10)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"


def test_a_child_says_that_it_is_ready_and_ends_when_told():
    async def main():
        seen = []
        one = child(STAY, on_ready=lambda child, facts: seen.append(facts))
        task = asyncio.ensure_future(one.run())
        await asyncio.wait_for(one.was_ready.wait(), 10)
        assert seen == [{"number": 7}] and one.is_ready
        await ended(task, one, signal.SIGTERM)
        assert one.failure is None

    run(main())


def test_a_killed_child_is_started_again():
    async def main():
        out = io.StringIO()
        one = child(STAY, Screen(out))
        task = asyncio.ensure_future(one.run())
        await until(lambda: one.is_ready)
        first = one.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: one.pid != first and one.is_ready)
        assert one.starts == 2
        assert f"worker 1 (pid {first}) was killed by SIGKILL; it is started again in 1 s" in out.getvalue()
        await ended(task, one)

    run(main())


def test_one_that_never_becomes_ready_is_not_tried_again():
    async def main():
        out = io.StringIO()
        one = child("print('no such model')\nsys.exit(3)\n", Screen(out))
        await one.run()
        assert one.failure == "worker 1 ended with exit code 3 before it was ready"
        assert one.starts == 1 and "worker 1 | no such model" in out.getvalue()

    run(main())


def test_one_that_keeps_dying_is_given_up(monkeypatch):
    monkeypatch.setattr(supervisor, "MAX_PAUSE", 0.01)
    monkeypatch.setattr(supervisor, "MAX_QUICK", 3)

    async def main():
        one = child("link.tell('ready')\nos.kill(os.getpid(), signal.SIGABRT)\n")
        await one.run()
        assert one.starts == 3 and "SIGABRT, for the 3th time" in one.failure

    run(main())


def test_output_comes_line_by_line_also_when_it_is_hostile():
    async def main():
        out = io.StringIO()
        one = child("sys.stdout.buffer.write(b'a\\xff' + b'x' * 50000 + b'\\nlast')\nsys.exit(1)\n", Screen(out))
        await one.run()
        lines = out.getvalue().splitlines()
        assert all(line.startswith("worker 1 | ") for line in lines)
        assert sum(line.count("x") for line in lines) == 50000 and lines[-1] == "worker 1 | last"

    run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_child_outlives_a_killed_supervisor(run_python):
    code = f"""
import asyncio, sys
sys.path.insert(0, {str(ROOT)!r})
from dynamo.cli.screen import Screen
from dynamo.cli.supervisor import Child
blocked = "import ctypes; link.tell('ready'); ctypes.PyDLL(None).usleep(30000000)"  # holds the GIL
one = Child("a", [sys.executable, "-c", {READY.format(root=str(ROOT))!r} + blocked], Screen(),
            on_ready=lambda child, facts: print(child.pid, flush=True))
asyncio.run(one.run())
"""
    parent = run_python("-c", code)
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    end = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_a_child_started_goes_with_it():
    async def main():
        out = io.StringIO()
        code = "import subprocess\np = subprocess.Popen(['sleep', '60'])\nprint('pid', p.pid)\n" + STAY
        one = child(code, Screen(out))
        task = asyncio.ensure_future(one.run())
        await until(lambda: one.is_ready and "pid" in out.getvalue())
        grandchild = int(out.getvalue().split("pid ")[1].split()[0])
        os.kill(one.pid, signal.SIGKILL)
        await until(lambda: not alive(grandchild))
        await ended(task, one)

    if sys.platform == "linux":
        run(main())


def test_exit_codes_read_well():
    assert describe_exit(2) == "ended with exit code 2"
    assert describe_exit(-9) == "was killed by SIGKILL"
    assert json.dumps(describe_exit(-200)) == '"was killed by signal 200"'
