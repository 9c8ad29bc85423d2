"""A tokeniser for engines without a model: every text has ids, made-up ids read as words.

ids 0..255   bytes          256..258   <eos> and chat markers          259...   words that only engines say
"""

import json
import os
import pathlib
import tempfile

from dynamo.cli.bench import WORDS

__all__ = ["WORD_IDS", "demo_tokenizer"]

SPECIAL = ["<eos>", "<|im_start|>", "<|im_end|>"]
WORD_IDS = (256 + len(SPECIAL), 256 + len(SPECIAL) + len(WORDS))  # from, to (exclusive)


def _letters() -> dict[int, str]:
    """How byte-level tokenisers write a byte: printable ones as they are, the rest from U+0100 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in plain}
    for extra, byte in enumerate(byte for byte in range(256) if byte not in letters):
        letters[byte] = chr(256 + extra)
    return letters


def _files() -> dict[str, object]:
    letters = _letters()
    vocab = {letters[byte]: byte for byte in range(256)}
    special = [
        {"id": 256 + i, "content": text, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for i, text in enumerate(SPECIAL)
    ]  # fmt: skip
    vocab |= {text: 256 + i for i, text in enumerate(SPECIAL)}
    vocab |= {letters[ord(" ")] + word: WORD_IDS[0] + i for i, word in enumerate(WORDS)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "tokenizer.json": {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
            "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
            "model": {
                "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": [],
            },
        },
        "tokenizer_config.json": {"eos_token": "<eos>"},
    }  # fmt: skip


def demo_tokenizer() -> str:
    """The folder of the tokeniser, in the user's cache; made when it is not there."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    for base in (cache, os.path.join(tempfile.gettempdir(), f"dynamo-cache-{os.getuid()}")):
        folder = pathlib.Path(base) / "dynamo" / "demo-tokenizer-1"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for name, content in _files().items():
                text = json.dumps(content, ensure_ascii=False)
                if not (folder / name).is_file() or (folder / name).read_text("utf-8") != text:
                    part = folder / f".{name}.{os.getpid()}"
                    part.write_text(text, "utf-8")
                    part.replace(folder / name)  # several workers start at once
            return str(folder)
        except OSError as error:
            reason = error
    raise reason
