"""What other processes see of an owner that lives, is killed, or is blocked."""

import asyncio
import contextlib
import signal
import time

import pytest

from dynamo._discovery import Store

OWNER = """
import sys, time
from dynamo._discovery import Store
store = Store("file", sys.argv[1], ttl=2)
store.put("v1/instances/ns/c/e/1", b"alive")
print("ready", flush=True)
{then}
"""
BLOCKED = {
    # time.sleep without the GIL, C code that keeps it, Python that never lets go for long
    "sleep": "time.sleep(6)",
    "c_code_with_the_gil": "import ctypes; ctypes.PyDLL(None).usleep(6000000)",
    "python_loop": "end = time.monotonic() + 6\nwhile time.monotonic() < end: pass",
}


def owner(run_python, root, then):
    process = run_python("-c", OWNER.format(then=then), str(root))
    assert process.stdout.readline() == "ready\n", process.stdout.read()
    return process


def changes(root, seconds, stop=lambda change: False):
    """The changes of some seconds, each with its time."""

    async def main():
        seen = []
        with Store("file", root, ttl=2) as store:
            watch = store.watch("v1/instances/")

            async def read():
                async for change in watch:
                    seen.append((change.kind, time.monotonic()))
                    if stop(change):
                        return

            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(read(), seconds)
        return seen

    return asyncio.run(main())


def test_a_killed_owner_vanishes_within_its_ttl(run_python, tmp_path):
    process = owner(run_python, tmp_path, "time.sleep(60)")

    def kill_then_wait(change):
        if change.kind == "synced":
            process.send_signal(signal.SIGKILL)
        return change.kind == "delete"

    seen = changes(tmp_path, 15, kill_then_wait)
    assert [kind for kind, _ in seen] == ["put", "synced", "delete"]
    assert seen[2][1] - seen[1][1] < 2 + 1
    assert not list((tmp_path / "v1/instances").iterdir())


@pytest.mark.parametrize("how", BLOCKED)
def test_blocked_python_keeps_its_lease(run_python, tmp_path, how):
    process = owner(run_python, tmp_path, BLOCKED[how])
    assert [kind for kind, _ in changes(tmp_path, 5)] == ["put", "synced"]
    assert process.poll() is None


def test_an_owner_that_ends_takes_its_keys_with_it(run_python, tmp_path):
    process = owner(run_python, tmp_path, "")
    assert process.wait(10) == 0
    assert not list((tmp_path / "v1/instances").iterdir())
