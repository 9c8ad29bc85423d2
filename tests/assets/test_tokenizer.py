"""Tokenisers: token for token what the engine does, on strings in many scripts."""

import http.client
import json
import random

import numpy as np
import pytest

from dynamo._tokens import Vocab
from dynamo.errors import InvalidArgument, NotFound
from dynamo.llm.tokenizer import _SpecialTokens, load_tokenizer
from tests import tiny_gguf as tiny
from tests.assets.strings import strings


class EngineTokenizer:
    """The engine's own tokeniser, through its loopback port."""

    def __init__(self, path):
        xllamacpp = pytest.importorskip("xllamacpp")
        params = xllamacpp.CommonParams()
        params.model.path, params.n_parallel, params.n_ctx, params.port = str(path), 1, 256, 0
        params.hostnames, params.verbosity, params.warmup = ["127.0.0.1"], -1, False
        self.server = xllamacpp.Server(params)
        self.connection = http.client.HTTPConnection(self.server.listening_address.split("//")[1], timeout=60)

    def encode(self, text, add_special=True, parse_special=True):
        body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        self.connection.request("POST", "/tokenize", json.dumps(body), {"Content-Type": "application/json"})
        return json.loads(self.connection.getresponse().read())["tokens"]


def disagreements(path, texts, add=(True, False), parse=(True, False)):
    engine, ours = EngineTokenizer(path), load_tokenizer(path)
    return [
        (text, a, p, engine.encode(text, a, p), ours.encode(text, a, p).tolist())
        for a in add
        for p in parse
        for text in texts
        if engine.encode(text, a, p) != ours.encode(text, a, p).tolist()
    ]


def test_spm_vocabulary_agrees_with_the_engine_on_a_thousand_strings(tiny_gguf):
    assert disagreements(tiny_gguf, strings(), add=[True]) == []
    assert disagreements(tiny_gguf, strings(100), add=[False]) == []


def test_bpe_vocabulary_agrees_with_the_engine_on_a_thousand_strings(tiny_bpe_gguf):
    assert disagreements(tiny_bpe_gguf, strings(), add=[True]) == []
    assert disagreements(tiny_bpe_gguf, strings(100), add=[False]) == []


PRES = ["default", "gpt-2", "llama-bpe", "qwen2", "starcoder", "smollm", "tekken", "gpt-4o", "deepseek-v3", "olmo"]


@pytest.mark.parametrize("pre", PRES)
def test_words_are_cut_as_the_engine_cuts_them(pre, tmp_path):
    tiny.make(tmp_path / "m.gguf", "bpe", tokenizer__ggml__pre=pre, tokenizer__ggml__add_bos_token=None)
    assert disagreements(tmp_path / "m.gguf", strings(300), parse=[True]) == []


def test_a_vocabulary_without_space_prefix_agrees_with_the_engine(tmp_path):
    tiny.make(tmp_path / "m.gguf", tokenizer__ggml__add_space_prefix=False, tokenizer__ggml__add_eos_token=True)
    assert disagreements(tmp_path / "m.gguf", strings(200)) == []


@pytest.mark.parametrize("fixture", ["tiny_gguf", "tiny_bpe_gguf"])
def test_text_survives_encode_and_decode(fixture, request):
    tokenizer = load_tokenizer(request.getfixturevalue(fixture))
    for text in strings(200):
        if not any(piece in text for piece in ("\u2581", "[unused]", "<tool>", "\n\n")):
            assert tokenizer.decode(tokenizer.encode(text, add_special=False, parse_special=False)) == text


def test_ids_are_uint32_and_the_table_feeds_the_detokeniser(tiny_gguf):
    tokenizer = load_tokenizer(tiny_gguf)
    ids = tokenizer.encode("Hello 日本")
    assert ids.dtype == np.uint32 and ids[0] == tokenizer.bos_id == 1
    table = tokenizer.table()
    assert table.data[table.ends[ids[1] - 1] : table.ends[ids[1]]] == tokenizer.tokens[ids[1]]
    assert np.flatnonzero(table.flags).tolist() == sorted(tokenizer.special_ids)
    vocab = Vocab(tokenizer.tokens, tokenizer.special_ids, strip_leading_space=table.strip_space)
    assert vocab[int(ids[1])] == tokenizer.tokens[ids[1]] and vocab.is_special(1)


def test_lone_surrogates_become_the_replacement_character(tiny_gguf, tiny_bpe_gguf):
    for path in (tiny_gguf, tiny_bpe_gguf):
        tokenizer = load_tokenizer(path)
        assert tokenizer.encode("a\ud800b").tolist() == tokenizer.encode("a\ufffdb").tolist()


