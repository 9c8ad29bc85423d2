"""The decisions of the original router, replayed: same loads, same overlaps, and its choice is among our cheapest."""

import json
import pathlib

import pytest

from dynamo._router import SelectionCore
from dynamo.llm.router_config import KvRouterConfig

RECORDED = json.loads((pathlib.Path(__file__).resolve().parents[1] / "data" / "router_decisions.json").read_text())


@pytest.mark.parametrize("run", RECORDED["runs"], ids=lambda run: json.dumps(run["config"]))
def test_the_originals_choice_is_among_our_cheapest(run):
    core = SelectionCore(RECORDED["block_size"], KvRouterConfig(use_kv_events=False, **run["config"]))
    for rank in range(RECORDED["ranks"]):
        core.put_worker(1, rank, total_kv_blocks=1000, max_num_batched_tokens=8192)
    for action, name, *rest in run["steps"]:
        if action == "free":
            assert core.free(name)
        elif action == "prefill":
            assert core.prefill_done(name)
        else:
            family, kept, length, others, rank, overlap, loads = rest
            tokens = [family * 1000 + i for i in range(kept)] + [others + i for i in range(length - kept)]
            rows = {row["dp_rank"]: row for row in core.explain(tokens)}
            assert loads == [
                [i, rows[i]["prefill_tokens"], int(rows[i]["decode_blocks"]), rows[i]["active_requests"]] for i in rows
            ]
            assert rows[rank]["cost"] == pytest.approx(min(row["cost"] for row in rows.values()))
            # Where costs are equal the choice is random: follow the original's.
            assert core.pick(tokens, name, dp_rank=rank).overlap_blocks == overlap
