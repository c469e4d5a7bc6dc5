"""Disks that are full, files that are damaged, directories that others write to."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tokend import Tokenizer, _core
from tokend.cli import main
from tokend_client.errors import NoSpaceError, StreamError


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("format", ["bin", "stream"])
def test_full_and_freed(
    format: str, small_disk: Path, tmp_path: Path, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEND_CHUNK_BYTES", "50000")
    monkeypatch.setenv("TOKEND_COMMIT_MS", "1")
    source, output = tmp_path / "a.txt", small_disk / "out"
    source.write_text("a b c d e f " * 100_000)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(3_200_000))
    with pytest.raises(NoSpaceError, match="no space left"):
        gpt2.encode_files([source], output, format=format)
    assert not output.is_file()
    assert list(small_disk.glob("**/.*checkpoint*.partial"))
    if format == "stream":
        _core.verify(str(output))
    ballast.unlink()
    manifest = gpt2.encode_files([source], output, format=format, resume=True)
    data = output / "tokens-00000.bin" if format == "stream" else output
    assert gpt2.decode(np.fromfile(data, "<u2")[:-1]) == source.read_text()
    assert manifest["n_tokens"] * 2 == data.stat().st_size
    assert not list(small_disk.glob("**/.*.partial"))


@pytest.mark.parametrize("format", ["bin", "stream"])
def test_verify_finds_every_flipped_bit(format: str, tmp_path: Path, gpt2: Tokenizer) -> None:
    rng = random.Random(1)
    source, output = tmp_path / "a.txt", tmp_path / "out"
    source.write_text("".join(rng.choices(["one ", "two ", "|"], k=3000)))
    gpt2.encode_files([source], output, format=format, separator="|")
    assert json.loads(_core.verify(str(output)))["n_bytes"] > 0
    data, ends = (
        (output / "tokens-00000.bin", output / "ends-00000.u64")
        if format == "stream"
        else (output, tmp_path / "out.ends")
    )
    for path in (data, ends):
        good = path.read_bytes()
        for _ in range(100):
            bad = bytearray(good)
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
            path.write_bytes(bad)
            with pytest.raises(StreamError, match=path.name):
                _core.verify(str(output))
        for bad in (good[:-1], good + b"\0", b""):
            path.write_bytes(bad)
            with pytest.raises(StreamError, match="bytes, but the manifest says"):
                _core.verify(str(output))
        path.write_bytes(good)
    _core.verify(str(output))


def test_verify_names_the_first_fault(tmp_path: Path, gpt2: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("one two three")
    output = tmp_path / "out.bin"
    gpt2.encode_files([tmp_path / "a.txt"], output)
    assert main(["verify", str(output)]) == 0 and main(["verify", f"{output}.json"]) == 0
    assert "complete, 4 tokens" in capsys.readouterr().out
    ids = np.fromfile(output, "<u2")
    ids[2] = 60000
    ids.tofile(output)
    assert main(["verify", str(output)]) == 1
    assert "id 60000 at token 2 is not below 50257" in capsys.readouterr().err
    os.unlink(f"{output}.json")
    assert main(["verify", str(output)]) == 1
    assert "the manifest is missing" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "none")]) == 1


def test_another_keys_partials_are_not_touched(tmp_path: Path, gpt2: Tokenizer) -> None:
    theirs = tmp_path / ".out.bin.theirs.partial"
    theirs.write_text("theirs")
    (tmp_path / "a.txt").write_text("text")
    gpt2.encode_files([tmp_path / "a.txt"], tmp_path / "out.bin")
    assert theirs.read_text() == "theirs"


def test_half_published_sets(tmp_path: Path, gpt2: Tokenizer) -> None:
    """A kill between the renames: data without a manifest, known as ours by its inode."""
    (tmp_path / "a.txt").write_text("text " * 1000)
    output = tmp_path / "out.bin"
    control = _core.JobControl()
    control.suspend()
    with pytest.raises(Exception, match="cancelled"):
        gpt2.encode_files([tmp_path / "a.txt"], output, control=control)
    partial, ends = tmp_path / ".out.bin.local.partial", tmp_path / ".out.bin.ends.local.partial"
    inodes = [partial.stat().st_ino, ends.stat().st_ino]
    with (tmp_path / ".out.bin.checkpoint.local.partial").open("a") as log:
        log.write(json.dumps({"publishing": inodes}) + "\n")
    partial.rename(output)
    manifest = gpt2.encode_files([tmp_path / "a.txt"], output, resume=True)
    assert manifest["n_tokens"] == len(np.fromfile(output, "<u2")) and not list(tmp_path.glob(".*"))
