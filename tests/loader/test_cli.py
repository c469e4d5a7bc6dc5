"""`tokend inspect` and `tokend decode` of everything that `TokenStream` opens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tokend import Tokenizer

from .test_stream import write_megatron


def tokend(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "tokend", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("format", ["bin", "stream"])
def test_ours(tmp_path: Path, gpt2: Tokenizer, format: str) -> None:
    (tmp_path / "a.txt").write_text("one two|three|")
    output = tmp_path / ("out.bin" if format == "bin" else "out")
    gpt2.encode_files([tmp_path / "a.txt"], output, separator="|", format=format)
    shown = tokend("inspect", output)
    assert "documents    2\n" in shown and "tokenizer    gpt2 (3cea5dccc716)" in shown
    assert ("tokend-stream, sealed" in shown) == (format == "stream")
    assert tokend("decode", output) == "one two<|endoftext|>three<|endoftext|>"
    assert tokend("decode", output, "--start", "1", "--count", "2") == " two<|endoftext|>"


def test_foreign(tmp_path: Path) -> None:
    write_megatron(tmp_path / "m", "<u2", 8)
    shown = tokend("inspect", tmp_path / "m")
    assert "format       megatron, 1 file" in shown and "tokenizer    unknown" in shown
