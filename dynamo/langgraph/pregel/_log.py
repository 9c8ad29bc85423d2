"""The log of the engine."""

import logging

logger = logging.getLogger("langgraph")
