"""The bytes on disk, as they were when the format was fixed: a change here is a new version."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokend import Tokenizer
from tokend_client import TokenStream
from tokend_client.errors import StreamError


@pytest.fixture
def output(tmp_path: Path, gpt2: Tokenizer) -> Path:
    (tmp_path / "a.txt").write_text("Hello, world!|naïve|")
    (tmp_path / "b.txt").write_text("")
    gpt2.encode_files([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path / "out.bin", separator="|")
    return tmp_path / "out.bin"


def test_golden(output: Path) -> None:
    assert output.read_bytes().hex() == "883c0b00e303000050c4380a789750c450c4"
    assert np.fromfile(output, "<u2").tolist()[:5] == [15496, 11, 995, 0, 50256]
    assert Path(f"{output}.ends").read_bytes()[:8] == (5).to_bytes(8, "little")
    assert np.fromfile(f"{output}.docs", "<u8").tolist() == [0, 13, 14, 6, 0, 0]
    manifest = Path(f"{output}.json").read_text().replace(str(output.parent), "DIR")
    assert manifest == GOLDEN


def test_damage_is_noticed(output: Path) -> None:
    with TokenStream(output) as stream:
        assert [stream.document(n).tolist()[-1] for n in (0, 1, -1)] == [50256] * 3
        with pytest.raises(IndexError):
            stream.document(3)
        assert not stream[:2].flags.writeable
    with pytest.raises(StreamError, match="made by tokenizer"):
        TokenStream(output, fingerprint="0" * 64)
    data = output.read_bytes()
    output.write_bytes(data[:-2])
    with pytest.raises(StreamError, match=r"out\.bin: \d+ bytes, but"):
        TokenStream(output)
    output.write_bytes(data)
    Path(f"{output}.ends").unlink()
    with pytest.raises(StreamError, match="missing"):
        TokenStream(output)


GOLDEN = """\
{
  "format": "tokend-bin",
  "version": 1,
  "dtype": "uint16",
  "n_tokens": 9,
  "n_documents": 3,
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
    }
  ],
  "data": {
    "file": "out.bin",
    "size_bytes": 18,
    "xxh3": "7e6f2b9200f8f821"
  },
  "ends": {
    "file": "out.bin.ends",
    "size_bytes": 24,
    "xxh3": "084afbdfe4d279a0"
  },
  "docs": {
    "file": "out.bin.docs",
    "size_bytes": 48,
    "xxh3": "34862586ccda9dfe"
  },
  "tokend_version": "0.1.0"
}
"""
