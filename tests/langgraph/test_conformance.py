"""Savers keep what our core gives them as their distribution's conformance suite demands."""

import subprocess
import sys

import pytest

from ..conftest import ROOT

pytest.importorskip("langgraph.checkpoint.conformance", reason="the extra test-langgraph is not installed")

PROGRAM = """
import asyncio, sys
import dynamo.langgraph
dynamo.langgraph.install()
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
import langgraph.types

@checkpointer_test(name="InMemorySaver")
async def memory():
    yield InMemorySaver()

@checkpointer_test(name="AsyncSqliteSaver")
async def sqlite():
    async with AsyncSqliteSaver.from_conn_string(":memory:") as saver:
        yield saver

assert langgraph.types is sys.modules["dynamo.langgraph.types"]
for saver in (memory, sqlite):
    report = asyncio.run(validate(saver))
    report.print_report()
    assert report.passed_all_base(), report
"""


def test_the_savers_conform():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "InMemorySaver" in done.stdout and "AsyncSqliteSaver" in done.stdout, done.stdout
