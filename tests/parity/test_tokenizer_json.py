"""`tokenizer.json` against Hugging Face's tokenizers."""

from __future__ import annotations

import json
import random
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from parity.families import FAMILIES, real, trained
from parity.strategies import NASTY, texts
from tokend import Tokenizer
from tokend_client.errors import SpecialTokenError, TokenizerInvalidError

MORE = [
    "don't", "DON'T", "'RE", "'Ll", "Ǆ", "ǅ", "ʰ", "ªb", "カ・タ", "゠", "\u3040", "龥", "㐀", "ＡＢ", "ﬁ", "Å",
    "e\u0301", "가", "\u1100\u1161", "/", "//\n", "://", "a/b", "\r\n\r\n", "  \n  x", "MixedCase", "ABCdef",
    "née", "<mask>", " <mask> ", "<|assistant|>", "<both>", " word ", "word", "the", "xyzzy", " xyzzy", "q", "...!",
    "<|im_start|>", "      ", "²3", "ß",
]  # fmt: skip
nasty = st.one_of(texts, st.lists(st.sampled_from(NASTY + MORE), max_size=30).map("".join))


class Pair:
    """The same file in both."""

    def __init__(self, path: Path) -> None:
        self.ours = Tokenizer.load(path)
        self.theirs = tokenizers.Tokenizer.from_file(str(path))
        self.as_text = tokenizers.Tokenizer.from_file(str(path))
        self.as_text.encode_special_tokens = True

    def check(self, text: str) -> None:
        expected = self.theirs.encode(text, add_special_tokens=False).ids
        assert self.ours.encode(text, "token").tolist() == expected
        as_text = self.as_text.encode(text, add_special_tokens=False).ids
        assert self.ours.encode(text, "text").tolist() == as_text


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    path = tmp_path_factory.mktemp("family") / "tokenizer.json"
    path.write_text(trained(request.param), encoding="utf-8")
    return Pair(path)


def test_any_text(pair: Pair) -> None:
    @settings(max_examples=150, deadline=None)
    @given(text=nasty, data=st.data())
    def compare(text: str, data: st.DataObject) -> None:
        pair.check(text)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        for special in ("token", "text"):
            assert list(pair.ours.encode_iter(pieces, special)) == pair.ours.encode(text, special).tolist()

    compare()


def test_real_text(pair: Pair) -> None:
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[40:60]:
        pair.check(path.read_text(encoding="utf-8"))


