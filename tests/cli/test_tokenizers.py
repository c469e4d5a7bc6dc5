"""A `tokenizer.json` from the command line through a daemon, and back to the bytes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from parity.families import trained
from parity.strategies import NASTY


def tokend(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tokend", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=120, cwd=cwd, env={**os.environ, **environment})


def wide(data: str) -> str:
    """The same file with a special token that needs 32 bits."""
    file = json.loads(data)
    vocab = file["model"]["vocab"]
    end = file["added_tokens"][0]
    last = 70_000
    for id in range(max(vocab.values()) + 1, last):
        vocab[f"<unused {id}>"] = id
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    file["added_tokens"] = [{"id": last, "content": end["content"]} | flags]
    return json.dumps(file)


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_through_a_daemon_and_back(dtype: str, run_folder: Path, tmp_path: Path) -> None:
    data = trained("llama3, glm4, olmo2, olmo3, phi4")
    if dtype == "uint32":
        data = wide(data)
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / "tokenizer.json").write_text(data, encoding="utf-8")
    parts = [part for part in NASTY if "endoftext" not in part]
    text = "".join(random.Random(5).choices([*parts, "words and more "], k=100_000))
    (tmp_path / "a.txt").write_bytes(text.encode())
    environment = {
        "TOKEND_ENDPOINT": f"ipc://{run_folder}/t.sock",
        "TOKEND_STATE_DIR": str(run_folder / "state"),
        "TOKEND_CHUNK_BYTES": "10000",
    }
    try:
        done = tokend(
            "encode", "a.txt", "-o", "a.bin", "--tokenizer", "tok", "--eot", "none", cwd=tmp_path, **environment
        )
        assert done.returncode == 0, done.stderr
        theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tok" / "tokenizer.json"))
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert np.fromfile(tmp_path / "a.bin", dtype).tolist() == expected
        assert tokend("decode", "a.bin", cwd=tmp_path).stdout == text.encode()
        shown = tokend("inspect", "a.bin", cwd=tmp_path).stdout.decode()
        assert f"raw {dtype}" in shown and "without its post-processor" in shown
        # The daemon notices that the file changed.
        (tmp_path / "tok" / "tokenizer.json").write_text("{", encoding="utf-8")
        broken = tokend("encode", "a.txt", "-o", "b.bin", "--tokenizer", "tok", cwd=tmp_path, **environment)
        assert broken.returncode == 1 and b"tokenizer.json:1: EOF while parsing" in broken.stderr
        assert b"Traceback" not in broken.stderr
    finally:
        tokend("stop", cwd=tmp_path, **environment)


def test_a_refusal_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "Unigram", "vocab": []}}')
    done = tokend("text", "a", "--tokenizer", "tokenizer.json", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        f"tokend: error: {tmp_path}/tokenizer.json: the model Unigram is not supported (byte-level BPE is)"
    ]
