"""From text to token ids and back, the way the model's own engine does it.

    "Hello <eos>"  --special tokens-->  "Hello ", <eos>  --pieces-->  ids (uint32 array)

A tokeniser is made from a ``tokenizer.json`` or from the vocabulary inside a GGUF file. Text goes in once per
request; ids come back to text one by one in C, which needs only the table of `Tokenizer.table`.

Special tokens that are written out in the text (``<|im_end|>``) become that token unless ``parse_special`` is
false: chat templates write them, and engines do the same.
"""

import itertools
import json
import os
import pathlib
import re
from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, NamedTuple

from dynamo.errors import InvalidArgument, NotFound
from dynamo.llm.gguf import GGUF, is_gguf, read_gguf

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["TokenTable", "Tokenizer", "load_tokenizer"]

_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6  # tokenizer.ggml.token_type
_SPACE = "\u2581"  # how SentencePiece writes a space
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SURROGATE = re.compile("[\ud800-\udfff]")
# Tokens that end a turn in models whose metadata names only one end.
_END_NAMES = [
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>", "_<EOT>"),
    *("[EOT]", "[EOS]", "<end_of_utterance>", "<|return|>", "<|call|>", "<|end_of_text|>", "</s>"),
]


class TokenTable(NamedTuple):
    """What each id stands for, as C wants it.

    Attributes
    ----------
    data : the bytes of all tokens, one after the other; a token may be a part of a character
    ends : uint32, where the bytes of each id end
    flags : uint8, 1 for special tokens
    strip_space : a text that starts with a space loses it (the space that the tokeniser put before the text)
    """

    data: bytes
    ends: "NDArray[np.uint32]"
    flags: "NDArray[np.uint8]"
    strip_space: bool


