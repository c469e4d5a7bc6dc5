"""Learned words survive the process, and nothing else is believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokend import Tokenizer, words

TEXT = " ".join(f"unheard{n:05d}of" for n in range(30_000))


def test_words_are_kept_for_the_next_process(tmp_path: Path) -> None:
    first = Tokenizer.load("gpt2")
    assert not words.recall(first, tmp_path)
    ids = first.encode(TEXT)
    assert words.keep(first, tmp_path)
    assert not words.keep(first, tmp_path), "nothing new was learned"
    second = Tokenizer.load("gpt2")
    known = second.cache_stats()["entries"]
    assert words.recall(second, tmp_path)
    assert second.cache_stats()["entries"] > known + 10_000
    np.testing.assert_array_equal(second.encode(TEXT), ids)
    assert second.cache_stats()["misses"] < first.cache_stats()["misses"] // 2


def test_a_broken_file_is_ignored(tmp_path: Path) -> None:
    first = Tokenizer.load("gpt2")
    first.encode(TEXT)
    words.keep(first, tmp_path)
    (kept,) = (tmp_path / "words").iterdir()
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1
    kept.write_bytes(data)
    assert not words.recall(Tokenizer.load("gpt2"), tmp_path)


def test_a_state_directory_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("a file where a directory is needed")
    tokenizer = Tokenizer.load("gpt2")
    tokenizer.encode(TEXT)
    assert not words.keep(tokenizer, tmp_path)
