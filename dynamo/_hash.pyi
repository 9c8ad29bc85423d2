from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

# Shared between the extensions; Python has no use for it.
@final
class Tokens: ...

def compute_block_hash_for_seq(
    tokens: Any,
    kv_block_size: int,
    block_mm_infos: Sequence[dict[str, Any] | None] | None = None,
    lora_name: str | None = None,
    is_eagle: bool | None = None,
    cache_namespace: str | None = None,
) -> list[int]: ...

compute_block_hash_for_seq_py = compute_block_hash_for_seq

def compute_block_hashes(
    tokens: Any,
    block_size: int,
    *,
    lora_name: str | None = None,
    cache_namespace: str | None = None,
    eagle: bool = False,
    block_mm_infos: Sequence[dict[str, Any] | None] | None = None,
) -> NDArray[np.uint64]: ...
def compute_sequence_hashes(block_hashes: Any, parent: int | None = None) -> NDArray[np.uint64]: ...
def mm_hash(identifier: str) -> int: ...
def simd() -> str: ...
