"""Files through the whole job, against tiktoken, however they are cut."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from parity.strategies import NASTY
from tokend import GPT2_PATTERN, Tokenizer
from tokend_client import TokenStream

EOT = 50256


def nasty_text(seed: int, n_parts: int) -> str:
    rng = random.Random(seed)
    parts = [part for part in NASTY if "endoftext" not in part]
    return "".join(rng.choices(parts, k=n_parts))


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 5, 7, 16, 50, 100, 200])
@pytest.mark.parametrize("threads", [1, 4])
def test_any_chunk_size(
    chunk_bytes: int,
    threads: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpt2: Tokenizer,
    tiktoken_gpt2: tiktoken.Encoding,
) -> None:
    monkeypatch.setenv("TOKEND_CHUNK_BYTES", str(chunk_bytes))
    sources, expected, ends = [], [], []
    for n in range(4):
        text = nasty_text(chunk_bytes * 10 + n, [0, 3, 300, 1500][n])
        path = tmp_path / f"{n}.txt"
        path.write_bytes(text.encode())
        sources.append(path)
        expected += [*tiktoken_gpt2.encode_ordinary(text), EOT]
        ends.append(len(expected))
    gpt2.encode_files(sources, tmp_path / "out.bin", threads=threads, special="text")
    assert np.fromfile(tmp_path / "out.bin", "<u2").tolist() == expected
    assert np.fromfile(tmp_path / "out.bin.ends", "<u8").tolist() == ends


@pytest.mark.parametrize("separator", ["<|endoftext|>", "\n\n", "aa", " ", "。", "sep>\n", "'"])
@pytest.mark.parametrize("eot", ["append", "prepend", "both", "none"])
def test_separators(
    separator: str,
    eot: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpt2: Tokenizer,
    tiktoken_gpt2: tiktoken.Encoding,
) -> None:
    rng = random.Random(separator)
    parts = ["a", "aa", "aaa", " ", "\n", "\n\n\n", "。", "中", "'", "s", "word", "<|end", "sep", ">", separator]
    for chunk_bytes in (1, 13, 1 << 20):
        monkeypatch.setenv("TOKEND_CHUNK_BYTES", str(chunk_bytes))
        texts = ["".join(rng.choices(parts, k=k)) for k in (0, 1, 10, 400)] + [separator, separator * 2]
        expected: list[int] = []
        ends = []
        first = True
        for n, text in enumerate(texts):
            (tmp_path / f"{n}.txt").write_bytes(text.encode())
            documents = text.split(separator)
            if len(documents) > 1 and documents[-1] == "":
                documents.pop()
            for document in documents:
                if eot == "prepend" or (eot == "both" and first):
                    expected.append(EOT)
                first = False
                expected += tiktoken_gpt2.encode_ordinary(document)
                if eot in ("append", "both"):
                    expected.append(EOT)
                ends.append(len(expected))
        inputs = [tmp_path / f"{n}.txt" for n in range(len(texts))]
        output = tmp_path / "out.bin"
        gpt2.encode_files(inputs, output, separator=separator, eot=eot, special="text", threads=3, force=True)
        assert np.fromfile(output, "<u2").tolist() == expected
        assert np.fromfile(f"{output}.ends", "<u8").tolist() == ends


@pytest.mark.parametrize("chunk_bytes", [1, 9, 64, 1000])
def test_special_tokens_are_never_cut(
    chunk_bytes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpt2: Tokenizer,
    tiktoken_gpt2: tiktoken.Encoding,
) -> None:
    monkeypatch.setenv("TOKEND_CHUNK_BYTES", str(chunk_bytes))
    rng = random.Random(chunk_bytes)
    text = "".join(rng.choices(NASTY, k=2000))
    (tmp_path / "a.txt").write_bytes(text.encode())
    gpt2.encode_files([tmp_path / "a.txt"], tmp_path / "out.bin", special="token", threads=2)
    expected = [*tiktoken_gpt2.encode(text, allowed_special="all"), EOT]
    assert np.fromfile(tmp_path / "out.bin", "<u2").tolist() == expected


@pytest.mark.parametrize("chunk_bytes", [1, 4, 33, 1 << 20])
def test_broken_utf8_is_replaced_as_python_does(
    chunk_bytes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpt2: Tokenizer,
    tiktoken_gpt2: tiktoken.Encoding,
) -> None:
    monkeypatch.setenv("TOKEND_CHUNK_BYTES", str(chunk_bytes))
    rng = random.Random(chunk_bytes)
    parts = [
        b"a ",
        "é中 😀".encode(),
        b"\xe4",
        b"\xe4\xb8",
        b"\x80",
        b"\xf0\x9f",
        b"\xff",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b" ",
    ]
    data = b"".join(rng.choices(parts, k=1500))
    (tmp_path / "a.txt").write_bytes(data)
    gpt2.encode_files([tmp_path / "a.txt"], tmp_path / "out.bin", errors="replace", special="text", threads=2)
    expected = [*tiktoken_gpt2.encode_ordinary(data.decode(errors="replace")), EOT]
    assert np.fromfile(tmp_path / "out.bin", "<u2").tolist() == expected


def test_other_patterns_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern without known borders: a file larger than a chunk, documents and specials included."""
    vocab = {i: bytes([i]) for i in range(256)} | {256: b"ab", 257: b"\n\n", 258: b"<|x|>"}
    pattern = r"\p{L}+|\p{N}{1,3}|\s+(?!\S)|\s+|[^\s\p{L}\p{N}]+"
    tokenizer = Tokenizer.from_merges(vocab, [(b"a", b"b"), (b"\n", b"\n")], ["<|x|>"], pattern)
    rng = random.Random(7)
    text = "".join(rng.choices(["ab", "a", "12", "\n\n", " ", "é", "<|x|>", "<|x", "SEP", "S", "."], k=400_000))
    (tmp_path / "a.txt").write_bytes(text.encode())
    monkeypatch.setenv("TOKEND_CHUNK_BYTES", "1000")
    options = {"separator": "SEP", "special": "token", "eot": "append", "eot_token": "<|x|>"}
    tokenizer.encode_files([tmp_path / "a.txt", tmp_path / "a.txt"], tmp_path / "out.bin", threads=2, **options)
    documents = text.split("SEP")
    if documents[-1] == "":
        documents.pop()
    expected: list[int] = []
    for document in documents * 2:
        expected += [*tokenizer.encode(document, "token").tolist(), 258]
    assert np.fromfile(tmp_path / "out.bin", "<u2").tolist() == expected


def test_wide_vocabularies_write_uint32(tmp_path: Path) -> None:
    vocab = {i: bytes([i]) for i in range(256)} | {70_000: b"ab"}
    tokenizer = Tokenizer.from_merges(vocab, [(b"a", b"b")], {"<|end|>": 70_001}, GPT2_PATTERN)
    assert tokenizer.dtype == np.uint32
    assert tokenizer.encode("abc").tolist() == [70_000, 99]
    (tmp_path / "a.txt").write_text("ab" * 1000 + " abc")
    tokenizer.encode_files([tmp_path / "a.txt"], tmp_path / "out.bin", eot_token="<|end|>")
    with TokenStream(tmp_path / "out.bin") as stream:
        assert stream.dtype == np.uint32
        assert stream.n_tokens == 1000 + 1 + 2 + 1
        assert tokenizer.decode(stream[:-1]) == "ab" * 1000 + " abc"
