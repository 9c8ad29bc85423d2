"""Tiny models that the tests make for themselves: random weights, a real file, real loading and caching.

    python tests/tiny_gguf.py OUT.gguf [--vocab spm|bpe] [--noisy]

A channel of the embedding is the same for every token and untouched by the layers, so a row of the output
matrix can carry a bias: the model writes only whole characters and never ends by itself, unless it is made
`noisy` (any token, half characters too) or with an `eos_bias`. The text is noise all the same.
"""

import argparse
import collections
import itertools
import os
import pathlib
import struct
from typing import Any

import numpy as np
import pytest

CORPUS = """The quick brown fox jumps over the lazy dog. The capital of France is Paris, and the river is the Seine.
Say hello to Ann. What is the weather like today? It is raining, it is pouring, the old man is snoring.
def main(argument):\n    for index in range(10):\n        print(index, argument)\n    return None\n
Größe, Straße, naïve façade, Ångström, señor, čeština, łódź. Ελληνική γλώσσα. Русский язык, привет, как дела.
日本語のテキスト、東京は日本の首都です。中文文本在这里，北京是中国的首都。한국어 텍스트 서울은 대한민국의 수도입니다.
שלום עולם. مرحبا بالعالم. नमस्ते दुनिया। สวัสดีชาวโลก 0123456789 3.14159 1,000,000 aaaaaaaa ======== --------
"""
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10


def _string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<IB", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", U32, value)
    if isinstance(value, float):
        return struct.pack("<If", F32, value)
    if isinstance(value, str | bytes):
        return struct.pack("<I", STRING) + _string(value)
    head = struct.pack("<I", ARRAY)
    if isinstance(value[0], str | bytes):
        return head + struct.pack("<IQ", STRING, len(value)) + b"".join(_string(text) for text in value)
    kind, dtype = (F32, "<f4") if isinstance(value[0], float) else (I32, "<i4")
    return head + struct.pack("<IQ", kind, len(value)) + np.asarray(value, dtype).tobytes()


def write_gguf(path: os.PathLike[str] | str, metadata: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """A GGUF version 3 file of float32 tensors."""
    out = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        out += [_string(key), _value(value)]
    offset, blobs = 0, []
    for name, tensor in tensors.items():
        shape = tensor.shape[::-1]
        out += [_string(name), struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset)]
        blob = tensor.astype("<f4").tobytes()
        blobs.append(blob + bytes(-len(blob) % 32))
        offset += len(blobs[-1])
    head = b"".join(out)
    pathlib.Path(path).write_bytes(head + bytes(-len(head) % 32) + b"".join(blobs))