class Tokenizer:
    """What every tokeniser can do. Make one with `load_tokenizer`.

    Attributes
    ----------
    bos_id : the token that begins a text, or None
    eos_ids : the tokens that end an answer
    special_ids : tokens that are structure, not text
    adds_bos : ``encode(add_special=True)`` puts `bos_id` first
    source : the file it was made from
    """

    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    special_ids: frozenset[int] = frozenset()
    adds_bos: bool = False
    strip_space: bool = False
    source: str = ""
    shrinks: bool = True  # a normaliser may make a text shorter before it is cut

    def __init__(self, tokens: list[bytes], ids: dict[str, int]) -> None:
        self.tokens = tokens  # id -> bytes
        self._ids = ids  # as written in the vocabulary -> id
        self._table: TokenTable | None = None
        self._longest: int | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        ends = ", ".join(str(i) for i in self.eos_ids)
        return f"<{type(self).__name__} {len(self)} tokens, bos {self.bos_id}, eos {ends or None}, {self.source}>"

    @property
    def longest(self) -> int:
        """Bytes that one token can stand for; 0: not known."""
        if self._longest is None:
            self._longest = 0 if self.shrinks else max(map(len, self.tokens), default=0)
        return self._longest

    def token_to_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary writes it."""
        return self._ids.get(token)

    def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> "NDArray[np.uint32]":
        """The ids of a text.

        Parameters
        ----------
        add_special : put the model's begin (and end) tokens around it; false for text that a chat template wrote
        parse_special : special tokens that are written out become that token

        Returns
        -------
        uint32 array, new
        """
        import numpy as np

        return np.array(self._encode(_SURROGATE.sub("\ufffd", text), add_special, parse_special), np.uint32)

    def _encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        raise NotImplementedError

    def decode(self, ids: "Iterable[int]", skip_special: bool = False) -> str:
        """The text of these ids, taken as a whole text; bytes that are not UTF-8 become U+FFFD."""
        hidden = self.special_ids if skip_special else ()
        count = len(self.tokens)
        raw = b"".join(self.tokens[i] for i in ids if i < count and i not in hidden)
        text = raw.decode("utf-8", "replace")
        return text[1:] if self.strip_space and text.startswith(" ") else text

    def table(self) -> TokenTable:
        """The table for the detokeniser in C (`dynamo._tokens.Vocab`); made once."""
        if self._table is None:
            import numpy as np

            ends = np.cumsum(np.fromiter(map(len, self.tokens), np.int64, len(self.tokens)))
            if len(ends) and ends[-1] >= 1 << 31:
                raise InvalidArgument(f"{self.source}: the vocabulary has {ends[-1]} bytes, the bound is 2^31")
            flags = np.zeros(len(self.tokens), np.uint8)
            flags[[i for i in self.special_ids if i < len(flags)]] = 1
            self._table = TokenTable(b"".join(self.tokens), ends.astype(np.uint32), flags, self.strip_space)
        return self._table


class _SpecialTokens:
    """Cuts a text at the special tokens that are written out in it.

    Longer tokens win over shorter ones wherever they are, as in llama.cpp; among equal lengths the leftmost.
    """

    def __init__(self, texts: Iterable[tuple[str, int]]) -> None:
        self.ids = {text: i for text, i in texts if text}
        self.lengths: dict[str, list[int]] = {}  # first character -> lengths, longest first
        for text in self.ids:
            lengths = self.lengths.setdefault(text[0], [])
            if len(text) not in lengths:
                lengths.append(len(text))
        for lengths in self.lengths.values():
            lengths.sort(reverse=True)
        # Where a special token may begin: its first character, and its second where it has one.
        seconds: dict[str, set[str]] = {}
        for text in self.ids:
            seconds.setdefault(text[0], set()).add(text[1:2])
        starts = [
            re.escape(first) + ("" if "" in then else f"(?=[{''.join(map(re.escape, sorted(then)))}])")
            for first, then in seconds.items()
        ]
        self.first = re.compile("|".join(starts)) if starts else None

    def split(self, text: str) -> list["str | int"]:
        if self.first is None:
            return [text] if text else []
        found: list[tuple[int, int, int]] = []  # -length, start, id
        for match in self.first.finditer(text):
            at = match.start()
            for length in self.lengths[text[at]]:
                i = self.ids.get(text[at : at + length])
                if i is not None and at + length <= len(text):
                    found.append((-length, at, i))
        if not found:
            return [text] if text else []
        found.sort()
        taken: dict[int, tuple[int, int]] = {}  # start -> end, id
        covered = bytearray(len(text))
        for minus, at, i in found:
            end = at - minus
            if not any(covered[at:end]):
                covered[at:end] = b"\1" * (end - at)
                taken[at] = (end, i)
        parts: list[str | int] = []
        last = 0
        for at in sorted(taken):
            if at > last:
                parts.append(text[last:at])
            last, i = taken[at]
            parts.append(i)
        if last < len(text):
            parts.append(text[last:])
        return parts


class _GGUFTokenizer(Tokenizer):
    """What both kinds of vocabulary inside a GGUF share: types, special tokens, what is put around a text."""

    shrinks = False

    def __init__(self, gguf: GGUF, texts: list[str], tokens: list[bytes], types: list[int], adds_bos: bool) -> None:
        super().__init__(tokens, {text: i for i, text in enumerate(texts)})
        meta, count = gguf.metadata, len(texts)

        def special(name: str, default: int | None = None) -> int | None:
            value = meta.get(f"tokenizer.ggml.{name}_token_id", default)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < count:
                return default if default is not None and default < count else None
            return value

        self.source = gguf.path
        is_spm = meta.get("tokenizer.ggml.model") == "llama"
        self.bos_id = special("bos", 1 if is_spm else None)
        eos = [special("eos", 2 if is_spm else None), special("eot"), special("eom")]
        for name in _END_NAMES:  # engines take these for the end whatever the file says of their type
            if (i := self._ids.get(name)) is not None:
                types[i] = _CONTROL
                eos.append(i)
        self.eos_ids = tuple(dict.fromkeys(i for i in eos if i is not None))
        self.special_ids = frozenset(i for i, kind in enumerate(types) if kind in (_CONTROL, _UNKNOWN))
        flag = meta.get("tokenizer.ggml.add_bos_token")
        self.adds_bos = self.bos_id is not None and (flag if isinstance(flag, bool) else adds_bos)
        flag = meta.get("tokenizer.ggml.add_eos_token")
        self.adds_eos = bool(self.eos_ids) and eos[0] is not None and flag is True
        user = [(text, i) for i, text in enumerate(texts) if types[i] == _USER]
        control = [(text, i) for i, text in enumerate(texts) if types[i] in (_CONTROL, _UNKNOWN)]
        self._written, self._user = _SpecialTokens(user + control), _SpecialTokens(user)

    def _encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        ids: list[int] = []
        if add_special and self.adds_bos and self.bos_id is not None:
            ids.append(self.bos_id)
        after_special = True
        for part in (self._written if parse_special else self._user).split(text):
            if isinstance(part, int):
                ids.append(part)
                after_special = True
            else:
                self._pieces(part, after_special, ids)
                after_special = False
        if add_special and self.adds_eos:
            ids.append(self.eos_ids[0])
        return ids

    def _pieces(self, text: str, after_special: bool, out: list[int]) -> None:
        raise NotImplementedError


class SentencePieceTokenizer(_GGUFTokenizer):
    """The vocabulary of a GGUF with scores: the pair whose union has the best score is joined first.

    Joining never crosses a space, unless some piece of the vocabulary has one inside; so a text is cut into words
    and the ids of a word are remembered. What no piece covers becomes bytes.
    """

    MAX_CACHED = 1 << 16  # words remembered; then all are forgotten
    MAX_WORD = 48  # longer ones are not remembered

    def __init__(self, gguf: GGUF, texts: list[str], types: list[int]) -> None:
        tokens = [_spm_bytes(text, kind) for text, kind in zip(texts, types, strict=True)]
        super().__init__(gguf, texts, tokens, types, adds_bos=True)
        scores = gguf.metadata.get("tokenizer.ggml.scores")
        self._scores: list[float] = [0.0] * len(texts) if scores is None else scores.tolist()
        if len(self._scores) != len(texts):
            raise InvalidArgument(f"{gguf.path}: {len(texts)} tokens but {len(self._scores)} scores")
        flag = gguf.metadata.get("tokenizer.ggml.add_space_prefix")
        self._prefix = flag if isinstance(flag, bool) else True
        self.strip_space = self._prefix
        unknown = gguf.metadata.get("tokenizer.ggml.unknown_token_id", 0)
        plain = [self._ids.get(chr(b), unknown) if b < 128 else unknown for b in range(256)]
        self._bytes = [self._ids.get(f"<0x{b:02X}>", plain[b]) for b in range(256)]
        # Characters that stand before a space inside some piece: there a word must not end.
        joined = {a for text in texts if _SPACE in text for a, b in itertools.pairwise(text) if b == _SPACE}
        inside = "".join(re.escape(c) for c in sorted(joined - {_SPACE}))
        self._cut = re.compile(f"(?<=[^{_SPACE}{inside}])(?={_SPACE})")
        self._cache: dict[str, list[int]] = {}

    def _pieces(self, text: str, after_special: bool, out: list[int]) -> None:
        if self._prefix and after_special:
            text = " " + text
        cache = self._cache
        for word in self._cut.split(text.replace(" ", _SPACE)):
            ids = cache.get(word)
            if ids is None:
                ids = self._join(word)
                if len(word) <= self.MAX_WORD:
                    if len(cache) >= self.MAX_CACHED:
                        cache.clear()
                    cache[word] = ids
            out += ids

    def _join(self, word: str) -> list[int]:
        known = self._ids.get
        count = len(word)
        if count == 1:
            whole = known(word)
            return [whole] if whole is not None else self._as_bytes(word)
        scores = self._scores
        parts: list[str] = list(word)  # '' once a part was joined to the one on its left
        before, after = list(range(-1, count - 1)), list(range(1, count + 1))
        # best score first, then leftmost; an entry is stale when either part has changed since
        heap: list[tuple[float, int, int, str]] = []
        for left in range(count - 1):
            union = word[left : left + 2]
            i = known(union)
            if i is not None:
                heap.append((-scores[i], left, left + 1, union))
        heapify(heap)
        while heap:
            _, left, right, union = heappop(heap)
            if not parts[left] or not parts[right] or len(parts[left]) + len(parts[right]) != len(union):
                continue
            parts[left], parts[right] = union, ""
            follow = after[left] = after[right]
            if follow < count:
                before[follow] = left
                longer = union + parts[follow]
                i = known(longer)
                if i is not None:
                    heappush(heap, (-scores[i], left, follow, longer))
            lead = before[left]
            if lead >= 0:
                longer = parts[lead] + union
                i = known(longer)
                if i is not None:
                    heappush(heap, (-scores[i], lead, left, longer))
        ids: list[int] = []
        for part in parts:
            if part:
                i = known(part)
                if i is None:
                    ids += self._as_bytes(part)
                else:
                    ids.append(i)
        return ids

    def _as_bytes(self, text: str) -> list[int]:
        return [self._bytes[b] for b in text.encode("utf-8", "surrogateescape")]


_CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER_LOWER = (
    r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+%s|"
    r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))+((?=[\p{L}])([^A-Z]))*%s"
)
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _TAIL
# How each family of models cuts a text into words: the value of tokenizer.ggml.pre -> regexes, applied in turn.
_WORDS: dict[str, list[str]] = {
    "default": [
        r"[\p{P}\$\+<=>\^~\|]+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
        r"\p{N}+",
        r"[0-9][0-9][0-9]",
    ],
    "gpt-2": [_GPT2],
    "llama-bpe": [_LLAMA3],
    "qwen2": [_LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")],
    "starcoder": [r"\p{N}", _GPT2],
    "tekken": [(_UPPER_LOWER % ("", "")) + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _TAIL],
    "gpt-4o": [
        (_UPPER_LOWER % (_CONTRACTIONS + "?", _CONTRACTIONS + "?")) + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _TAIL
    ],
    "deepseek-v3": [
        r"\p{N}{1,3}",
        "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
        + _TAIL,
    ],
}
_SAME_WORDS = {
    **dict.fromkeys(
        ["phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "roberta-bpe", "mpt", "olmo", "jais"], "gpt-2"
    ),
    **dict.fromkeys(["llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"], "llama-bpe"),
    **dict.fromkeys(["deepseek-r1-qwen", "megrez", "hunyuan-dense"], "qwen2"),
    **dict.fromkeys(["refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"], "starcoder"),
    **dict.fromkeys(["llama4", "kanana2"], "gpt-4o"),
}
_WHOLE_WORDS = {"llama-bpe", "tekken"}  # a word that is in the vocabulary is taken whole, whatever the merges say


class BytePairTokenizer(_GGUFTokenizer):
    """The vocabulary of a GGUF with merges, over bytes written as letters; the joining is done by `tokenizers`."""

    def __init__(self, gguf: GGUF, texts: list[str], types: list[int]) -> None:
        given = str(gguf.metadata.get("tokenizer.ggml.pre", "default"))
        words = _SAME_WORDS.get(given, given)
        if words not in _WORDS:
            raise InvalidArgument(
                f"{gguf.path}: no rule is known for cutting words the way of {given!r} (tokenizer.ggml.pre); "
                f"known are {', '.join(sorted([*_WORDS, *_SAME_WORDS]))}; put the tokenizer.json beside the file"
            )
        tokens = [_bpe_bytes(text, kind) for text, kind in zip(texts, types, strict=True)]
        super().__init__(gguf, texts, tokens, types, adds_bos=words in _WHOLE_WORDS)
        merges = gguf.metadata.get("tokenizer.ggml.merges")
        if not isinstance(merges, list):
            raise InvalidArgument(f"{gguf.path}: a vocabulary of kind 'gpt2' needs tokenizer.ggml.merges")
        hf = _tokenizers()
        pairs = []
        for merge in merges:
            # a space is never part of a merge, except as the separator: the first one that is not at the front
            left, _, right = merge.partition(" ") if not merge.startswith(" ") else (" ", "", merge[2:])
            if left in self._ids and right in self._ids and left + right in self._ids:
                pairs.append((left, right))
        model = hf.models.BPE(dict(self._ids), pairs, ignore_merges=words in _WHOLE_WORDS)
        self._bpe = hf.Tokenizer(model)
        splits = [hf.pre_tokenizers.Split(hf.Regex(regex), "isolated") for regex in _WORDS[words]]
        byte_level = hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._bpe.pre_tokenizer = hf.pre_tokenizers.Sequence([*splits, byte_level])

    def _pieces(self, text: str, after_special: bool, out: list[int]) -> None:
        out += self._bpe.encode(text, add_special_tokens=False).ids


class HuggingFaceTokenizer(Tokenizer):
    """A ``tokenizer.json``, run by `tokenizers`; the other files of its folder say which tokens end an answer."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        hf = _tokenizers()
        file = pathlib.Path(path)
        try:
            document = json.loads(file.read_bytes())
            self._hf = hf.Tokenizer.from_file(str(file))
        except OSError:
            raise
        except Exception as error:
            raise InvalidArgument(f"{file}: not a tokenizer.json that can be used: {error}") from error
        self._hf.no_truncation()
        self._hf.no_padding()
        vocab: dict[str, int] = self._hf.get_vocab(with_added_tokens=True)
        largest = max(vocab.values(), default=-1)
        if largest >= 1 << 24:
            raise InvalidArgument(f"{file}: the largest token id is {largest}, the bound is {(1 << 24) - 1}")
        added = dict(self._hf.get_added_tokens_decoder())
        kinds = _types_in(document.get("decoder")) | _types_in(document.get("pre_tokenizer"))
        written = [""] * (largest + 1)
        for text, i in vocab.items():
            written[i] = text
        if "ByteLevel" in kinds:
            tokens = [_bpe_bytes(text, _NORMAL) for text in written]
        elif "WordPiece" in kinds:
            tokens = [(text[2:] if text.startswith("##") else " " + text).encode() for text in written]
            self.strip_space = True
        else:
            falls_back = "ByteFallback" in kinds or bool((document.get("model") or {}).get("byte_fallback"))
            is_byte = _BYTE_TOKEN.fullmatch if falls_back else lambda text: None
            tokens = [_spm_bytes(text, _BYTE if is_byte(text) else _NORMAL) for text in written]
            self.strip_space = "Strip" in kinds or "Metaspace" in kinds
        for i, token in added.items():
            tokens[i] = token.content.encode()
        super().__init__(tokens, vocab)
        self.source = str(file)
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        self._read_neighbours(file.parent)
        self.adds_bos = self.bos_id is not None and self.bos_id in self._hf.encode("", add_special_tokens=True).ids

    def _read_neighbours(self, folder: pathlib.Path) -> None:
        config, generation, tokens = (
            _json_object(folder / name) for name in ("config.json", "generation_config.json", "tokenizer_config.json")
        )

        def named(key: str) -> int | None:
            value = tokens.get(key)
            value = value.get("content") if isinstance(value, dict) else value
            return self._ids.get(value) if isinstance(value, str) else None

        def numbers(value: object) -> list[int]:
            values = value if isinstance(value, list) else [value]
            return [v for v in values if isinstance(v, int) and not isinstance(v, bool) and 0 <= v < len(self.tokens)]

        bos = [i for i in (named("bos_token"),) if i is not None] or numbers(config.get("bos_token_id"))
        self.bos_id = bos[0] if bos else None
        ends = numbers(generation.get("eos_token_id")) or numbers(config.get("eos_token_id"))
        one = named("eos_token")
        ends = [*ends, *([one] if one is not None else [])]
        if not ends:
            ends = [i for name in (*_END_NAMES, "<eos>") if (i := self._ids.get(name)) in self.special_ids]
        self.eos_ids = tuple(dict.fromkeys(ends))

    def _encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        if parse_special:
            ids: list[int] = self._hf.encode(text, add_special_tokens=add_special).ids
            return ids
        previous = self._hf.encode_special_tokens
        self._hf.encode_special_tokens = True
        try:
            return list(self._hf.encode(text, add_special_tokens=add_special).ids)
        finally:
            self._hf.encode_special_tokens = previous