def test_special_tokens_are_cut_longest_first_like_the_naive_way():
    texts = ["<a>", "<a><b>", "<b>", "ab", "b<", "<", "aab"]
    cutter = _SpecialTokens((text, i) for i, text in enumerate(texts))

    def naive(text):
        parts = [text]
        for special in sorted(texts, key=len, reverse=True):
            done = []
            for part in parts:
                pieces = part.split(special) if isinstance(part, str) else [part]
                done += [x for piece in pieces for x in (texts.index(special), piece)][1:]
            parts = [part for part in done if part != ""]
        return parts

    pick = random.Random(1)
    for _ in range(2000):
        text = "".join(pick.choice("<>ab") for _ in range(pick.randrange(12)))
        longest = [len(t) for t in texts if t in text]
        if len(set(longest)) == len(longest):  # equal lengths that overlap have no natural order
            assert cutter.split(text) == naive(text), text


def test_what_is_not_a_tokeniser_is_refused_with_its_reason(tmp_path, tiny_gguf):
    with pytest.raises(NotFound, match=r"neither a tokenizer\.json nor"):
        load_tokenizer(tmp_path)
    with pytest.raises(NotFound, match="no such file"):
        load_tokenizer(tmp_path / "none")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidArgument, match=r"not a tokenizer\.json"):
        load_tokenizer(tmp_path)
    tiny.make(tmp_path / "t5.gguf", tokenizer__ggml__model="t5", tokenizer__ggml__scores=[1.0])
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InvalidArgument, match=r"kind 't5'.*tokenizer\.json beside"):
        load_tokenizer(tmp_path / "t5.gguf")
    tiny.make(tmp_path / "bad.gguf", tokenizer__ggml__scores=[1.0, 2.0])
    with pytest.raises(InvalidArgument, match="but 2 scores"):
        load_tokenizer(tmp_path / "bad.gguf")
    tiny.make(tmp_path / "pre.gguf", "bpe", tokenizer__ggml__pre="martian")
    with pytest.raises(InvalidArgument, match="martian"):
        load_tokenizer(tmp_path / "pre.gguf")
    tiny.make(tmp_path / "none.gguf", tokenizer__ggml__tokens=None)
    with pytest.raises(NotFound, match="no vocabulary"):
        load_tokenizer(tmp_path / "none.gguf")


def byte_level(hf):
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = hf.decoders.ByteLevel()
    return tokenizer, hf.trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<s>", "<|im_end|>"]
    )


def sentence_piece(hf):
    tokenizer = hf.Tokenizer(hf.models.BPE(byte_fallback=True, unk_token="<unk>"))
    written = [hf.normalizers.Prepend("\u2581"), hf.normalizers.Replace(" ", "\u2581")]
    tokenizer.normalizer = hf.normalizers.Sequence(written)
    parts = [hf.decoders.Replace("\u2581", " "), hf.decoders.ByteFallback(), hf.decoders.Fuse()]
    tokenizer.decoder = hf.decoders.Sequence([*parts, hf.decoders.Strip(" ", 1, 0)])
    special = ["<unk>", "<s>", "<|im_end|>", *[f"<0x{b:02X}>" for b in range(256)]]
    return tokenizer, hf.trainers.BpeTrainer(vocab_size=600, special_tokens=special)


@pytest.mark.parametrize("make", [byte_level, sentence_piece])
def test_a_tokenizer_json_gives_ids_bytes_and_ends(make, tmp_path):
    hf = pytest.importorskip("tokenizers")
    tokenizer, trainer = make(hf)
    tokenizer.train_from_iterator(tiny.CORPUS.split("\n"), trainer)
    document = json.loads(tokenizer.to_str())
    for token in document["added_tokens"]:  # byte pieces are part of the vocabulary, not special
        token["special"] = not token["content"].startswith("<0x")
    document["added_tokens"] = [t for t in document["added_tokens"] if t["special"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    config = {"bos_token": "<s>", "eos_token": {"content": "<|im_end|>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours, theirs = load_tokenizer(tmp_path), hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert ours.eos_ids == (ours.token_to_id("<|im_end|>"),) and ours.bos_id == ours.token_to_id("<s>")
    for text in ["Hello 日本 world", "naïve façade 🎉", "x<|im_end|>y"]:
        ids = ours.encode(text)
        assert ids.tolist() == theirs.encode(text).ids
        assert ours.decode(ids.tolist(), skip_special=True) == theirs.decode(ids.tolist())
    assert ours.token_to_id("<|im_end|>") not in ours.encode("x<|im_end|>", parse_special=False)
