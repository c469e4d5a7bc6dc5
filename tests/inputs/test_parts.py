"""Compressed files whose parts are decoded side by side: the same sets as from the plain text."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from interrupt import suspended_at
from tokend import Tokenizer, _core
from tokend_client.errors import TokendError

from .containers import IN_PARTS, in_parts
from .test_resume import SMALL, contents


def lines(n_lines: int) -> bytes:
    """Lines of JSON, of all lengths, with characters of all widths."""
    texts = ("é中🙂 " * (n % 40) + f"line {n * n}" for n in range(n_lines))
    return "".join(json.dumps({"text": text}, ensure_ascii=n % 2 == 0) + "\n" for n, text in enumerate(texts)).encode()


def old(path: Path, data: bytes) -> Path:
    """A file that was written an hour ago."""
    path.write_bytes(data)
    then = time.time() - 3600
    os.utime(path, (then, then))
    return path


@pytest.mark.parametrize("kind", IN_PARTS)
def test_parts_give_the_set_of_the_plain_text_also_when_interrupted(
    kind: str, tmp_path: Path, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (SMALL | {"TOKEND_PART_BYTES": "1"}).items():
        monkeypatch.setenv(name, value)
    data = lines(3000)
    plain = old(tmp_path / "plain.jsonl", data)
    packed = old(tmp_path / "packed.jsonl", in_parts(kind, data))
    whole = tmp_path / "whole"
    expected = gpt2.encode_files([plain], whole)
    for threads in (1, 4):
        output = tmp_path / f"set-{threads}"
        control = _core.JobControl()
        manifest = gpt2.encode_files([packed], output, threads=threads, control=control)
        assert manifest["data"]["xxh3"] == expected["data"]["xxh3"]
        assert manifest["sources"][0]["size_bytes"] == packed.stat().st_size
        assert control.progress()[:2] == (packed.stat().st_size,) * 2
        for suffix in ("", ".ends", ".docs"):
            assert Path(f"{output}{suffix}").read_bytes() == Path(f"{whole}{suffix}").read_bytes()
    output = tmp_path / "again"
    n_stops = sum(
        suspended_at(gpt2, expected["n_tokens"] * part // 9, [packed], output, threads=3, resume=True)
        for part in range(1, 9)
    )
    gpt2.encode_files([packed], output, threads=3, resume=True)
    assert n_stops > 0
    assert contents(output) == contents(tmp_path / "set-4")
    _core.verify(str(output))


@pytest.mark.parametrize("kind", IN_PARTS)
def test_a_damaged_part_fails_the_job_where_the_plain_decoder_does(
    kind: str, tmp_path: Path, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = in_parts(kind, lines(1000))
    damaged = bytearray(packed)
    damaged[len(packed) * 2 // 3] ^= 0x55
    for data in (packed[: len(packed) - 5 if kind != "zst" else len(packed) * 2 // 3], bytes(damaged)):
        source = old(tmp_path / "packed.jsonl", data)
        errors = set()
        for part_bytes, threads in (("1", 1), ("1", 4), ("100000000", 2)):
            monkeypatch.setenv("TOKEND_PART_BYTES", part_bytes)
            with pytest.raises(TokendError, match="data") as caught:
                gpt2.encode_files([source], tmp_path / "out", threads=threads)
            errors.add(str(caught.value))
        assert len(errors) == 1
        assert "at byte" in errors.pop()