def load_tokenizer(path: "str | os.PathLike[str]") -> Tokenizer:
    """The tokeniser of a model: a ``tokenizer.json``, a GGUF file, or a folder that has one of them.

    Raises
    ------
    NotFound : there is no tokeniser there
    InvalidArgument : it cannot be used; the message says why
    """
    place = pathlib.Path(path)
    if place.is_dir():
        if (place / "tokenizer.json").is_file():
            return HuggingFaceTokenizer(place / "tokenizer.json")
        found = sorted(place.glob("*.gguf"))
        if not found:
            raise NotFound(f"{place}: no tokeniser: neither a tokenizer.json nor a .gguf file is in this folder")
        place = found[0]
    if not place.exists():
        raise NotFound(f"{place}: no tokeniser: there is no such file")
    if not is_gguf(place):
        return HuggingFaceTokenizer(place)
    return gguf_tokenizer(read_gguf(place))


def gguf_tokenizer(gguf: GGUF) -> Tokenizer:
    """The tokeniser inside a GGUF file; where its kind is not known here, a tokenizer.json beside the file."""
    meta = gguf.metadata
    texts, kind = meta.get("tokenizer.ggml.tokens"), meta.get("tokenizer.ggml.model")
    beside = pathlib.Path(gguf.path).parent / "tokenizer.json"
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        if beside.is_file():
            return HuggingFaceTokenizer(beside)
        raise NotFound(f"{gguf.path}: no tokeniser: the file has no vocabulary (tokenizer.ggml.tokens)")
    given = meta.get("tokenizer.ggml.token_type")
    types = [_NORMAL] * len(texts) if given is None else [int(t) for t in given]
    if len(types) != len(texts):
        raise InvalidArgument(f"{gguf.path}: {len(texts)} tokens but {len(types)} token types")
    try:
        if kind == "llama":
            return SentencePieceTokenizer(gguf, texts, types)
        if kind == "gpt2":
            return BytePairTokenizer(gguf, texts, types)
        raise InvalidArgument(
            f"{gguf.path}: a vocabulary of kind {kind!r} (tokenizer.ggml.model) is not supported, only "
            f"'llama' and 'gpt2' are; put the model's tokenizer.json beside the file"
        )
    except InvalidArgument:
        if beside.is_file():
            return HuggingFaceTokenizer(beside)
        raise


