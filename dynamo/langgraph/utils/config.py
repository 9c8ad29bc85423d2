"""Older names for what stands in `langgraph.config`."""

from dynamo.langgraph._internal._config import ensure_config, patch_configurable
from dynamo.langgraph.config import get_config, get_store

__all__ = ("ensure_config", "get_config", "get_store", "patch_configurable")
