"""What the parts of one task share while it runs."""

from dynamo._pregel import PregelScratchpad

__all__ = ("PregelScratchpad",)
