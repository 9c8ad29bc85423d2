"""The metrics of a front end, under Dynamo's names (``dynamo_frontend_...``)."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynamo._metrics import Counter, Gauge, Histogram, Registry

__all__ = ["Metrics"]

_TOKENS = [float(2**i) for i in range(0, 21)]
_TTFT = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300]
_ITL = [0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
_MS = [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 1000]
_PART = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


class Metrics:
    """Every metric as an attribute; series by label when they are needed."""

    def __init__(self, registry: "Registry", prefix: str | None = None) -> None:
        p = prefix or os.environ.get("DYN_METRICS_PREFIX") or "dynamo_frontend"
        self.registry = r = registry
        self.requests: Counter = r.counter(
            f"{p}_requests_total",
            "Requests by how they ended",
            ("model", "endpoint", "request_type", "status", "error_type"),
        )
        self.inflight: Gauge = r.gauge(f"{p}_inflight_requests", "Requests that are being answered", ("model",))
        self.queued: Gauge = r.gauge(f"{p}_queued_requests", "Requests without a first token yet", ("model",))
        self.disconnected: Gauge = r.gauge(
            f"{p}_disconnected_clients", "Clients that left before their answer was whole"
        )
        self.duration: Histogram = r.histogram(
            f"{p}_request_duration_seconds", "From the request to the end of its answer", ("model",), _TTFT
        )
        self.isl: Histogram = r.histogram(f"{p}_input_sequence_tokens", "Tokens of prompts", ("model",), _TOKENS)
        self.osl: Histogram = r.histogram(f"{p}_output_sequence_tokens", "Tokens of answers", ("model",), _TOKENS)
        self.output_tokens: Counter = r.counter(f"{p}_output_tokens_total", "Tokens of all answers", ("model",))
        self.ttft: Histogram = r.histogram(
            f"{p}_time_to_first_token_seconds", "From the request to the first token", ("model",), _TTFT
        )
        self.itl: Histogram = r.histogram(
            f"{p}_inter_token_latency_seconds", "From one token to the next", ("model",), _ITL
        )
        self.hit_rate: Histogram = r.histogram(
            f"{p}_kv_hit_rate", "Part of the prompt's blocks that the chosen worker held", ("model",), _PART
        )
        self.cached: Histogram = r.histogram(
            f"{p}_cached_tokens", "Tokens of prompts that engines found in their cache", ("model",), _TOKENS
        )
        self.tokenizer: Histogram = r.histogram(
            f"{p}_tokenizer_latency_ms", "Template and tokenisation", ("operation",), _MS
        )
        self.cache_outcome: Counter = r.counter(
            f"{p}_cache_prediction_total",
            "Cached tokens as the engine counted them against the prediction",
            ("model", "cause"),
        )
        per_model = {
            "total_kv_blocks": "Blocks of one worker's cache",
            "max_num_seqs": "Requests that one worker computes at a time",
            "max_num_batched_tokens": "Tokens of one step",
            "context_length": "Tokens of prompt and answer together",
            "kv_cache_block_size": "Tokens of a block",
            "migration_limit": "How often an answer may go on elsewhere",
        }
        self.model: dict[str, Gauge] = {
            name: r.gauge(f"{p}_model_{name}", text, ("model",)) for name, text in per_model.items()
        }
        self.workers: Gauge = r.gauge(f"{p}_model_workers", "Workers that are ready", ("model",))
        self.migrations: Counter = r.counter(
            f"{p}_model_migration_total", "Answers that went on elsewhere", ("model", "migration_type")
        )
        self.cancellations: Counter = r.counter(
            f"{p}_model_cancellation_total", "Requests whose client left", ("model", "endpoint", "request_type")
        )
        self.rejections: Counter = r.counter(
            f"{p}_model_rejection_total", "Requests that were refused because everybody is busy", ("model", "endpoint")
        )
        w = ("worker_id", "dp_rank", "worker_type")
        self.decode_blocks: Gauge = r.gauge(f"{p}_worker_active_decode_blocks", "Blocks held by running requests", w)
        self.prefill_tokens: Gauge = r.gauge(f"{p}_worker_active_prefill_tokens", "Tokens that wait for prefill", w)
        self.last_ttft: Gauge = r.gauge(f"{p}_worker_last_time_to_first_token_seconds", "Of its last request", w)
        self.last_isl: Gauge = r.gauge(f"{p}_worker_last_input_sequence_tokens", "Of its last request", w)
        self.last_itl: Gauge = r.gauge(f"{p}_worker_last_inter_token_latency_seconds", "Of its last request", w)
        self.pending: Gauge = r.gauge(
            f"{p}_router_queue_pending_requests", "Requests that wait for a worker", ("model",)
        )
        self.overhead: dict[str, Histogram] = {
            name: r.histogram(f"dynamo_router_overhead_{name}_ms", text, (), _MS)
            for name, text in (
                ("block_hashing", "Hashes of the prompt's blocks"),
                ("seq_hashing", "Hashes of the sequences that end in them"),
                ("indexer_find_matches", "Who holds them"),
                ("scheduling", "The choice and its booking"),
                ("total", "All of it, without waiting in the queue"),
            )
        }
