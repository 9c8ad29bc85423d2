"""Threads of langgraph go on here, and ours there: what is stored, read and answered is the same, bit for bit.

The scenarios are in threads.py, which runs in processes of its own with the original's core (from its source
distribution; it is not installed) or with ours.
"""

import json
import os
import re
import subprocess
import sys

import pytest

from ..conftest import ROOT
from .original import ORIGINAL, fetched

pytest.importorskip("langgraph.checkpoint.sqlite", reason="the extra test-langgraph is not installed")
SAVERS = ("memory", "sqlite", "aiosqlite")
THREADS = re.findall(r"@scenario\ndef (\w+)", (ROOT / "tests/langgraph/threads.py").read_text())
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# What no two runs have in common: checkpoints are named after the time, tasks and interrupts after checkpoints.
UNIQUE = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}"
)


def same(text, known=""):
    """A report, with what is unique numbered in the order of appearance, unless it was there before."""
    before, numbers = set(UNIQUE.findall(known)), {}
    return UNIQUE.sub(lambda m: m[0] if m[0] in before else f"<{numbers.setdefault(m[0], len(numbers))}>", text)


def start(who, part, source, folder):
    paths = [str(ROOT), str(ORIGINAL)] if who == "theirs" else [str(ROOT)]
    if part == 1:
        folder.mkdir()
    command = [sys.executable, str(ROOT / "tests/langgraph/threads.py"), who, str(part), str(source), str(folder)]
    # Sets are stored in the order of hashes.
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(paths), LANGSMITH_TRACING="false", PYTHONHASHSEED="0")
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What each side did: {(who began, who went on or None): report}."""
    fetched()
    folder, found = tmp_path_factory.mktemp("threads"), {}
    sides = ("ours", "theirs")
    for part in (1, 2):
        started = {}
        for first in sides:
            for then in (None,) if part == 1 else sides:
                to = folder / f"{first}-{then}"
                started[first, then] = to, start(then or first, part, folder / f"{first}-None", to)
        for key, (to, process) in started.items():
            said, _ = process.communicate(timeout=120)
            assert process.returncode == 0, (key, said[-4000:])
            found[key] = json.loads((to / "report.json").read_text())
    return found


def text(report, saver, thread, part):
    return json.dumps(report[saver][thread][part], indent=1, sort_keys=True)


@pytest.mark.parametrize("saver", SAVERS)
@pytest.mark.parametrize("thread", THREADS)
def test_a_thread_is_begun_alike(reports, saver, thread):
    for part in ("done", "stored"):
        ours, theirs = (text(reports[who, None], saver, thread, part) for who in ("ours", "theirs"))
        assert same(ours) == same(theirs)


@pytest.mark.parametrize("begun", ["ours", "theirs"])
@pytest.mark.parametrize("saver", SAVERS)
@pytest.mark.parametrize("thread", THREADS)
def test_a_thread_goes_on_alike_on_either_side(reports, begun, saver, thread):
    known = json.dumps(reports[begun, None][saver][thread])
    ours, theirs = reports[begun, "ours"], reports[begun, "theirs"]
    assert text(ours, saver, thread, "found") == text(theirs, saver, thread, "found")
    for part in ("done", "stored"):
        assert same(text(ours, saver, thread, part), known) == same(text(theirs, saver, thread, part), known)
