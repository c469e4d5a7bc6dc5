"""GPT-2 against the real tiktoken."""

from __future__ import annotations

import itertools
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from parity.strategies import texts
from tokend import Tokenizer
from tokend_client.errors import SpecialTokenError


@settings(max_examples=3000, deadline=None)
@given(text=texts)
def test_any_text(text: str, gpt2: Tokenizer, tiktoken_gpt2: tiktoken.Encoding) -> None:
    assert gpt2.encode(text, "text").tolist() == tiktoken_gpt2.encode_ordinary(text)
    ids = gpt2.encode(text, "token")
    assert ids.tolist() == tiktoken_gpt2.encode(text, allowed_special="all")
    assert gpt2.decode(ids) == text
    assert gpt2.count(text, "text") == len(tiktoken_gpt2.encode_ordinary(text))


@settings(max_examples=1000, deadline=None)
@given(text=texts, data=st.data())
def test_pieces_give_what_the_whole_gives(text: str, data: st.DataObject, gpt2: Tokenizer) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    for special in ("text", "token"):
        assert list(gpt2.encode_iter(pieces, special)) == gpt2.encode(text, special).tolist()


@settings(max_examples=300, deadline=None)
@given(batch=st.lists(texts, max_size=8))
def test_batches(batch: list[str], gpt2: Tokenizer) -> None:
    ids, ends = gpt2.encode_batch(batch, "token")
    assert ends.dtype == np.uint64
    parts = np.split(ids, ends[:-1].astype(np.int64)) if batch else []
    assert [part.tolist() for part in parts] == [gpt2.encode(text, "token").tolist() for text in batch]


def test_every_three_characters(gpt2: Tokenizer, tiktoken_gpt2: tiktoken.Encoding) -> None:
    alphabet = [" ", "\n", "a", "s", "1", "!", "'", "\0", "中", "é", "\xa0", "\u3000", "\t", "²", "\u0301", "😀", "<"]
    combinations = ["".join(parts) for parts in itertools.product(alphabet, repeat=3)]
    expected = tiktoken_gpt2.encode_ordinary_batch(combinations, num_threads=1)
    ids, ends = gpt2.encode_batch(combinations, "text")
    start = 0
    for text, end, wanted in zip(combinations, ends.tolist(), expected, strict=True):
        assert ids[start:end].tolist() == wanted, repr(text)
        start = end


def test_every_token_alone(gpt2: Tokenizer, tiktoken_gpt2: tiktoken.Encoding) -> None:
    texts = []
    for id in range(50256):
        try:
            texts.append(gpt2.decode_bytes([id]).decode())
        except UnicodeDecodeError:
            continue
    assert len(texts) > 49_000
    for text, wanted in zip(texts, tiktoken_gpt2.encode_ordinary_batch(texts, num_threads=1), strict=True):
        assert gpt2.encode(text, "text").tolist() == wanted, repr(text)


@pytest.mark.parametrize("length", [15, 16, 17, 31, 32, 33, 63, 64, 65, 95, 96, 97, 65_535, 65_536])
@pytest.mark.parametrize("unit", ["a", " ", "^", "ab", "é", "中", "\n", "'s", "1", "-=", "\0", "xyzzy"])
def test_runs(unit: str, length: int, gpt2: Tokenizer, tiktoken_gpt2: tiktoken.Encoding) -> None:
    text = (unit * length)[:length]
    for framed in (text, f"a{text}b", f" {text} "):
        assert gpt2.encode(framed, "text").tolist() == tiktoken_gpt2.encode_ordinary(framed)


def test_the_standard_library(gpt2: Tokenizer, tiktoken_gpt2: tiktoken.Encoding) -> None:
    """30 MB of real text, and whatever text the installed packages bring, up to as much again."""
    folders = [sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"]]
    n_bytes = 0
    for folder in folders:
        limit = n_bytes + 30_000_000
        for path in sorted(Path(folder).rglob("*")):
            if path.suffix not in (".py", ".txt", ".md", ".rst", ".json", ".html") or not path.is_file():
                continue
            try:
                text = path.read_bytes().decode()
            except UnicodeDecodeError:
                continue
            assert gpt2.encode(text, "text").tolist() == tiktoken_gpt2.encode_ordinary(text), path
            n_bytes += len(text)
            if n_bytes > limit:
                break
    assert n_bytes > 20_000_000


def test_a_special_token_is_refused_with_its_place(gpt2: Tokenizer) -> None:
    with pytest.raises(SpecialTokenError, match=r"'?\"?<\|endoftext\|>.* at byte 3") as raised:
        gpt2.encode("é <|endoftext|>")
    assert isinstance(raised.value, ValueError)
    assert "--special" in str(raised.value)