def spm_vocab(pieces: int = 500) -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores and types like SentencePiece's; neighbours in rank share a score, so ties happen."""
    text = CORPUS.replace(" ", "\u2581")
    counts = collections.Counter(text[i : i + n] for n in range(2, 9) for i in range(len(text) - n + 1))
    long = [p for p, count in counts.most_common() if count > 1 and "\n" not in p and "\u2581" not in p[1:]][:pieces]
    long += ["\u2581\u2581", "\u2581\u2581\u2581\u2581", "aa", "aaa", "aaaa", "<s", "s>"]
    letters = sorted(set(text) - {"\n", "日", "Å"})  # those left out fall back to their bytes
    tokens = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"] + [f"<0x{i:02X}>" for i in range(256)]
    types = [UNKNOWN, CONTROL, CONTROL, CONTROL, CONTROL] + [BYTE] * 256
    scores = [0.0] * len(tokens)
    for rank, piece in enumerate([*dict.fromkeys(long), *letters]):
        tokens.append(piece)
        scores.append(-float(rank // 2))
        types.append(NORMAL)
    for piece, kind in (("<tool>", USER), ("\n\n", USER), ("[unused]", UNUSED)):
        tokens.append(piece)
        scores.append(-1000.0)
        types.append(kind)
    return tokens, scores, types


def bpe_vocab(merges: int = 400) -> tuple[list[str], list[str], list[int]]:
    """Tokens, merges and types like those of a byte-level BPE, learnt from CORPUS."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letter = {b: chr(b) for b in printable}
    letter.update({b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in letter)})
    words = collections.Counter(CORPUS.replace(" ", "\n ").split("\n"))
    split = {w: [letter[b] for b in w.encode()] for w in words if w}
    tokens, learnt = [letter[b] for b in range(256)], []
    for _ in range(merges):
        pairs: collections.Counter[tuple[str, str]] = collections.Counter()
        for word, parts in split.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        learnt.append(f"{best[0]} {best[1]}")
        tokens.append(best[0] + best[1])
        for parts in split.values():
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == best:
                    parts[i : i + 2] = [best[0] + best[1]]
                i += 1
    tokens = list(dict.fromkeys(tokens))
    types = [NORMAL] * len(tokens)
    for special in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        tokens.append(special)
        types.append(CONTROL)
    return tokens, learnt, types


def make(
    path: os.PathLike[str] | str,
    vocab: str = "spm",
    noisy: bool = False,
    eos_bias: float = -100.0,
    context: int = 8192,
    **metadata: Any,
) -> None:
    """Write a llama of two layers; further keyword arguments (dots as __) overrule its metadata."""
    width, layers, heads, inner = 64, 2, 4, 128
    meta: dict[str, Any] = {
        "general.architecture": "llama",
        "general.name": "tiny",
        "llama.context_length": context,
        "llama.embedding_length": width,
        "llama.block_count": layers,
        "llama.feed_forward_length": inner,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": width // heads,
        "general.file_type": 0,
        "tokenizer.chat_template": TEMPLATE,
    }
    if vocab == "spm":
        tokens, scores, types = spm_vocab()
        meta |= {"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": scores}
        meta |= {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2}
        meta |= {"tokenizer.ggml.unknown_token_id": 0}
        eos = 2
    else:
        tokens, merges, types = bpe_vocab()
        eos = tokens.index("<|endoftext|>")
        meta |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.merges": merges}
        meta |= {"tokenizer.ggml.bos_token_id": eos, "tokenizer.ggml.eos_token_id": eos}
        meta |= {"tokenizer.ggml.add_bos_token": False}
    meta |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    meta |= {key.replace("__", "."): value for key, value in metadata.items()}
    meta = {key: value for key, value in meta.items() if value is not None}

    random = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype("f4") * 0.05

    embedding, output = weights(len(tokens), width) * 6, weights(len(tokens), width) * 6
    embedding[:, 0], output[:, 0] = 1.0, 0.0
    if not noisy:
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True)):
            partial = kind != NORMAL or (vocab == "bpe" and not token.replace("\u0120", "").isascii())
            output[i, 0] = -100.0 if partial else 0.0
        output[eos, 0] = eos_bias
    tensors = {"token_embd.weight": embedding, "output_norm.weight": np.ones(width), "output.weight": output}
    for i in range(layers):
        block = f"blk.{i}."
        tensors[block + "attn_norm.weight"] = tensors[block + "ffn_norm.weight"] = np.ones(width)
        for part in "qkv":
            tensors[f"{block}attn_{part}.weight"] = weights(width, width) * 6
        tensors[block + "attn_output.weight"] = weights(width, width) * 6
        for part in ("gate", "up"):
            tensors[f"{block}ffn_{part}.weight"] = weights(inner, width)
        tensors[block + "ffn_down.weight"] = weights(width, inner)
        tensors[block + "attn_output.weight"][0] = tensors[block + "ffn_down.weight"][0] = 0.0  # the untouched channel
    write_gguf(path, meta, tensors)


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A model with a SentencePiece vocabulary."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    make(path)
    return path


@pytest.fixture(scope="session")
def tiny_bpe_gguf(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A model with a byte-level BPE vocabulary."""
    path = tmp_path_factory.mktemp("tiny") / "tiny-bpe.gguf"
    make(path, "bpe")
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a tiny model with random weights.")
    parser.add_argument("out")
    parser.add_argument("--vocab", choices=["spm", "bpe"], default="spm")
    parser.add_argument("--noisy", action="store_true", help="let it write half characters and end by itself")
    parser.add_argument("--context", type=int, default=8192, help="context length in tokens")
    given = parser.parse_args()
    make(given.out, given.vocab, given.noisy, context=given.context)
