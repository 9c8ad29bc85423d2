"""Replay recorded traces through a router and simulated workers, faster than they happened.

>>> from dynamo import replay
>>> trace = replay.load_trace("conversation_trace.jsonl.gz")      # doctest: +SKIP
>>> replay.compare(trace, workers=4)                              # doctest: +SKIP
"""

from dynamo import _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    {
        "Trace": "dynamo.replay.trace",
        "load_trace": "dynamo.replay.trace",
        "synthetic_trace": "dynamo.replay.trace",
        "Comparison": "dynamo.replay.simulate",
        "Result": "dynamo.replay.simulate",
        "compare": "dynamo.replay.simulate",
        "run": "dynamo.replay.simulate",
    },
)
