"""Configurations: what is merged, what is inherited, what makes callback managers."""

import os
from unittest import mock

import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("langgraph.checkpoint")

from dynamo.langgraph._internal._config import (
    DEFAULT_RECURSION_LIMIT,
    ensure_config,
    merge_configs,
    patch_config,
    recast_checkpoint_ns,
)
from dynamo.langgraph._internal._langchain import child_config
from dynamo.langgraph._internal._runnable import watched


@pytest.fixture
def surroundings():
    tokens = []

    def surround(config):
        tokens.append(child_config.set(config))

    yield surround
    for token in reversed(tokens):
        child_config.reset(token)


def test_later_configurations_lie_on_top():
    merged = ensure_config(
        {"tags": ["a"], "configurable": {"x": 1}}, None, {"tags": ["b"], "configurable": {"x": 2, "y": 3}}
    )
    assert merged["tags"] == ["a", "b"]
    assert merged["configurable"] == {"x": 2, "y": 3}


def test_a_key_that_is_none_of_a_configurations_is_configurable():
    assert ensure_config({"user": "u"})["configurable"] == {"user": "u"}


def test_a_thread_of_its_own_takes_nothing_over_from_the_surroundings(surroundings):
    surroundings({"configurable": {"checkpoint_ns": "parent:1", "model": "m"}, "tags": ["t"]})
    inherited, fresh = ensure_config({}), ensure_config({"configurable": {"thread_id": "1"}})
    assert inherited["configurable"] == {"checkpoint_ns": "parent:1", "model": "m"}
    assert fresh["configurable"] == {"thread_id": "1"}
    assert fresh["tags"] == ["t"]


def test_the_limit_that_nobody_chose_gives_way():
    assert merge_configs({"recursion_limit": 5}, ensure_config())["recursion_limit"] == 5
    assert merge_configs({"recursion_limit": 5}, {"recursion_limit": int(DEFAULT_RECURSION_LIMIT)}) == {
        "recursion_limit": int(DEFAULT_RECURSION_LIMIT),
        "configurable": {},
    }


def test_new_callbacks_are_those_of_another_run():
    patched = patch_config({"run_name": "a", "run_id": 1, "tags": ["t"]}, callbacks=[])
    assert patched == {"tags": ["t"], "callbacks": []}


@pytest.mark.parametrize(
    ("ns", "bare"), [("", ""), ("a:1", "a"), ("a:1|b:2", "a|b"), ("a:1|2|b:3", "a|b"), ("3", ""), ("a", "a")]
)
def test_a_namespace_without_its_task_ids(ns, bare):
    assert recast_checkpoint_ns(ns) == bare


def test_nobody_watches_a_run_without_handlers(monkeypatch):
    from langchain_core.callbacks import BaseCallbackHandler, CallbackManager

    assert not watched({})
    assert not watched({"callbacks": CallbackManager([])})
    assert watched({"callbacks": [BaseCallbackHandler()]})
    assert watched({"callbacks": CallbackManager([BaseCallbackHandler()])})
    monkeypatch.setenv("LANGSMITH_TRACING", "true")
    assert watched({})
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    assert not watched({})
    with mock.patch.dict(os.environ, {"LANGCHAIN_TRACING_V2": "true"}):
        assert watched({})
        with mock.patch.dict(os.environ, clear=True):
            assert not watched({})
    assert not watched({})
