"""What it costs to cross from Python into C: an attribute, a method without work, an array argument, beside peers.

    python benchmarks/bench_border.py [--json FILE]

Nanoseconds above an empty loop, the best of many short rounds, all peers in turns within one run. A plain Cython
class is compiled into a temporary folder for the comparison.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import timeit

import msgspec
import numpy as np

from dynamo import Tensor, Token, TokenBatch
from dynamo._hash import compute_block_hashes
from dynamo.llm import RadixTree

PLAIN = """
# cython: language_level=3
cdef class Plain:
    cdef readonly unsigned int id
    cdef readonly str text
    def __init__(self, unsigned int id, str text):
        self.id = id
        self.text = text
    def noop(self):
        pass
    def take(self, const unsigned int[::1] ids):
        return ids.shape[0]
"""


class Record(msgspec.Struct, gc=False):
    id: int
    position: int
    text: str | None = None
    logprob: float | None = None
    is_special: bool = False


def plain_cython():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="border"))
    (folder / "plain_border.pyx").write_text(PLAIN)
    build = (
        "from setuptools import setup; from Cython.Build import cythonize;"
        "setup(ext_modules=cythonize('plain_border.pyx'))"
    )
    subprocess.run(
        [sys.executable, "-c", build, "-q", "build_ext", "--inplace"], cwd=folder, check=True, capture_output=True
    )
    sys.path.insert(0, str(folder))
    import plain_border

    return plain_border.Plain


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    plain = plain_cython()(7, "x")
    token, record = Token(7, 1, "x", -0.5), Record(7, 1, "x", -0.5)
    batch = TokenBatch.from_tokens([Token(i, i, " token", -0.5) for i in range(1000)])
    ids = np.arange(16, dtype=np.uint32)
    names = {
        "token": token, "record": record, "plain": plain, "batch": batch, "ids": ids, "tensor": Tensor([1.0, 2.0]),
        "tree": RadixTree(), "empty": np.zeros(0, np.uint64), "array": np.ones(2, np.float32), "view": memoryview,
        "hashes": compute_block_hashes, "Token": Token, "Record": Record, "encoded": batch.encode(),
        "token_bytes": token.encode(), "decode": TokenBatch.decode, "numbers": list(range(1000, 21000)),
    }  # fmt: skip
    rows = [
        ("attribute", "Token.id", "token.id"),
        ("attribute", "Token.text", "token.text"),
        ("attribute", "Token.logprob", "token.logprob"),
        ("attribute", "msgspec.Struct.id", "record.id"),
        ("attribute", "plain Cython int", "plain.id"),
        ("attribute", "plain Cython str", "plain.text"),
        ("attribute", "numpy ndim", "array.ndim"),
        ("attribute", "numpy shape", "array.shape"),
        ("attribute", "Tensor.ndim", "tensor.ndim"),
        ("attribute", "Tensor.dtype", "tensor.dtype"),
        ("method without work", "Token.is_eos()", "token.is_eos()"),
        ("method without work", "TokenBatch.is_empty()", "batch.is_empty()"),
        ("method without work", "len(RadixTree)", "len(tree)"),
        ("method without work", "plain Cython noop()", "plain.noop()"),
        ("method without work", "numpy item(0)", "array.item(0)"),
        ("array in", "compute_block_hashes(16 ids)", "hashes(ids, 16)"),
        ("array in", "RadixTree.find_matches(0 hashes)", "tree.find_matches(empty)"),
        ("array in", "plain Cython memoryview argument", "plain.take(ids)"),
        ("array in", "numpy sum of 2", "array.sum()"),
        ("array out", "TokenBatch.ids", "batch.ids"),
        ("array out", "memoryview(Tensor)", "view(tensor)"),
        ("array out", "memoryview(numpy)", "view(array)"),
        ("make", "Token", "Token(7, 1, ' token', -0.5)"),
        ("make", "msgspec.Struct(gc=False)", "Record(7, 1, ' token', -0.5)"),
        ("bytes", "Token.encode()", "token.encode()"),
        ("bytes", "Token.decode()", "Token.decode(token_bytes)"),
    ]
    loops = 20000
    code = {label: timeit.Timer(f"for _ in rounds: {what}", globals={**names, "rounds": range(loops)},
                                timer=time.process_time) for _, label, what in rows}  # fmt: skip
    code[""] = timeit.Timer("for _ in rounds: pass", globals={"rounds": range(loops)}, timer=time.process_time)
    best = dict.fromkeys(code, float("inf"))
    for _ in range(options.rounds):
        for label, timer in code.items():
            best[label] = min(best[label], timer.timeit(1) / loops * 1e9)
    result = []
    for kind, label, _ in rows:
        result.append({"kind": kind, "what": label, "ns": round(max(0.0, best[label] - best[""]), 1)})
    keep = {"Token, made and kept": "[Token(i, i, ' token', -0.5) for i in numbers]",
            "msgspec.Struct, made and kept": "[Record(i, i, ' token', -0.5) for i in numbers]"}  # fmt: skip
    for label, what in keep.items():
        took = min(timeit.repeat(what, globals=names, number=1, repeat=options.rounds, timer=time.process_time))
        result.append({"kind": "make", "what": label, "ns": round(took / 20000 * 1e9, 1)})
    for label, what in {"encode": "batch.encode()", "decode": "decode(encoded)", "tokens()": "batch.tokens()"}.items():
        took = min(timeit.repeat(what, globals=names, number=20, repeat=options.rounds, timer=time.process_time)) / 20
        result.append({"kind": "batch of 1000", "what": f"TokenBatch {label}, per token", "ns": round(took / 1e-6, 1)})
    for row in result:
        print(f"{row['kind']:20} {row['what']:36} {row['ns']:8.1f} ns")
    print(f"{'':20} {'an empty loop, taken off above':36} {best['']:8.1f} ns")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
