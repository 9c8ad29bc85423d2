"""Route with the plug-in's cost, convert with its kernel, ask the index from its C.

python setup.py build_ext --inplace && python use.py
"""

import numpy as np
import sticky

from dynamo import Tensor
from dynamo.llm import KvRouterConfig, RadixTree, compute_block_hashes, compute_sequence_hashes

ids = np.arange(64, dtype=np.uint32)
local = compute_block_hashes(ids, 16)
tree = RadixTree()
tree.apply_stored(7, compute_sequence_hashes(local), local)
print("blocks held by the best worker:", sticky.covered(tree, local))
print("a tensor of the plug-in:", sticky.ramp(4).to_numpy())
print("unpacked:", Tensor(np.array([0x1F, 0x87], np.uint8)).astype("unpack4").to_numpy())
print("a config that routes with it:", KvRouterConfig(router_cost_formula="sticky").router_cost_formula)
