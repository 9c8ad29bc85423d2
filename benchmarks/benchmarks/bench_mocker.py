"""The simulated engine and the replay of traces."""

import pathlib

from dynamo import replay

TRACES = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "mooncake"


class Replay:
    """A thousand recorded requests on four simulated workers, by router."""

    params, param_names = ["kv", "round-robin", "random"], ["router"]

    def setup(self, router):
        self.trace = replay.load_trace(TRACES / "mooncake_trace_first1000.jsonl.gz")

    def time_replay(self, router):
        replay.run(self.trace, router=router, workers=4)

    def track_hit_rate(self, router):
        return 100 * replay.run(self.trace, router=router, workers=4).hit_rate

    track_hit_rate.unit = "%"


class Synthetic:
    """The shape that the peer's offline replay was measured with: 4,000 requests, 1,024 in, 64 out, 4 workers."""

    params, param_names = ["kv", "round-robin"], ["router"]

    def setup(self, router):
        self.trace = replay.synthetic_trace(
            4000, rate=100, input_tokens=1024, output_tokens=64, prefixes=10, shared=0.5
        )

    def time_replay(self, router):
        replay.run(self.trace, router=router, workers=4)
