"""Which worker a conversation belongs to, when its worker keeps more of it than a prefix."""

from collections.abc import Iterable
from hashlib import blake2b

__all__ = ["home_of"]


def home_of(key: str, workers: Iterable[int]) -> int:
    """The worker of a key: the same for everybody who asks, and another one only if that worker is gone.

    Rendezvous hashing: each worker's draw for a key is a hash of both, the highest wins; so a worker that comes
    or goes moves its own share of the keys and no other.

    Raises
    ------
    ValueError : there is no worker
    """
    text = key.encode("utf-8", "surrogatepass")
    return max(workers, key=lambda id: (blake2b(text, digest_size=8, key=id.to_bytes(8, "little")).digest(), id))