def test_files_however_they_are_cut(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(11)
    text = "".join(rng.choices([*NASTY, *MORE, "中文。", "слово ", "words and more "], k=4000))
    source, output = tmp_path / "a.txt", tmp_path / "out.bin"
    source.write_bytes(text.encode())
    for special, theirs in (("token", pair.theirs), ("text", pair.as_text)):
        expected = theirs.encode(text, add_special_tokens=False).ids
        for chunk_bytes in (7, 64, 1000):
            monkeypatch.setenv("TOKEND_CHUNK_BYTES", str(chunk_bytes))
            pair.ours.encode_files([source], output, eot="none", special=special, threads=3, force=True)
            assert np.fromfile(output, pair.ours.dtype).tolist() == expected


def test_decoding(pair: Pair) -> None:
    parts = [part for part in NASTY if "<|" not in part and part != "the"]
    text = "".join(random.Random(3).choices(parts, k=500))
    ids = pair.ours.encode(text, "text")
    assert pair.ours.decode(ids) == pair.theirs.decode(ids.tolist(), skip_special_tokens=False)


@pytest.mark.parametrize("package", real() or [pytest.param("none", marks=pytest.mark.skip("no package has one"))])
def test_vocabularies_of_packages(package: str) -> None:
    pair = Pair(real()[package])
    rng = random.Random(1)
    for _ in range(500):
        pair.check("".join(rng.choices(NASTY + MORE, k=rng.randint(0, 40))))


def minimal(**changes: Any) -> dict[str, Any]:
    """A valid file of the smallest kind, and changes to it by path (`model__dropout=0.1`)."""
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    data: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "model": {"type": "BPE", "vocab": {c: id for id, c in enumerate(sorted(alphabet))}, "merges": []},
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = data
        for parent in parents:
            place = place[parent]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return data


def added(content: str, id: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id, "content": content, "special": True} | flags


REFUSED = {
    "the model Unigram": {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", -1.0]]}},
    "the model WordPiece": {"model": {"type": "WordPiece", "vocab": {"a": 0}}},
    "`dropout` is set": {"model__dropout": 0.1},
    "`continuing_subword_prefix` is set": {"model__continuing_subword_prefix": "##"},
    "`end_of_word_suffix` is set": {"model__end_of_word_suffix": "</w>"},
    "the vocabulary lacks the byte 0x61": {"model__vocab__a": None, "model__unk_token": "b"},
    "`byte_fallback` is set and the vocabulary lacks": {"model__vocab__a": None, "model__byte_fallback": True},
    "`truncation` is set": {"truncation": {"max_length": 512}},
    "`padding` is set": {"padding": {"strategy": "BatchLongest"}},
    "the normalizer Lowercase": {"normalizer": {"type": "Lowercase"}},
    "the normalizer BertNormalizer": {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "BertNormalizer"}]}
    },
    "the pre-tokenizer Metaspace": {"pre_tokenizer": {"type": "Metaspace"}},
    "has no ByteLevel": {
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated", "invert": False}
    },
    "Digits behind ByteLevel": {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "ByteLevel", "add_prefix_space": False}, {"type": "Digits"}],
        }
    },
    "`add_prefix_space` of a ByteLevel that is not the first": {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, {"type": "ByteLevel"}]}
    },
    "look-behind": {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "(?<=a)b"}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }
    },
    "the library would give it 256": {"added_tokens": [added("<x>", 300)]},
    "merge 0 needs the token": {"model__merges": ["a b"]},
    "not two parts": {"model__merges": ["ab"]},
    "share id 5": {"model__vocab__a": 5},
    "version": {"version": "2.0"},
}


@pytest.mark.parametrize("what", REFUSED)
def test_refusals_name_what_is_not_supported(what: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(minimal(**REFUSED[what])), encoding="utf-8")
    with pytest.raises(TokenizerInvalidError) as raised:
        Tokenizer.load(path)
    message = str(raised.value)
    assert what in message
    assert tmp_path.name in message
    assert len(message.splitlines()) <= 2


@pytest.mark.parametrize("largest", [65_500, 65_534, 65_535, 65_536, 65_537])
def test_the_dtype_goes_by_the_largest_id(largest: int, tmp_path: Path) -> None:
    data = minimal()
    vocab = data["model"]["vocab"]
    alphabet = sorted(vocab)
    for n in range(256, largest):
        vocab[alphabet[n % 256] + alphabet[n // 256 % 256] + "!" * (n >> 16)] = n
    data["added_tokens"] = [added("<|endoftext|>", largest)]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    tokenizer = Tokenizer.load(path)
    assert tokenizer.vocab_size == largest + 1
    assert tokenizer.dtype == (np.uint16 if largest < 65_536 else np.uint32)
    theirs = tokenizers.Tokenizer.from_file(str(path))
    text = "a<|endoftext|>b"
    assert tokenizer.encode(text, "token").tolist() == theirs.encode(text, add_special_tokens=False).ids
    (tmp_path / "a.txt").write_text("hello")
    tokenizer.encode_files([tmp_path / "a.txt"], tmp_path / "a.bin")
    assert np.fromfile(tmp_path / "a.bin", tokenizer.dtype)[-1] == largest


def test_special_tokens_raise_and_others_do_not(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(trained("flags"), encoding="utf-8")
    tokenizer = Tokenizer.load(path)
    with pytest.raises(SpecialTokenError, match=r"<mask>.* at byte 5"):
        tokenizer.encode("some <mask>")
    assert tokenizer.encode("a<both>b").tolist() == tokenizer.encode("a<both>b", "token").tolist()
    assert set(tokenizer.special_tokens) == {"<|endoftext|>", "<mask>", "<|assistant|>"}