def _spm_bytes(text: str, kind: int) -> bytes:
    if kind == _BYTE and (match := _BYTE_TOKEN.fullmatch(text)):
        return bytes([int(match[1], 16)])
    if kind == _UNUSED:
        return b""
    if kind == _NORMAL:
        text = text.replace(_SPACE, " ")
    return text.encode("utf-8", "surrogateescape")


def _letters() -> dict[str, int]:
    """The letters by which byte-level vocabularies write bytes that have none of their own."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {chr(b): b for b in own}
    letters.update({chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in own)})
    return letters


_BYTE_OF_LETTER = _letters()


def _bpe_bytes(text: str, kind: int) -> bytes:
    if kind == _UNUSED:
        return b""
    if kind != _NORMAL:
        return text.encode("utf-8", "surrogateescape")
    try:
        return bytes([_BYTE_OF_LETTER[c] for c in text])
    except KeyError:  # a token that was added as plain text
        return text.encode("utf-8", "surrogateescape")


def _types_in(node: object) -> set[str]:
    """The names of all parts of a pre-tokeniser or decoder description."""
    if isinstance(node, dict):
        found = {str(node["type"])} if "type" in node else set()
        for value in node.values():
            found |= _types_in(value)
        return found
    if isinstance(node, list):
        return set().union(*(_types_in(item) for item in node)) if node else set()
    return set()


def _json_object(path: pathlib.Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _tokenizers() -> Any:
    try:
        import tokenizers  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise InvalidArgument("this tokeniser needs the package 'tokenizers': pip install 'dynamo[serve]'") from error
    return tokenizers
