"""The stream's bytes on disk, as they were when the format was fixed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tokend import Tokenizer


def test_golden(tmp_path: Path, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEND_CHUNK_BYTES", "21")
    monkeypatch.setenv("TOKEND_SEGMENT_BYTES", "4")
    monkeypatch.setenv("TOKEND_COMMIT_MS", "600000")
    (tmp_path / "a.txt").write_text("Hello, world!|naïve|")
    (tmp_path / "b.txt").write_text("")
    (tmp_path / "c.txt").write_text("Hello")
    inputs = [tmp_path / name for name in ("a.txt", "b.txt", "c.txt")]
    gpt2.encode_files(inputs, tmp_path / "out", format="stream", separator="|", threads=1)
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    manifest = files.pop("manifest.json").decode().replace(str(tmp_path), "DIR")
    assert {name: data.hex() for name, data in files.items()} == {
        "tokens-00000.bin": "883c0b00e303000050c4380a789750c450c4",
        "ends-00000.u64": "050000000000000008000000000000000900000000000000",
        "tokens-00001.bin": "883c50c4",
        "ends-00001.u64": "0b00000000000000",
        "docs-00000.u64": "".join(number.to_bytes(8, "little").hex() for number in (0, 13, 14, 6, 0, 0)),
        "docs-00001.u64": "".join(number.to_bytes(8, "little").hex() for number in (0, 5)),
    }
    assert re.sub(r'"stream_id": "[0-9a-f]{32}"', '"stream_id": "RANDOM"', manifest) == GOLDEN


GOLDEN = """\
{
  "format": "tokend-stream",
  "version": 1,
  "state": "sealed",
  "dtype": "uint16",
  "stream_id": "RANDOM",
  "commit": 1,
  "n_tokens": 11,
  "n_documents": 4,
  "tokenizer": {
    "name": "gpt2",
    "fingerprint": "3cea5dccc716d3f6fbf632f212d92742e3bf5f4df7fb04512364e35f2231a458",
    "vocab_size": 50257,
    "eot_id": 50256
  },
  "options": {
    "separator": "|",
    "eot": "append",
    "eot_id": 50256,
    "special": "raise",
    "errors": "strict"
  },
  "sources": [
    {
      "path": "DIR/a.txt",
      "size_bytes": 21,
      "xxh3": "bbacaa5c272e3381",
      "n_tokens": 8,
      "n_documents": 2,
      "places": true
    },
    {
      "path": "DIR/b.txt",
      "size_bytes": 0,
      "xxh3": "2d06800538d394c2",
      "n_tokens": 1,
      "n_documents": 1,
      "places": true
    },
    {
      "path": "DIR/c.txt",
      "size_bytes": 5,
      "xxh3": "38e23bf5a2a77616",
      "n_tokens": 2,
      "n_documents": 1,
      "places": true
    }
  ],
  "segments": [
    {
      "tokens": "tokens-00000.bin",
      "ends": "ends-00000.u64",
      "first_token": 0,
      "n_tokens": 9,
      "n_documents": 3,
      "tokens_xxh3": "7e6f2b9200f8f821",
      "ends_xxh3": "084afbdfe4d279a0",
      "docs": {
        "file": "docs-00000.u64",
        "size_bytes": 48,
        "xxh3": "34862586ccda9dfe"
      }
    },
    {
      "tokens": "tokens-00001.bin",
      "ends": "ends-00001.u64",
      "first_token": 9,
      "n_tokens": 2,
      "n_documents": 1,
      "tokens_xxh3": "fd362994481dd730",
      "ends_xxh3": "2abb136b5b23df0c",
      "docs": {
        "file": "docs-00001.u64",
        "size_bytes": 16,
        "xxh3": "ace144d934729048"
      }
    }
  ],
  "error": null,
  "resume": null,
  "tokend_version": "0.1.0"
}
"""
