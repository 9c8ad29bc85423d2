"""Kept for its path: configurations are made in ``langgraph._internal._config``."""
